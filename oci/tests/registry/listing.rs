//! Lists of what refers to an image in registries that ignore conditions: who writes late with an old list takes nothing
//! from ours.

use std::sync::Mutex;

use oci::media_type::{OCI_INDEX, OCI_MANIFEST, Types};
use oci::registry::{PushImage, plan_push};
use serde_json::{Value, json};

use crate::fixture::{client, document, image, noise, settings};
use crate::memory::{Habits, Memory};
use crate::server::Server;

/// An image that refers to `subject`.
fn about(subject: &PushImage, seed: u64) -> PushImage {
    let mut image = image(&[noise(seed, 100)], Types::Oci, &[]);
    let mut manifest: Value = serde_json::from_slice(&image.documents[0].raw).unwrap();
    let subject = &subject.documents[0];
    manifest["subject"] = json!({
        "mediaType": subject.media_type, "digest": subject.digest.to_string(), "size": subject.raw.len(),
    });
    image.documents = vec![document(&serde_json::to_vec(&manifest).unwrap(), OCI_MANIFEST, &[])];
    image
}

/// Pushes an image about another one, while a rival writes the list as it was before after `reads` of it; returns the
/// digests in the list.
async fn listed(reads: usize) -> Vec<String> {
    let subject = image(&[noise(1, 100)], Types::Oci, &["1"]);
    let ours = about(&subject, 2);
    let list = format!("a/b:sha256-{}", subject.documents[0].digest.hex());
    let rival =
        json!({ "mediaType": OCI_MANIFEST, "digest": oci::Digest::of(b"rival").to_string(), "size": 5 });
    let rival = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [rival] });
    let memory = Memory::new(Habits::default());
    let (state, count, tag) = (memory.state.clone(), Mutex::new(0), list.clone());
    let server = Server::start(move |request| {
        let mut request = request.clone();
        request.headers.retain(|name, _| !name.starts_with("if-"));
        let reply = memory.answer(&request);
        let is_list = request.path().contains("/manifests/sha256-");
        // The memory has no children to check the rival's list with, so it is put past it.
        if is_list && request.method == "GET" && reply.status == 200 {
            let mut count = count.lock().unwrap();
            *count += 1;
            if *count == reads {
                let raw = serde_json::to_vec(&rival).unwrap();
                memory
                    .state
                    .lock()
                    .unwrap()
                    .manifests
                    .insert(tag.clone(), (OCI_INDEX.to_owned(), raw.clone()));
                let child = format!("a/b:{}", oci::Digest::of(b"rival"));
                let mut state = memory.state.lock().unwrap();
                state.manifests.insert(child, (OCI_MANIFEST.to_owned(), b"rival".to_vec()));
            }
        }
        reply
    });
    let (client, _) = client(settings());
    client.push(&plan_push(&server.reference("a/b"), &subject)).await.unwrap();
    client.push(&plan_push(&server.reference("a/b"), &ours)).await.unwrap();
    let raw = state.lock().unwrap().manifests[&list].1.clone();
    let parsed: Value = serde_json::from_slice(&raw).unwrap();
    let name = |entry: &Value| match entry["digest"].as_str().unwrap() {
        digest if digest == ours.documents[0].digest.to_string() => "ours".to_owned(),
        digest if digest == oci::Digest::of(b"rival").to_string() => "rival".to_owned(),
        other => other.to_owned(),
    };
    parsed["manifests"].as_array().unwrap().iter().map(name).collect()
}

#[tokio::test]
async fn an_entry_that_a_rival_overwrites_is_added_again() {
    assert_eq!(listed(usize::MAX).await, ["ours"]);
    // After the first look at what was written, which shows our entry.
    assert_eq!(listed(1).await, ["rival", "ours"]);
}
