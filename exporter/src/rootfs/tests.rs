//! What a root file system becomes outside: the same tree, and nothing beyond its destination.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use rustix::fs::{CWD, Timespec, Timestamps, makedev, mknodat};

use super::*;

/// A tree with one of everything.
fn tree() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir_all(at("a/b")).unwrap();
    fs::create_dir(at("a-b")).unwrap();
    fs::write(at("a/b/file"), "content").unwrap();
    fs::hard_link(at("a/b/file"), at("a/link")).unwrap();
    fs::write(at("setuid"), "x").unwrap();
    fs::set_permissions(at("setuid"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::write(at("empty"), "").unwrap();
    symlink("../../outside", at("a/dangling")).unwrap();
    mknodat(CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
    for name in ["a/b/file", "a/b", "a"] {
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, at(name), &times, AtFlags::empty()).unwrap();
    }
    fs::set_permissions(at("a"), fs::Permissions::from_mode(0o750)).unwrap();
    root
}

fn handle(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIP: device nodes need root");
    }
    root
}

fn exported(root: &Path, destination: &Path) -> Result<Report> {
    local(handle(root).as_fd(), destination)
}

#[test]
fn a_tree_arrives_as_it_is() {
    let (root, out) = (tree(), tempfile::tempdir().unwrap());
    let destination = out.path().join("new/dir");
    let report = exported(root.path(), &destination).unwrap();
    let stat = |name: &str| fs::symlink_metadata(destination.join(name)).unwrap();
    assert_eq!(fs::read_to_string(destination.join("a/b/file")).unwrap(), "content");
    assert_eq!(stat("a/b/file").ino(), stat("a/link").ino(), "hard links stay");
    assert_eq!(stat("a").mode() & 0o7777, 0o750);
    for name in ["a/b/file", "a/b", "a"] {
        assert_eq!(stat(name).mtime(), 1_000_000_000, "{name}");
    }
    assert_eq!(fs::read_link(destination.join("a/dangling")).unwrap(), Path::new("../../outside"));
    assert_eq!(FileType::from_raw_mode(stat("pipe").mode()), FileType::Fifo);
    assert_eq!(stat("setuid").mode() & 0o7777, 0o755);
    assert_eq!(report.stripped, [Path::new("setuid")], "lost bits are told");
    exported(root.path(), &destination).unwrap();
    assert_eq!(fs::read_to_string(destination.join("a/b/file")).unwrap(), "content", "a second time works");
}

#[test]
fn ctx_12_nothing_escapes_the_destination() {
    let (root, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (canary, destination) = (out.path().join("canary"), out.path().join("d"));
    fs::create_dir_all(&canary).unwrap();
    fs::create_dir_all(&destination).unwrap();
    fs::write(canary.join("x"), "untouched").unwrap();
    // The image has a directory, a file and a link where the destination has links that lead out.
    fs::create_dir(root.path().join("out")).unwrap();
    fs::write(root.path().join("out/x"), "evil").unwrap();
    fs::write(root.path().join("file"), "evil").unwrap();
    symlink(&canary, root.path().join("absolute")).unwrap();
    symlink(&canary, destination.join("out")).unwrap();
    symlink(canary.join("x"), destination.join("file")).unwrap();
    fs::hard_link(canary.join("x"), destination.join("absolute")).unwrap();
    exported(root.path(), &destination).unwrap();
    assert_eq!(fs::read_to_string(canary.join("x")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(destination.join("out/x")).unwrap(), "evil");
    assert_eq!(fs::read_link(destination.join("absolute")).unwrap(), canary, "a link's text is data");
}

#[test]
fn a_directory_in_the_way_is_not_removed() {
    let (root, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(root.path().join("name"), "file").unwrap();
    fs::create_dir_all(out.path().join("name/precious")).unwrap();
    fs::write(out.path().join("other"), "kept").unwrap();
    assert!(matches!(exported(root.path(), out.path()), Err(Error::InTheWay(_))));
    assert!(out.path().join("name/precious").exists());
    assert_eq!(fs::read_to_string(out.path().join("other")).unwrap(), "kept");
}

#[test]
fn devices_are_left_out_and_told() {
    if !is_root() {
        return;
    }
    let (root, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    mknodat(
        CWD,
        root.path().join("null"),
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        makedev(1, 3),
    )
    .unwrap();
    let report = exported(root.path(), out.path()).unwrap();
    assert_eq!(report.devices, [Path::new("null")]);
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}

fn archive(root: &Path) -> Vec<u8> {
    tar(handle(root).as_fd(), Vec::new()).unwrap()
}

#[test]
fn the_archive_has_everything_in_order() {
    let root = tree();
    if is_root() {
        let path = root.path().join("a/null");
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3)).unwrap();
        std::os::unix::fs::lchown(root.path().join("empty"), Some(1234), Some(5678)).unwrap();
        let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, root.path().join("a"), &times, AtFlags::empty()).unwrap();
    }
    let bytes = archive(root.path());
    assert_eq!(bytes, archive(root.path()), "equal trees give equal bytes");
    let mut reader = ::tar::Archive::new(&bytes[..]);
    let mut names = Vec::new();
    for entry in reader.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let (kind, mode) = (entry.header().entry_type(), entry.header().mode().unwrap());
        match name.as_str() {
            "a/b/file" => {
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                assert_eq!(text, "content");
                assert_eq!(entry.header().mtime().unwrap(), 1_000_000_000);
            }
            "a/link" => assert_eq!(
                (kind, &*entry.link_name_bytes().unwrap()),
                (::tar::EntryType::Link, &b"a/b/file"[..])
            ),
            "a/null" => assert_eq!(entry.header().device_major().unwrap(), Some(1)),
            "setuid" => assert_eq!(mode, 0o4755),
            "empty" if is_root() => assert_eq!(entry.header().uid().unwrap(), 1234),
            "pipe" => assert_eq!(kind, ::tar::EntryType::Fifo),
            _ => {}
        }
        names.push(name);
    }
    names.retain(|name| name != "a/null");
    let expected = ["a/", "a/b/", "a/b/file", "a/dangling", "a/link", "a-b/", "empty", "pipe", "setuid"];
    assert_eq!(names, expected, "a directory stands before what is in it, siblings of similar names after");
}

#[test]
fn deep_and_wide_trees_need_one_handle() {
    let root = tempfile::tempdir().unwrap();
    let mut path = root.path().to_owned();
    for _ in 0..100 {
        path.push("d");
    }
    fs::create_dir_all(&path).unwrap();
    for number in 0..500 {
        fs::write(root.path().join(format!("f{number:03}")), [1]).unwrap();
    }
    let mut entries = 0;
    walk(handle(root.path()).as_fd(), |_| {
        entries += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(entries, 600);
}
