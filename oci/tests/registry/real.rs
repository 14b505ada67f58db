//! Round trips through the docker-registry package's server.

use oci::media_type::{self, Types};
use oci::registry::{BlobSource, Event, Problem, PushImage, Way, plan_push};
use oci::{Digest, Platform, Reference};
use serde_json::json;

use crate::fixture::{
    DockerRegistry, blob, client, document, elsewhere, free_port, image, noise, read_blob, settings, skip,
    ways,
};

fn platform(text: &str) -> Platform {
    Platform::parse(text, &Platform::host()).unwrap()
}

async fn round_trip(types: Types) {
    let Some(registry) = DockerRegistry::start("") else { return };
    let (client, _) = client(settings());
    let target = registry.reference("team/app:1");
    let layers = [noise(1, 3 << 20), noise(2, 100), Vec::new()];
    let image = image(&layers, types, &["1", "latest"]);
    let pushed = client.push(&plan_push(&target, &image)).await.unwrap();
    assert_eq!(pushed.digest, image.documents[0].digest);
    assert!(pushed.uploaded >= 3 << 20);
    for tag in ["1", "latest"] {
        let name = Reference { tag: Some(tag.to_owned()), ..target.clone() };
        let found = client.resolve(&name, &platform("linux/amd64")).await.unwrap();
        assert_eq!(found.manifest.raw, image.documents[0].raw);
        assert_eq!(found.config.parsed.rootfs.diff_ids.len(), 3);
        assert_eq!(found.reference, target.with_digest(pushed.digest));
    }
    for layer in &layers {
        assert_eq!(read_blob(&client, &target, layer).await.unwrap(), *layer);
    }
}

#[tokio::test]
async fn oci_images_come_back_as_they_went() {
    round_trip(Types::Oci).await;
}

#[tokio::test]
async fn docker_images_come_back_as_they_went() {
    round_trip(Types::Docker).await;
}

#[tokio::test]
async fn a_second_push_sends_nothing() {
    let Some(registry) = DockerRegistry::start("") else { return };
    let layers = [noise(3, 1 << 20), noise(4, 1 << 16)];
    let image = image(&layers, Types::Oci, &["v"]);
    let plan = plan_push(&registry.reference("app"), &image);
    let (first, _) = client(settings());
    first.push(&plan).await.unwrap();
    let (second, events) = client(settings());
    assert_eq!(second.push(&plan).await.unwrap().uploaded, 0);
    assert!(events.lock().unwrap().is_empty(), "no blob was even asked for");
    // Nor for another tag: the image is there.
    let mut other = plan.clone();
    other.documents[0].tags = vec!["w".to_owned()];
    assert_eq!(second.push(&other).await.unwrap().uploaded, 0);
    assert!(events.lock().unwrap().is_empty(), "no blob was even asked for");
    assert_eq!(second.digest(&registry.reference("app:w")).await.unwrap(), Some(image.documents[0].digest));
}

#[tokio::test]
async fn blobs_of_a_base_are_linked_and_never_downloaded() {
    let Some(registry) = DockerRegistry::start("") else { return };
    let (client, events) = client(settings());
    let base = registry.reference("base/debian:12");
    let layer = noise(5, 1 << 20);
    client.push(&plan_push(&base, &image(std::slice::from_ref(&layer), Types::Oci, &["12"]))).await.unwrap();
    let mut derived = image(&[layer.clone(), noise(6, 1000)], Types::Oci, &["1"]);
    derived.blobs[0].source = BlobSource::Remote(base);
    let target = registry.reference("team/derived:1");
    let pushed = client.push(&plan_push(&target, &derived)).await.unwrap();
    assert!(pushed.uploaded < 10_000, "{}", pushed.uploaded);
    assert_eq!(
        ways(&events.lock().unwrap(), Digest::of(&layer)).pop(),
        Some(Way::Mounted { from: "base/debian".to_owned() })
    );
    let told = events.lock().unwrap();
    assert!(!told.iter().any(|event| matches!(event, Event::Received { .. })));
}

#[tokio::test]
async fn blobs_of_another_registry_are_streamed_through() {
    let (Some(here), Some(there)) = (DockerRegistry::start(""), DockerRegistry::start("")) else { return };
    let (client, _) = client(settings());
    let layer = noise(7, 2 << 20);
    let base = there.reference("base:1");
    client.push(&plan_push(&base, &image(std::slice::from_ref(&layer), Types::Oci, &["1"]))).await.unwrap();
    let mut derived = image(std::slice::from_ref(&layer), Types::Oci, &["1"]);
    derived.blobs[0].source = BlobSource::Remote(base);
    let target = here.reference("derived:1");
    client.push(&plan_push(&target, &derived)).await.unwrap();
    assert_eq!(read_blob(&client, &target, &layer).await.unwrap(), layer);
}

#[tokio::test]
async fn files_are_streamed_and_a_short_one_is_named() {
    let Some(registry) = DockerRegistry::start("") else { return };
    let (client, _) = client(settings());
    let layer = noise(8, 5 << 20);
    let path = registry.directory.path().join("layer");
    std::fs::write(&path, &layer).unwrap();
    let mut image = image(std::slice::from_ref(&layer), Types::Oci, &["1"]);
    image.blobs[0].source = BlobSource::File(path.clone());
    let target = registry.reference("files");
    client.push(&plan_push(&target, &image)).await.unwrap();
    assert_eq!(read_blob(&client, &target, &layer).await.unwrap(), layer);

    std::fs::write(&path, &layer[..1000]).unwrap();
    let error = client.push(&plan_push(&registry.reference("other"), &image)).await.unwrap_err();
    assert!(matches!(*error.problem, Problem::Source { .. }), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

/// An index of three platforms, tagged `1`.
fn three_platforms() -> PushImage {
    let platforms = [("amd64", ""), ("arm64", "v8"), ("arm", "v7")];
    let mut whole = PushImage::default();
    let mut entries = Vec::new();
    for (seed, (architecture, variant)) in (20..).zip(platforms) {
        let one = image(&[noise(seed, 5000)], Types::Oci, &[]);
        let manifest = &one.documents[0];
        let mut platform = json!({ "os": "linux", "architecture": architecture });
        if !variant.is_empty() {
            platform["variant"] = variant.into();
        }
        entries.push(json!({ "mediaType": manifest.media_type, "digest": manifest.digest.to_string(),
            "size": manifest.raw.len(), "platform": platform }));
        whole.blobs.extend(one.blobs);
        whole.documents.extend(one.documents);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries });
    whole.documents.push(document(index.to_string().as_bytes(), media_type::OCI_INDEX, &["1"]));
    whole
}

#[tokio::test]
async fn an_index_gives_the_image_of_the_platform() {
    let Some(registry) = DockerRegistry::start("") else { return };
    let (client, _) = client(settings());
    let target = registry.reference("multi:1");
    let whole = three_platforms();
    client.push(&plan_push(&target, &whole)).await.unwrap();
    for (index, wanted) in ["linux/amd64", "linux/arm64", "linux/arm/v7"].into_iter().enumerate() {
        let found = client.resolve(&target, &platform(wanted)).await.unwrap();
        assert_eq!(found.manifest.digest, whole.documents[index].digest, "{wanted}");
        assert!(found.index.is_some());
    }
    let error = client.resolve(&target, &platform("linux/s390x")).await.unwrap_err();
    assert!(error.to_string().contains("linux/arm64"), "{error}");
}

#[tokio::test]
async fn what_is_not_there_is_said_in_one_line() {
    let Some(registry) = DockerRegistry::start("") else { return };
    let (client, _) = client(settings());
    let name = registry.reference("no/such:1");
    let error = client.resolve(&name, &Platform::host()).await.unwrap_err();
    assert!(error.is_unknown_image());
    let line = error.to_string();
    assert!(line.starts_with(&format!("pull {name} — manifest unknown")) && !line.contains('\n'), "{line}");
    assert_eq!(client.digest(&name).await.unwrap(), None);

    let port = free_port();
    let dead: Reference = format!("127.0.0.1:{port}/x:1").parse().unwrap();
    let error = client.resolve(&dead, &Platform::host()).await.unwrap_err();
    let expected = format!("pull {dead} — connection refused by 127.0.0.1:{port}");
    assert!(error.to_string().starts_with(&expected), "{error}");
    assert!(error.to_string().ends_with("is the registry running?"), "{error}");
}

#[tokio::test]
async fn a_pull_through_mirror_serves_and_a_dead_one_is_passed_over() {
    let Some(registry) = DockerRegistry::start("") else { return };
    let (plain, _) = client(settings());
    let layer = noise(9, 10_000);
    let pushed = image(std::slice::from_ref(&layer), Types::Oci, &["1"]);
    plain.push(&plan_push(&registry.reference("hub/library/thing"), &pushed)).await.unwrap();
    let mut with_mirrors = settings();
    let hub = with_mirrors.registries.entry("docker.io".to_owned()).or_default();
    hub.mirrors = vec![format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}/hub", registry.port)];
    let (client, events) = client(with_mirrors);
    let thing: Reference = "thing:1".parse().unwrap();
    let found = client.resolve(&thing, &platform("linux/amd64")).await.unwrap();
    assert_eq!(found.manifest.digest, pushed.documents[0].digest);
    assert_eq!(read_blob(&client, &thing, &layer).await.unwrap(), layer);
    let events = events.lock().unwrap();
    // Nobody waits for a mirror that is not there, and it is asked once.
    assert!(events.iter().all(|event| !matches!(event, Event::Waiting { .. })), "{events:?}");
    let failed = events.iter().filter(|event| matches!(event, Event::MirrorFailed { .. }));
    assert_eq!(failed.count(), 1);
}

#[tokio::test]
async fn a_bad_digest_is_refused_in_the_registrys_words() {
    let Some(registry) = DockerRegistry::start("") else { return };
    let (client, _) = client(settings());
    let mut wrong = blob(b"what it is", media_type::OCI_LAYER);
    wrong.digest = Digest::of(b"what it says it is");
    let image = PushImage { blobs: vec![wrong], documents: Vec::new() };
    let error = client.push(&plan_push(&registry.reference("x"), &image)).await.unwrap_err();
    assert!(error.to_string().contains("DIGEST_INVALID"), "{error}");
}

#[tokio::test]
async fn an_index_is_copied_whole_from_registry_to_registry() {
    let (Some(here), Some(there)) = (DockerRegistry::start(""), DockerRegistry::start("")) else { return };
    let (client, _) = client(settings());
    let whole = three_platforms();
    let source = there.reference("multi:1");
    client.push(&plan_push(&source, &whole)).await.unwrap();
    let tags = ["a", "b"];
    let copy = elsewhere(&client, &source, &tags).await;
    let target = here.reference("copied");
    client.push(&plan_push(&target, &copy)).await.unwrap();
    let mut found = client.tags(&target).await.unwrap();
    found.sort();
    assert_eq!(found, tags);
    for wanted in ["linux/amd64", "linux/arm64", "linux/arm/v7"] {
        let name = Reference { tag: Some("b".to_owned()), ..target.clone() };
        let image = client.resolve(&name, &platform(wanted)).await.unwrap();
        let layer = &image.manifest.parsed.layers()[0];
        assert_eq!(client.blob_bytes(&name, layer, 10_000).await.unwrap().len(), 5000);
    }
    assert!(client.tags(&here.reference("none")).await.unwrap_err().is_unknown_image());
}

#[tokio::test]
async fn skopeo_reads_what_was_pushed_and_we_read_what_skopeo_copied() {
    let Some(registry) = DockerRegistry::start("") else { return };
    let skopeo = |arguments: &[&str]| {
        let output = std::process::Command::new("skopeo").args(arguments).output();
        output.is_ok_and(|output| {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            true
        })
    };
    if !skopeo(&["--version"]) {
        return skip::<()>("skopeo is not installed").unwrap_or(());
    }
    let (client, _) = client(settings());
    // skopeo packs anew what is not compressed as its media type says.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &noise(30, 50_000)).unwrap();
    let pushed = image(&[gzip.finish().unwrap()], Types::Oci, &["1"]);
    client.push(&plan_push(&registry.reference("ours:1"), &pushed)).await.unwrap();
    let (ours, theirs) = (registry.reference("ours:1"), registry.reference("theirs:1"));
    skopeo(&[
        "copy",
        "-q",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        &format!("docker://{ours}"),
        &format!("docker://{theirs}"),
    ]);
    assert_eq!(client.digest(&theirs).await.unwrap(), Some(pushed.documents[0].digest));
    skopeo(&["inspect", "--tls-verify=false", "--no-tags", &format!("docker://{ours}")]);
}
