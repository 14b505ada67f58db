//! Further tags of an image that the registry has: nothing but the manifest is asked for, unless the registry has less
//! than its manifests say.

use oci::media_type::{OCI_INDEX, Types};
use oci::registry::{PushImage, plan_push};
use serde_json::json;

use crate::fixture::{client, document, image, noise, settings};
use crate::memory::{Habits, Memory};
use crate::server::{Request, Server};

const NAME: &str = "team/app";

fn registry(memory: &Memory) -> Server {
    let memory = memory.clone();
    Server::start(move |request| memory.answer(request))
}

fn single(tag: &str) -> PushImage {
    image(&[noise(1, 1000), noise(2, 1000), noise(3, 1000)], Types::Oci, &[tag])
}

/// An index of two images.
fn index(tag: &str) -> PushImage {
    let images = [4, 5].map(|seed| image(&[noise(seed, 1000)], Types::Oci, &[]));
    let entries: Vec<_> = images
        .iter()
        .map(|image| {
            let manifest = &image.documents[0];
            json!({ "mediaType": manifest.media_type, "digest": manifest.digest.to_string(), "size": manifest.raw.len() })
        })
        .collect();
    let raw = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    let mut joined = PushImage::default();
    for image in images {
        joined.blobs.extend(image.blobs);
        joined.documents.extend(image.documents);
    }
    joined.documents.push(document(&serde_json::to_vec(&raw).unwrap(), OCI_INDEX, &[tag]));
    joined
}

async fn push(server: &Server, image: &PushImage) -> Vec<Request> {
    let before = server.requests().len();
    let (client, _) = client(settings());
    let pushed = client.push(&plan_push(&server.reference(NAME), image)).await.unwrap();
    assert_eq!(pushed.digest, image.documents.last().unwrap().digest);
    server.requests()[before..].to_vec()
}

fn shown(requests: &[Request]) -> Vec<String> {
    requests.iter().map(|request| format!("{} {}", request.method, request.path())).collect()
}

#[tokio::test]
async fn a_further_tag_costs_three_requests() {
    for made in [single as fn(&str) -> PushImage, index] {
        let memory = Memory::new(Habits::default());
        let server = registry(&memory);
        push(&server, &made("1")).await;
        let digest = made("1").documents.last().unwrap().digest;
        let manifests = format!("/v2/{NAME}/manifests");
        let requests = push(&server, &made("2")).await;
        let expected = [
            format!("HEAD {manifests}/2"),
            format!("HEAD {manifests}/{digest}"),
            format!("PUT {manifests}/2"),
        ];
        assert_eq!(shown(&requests), expected);
        assert_eq!(push(&server, &made("2")).await.len(), 1);
    }
}

#[tokio::test]
async fn reg_15_a_registry_that_has_less_than_its_manifests_say_gets_the_rest() {
    // Whatever was lost: a blob, a blob that HEAD still finds, a manifest of an index.
    let image = single("2");
    let layer = image.blobs[1].digest.to_string();
    for lies in [false, true] {
        let lies_about = if lies { [(layer.clone(), 1000)].into() } else { [].into() };
        let memory = Memory::new(Habits { lies_about, ..Habits::default() });
        let server = registry(&memory);
        let (client, _) = client(settings());
        client.push(&plan_push(&server.reference(NAME), &single("1"))).await.unwrap();
        memory.state.lock().unwrap().blobs.remove(&layer).unwrap();
        push(&server, &image).await;
        assert!(memory.state.lock().unwrap().blobs.contains_key(&layer), "{lies}");
    }
    let memory = Memory::new(Habits::default());
    let server = registry(&memory);
    push(&server, &index("1")).await;
    let child = format!("{NAME}:{}", index("1").documents[0].digest);
    memory.state.lock().unwrap().manifests.remove(&child).unwrap();
    push(&server, &index("2")).await;
    assert!(memory.state.lock().unwrap().manifests.contains_key(&child));
}
