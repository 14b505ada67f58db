//! Single files: where they land, through which links, with which owner, mode and time.

use super::*;

#[test]
fn a_file_lands_at_the_destination_or_in_it() {
    check(&copy(&["f"], "/g"), &["f 600 1:2"], &[], &["g 600 1:2"]);
    check(&copy(&["f"], "/g/"), &["f"], &[], &["g/ 755 0:0", "g/f 644 0:0"]);
    check(&copy(&["f"], "/g"), &["f"], &["g/ 700 5:6"], &["g/ 700 5:6", "g/f 644 0:0"]);
    check(&copy(&["f"], "/"), &["f"], &[], &["f 644 0:0"]);
    check(&copy(&["f"], "/a/b/g"), &["f"], &["a/ 711"], &["a/ 711 0:0", "a/b/ 755 0:0", "a/b/g 644 0:0"]);
    check(&copy(&["d/f"], "/"), &["d/", "d/f"], &[], &["f 644 0:0"]);
    check(&copy(&["f", "g"], "/x"), &["f", "g"], &[], &["x/ 755 0:0", "x/f 644 0:0", "x/g 644 0:0"]);
    check(&copy(&["../f"], "/g"), &["f"], &[], &["g 644 0:0"]);
}

#[test]
fn a_file_replaces_what_is_no_directory() {
    check(&copy(&["f"], "/g"), &["f 600"], &["g 755 7:7"], &["g 600 0:0"]);
    check(&copy(&["f"], "/d/"), &["f"], &["d/", "d/f -> elsewhere"], &["d/ 755 0:0", "d/f 644 0:0"]);
    check(
        &copy(&["f"], "/d/"),
        &["f"],
        &["d/", "d/f/"],
        &["error: cannot replace directory \"/d/f\" with a file"],
    );
    check(&copy(&["f"], "/x/y"), &["f"], &["x"], &["error: cannot copy to non-directory: \"/x\""]);
    check(&copy(&["f"], "/x/"), &["f"], &["x"], &["error: cannot copy to non-directory: \"/x\""]);
}

#[test]
fn ctx_13_links_at_the_destination_are_followed_in_the_root() {
    let parent = [
        "run/ 711 1:1",
        "var/",
        "var/run -> /run",
        "up -> ../../run",
        "dangling -> new/place",
        "loop -> loop",
    ];
    check(&copy(&["f"], "/var/run/f"), &["f"], &parent, &["run/ 711 1:1", "run/f 644 0:0"]);
    check(&copy(&["f"], "/var/run"), &["f"], &parent, &["run/ 711 1:1", "run/f 644 0:0"]);
    check(&copy(&["f"], "/up/f"), &["f"], &parent, &["run/ 711 1:1", "run/f 644 0:0"]);
    check(&copy(&["f"], "/dangling"), &["f"], &parent, &["new/ 755 0:0", "new/place 644 0:0"]);
    check(
        &copy(&["f"], "/dangling/"),
        &["f"],
        &parent,
        &["new/ 755 0:0", "new/place/ 755 0:0", "new/place/f 644 0:0"],
    );
    check(&copy(&["f"], "/loop/f"), &["f"], &parent, &["error: look at \"/loop/f\""]);
}

#[test]
fn link_copies_look_at_nothing_below() {
    let parent = ["lib -> usr/lib", "usr/", "usr/lib/ 700", "etc/ 700 5:5"];
    let linked = CopyOp { link: true, ..copy(&["f"], "/lib/f") };
    check(&linked, &["f"], &parent, &["lib/ 755 0:0", "lib/f 644 0:0"]);
    let etc = CopyOp { link: true, ..copy(&["f"], "/etc/f") };
    check(&etc, &["f"], &parent, &["etc/ 755 0:0", "etc/f 644 0:0"]);
    let with_mode = CopyOp { link: true, chmod: Some(Chmod::Octal(0o600)), ..copy(&["f"], "/lib/f") };
    check(&with_mode, &["f"], &parent, &["usr/ 755 0:0", "usr/lib/ 700 0:0", "usr/lib/f 600 0:0"]);
}

#[test]
fn chown_and_chmod_apply_to_what_is_made() {
    let chown = CopyOp { chown: owner("3:4"), ..copy(&["f"], "/a/b/") };
    check(&chown, &["f 644 9:9"], &["a/ 755 1:1"], &["a/ 755 1:1", "a/b/ 755 3:4", "a/b/f 644 3:4"]);
    let named = CopyOp { chown: owner("app"), ..copy(&["f"], "/f") };
    let parent =
        tree(&["etc/"]).with_file(Entry::plain("etc/passwd", Kind::Fifo, 0o644), b"app:x:10:20::/:\n");
    let plan = plan_of(&named, &tree(&["f"]), &parent).unwrap();
    assert_eq!(plan.entries.iter().map(describe).collect::<Vec<_>>(), ["f 644 10:20"]);
    let error = plan_of(&named, &tree(&["f"]), &Memory::default()).unwrap_err();
    assert!(matches!(error, CopyError::Owner(_)), "{error}");
    let octal = CopyOp { chmod: Some(Chmod::Octal(0o4711)), ..copy(&["f"], "/p/f") };
    check(&octal, &["f 600"], &[], &["p/ 711 0:0", "p/f 4711 0:0"]);
    let zero = CopyOp { chmod: Some(Chmod::Octal(0)), ..copy(&["f"], "/f") };
    check(&zero, &["f 600"], &[], &["f 0 0:0"]);
    let symbolic = CopyOp { chmod: Some(Chmod::Symbolic("u=rwX,go=rX".into())), ..copy(&["d"], "/p/") };
    let source = ["d/ 700", "d/f 600", "d/x 700", "d/s/ 700"];
    check(&symbolic, &source, &[], &["p/ 755 0:0", "p/f 644 0:0", "p/s/ 755 0:0", "p/x 755 0:0"]);
}

#[test]
fn named_links_are_followed_and_keep_their_name() {
    let source = ["bar 600", "foo -> bar", "sub/", "sub/l0 -> f", "sub/f", "dir -> sub", "gone -> nothing"];
    check(&copy(&["foo"], "/"), &source, &[], &["foo 600 0:0"]);
    check(&copy(&["sub/l*"], "/all/"), &source, &[], &["all/ 755 0:0", "all/l0 644 0:0"]);
    check(&copy(&["dir/f"], "/"), &source, &[], &["f 644 0:0"]);
    check(&copy(&["dir"], "/d"), &source, &[], &["d/ 755 0:0", "d/f 644 0:0", "d/l0 -> f"]);
    check(&copy(&["gone"], "/"), &source, &[], &["error: \"/gone\" not found"]);
}

#[test]
fn missing_sources_are_errors_and_unmatched_wildcards_are_told() {
    check(&copy(&["none"], "/"), &["f"], &[], &["error: \"/none\" not found"]);
    check(&copy(&["f/x"], "/"), &["f"], &[], &["error: \"/f/x\" not found"]);
    check(
        &copy(&["Sub/f"], "/"),
        &["sub/", "sub/f"],
        &[],
        &["error: \"/Sub/f\" not found; did you mean \"/sub/f\"?"],
    );
    let plan = plan_of(&copy(&["*.none"], "/x/"), &tree(&["f"]), &Memory::default()).unwrap();
    assert!(plan.entries.is_empty());
    assert_eq!(plan.unmatched, ["*.none"]);
    let plan = plan_of(&copy(&["*.txt"], "/x"), &tree(&["a.txt", "b.txt 600"]), &Memory::default()).unwrap();
    assert_eq!((plan.entries.len(), plan.entries[0].entry.mode), (1, 0o600));
    assert_eq!(plan.replaced, ["*.txt"]);
    check(
        &copy(&["*.txt"], "/x"),
        &["a.txt", "b.txt"],
        &["x/"],
        &["x/ 755 0:0", "x/a.txt 644 0:0", "x/b.txt 644 0:0"],
    );
    check(&copy(&["*.txt"], "/x"), &["a.txt"], &[], &["x 644 0:0"]);
}

#[test]
fn a_later_source_wins() {
    let mut op = copy(&["a/f", "b/f"], "/x/");
    check(&op, &["a/", "a/f 600", "b/", "b/f 640"], &[], &["x/ 755 0:0", "x/f 640 0:0"]);
    op.sources.push(CopySource::Inline(InlineFile { name: "f".into(), data: b"text".to_vec(), mode: 0o644 }));
    let plan = plan_of(&op, &tree(&["a/", "a/f", "b/", "b/f"]), &Memory::default()).unwrap();
    assert_eq!(bytes(&plan.entries[1]), "text");
    assert_eq!(plan.entries[1].entry.mtime, NOW);
}

#[test]
fn devices_and_pipes_of_a_stage_are_copied() {
    let pipe = Entry::plain("p", Kind::Fifo, 0o600);
    let plan = plan_of(&copy(&["p"], "/q"), &Memory::default().with(pipe), &Memory::default()).unwrap();
    assert_eq!(plan.entries.iter().map(describe).collect::<Vec<_>>(), ["q pipe 600 0:0"]);
}

fn times(kind: SourceKind, epoch: Option<i64>, mtime: i64) -> Vec<(String, i64)> {
    let mut source = tree(&["d/", "d/f"]);
    for path in ["d", "d/f"] {
        let mut entry = source.lstat(Path::new(path)).unwrap().unwrap().entry;
        entry.mtime.seconds = mtime;
        source = source.with(entry);
    }
    let with = Options { source_date_epoch: epoch, ..options(Path::new("/")) };
    let plan = plan(&copy(&["d"], "/p/x"), &[Source { tree: &source, kind }], &tree(&[]), &with).unwrap();
    let seconds = |planned: &Planned| (planned.entry.path.display().to_string(), planned.entry.mtime.seconds);
    plan.entries.iter().map(seconds).collect()
}

#[test]
fn times_follow_source_date_epoch() {
    let expected = |p, x, f| vec![("p".to_owned(), p), ("p/x".to_owned(), x), ("p/x/f".to_owned(), f)];
    assert_eq!(times(SourceKind::Context, None, 77), expected(NOW.seconds, 77, 77));
    assert_eq!(times(SourceKind::Context, Some(500), 77), expected(500, 500, 500));
    assert_eq!(times(SourceKind::Rootfs, Some(500), 77), expected(500, 77, 77));
    assert_eq!(times(SourceKind::Rootfs, Some(500), 900), expected(500, 500, 500));
}
