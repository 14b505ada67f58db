//! Tests of the tar form as a whole: round trips, refusals, and what other readers make of our archives.

mod differential;
mod refusals;

use std::io::{Read, Write};
use std::path::Path;

use proptest::prelude::*;

use super::*;

/// Writes `entries` with `bytes(entry)` as content.
pub(super) fn archive(entries: &[Entry], bytes: impl Fn(&Entry) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::default();
    for entry in entries {
        encoder.entry(entry, &mut out).unwrap();
        if let Kind::File { size, .. } = entry.kind {
            let content = bytes(entry);
            assert_eq!(content.len() as u64, size);
            out.write_all(&content).unwrap();
            out.resize(out.len() + writer::padding(size), 0);
        }
    }
    out.extend_from_slice(&writer::END);
    out
}

/// Reads everything; content beside each file.
pub(super) fn read_all(bytes: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, TarError> {
    let mut reader = Reader::new(bytes, Limits::default());
    let mut members = Vec::new();
    while let Some(member) = reader.next_member()? {
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        members.push((member, content));
    }
    Ok(members)
}

pub(super) fn content_of(entry: &Entry) -> Vec<u8> {
    let seed = entry.path.as_os_str().len() as u8;
    (0..entry.size()).map(|at| seed.wrapping_add(at as u8)).collect()
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[abc]", "[a-z. -]{1,12}", "[a-z]{60}", "ü\n[a-z]{1,3}"]
        .prop_filter("no special names", |name| !matches!(name.as_str(), "." | ".."))
        .prop_filter("not reserved", |name| !name.starts_with(".wh."))
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(name(), 1..5).prop_map(|parts| parts.join("/"))
}

fn kind() -> impl Strategy<Value = Kind> {
    let device = (0..4096_u32, 1..1_048_576_u32).prop_map(|(major, minor)| Device { major, minor });
    prop_oneof![
        4 => (0..2000_u64).prop_map(|size| Kind::File { size, content: None }),
        2 => any::<bool>().prop_map(|opaque| Kind::Directory { opaque }),
        1 => "[a-z./ ]{1,150}".prop_map(|target| Kind::Symlink { target: target.into() }),
        1 => path().prop_map(|target| Kind::HardLink { target: target.into() }),
        1 => device.clone().prop_map(Kind::CharDevice),
        1 => device.prop_map(Kind::BlockDevice),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Whiteout),
    ]
}

fn xattrs() -> impl Strategy<Value = Xattrs> {
    let name = "(user|trusted|security)\\.[a-z.]{1,10}".prop_map(String::into_bytes);
    prop::collection::btree_map(name, prop::collection::vec(any::<u8>(), 0..40), 0..3)
}

fn entry() -> impl Strategy<Value = Entry> {
    let seconds = prop_oneof![0..2_000_000_000_i64, -10_000_000_000..20_000_000_000_i64];
    let nanoseconds = prop_oneof![Just(0), 0..1_000_000_000_u32];
    let id = || prop_oneof![Just(0), 0..u32::MAX];
    (path(), kind(), 0..=0o7777_u32, id(), id(), seconds, nanoseconds, xattrs()).prop_map(
        |(path, kind, mode, uid, gid, seconds, nanoseconds, xattrs)| {
            if kind == Kind::Whiteout {
                return Entry::whiteout(path);
            }
            let mtime = Mtime { seconds, nanoseconds };
            Entry { path: path.into(), kind, mode, uid, gid, mtime, xattrs }
        },
    )
}

pub(super) fn entries() -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec(entry(), 0..12).prop_map(|mut entries| {
        entries.sort_by(|left, right| left.path.cmp(&right.path));
        entries.dedup_by(|left, right| left.path == right.path);
        entries
    })
}

proptest! {
    #[test]
    fn tar_48_entries_survive_the_tar_form(entries in entries()) {
        let bytes = archive(&entries, content_of);
        prop_assert_eq!(bytes.len() % 512, 0);
        let mut back: Vec<Entry> = Vec::new();
        for (member, content) in read_all(&bytes).unwrap() {
            match member {
                Member::Object(entry) => {
                    if matches!(entry.kind, Kind::File { .. }) {
                        prop_assert_eq!(&content, &content_of(&entry));
                    }
                    back.push(entry);
                }
                Member::Opaque(path) => {
                    let directory = back.last_mut().unwrap();
                    prop_assert_eq!(&directory.path, &path);
                    directory.kind = Kind::Directory { opaque: true };
                }
            }
        }
        prop_assert_eq!(&back, &entries);
        prop_assert_eq!(archive(&back, content_of), bytes, "the same bytes again");
    }

    #[test]
    fn tar_47_mutated_archives_never_panic(entries in entries(), at in any::<prop::sample::Index>(), with: u8) {
        let mut bytes = archive(&entries, content_of);
        let at = at.index(bytes.len());
        bytes[at] = with;
        let _ = read_all(&bytes);
        let _ = read_all(&bytes[..at]);
    }
}

#[test]
fn the_empty_layer_is_two_zero_blocks() {
    // Its diff id is known to every tool: sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef.
    let digest = crate::Digest::of(&archive(&[], content_of));
    assert_eq!(&digest.hex()[..12], "5f70bf18a086");
    assert!(read_all(&writer::END).unwrap().is_empty());
}

#[test]
fn root_directory_is_the_empty_path() {
    let bytes = archive(&[Entry::directory("", 0o700)], content_of);
    let [(Member::Object(root), _)] = &read_all(&bytes).unwrap()[..] else { panic!("one member") };
    assert_eq!((root.path.as_path(), root.mode), (Path::new(""), 0o700));
}
