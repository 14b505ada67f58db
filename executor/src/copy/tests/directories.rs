//! Directories: contents, merging, hard links, `--parents`, `--exclude`, and WORKDIR.

use super::*;

#[test]
fn a_directory_stands_for_its_contents() {
    let source = ["d/ 700 100:200", "d/f 600 1:2", "d/s/ 711 101:201", "d/s/g 640 102:202"];
    check(
        &copy(&["d"], "/new"),
        &source,
        &[],
        &["new/ 755 0:0", "new/f 600 1:2", "new/s/ 711 101:201", "new/s/g 640 102:202"],
    );
    check(&copy(&["d/"], "/"), &source, &[], &["f 600 1:2", "s/ 711 101:201", "s/g 640 102:202"]);
    let existing = ["old/ 750 500:600", "old/x", "old/s2/ 750 501:601"];
    check(
        &copy(&["d"], "/old"),
        &source,
        &existing,
        &["old/ 750 500:600", "old/f 600 1:2", "old/s/ 711 101:201", "old/s/g 640 102:202"],
    );
    let chown = CopyOp { chown: owner("300:400"), ..copy(&["d"], "/new") };
    check(
        &chown,
        &source,
        &[],
        &["new/ 755 300:400", "new/f 600 300:400", "new/s/ 711 300:400", "new/s/g 640 300:400"],
    );
    let mode = CopyOp { chmod: Some(Chmod::Octal(0o750)), ..copy(&["d"], "/old") };
    check(
        &mode,
        &source,
        &existing,
        &["old/ 750 500:600", "old/f 750 1:2", "old/s/ 750 101:201", "old/s/g 750 102:202"],
    );
}

#[test]
fn nested_directories_take_the_sources_metadata() {
    let source = ["d/", "d/s/ 711 1:1", "d/s/g"];
    let parent = ["x/ 700 5:5", "x/s/ 777 6:6", "x/s/keep"];
    check(&copy(&["d"], "/x"), &source, &parent, &["x/ 700 5:5", "x/s/ 711 1:1", "x/s/g 644 0:0"]);
    let mut attributed = Entry::directory("x/s", 0o777);
    attributed.xattrs.insert(b"user.old".to_vec(), b"1".to_vec());
    let plan = plan_of(&copy(&["d"], "/x"), &tree(&source), &tree(&parent).with(attributed)).unwrap();
    assert!(plan.entries[1].entry.xattrs.contains_key(&b"user.old"[..]));
}

#[test]
fn capabilities_land_and_other_attributes_do_not() {
    let mut file = Entry::plain("f", Kind::Fifo, 0o755);
    for name in [&b"security.capability"[..], b"user.note", b"security.selinux"] {
        file.xattrs.insert(name.to_vec(), b"1".to_vec());
    }
    let source = Memory::default().with_file(file, b"x");
    let plan = plan_of(&copy(&["f"], "/"), &source, &Memory::default()).unwrap();
    let landed: Vec<_> = plan.entries[0].entry.xattrs.keys().map(Vec::as_slice).collect();
    assert_eq!(landed, [b"security.capability"]);
}

#[test]
fn ctx_09_other_kinds_in_the_way_are_errors() {
    let source = ["d/", "d/s/", "d/s/g", "d/f"];
    check(&copy(&["d"], "/x"), &source, &["x/", "x/s"], &["error: cannot copy to non-directory: \"/x/s\""]);
    check(
        &copy(&["d"], "/x"),
        &source,
        &["x/", "x/s -> ."],
        &["error: cannot copy to non-directory: \"/x/s\""],
    );
    check(
        &copy(&["d"], "/x"),
        &source,
        &["x/", "x/f/"],
        &["error: cannot replace directory \"/x/f\" with a file"],
    );
    check(&copy(&["d"], "/x"), &source, &["x"], &["error: cannot copy to non-directory: \"/x\""]);
}

#[test]
fn hard_links_inside_one_copy_are_kept() {
    let source = ["d/", "d/b", "d/s/", "d/s/a = d/b", "d/z = d/b"];
    check(
        &copy(&["d"], "/x"),
        &source,
        &[],
        &["x/ 755 0:0", "x/b 644 0:0", "x/s/ 755 0:0", "x/s/a = x/b", "x/z = x/b"],
    );
    check(&copy(&["d/z"], "/x"), &source, &[], &["x 644 0:0"]);
    // A source that replaces the first name leaves the others their file.
    let source = ["d/", "d/b", "d/z = d/b", "e/", "e/b 600"];
    let plan = plan_of(&copy(&["d", "e"], "/x/"), &tree(&source), &Memory::default()).unwrap();
    assert_eq!(
        plan.entries.iter().map(describe).collect::<Vec<_>>(),
        ["x/ 755 0:0", "x/b 600 0:0", "x/z 644 0:0"]
    );
    assert_eq!((bytes(&plan.entries[1]), bytes(&plan.entries[2])), ("e/b".to_owned(), "d/b".to_owned()));
}

fn parents(patterns: &[&str], dest: &str) -> CopyOp {
    CopyOp { parents: true, ..copy(patterns, dest) }
}

#[test]
fn parents_keep_the_path_below_the_pivot() {
    let source = [
        "t/ 711",
        "t/a/ 712",
        "t/a/b/ 713",
        "t/a/b/c/ 714",
        "t/a/b/c/f",
        "t/a/b2/",
        "t/a/b2/c/",
        "t/a/b2/c/h",
        "u",
    ];
    let b = ["out/ 755 0:0", "out/c/ 714 0:0", "out/c/f 644 0:0"];
    check(&parents(&["t/a/b/./c"], "/out/"), &source, &[], &b);
    check(
        &parents(&["t/a/b/c"], "/out/"),
        &source,
        &[],
        &[
            "out/ 755 0:0",
            "out/t/ 711 0:0",
            "out/t/a/ 712 0:0",
            "out/t/a/b/ 713 0:0",
            "out/t/a/b/c/ 714 0:0",
            "out/t/a/b/c/f 644 0:0",
        ],
    );
    check(
        &parents(&["t/a/b*/./c/**/h"], "/out/"),
        &source,
        &[],
        &["out/ 755 0:0", "out/c/ 755 0:0", "out/c/h 644 0:0"],
    );
    check(&parents(&["t/a/none*/c"], "/out/"), &source, &[], &["out/ 755 0:0"]);
    check(&parents(&["t/a/b/c/./"], "/out/"), &source, &[], &["out/ 755 0:0", "out/f 644 0:0"]);
    check(&parents(&["t/none"], "/out/"), &source, &[], &["error: \"/t/none\" not found"]);
    // A parent that exists takes the source's mode and keeps its owner.
    let existing = ["out/", "out/c/ 700 9:9"];
    check(
        &parents(&["t/a/b/./c/f"], "/out/"),
        &source,
        &existing,
        &["out/ 755 0:0", "out/c/ 714 9:9", "out/c/f 644 0:0"],
    );
}

fn excluding(sources: &[&str], dest: &str, excludes: &[&str]) -> CopyOp {
    CopyOp { excludes: excludes.iter().map(|text| (*text).to_owned()).collect(), ..copy(sources, dest) }
}

#[test]
fn excludes_are_relative_to_the_source() {
    let source = ["d/", "d/a.txt", "d/b.md", "d/e/", "d/e/c.txt", "d/e/d.md", "top.txt", "top.md"];
    check(
        &excluding(&["d"], "/x", &["*.txt"]),
        &source,
        &[],
        &["x/ 755 0:0", "x/b.md 644 0:0", "x/e/ 755 0:0", "x/e/c.txt 644 0:0", "x/e/d.md 644 0:0"],
    );
    check(
        &excluding(&["d"], "/x", &["**/*.txt"]),
        &source,
        &[],
        &["x/ 755 0:0", "x/b.md 644 0:0", "x/e/ 755 0:0", "x/e/d.md 644 0:0"],
    );
    check(
        &excluding(&["d"], "/x", &["*", "!e/c.txt"]),
        &source,
        &[],
        &["x/ 755 0:0", "x/e/ 755 0:0", "x/e/c.txt 644 0:0"],
    );
    check(&excluding(&["d"], "/x", &["*"]), &source, &[], &["x/ 755 0:0"]);
    check(&excluding(&["top*"], "/x/", &["*.txt"]), &source, &[], &["x/ 755 0:0", "x/top.md 644 0:0"]);
    check(&excluding(&["d*"], "/x/", &["*.txt", "*.md", "e"]), &source, &[], &["x/ 755 0:0"]);
}

/// What fsutil's copy of the root with include and exclude patterns leaves, for trees that the conformance
/// data lists likewise.
#[test]
fn includes_and_excludes_agree_with_fsutil() {
    let source = ["bar/", "bar/foo", "bar/baz/", "bar/baz/foo3", "foo2"];
    let check = |include: &str, excludes: &[&str], expected: &[&str]| {
        let op = CopyOp { parents: true, ..excluding(&[include], "/", excludes) };
        let plan = plan_of(&op, &tree(&source), &Memory::default()).unwrap();
        let paths: Vec<_> = plan.entries.iter().map(|planned| planned.entry.path.to_str().unwrap()).collect();
        assert_eq!(paths, expected, "{include} without {excludes:?}");
    };
    let all = ["bar", "bar/baz", "bar/baz/foo3", "bar/foo", "foo2"];
    check("*", &[], &all);
    check("bar", &[], &all[..4]);
    check("b*", &[], &all[..4]);
    check("bar/f*", &[], &["bar", "bar/foo"]);
    check("bar/g*", &[], &[]);
    check("bar/*/foo3", &[], &all[..3]);
    check("**/foo3", &[], &all[..3]);
    check("**/baz", &[], &all[..3]);
    check("*", &["bar*", "!bar/baz"], &["bar", "bar/baz", "bar/baz/foo3", "foo2"]);
    check("*", &["**", "!bar/baz", "bar/baz/foo3"], &["bar", "bar/baz"]);
    check("bar", &["bar/baz"], &["bar", "bar/foo"]);
    check("bar", &["**/foo3"], &["bar", "bar/baz", "bar/foo"]);
}

fn check_workdir(path: &str, user: &str, parent: &[&str], expected: &[&str]) {
    let op = MkdirOp { path: path.to_owned(), user: user.to_owned() };
    let got = match plan_workdir(&op, &tree(parent), &options(Path::new("/"))) {
        Ok(plan) => plan.entries.iter().map(describe).collect(),
        Err(error) => vec![format!("error: {error}")],
    };
    assert_eq!(got, expected, "WORKDIR {path} as {user:?} on {parent:?}");
}

#[test]
fn workdir_makes_what_is_missing() {
    check_workdir("/a/b", "", &[], &["a/ 755 0:0", "a/b/ 755 0:0"]);
    check_workdir("/a/b", "7", &["a/ 711 1:1"], &["a/ 711 1:1", "a/b/ 755 7:7"]);
    check_workdir("/a/b/c", "7:8", &["a/ 711 1:1"], &["a/ 711 1:1", "a/b/ 755 7:8", "a/b/c/ 755 7:8"]);
    check_workdir("/a", "7", &["a/ 711 1:1"], &[]);
    check_workdir("/l/x", "", &["l -> /real", "real/"], &["real/ 755 0:0", "real/x/ 755 0:0"]);
    check_workdir("/l", "", &["l -> /real", "real/"], &[]);
    check_workdir("/l", "", &["l -> gone"], &["gone/ 755 0:0"]);
}

#[test]
fn workdir_says_what_is_in_its_way() {
    let check = |path: &str, parent: &[&str], found: &str| {
        let error = format!(
            "error: cannot work in \"{path}\": \"{found}\" exists and is no directory — choose another path, or remove it in a RUN before"
        );
        check_workdir(path, "", parent, &[&error]);
    };
    check("/f/x", &["f"], "/f");
    check("/f", &["f"], "/f");
    check("/l", &["l -> /f", "f"], "/f");
    check("/d/../f/x/y", &["d/", "f"], "/f");
}
