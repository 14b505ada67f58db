//! Bases whose layers, config and manifest are addressed by sha512: from layouts and registries, built upon, written
//! out and pushed.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use oci::compress::Decoder;
use oci::digest::Algorithm;
use oci::document::{Config, Descriptor, Manifest, Root};
use oci::{DiffId, Digest, Layout, media_type};

use crate::harness::{Registry, Run, Scratch};
use crate::server::{Reply, Server};

const DOCKERFILE: &str =
    "FROM base\nRUN id -u > /who && cat /etc/group > /groups\nCOPY Dockerfile /d/\nWORKDIR /d\n";

/// An image in a layout of its own that knows no sha256.
struct Image {
    path: PathBuf,
    layout: Layout,
    manifest: Manifest,
}

/// Which byte of the image is spoilt after it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoilt {
    Nothing,
    Layer,
    Config,
    /// The config names other content than the layer's.
    DiffId,
}

/// The image `busybox` of the scratch store with every digest replaced.
fn image(scratch: &Scratch, spoilt: Spoilt) -> Image {
    let from = Layout::open(&scratch.layout()).unwrap();
    let found = from.resolve("busybox").unwrap().unwrap();
    let Root::Manifest(old) = from.read_root(&found).unwrap() else { panic!("busybox is one image") };
    let path = scratch.path().join(format!("layout-{spoilt:?}"));
    let layout = Layout::create(&path).unwrap();
    let put = |media_type: &str, bytes: &[u8]| {
        let mut writer = layout.writer_by(Algorithm::Sha512).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap().descriptor(media_type)
    };
    let config = from.read_verified(old.parsed.config(), 1 << 22).unwrap();
    let mut config = Config::parse(config, &old.parsed).unwrap().parsed;
    let mut layers = Vec::new();
    for (layer, diff_id) in old.parsed.layers().iter().zip(&mut config.rootfs.diff_ids) {
        let blob = from.read_verified(layer, 1 << 26).unwrap();
        let mut tar = Vec::new();
        Decoder::new(&blob[..]).unwrap().0.read_to_end(&mut tar).unwrap();
        let seen: &[u8] = if spoilt == Spoilt::DiffId { b"other" } else { &tar };
        *diff_id = DiffId(Algorithm::Sha512.digest(seen));
        layers.push(put(layer.media_type().as_ref(), &blob));
    }
    let config = put(media_type::OCI_CONFIG, &serde_json::to_vec(&config).unwrap());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": layers,
    });
    let manifest = Manifest::parse(manifest.to_string().into(), None).unwrap();
    let manifest = manifest.digested_by(Algorithm::Sha512);
    layout.put_document(&manifest).unwrap();
    layout.tag(&"base:1".parse().unwrap(), &manifest.descriptor(media_type::OCI_MANIFEST)).unwrap();
    match spoilt {
        Spoilt::Nothing | Spoilt::DiffId => {}
        Spoilt::Layer => spoil(&layout, &layers[0]),
        Spoilt::Config => spoil(&layout, manifest.parsed.config()),
    }
    Image { path, layout, manifest }
}

fn spoil(layout: &Layout, descriptor: &Descriptor) {
    let path = layout.blob_path(&digest_of(descriptor));
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn digest_of(descriptor: &Descriptor) -> Digest {
    oci::document::digest_of(descriptor).unwrap()
}

fn is_sha512(descriptor: &Descriptor) -> bool {
    digest_of(descriptor).algorithm() == Algorithm::Sha512
}

/// The layers of an image, lowest first.
fn layers(layout: &Layout, name: &str) -> Vec<Descriptor> {
    let found = layout.resolve(name).unwrap().unwrap();
    let Root::Manifest(manifest) = layout.read_root(&found).unwrap() else { panic!("one image") };
    manifest.parsed.layers().clone()
}

/// Runs what was built on the image and looks at what it made.
fn check_built(scratch: &Scratch) {
    let run = scratch.xbuild(&["run", "child", "sh", "-c", "cat /who /groups; pwd; ls"]).ok();
    assert!(run.stdout.starts_with("0\nroot:x:0:\n"), "{run:?}");
    assert!(run.stdout.ends_with("/d\nDockerfile\n"), "{run:?}");
    let layers = layers(&Layout::open(&scratch.layout()).unwrap(), "child");
    let expected: Vec<bool> = layers.iter().enumerate().map(|(position, _)| position == 0).collect();
    assert_eq!(layers.iter().map(is_sha512).collect::<Vec<_>>(), expected, "the base's keep their digests");
}

fn blobs(directory: &Path) -> usize {
    std::fs::read_dir(directory.join("blobs/sha512")).map_or(0, Iterator::count)
}

#[test]
fn img_04_a_layout_by_sha512_is_a_base() {
    let made = Scratch::new().with_busybox();
    let image = image(&made, Spoilt::Nothing);
    let at = image.path.display();
    for place in [format!("{at}:1"), format!("{at}@{}", image.manifest.digest), at.to_string()] {
        let scratch = Scratch::new();
        let context = scratch.context("c", &[("Dockerfile", DOCKERFILE)]);
        let flag = format!("base=oci-layout://{place}");
        let build = ["--build-context", &flag, "-t", "child"];
        scratch.build(&context, &build).ok();
        check_built(&scratch);
        let again = scratch.build(&context, &build).ok();
        assert!(again.cached() >= 3, "{}", again.stderr);
        assert_eq!(blobs(&scratch.layout()), 3, "layer, config and manifest, once");
    }
}

#[test]
fn img_04_what_is_built_on_it_is_written_out_in_every_form() {
    let scratch = Scratch::new().with_busybox();
    let image = image(&scratch, Spoilt::Nothing);
    let context = scratch.context("c", &[("Dockerfile", DOCKERFILE)]);
    let flag = format!("base=oci-layout://{}", image.path.display());
    let out = |name: &str| scratch.path().join(name).display().to_string();
    let output = |kind: &str| {
        let dest = format!("type={kind},dest={}", out(&format!("{kind}.out")));
        scratch.build(&context, &["--build-context", &flag, "-t", "child", "-o", &dest]).ok()
    };
    for kind in ["oci", "docker"] {
        output(kind);
        let unpacked = scratch.path().join(format!("{kind}.dir"));
        std::fs::create_dir(&unpacked).unwrap();
        let archive = out(&format!("{kind}.out"));
        crate::harness::tool("tar", &["-xf", &archive, "-C", unpacked.to_str().unwrap()]);
        let written = Layout::open(&unpacked).unwrap();
        for layer in layers(&written, "child") {
            written.read_verified(&layer, 1 << 26).unwrap();
        }
        assert_eq!(blobs(&unpacked), 1, "the base's layer");
    }
    output("local");
    assert_eq!(std::fs::read_to_string(Path::new(&out("local.out")).join("who")).unwrap(), "0\n");
}

#[test]
fn img_01_a_spoilt_layout_by_sha512_is_refused_and_leaves_nothing() {
    let made = Scratch::new().with_busybox();
    for spoilt in [Spoilt::Layer, Spoilt::Config, Spoilt::DiffId] {
        let image = image(&made, spoilt);
        let scratch = Scratch::new();
        let context = scratch.context("c", &[("Dockerfile", DOCKERFILE)]);
        let flag = format!("base=oci-layout://{}", image.path.display());
        let run = scratch.build(&context, &["--build-context", &flag, "-t", "child"]);
        check_refused(&run, 4, "sha512:");
        if spoilt == Spoilt::DiffId {
            // The step that reads it first is not to blame.
            check_refused(&run, 4, "error: FROM ");
            check_refused(&run, 4, " — Dockerfile:1 — layer sha512:");
            assert!(run.stderr.contains(">>> FROM base"), "{}", run.stderr);
        }
        let kept = Layout::open(&scratch.layout()).unwrap();
        for (digest, _) in kept.blobs_in_store().unwrap() {
            let bytes = std::fs::read(kept.blob_path(&digest)).unwrap();
            assert!(digest.is_of(&bytes), "{spoilt:?}: {digest}");
        }
        assert_eq!(std::fs::read_dir(kept.root().join("blobs")).unwrap().filter(is_temporary).count(), 0);
        for leftover in ["layers/root", "index"] {
            let names = std::fs::read_dir(scratch.store().join(leftover)).map_or(0, Iterator::count);
            assert_eq!(names, 0, "{spoilt:?}: {leftover}");
        }
    }
}

#[track_caller]
fn check_refused(run: &Run, code: i32, fragment: &str) {
    let line = run.stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    assert!(run.code == code && line.contains(fragment), "{run:?}");
}

#[test]
fn img_04_digests_that_are_none_are_refused_when_they_are_read() {
    let scratch = Scratch::new();
    for digest in [
        format!("sha512:{}", "a".repeat(127)),
        format!("sha512:{}", "a".repeat(64)),
        format!("sha512:{}", "A".repeat(128)),
        format!("sha384:{}", "a".repeat(96)),
        format!("md5:{}", "a".repeat(32)),
    ] {
        let file = format!("FROM 127.0.0.1:1/x@{digest}\n");
        let context = scratch.context("c", &[("Dockerfile", &file)]);
        check_refused(&scratch.build(&context, &[]), 3, "digest");
    }
}

#[test]
fn img_04_a_registry_takes_and_gives_blobs_by_sha512() {
    let Some(registry) = Registry::start() else { return };
    let scratch = Scratch::new().with_busybox();
    let image = image(&scratch, Spoilt::Nothing);
    let name = format!("{}/team/app:1", registry.host);
    let context = scratch.context("c", &[("Dockerfile", DOCKERFILE)]);
    let flag = format!("base=oci-layout://{}", image.path.display());
    scratch.digest(&context, &["--build-context", &flag, "-t", &name, "--push"]);
    let fresh = Scratch::new();
    let child = fresh.context("d", &[("Dockerfile", &format!("FROM {name}\nRUN cat /who /groups > /all\n"))]);
    fresh.build(&child, &["-t", "child"]).ok();
    let run = fresh.xbuild(&["run", "child", "cat", "/all"]).ok();
    assert!(run.stdout.starts_with("0\nroot:x:0:\n"), "{run:?}");
    let found = layers(&Layout::open(&fresh.layout()).unwrap(), "child");
    assert!(is_sha512(&found[0]) && !is_sha512(&found[1]));
}

#[test]
fn img_04_from_a_registry_by_a_sha512_digest() {
    let made = Scratch::new().with_busybox();
    let image = image(&made, Spoilt::Nothing);
    let server = serving(&image);
    let name = format!("{}/team/base@{}", server.host, image.manifest.digest);
    let scratch = Scratch::new();
    let dockerfile = DOCKERFILE.replace("FROM base", &format!("FROM {name}"));
    let context = scratch.context("c", &[("Dockerfile", &dockerfile)]);
    scratch.build(&context, &["-t", "child"]).ok();
    check_built(&scratch);
    assert_eq!(blobs(&scratch.layout()), 3);
    scratch.xbuild(&["pull", &name]).ok();
    let listed = scratch.xbuild(&["images", "--json"]).ok().stdout;
    assert!(listed.contains(&image.manifest.digest.to_string()), "{listed}");
    // It is found by the beginning of its digest, of its own algorithm only.
    let hex = image.manifest.digest.hex();
    for known in [format!("sha512:{}", &hex[..12]), hex[..12].to_owned(), image.manifest.digest.to_string()] {
        scratch.xbuild(&["inspect", &known]).ok();
    }
    assert_ne!(scratch.xbuild(&["inspect", &format!("sha256:{}", &hex[..12])]).code, 0);
    // A registry that knows manifests by sha256 only gets it under its tag, and says what it is called there.
    let Some(registry) = Registry::start() else { return };
    let target = format!("{}/team/copy:1", registry.host);
    let pushed = scratch.xbuild(&["push", &image.manifest.digest.to_string(), &target]).ok();
    assert_eq!(pushed.digest(), Digest::of(&image.manifest.raw).to_string());
    assert!(pushed.stderr.contains("by sha512"), "{}", pushed.stderr);
    let fresh = Scratch::new();
    fresh.xbuild(&["pull", &target]).ok();
    assert_eq!(blobs(&fresh.layout()), 2, "layer and config");
}

#[test]
fn img_04_copies_between_places_keep_sha512() {
    let made = Scratch::new().with_busybox();
    let image = image(&made, Spoilt::Nothing);
    let server = serving(&image);
    let scratch = Scratch::new();
    let at = |name: &str| scratch.path().join(name);
    let copy = |from: &str, to: &str| scratch.xbuild(&["copy", from, to]).ok();
    let remote = format!("docker://{}/team/base@{}", server.host, image.manifest.digest);
    copy(&remote, &format!("oci-layout://{}:1", at("one").display()));
    copy(
        &format!("oci-layout://{}:1", at("one").display()),
        &format!("oci-archive:{}:1", at("two").display()),
    );
    copy(&format!("oci-archive:{}:1", at("two").display()), "copied");
    copy("copied", &format!("oci-layout://{}:1", at("three").display()));
    for place in [at("one"), scratch.layout(), at("three")] {
        let layout = Layout::open(&place).unwrap();
        let digests = layout.names().unwrap().into_iter().map(|named| named.descriptor.digest().to_string());
        assert_eq!(digests.collect::<Vec<_>>(), [image.manifest.digest.to_string()], "{place:?}");
        assert_eq!(blobs(&place), 3);
    }
    // What Docker's form has no room for is named anew; the content is the same.
    copy("copied", &format!("docker-archive:{}:copied:1", at("four").display()));
    let other = Scratch::new();
    other.xbuild(&["load", "-i", at("four").to_str().unwrap()]).ok();
    let run = other.xbuild(&["run", "copied:1", "sh", "-c", "echo works"]).ok();
    assert_eq!(run.stdout, "works\n");
    // From a registry to another: blobs keep their digests, the manifest is what the tag stands for.
    let Some(registry) = Registry::start() else { return };
    let target = format!("docker://{}/team/copy:1", registry.host);
    copy(&remote, &target);
    copy(&target, &format!("oci-layout://{}:1", at("five").display()));
    assert_eq!(blobs(&at("five")), 2, "layer and config");
}

#[test]
fn img_01_a_registry_that_serves_other_bytes_is_refused() {
    let made = Scratch::new().with_busybox();
    for spoilt in [Spoilt::Layer, Spoilt::Config] {
        let image = image(&made, spoilt);
        let server = serving(&image);
        let scratch = Scratch::new();
        let name = format!("{}/team/base@{}", server.host, image.manifest.digest);
        let context = scratch.context("c", &[("Dockerfile", &format!("FROM {name}\nRUN true\n"))]);
        check_refused(&scratch.build(&context, &[]), 4, "sha512:");
        let layer = scratch.layout().join("blobs").join(digest_of(&image.manifest.parsed.layers()[0]).path());
        assert!(!layer.exists(), "{spoilt:?}");
        assert_eq!(
            std::fs::read_dir(scratch.layout().join("blobs")).unwrap().filter(is_temporary).count(),
            0
        );
    }
}

fn is_temporary(entry: &std::io::Result<std::fs::DirEntry>) -> bool {
    entry.as_ref().is_ok_and(|entry| entry.file_name().as_encoded_bytes().starts_with(b".tmp-"))
}

/// A registry that serves one layout's blobs under their digests and nothing else.
fn serving(image: &Image) -> Server {
    let blobs = image
        .layout
        .blobs_in_store()
        .unwrap()
        .into_iter()
        .map(|(digest, _)| (digest.to_string(), std::fs::read(image.layout.blob_path(&digest)).unwrap()));
    let blobs: BTreeMap<String, Vec<u8>> = blobs.collect();
    Server::start(move |request| {
        let digest = request.target.rsplit('/').next().unwrap_or_default().replace("%3A", ":");
        let kind = match request.target.contains("/manifests/") {
            true => media_type::OCI_MANIFEST,
            false => "application/octet-stream",
        };
        let reply = match blobs.get(&digest) {
            _ if request.target == "/v2/" => Reply::new(200, ""),
            Some(bytes) => Reply::new(200, &bytes[..]),
            None => Reply::new(404, ""),
        };
        reply.header("Content-Type", kind)
    })
}
