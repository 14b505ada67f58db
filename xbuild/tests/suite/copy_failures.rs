//! Copies that fail: damaged blobs, interrupts, full disks, hostile layouts. A target is as it was before.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use oci::Digest;
use oci::media_type::{OCI_CONFIG, OCI_MANIFEST};

use crate::copy::{KINDS, Kind, app, json, place};
use crate::harness::{Registry, Run, Scratch, finish, tool, wait_until};
use crate::proxy::{Exchange, Proxy, Rule};
use crate::server::{Reply, Server};

/// Flips a byte in the middle of the largest blob of a layout; returns its digest.
fn damage(layout: &Path) -> String {
    let blobs = std::fs::read_dir(layout.join("blobs/sha256")).unwrap().map(|blob| blob.unwrap().path());
    let largest = blobs.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).unwrap();
    format!("sha256:{}", largest.file_name().unwrap().to_str().unwrap())
}

/// A large image in a layout of its own.
fn large(scratch: &Scratch) -> PathBuf {
    let context = scratch.context("large", &[("Dockerfile", "FROM scratch\nCOPY noise /\n")]);
    let mut noise = vec![0; 3 << 20];
    let mut random = std::fs::File::open("/dev/urandom").unwrap();
    std::io::Read::read_exact(&mut random, &mut noise).unwrap();
    std::fs::write(context.join("noise"), noise).unwrap();
    scratch.digest(&context, &["-t", "large:1"]);
    let layout = scratch.path().join("large-layout");
    scratch.xbuild(&["copy", "large:1", &format!("oci-layout://{}", layout.display())]).ok();
    layout
}

#[test]
fn img_01_a_damaged_blob_is_named_and_nothing_is_half_written() {
    let Some(registry) = Registry::start() else { return };
    let builder = Scratch::new();
    let layout = large(&builder);
    let digest = damage(&layout);
    let source = format!("oci-layout://{}", layout.display());
    let archive = builder.path().join("damaged.oci");
    let pack = ["-C", layout.to_str().unwrap(), "-cf", archive.to_str().unwrap(), "."];
    tool("tar", &pack);
    for source in [source, format!("oci-archive:{}", archive.display())] {
        for kind in KINDS {
            let scratch = Scratch::new();
            let target = place(kind, &scratch, &registry.host, "target");
            let run = scratch.xbuild(&["copy", &source, &target.ours]);
            run.fails(4, &[&format!("blob {digest} is damaged")]);
            let left: Vec<_> =
                std::fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert!(left.iter().all(|name| name == "store"), "{kind:?} left {left:?}");
            scratch.xbuild(&["inspect", &target.ours]).fails(4, &[]);
        }
    }
    // What was there stays.
    let scratch = Scratch::new();
    let before = app(&scratch);
    let target = place(Kind::Layout, &scratch, "", "kept");
    scratch.xbuild(&["copy", "app:1", &target.ours]).ok();
    scratch
        .xbuild(&["copy", &format!("oci-layout://{}", layout.display()), &target.ours])
        .fails(4, &[&digest]);
    assert_eq!(json(&scratch.xbuild(&["inspect", &target.ours]).ok().stdout)["digest"], before.as_str());
}

/// Whether a file system has files without a name.
fn has_unnamed_files(directory: &Path) -> bool {
    let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR;
    rustix::fs::open(directory, flags, rustix::fs::Mode::from_raw_mode(0o600)).is_ok()
}

#[test]
fn an_interrupted_copy_leaves_nothing() {
    let Some(registry) = Registry::start() else { return };
    let scratch = Scratch::new();
    app(&scratch);
    scratch.xbuild(&["push", "app:1", &format!("{}/x:1", registry.host)]).ok();
    let proxy = Proxy::with(&registry.host, |exchange, _| match exchange.is_blob() {
        true => Rule::Hold,
        false => Rule::Pass,
    });
    for (signal, code, scheme, name) in [
        ("-INT", Some(130), "oci-layout://", "l"),
        ("-INT", Some(130), "oci-archive:", "a.tar"),
        ("-KILL", None, "oci-archive:", "killed.tar"),
        ("-KILL", None, "docker-archive:", "killed.docker"),
    ] {
        let directory = scratch.path().join(format!("out-{name}"));
        std::fs::create_dir(&directory).unwrap();
        if code.is_none() && !has_unnamed_files(&directory) {
            crate::skip("the file system has no files without a name");
            continue;
        }
        proxy.clear();
        let target = format!("{scheme}{}", directory.join(name).display());
        let source = format!("docker://{}/x:1", proxy.host);
        let mut command = scratch.command(&["copy", &source, &target]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until("the copy begins", || proxy.log().iter().any(Exchange::is_blob));
        tool("kill", &[signal, &child.id().to_string()]);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), code, "{output:?}");
        let left: Vec<_> = std::fs::read_dir(&directory).unwrap().collect();
        assert!(left.is_empty(), "{signal} {scheme}: {left:?}");
    }
}

#[test]
fn a_full_disk_is_the_targets_and_named() {
    let scratch = Scratch::new();
    large(&scratch);
    let small = scratch.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&small).status();
    if !mounted.is_ok_and(|status| status.success()) {
        crate::skip("mounting a tmpfs is not allowed");
        return;
    }
    let targets = ["oci-layout://", "oci-archive:", "docker-archive:"];
    let runs: Vec<(String, Run)> = targets
        .iter()
        .map(|scheme| {
            let target = format!("{scheme}{}", small.join("out").display());
            let run = scratch.xbuild(&["copy", "large:1", &target]);
            (target, run)
        })
        .collect();
    let left = std::fs::read_dir(&small).unwrap().count();
    let unmounted = Command::new("umount").arg(&small).status();
    for (target, run) in runs {
        run.fails(7, &[&target, "no space left there"]);
    }
    assert_eq!(left, 0, "half of an image was left");
    assert!(unmounted.is_ok_and(|status| status.success()));
}

#[test]
fn img_11_a_hostile_layout_leads_nowhere() {
    let scratch = Scratch::new();
    let layout = large(&scratch);
    let blobs = layout.join("blobs/sha256");
    let secret = scratch.path().join("secret");
    std::fs::write(&secret, "x").unwrap();
    let largest = std::fs::read_dir(&blobs).unwrap().map(|blob| blob.unwrap().path());
    let largest = largest.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let kept = scratch.path().join("kept");
    std::fs::rename(&largest, &kept).unwrap();
    let source = format!("oci-layout://{}", layout.display());
    let target = format!("oci-archive:{}", scratch.path().join("out").display());
    let refused = |what: &str| {
        let run = finish(&mut scratch.command(&["copy", &source, &target]));
        assert_eq!(run.code, 4, "{what}: {run:?}");
        assert!(!scratch.path().join("out").exists(), "{what}");
    };
    refused("missing");
    std::os::unix::fs::symlink(&kept, &largest).unwrap();
    refused("a link to the right bytes outside");
    std::fs::remove_file(&largest).unwrap();
    tool("mkfifo", &[largest.to_str().unwrap()]);
    refused("a pipe");
    std::fs::remove_file(&largest).unwrap();
    std::fs::rename(&kept, &largest).unwrap();
    scratch.xbuild(&["copy", &source, &target]).ok();
}

/// A registry whose image has a layer that is elsewhere only.
fn without_its_layer(url: &'static str) -> Server {
    let layer = format!("sha256:{}", "1".repeat(64));
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", "2".repeat(64))] },
    });
    let config = config.to_string();
    let name = Digest::of(config.as_bytes()).to_string();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": { "mediaType": OCI_CONFIG, "digest": name, "size": config.len() },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "digest": layer, "size": 9, "urls": [url],
        }],
    });
    Server::start(move |request| match request.target.rsplit('/').next() {
        Some("1") => Reply::new(200, manifest.to_string()).header("Content-Type", OCI_MANIFEST),
        Some(digest) if digest == name => Reply::new(200, config.clone()),
        Some(_) if request.target.contains("/manifests/") => {
            Reply::new(200, manifest.to_string()).header("Content-Type", OCI_MANIFEST)
        }
        Some(_) | None => Reply::new(404, ""),
    })
}

#[test]
fn img_05_a_layer_that_is_elsewhere_only_is_called_that_and_not_fetched() {
    let vendor = Server::start(|_| Reply::new(200, "layer"));
    let url: &'static str = format!("http://{}/layer", vendor.host).leak();
    let registry = without_its_layer(url);
    let scratch = Scratch::new();
    let image = format!("{}/a/b:1", registry.host);
    let to = |kind: &str| format!("{kind}{}", scratch.path().join("out").display());
    let words = ["404", "marked as not to be distributed", url];
    for target in [to("oci-layout://"), to("oci-archive:")] {
        scratch.xbuild(&["copy", &format!("docker://{image}"), &target]).fails(4, &words);
    }
    let context = scratch.context("c", &[("Dockerfile", &format!("FROM {image}\nRUN true\n"))]);
    let arguments = ["--platform", "linux/amd64"];
    scratch
        .build(&context, &arguments)
        .fails(4, &words)
        .fails(4, &["error: FROM ", " — Dockerfile:1 — layer "]);
    assert!(vendor.requests().is_empty());
}
