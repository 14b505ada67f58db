//! Copies between all places that an image can be in, with skopeo and umoci as the judges of what comes out.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Registry, Scratch, have, tool};
use crate::proxy::Proxy;

/// A place for images in a scratch directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Store,
    Registry,
    Layout,
    OciArchive,
    DockerArchive,
}

pub const KINDS: [Kind; 5] =
    [Kind::Store, Kind::Registry, Kind::Layout, Kind::OciArchive, Kind::DockerArchive];

/// One place, in our words and in skopeo's.
pub struct Place {
    pub ours: String,
    pub skopeo: String,
}

pub fn place(kind: Kind, scratch: &Scratch, host: &str, name: &str) -> Place {
    let path = |ending: &str| scratch.path().join(format!("{name}{ending}")).display().to_string();
    let (ours, skopeo) = match kind {
        Kind::Store => {
            let layout = scratch.layout().display().to_string();
            (format!("{name}:1"), format!("oci:{layout}:docker.io/library/{name}:1"))
        }
        Kind::Registry => (format!("docker://{host}/{name}:1"), format!("docker://{host}/{name}:1")),
        Kind::Layout => (format!("oci-layout://{}:1", path("")), format!("oci:{}:1", path(""))),
        Kind::OciArchive => {
            (format!("oci-archive:{}:1", path(".oci")), format!("oci-archive:{}:1", path(".oci")))
        }
        Kind::DockerArchive => {
            let both = format!("docker-archive:{}:{name}:1", path(".docker"));
            (both.clone(), both)
        }
    };
    Place { ours, skopeo }
}

pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What skopeo reads of an image as it is.
fn raw(image: &str, flags: &[&str]) -> String {
    let insecure = if image.starts_with("docker://") { vec!["--tls-verify=false"] } else { Vec::new() };
    tool("skopeo", &[&["inspect", "--raw"], &insecure[..], flags, &[image]].concat())
}

fn sha256(text: &str) -> String {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    format!("sha256:{}", &String::from_utf8_lossy(&output.stdout)[..64])
}

/// An image of two layers, `app:1` in the store; returns its digest.
pub fn app(scratch: &Scratch) -> String {
    let text = "FROM scratch\nCOPY f /dir/\nCOPY g /\nENV A=1\nCMD [\"/f\"]\n";
    let context = scratch.context("app", &[("Dockerfile", text), ("f", "file\n"), ("g", "other\n")]);
    scratch.digest(&context, &["-t", "app:1"])
}

/// An index of three platforms, `multi:1` in the store; returns its digest.
pub fn multi(scratch: &Scratch) -> String {
    let context = scratch.context("multi", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "file\n")]);
    let platforms = "linux/amd64,linux/arm64,linux/arm/v7";
    scratch.digest(&context, &["-t", "multi:1", "--platform", platforms])
}

#[test]
fn every_place_is_copied_to_every_place_with_its_digest() {
    let (true, Some(registry)) = (have(&["skopeo"]), Registry::start()) else { return };
    let scratch = Scratch::new();
    let digest = app(&scratch);
    let config =
        json(&scratch.xbuild(&["inspect", "app:1"]).ok().stdout)["manifest"]["config"]["digest"].clone();
    for from in KINDS {
        let source = place(from, &scratch, &registry.host, "from");
        assert_eq!(scratch.xbuild(&["copy", "app:1", &source.ours]).ok().digest(), digest, "{from:?}");
        for to in KINDS {
            let target = place(to, &scratch, &registry.host, &format!("{from:?}-{to:?}").to_lowercase());
            let copied = scratch.xbuild(&["copy", &source.ours, &target.ours]).ok();
            assert_eq!(copied.digest(), digest, "{from:?} {to:?}");
            let inspected = json(&scratch.xbuild(&["inspect", &target.ours]).ok().stdout);
            assert_eq!(inspected["digest"], digest.as_str(), "{from:?} {to:?}");
            assert_eq!(
                sha256(&raw(&target.skopeo, &["--config"])),
                config.as_str().unwrap(),
                "{from:?} {to:?}"
            );
            // Docker's archives have no manifest for skopeo, which makes one.
            if to != Kind::DockerArchive {
                assert_eq!(sha256(&raw(&target.skopeo, &[])), digest, "{from:?} {to:?}");
            }
            let copy = scratch.path().join("judge");
            let copy = format!("dir:{}", copy.display());
            tool("skopeo", &["copy", "-q", "--src-tls-verify=false", &target.skopeo, &copy]);
        }
    }
}

#[test]
fn an_index_goes_whole_wherever_it_fits() {
    let (true, Some(registry)) = (have(&["skopeo"]), Registry::start()) else { return };
    let scratch = Scratch::new();
    let digest = multi(&scratch);
    let whole = [Kind::Store, Kind::Registry, Kind::Layout, Kind::OciArchive];
    for from in whole {
        let source = place(from, &scratch, &registry.host, "from");
        scratch.xbuild(&["copy", "multi:1", &source.ours]).ok();
        for to in whole {
            let target = place(to, &scratch, &registry.host, &format!("{from:?}-{to:?}").to_lowercase());
            assert_eq!(scratch.xbuild(&["copy", &source.ours, &target.ours]).ok().digest(), digest);
            assert_eq!(sha256(&raw(&target.skopeo, &[])), digest, "{from:?} {to:?}");
            let copy = format!("dir:{}", scratch.path().join("judge").display());
            let all = ["copy", "-q", "--all", "--src-tls-verify=false", &target.skopeo, &copy];
            tool("skopeo", &all);
        }
        let one = place(Kind::Layout, &scratch, "", &format!("{from:?}-one").to_lowercase());
        let platform = ["copy", "--platform", "linux/arm64", &source.ours, &one.ours];
        let copied = scratch.xbuild(&platform).ok().digest();
        let index = json(&raw(&source.skopeo, &[]));
        assert_eq!(index["manifests"][1]["digest"], copied.as_str());
        assert_eq!(json(&raw(&one.skopeo, &["--config"]))["architecture"], "arm64");
        let absent = ["copy", "--platform", "linux/s390x", &source.ours, &one.ours];
        scratch.xbuild(&absent).fails(4, &["linux/s390x", "linux/arm64"]);
        let docker = place(Kind::DockerArchive, &scratch, "", &format!("{from:?}-docker").to_lowercase());
        let note = scratch.xbuild(&["copy", &source.ours, &docker.ours]).ok().stderr;
        assert!(note.contains("holds one platform") && note.contains("--platform"), "{note}");
        assert_eq!(json(&raw(&docker.skopeo, &["--config"]))["architecture"], "amd64");
    }
    let single = ["copy", "--platform", "linux/arm64", "app:1", "other:1"];
    app(&scratch);
    scratch.xbuild(&single).fails(4, &["linux/arm64", "linux/amd64"]);
}

#[test]
fn between_registries_nothing_touches_the_store() {
    let (Some(one), Some(two)) = (Registry::start(), Registry::start()) else { return };
    let builder = Scratch::new();
    multi(&builder);
    let names = [
        format!("docker://{}/a/x:1", one.host),
        format!("docker://{}/b/y:2", one.host),
        format!("docker://{}/c/z:3", two.host),
    ];
    let digest = builder.xbuild(&["copy", "multi:1", &names[0]]).ok().digest();
    let scratch = Scratch::new();
    for pair in names.windows(2) {
        assert_eq!(scratch.xbuild(&["copy", &pair[0], &pair[1]]).ok().digest(), digest);
    }
    assert!(!scratch.store().exists(), "a store was made");
    let fresh = Scratch::new();
    assert_eq!(fresh.xbuild(&["copy", &names[2], "got"]).ok().digest(), digest);
    assert_eq!(fresh.xbuild(&["save", "got", "-o", "type=oci,dest=-"]).ok().code, 0);
    let pulled = fresh.xbuild(&["pull", "--platform", "all", "-t", "all:1", &names[2]]).ok();
    assert_eq!(pulled.digest(), digest);
    let one = fresh.xbuild(&["pull", &names[2]]).ok().digest();
    assert_ne!(one, digest, "one platform is what pull is about");
}

#[test]
fn types_and_compressions_of_others_survive_a_round_trip() {
    let (true, Some(one), Some(two)) = (have(&["skopeo"]), Registry::start(), Registry::start()) else {
        return;
    };
    let scratch = Scratch::new().with_busybox();
    let context = scratch.context("c", &[("Dockerfile", "FROM busybox\nCOPY f /f\n"), ("f", "file\n")]);
    scratch.digest(&context, &["-t", "image:1"]);
    let path = |name: &str| scratch.path().join(name).display().to_string();
    let ours = format!("oci:{}:docker.io/library/image:1", scratch.layout().display());
    let plain = format!("dir:{}", path("plain"));
    let copy = |arguments: &[&str]| {
        tool("skopeo", &[&["copy", "-q", "--dest-tls-verify=false"], arguments].concat())
    };
    copy(&["--dest-decompress", &ours, &plain]);
    let registry = |name: &str| format!("docker://{}/{name}:1", one.host);
    copy(&["--format", "v2s2", &ours, &registry("docker")]);
    // The first registry has the same layers as gzip by then, which skopeo would take instead.
    let elsewhere = format!("docker://{}/made:1", two.host);
    copy(&["--dest-compress-format", "zstd", &plain, &elsewhere]);
    copy(&["--preserve-digests", "--src-tls-verify=false", &elsewhere, &registry("zstd")]);
    copy(&["--preserve-digests", &plain, &registry("plain")]);
    let expected = [
        ("docker", "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        ("zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
        ("plain", "application/vnd.oci.image.layer.v1.tar"),
    ];
    for (name, layer) in expected {
        let manifest = raw(&registry(name), &[]);
        assert_eq!(json(&manifest)["layers"][1]["mediaType"], layer);
        let places = [
            registry(name),
            format!("oci-layout://{}:1", path(name)),
            format!("oci-archive:{}:1", path(&format!("{name}.tar"))),
            format!("docker-archive:{}:{name}:1", path(&format!("{name}.docker"))),
            format!("docker://{}/{name}:1", two.host),
            format!("{name}:1"),
        ];
        // Uncompressed layers are packed on their way out of a Docker archive.
        let places: Vec<_> =
            places.iter().filter(|place| name != "plain" || !place.starts_with("docker-a")).collect();
        for pair in places.windows(2) {
            let copied = scratch.xbuild(&["copy", pair[0], pair[1]]).ok().digest();
            assert_eq!(copied, sha256(&manifest), "{pair:?}");
        }
        assert_eq!(raw(&format!("docker://{}/{name}:1", two.host), &[]), manifest);
        assert_eq!(scratch.xbuild(&["run", &format!("{name}:1"), "cat", "/f"]).ok().stdout, "file\n");
    }
}

#[test]
fn attestations_and_artifacts_are_copied_as_they_are() {
    let Some(registry) = Registry::start() else { return };
    let scratch = Scratch::new();
    app(&scratch);
    let layout = scratch.path().join("l");
    scratch.xbuild(&["copy", "app:1", &format!("oci-layout://{}", layout.display())]).ok();
    let put = |text: &str| {
        let digest = sha256(text);
        std::fs::write(layout.join("blobs").join(digest.replace(':', "/")), text).unwrap();
        (digest, text.len())
    };
    let manifest = |config: &str, layer: &str| {
        let (empty, body) = (put("{}"), put("a statement"));
        let value = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": config, "digest": empty.0, "size": empty.1 },
            "layers": [{ "mediaType": layer, "digest": body.0, "size": body.1 }],
        });
        put(&value.to_string())
    };
    let chart = manifest(
        "application/vnd.cncf.helm.config.v1+json",
        "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
    );
    let attestation = manifest("application/vnd.oci.image.config.v1+json", "application/vnd.in-toto+json");
    let image = json(&std::fs::read_to_string(layout.join("index.json")).unwrap())["manifests"][0].clone();
    let entry = |(digest, size): (String, usize)| serde_json::json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size });
    let mut attestation = entry(attestation);
    attestation["platform"] = serde_json::json!({ "os": "unknown", "architecture": "unknown" });
    attestation["annotations"] = serde_json::json!({
        "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image["digest"],
    });
    let mut labelled = image.clone();
    labelled["platform"] = serde_json::json!({ "os": "linux", "architecture": "amd64" });
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [labelled, attestation],
    });
    let index = put(&index.to_string());
    let whole = |digest: &str| {
        let source = format!("oci-layout://{}@{digest}", layout.display());
        let steps = [
            source,
            format!("docker://{}/x/y:1", registry.host),
            format!("oci-archive:{}:1", scratch.path().join("a.tar").display()),
            "got:1".to_owned(),
        ];
        for pair in steps.windows(2) {
            assert_eq!(scratch.xbuild(&["copy", &pair[0], &pair[1]]).ok().digest(), digest, "{pair:?}");
        }
        json(&scratch.xbuild(&["inspect", "got:1"]).ok().stdout)
    };
    let value = whole(&index.0);
    assert_eq!(value["platforms"].as_array().unwrap().len(), 1, "{value}");
    assert_eq!(value["config"]["architecture"], "amd64");
    let value = whole(&chart.0);
    assert!(value["config"].is_null() && value["manifest"].is_object(), "{value}");
    let chart = format!("{}/x/y:1", registry.host);
    scratch.xbuild(&["pull", &chart]).fails(4, &["not a container image", "helm"]);
    scratch.xbuild(&["copy", "got:1", "docker-archive:x.tar"]).fails(4, &["not a container image"]);
    // By digest alone: the registry gets no tag.
    let by_digest = format!("docker://{}/by/digest@{}", registry.host, index.0);
    let source = format!("oci-layout://{}@{}", layout.display(), index.0);
    scratch.xbuild(&["copy", &source, &by_digest]).ok();
    assert_eq!(json(&scratch.xbuild(&["inspect", &by_digest]).ok().stdout)["digest"], index.0.as_str());
    scratch.xbuild(&["inspect", &format!("docker://{}/by/digest", registry.host)]).fails(4, &["by/digest"]);
}

#[test]
fn within_a_registry_blobs_are_linked_and_never_travel() {
    let Some(registry) = Registry::start() else { return };
    let builder = Scratch::new();
    app(&builder);
    builder.xbuild(&["push", "app:1", &format!("{}/base/app:1", registry.host)]).ok();
    let proxy = Proxy::start(&registry.host);
    let scratch = Scratch::new();
    // A name that the store has not is asked for in its registry.
    let from = format!("{}/base/app:1", proxy.host);
    scratch.xbuild(&["copy", &from, &format!("docker://{}/other/app:2", proxy.host)]).ok();
    let log = proxy.log();
    assert!(log.iter().any(|exchange| exchange.target.contains("mount=")), "{log:?}");
    let moved = log.iter().filter(|exchange| exchange.is_blob());
    let moved: Vec<_> = moved
        .filter(|exchange| exchange.sent > 0 || (exchange.method == "GET" && exchange.answered > 0))
        .collect();
    assert!(moved.is_empty(), "{moved:?}");
    assert!(log.last().unwrap().is_manifest(), "{log:?}");
}

#[test]
fn layers_that_the_store_never_had_are_fetched_into_the_copy() {
    let Some(registry) = Registry::start() else { return };
    let builder = Scratch::new().with_busybox();
    let base = format!("{}/team/base:1", registry.host);
    builder.xbuild(&["push", "busybox", &base]).ok();
    let scratch = Scratch::new();
    let context = scratch
        .context("c", &[("Dockerfile", &format!("FROM {base}\nLABEL a=b\nCOPY --link f /f\n")), ("f", "x")]);
    let digest = scratch.digest(&context, &["-t", &format!("{}/team/child:1", registry.host), "--push"]);
    let name = format!("{}/team/child:1", registry.host);
    let largest = || {
        let blobs = std::fs::read_dir(scratch.layout().join("blobs/sha256")).unwrap();
        blobs.map(|blob| blob.unwrap().metadata().unwrap().len()).max().unwrap_or(0)
    };
    for kind in [Kind::Layout, Kind::OciArchive, Kind::DockerArchive, Kind::Registry] {
        let target = place(kind, &scratch, &registry.host, &format!("{kind:?}").to_lowercase());
        assert_eq!(scratch.xbuild(&["copy", &name, &target.ours]).ok().digest(), digest, "{kind:?}");
        assert!(largest() < 100_000, "the base came into the store: {kind:?}");
        let fresh = Scratch::new();
        assert_eq!(fresh.xbuild(&["run", &target.ours, "cat", "/f"]).ok().stdout, "x", "{kind:?}");
    }
}

/// What skopeo makes of an image: layers of a Docker archive are uncompressed there.
fn foreign(scratch: &Scratch) -> PathBuf {
    app(scratch);
    let archive = scratch.path().join("foreign.tar");
    let layout = format!("oci:{}:docker.io/library/app:1", scratch.layout().display());
    tool("skopeo", &["copy", "-q", &layout, &format!("docker-archive:{}:team/app:2", archive.display())]);
    archive
}

#[test]
fn a_docker_archive_becomes_the_same_image_every_time() {
    let (true, Some(registry)) = (have(&["skopeo", "umoci"]), Registry::start()) else { return };
    let scratch = Scratch::new();
    let archive = format!("docker-archive:{}", foreign(&scratch).display());
    let config = sha256(&raw(&archive, &["--config"]));
    let mut digests = Vec::new();
    for kind in KINDS {
        let target = place(kind, &scratch, &registry.host, &format!("{kind:?}").to_lowercase());
        let run = scratch.xbuild(&["copy", &archive, &target.ours]).ok();
        assert_eq!(sha256(&raw(&target.skopeo, &["--config"])), config, "{kind:?}");
        if kind != Kind::DockerArchive {
            assert!(run.stderr.contains("2 layers") && run.stderr.contains("gzip"), "{run:?}");
            let manifest = json(&raw(&target.skopeo, &[]));
            assert_eq!(manifest["layers"][1]["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
            digests.push(run.digest());
        }
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "{digests:?}");
    let bundle = scratch.path().join("bundle");
    let image = format!("{}:1", scratch.path().join("layout").display());
    let flags: &[&str] = if is_root() { &[] } else { &["--rootless"] };
    tool("umoci", &[&["unpack"], flags, &["--image", &image, bundle.to_str().unwrap()]].concat());
    assert_eq!(std::fs::read_to_string(bundle.join("rootfs/dir/f")).unwrap(), "file\n");
}

fn is_root() -> bool {
    tool("id", &["-u"]).trim() == "0"
}

#[test]
fn what_skopeo_writes_is_read() {
    if !have(&["skopeo"]) {
        return;
    }
    let scratch = Scratch::new();
    let digest = app(&scratch);
    let from = format!("oci:{}:docker.io/library/app:1", scratch.layout().display());
    let path = |name: &str| scratch.path().join(name).display().to_string();
    for (ours, theirs) in [("oci-layout://", "oci:"), ("oci-archive:", "oci-archive:")] {
        let name = format!("{}:some-tag", path(theirs.trim_end_matches(':')));
        tool("skopeo", &["copy", "-q", &from, &format!("{theirs}{name}")]);
        assert_eq!(scratch.xbuild(&["copy", &format!("{ours}{name}"), "got"]).ok().digest(), digest);
        let (unknown, _) = name.rsplit_once(':').unwrap();
        let unknown = format!("{ours}{unknown}:none");
        scratch.xbuild(&["copy", &unknown, "got"]).fails(4, &["none", "some-tag"]);
    }
}

#[test]
fn names_and_digests_choose_from_a_layout() {
    let scratch = Scratch::new();
    let (app, multi) = (app(&scratch), multi(&scratch));
    let layout = scratch.path().join("l").display().to_string();
    for (image, tag) in [("app:1", "one"), ("multi:1", "two"), ("app:1", "h:5000/team/three:3")] {
        scratch.xbuild(&["copy", image, &format!("oci-layout://{layout}:{tag}")]).ok();
    }
    let check = |suffix: &str, expect: &str| {
        let run = scratch.xbuild(&["inspect", &format!("oci-layout://{layout}{suffix}")]).ok();
        assert_eq!(json(&run.stdout)["digest"], expect, "{suffix}");
    };
    check(":one", &app);
    check(":two", &multi);
    check(":h:5000/team/three:3", &app);
    check(":3", &app);
    check(&format!("@{multi}"), &multi);
    let arm =
        json(&scratch.xbuild(&["inspect", "multi:1"]).ok().stdout)["index"]["manifests"][2]["digest"].clone();
    check(&format!("@{}", arm.as_str().unwrap()), arm.as_str().unwrap());
    scratch.xbuild(&["inspect", &format!("oci-layout://{layout}")]).fails(2, &["one", "two", "@DIGEST"]);
    // A tag goes from one image to another.
    scratch.xbuild(&["copy", "multi:1", &format!("oci-layout://{layout}:one")]).ok();
    check(":one", &multi);
    let wrong = format!("oci-layout://{layout}:x@{app}");
    scratch.xbuild(&["copy", "multi:1", &wrong]).fails(2, &[&app, &multi]);
}

#[test]
fn places_stand_wherever_an_image_is_named() {
    let (true, Some(registry)) = (have(&["skopeo"]), Registry::start()) else { return };
    let scratch = Scratch::new().with_busybox();
    let archive = scratch.path().join("b.tar").display().to_string();
    let layout = scratch.path().join("b").display().to_string();
    scratch.xbuild(&["copy", "busybox", &format!("docker-archive:{archive}:base:1")]).ok();
    scratch.xbuild(&["copy", "busybox", &format!("oci-layout://{layout}:base")]).ok();
    let oci = scratch.path().join("b.oci").display().to_string();
    scratch.xbuild(&["save", &format!("oci-layout://{layout}"), "-o", &format!("type=oci,dest={oci}")]).ok();
    let fresh = Scratch::new();
    let context = fresh.context("c", &[("Dockerfile", "FROM base\nRUN echo made > /made\n")]);
    for (number, base) in [
        format!("docker-archive:{archive}"),
        format!("oci-archive:{oci}"),
        format!("oci-layout://{layout}:base"),
    ]
    .iter()
    .enumerate()
    {
        let tag = format!("child:{number}");
        fresh.build(&context, &["-t", &tag, "--build-context", &format!("base={base}")]).ok();
        assert_eq!(fresh.xbuild(&["run", &tag, "cat", "/made"]).ok().stdout, "made\n");
        assert_eq!(fresh.xbuild(&["run", base, "echo", "hello"]).ok().stdout, "hello\n");
        assert!(fresh.xbuild(&["history", base]).ok().stdout.contains("ADD"));
        let name = format!("{}/pushed:{number}", registry.host);
        let pushed = fresh.xbuild(&["push", base, &name]).ok().digest();
        assert_eq!(sha256(&raw(&format!("docker://{name}"), &[])), pushed);
        fresh.xbuild(&["tag", base, &format!("tagged:{number}")]).ok();
        assert_eq!(
            json(&fresh.xbuild(&["inspect", &format!("tagged:{number}")]).ok().stdout)["digest"],
            pushed.as_str()
        );
        let tree = fresh.path().join(format!("tree{number}"));
        fresh.xbuild(&["save", base, "-o", &format!("type=local,dest={}", tree.display())]).ok();
        assert!(tree.join("bin/busybox").is_file());
    }
    assert_eq!(fresh.xbuild(&["pull", &format!("oci-layout://{layout}"), "-t", "from-layout"]).ok().code, 0);
    assert_eq!(fresh.xbuild(&["run", "from-layout", "echo", "x"]).ok().stdout, "x\n");
}
