//! Copies from a registry that a mirror stands before which sends wrong bytes: the copy comes from the registry.

use std::process::Stdio;

use crate::copy::{KINDS, Kind, app, json, place};
use crate::harness::{Registry, Scratch};
use crate::proxy::{Proxy, Rule};

/// A registry with `app:1`, and a mirror of it that sends other bytes of the same size for its layers.
fn lying(scratch: &Scratch) -> Option<(Registry, Proxy, String)> {
    let registry = Registry::start()?;
    let digest = app(scratch);
    scratch.xbuild(&["push", "app:1", &format!("{}/app:1", registry.host)]).ok();
    let manifest = scratch.layout().join("blobs").join(digest.replace(':', "/"));
    let manifest = json(&std::fs::read_to_string(manifest).unwrap());
    let sizes: Vec<(String, usize)> = manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| {
            let size = usize::try_from(layer["size"].as_u64().unwrap()).unwrap();
            (layer["digest"].as_str().unwrap().to_owned(), size)
        })
        .collect();
    let mirror = Proxy::with(&registry.host, move |exchange, _| {
        let lie = sizes.iter().find(|(digest, _)| exchange.target.ends_with(digest));
        lie.map_or(Rule::Pass, |(_, size)| Rule::Answer(200, "x".repeat(*size)))
    });
    Some((registry, mirror, digest))
}

#[test]
fn reg_10_a_mirror_that_sends_wrong_bytes_stops_no_copy() {
    let scratch = Scratch::new();
    let Some((registry, mirror, digest)) = lying(&scratch) else { return };
    let Some(other) = Registry::start() else { return };
    let flag = format!("{}={}", registry.host, mirror.host);
    let source = format!("docker://{}/app:1", registry.host);
    for kind in KINDS {
        let scratch = Scratch::new();
        let target = place(kind, &scratch, &other.host, "target");
        let run = scratch.xbuild(&["copy", "--registry-mirror", &flag, &source, &target.ours]).ok();
        assert_eq!(run.stdout.trim(), digest, "{kind:?}");
        assert!(run.stderr.contains(&format!("mirror {}: ", mirror.host)), "{kind:?}: {}", run.stderr);
        assert!(!run.stderr.contains("error"), "{}", run.stderr);
        // Whoever reads it verifies all of it.
        let reader = Scratch::new();
        match kind {
            Kind::Store => scratch.xbuild(&["copy", &target.ours, "oci-archive:/dev/null"]).ok(),
            Kind::Registry | Kind::Layout | Kind::OciArchive | Kind::DockerArchive => {
                reader.xbuild(&["copy", &target.ours, "read:1"]).ok()
            }
        };
    }
}

#[test]
fn reg_10_a_pipe_gets_the_right_bytes_only() {
    let scratch = Scratch::new();
    let Some((registry, mirror, digest)) = lying(&scratch) else { return };
    let flag = format!("{}={}", registry.host, mirror.host);
    let source = format!("docker://{}/app:1", registry.host);
    let writer = Scratch::new();
    let mut command = writer.command(&["copy", "--registry-mirror", &flag, &source, "oci-archive:-"]);
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let archive = writer.path().join("piped.tar");
    std::fs::write(&archive, output.stdout).unwrap();
    let reader = Scratch::new();
    let run = reader.xbuild(&["copy", &format!("oci-archive:{}", archive.display()), "read:1"]).ok();
    assert_eq!(run.stdout.trim(), digest);
}
