//! Blobs of the store in which a bit has flipped, and readers that end early: what is told, and how it goes on.

use std::io::Read as _;
use std::process::Stdio;

use crate::harness::{Registry, Scratch};

/// A store with `app`, of which the layer is damaged; returns that blob's name.
fn damaged(scratch: &Scratch) -> String {
    let noise: String = (0..20_000).map(|number| format!("{number} ")).collect();
    let context = scratch.context("app", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", &noise)]);
    scratch.digest(&context, &["-t", "app"]);
    damage_largest(scratch)
}

/// Flips a bit of the largest blob; returns its name.
fn damage_largest(scratch: &Scratch) -> String {
    let blobs = std::fs::read_dir(scratch.layout().join("blobs/sha256")).unwrap();
    let largest = blobs.map(|blob| blob.unwrap().path()).max_by_key(|path| path.metadata().unwrap().len());
    let largest = largest.unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).unwrap();
    largest.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn cache_05_a_damaged_blob_of_the_store_is_told_as_such_and_made_again() {
    let Some(registry) = Registry::start() else { return };
    let host = &registry.host;
    let [one, two] = ["a", "b"].map(|name| format!("{host}/team/{name}:1"));
    let copied = format!("docker://{one}");
    let attempts: [&[&str]; 4] = [
        &["push", "app", &one],
        &["copy", "app", &copied],
        &["copy", "app", "oci-archive:out.tar"],
        &["save", "app", "-o", "type=docker,dest=out.tar"],
    ];
    for attempt in attempts {
        let scratch = Scratch::new();
        let blob = damaged(&scratch);
        let file = scratch.layout().join("blobs/sha256").join(&blob);
        let mut command = scratch.command(attempt);
        let run = crate::harness::finish(command.current_dir(scratch.path()));
        let told = format!("blob sha256:{blob} is damaged");
        let run = run.fails(9, &[&told, file.to_str().unwrap(), "build, pull or load the image again"]);
        assert!(!run.stderr.contains("repeats the push"), "{}", run.stderr);
        assert!(!scratch.path().join("out.tar").exists());
        let context = scratch.path().join("app");
        scratch.digest(&context, &["-t", "app"]);
        scratch.xbuild(&["push", "app", &two]).ok();
        Scratch::new().xbuild(&["pull", &two]).ok();
    }
}

#[test]
fn cache_05_a_damaged_base_layer_is_fetched_again_by_the_step_that_reads_it() {
    let Some(registry) = Registry::start() else { return };
    let base = format!("{}/base:1", registry.host);
    let maker = Scratch::new().with_busybox();
    maker.xbuild(&["push", "busybox", &base]).ok();
    let scratch = Scratch::new();
    let file = format!("FROM {base}\nCOPY f /\n");
    let context = scratch.context("app", &[("Dockerfile", &file), ("f", "x")]);
    scratch.digest(&context, &["-t", "app"]);
    // Writing the image out brings the layer into the store.
    scratch.xbuild(&["save", "app", "-o", "type=oci,dest=/dev/null"]).ok();
    let layer = damage_largest(&scratch);
    let told = format!("blob sha256:{layer} ");
    let run = scratch.xbuild(&["run", "app", "cat", "/f"]).ok();
    assert!(run.stderr.contains(&told) && run.stderr.contains("it is fetched again"), "{}", run.stderr);
    assert_eq!(run.stdout, "x");
    // Without its registry it is told as what it is, once; what was unpacked serves.
    damage_largest(&scratch);
    drop(registry);
    scratch.xbuild(&["run", "app", "true"]).ok();
}

#[test]
fn an_archive_whose_reader_ends_is_told_in_one_line() {
    let scratch = Scratch::new();
    // More than a pipe holds.
    let mut noise = vec![0; 1 << 20];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    let context = scratch.context("app", &[("Dockerfile", "FROM scratch\nCOPY noise /\n")]);
    std::fs::write(context.join("noise"), noise).unwrap();
    scratch.digest(&context, &["-t", "app"]);
    let context = context.to_str().unwrap();
    let writers: [&[&str]; 5] = [
        &["copy", "app", "oci-archive:-"],
        &["copy", "app", "docker-archive:-"],
        &["save", "app", "-o", "type=oci,dest=-"],
        &["build", "-q", "-o", "type=docker,dest=-", context],
        &["build", "-q", "-o", "type=tar,dest=-", context],
    ];
    for writer in writers {
        let mut command = scratch.command(writer);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{writer:?}: {stderr}");
        let lines: Vec<_> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(lines.len() == 1 && lines[0].contains("whoever read it ended"), "{writer:?}: {stderr}");
    }
}
