//! Packing from memory and from files: identities, changes under way, and what comes back.

use super::*;
use crate::Digest;
use crate::compress::Decoder;
use crate::layer::{Limits, Member, Reader};

fn file(path: &str, bytes: &[u8]) -> Item {
    let kind = Kind::File { size: bytes.len() as u64, content: None };
    Item { entry: Entry::plain(path, kind, 0o644), content: Content::Bytes(bytes.to_vec()) }
}

fn pack_items(items: Vec<Item>, encoding: Encoding) -> Result<Packed<Vec<u8>>, PackError> {
    pack(items.into_iter().map(Ok), encoding, Vec::new())
}

#[test]
fn one_pass_gives_blob_diff_id_and_index() {
    let large = vec![7; 3_000_000];
    for encoding in [Encoding::None, Encoding::GZIP, Encoding::ZSTD] {
        let directory = Item { entry: Entry::directory("etc", 0o755), content: Content::None };
        let items = vec![directory, file("etc/passwd", b"root:x:0:0::/:"), file("large", &large)];
        let packed = pack_items(items, encoding).unwrap();
        let (mut decoder, _) = Decoder::new(&packed.output[..]).unwrap();
        let mut tar = Vec::new();
        decoder.read_to_end(&mut tar).unwrap();
        assert_eq!(DiffId(Digest::of(&tar)), packed.diff_id, "{encoding}");
        assert_eq!(tar.len() as u64, packed.tar_size);
        assert_eq!(packed.index.inline(Path::new("etc/passwd")), Some(&b"root:x:0:0::/:"[..]));
        let Kind::File { content, .. } = packed.index.get(Path::new("large")).unwrap().kind else { panic!() };
        assert_eq!(content.unwrap().0, *blake3::hash(&large).as_bytes());
        let mut reader = Reader::new(&tar[..], Limits::default());
        let mut paths = Vec::new();
        while let Some(member) = reader.next_member().unwrap() {
            let Member::Object(entry) = member else { panic!("an object") };
            paths.push(entry.path);
        }
        let expected: Vec<_> = packed.index.entries().iter().map(|entry| entry.path.clone()).collect();
        assert_eq!(paths, expected);
    }
}

#[test]
fn the_diff_id_does_not_depend_on_the_encoding() {
    let items = || vec![file("a", &[1; 5_000_000]), file("b", b"")];
    let diff_ids: Vec<_> = [Encoding::None, Encoding::GZIP, Encoding::Gzip(9), Encoding::ZSTD]
        .map(|encoding| pack_items(items(), encoding).unwrap().diff_id)
        .into();
    assert!(diff_ids.iter().all(|diff_id| *diff_id == diff_ids[0]));
}

#[test]
fn ctx_07_changes_during_the_build_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let check = |now: &[u8], planned: u64, hash: Option<&[u8]>, expect: &str| {
        std::fs::write(&path, now).unwrap();
        let content = hash.map(|bytes| ContentHash(*blake3::hash(bytes).as_bytes()));
        let entry = Entry::plain("f", Kind::File { size: planned, content }, 0o644);
        let path = path.clone();
        let item = Item { entry, content: Content::open_with(move || std::fs::File::open(path)) };
        match (pack_items(vec![item], Encoding::GZIP), expect) {
            (Ok(_), "") => {}
            (Ok(_), expect) => panic!("not refused: {expect}"),
            (Err(error), expect) => {
                assert!(
                    matches!(error, PackError::Changed { .. }) && error.to_string().contains(expect),
                    "{error}"
                );
            }
        }
    };
    check(b"12345", 5, None, "");
    check(b"12345", 5, Some(b"12345"), "");
    check(b"1234", 5, None, "shorter");
    check(b"", 5, None, "shorter");
    check(b"123456", 5, None, "longer");
    check(b"1", 0, None, "longer");
    check(b"12346", 5, Some(b"12345"), "others");
    let gone = Item {
        entry: Entry::plain("f", Kind::File { size: 1, content: None }, 0o644),
        content: Content::open_with(|| Err(io::ErrorKind::NotFound.into())),
    };
    assert!(matches!(pack_items(vec![gone], Encoding::GZIP), Err(PackError::Source { .. })));
}

#[test]
fn pack_refuses_disorder() {
    let result = pack_items(vec![file("b", b""), file("a", b"")], Encoding::None);
    assert!(matches!(result, Err(PackError::Entry(WriteError::Order { .. }))));
}
