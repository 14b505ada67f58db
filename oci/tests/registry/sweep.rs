//! One fault at every request of a push and of a pull: each costs time, none costs the operation.

use futures_util::StreamExt as _;
use oci::media_type::Types;
use oci::registry::plan_push;
use oci::{Platform, Reference};

use crate::fixture::{DockerRegistry, client, image, noise, read_blob, settings};
use crate::proxy::{Fault, Proxy};

const FAULTS: [Fault; 8] = [
    Fault::Status(429),
    Fault::Status(500),
    Fault::Status(502),
    Fault::Status(503),
    Fault::Status(504),
    Fault::Reset,
    Fault::LostAnswer,
    Fault::CutBody,
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
    assert_eq!(requests, 11);
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
    for fault in FAULTS {
        for first in 0..requests {
            for count in [1, 3] {
                pull(&registry, "pulled:t", &layer, fault, first, count).await;
            }
        }
    }
}
