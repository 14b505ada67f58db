//! Upper directories made by hand, and what becomes of them.

use std::os::unix::fs::symlink;

use super::*;
use crate::tree::open_root;

fn is_root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    skip("needs root: devices and trusted attributes");
    false
}

#[expect(clippy::disallowed_methods, reason = "strictness of tests is the tester's environment")]
fn skip(why: &str) {
    println!("SKIP: {why}");
    assert!(std::env::var_os("XBUILD_TEST_STRICT").is_none(), "{why}");
}

const OPTIONS: Options<'_> = Options { flavour: Flavour::Root, epoch: None, stubs: &[] };

fn lines(upper: &Upper) -> Vec<String> {
    let line = |entry: &Entry| {
        let path = entry.path.display();
        match &entry.kind {
            Kind::Directory { opaque: true } => format!("{path}/!"),
            Kind::Directory { opaque: false } => format!("{path}/"),
            Kind::Whiteout => format!("-{path}"),
            Kind::Symlink { target } => format!("{path}>{}", target.display()),
            Kind::HardLink { target } => format!("{path}={}", target.display()),
            Kind::File { size, .. } => format!("{path} {size}"),
            Kind::CharDevice(_) | Kind::BlockDevice(_) | Kind::Fifo => format!("{path} special"),
        }
    };
    upper.entries.iter().map(line).collect()
}

#[test]
fn an_upper_directory_becomes_entries() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    std::fs::create_dir_all(at("d/e")).unwrap();
    std::fs::create_dir(at("stub")).unwrap();
    std::fs::write(at("stub/x"), "").unwrap();
    std::fs::write(at("d/f"), "12345").unwrap();
    std::fs::hard_link(at("d/f"), at("b")).unwrap();
    symlink("../x", at("l")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let root = Arc::new(open_root(dir.path()).unwrap());
    let node = |name: &str| {
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(&root, name, kind, Mode::empty(), 0).unwrap();
    };
    node("gone");
    rustix::fs::linkat(&root, "gone", &root, "gone2", AtFlags::empty()).unwrap();
    let set = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(at(path), name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("d/e", "trusted.overlay.opaque", b"y");
    set("d", "trusted.overlay.origin", b"junk");
    set("d", "trusted.overlay.overlay.nested", b"v");
    set("d/f", "user.kept", b"v");
    let stubs = [PathBuf::from("stub")];
    let upper = scan(root.as_fd(), Options { stubs: &stubs, ..OPTIONS }).unwrap();
    assert_eq!(lines(&upper), ["b 5", "d/", "d/e/!", "d/f=b", "-gone", "-gone2", "l>../x"]);
    let names: Vec<_> = upper.entries[1].xattrs.keys().map(|name| String::from_utf8_lossy(name)).collect();
    assert_eq!(names, ["trusted.overlay.nested"]);
    assert!(upper.entries[0].xattrs.contains_key(&b"user.kept"[..]));
    upper.settle(root.as_fd()).unwrap();
    let again = scan(root.as_fd(), OPTIONS).unwrap();
    assert!(again.leftovers.is_empty());
    assert_eq!(again.entries[2].kind, Kind::Directory { opaque: true });
}

#[test]
fn ovl_05_reserved_names_are_refused() {
    for name in [".wh.b", ".wh..wh..opq", ".wh."] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a").join(name), "").unwrap();
        let error = scan(open_root(dir.path()).unwrap().as_fd(), OPTIONS).unwrap_err();
        assert!(error.to_string().contains(&format!("a/{name}")), "{error}");
    }
}

#[test]
fn upper_directories_without_their_content_are_refused() {
    if !is_root() {
        return;
    }
    for attribute in ["trusted.overlay.redirect", "trusted.overlay.metacopy"] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "").unwrap();
        rustix::fs::lsetxattr(&file, attribute, b"/x", rustix::fs::XattrFlags::empty()).unwrap();
        let error = scan(open_root(dir.path()).unwrap().as_fd(), OPTIONS).unwrap_err();
        assert!(matches!(error, DiffError::Call { .. }), "{attribute}");
    }
}

#[test]
fn times_are_clamped_here_and_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("new"), "").unwrap();
    std::fs::write(dir.path().join("old"), "").unwrap();
    let root = open_root(dir.path()).unwrap();
    let old = Mtime { seconds: 5, nanoseconds: 7 };
    rustix::fs::utimensat(&root, "old", &crate::unpack::times(old), AtFlags::empty()).unwrap();
    let options = Options { epoch: Some(1000), ..OPTIONS };
    let upper = scan(root.as_fd(), options).unwrap();
    let times: Vec<_> = upper.entries.iter().map(|entry| entry.mtime).collect();
    assert_eq!(times, [Mtime { seconds: 1000, nanoseconds: 0 }, old]);
    upper.settle(root.as_fd()).unwrap();
    assert_eq!(scan(root.as_fd(), OPTIONS).unwrap().entries, upper.entries);
}
