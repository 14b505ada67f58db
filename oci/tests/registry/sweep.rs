//! One fault, and three in a row, at every request of a push and of a pull: each costs time, none costs the operation.
//! A reset at any byte of an upload costs no more than what the registry has lost.

use futures_util::StreamExt as _;
use oci::media_type::{OCI_LAYER, Types};
use oci::registry::{PushImage, plan_push};
use oci::{Platform, Reference};

use crate::fixture::{DockerRegistry, blob, client, image, noise, read_blob, settings};
use crate::proxy::{Buffering, Fault, Proxy};

const FAULTS: [Fault; 9] = [
    Fault::Status(429),
    Fault::Status(500),
    Fault::Status(502),
    Fault::Status(503),
    Fault::Status(504),
    Fault::Reset,
    Fault::LostAnswer,
    Fault::CutBody,
    Fault::StaleToken,
];

/// Pushes through a proxy that strikes `count` times from request `first` on; returns how many requests it took.
async fn push(registry: &DockerRegistry, fault: Fault, first: usize, count: usize, seed: u64) -> usize {
    let proxy = Proxy::start(registry.port, fault, first, count);
    let layers = [noise(seed, 400_000), noise(seed + 1, 3000)];
    let image = image(&layers, Types::Oci, &["t"]);
    let name = format!("sweep/n{seed}");
    let (client, _) = client(settings());
    let result = client.push(&plan_push(&proxy.reference(&name), &image)).await;
    result.unwrap_or_else(|error| panic!("{fault:?} at request {first}, {count} times: {error}"));
    let stored: Reference = registry.reference(&format!("{name}:t"));
    assert_eq!(client.digest(&stored).await.unwrap(), Some(image.documents[0].digest));
    for layer in &layers {
        assert_eq!(read_blob(&client, &stored, layer).await.unwrap(), *layer);
    }
    proxy.seen()
}

async fn pull(
    registry: &DockerRegistry,
    name: &str,
    layer: &[u8],
    fault: Fault,
    first: usize,
    count: usize,
) -> usize {
    let proxy = Proxy::start(registry.port, fault, first, count);
    let (client, _) = client(settings());
    let name = proxy.reference(name);
    let context = |error| -> Vec<u8> { panic!("{fault:?} at request {first}, {count} times: {error}") };
    let found = client.resolve(&name, &Platform::parse("linux/amd64", &Platform::host()).unwrap()).await;
    let found = found.unwrap_or_else(|error| panic!("{fault:?} at request {first}, {count} times: {error}"));
    assert_eq!(found.manifest.parsed.layers().len(), 1);
    assert_eq!(read_blob(&client, &name, layer).await.unwrap_or_else(context), layer);
    proxy.seen()
}

#[tokio::test]
async fn one_and_three_faults_at_every_request_of_a_push() {
    let Some(registry) = DockerRegistry::start("") else { return };
    let requests = push(&registry, Fault::Reset, usize::MAX / 2, 0, 1000).await;
    assert_eq!(requests, 12);
    // With tokens one more: the first is told to fetch one.
    let requests = requests + 1;
    let cases = (0..).zip(FAULTS).flat_map(|(number, fault)| {
        (0..requests).flat_map(move |first| [1, 3].map(|count| (number, fault, first, count)))
    });
    let run = async |(number, fault, first, count): (u64, Fault, usize, usize)| {
        let seed = 2000 + number * 1000 + first as u64 * 10 + count as u64 * 3;
        push(&registry, fault, first, count, seed).await;
    };
    futures_util::stream::iter(cases).for_each_concurrent(4, run).await;
}

#[tokio::test]
async fn one_and_three_faults_at_every_request_of_a_pull() {
    let Some(registry) = DockerRegistry::start("") else { return };
    let (plain, _) = client(settings());
    let layer = noise(50, 700_000);
    let image = image(std::slice::from_ref(&layer), Types::Oci, &["t"]);
    plain.push(&plan_push(&registry.reference("pulled"), &image)).await.unwrap();
    let requests = pull(&registry, "pulled:t", &layer, Fault::Reset, usize::MAX / 2, 0).await;
    assert_eq!(requests, 3);
    let requests = requests + 1;
    for fault in FAULTS {
        for first in 0..requests {
            for count in [1, 3] {
                pull(&registry, "pulled:t", &layer, fault, first, count).await;
            }
        }
    }
}

const SIZE: usize = 10_000_000;
const PIECE: usize = 1 << 20;

/// Pushes one blob through a proxy that resets at `marks`; returns the bytes that came after the first reset.
async fn bytes_after_reset(
    registry: &DockerRegistry,
    buffering: Buffering,
    marks: &[usize],
    seed: u64,
) -> usize {
    let proxy = Proxy::start_with_marks(registry.port, buffering, marks);
    let layer = noise(seed, SIZE);
    let image = PushImage { blobs: vec![blob(&layer, OCI_LAYER)], documents: Vec::new() };
    let mut pieces = settings();
    pieces.limits.chunk = PIECE as u64;
    let (client, _) = client(pieces);
    let name = format!("reset/n{seed}");
    let result = client.push(&plan_push(&proxy.reference(&name), &image)).await;
    result.unwrap_or_else(|error| panic!("{buffering:?}, {marks:?}: {error}"));
    assert!(read_blob(&client, &registry.reference(&name), &layer).await.unwrap() == layer);
    proxy.received() - marks[0]
}

/// docker-registry gives a session up whose request ended early (its `ResumeBlobUpload` compares the size with the
/// signed state), so there the blob is sent once more; a proxy that buffers lets it go on with what is whole.
#[tokio::test]
async fn after_a_reset_at_any_byte_the_blob_is_sent_once_more_at_most() {
    let Some(registry) = DockerRegistry::start("") else { return };
    let most = SIZE + SIZE / 10 + PIECE;
    let bytes = [1, 65_536, SIZE / 3, SIZE / 2, SIZE * 9 / 10, SIZE - 1];
    for (seed, mark) in (5000..).step_by(10).zip(bytes) {
        for (number, buffering) in (0..).zip([Buffering::On, Buffering::Off]) {
            let sent = bytes_after_reset(&registry, buffering, &[mark], seed + number).await;
            assert!(sent <= most, "{sent} bytes after a reset at {mark}, buffering {buffering:?}");
        }
        // More resets on the way cost a piece each.
        let marks = [mark, mark + SIZE / 4, mark + SIZE / 2];
        let sent = bytes_after_reset(&registry, Buffering::On, &marks, seed + 2).await;
        assert!(sent <= most + PIECE, "{sent} bytes after resets at {marks:?}");
    }
}
