//! The cache: what hits, what runs again, and that the digest says the same.

use std::process::Stdio;

use crate::harness::Scratch;

const DOCKERFILE: &str =
    "FROM busybox\nENV A=1\nRUN echo one > /one\nCOPY src /src\nRUN cat /src/a > /two\nCMD [\"sh\"]\n";

#[test]
fn a_second_build_runs_nothing_and_gives_the_same_digest() {
    let scratch = Scratch::new().with_busybox();
    let context = scratch.context("c", &[("Dockerfile", DOCKERFILE), ("src/a", "a\n")]);
    let first = scratch.build(&context, &["-t", "app"]).ok();
    assert_eq!(first.cached(), 0, "{}", first.stderr);
    let one = scratch.digest(&context, &["-t", "app"]);
    let second = scratch.build(&context, &["-t", "app"]).ok();
    assert_eq!(second.cached(), 3, "{}", second.stderr);
    assert_eq!(scratch.digest(&context, &["-t", "app"]), one);
}

#[test]
fn no_cache_runs_every_step() {
    let scratch = Scratch::new().with_busybox();
    let context = scratch.context("c", &[("Dockerfile", DOCKERFILE), ("src/a", "a\n")]);
    scratch.build(&context, &[]).ok();
    let again = scratch.build(&context, &["--no-cache"]).ok();
    assert_eq!(again.cached(), 0, "{}", again.stderr);
}

#[test]
fn touching_a_file_keeps_the_hit_and_changing_a_byte_or_a_mode_does_not() {
    let scratch = Scratch::new().with_busybox();
    let context = scratch.context("c", &[("Dockerfile", DOCKERFILE), ("src/a", "a\n")]);
    scratch.build(&context, &[]).ok();
    let file = context.join("src/a");
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(scratch.build(&context, &[]).ok().cached(), 3);
    std::fs::write(&file, "b\n").unwrap();
    assert_eq!(scratch.build(&context, &[]).ok().cached(), 1, "only the RUN before the COPY is cached");
    assert_eq!(scratch.build(&context, &[]).ok().cached(), 3);
    crate::harness::tool("chmod", &["0755", file.to_str().unwrap()]);
    assert_eq!(scratch.build(&context, &[]).ok().cached(), 1, "the mode is part of the key");
}

#[test]
fn a_rerun_with_the_same_result_keeps_what_follows() {
    let scratch = Scratch::new().with_busybox();
    let build = |command: &str| {
        let text = format!("FROM busybox\nRUN echo a > /f {command}\nRUN cat /f > /g\n");
        let context = scratch.context("c", &[("Dockerfile", &text)]);
        scratch.build(&context, &["-t", "app"]).ok().cached()
    };
    assert_eq!(build("# first"), 0);
    let before = scratch.xbuild(&["inspect", "app"]).ok().stdout;
    assert_eq!(build("# second"), 1, "the second RUN is cached because the first made the same layer");
    let after = scratch.xbuild(&["inspect", "app"]).ok().stdout;
    let layers =
        |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["manifest"]["layers"].clone();
    assert!(layers(&before).as_array().is_some_and(|layers| layers.len() == 3), "{before}");
    assert_eq!(layers(&before), layers(&after));
}

#[test]
fn source_date_epoch_gives_one_digest_in_two_fresh_stores() {
    let text = "FROM busybox\nRUN echo $SOURCE_DATE_EPOCH > /epoch && mkdir /d && touch /d/f\nCOPY src /src\nWORKDIR /w\n";
    let build = || {
        let scratch = Scratch::new();
        let scratch = scratch.with_busybox_at("1700000000");
        let context = scratch.context("c", &[("Dockerfile", text), ("src/a", "a\n")]);
        let run = crate::harness::finish(
            scratch
                .command(&["build", "-q", "--network", "host", "-t", "app", context.to_str().unwrap()])
                .env("SOURCE_DATE_EPOCH", "1700000000"),
        )
        .ok();
        let epoch = scratch.xbuild(&["run", "app", "cat", "/epoch"]).ok().stdout;
        assert_eq!(epoch.trim(), "1700000000");
        run.digest()
    };
    assert_eq!(build(), build());
}

#[test]
fn two_builds_at_once_share_the_store_and_run_a_step_once() {
    let scratch = Scratch::new().with_busybox();
    let text = "FROM busybox\nRUN sleep 1 && cat /proc/sys/kernel/random/uuid > /id\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    let start = |name: &str| {
        scratch
            .command(&["build", "-q", "--network", "host", "-t", name, context.to_str().unwrap()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children = [start("one"), start("two")];
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    let id = |name: &str| scratch.xbuild(&["run", name, "cat", "/id"]).ok().stdout;
    assert_eq!(id("one"), id("two"));
}

#[test]
fn a_run_is_cached_by_what_its_mounts_show_of_a_stage() {
    let scratch = Scratch::new().with_busybox();
    let text = "FROM busybox AS made\nCOPY bust /\nRUN mkdir /out && echo x > /out/f\nFROM busybox\n\
        RUN --mount=from=made,source=out,target=/out,rw touch /out/g && cat /proc/sys/kernel/random/uuid > /id\n\
        FROM scratch\nCOPY --from=1 /id /id\n";
    let cached = |bust: &str| {
        let context = scratch.context("c", &[("Dockerfile", text), ("bust", bust)]);
        let run = scratch.build(&context, &[]).ok();
        run.stderr.lines().filter(|line| line.contains("CACHED")).count()
    };
    assert_eq!(cached("1"), 0);
    assert_eq!(cached("2"), 2, "the RUN with the mount, and the COPY of what it made");
}

#[test]
fn no_cache_begins_a_cache_mount_anew_that_says_what_it_begins_as() {
    let scratch = Scratch::new().with_busybox();
    let entries = |mount: &str, word: &str, flags: &[&str]| {
        let text = format!(
            "FROM busybox\nRUN --mount=type=cache,target=/cache{mount} touch /cache/{word} && ls /cache | wc -l > /n\n"
        );
        let context = scratch.context("c", &[("Dockerfile", &text)]);
        scratch.build(&context, &[&["-t", "app"], flags].concat()).ok();
        scratch.xbuild(&["run", "app", "cat", "/n"]).ok().stdout
    };
    for (mount, anew) in [(",mode=0773", "1\n"), ("", "2\n")] {
        assert_eq!(entries(mount, "a", &[]), "1\n", "{mount}");
        assert_eq!(entries(mount, "b", &["--no-cache"]), anew, "{mount}");
    }
}

#[test]
fn cache_mounts_that_begin_as_other_files_are_other_directories() {
    let scratch = Scratch::new().with_busybox();
    let listed = |first: &str| {
        let text = format!(
            "FROM scratch AS first\nCOPY {first} /seed/\nFROM busybox\n\
             RUN --mount=type=cache,target=/cache,from=first,source=seed ls /cache > /n && touch /cache/more\n"
        );
        let context = scratch.context("c", &[("Dockerfile", &text), ("a", ""), ("b", "")]);
        scratch.build(&context, &["-t", "app", "--no-cache-filter", "stage-1"]).ok();
        scratch.xbuild(&["run", "app", "cat", "/n"]).ok().stdout
    };
    assert_eq!(listed("a"), "a\n");
    assert_eq!(listed("b"), "b\n");
}

#[test]
fn explain_names_the_file_the_mode_and_the_argument_that_changed() {
    let scratch = Scratch::new().with_busybox();
    let text = "FROM busybox\nARG V\nCOPY f /f\nRUN echo $V\n";
    let context = scratch.context("c", &[("Dockerfile", text), ("f", "one\n")]);
    let check = |arguments: &[&str], expected: &[&str]| {
        let run = scratch.build(&context, &[&["--explain"], arguments].concat()).ok();
        let lines: Vec<_> = run.stderr.lines().filter(|line| line.contains("changed")).collect();
        assert_eq!(lines.len(), 1, "{}", run.stderr);
        expected.iter().for_each(|part| assert!(lines[0].contains(part), "{part:?} is not in {lines:?}"));
    };
    scratch.build(&context, &["--build-arg", "V=1"]).ok();
    check(&["--build-arg", "V=2"], &["RUN echo 2: env V changed", "\"1\"", "\"2\""]);
    std::fs::write(context.join("f"), "three\n").unwrap();
    check(&["--build-arg", "V=2"], &["COPY f /f: file f changed", "4 bytes", "6 bytes"]);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(context.join("f"), mode).unwrap();
    check(&["--build-arg", "V=2"], &["COPY f /f: file f changed", "0644", "0600"]);
}
