//! `RUN --mount=type=cache`: ids that are no paths, and what two builds at once see of each other.

use crate::harness::{Following, Scratch};
use crate::server::Gate;

/// Starts a build of one RUN with a cache mount at /c.
fn start(scratch: &Scratch, name: &str, options: &str, command: &str) -> Following {
    let text = format!("FROM busybox\nRUN --mount=type=cache,target=/c,{options} {command}\n");
    let context = scratch.context(name, &[("Dockerfile", &text)]);
    let arguments = ["build", "--network", "host", "--progress", "plain", context.to_str().unwrap()];
    Following::start(&mut scratch.command(&arguments))
}

#[test]
fn mt_02_an_id_never_becomes_a_path() {
    let scratch = Scratch::new().with_busybox();
    let canary = scratch.context("canary", &[("file", "untouched")]);
    let long = "x".repeat(10_000);
    let ids = ["../../../../canary", canary.to_str().unwrap(), "a/b", ".", "..", "ünï", &long];
    for (number, id) in ids.iter().enumerate() {
        start(&scratch, "c", &format!("id={id}"), &format!("echo {number} > /c/file")).end().ok();
        // The directory is the id's own, and it is found again.
        let check = format!("test \"$(cat /c/file)\" = {number}");
        start(&scratch, "c", &format!("id={id}"), &check).end().ok();
    }
    assert_eq!(std::fs::read_to_string(canary.join("file")).unwrap(), "untouched");
    for entry in std::fs::read_dir(scratch.store().join("mounts")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let stem = name.split('.').next().unwrap();
        assert!(stem.len() == 64 && stem.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
    }
}

#[test]
fn mt_08_a_locked_directory_has_one_user_and_the_other_waits() {
    let scratch = Scratch::new().with_busybox();
    let gate = Gate::closed();
    let alone = "test ! -e /c/busy && touch /c/busy";
    let holds = format!("{alone} && echo holding && ({}) && rm /c/busy", gate.wait());
    let mut one = start(&scratch, "one", "sharing=locked", &holds);
    one.wait_for_output("holding");
    let mut two = start(&scratch, "two", "sharing=locked", &format!("{alone} && rm /c/busy"));
    two.wait_for("waiting for");
    gate.open();
    let one = one.end().ok();
    assert!(!one.stderr.contains("waiting for"), "{}", one.stderr);
    two.end().ok();
}

#[test]
fn mt_08_a_locked_directory_that_one_step_mounts_twice_is_not_waited_for() {
    let scratch = Scratch::new().with_busybox();
    let options = "id=c,sharing=locked --mount=type=cache,id=c,target=/d,sharing=locked";
    start(&scratch, "twice", options, "echo x > /c/file && test \"$(cat /d/file)\" = x").end().ok();
}

#[test]
fn mt_08_a_shared_directory_is_written_by_both_at_once() {
    let scratch = Scratch::new().with_busybox();
    let meet = |own: &str, other: &str| {
        format!(
            "touch /c/{own}; for i in $(seq 1200); do test -e /c/{other} && exit 0; sleep 0.1; done; exit 1"
        )
    };
    let one = start(&scratch, "one", "sharing=shared", &meet("one", "two"));
    let two = start(&scratch, "two", "sharing=shared", &meet("two", "one"));
    one.end().ok();
    two.end().ok();
}

#[test]
fn mt_08_a_private_directory_is_seen_by_one_at_a_time() {
    let scratch = Scratch::new().with_busybox();
    let gate = Gate::closed();
    let alone = |own: &str| {
        format!("touch /c/{own}; echo holding; ({}) && test \"$(ls /c)\" = {own} && rm /c/{own}", gate.wait())
    };
    let mut one = start(&scratch, "one", "sharing=private", &alone("one"));
    let mut two = start(&scratch, "two", "sharing=private", &alone("two"));
    one.wait_for_output("holding");
    two.wait_for_output("holding");
    gate.open();
    one.end().ok();
    two.end().ok();
    let directories = std::fs::read_dir(scratch.store().join("mounts")).unwrap();
    let directories = directories.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(directories, 2, "the second build got one of its own");
}
