//! Archives that try to get out of their root or to change what is outside, after containerd's TestBreakouts and
//! the CVEs that reliability names; each is unpacked beside a directory that must stay as it is.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

/// A tar made without any check, from `path`, type flag and link target.
fn tar(members: &[(&str, u8, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, flag, target) in members {
        let mut header = [0_u8; 512];
        let put = |header: &mut [u8; 512], at: usize, bytes: &[u8]| {
            header[at..at + bytes.len()].copy_from_slice(bytes);
        };
        let content: &[u8] = if *flag == b'0' && !path.contains(".wh.") { b"content" } else { b"" };
        put(&mut header, 0, path.as_bytes());
        put(&mut header, 100, b"0000777\0");
        put(&mut header, 108, b"0000000\x000000000\0");
        put(&mut header, 124, format!("{:011o}\0", content.len()).as_bytes());
        put(&mut header, 136, b"00000000000\0");
        put(&mut header, 156, &[*flag]);
        put(&mut header, 157, target.as_bytes());
        put(&mut header, 257, b"ustar\x0000");
        put(&mut header, 329, b"0000001\x000000003\0");
        put(&mut header, 148, b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        put(&mut header, 148, format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.extend_from_slice(&[0; 1024]);
    out
}

/// Unpacks onto nothing. `expect` lists what is there afterwards, `Err` a part of the refusal.
fn check(members: &[(&str, u8, &str)], expect: Result<&[&str], &str>) {
    if !is_root() {
        return;
    }
    let scratch = scratch();
    let outside = scratch.dir.path().join("victim");
    std::fs::write(&outside, "untouched").unwrap();
    std::fs::set_permissions(&outside, PermissionsExt::from_mode(0o700)).unwrap();
    let bytes = tar(members);
    let result = oci::layer::scan(&bytes[..], Limits::default(), oci::digest::Algorithm::Sha256)
        .map_err(|error| error.to_string())
        .and_then(|scan| {
            let view = oci::layer::MergedView::default();
            oci::layer::resolve_onto(&scan, &view).map_err(|error| error.to_string())
        })
        .and_then(|resolved| {
            let below = &mut |_, _: &Path| Err(io::ErrorKind::NotFound.into());
            unpack_archive(
                scratch.root.as_fd(),
                &resolved,
                &bytes[..],
                Limits::default(),
                Flavour::Root,
                below,
            )
            .map_err(|error| error.to_string())
        });
    match (result, expect) {
        (Ok(_), Ok(expect)) => {
            let (index, _) = pack_again(&scratch.root);
            let paths: Vec<_> = index.entries().iter().map(|entry| entry.path.to_str().unwrap()).collect();
            assert_eq!(paths, expect, "{members:?}");
        }
        (Err(error), Err(part)) => assert!(error.contains(part), "{members:?}: {error}"),
        (got, expect) => panic!("{members:?}: {got:?} instead of {expect:?}"),
    }
    let left = std::fs::read_dir(scratch.dir.path()).unwrap().count();
    assert_eq!(left, 2, "nothing was made beside the root: {members:?}");
    assert_eq!(std::fs::read(&outside).unwrap(), b"untouched");
    assert_eq!(std::fs::metadata(&outside).unwrap().mode() & 0o7777, 0o700, "{members:?}");
    assert_eq!(std::fs::metadata(&outside).unwrap().nlink(), 1, "{members:?}");
}

#[test]
fn tar_40_links_up_stay_inside() {
    check(&[("l", b'2', ".."), ("l/exploit/f", b'0', "")], Ok(&["exploit", "exploit/f", "l"]));
    check(&[("l", b'2', "../.."), ("l/victim", b'0', "")], Ok(&["l", "victim"]));
    check(&[("l", b'2', "/"), ("l/f", b'0', "")], Ok(&["f", "l"]));
    check(&[("l", b'2', "/victim"), ("l", b'0', "")], Ok(&["l"]));
    check(&[("a", b'2', "b"), ("b", b'2', "../c"), ("a/f", b'0', "")], Ok(&["a", "b", "c", "c/f"]));
    check(&[("../victim", b'0', "")], Ok(&["victim"]));
    check(&[("/../../victim", b'0', "")], Ok(&["victim"]));
    check(&[("d/../../victim", b'0', "")], Ok(&["victim"]));
    check(&[("/etc/f", b'0', "")], Ok(&["etc", "etc/f"]));
    check(
        &[("l", b'2', "/proc/self/root"), ("l/tmp/f", b'0', "")],
        Ok(&["l", "proc", "proc/self", "proc/self/root", "proc/self/root/tmp", "proc/self/root/tmp/f"]),
    );
}

#[test]
fn tar_41_a_directory_replaces_a_link() {
    check(&[("evil", b'2', "../victim"), ("evil", b'5', "")], Ok(&["evil"]));
    check(&[("evil", b'2', "../victim"), ("evil/", b'5', ""), ("evil/f", b'0', "")], Ok(&["evil", "evil/f"]));
    check(&[("evil", b'2', "../victim"), ("evil", b'0', "")], Ok(&["evil"]));
    check(&[("evil", b'2', "../victim"), ("evil", b'6', "")], Ok(&["evil"]));
}

#[test]
fn tar_42_marks_and_links_through_links_stay_inside() {
    check(&[("l", b'2', ".."), ("l/.wh.victim", b'0', "")], Ok(&["l", "victim"]));
    check(&[("l", b'2', "../.."), ("l/.wh..wh..opq", b'0', "")], Ok(&["l"]));
    check(&[("l", b'2', ".."), ("h", b'1', "l/victim")], Err("missing"));
    check(&[(".wh...", b'0', "")], Err("without a name"));
    check(&[("d/.wh.", b'0', "")], Err("without a name"));
}

#[test]
fn tar_43_hard_links_are_never_relative_to_the_process() {
    for target in ["victim", "./victim", "../victim", "/victim", "../../../etc/passwd", "Cargo.toml"] {
        check(&[("h", b'1', target)], Err("missing"));
    }
    check(&[("d", b'5', ""), ("h", b'1', "d")], Err("a directory"));
    check(&[("f", b'0', ""), ("h", b'1', "f"), ("h", b'0', "")], Ok(&["f", "h"]));
    check(&[("l", b'2', "../victim"), ("h", b'1', "l"), ("h", b'0', "")], Ok(&["h", "l"]));
}

#[test]
fn tar_44_the_root_stays_a_directory() {
    for name in [".", "./", "/", "x/.."] {
        for (flag, target) in [(b'2', "../victim"), (b'1', "x"), (b'3', ""), (b'6', "")] {
            check(&[(name, flag, target)], Err("root"));
        }
    }
}

#[test]
fn tar_45_the_root_entry_describes_the_root_only() {
    if !is_root() {
        return;
    }
    let scratch = scratch();
    let before = std::fs::metadata(scratch.dir.path()).unwrap().mode();
    unpack_tar(&scratch.root, &tar(&[("./", b'5', "")])).unwrap();
    assert_eq!(std::fs::metadata(scratch.dir.path()).unwrap().mode(), before);
    assert_eq!(std::fs::metadata(scratch.dir.path().join("fs")).unwrap().mode() & 0o7777, 0o777);
}

#[test]
fn what_is_in_the_way_is_refused() {
    check(&[("f", b'0', ""), ("f/g", b'0', "")], Err("no directory"));
    check(&[("p", b'6', ""), ("p/g", b'0', "")], Err("no directory"));
    check(&[("l", b'2', "l"), ("l/g", b'0', "")], Err("too many symbolic links"));
    let long = "n".repeat(90);
    let far = format!("{long}{long}{long}");
    check(&[(&far[..99], b'0', "")], Ok(&[&far[..99]]));
}

#[test]
fn tar_49_devices_are_made_for_root() {
    check(&[("null", b'3', ""), ("disk", b'4', ""), ("pipe", b'6', "")], Ok(&["disk", "null", "pipe"]));
}
