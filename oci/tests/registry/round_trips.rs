//! Images of every kind through the real registry, compared from outside by skopeo in both directions: gzip, zstd and
//! uncompressed layers, types of OCI and of Docker, an index of three platforms, a pull-through mirror.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use oci::document::{Manifest, Root, descriptor};
use oci::media_type::{LayerCompression, OCI_INDEX, Types};
use oci::registry::settings::Transport;
use oci::registry::{Event, PushImage, plan_push};
use oci::{Digest, Platform, Reference};
use serde_json::json;

use crate::fixture::{DockerRegistry, blob, client, document, free_port, noise, read_blob, settings, skip};

const COMPRESSIONS: [LayerCompression; 3] =
    [LayerCompression::None, LayerCompression::Gzip, LayerCompression::Zstd];

/// Runs skopeo, which must succeed; `None` where it is not installed.
fn skopeo(arguments: &[&str]) -> Option<String> {
    if Command::new("skopeo").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skip("skopeo is not installed");
    }
    let output = Command::new("skopeo").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// A layer's tar with one file, different for each seed.
fn tar(seed: u64) -> Vec<u8> {
    let content = noise(seed, 50_000);
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, format!("file-{seed}"), &content[..]).unwrap();
    builder.into_inner().unwrap()
}

fn compress(tar: &[u8], compression: LayerCompression) -> Vec<u8> {
    match compression {
        LayerCompression::None => tar.to_vec(),
        LayerCompression::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(tar).unwrap();
            gzip.finish().unwrap()
        }
        LayerCompression::Zstd => zstd::encode_all(tar, 3).unwrap(),
    }
}

/// A true image of `architecture`: its layers are archives, compressed as their types say.
fn image(
    architecture: &str,
    seed: u64,
    compressions: &[LayerCompression],
    types: Types,
    tags: &[&str],
) -> PushImage {
    let mut made = PushImage::default();
    let (mut diff_ids, mut entries) = (Vec::new(), Vec::new());
    for (seed, compression) in (seed..).zip(compressions) {
        let plain = tar(seed);
        diff_ids.push(Digest::of(&plain).to_string());
        let packed = compress(&plain, *compression);
        let media_type = types.layer(*compression);
        entries.push(descriptor(media_type, Digest::of(&packed), packed.len() as u64));
        made.blobs.push(blob(&packed, media_type));
    }
    let config = json!({ "architecture": architecture, "os": "linux", "config": { "Cmd": ["/x"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    let config = serde_json::to_vec(&config).unwrap();
    let config_entry = descriptor(types.config(), Digest::of(&config), config.len() as u64);
    let manifest = json!({ "schemaVersion": 2, "mediaType": types.manifest(), "config": config_entry, "layers": entries });
    made.blobs.push(blob(&config, types.config()));
    made.documents.push(document(&serde_json::to_vec(&manifest).unwrap(), types.manifest(), tags));
    made
}

/// Every blob of the manifest is in the directory that skopeo wrote (`dir:`), under its digest.
fn assert_copied(directory: &Path, manifest: &Manifest) {
    assert_eq!(std::fs::read(directory.join("manifest.json")).unwrap(), manifest.raw);
    for part in manifest.parsed.layers().iter().chain([manifest.parsed.config()]) {
        let digest = oci::document::digest_of(part).unwrap();
        let bytes = std::fs::read(directory.join(digest.hex())).unwrap();
        assert_eq!(Digest::of(&bytes), digest);
    }
}

async fn manifest(name: &Reference) -> Manifest {
    let (client, _) = client(settings());
    match client.root(name).await.unwrap() {
        Root::Manifest(manifest) => manifest,
        Root::Index(_) => panic!("{name} is an index"),
    }
}

#[tokio::test]
async fn every_compression_and_both_families_of_types_come_back_through_skopeo() {
    let Some(registry) = DockerRegistry::start("") else { return };
    for types in [Types::Oci, Types::Docker] {
        // skopeo takes no Docker image with zstd layers apart: no specification names their type.
        let compressions = match types {
            Types::Oci => &COMPRESSIONS[..],
            Types::Docker => &COMPRESSIONS[..2],
        };
        let pushed = image("amd64", 1, compressions, types, &["1"]);
        let name = registry.reference(&format!("ours/{types:?}").to_lowercase());
        let tagged = Reference { tag: Some("1".to_owned()), ..name.clone() };
        let (ours, _) = client(settings());
        ours.push(&plan_push(&name, &pushed)).await.unwrap();
        let source = format!("docker://{tagged}");
        let copy = tempfile::tempdir().unwrap();
        let target = format!("dir:{}", copy.path().display());
        let flags = ["copy", "-q", "--preserve-digests", "--src-tls-verify=false"];
        if skopeo(&[&flags[..], &[&source, &target]].concat()).is_none() {
            return;
        }
        assert_copied(copy.path(), &manifest(&tagged).await);
        let inspected = skopeo(&["inspect", "--tls-verify=false", "--no-tags", &source]).unwrap();
        assert!(inspected.contains(&pushed.documents[0].digest.to_string()), "{inspected}");

        // And what skopeo pushes is read by us.
        let theirs = registry.reference(&format!("theirs/{types:?}:1").to_lowercase());
        let flags = ["copy", "-q", "--preserve-digests", "--dest-tls-verify=false"];
        skopeo(&[&flags[..], &[&target, &format!("docker://{theirs}")]].concat());
        let platform = Platform::parse("linux/amd64", &Platform::host()).unwrap();
        let found = ours.resolve(&theirs, &platform).await.unwrap();
        assert_eq!(found.manifest.digest, pushed.documents[0].digest);
        for (seed, (layer, compression)) in (1..).zip(found.manifest.parsed.layers().iter().zip(compressions))
        {
            assert_eq!(layer.media_type().as_ref(), types.layer(*compression));
            let expected = compress(&tar(seed), *compression);
            assert_eq!(read_blob(&ours, &theirs, &expected).await.unwrap(), expected);
        }
    }
}

/// An index of three platforms, each with its own layer.
fn three_platforms(tags: &[&str]) -> PushImage {
    let mut whole = PushImage::default();
    let mut entries = Vec::new();
    for (seed, (architecture, variant)) in
        (10..).zip([("amd64", None), ("arm64", Some("v8")), ("arm", Some("v7"))])
    {
        let one = image(architecture, seed, &[LayerCompression::Gzip], Types::Oci, &[]);
        let manifest = &one.documents[0];
        let mut platform = json!({ "os": "linux", "architecture": architecture });
        if let Some(variant) = variant {
            platform["variant"] = variant.into();
        }
        entries.push(json!({ "mediaType": manifest.media_type, "digest": manifest.digest.to_string(),
            "size": manifest.raw.len(), "platform": platform }));
        whole.blobs.extend(one.blobs);
        whole.documents.extend(one.documents);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    whole.documents.push(document(&serde_json::to_vec(&index).unwrap(), OCI_INDEX, tags));
    whole
}

#[tokio::test]
async fn an_index_of_three_platforms_is_whole_for_skopeo_and_so_is_its_copy_for_us() {
    let Some(registry) = DockerRegistry::start("") else { return };
    let whole = three_platforms(&["1"]);
    let (ours, theirs) = (registry.reference("ours/multi:1"), registry.reference("theirs/multi:1"));
    let (client, _) = client(settings());
    client.push(&plan_push(&ours, &whole)).await.unwrap();
    let flags =
        ["copy", "-q", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"];
    let names = [format!("docker://{ours}"), format!("docker://{theirs}")];
    if skopeo(&[&flags[..], &[&names[0], &names[1]]].concat()).is_none() {
        return;
    }
    assert_eq!(client.digest(&theirs).await.unwrap(), Some(whole.documents[3].digest));
    for (number, wanted) in ["linux/amd64", "linux/arm64", "linux/arm/v7"].into_iter().enumerate() {
        let platform = Platform::parse(wanted, &Platform::host()).unwrap();
        let found = client.resolve(&theirs, &platform).await.unwrap();
        assert_eq!(found.manifest.digest, whole.documents[number].digest, "{wanted}");
        let expected = compress(&tar(10 + number as u64), LayerCompression::Gzip);
        assert_eq!(read_blob(&client, &theirs, &expected).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_registry_that_mirrors_by_pulling_through_serves_images_it_never_saw() {
    let Some(origin) = DockerRegistry::start("") else { return };
    let through = format!("proxy: {{remoteurl: \"http://127.0.0.1:{}\"}}", origin.port);
    let Some(mirror) = DockerRegistry::start(&through) else { return };
    let pushed = image("amd64", 30, &[LayerCompression::Gzip, LayerCompression::Zstd], Types::Oci, &["1"]);
    let (plain, _) = client(settings());
    plain.push(&plan_push(&origin.reference("library/thing"), &pushed)).await.unwrap();

    // The registry itself is not there: all that is read came through the mirror.
    let registry = format!("127.0.0.1:{}", free_port());
    let mut mirrored = settings();
    let own = mirrored.registries.entry(registry.clone()).or_default();
    own.mirrors = vec![format!("127.0.0.1:{}", mirror.port)];
    own.transport = Transport::Http;
    let (client, events) = client(mirrored);
    let name: Reference = format!("{registry}/library/thing:1").parse().unwrap();
    let platform = Platform::parse("linux/amd64", &Platform::host()).unwrap();
    let found = client.resolve(&name, &platform).await.unwrap();
    assert_eq!(found.manifest.raw, pushed.documents[0].raw);
    for (seed, compression) in [(30, LayerCompression::Gzip), (31, LayerCompression::Zstd)] {
        let expected = compress(&tar(seed), compression);
        assert_eq!(read_blob(&client, &name, &expected).await.unwrap(), expected);
    }
    assert!(!events.lock().unwrap().iter().any(|event| matches!(event, Event::MirrorFailed { .. })));
    let second = read_blob(&client, &name, &compress(&tar(30), LayerCompression::Gzip)).await.unwrap();
    assert_eq!(second, compress(&tar(30), LayerCompression::Gzip));
    // What no mirror has is asked of the registry, which tells the truth about itself.
    let absent: Reference = format!("{registry}/library/absent:1").parse().unwrap();
    let error = client.root(&absent).await.unwrap_err();
    assert!(error.to_string().contains("connection refused"), "{error}");
}
