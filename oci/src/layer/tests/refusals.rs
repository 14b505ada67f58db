//! Archives that must be refused, and their legitimate twins.

use super::*;
use tar_core::builder::{EntryBuilder, PaxBuilder};
use tar_core::{EntryType, HEADER_SIZE};

/// A member with a raw name, built by parts.
struct Raw {
    builder: EntryBuilder,
    content: Vec<u8>,
}

fn raw(name: &str, flag: u8) -> Raw {
    let mut builder = EntryBuilder::new_gnu();
    builder.path(name).mode(0o644).unwrap().uid(0).unwrap().gid(0).unwrap();
    builder.mtime(0).unwrap().size(0).unwrap().entry_type(EntryType::from_byte(flag));
    Raw { builder, content: Vec::new() }
}

impl Raw {
    fn link(mut self, target: &str) -> Self {
        self.builder.link_name(target);
        self
    }

    fn content(mut self, content: &[u8]) -> Self {
        self.builder.size(content.len() as u64).unwrap();
        self.content = content.to_vec();
        self
    }

    fn device(mut self, major: u32, minor: u32) -> Self {
        self.builder.device(major, minor).unwrap();
        self
    }

    fn bytes(mut self) -> Vec<u8> {
        let mut bytes = self.builder.finish_bytes();
        bytes.extend_from_slice(&self.content);
        bytes.resize(bytes.len() + writer::padding(self.content.len() as u64), 0);
        bytes
    }

    /// The member with `patch` applied to its header and the checksum renewed.
    fn patched(self, at: usize, patch: &[u8]) -> Vec<u8> {
        let mut bytes = self.bytes();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        let sum: u32 =
            (0..HEADER_SIZE).map(|at| if (148..156).contains(&at) { 32 } else { u32::from(bytes[at]) }).sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes
    }
}

fn pax(flag: u8, records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = PaxBuilder::new();
    for (key, value) in records {
        builder.add(key, value);
    }
    let data = builder.finish();
    let mut header = EntryBuilder::new_ustar();
    header.path("PaxHeaders.0/x").mode(0o644).unwrap().uid(0).unwrap().gid(0).unwrap().mtime(0).unwrap();
    header.entry_type(EntryType::from_byte(flag)).size(data.len() as u64).unwrap();
    Raw { builder: header, content: data }.bytes()
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    raw(name, b'0').content(content).bytes()
}

/// Reads the concatenation of `parts` with an end. `Ok` lists `path=content`, `Err` a part of the message.
fn check(parts: &[&[u8]], expect: Result<&[&str], &str>) {
    let mut bytes = parts.concat();
    bytes.extend_from_slice(&writer::END);
    check_bytes(&bytes, expect);
}

fn check_bytes(bytes: &[u8], expect: Result<&[&str], &str>) {
    let got = read_all(bytes).map(|members| {
        let line = |(member, content): &(Member, Vec<u8>)| match member {
            Member::Opaque(path) => format!("{}/!", path.display()),
            Member::Object(entry) if entry.kind == Kind::Whiteout => format!("-{}", entry.path.display()),
            Member::Object(entry) if entry.is_directory() => format!("{}/", entry.path.display()),
            Member::Object(entry) => {
                format!("{}={}", entry.path.display(), String::from_utf8_lossy(content))
            }
        };
        members.iter().map(line).collect::<Vec<_>>()
    });
    match (got, expect) {
        (Ok(got), Ok(expect)) => assert_eq!(got, expect),
        (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error} / {part}"),
        (got, expect) => panic!("{got:?} instead of {expect:?}"),
    }
}

#[test]
fn tar_47_pax_size_wins() {
    // CVE-2025-62518: a reader that takes the header's size sees the hidden member.
    let (a, hidden) = (file("a", b""), file("hidden", b""));
    let content = String::from_utf8_lossy(&hidden);
    check(&[&pax(b'x', &[("size", b"512")]), &a, &hidden], Ok(&[&format!("a={content}")]));
    let large = file("a", &hidden);
    check(&[&pax(b'x', &[("size", b"0")]), &large], Ok(&["a=", "hidden="]));
}

#[test]
fn tar_47_two_meanings_are_refused() {
    let x = |records| pax(b'x', records);
    let a = file("a", b"1");
    check(&[&x(&[("path", b"b")]), &a], Ok(&["b=1"]));
    check(&[&x(&[("path", b"b")]), &x(&[("path", b"c")]), &a], Err("duplicate PAX"));
    check(&[&x(&[("path", b"b"), ("path", b"c")]), &a], Ok(&["c=1"]));
    let long = raw(&"n".repeat(120), b'0').content(b"1").bytes();
    check(&[&long], Ok(&[&format!("{}=1", "n".repeat(120))]));
    check(&[&x(&[("path", b"b")]), &long], Err("both a GNU and a PAX"));
    check(&[&x(&[("mtime", b"1.5")]), &long], Ok(&[&format!("{}=1", "n".repeat(120))]));
    check(&[&pax(b'g', &[("comment", b"c0ffee")]), &a], Ok(&["a=1"]));
    check(&[&pax(b'g', &[("path", b"b")]), &a], Err("global header sets"));
    check(&[&x(&[("path", b"b")]), &pax(b'g', &[("comment", b"c")]), &a], Err("global header stands"));
    check(&[&x(&[("path", b"b")])], Err(""));
}

#[test]
fn tar_47_malformed_values_are_refused() {
    let a = file("a", b"");
    for (key, value) in [
        ("size", &b"-1"[..]),
        ("size", b""),
        ("size", b"0x10"),
        ("uid", b"99999999999"),
        ("uid", b"4294967295"),
        ("gid", b"root"),
        ("mtime", b"inf"),
        ("path", b""),
        ("path", b"a\0b"),
        ("SCHILY.xattr.", b"x"),
        ("GNU.sparse.size", b"5"),
    ] {
        check(&[&pax(b'x', &[(key, value)]), &a], Err(""));
    }
    let mut cut = pax(b'x', &[("path", b"b")]);
    cut[HEADER_SIZE] = b'8';
    check(&[&cut, &a], Err(""));
    check(&[&raw("a", b'0').patched(124, b"-0000000001\0")], Err(""));
    check(&[&raw("a", b'0').patched(124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")], Err(""));
    check(&[&raw("a", b'0').patched(108, b"12 4567\0")], Err(""));
    check(&[&raw("a", b'0').patched(257, b"uztar  \0")], Err("unknown format"));
    check(&[&raw("a", b'V').bytes()], Err("unknown"));
    check(&[&raw("a/", b'0').bytes()], Err("ends with a slash"));
    check(&[&raw("a", b'5').content(b"x").bytes()], Err("has content"));
    check(&[&raw("a", b'1').link("b").content(b"x").bytes()], Err("has content"));
    check(&[&raw("a", b'2').bytes()], Err("link target"));
}

#[test]
fn tar_54_large_ids_are_read() {
    let members = |uid: &[u8]| {
        let bytes = [pax(b'x', &[("uid", uid)]), file("a", b""), writer::END.to_vec()].concat();
        read_all(&bytes)
    };
    let Member::Object(entry) = &members(b"4294967294").unwrap()[0].0 else { panic!("an object") };
    assert_eq!(entry.uid, u32::MAX - 1);
    assert!(members(b"4294967295").unwrap_err().to_string().contains("uid 4294967295"));
}

#[test]
fn tar_53_ends_are_checked() {
    let a = file("a", b"12");
    check_bytes(&[], Err("cut off"));
    check_bytes(&a, Err("cut off"));
    check_bytes(&[&a[..], &[0; 512]].concat(), Err("cut off"));
    check_bytes(&[&a[..], &[0; 512], &a, &writer::END].concat(), Err("zero block"));
    check_bytes(&[&a[..], &writer::END, &[0; 9 * 512]].concat(), Ok(&["a=12"]));
    check_bytes(&[&a[..], &writer::END, b"x"].concat(), Err("behind its end"));
    check_bytes(&a[..600], Err("cut off"));
}

#[test]
fn tar_44_root_must_be_a_directory() {
    for name in [".", "./", "/", "a/.."] {
        check(&[&raw(name, b'2').link("x").bytes()], Err("root must be a directory"));
        check(&[&raw(name, b'1').link("x").bytes()], Err("root must be a directory"));
        check(&[&raw(name, b'3').device(1, 3).bytes()], Err("root must be a directory"));
        check(&[&raw(name, b'5').bytes()], Ok(&["/"]));
    }
    check(&[&raw("a", b'1').link("./").bytes()], Err("hard link to the root"));
}

#[test]
fn tar_52_names_too_long_are_refused() {
    let check_name =
        |name: &str, expect| check(&[&pax(b'x', &[("path", name.as_bytes())]), &file("a", b"")], expect);
    let deep = "d/".repeat(2047) + "f";
    let listed = format!("{deep}=");
    let listed = [listed.as_str()];
    check_name(&deep, Ok(&listed));
    check_name(&format!("d/{deep}"), Err("too long"));
    check_name(&"n".repeat(256), Err("too long"));
    let target = "t".repeat(4096);
    check(
        &[&pax(b'x', &[("linkpath", target.as_bytes())]), &raw("l", b'2').link("t").bytes()],
        Err("too long"),
    );
}

#[test]
fn ovl_01_whiteout_devices_are_refused() {
    check(&[&raw("gone", b'3').device(0, 0).bytes()], Err("whiteout device"));
    check(&[&raw("block", b'4').device(0, 0).bytes()], Ok(&["block="]));
    check(&[&raw("null", b'3').device(1, 3).bytes()], Ok(&["null="]));
}

#[test]
fn ovl_02_ovl_03_overlay_attributes_are_left_out() {
    let names = ["trusted.overlay.redirect", "user.overlay.whiteout", "user.a", "trusted.overlays"];
    let records: Vec<_> = names.iter().map(|name| (format!("SCHILY.xattr.{name}"), &b"v"[..])).collect();
    let records: Vec<_> = records.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let bytes = [pax(b'x', &records), file("a", b""), writer::END.to_vec()].concat();
    let mut reader = Reader::new(&bytes[..], Limits::default());
    let Some(Member::Object(entry)) = reader.next_member().unwrap() else { panic!("an object") };
    let kept: Vec<_> = entry.xattrs.keys().map(|name| String::from_utf8_lossy(name)).collect();
    assert_eq!(kept, ["trusted.overlays", "user.a"]);
    assert_eq!(reader.take_warnings().len(), 2);
}

#[test]
fn ovl_06_whiteouts() {
    check(&[&file("a/.wh.b", b"")], Ok(&["-a/b"]));
    check(&[&file("a/.wh..wh..opq", b"")], Ok(&["a/!"]));
    check(&[&file(".wh..wh..opq", b"")], Ok(&["/!"]));
    check(&[&raw("a/.wh.b", b'1').link(".wh..wh.aufs").bytes()], Ok(&["-a/b"]));
    check(&[&file(".wh..wh.plnk/12.34", b"x"), &file(".wh..wh.aufs", b"")], Ok(&[]));
    check(&[&file("a/.wh.", b"")], Err("without a name"));
    check(&[&file("a/.wh...", b"")], Err("without a name"));
    check(&[&file("a/.wh.b", b"x")], Err("no empty file"));
    check(&[&raw("a/.wh.b", b'5').bytes()], Err("no empty file"));
    check(&[&raw("a/.wh.b", b'2').link("c").bytes()], Err("no empty file"));
    check(&[&file(".wh.a/b", b"")], Err("inside a whiteout"));
}

#[test]
fn tar_50_limits_stop_early() {
    let many = [file("a", b"12345"), file("b", b"12345"), writer::END.to_vec()].concat();
    let read = |limits| {
        let mut reader = Reader::new(&many[..], limits);
        while reader.next_member()?.is_some() {}
        Ok::<_, TarError>(())
    };
    assert!(read(Limits { entries: 2, bytes: 10, ..Limits::default() }).is_ok());
    let entries = read(Limits { entries: 1, ..Limits::default() });
    assert!(matches!(entries, Err(TarError::Limit(Limit::Entries(1)))));
    let bytes = read(Limits { bytes: 9, ..Limits::default() });
    assert!(matches!(bytes, Err(TarError::Limit(Limit::Bytes(9)))));
    let metadata = read(Limits { metadata: 401, ..Limits::default() });
    assert!(matches!(metadata, Err(TarError::Limit(Limit::Metadata(401)))));
    // A sparse file of 8 EiB costs nothing to write and is refused before anything is read.
    let mut sparse = EntryBuilder::new_gnu();
    sparse.path("s").mode(0o644).unwrap().uid(0).unwrap().gid(0).unwrap().mtime(0).unwrap().size(0).unwrap();
    sparse.entry_type(EntryType::Regular).sparse(&[], 8 << 60);
    check(&[&sparse.finish_bytes()], Err("bytes of files"));
}

#[test]
fn sparse_files_are_read_with_their_holes() {
    let map = |ranges: &[(u64, u64)]| -> Vec<_> {
        ranges
            .iter()
            .map(|(offset, length)| tar_core::SparseEntry { offset: *offset, length: *length })
            .collect()
    };
    for mut builder in [EntryBuilder::new_gnu(), EntryBuilder::new_ustar()] {
        builder.path("s").mode(0o644).unwrap().uid(0).unwrap().gid(0).unwrap().mtime(0).unwrap();
        builder.entry_type(EntryType::Regular).size(4).unwrap().sparse(&map(&[(1, 2), (5, 2)]), 9);
        let mut good = builder.clone().finish_bytes();
        good.extend_from_slice(b"abcd");
        good.resize(good.len().next_multiple_of(512), 0);
        check(&[&good], Ok(&["s=\0ab\0\0cd\0\0"]));
        for bad in [&[(5, 2), (1, 2)][..], &[(1, 2), (2, 2)], &[(1, 2), (8, 2)], &[(1, 2)], &[(0, u64::MAX)]]
        {
            let mut builder = builder.clone();
            let mut bytes = builder.sparse(&map(bad), 9).finish_bytes();
            bytes.extend_from_slice(&[0; 512]);
            check(&[&bytes], Err(""));
        }
    }
}
