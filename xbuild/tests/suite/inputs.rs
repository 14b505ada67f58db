//! Bad input: one clear line, the right exit code, nothing half-written.

use std::path::{Path, PathBuf};

use crate::harness::{Scratch, free_port};

#[test]
fn a_missing_dockerfile_is_named() {
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("x", "")]);
    scratch.build(&context, &[]).fails(3, &["Dockerfile"]);
    scratch.build(&context, &["-f", "nowhere/Dockerfile.dev"]).fails(3, &["nowhere/Dockerfile.dev"]);
}

#[test]
fn ctx_05_a_dockerfile_that_leads_out_of_the_context_is_refused_unread() {
    let scratch = Scratch::new();
    let context =
        scratch.context("c", &[("sub/real", "FROM scratch\nLABLE inside=1\n"), ("plain", "FROM x\n")]);
    let canary = scratch.context("elsewhere", &[("canary", "canary-1\ncanary-2\n")]).join("canary");
    let link = |target: &Path, name: &str| {
        let path = context.join(name);
        let _ = std::fs::remove_file(&path);
        std::os::unix::fs::symlink(target, path).unwrap();
    };
    let refused = |arguments: &[&str]| {
        let run = scratch.build(&context, arguments).fails(6, &["leads out of the context", "with -f"]);
        assert!(!run.stderr.contains("canary-"), "{}", run.stderr);
    };
    let out = Path::new("../elsewhere/canary");
    for (direct, below) in [(out, Path::new("../../elsewhere/canary")), (&canary, &canary)] {
        link(direct, "Dockerfile");
        refused(&[]);
        refused(&["--check"]);
        link(below, "sub/linked");
        refused(&["-f", context.join("sub/linked").to_str().unwrap()]);
        refused(&["-f", "sub/linked"]);
    }
    link(Path::new("linked"), "sub/chained");
    refused(&["-f", "sub/chained"]);
    // What stays inside is read, and so is what is named itself.
    let read = |arguments: &[&str]| drop(scratch.build(&context, arguments).fails(3, &["LABLE"]));
    for target in [Path::new("sub/real"), &context.join("sub/real")] {
        link(target, "Dockerfile");
        read(&[]);
        read(&["-f", context.join("Dockerfile").to_str().unwrap()]);
    }
    link(Path::new("../sub/real"), "sub/up");
    read(&["-f", "sub/up"]);
    read(&["-f", context.join("sub/real").to_str().unwrap()]);
    scratch.build(&context, &["-f", canary.to_str().unwrap()]).fails(3, &["canary-1"]);
    let mut given = scratch.command(&["build", "-f", "/dev/stdin", context.to_str().unwrap()]);
    given.stdin(std::fs::File::open(context.join("sub/real")).unwrap());
    crate::harness::finish(&mut given).fails(3, &["LABLE"]);
}

#[test]
fn an_empty_dockerfile_is_no_image() {
    let scratch = Scratch::new();
    for text in ["", "# only a comment\n", "\n\n"] {
        let context = scratch.context("c", &[("Dockerfile", text)]);
        scratch.build(&context, &[]).fails(3, &["Dockerfile"]);
    }
}

#[test]
fn an_unknown_instruction_is_shown_with_its_place_and_a_guess() {
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", "FROM scratch\nCOPPY a b\nLABLE x=y\n")]);
    let run = scratch.build(&context, &[]).fails(3, &["Dockerfile:2:1", "COPPY", "COPY"]);
    assert!(run.stderr.contains("LABLE"), "both mistakes are shown:\n{}", run.stderr);
}

#[test]
fn a_missing_context_file_is_named_with_the_nearest_name_or_the_rule_that_hid_it() {
    let scratch = Scratch::new();
    let context = scratch
        .context("c", &[("Dockerfile", "FROM scratch\nCOPY requirments.txt /\n"), ("requirements.txt", "")]);
    scratch.build(&context, &[]).fails(4, &["Dockerfile:2", "requirments.txt", "requirements.txt"]);
    let hidden = scratch.context(
        "hidden",
        &[
            ("Dockerfile", "FROM scratch\nCOPY secret.txt /\n"),
            ("secret.txt", ""),
            (".dockerignore", "# c\n*.txt\n"),
        ],
    );
    scratch.build(&hidden, &[]).fails(4, &["Dockerfile:2", "secret.txt", ".dockerignore line 2"]);
}

#[test]
fn a_base_that_does_not_exist_is_a_source_failure() {
    let Some(registry) = crate::harness::Registry::start() else { return };
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", &format!("FROM {}/no/such:1\n", registry.host))]);
    scratch.build(&context, &[]).fails(4, &["no/such:1"]);
}

#[test]
fn a_registry_that_is_down_is_a_source_failure() {
    let scratch = Scratch::new();
    let host = format!("127.0.0.1:{}", free_port());
    let context = scratch.context("c", &[("Dockerfile", &format!("FROM {host}/a:1\n"))]);
    scratch.build(&context, &[]).fails(4, &[&host, "refused"]);
}

#[test]
fn a_missing_context_and_bad_flags_are_told() {
    let scratch = Scratch::new();
    scratch.xbuild(&["build", "/no/such/dir"]).fails(4, &["/no/such/dir"]);
    let run = scratch.xbuild(&["build", "--no-cahce", "."]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("--no-cache"), "{}", run.stderr);
    scratch.xbuild(&["build", "-o", "type=oci,dst=x", "."]).fails(2, &["dst=x"]);
    scratch.xbuild(&["build", "-t", "UPPER", "."]).fails(2, &["UPPER"]);
}

#[test]
fn no_space_left_in_the_store_is_a_resource_failure_and_leaves_nothing_half_written() {
    let Some(scratch) = SmallStore::mount(Scratch::new(), "small", "24m") else { return };
    let big = "x".repeat(1 << 20);
    let files: Vec<_> = (0..40).map(|n| (format!("data/{n}"), format!("{n}{big}"))).collect();
    let mut all: Vec<(&str, &str)> =
        files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    all.push(("Dockerfile", "FROM scratch\nCOPY data /data\n"));
    // Bytes that do not compress, or the layer would fit.
    let context = scratch.scratch.context("c", &all);
    for n in 0..40 {
        std::fs::write(context.join(format!("data/{n}")), noise(1 << 20)).unwrap();
    }
    let store = scratch.store.to_str().unwrap();
    let run = crate::harness::finish(std::process::Command::new(env!("CARGO_BIN_EXE_xbuild")).args([
        "--root",
        store,
        "build",
        "-t",
        "big",
        context.to_str().unwrap(),
    ]));
    run.fails(7, &["space", store]);
    let small = scratch.scratch.context("s", &[("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "1")]);
    crate::harness::finish(std::process::Command::new(env!("CARGO_BIN_EXE_xbuild")).args([
        "--root",
        store,
        "build",
        "-t",
        "small",
        small.to_str().unwrap(),
    ]))
    .ok();
    let images = crate::harness::finish(
        std::process::Command::new(env!("CARGO_BIN_EXE_xbuild")).args(["--root", store, "images"]),
    )
    .ok();
    assert!(images.stdout.contains("small") && !images.stdout.contains("big"), "{}", images.stdout);
}

/// Bytes that do not compress.
fn noise(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    let mut random = std::fs::File::open("/dev/urandom").unwrap();
    std::io::Read::read_exact(&mut random, &mut bytes).unwrap();
    bytes
}

/// A small file system in a scratch directory, unmounted whatever happens.
struct SmallStore {
    scratch: Scratch,
    store: PathBuf,
}

impl SmallStore {
    /// Mounts it; `None`, with a SKIP, where that is not allowed.
    fn mount(scratch: Scratch, name: &str, size: &str) -> Option<Self> {
        let store = scratch.path().join(name);
        std::fs::create_dir(&store).unwrap();
        let options = format!("size={size}");
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs", store.to_str().unwrap()])
            .status()
            .unwrap();
        if !mount.success() {
            crate::skip("mounting a tmpfs is not allowed");
            return None;
        }
        Some(Self { scratch, store })
    }
}

#[test]
fn a_full_store_is_named_when_an_image_of_a_layout_is_copied_into_it() {
    let other = Scratch::new();
    let context = other.context("c", &[("Dockerfile", "FROM scratch\nCOPY f /\n")]);
    std::fs::write(context.join("f"), noise(3 << 20)).unwrap();
    other.build(&context, &["-t", "base"]).ok();
    let Some(small) = SmallStore::mount(Scratch::new(), "store", "2m") else { return };
    let context = small.scratch.context("c", &[("Dockerfile", "FROM base\nLABEL a=b\n")]);
    let base = format!("base=oci-layout://{}", other.layout().display());
    let store = small.store.to_str().unwrap();
    let run = small.scratch.build(&context, &["--build-context", &base]);
    let run = run.fails(7, &[&format!("no space left in {store}/images"), "--root"]);
    assert!(!run.stderr.contains(other.layout().to_str().unwrap()), "{}", run.stderr);
    small.scratch.xbuild(&["images"]).ok();
}

#[test]
fn a_step_that_fails_while_the_store_is_full_says_so() {
    let Some(small) = SmallStore::mount(Scratch::new(), "store", "40m") else { return };
    let SmallStore { scratch, .. } = &small;
    let busybox = Scratch::new().with_busybox();
    scratch.xbuild(&["copy", &format!("oci-layout://{}", busybox.layout().display()), "busybox"]).ok();
    let text = "FROM busybox\nRUN head -c 60000000 /dev/zero > /big\n";
    let run = scratch.build(&scratch.context("c", &[("Dockerfile", text)]), &[]);
    run.fails(5, &["exit code: 1", &format!("the store {} has", small.store.display()), "--root"]);
    let run = scratch.build(&scratch.context("c", &[("Dockerfile", "FROM busybox\nRUN false\n")]), &[]);
    assert!(!run.fails(5, &["exit code: 1"]).stderr.contains("the store"), "there is space again");
}

impl Drop for SmallStore {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.store).status();
    }
}

#[test]
fn progress_as_json_tells_of_the_failure_as_fields() {
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", "FROM scratch\nCOPY nowhere /\n")]);
    let run = scratch.xbuild(&["build", "--progress", "json", context.to_str().unwrap()]);
    assert_eq!(run.code, 4, "{run:?}");
    let events: Vec<serde_json::Value> = run
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    let error = events.iter().find(|event| event["event"] == "error").expect("an error event");
    assert_eq!((&error["class"], &error["code"]), (&"source".into(), &4.into()));
    assert!(error["message"].as_str().unwrap().contains("nowhere"), "{error}");
}

#[test]
fn mistakes_that_only_steps_meet_are_the_dockerfiles() {
    let scratch = Scratch::new().with_busybox();
    let check = |text: &str, expected: &str| {
        let context = scratch.context("c", &[("Dockerfile", text)]);
        let run = scratch.build(&context, &[]);
        assert_eq!(run.code, 3, "{text}: {run:?}");
        assert!(run.stderr.lines().last().unwrap().contains(expected), "{run:?}");
    };
    check("FROM busybox\nWORKDIR /etc/passwd/x\n", "\"/etc/passwd\" exists and is no directory");
    check("FROM busybox\nCOPY --chown=nobody-here Dockerfile /\n", "nobody-here");
    check("FROM busybox\nUSER nobody-here\nRUN true\n", "nobody-here");
    check("FROM busybox\nCOPY Dockerfile /etc/passwd/\n", "/etc/passwd");
}

#[test]
fn an_excerpt_obeys_nothing_in_the_dockerfile_and_is_short() {
    let scratch = Scratch::new().with_busybox();
    let script = "echo\n".repeat(500);
    let text = format!("FROM busybox\nRUN <<E\nprintf '\x1b[2Jx\x07' >/dev/null\n{script}exit 3\nE\n");
    let context = scratch.context("c", &[("Dockerfile", &text)]);
    let run = scratch.build(&context, &["-q"]);
    assert_eq!(run.code, 5, "{run:?}");
    assert!(!run.stderr.contains(['\x1b', '\x07']), "{run:?}");
    let excerpt = run.stderr.lines().filter(|line| line.contains(" | ")).count();
    assert!((3..=21).contains(&excerpt), "{excerpt} lines");
    assert!(run.stderr.contains("485 more lines"), "{run:?}");
    let text = "FROM busybox\nRUN exit 3 # \x1b[2J\n";
    let run = scratch.build(&scratch.context("c", &[("Dockerfile", text)]), &["-q"]);
    assert!(run.code == 5 && !run.stderr.contains('\x1b'), "{run:?}");
}

#[test]
fn build_arguments_that_nothing_takes_are_told() {
    let scratch = Scratch::new();
    let text = "ARG A\nFROM scratch AS one\nARG B\nLABEL b=$B\nONBUILD ARG C\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    let check = |arguments: &[&str], expected: Option<&str>| {
        let given: Vec<_> = arguments.iter().flat_map(|argument| ["--build-arg", *argument]).collect();
        let run = scratch.build(&context, &given).ok();
        let line = run.stderr.lines().find(|line| line.contains("not consumed"));
        assert_eq!(line.and_then(|line| line.rsplit(": ").next()), expected, "{run:?}");
    };
    check(&["A=1", "B=1", "C=1", "https_proxy=x", "TARGETARCH=y", "BUILDKIT_INLINE_CACHE=1"], None);
    check(&["A=1", "b=1", "D=1"], Some("b, D"));
}

#[test]
fn a_full_destination_is_named_and_nothing_is_left_in_it() {
    let scratch = Scratch::new().with_busybox();
    let context = scratch.context("c", &[("Dockerfile", "FROM busybox\n")]);
    let Some(scratch) = SmallStore::mount(scratch, "out", "200k") else { return };
    let (scratch, out) = (&scratch.scratch, scratch.store.to_str().unwrap());
    for kind in ["oci", "docker", "tar"] {
        let output = format!("type={kind},dest={out}/x.tar");
        scratch.build(&context, &["-o", &output]).fails(7, &["no space", &format!("{out}/x.tar")]);
        assert_eq!(std::fs::read_dir(out).unwrap().count(), 0, "{kind}");
    }
}
