//! Blobs that go from registry to registry where mirrors stand before the first: what a mirror sends wrongly does not
//! arrive, and does not stop what is right either (reliability REG-10).

use std::sync::Arc;
use std::time::{Duration, Instant};

use oci::Digest;
use oci::media_type::{OCI_LAYER, Types};
use oci::registry::{BlobSource, Event, PushBlob, PushImage, plan_push};

use crate::fixture::{PATIENCE, blob, client, image, noise, read_blob, settings};
use crate::memory::{Habits, Memory};
use crate::server::{Reply, Server};

const SIZE: usize = 3_000_000;

fn registry(memory: &Memory) -> Server {
    let memory = memory.clone();
    Server::start(move |request| memory.answer(request))
}

fn holding(layer: &[u8]) -> Memory {
    let memory = Memory::new(Habits::default());
    memory.state.lock().unwrap().blobs.insert(Digest::of(layer).to_string(), layer.to_vec());
    memory
}

/// How a mirror sends a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sends {
    Right,
    Wrong,
    /// Wrong bytes, of which half come.
    HalfWrong,
}

fn mirror(layer: &[u8], sends: Sends) -> Server {
    let mut bytes = layer.to_vec();
    if sends != Sends::Right {
        bytes[SIZE / 4] ^= 1;
    }
    Server::start(move |request| {
        let start = request.header("range").strip_prefix("bytes=").and_then(|range| range.split('-').next());
        let start = start.and_then(|start| start.parse::<usize>().ok()).unwrap_or(0);
        let reply = match start {
            0 => Reply::new(200),
            _ => Reply::new(206).header("Content-Range", format!("bytes {start}-{}/{SIZE}", SIZE - 1)),
        };
        let reply = reply.body(&bytes[start..]);
        match sends {
            Sends::HalfWrong => reply.cut(SIZE / 2),
            Sends::Right | Sends::Wrong => reply,
        }
    })
}

/// Copies a blob through a mirror; returns whether the mirror was told to have failed.
async fn copied(sends: Sends, habits: Habits) -> bool {
    let layer = noise(1, SIZE);
    let origin = registry(&holding(&layer));
    let mirror = mirror(&layer, sends);
    let target = Memory::new(habits);
    let to = registry(&target);
    let mut with_mirror = settings();
    with_mirror.limits.chunk = 1 << 20;
    with_mirror.registries.entry(origin.address.to_string()).or_default().mirrors =
        vec![mirror.address.to_string()];
    let (client, events) = client(with_mirror);
    let remote = BlobSource::Remote(origin.reference("base/debian:12"));
    let image = PushImage {
        blobs: vec![PushBlob { source: remote, ..blob(&layer, OCI_LAYER) }],
        documents: Vec::new(),
    };
    client.push(&plan_push(&to.reference("team/app"), &image)).await.unwrap();
    let blobs = target.state.lock().unwrap().blobs.clone();
    assert_eq!(blobs.len(), 1, "{sends:?}");
    assert!(blobs[&Digest::of(&layer).to_string()] == layer, "{sends:?}");
    assert!(!mirror.requests().is_empty());
    events.lock().unwrap().iter().any(|event| matches!(event, Event::MirrorFailed { .. }))
}

#[tokio::test]
async fn reg_10_wrong_bytes_of_a_mirror_do_not_stop_a_copy_to_another_registry() {
    for sends in [Sends::Right, Sends::Wrong, Sends::HalfWrong] {
        let whole = copied(sends, Habits::default()).await;
        let pieces = copied(sends, Habits { max_body: Some(1 << 20), ..Habits::default() }).await;
        assert_eq!([whole, pieces], [sends != Sends::Right; 2], "{sends:?}");
    }
}

/// Reads a manifest and two layers while the mirror answers everything with `reply`, where it does; returns how often
/// it was asked.
async fn asked(reply: Option<Reply>) -> usize {
    let layers = [noise(3, 1000), noise(4, 1000)];
    let memory = Memory::new(Habits::default());
    let origin = registry(&memory);
    let image = image(&layers, Types::Oci, &["1"]);
    let (plain, _) = client(settings());
    let name = origin.reference("team/app:1");
    plain.push(&plan_push(&name, &image)).await.unwrap();
    let silent = Reply { hold: Some((0, Arc::default())), ..Reply::new(200).body("x") };
    let mirror = Server::start(move |_| reply.clone().unwrap_or_else(|| silent.clone()));
    let mut with_mirror = settings();
    with_mirror.timeouts.answer = Duration::from_secs(3);
    with_mirror.timeouts.stall = Duration::from_secs(3);
    with_mirror.registries.entry(origin.address.to_string()).or_default().mirrors =
        vec![mirror.address.to_string()];
    let (client, _) = client(with_mirror);
    let begun = Instant::now();
    assert_eq!(client.root(&name).await.unwrap().digest(), image.documents[0].digest);
    for layer in &layers {
        assert_eq!(read_blob(&client, &name, layer).await.unwrap(), *layer);
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    mirror.requests().len()
}

#[tokio::test]
async fn a_mirror_that_is_silent_or_asks_for_patience_is_passed_over() {
    assert_eq!(asked(None).await, 1, "silence is not listened to twice");
    let limited = Reply::new(429).header("Retry-After", "250");
    assert_eq!(asked(Some(limited)).await, 3, "once for each document and layer");
    assert_eq!(asked(Some(Reply::new(503))).await, 6, "and once more");
    assert_eq!(asked(Some(Reply::new(404))).await, 3);
}

#[tokio::test]
async fn reg_10_wrong_bytes_of_the_registry_itself_do() {
    let layer = noise(2, SIZE);
    let origin = mirror(&layer, Sends::Wrong);
    let target = Memory::new(Habits::default());
    let to = registry(&target);
    let (client, _) = client(settings());
    let remote = BlobSource::Remote(origin.reference("base/debian:12"));
    let image = PushImage {
        blobs: vec![PushBlob { source: remote, ..blob(&layer, OCI_LAYER) }],
        documents: Vec::new(),
    };
    let error = client.push(&plan_push(&to.reference("team/app"), &image)).await.unwrap_err();
    assert!(error.to_string().contains(&format!("expected {}", Digest::of(&layer))), "{error}");
    assert!(target.state.lock().unwrap().blobs.is_empty());
}
