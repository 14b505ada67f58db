//! Documents that the specification allows: large, nested, empty, with content inside, with keys nobody knows, about
//! other documents, addressed by sha512.

use base64::Engine as _;
use oci::digest::Algorithm;
use oci::document::{Root, descriptor};
use oci::media_type::{OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST, Types};
use oci::registry::{Event, PushBlob, PushImage, plan_push};
use oci::{Digest, Platform};
use serde_json::{Value, json};

use super::{Registry, edited, entry, index_of};
use crate::fixture::{DockerRegistry, blob, client, document, elsewhere, image, noise, read_blob, settings};
use crate::memory::{Habits, Memory, error};
use crate::server::{Reply, Request, Server};

fn amd64() -> Platform {
    Platform::parse("linux/amd64", &Platform::host()).unwrap()
}

/// A manifest of exactly `size` bytes.
fn padded(size: usize) -> PushImage {
    let pad = |length: usize| {
        edited(&noise(10, 10), &["1"], |manifest| {
            manifest["annotations"] = json!({ "pad": "x".repeat(length) })
        })
    };
    let rest = pad(0).documents[0].raw.len();
    pad(size - rest)
}

#[tokio::test]
async fn check_manifest_large() {
    let size = (4 << 20) - 1;
    for registry in Registry::both() {
        let image = padded(size);
        assert_eq!(image.documents[0].raw.len(), size);
        registry.push("a/large", &image).await.unwrap();
        let (client, _) = client(settings());
        let found = client.root(&registry.reference("a/large:1")).await.unwrap();
        assert_eq!(*found.raw(), image.documents[0].raw);
    }
    let server = Server::start(|request| match request.method.as_str() {
        "PUT" if request.path().contains("/manifests/") => error(413, "SIZE_INVALID", "manifest too large"),
        "PUT" => Reply::new(201),
        "POST" => Reply::new(202).header("Location", "/v2/a/b/blobs/uploads/1"),
        _ => Reply::new(404),
    });
    let (client, _) = client(settings());
    let error = client.push(&plan_push(&server.reference("a/b"), &padded(size))).await.unwrap_err();
    assert!(error.to_string().contains("SIZE_INVALID: manifest too large"), "{error}");
}

#[tokio::test]
async fn check_uncompressed_layer() {
    for registry in Registry::both() {
        let image = edited(&noise(12, 3000), &["1"], |manifest| {
            manifest["layers"][0]["mediaType"] = OCI_LAYER.into();
        });
        registry.push("a/b", &image).await.unwrap();
        let (client, _) = client(settings());
        let found = client.resolve(&registry.reference("a/b:1"), &amd64()).await.unwrap();
        let layer = &found.manifest.parsed.layers()[0];
        assert_eq!(layer.media_type().as_ref(), OCI_LAYER);
        assert_eq!(client.blob_bytes(&found.reference, layer, 10_000).await.unwrap(), noise(12, 3000));
    }
}

#[tokio::test]
async fn check_nested_index() {
    for registry in Registry::both() {
        let mut whole = image(&[noise(13, 100)], Types::Oci, &[]);
        let mut child = entry(&whole.documents[0]);
        child["platform"] = json!({ "os": "linux", "architecture": "amd64" });
        let inner = index_of(&[child], &[]);
        let outer = index_of(&[entry(&inner)], &["1"]);
        whole.documents.extend([inner, outer]);
        registry.push("a/b", &whole).await.unwrap();
        let (client, _) = client(settings());
        let name = registry.reference("a/b:1");
        let found = client.resolve(&name, &amd64()).await.unwrap();
        assert_eq!(found.manifest.digest, whole.documents[0].digest);
        let copied = elsewhere(&client, &name, &["2"]).await;
        registry.push("a/copy", &copied).await.unwrap();
        let copy = client.digest(&registry.reference("a/copy:2")).await.unwrap();
        assert_eq!(copy, Some(whole.documents[2].digest));
    }
}

#[tokio::test]
async fn check_empty_index() {
    for registry in Registry::both() {
        let whole = PushImage { blobs: Vec::new(), documents: vec![index_of(&[], &["1"])] };
        registry.push("a/b", &whole).await.unwrap();
        let (client, _) = client(settings());
        let name = registry.reference("a/b:1");
        let Root::Index(found) = client.root(&name).await.unwrap() else { panic!("an index") };
        assert!(found.parsed.manifests().is_empty());
        let error = client.resolve(&name, &amd64()).await.unwrap_err();
        assert!(error.to_string().contains("no image for platform linux/amd64; available: none"), "{error}");
    }
}

#[tokio::test]
async fn check_no_layers() {
    for registry in Registry::both() {
        let image = image(&[], Types::Oci, &["1"]);
        registry.push("a/b", &image).await.unwrap();
        let (client, _) = client(settings());
        let found = client.resolve(&registry.reference("a/b:1"), &amd64()).await.unwrap();
        assert!(found.manifest.parsed.layers().is_empty());
        assert_eq!(found.manifest.raw, image.documents[0].raw);
    }
}

#[tokio::test]
async fn check_data_field() {
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let plain = image(&[noise(14, 100)], Types::Oci, &["1"]);
    let oci::registry::BlobSource::Bytes(config) = plain.blobs[1].source.clone() else { panic!("in memory") };
    let of = |data: String| {
        edited(&noise(14, 100), &["1"], |manifest| manifest["config"]["data"] = data.clone().into())
    };
    for registry in Registry::both() {
        let good = of(encode(&config));
        registry.push("a/good", &good).await.unwrap();
        let (client, events) = client(settings());
        let found = client.resolve(&registry.reference("a/good:1"), &amd64()).await.unwrap();
        assert_eq!((found.config.raw, found.manifest.raw), (config.clone(), good.documents[0].raw.clone()));
        assert!(events.lock().unwrap().is_empty(), "the config came with the manifest");
        for (name, data) in [
            ("a/other", encode(&[&config[..config.len() - 1], b" "].concat())),
            ("a/short", encode(&config[1..])),
            ("a/no-base64", "%".to_owned()),
        ] {
            registry.push(name, &of(data)).await.unwrap();
            let error =
                client.resolve(&registry.reference(&format!("{name}:1")), &amd64()).await.unwrap_err();
            assert!(error.to_string().contains("config inside a manifest"), "{error}");
        }
    }
}

#[tokio::test]
async fn check_custom_fields() {
    for registry in Registry::both() {
        let image = edited(&noise(15, 100), &["1"], |manifest| {
            manifest["org.example.extra"] = json!({ "z": [1, 2.50, null], "a": "ü" });
            manifest["layers"][0]["custom"] = "kept".into();
        });
        registry.push("a/b", &image).await.unwrap();
        let (client, _) = client(settings());
        let name = registry.reference("a/b:1");
        let found = client.resolve(&name, &amd64()).await.unwrap();
        assert_eq!(found.manifest.raw, image.documents[0].raw);
        let copied = elsewhere(&client, &name, &["2"]).await;
        registry.push("a/copy", &copied).await.unwrap();
        let copy = client.digest(&registry.reference("a/copy:2")).await.unwrap();
        assert_eq!(copy, Some(image.documents[0].digest));
    }
}

const VENDOR: &str = "https://vendor.example/layer";

#[tokio::test]
async fn check_nondistributable() {
    let oci = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    let docker = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let allowing = "validation: {manifests: {urls: {allow: ['.*']}}}";
    let real = DockerRegistry::start(allowing).map(|real| (Registry::Docker(real), Types::Docker, docker));
    let memory = (Registry::memory(Habits::default()), Types::Oci, oci);
    for (registry, types, foreign) in [Some(memory), real].into_iter().flatten() {
        let mut image = image(&[noise(16, 100)], types, &["1"]);
        let mut manifest: Value = serde_json::from_slice(&image.documents[0].raw).unwrap();
        manifest["layers"][0]["mediaType"] = foreign.into();
        manifest["layers"][0]["urls"] = json!([VENDOR]);
        image.documents = vec![document(&serde_json::to_vec(&manifest).unwrap(), types.manifest(), &["1"])];
        image.blobs[0].media_type = foreign.to_owned();
        image.blobs[0].urls = vec![VENDOR.to_owned()];
        registry.push("a/b", &image).await.unwrap();
        let (client, events) = client(settings());
        let name = registry.reference("a/b:1");
        let Root::Manifest(found) = client.root(&name).await.unwrap() else { panic!("one") };
        assert_eq!(found.parsed.layers()[0].media_type().as_ref(), foreign);
        assert!(events.lock().unwrap().is_empty());
        assert!(read_blob(&client, &name, &noise(16, 100)).await.is_err(), "the registry does not have it");
    }
}

#[tokio::test]
async fn layers_not_to_be_distributed_are_sent_where_no_url_leads_to_them() {
    let Some(real) = DockerRegistry::start("") else { return };
    let kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    let image = |seed, urls: &[&str]| {
        let mut image = edited(&noise(seed, 100), &["1"], |manifest| {
            manifest["layers"][0]["mediaType"] = kind.into();
            if !urls.is_empty() {
                manifest["layers"][0]["urls"] = json!(urls);
            }
        });
        image.blobs[0].media_type = kind.to_owned();
        image.blobs[0].urls = urls.iter().map(|url| (*url).to_owned()).collect();
        image
    };
    let (client, events) = client(settings());
    let name = real.reference("a/b");
    client.push(&plan_push(&name, &image(20, &[]))).await.unwrap();
    assert_eq!(read_blob(&client, &name, &noise(20, 100)).await.unwrap(), noise(20, 100));
    // This registry takes no URLs, which it answers with 500: nothing that another attempt mends.
    let error = client.push(&plan_push(&name, &image(21, &[VENDOR]))).await.unwrap_err();
    let layer = Digest::of(&noise(21, 100));
    for words in [&format!("the layer {layer} is marked as not to be distributed"), "manifests.urls.allow"] {
        assert!(error.to_string().contains(words), "{error}");
    }
    let told = events.lock().unwrap();
    assert!(!told.iter().any(|event| matches!(event, Event::Waiting { .. })), "{told:?}");
}

/// A signature-like manifest about `subject`.
fn about(subject: &PushImage, seed: u64, kind: Option<&str>) -> PushImage {
    let of = entry(&subject.documents[0]);
    edited(&noise(seed, 10), &[], |manifest| {
        manifest["subject"] = of.clone();
        manifest["annotations"] = json!({ "seed": seed.to_string() });
        if let Some(kind) = kind {
            manifest["artifactType"] = kind.into();
        }
    })
}

async fn referrers(registry: &Registry, subject: &PushImage) -> Vec<Value> {
    let (client, _) = client(settings());
    let digest = subject.documents[0].digest;
    let list = registry.reference(&format!("a/b:sha256-{}", digest.hex()));
    let Root::Index(found) = client.root(&list).await.unwrap() else { panic!("an index") };
    let parsed: Value = serde_json::from_slice(&found.raw).unwrap();
    parsed["manifests"].as_array().unwrap().clone()
}

#[tokio::test]
async fn check_subject() {
    for registry in Registry::both() {
        let subject = image(&[noise(17, 100)], Types::Oci, &["1"]);
        registry.push("a/b", &subject).await.unwrap();
        let [first, second] = [about(&subject, 18, Some("example/sbom")), about(&subject, 19, None)];
        registry.push("a/b", &first).await.unwrap();
        registry.push("a/b", &second).await.unwrap();
        registry.push("a/b", &first).await.unwrap();
        let entries = referrers(&registry, &subject).await;
        let mut expected = [entry(&first.documents[0]), entry(&second.documents[0])];
        expected[0]["artifactType"] = "example/sbom".into();
        expected[1]["artifactType"] = OCI_CONFIG.into();
        expected[0]["annotations"] = json!({ "seed": "18" });
        expected[1]["annotations"] = json!({ "seed": "19" });
        assert_eq!(entries, expected);
    }
}

#[tokio::test]
async fn check_subject_of_several_pushes_at_once() {
    // Nothing is lost where the registry honours conditions; docker-registry does not.
    let registry = Registry::memory(Habits::default());
    let subject = image(&[noise(17, 100)], Types::Oci, &["1"]);
    registry.push("a/b", &subject).await.unwrap();
    let many: Vec<PushImage> = (30..35).map(|seed| about(&subject, seed, None)).collect();
    let pushes = many.iter().map(|one| registry.push("a/b", one));
    for result in futures_util::future::join_all(pushes).await {
        result.unwrap();
    }
    assert_eq!(referrers(&registry, &subject).await.len(), 5);
}

#[tokio::test]
async fn check_subject_that_the_registry_lists_or_that_something_else_is_tagged_for() {
    let subject = image(&[noise(20, 100)], Types::Oci, &["1"]);
    let memory = Memory::new(Habits { keeps_referrers: Some(()), ..Habits::default() });
    let server = Server::start(move |request| memory.answer(request));
    let registry = Registry::Memory(server);
    registry.push("a/b", &subject).await.unwrap();
    registry.push("a/b", &about(&subject, 21, None)).await.unwrap();
    let Registry::Memory(server) = &registry else { unreachable!("made above") };
    assert!(!server.requests().iter().any(|request| request.path().contains("/manifests/sha256-")));

    let registry = Registry::memory(Habits::default());
    let tag = format!("sha256-{}", subject.documents[0].digest.hex());
    registry.push("a/b", &image(&[noise(20, 100)], Types::Oci, &["1", &tag])).await.unwrap();
    let error = registry.push("a/b", &about(&subject, 21, None)).await.unwrap_err();
    assert!(error.to_string().contains("is no index"), "{error}");
}

/// The image of one layer, content addressed by sha512 throughout.
fn long_digests(layer: &[u8], tags: &[&str]) -> PushImage {
    let long = |bytes: &[u8], media_type: &str| PushBlob {
        digest: Algorithm::Sha512.digest(bytes),
        ..blob(bytes, media_type)
    };
    let layer = long(layer, OCI_LAYER_GZIP);
    let config = json!({ "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [layer.digest.to_string()] } });
    let config = long(&serde_json::to_vec(&config).unwrap(), OCI_CONFIG);
    let of = |blob: &PushBlob| descriptor(&blob.media_type, blob.digest, blob.size);
    let manifest = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": of(&config), "layers": [of(&layer)] });
    let mut manifest = document(&serde_json::to_vec(&manifest).unwrap(), OCI_MANIFEST, tags);
    manifest.digest = Algorithm::Sha512.digest(&manifest.raw);
    PushImage { blobs: vec![layer, config], documents: vec![manifest] }
}

#[tokio::test]
async fn check_sha512() {
    let layer = noise(22, 5000);
    let registry = Registry::memory(Habits::default());
    let image = long_digests(&layer, &[]);
    registry.push("a/b", &image).await.unwrap();
    let Registry::Memory(server) = &registry else { unreachable!("made above") };
    let requests = server.requests();
    let posts: Vec<&Request> = requests.iter().filter(|request| request.method == "POST").collect();
    assert!(!posts.is_empty() && posts.iter().all(|post| post.query()["digest-algorithm"] == "sha512"));
    let (client, _) = client(settings());
    let name = registry.reference("a/b").with_digest(image.documents[0].digest);
    let found = client.resolve(&name, &amd64()).await.unwrap();
    assert_eq!(found.manifest.digest, image.documents[0].digest);
    let bytes = crate::fixture::pull_blob(&client, &name, image.blobs[0].digest, 5000).await.unwrap();
    assert_eq!(bytes, layer);
    // A wrong one is seen.
    let wrong = registry.reference("a/b").with_digest(Algorithm::Sha512.digest(b"other"));
    assert!(client.root(&wrong).await.is_err());
}
