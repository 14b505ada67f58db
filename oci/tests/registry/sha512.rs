//! Images whose blobs and documents are addressed by sha512: they go, come back, and are refused where they are not
//! what their digest says.

use oci::digest::Algorithm;
use oci::document::descriptor;
use oci::layout::Layout;
use oci::media_type::{self, LayerCompression, Types};
use oci::registry::{BlobSource, Client, Event, Problem, PushBlob, PushDocument, PushImage, Way, plan_push};
use oci::{Digest, Platform, Reference};
use serde_json::json;

use crate::fixture::{DockerRegistry, blob, client, document, elsewhere, noise, settings, ways};
use crate::memory::{Habits, Memory, error};
use crate::server::{Reply, Request, Server};

fn sha512(bytes: &[u8]) -> Digest {
    Algorithm::Sha512.digest(bytes)
}

fn platform() -> Platform {
    "linux/amd64".parse().unwrap()
}

fn blob512(bytes: &[u8], media_type: &str) -> PushBlob {
    PushBlob { digest: sha512(bytes), ..blob(bytes, media_type) }
}

fn document512(raw: &[u8], media_type: &str, tags: &[&str]) -> PushDocument {
    PushDocument { digest: sha512(raw), ..document(raw, media_type, tags) }
}

/// An image that knows no sha256.
fn image(layers: &[Vec<u8>], tags: &[&str]) -> PushImage {
    let types = Types::Oci;
    let gzip = types.layer(LayerCompression::Gzip);
    let diff_ids: Vec<String> = layers.iter().map(|layer| sha512(layer).to_string()).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = config.to_string();
    let described = |bytes: &[u8], media_type| descriptor(media_type, sha512(bytes), bytes.len() as u64);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": types.manifest(),
        "config": described(config.as_bytes(), types.config()),
        "layers": layers.iter().map(|layer| described(layer, gzip)).collect::<Vec<_>>(),
    });
    let blobs = layers.iter().map(|layer| blob512(layer, gzip));
    PushImage {
        blobs: blobs.chain([blob512(config.as_bytes(), types.config())]).collect(),
        documents: vec![document512(manifest.to_string().as_bytes(), types.manifest(), tags)],
    }
}

fn memory() -> (Memory, Server) {
    let memory = Memory::new(Habits::default());
    let answering = memory.clone();
    (memory, Server::start(move |request| answering.answer(request)))
}

async fn pull_into(
    layout: &Layout,
    client: &Client,
    reference: &Reference,
    digest: Digest,
    size: u64,
) -> Result<(), oci::registry::Error> {
    let incoming = layout.incoming().unwrap();
    client.pull_file(reference, digest, size, incoming.file().unwrap()).await?;
    incoming.finish_verified(&digest, size).unwrap();
    Ok(())
}

/// What `reference` stands for is `image`, layers included.
async fn check_comes_back(reference: &Reference, image: &PushImage, layers: &[Vec<u8>]) {
    let (client, _) = client(settings());
    let found = client.resolve(reference, &platform()).await.unwrap();
    assert_eq!(found.manifest.raw, image.documents[0].raw, "{reference}");
    assert!(found.manifest.digest.is_of(&found.manifest.raw));
    assert_eq!(found.config.digest, sha512(&found.config.raw), "as the manifest has it");
    assert_eq!(found.config.parsed.rootfs.diff_ids[0].0, sha512(&layers[0]));
    assert_eq!(found.reference, reference.with_digest(found.manifest.digest));
    for layer in layers {
        let (directory, digest) = (tempfile::tempdir().unwrap(), sha512(layer));
        let layout = Layout::create(directory.path()).unwrap();
        pull_into(&layout, &client, reference, digest, layer.len() as u64).await.unwrap();
        let got = layout.read_verified(&descriptor("a/b", digest, layer.len() as u64), 1 << 24).unwrap();
        assert!(got == *layer);
    }
}

#[tokio::test]
async fn img_04_an_image_goes_and_comes_back_under_its_digests() {
    let (memory, server) = memory();
    let layers = [noise(1, 300_000), noise(2, 10)];
    let image = image(&layers, &["1", "latest"]);
    let (client, _) = client(settings());
    let plan = plan_push(&server.reference("team/app"), &image);
    let pushed = client.push(&plan).await.unwrap();
    assert_eq!(pushed.digest, image.documents[0].digest);
    for blob in &image.blobs {
        assert!(memory.state.lock().unwrap().blobs.contains_key(&blob.digest.to_string()));
    }
    for name in ["team/app:1".to_owned(), format!("team/app@{}", pushed.digest)] {
        check_comes_back(&server.reference(&name), &image, &layers).await;
    }
    let by_digest = server.reference(&format!("team/app:1@{}", pushed.digest));
    assert_eq!(client.root(&by_digest).await.unwrap().digest(), pushed.digest);
    assert_eq!(client.digest(&by_digest.with_digest(pushed.digest)).await.unwrap(), Some(pushed.digest));
    // The tag's digest is told as sha256 here; it is the same image all the same.
    let before = server.requests().len();
    assert_eq!(client.push(&plan).await.unwrap().uploaded, 0);
    assert_eq!(server.requests().len() - before, 2, "a HEAD for each tag");
}

#[tokio::test]
async fn img_04_an_index_leads_to_manifests_by_sha512() {
    let (_memory, server) = memory();
    let layers = [noise(3, 1000)];
    let mut whole = image(&layers, &[]);
    let manifest = whole.documents[0].clone();
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [{
        "mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.raw.len(),
        "platform": { "os": "linux", "architecture": "amd64" },
    }] });
    whole.documents.push(document512(index.to_string().as_bytes(), media_type::OCI_INDEX, &["1"]));
    let (client, _) = client(settings());
    let pushed = client.push(&plan_push(&server.reference("multi"), &whole)).await.unwrap();
    for name in ["multi:1".to_owned(), format!("multi@{}", pushed.digest)] {
        let found = client.resolve(&server.reference(&name), &platform()).await.unwrap();
        assert_eq!(found.manifest.digest, manifest.digest, "{name}");
        assert!(found.index.is_some());
    }
    // All of it can be pushed elsewhere.
    let copy = elsewhere(&client, &server.reference("multi:1"), &["2"]).await;
    client.push(&plan_push(&server.reference("copy"), &copy)).await.unwrap();
    let found = client.resolve(&server.reference("copy:2"), &platform()).await.unwrap();
    assert_eq!(found.manifest.digest, manifest.digest);
}

#[tokio::test]
async fn img_01_bytes_that_are_not_of_their_sha512_are_refused() {
    let layers = [noise(4, 100_000)];
    let image = image(&layers, &["1"]);
    let (manifest, config) = (image.documents[0].clone(), image.blobs[1].clone());
    let BlobSource::Bytes(config_bytes) = config.source else { panic!("it is in memory") };
    // What is served instead of what, and what notices.
    let spoilt = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        bytes
    };
    for wrong in [manifest.digest, config.digest, image.blobs[0].digest] {
        let (manifest, config_bytes, layer) = (manifest.clone(), config_bytes.clone(), layers[0].clone());
        let server = Server::start(move |request: &Request| {
            let bytes = match request.path().rsplit('/').next().unwrap_or_default() {
                digest if digest == manifest.digest.to_string() => manifest.raw.to_vec(),
                digest if digest == config.digest.to_string() => config_bytes.to_vec(),
                _ => layer.clone(),
            };
            let spoil = request.path().ends_with(&wrong.to_string());
            let reply = Reply::new(200).header("Content-Type", media_type::OCI_MANIFEST);
            reply.body(if spoil { spoilt(&bytes) } else { bytes })
        });
        let (client, _) = client(settings());
        let reference = server.reference("app").with_digest(image.documents[0].digest);
        let resolved = client.resolve(&reference, &platform()).await;
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path()).unwrap();
        let (digest, size) = (image.blobs[0].digest, image.blobs[0].size);
        let pulled = pull_into(&layout, &client, &reference, digest, size).await;
        let refused = match (resolved, pulled) {
            (Err(error), Ok(())) => {
                assert!(layout.has(&digest).unwrap(), "the twin that is right");
                error
            }
            (Ok(_), Err(error)) => {
                assert_eq!(layout.blobs_in_store().unwrap(), []);
                assert_eq!(std::fs::read_dir(directory.path().join("blobs")).unwrap().count(), 1);
                error
            }
            (Ok(_), Ok(())) => panic!("{wrong} was accepted"),
            (Err(one), Err(other)) => panic!("{one}; {other}"),
        };
        match &*refused.problem {
            Problem::Digest { digests, .. } => {
                assert_eq!((digests.expected, digests.actual.algorithm()), (wrong, Algorithm::Sha512));
            }
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_digest_that_a_registry_claims_is_verified_by_its_own_algorithm() {
    let raw = image(&[noise(5, 10)], &[]).documents.remove(0).raw;
    let check = async |claimed: String, reference: fn(&Server) -> Reference, expected: Option<Algorithm>| {
        let body = raw.clone();
        let claim = claimed.clone();
        let server = Server::start(move |_| {
            let reply = Reply::new(200).header("Content-Type", media_type::OCI_MANIFEST);
            reply.header("Docker-Content-Digest", claim.clone()).body(body.to_vec())
        });
        let (client, _) = client(settings());
        let found = client.root(&reference(&server)).await;
        let found = found.ok().map(|root| root.digest());
        assert_eq!(found, expected.map(|algorithm| algorithm.digest(&raw)), "{claimed}");
    };
    let tag = |server: &Server| server.reference("a:1");
    check(sha512(&raw).to_string(), tag, Some(Algorithm::Sha512)).await;
    check(Digest::of(&raw).to_string(), tag, Some(Algorithm::Sha256)).await;
    check(sha512(b"other").to_string(), tag, None).await;
    check(Digest::of(b"other").to_string(), tag, None).await;
    // What is no digest of ours is no claim.
    check(format!("sha384:{}", "0".repeat(96)), tag, Some(Algorithm::Sha256)).await;
    check(sha512(&raw).to_string().to_uppercase(), tag, Some(Algorithm::Sha256)).await;
}

/// Registries hold a tag's manifest by sha256; most take no manifest under another digest.
#[tokio::test]
async fn a_registry_without_sha512_manifests_gets_the_image_by_its_tag() {
    let memory = Memory::new(Habits::default());
    let server = Server::start(move |request| {
        let by_sha512 = request.method == "PUT" && request.path().contains("/manifests/sha512:");
        if by_sha512 { error(400, "DIGEST_INVALID", "unsupported digest") } else { memory.answer(request) }
    });
    let layers = [noise(6, 1000)];
    let (client, events) = client(settings());
    let tagged = image(&layers, &["1"]);
    let pushed = client.push(&plan_push(&server.reference("app"), &tagged)).await.unwrap();
    assert_eq!(pushed.digest, Digest::of(&tagged.documents[0].raw), "what it is called there");
    let told = events.lock().unwrap().clone();
    let note = told.iter().find_map(|event| match event {
        Event::Note(text) => Some(text.clone()),
        _ => None,
    });
    let note = note.unwrap_or_default();
    assert!(note.contains("unsupported digest") && note.contains(&pushed.digest.to_string()), "{note}");
    check_comes_back(&server.reference("app:1"), &tagged, &layers).await;
    // Without a tag there is no other way.
    let refused = client.push(&plan_push(&server.reference("app"), &image(&layers, &[]))).await.unwrap_err();
    assert!(matches!(*refused.problem, Problem::Status { .. }), "{refused}");
}

#[tokio::test]
async fn docker_registry_keeps_blobs_by_sha512() {
    let Some(registry) = DockerRegistry::start("") else { return };
    let layers = [noise(7, 2 << 20), noise(8, 100)];
    let image = image(&layers, &["1"]);
    let (client, events) = client(settings());
    let target = registry.reference("team/app:1");
    client.push(&plan_push(&target, &image)).await.unwrap();
    check_comes_back(&target, &image, &layers).await;
    // They are found again, and linked, by that digest.
    let mut again = image.clone();
    again.documents[0].tags = vec!["2".to_owned()];
    assert_eq!(client.push(&plan_push(&target, &again)).await.unwrap().uploaded, 0);
    assert!(ways(&events.lock().unwrap(), image.blobs[0].digest).contains(&Way::Existed));
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped() {
    let layer = noise(9, 200_000);
    let served = layer.clone();
    let server = Server::start(move |request| match request.header("range").strip_prefix("bytes=") {
        None => Reply::new(200).body(served.clone()).cut(50_000),
        Some(range) => {
            let from: usize = range.split('-').next().unwrap().parse().unwrap();
            Reply::new(206)
                .header("Content-Range", format!("bytes {from}-{}/{}", served.len() - 1, served.len()))
                .body(&served[from..])
        }
    });
    let (client, _) = client(settings());
    let directory = tempfile::tempdir().unwrap();
    let layout = Layout::create(directory.path()).unwrap();
    pull_into(&layout, &client, &server.reference("a"), sha512(&layer), layer.len() as u64).await.unwrap();
    assert!(std::fs::read(layout.blob_path(&sha512(&layer))).unwrap() == layer);
    assert!(server.requests().len() >= 2);
}
