//! COPY of many files of which few changed: RUN gets changes over the earlier layer, and must not see a difference.

use std::path::{Path, PathBuf};

use crate::harness::{Run, Scratch, finish};

/// Shows everything about /src: names, modes, owners, times, links, bytes. Numbers of names and sizes of directories are
/// the file system's own affair, and overlayfs's where layers meet in one.
const SHOW: &str = "cd /src && find . | sort > /names && find . | sort | xargs stat -c '%n %f %u %g %Y' > /all && \
    find . ! -type d | sort | xargs stat -c '%n %h %s %N' > /objects && find . -type f | sort | xargs md5sum > /sums";

fn dockerfile(run: &str) -> String {
    format!("FROM busybox\nRUN mkdir -p /src/d1 && echo below > /src/d1/below\nCOPY src /src\nRUN {run}\n")
}

/// A context of more files than are just unpacked.
fn context(scratch: &Scratch) -> PathBuf {
    let context = scratch.context("c", &[("Dockerfile", &dockerfile(SHOW))]);
    for number in 0..400 {
        let directory = context.join(format!("src/d{}", number % 7));
        std::fs::create_dir_all(&directory).unwrap();
        // Large enough together for a blob of several chunks, which the second build takes from the first.
        let text = format!("{number}\n") + &format!("{number} ").repeat(800);
        std::fs::write(directory.join(format!("f{number}")), text).unwrap();
    }
    std::os::unix::fs::symlink("f0", context.join("src/d0/link")).unwrap();
    std::fs::hard_link(context.join("src/d2/f2"), context.join("src/d3/name")).unwrap();
    context
}

fn build(scratch: &Scratch, context: &Path) -> Run {
    let context = context.to_str().unwrap();
    let mut command = scratch.command(&["build", "-q", "--network", "host", "-t", "app", context]);
    finish(command.env("SOURCE_DATE_EPOCH", "1700000000")).ok()
}

/// Names of layers in a directory of the store.
fn kept(scratch: &Scratch, kind: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(scratch.store().join("layers").join(kind)) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Builds, edits, builds again, and compares that with a build in a fresh store. `stacked` is how many layers are
/// kept as changes then.
#[track_caller]
fn check(edit: impl Fn(&Path), stacked: usize) {
    let scratch = Scratch::new().with_busybox_at("1700000000");
    let context = context(&scratch);
    let first = build(&scratch, &context).digest();
    assert_eq!(kept(&scratch, "root+over").len(), 0);
    edit(&context.join("src"));
    let second = build(&scratch, &context).digest();
    assert_ne!(first, second);
    assert_eq!(kept(&scratch, "root+over").len(), stacked);
    let fresh = Scratch::new().with_busybox_at("1700000000");
    assert_eq!(build(&fresh, &context).digest(), second, "in a fresh store");
    assert_eq!(kept(&fresh, "root+over").len(), 0);
}

#[test]
fn a_run_sees_edited_new_and_replaced_files_as_in_a_fresh_store() {
    check(
        |src| {
            std::fs::write(src.join("d1/f1"), "other\n").unwrap();
            std::fs::write(src.join("d1/new"), "new\n").unwrap();
            std::fs::create_dir(src.join("more")).unwrap();
            std::fs::write(src.join("more/f"), "f\n").unwrap();
            std::fs::remove_file(src.join("d0/link")).unwrap();
            std::fs::write(src.join("d0/link"), "no link\n").unwrap();
        },
        1,
    );
}

#[test]
fn a_run_sees_no_removed_files() {
    check(
        |src| {
            std::fs::remove_file(src.join("d2/f9")).unwrap();
            std::fs::rename(src.join("d4/f4"), src.join("d5/moved")).unwrap();
            crate::harness::tool("chmod", &["0700", src.join("d6").to_str().unwrap()]);
        },
        1,
    );
}

#[test]
fn a_run_sees_names_of_one_file_as_in_a_fresh_store() {
    check(|src| std::fs::write(src.join("d3/name"), "both\n").unwrap(), 1);
    check(|src| std::fs::remove_file(src.join("d3/name")).unwrap(), 1);
}

#[test]
fn what_shines_through_from_below_is_unpacked() {
    let scratch = Scratch::new().with_busybox_at("1700000000");
    let context = context(&scratch);
    std::fs::write(context.join("src/d1/below"), "above\n").unwrap();
    build(&scratch, &context);
    std::fs::remove_file(context.join("src/d1/below")).unwrap();
    build(&scratch, &context);
    assert_eq!(kept(&scratch, "root+over").len(), 0, "a whiteout would hide the base's file");
    let shown = scratch.xbuild(&["run", "app", "cat", "/src/d1/below"]).ok().stdout;
    assert_eq!(shown, "below\n");
}

#[test]
fn many_changes_are_unpacked() {
    let edit = |src: &Path| {
        for number in 0..200 {
            std::fs::write(src.join(format!("d{}/f{number}", number % 7)), "other\n").unwrap();
        }
    };
    check(edit, 0);
}

#[test]
fn changes_are_kept_for_later_builds_and_never_go_onto_changes() {
    let scratch = Scratch::new().with_busybox_at("1700000000");
    let context = context(&scratch);
    let edit = |text: &str| std::fs::write(context.join("src/d1/f1"), text).unwrap();
    build(&scratch, &context);
    let whole = kept(&scratch, "root").len();
    edit("second\n");
    build(&scratch, &context);
    edit("third\n");
    build(&scratch, &context);
    let over = kept(&scratch, "root+over");
    assert_eq!(over.len(), 2);
    let base = |name: &String| {
        std::fs::read_to_string(scratch.store().join("layers/root+over").join(name).join("over")).unwrap()
    };
    assert_eq!(base(&over[0]), base(&over[1]));
    // The COPY is cached now, and its layer is needed again.
    std::fs::write(context.join("Dockerfile"), dockerfile("head -qn1 /src/d1/f1 /src/d2/f2 > /shown"))
        .unwrap();
    build(&scratch, &context);
    let shown = scratch.xbuild(&["run", "app", "cat", "/shown"]).ok().stdout;
    assert_eq!(shown, "third\n2\n");
    // Each build has one RUN's directory.
    assert_eq!(kept(&scratch, "root").len(), whole + 3, "nothing was unpacked");
}

#[test]
fn changes_without_what_they_go_onto_are_of_no_use() {
    let scratch = Scratch::new().with_busybox_at("1700000000");
    let context = context(&scratch);
    build(&scratch, &context);
    std::fs::write(context.join("src/d1/f1"), "second\n").unwrap();
    build(&scratch, &context);
    let over = kept(&scratch, "root+over");
    let over = scratch.store().join("layers/root+over").join(&over[0]).join("over");
    let base = std::fs::read_to_string(&over).unwrap();
    let base = base.trim().strip_prefix("sha256:").unwrap();
    std::fs::remove_dir_all(scratch.store().join("layers/root").join(base)).unwrap();
    for (run, text) in [("cat /src/d1/f1", "second\n"), ("head -n1 /src/d2/f2", "2\n")] {
        std::fs::write(context.join("Dockerfile"), dockerfile(&format!("{run} > /shown"))).unwrap();
        build(&scratch, &context);
        assert_eq!(scratch.xbuild(&["run", "app", "cat", "/shown"]).ok().stdout, text);
    }
    std::fs::write(context.join("src/d1/f1"), "third\n").unwrap();
    build(&scratch, &context);
    assert_eq!(scratch.xbuild(&["run", "app", "cat", "/src/d1/f1"]).ok().stdout, "third\n");
}

#[test]
fn files_of_a_stacked_layer_can_be_copied_from_its_stage() {
    let scratch = Scratch::new().with_busybox_at("1700000000");
    let context = context(&scratch);
    let text = dockerfile("true") + "FROM scratch\nCOPY --from=0 /src /all\n";
    std::fs::write(context.join("Dockerfile"), text).unwrap();
    build(&scratch, &context);
    std::fs::write(context.join("src/d1/f1"), "second\n").unwrap();
    let second = build(&scratch, &context).digest();
    let fresh = Scratch::new().with_busybox_at("1700000000");
    assert_eq!(build(&fresh, &context).digest(), second);
}
