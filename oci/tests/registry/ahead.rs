//! Blobs that get into a repository before the image that they belong to, and whether we may push at all.

use std::collections::BTreeSet;

use oci::media_type::{OCI_LAYER, Types};
use oci::registry::{PushImage, Way, plan_push};

use crate::fixture::{blob, client, image, noise, settings, ways};
use crate::memory::{Habits, Memory};
use crate::server::{Reply, Request, Server};

fn lines(requests: &[Request]) -> Vec<String> {
    let kind = |path: &str| match path {
        path if path.contains("/uploads/") => "upload",
        path if path.contains("/blobs/") => "blob",
        _ => "manifest",
    };
    requests.iter().map(|request| format!("{} {}", request.method, kind(request.path()))).collect()
}

#[tokio::test]
async fn the_rest_of_a_push_asks_nothing_about_what_is_there() {
    let memory = Memory::new(Habits::default());
    let server = Server::start(move |request| memory.answer(request));
    let (client, _) = client(settings());
    let target = server.reference("team/app:1");
    let plan = plan_push(&target, &image(&[noise(1, 5000)], Types::Oci, &["1"]));
    let mut there = BTreeSet::new();
    for upload in &plan.uploads {
        assert_eq!(client.push_blob(&target, upload).await.unwrap(), Way::Uploaded);
        there.insert(upload.digest);
    }
    let before = server.requests().len();
    let pushed = client.push_rest(&plan, &there).await.unwrap();
    assert_eq!(pushed.uploaded, 0);
    assert_eq!(lines(&server.requests()[before..]), ["HEAD manifest", "PUT manifest"]);
}

#[tokio::test]
async fn reg_15_blobs_that_vanish_before_the_manifest_are_sent_again() {
    let memory = Memory::new(Habits::default());
    let registry = memory.clone();
    let server = Server::start(move |request| registry.answer(request));
    let (client, _) = client(settings());
    let plan = plan_push(&server.reference("team/app:1"), &image(&[noise(1, 5000)], Types::Oci, &["1"]));
    let there = plan.uploads.iter().map(|upload| upload.digest).collect();
    client.push_rest(&plan, &there).await.unwrap();
    assert_eq!(memory.state.lock().unwrap().blobs.len(), 2);
}

#[tokio::test]
async fn a_blob_is_found_or_linked_without_its_bytes() {
    for (habits, expected) in [
        (Habits::default(), Some(Way::Mounted { from: "base/debian".to_owned() })),
        (Habits { refuses_links: Some(405), ..Habits::default() }, None),
    ] {
        let memory = Memory::new(Habits { separates: Some(()), ..habits });
        let server = Server::start(move |request| memory.answer(request));
        let (client, told) = client(settings());
        let layer = noise(2, 1000);
        let (base, target) = (server.reference("base/debian"), server.reference("team/app"));
        let mut wanted = blob(&layer, OCI_LAYER);
        let plan = plan_push(&base, &PushImage { blobs: vec![wanted.clone()], documents: Vec::new() });
        client.push(&plan).await.unwrap();
        assert_eq!(client.find_blob(&base, &plan.uploads[0]).await.unwrap(), Some(Way::Existed));
        wanted.found_in = vec![base];
        let plan = plan_push(&target, &PushImage { blobs: vec![wanted], documents: Vec::new() });
        let before = server.requests().len();
        assert_eq!(client.find_blob(&target, &plan.uploads[0]).await.unwrap(), expected);
        assert!(server.requests()[before..].iter().all(|request| request.body.is_empty()));
        assert_eq!(
            ways(&told.lock().unwrap(), plan.uploads[0].digest).len(),
            2 + usize::from(expected.is_some())
        );
    }
}

#[tokio::test]
async fn permission_is_asked_for_without_a_trace() {
    let memory = Memory::new(Habits::default());
    let server = Server::start(move |request| memory.answer(request));
    client(settings()).0.check_push(&server.reference("team/app:1")).await.unwrap();
    assert_eq!(lines(&server.requests()), ["POST upload", "DELETE upload"]);
    let quota = r#"{"errors":[{"code":"DENIED","message":"will exceed the project quota"}]}"#;
    let denied = r#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#;
    for (status, body, definite) in [
        (401, denied, true),
        (403, denied, true),
        (403, quota, false),
        (404, denied, false),
        (503, "", false),
    ] {
        let server = Server::start(move |_| Reply::new(status).body(body));
        let error = client(settings()).0.check_push(&server.reference("team/app:1")).await.unwrap_err();
        assert_eq!(error.is_denied(), definite, "{error}");
    }
}
