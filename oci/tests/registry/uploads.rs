//! How blobs get into a registry that breaks off, limits bodies, forgets, or lies.

use std::sync::{Arc, Mutex};

use oci::Digest;
use oci::media_type::{OCI_LAYER, Types};
use oci::registry::{Event, Problem, PushImage, Settings, Way, plan_push};

use crate::fixture::{blob, client, image, noise, settings, ways};
use crate::memory::{Habits, Memory};
use crate::server::{Reply, Request, Server};

const SIZE: usize = 10_000_000;

fn small_chunks() -> Settings {
    let mut settings = settings();
    settings.limits.chunk = 1 << 20;
    settings
}

/// Pushes one blob of [`SIZE`] bytes; returns what the server saw.
async fn upload(habits: Habits, resets: &[usize]) -> Vec<Request> {
    let memory = Memory::new(habits);
    let registry = memory.clone();
    let resets = Arc::new(Mutex::new(resets.to_vec()));
    let server = Server::start_with_resets(move |request| registry.answer(request), resets);
    let layer = noise(1, SIZE);
    let image = PushImage { blobs: vec![blob(&layer, OCI_LAYER)], documents: Vec::new() };
    let (client, _) = client(small_chunks());
    client.push(&plan_push(&server.reference("team/app"), &image)).await.unwrap();
    assert!(memory.state.lock().unwrap().blobs[&Digest::of(&layer).to_string()] == layer);
    server.requests()
}

fn sent(requests: &[Request]) -> usize {
    requests.iter().map(|request| request.body.len()).sum()
}

fn methods(requests: &[Request]) -> Vec<&str> {
    requests.iter().map(|request| request.method.as_str()).collect()
}

#[tokio::test]
async fn a_blob_goes_in_one_put() {
    let requests = upload(Habits::default(), &[]).await;
    assert_eq!(methods(&requests), ["HEAD", "POST", "PUT"]);
    assert!(requests[2].target.contains("state=a%2Fb&digest=sha256"), "{}", requests[2].target);
    assert_eq!(requests[2].header("content-length"), SIZE.to_string());
    assert_eq!(requests[1].header("content-length"), "0");
}

#[tokio::test]
async fn after_a_reset_the_upload_goes_on_where_the_registry_stopped() {
    for after in [0, 1, 1000, SIZE / 2, SIZE - 1] {
        let requests = upload(Habits::default(), &[after]).await;
        let most = SIZE + SIZE / 10 + (1 << 20);
        assert!(sent(&requests) <= most, "{} bytes after a reset at {after}", sent(&requests));
        // `Range: 0-0` stands for one byte in the specification and for none in docker-registry, so after one
        // byte the two sides disagree and begin again.
        let sessions = requests.iter().filter(|request| request.method == "POST").count();
        assert_eq!(sessions, if after == 1 { 2 } else { 1 });
    }
    // Entries are taken from the end: the whole first, then pieces.
    let requests = upload(Habits::default(), &[0, 500_000, 1 << 20, 3_000_000]).await;
    assert!(sent(&requests) <= SIZE + SIZE / 10 + (1 << 20));
}

#[tokio::test]
async fn reg_15_a_proxy_that_resets_what_is_too_large_for_it_gets_ever_smaller_pieces() {
    let requests = upload(Habits::default(), &[0, 0, 0, 0]).await;
    let lengths: Vec<&str> = requests
        .iter()
        .filter(|request| matches!(request.method.as_str(), "PUT" | "PATCH"))
        .map(|request| request.header("content-length"))
        .collect();
    let (whole, piece) = (SIZE.to_string(), |shift: u32| ((1 << 20) >> shift).to_string());
    assert_eq!(lengths[..6], [whole, piece(0), piece(1), piece(2), piece(3), piece(3)]);
    // Resets in different places are the network's, not the size's.
    let requests = upload(Habits::default(), &[900_000, 700_000, 100_000]).await;
    let patches: Vec<&Request> = requests.iter().filter(|request| request.method == "PATCH").collect();
    assert!(patches[..3].iter().all(|patch| patch.header("content-length") == piece(0)));
}

#[tokio::test]
async fn reg_16_a_registry_that_takes_no_pieces_gets_the_whole_again() {
    for status in [400, 405, 415, 501] {
        let habits = || Habits { refuses_pieces: Some(status), ..Habits::default() };
        let requests = upload(habits(), &[SIZE / 2]).await;
        let whole = requests.iter().filter(|request| request.header("content-length") == SIZE.to_string());
        assert_eq!(whole.count(), 2, "{status}");
        assert_eq!(requests.iter().filter(|request| request.method == "PATCH").count(), 1);
        // Where the whole is too large, there is no way.
        let memory = Memory::new(Habits { max_body: Some(500_000), ..habits() });
        let server = Server::start(move |request| memory.answer(request));
        let image = PushImage { blobs: vec![blob(&noise(1, 1_000_000), OCI_LAYER)], documents: Vec::new() };
        let mut pieces = small_chunks();
        pieces.limits.chunk = 400_000;
        let (client, _) = client(pieces);
        let error = client.push(&plan_push(&server.reference("x"), &image)).await.unwrap_err();
        assert!(error.to_string().contains("UNSUPPORTED: The operation is unsupported."), "{error}");
    }
}

#[tokio::test]
async fn reg_16_a_registry_that_takes_and_takes_and_has_nothing_is_left() {
    let image = PushImage { blobs: vec![blob(&noise(1, 1_000_000), OCI_LAYER)], documents: Vec::new() };
    let mut pieces = small_chunks();
    pieces.limits.chunk = 400_000;
    let (client, _) = client(pieces);
    let endless = Server::start(|request| match request.method.as_str() {
        "HEAD" => Reply::new(404),
        "PUT" => Reply::new(413),
        _ => Reply::new(202).header("Location", "/v2/x/blobs/uploads/1").header("Range", "0-0"),
    });
    let error = client.push(&plan_push(&endless.reference("x"), &image)).await.unwrap_err();
    assert!(error.to_string().contains("it stays at 0 of 1000000 bytes"), "{error}");
    assert!(endless.requests().len() < 50, "{}", endless.requests().len());
}

#[tokio::test]
async fn a_session_that_is_forgotten_is_begun_again() {
    let requests = upload(Habits { forgets_sessions: Some(()), ..Habits::default() }, &[SIZE / 2]).await;
    assert_eq!(requests.iter().filter(|request| request.method == "POST").count(), 2);
}

#[tokio::test]
async fn reg_15_a_limit_on_bodies_leads_to_pieces_that_fit() {
    let requests = upload(Habits { max_body: Some(3 << 20), ..Habits::default() }, &[]).await;
    assert!(
        requests.iter().filter(|request| request.method == "PATCH").all(|patch| patch.body.len() <= 1 << 20)
    );
    let requests = upload(Habits { max_body: Some(300_000), ..Habits::default() }, &[]).await;
    assert!(methods(&requests).iter().filter(|method| **method == "PATCH").count() > 30);
}

#[tokio::test]
async fn reg_16_chunks_are_not_smaller_than_the_registry_takes() {
    let habits = Habits { max_body: Some(3 << 20), min_chunk: Some(1 << 20), ..Habits::default() };
    let requests = upload(habits, &[]).await;
    let patches: Vec<usize> =
        requests.iter().filter(|request| request.method == "PATCH").map(|patch| patch.body.len()).collect();
    assert!(patches[..patches.len() - 1].iter().all(|size| *size >= 1 << 20), "{patches:?}");
    // Where nothing can be made to fit, the answer is final.
    let memory = Memory::new(Habits { max_body: Some(1000), ..Habits::default() });
    let server = Server::start(move |request| memory.answer(request));
    let image = PushImage { blobs: vec![blob(&noise(1, 100_000), OCI_LAYER)], documents: Vec::new() };
    let (client, _) = client(settings());
    let error = client.push(&plan_push(&server.reference("x"), &image)).await.unwrap_err();
    assert!(error.to_string().contains("limits request bodies"), "{error}");
}

#[tokio::test]
async fn reg_15_a_head_that_lies_costs_one_more_upload() {
    let image = image(&[noise(2, 1000)], Types::Oci, &["1"]);
    let lies_about = [(image.blobs[0].digest.to_string(), 1000)].into();
    let memory = Memory::new(Habits { lies_about, ..Habits::default() });
    let registry = memory.clone();
    let server = Server::start(move |request| registry.answer(request));
    let (client, events) = client(settings());
    client.push(&plan_push(&server.reference("team/app"), &image)).await.unwrap();
    assert_eq!(memory.state.lock().unwrap().blobs.len(), 2);
    assert!(ways(&events.lock().unwrap(), image.blobs[0].digest).contains(&Way::Uploaded));
}

#[tokio::test]
async fn reg_15_quota_and_immutable_tags_are_final_and_quoted() {
    let cases = [
        (
            403,
            r#"{"errors":[{"code":"DENIED","message":"adding 5 MiB of storage resource, which will exceed the project quota of 10 MiB"}]}"#,
            "larger quota",
        ),
        (
            412,
            r#"{"errors":[{"code":"PRECONDITION","message":"Failed to process request due to 'app:1' configured as immutable."}]}"#,
            "choose another",
        ),
        (
            403,
            r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#,
            "log in",
        ),
    ];
    for (status, body, hint) in cases {
        let memory = Memory::new(Habits { refuses_manifests: Some((status, body)), ..Habits::default() });
        let server = Server::start(move |request| memory.answer(request));
        let image = image(&[noise(3, 10)], Types::Oci, &["1"]);
        let (client, events) = client(settings());
        let error =
            client.push(&plan_push(&server.reference("team/app"), &image)).await.unwrap_err().to_string();
        let words = body.split("\"message\":\"").nth(1).unwrap().split("\"}").next().unwrap();
        assert!(error.contains(words) && error.contains(hint), "{error}");
        assert!(error.starts_with(&format!("push {}/team/app:1 — ", server.address)), "{error}");
        assert!(!events.lock().unwrap().iter().any(|event| matches!(event, Event::Waiting { .. })));
    }
}

#[tokio::test]
async fn reg_16_a_link_that_is_refused_falls_back_to_an_upload() {
    for refusal in [400, 403, 404, 405] {
        let memory = Memory::new(Habits { refuses_links: Some(refusal), ..Habits::default() });
        let registry = memory.clone();
        let server = Server::start(move |request| registry.answer(request));
        let layer = noise(4, 1000);
        let mut blob = blob(&layer, OCI_LAYER);
        blob.found_in = vec![server.reference("base/debian")];
        let (client, _) = client(settings());
        let image = PushImage { blobs: vec![blob], documents: Vec::new() };
        client.push(&plan_push(&server.reference("team/app"), &image)).await.unwrap();
        assert!(memory.state.lock().unwrap().blobs.contains_key(&Digest::of(&layer).to_string()));
    }
}

#[tokio::test]
async fn reg_16_answers_against_the_specification_are_named() {
    let no_location: fn(&Request) -> Reply = |request| match request.method.as_str() {
        "HEAD" => Reply::new(404),
        _ => Reply::new(202),
    };
    let other_digest: fn(&Request) -> Reply = |request| match request.method.as_str() {
        "HEAD" => Reply::new(404),
        "POST" => Reply::new(202).header("Location", "/v2/x/blobs/uploads/1"),
        _ => Reply::new(201).header("Docker-Content-Digest", Digest::of(b"other").to_string()),
    };
    let accepted: fn(&Request) -> Reply = |request| match request.method.as_str() {
        "HEAD" => Reply::new(404),
        _ => Reply::new(202).header("Location", "/v2/x/blobs/uploads/1"),
    };
    for (script, expected) in [(no_location, "Location"), (other_digest, "stored layer"), (accepted, "202")] {
        let server = Server::start(script);
        let image = PushImage { blobs: vec![blob(b"x", OCI_LAYER)], documents: Vec::new() };
        let (client, _) = client(settings());
        let error = client.push(&plan_push(&server.reference("x"), &image)).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!matches!(*error.problem, Problem::Exhausted { .. }));
    }
}
