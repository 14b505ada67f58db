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

/// Files with hashes, as a COPY plans them: text, a little different in each.
fn hashed(count: usize, edit: &[(usize, &str)]) -> Vec<Item> {
    let text = |number: usize| {
        let edited = edit.iter().find(|(at, _)| *at == number).map_or("", |(_, text)| text);
        format!("{edited}{}", format!("line {number} of the file\n").repeat(100 + number % 37))
    };
    let item = |number: usize| {
        let bytes = text(number).into_bytes();
        let content = Some(ContentHash(*blake3::hash(&bytes).as_bytes()));
        let kind = Kind::File { size: bytes.len() as u64, content };
        let entry = Entry::plain(format!("f{number:05}"), kind, 0o644);
        Item { entry, content: Content::Bytes(bytes) }
    };
    (0..count).map(item).collect()
}

/// Packs knowing the chunks of `earlier`; returns also how many of them were taken.
fn pack_after(
    items: Vec<Item>,
    earlier: &Packed<Vec<u8>>,
    damage: impl Fn(&mut [u8]),
) -> (Packed<Vec<u8>>, usize) {
    let mut blob = earlier.output.clone();
    damage(&mut blob);
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, &blob).unwrap();
    let digest = Digest::of(&earlier.output);
    let known = pieces::known(&pieces::encode(&digest, &earlier.pieces), &digest, file).unwrap();
    let taken = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counting: Known = {
        let taken = std::sync::Arc::clone(&taken);
        std::sync::Arc::new(move |name| {
            let bytes = known(name)?;
            taken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Some(bytes)
        })
    };
    let packed =
        pack_knowing(items.into_iter().map(Ok::<_, PackError>), Encoding::GZIP, Vec::new(), Some(counting));
    (packed.unwrap(), taken.load(std::sync::atomic::Ordering::Relaxed))
}

#[test]
fn chunks_of_an_earlier_blob_are_copied_and_the_blob_is_the_same() {
    let earlier = pack_items(hashed(3000, &[]), Encoding::GZIP).unwrap();
    assert!(earlier.pieces.len() > 8, "{}", earlier.pieces.len());
    let check = |items: &dyn Fn() -> Vec<Item>, fewer: usize| {
        let fresh = pack_items(items(), Encoding::GZIP).unwrap();
        let (packed, taken) = pack_after(items(), &earlier, |_| {});
        assert!(packed.output == fresh.output && packed.pieces == fresh.pieces);
        assert_eq!(packed.diff_id, fresh.diff_id);
        assert!(taken + fewer >= fresh.pieces.len(), "{taken} of {}", fresh.pieces.len());
    };
    check(&|| hashed(3000, &[]), 0);
    check(&|| hashed(3000, &[(1500, "edited\n")]), 3);
    check(&|| hashed(3000, &[(1, &"longer by blocks\n".repeat(200))]), 3);
    check(&|| hashed(3001, &[]), 1);
    let removed = || {
        let mut items = hashed(3000, &[]);
        items.remove(700);
        items
    };
    check(&removed, 3);
}

#[test]
fn a_damaged_earlier_blob_costs_time_only() {
    let earlier = pack_items(hashed(3000, &[]), Encoding::GZIP).unwrap();
    let first = earlier.pieces[0].length as usize;
    let (packed, taken) = pack_after(hashed(3000, &[]), &earlier, |blob| blob[first / 2] ^= 1);
    assert!(packed.output == earlier.output);
    assert_eq!(taken, earlier.pieces.len() - 1);
    let digest = Digest::of(&earlier.output);
    let mut bytes = pieces::encode(&digest, &earlier.pieces);
    let file = || tempfile::tempfile().unwrap();
    assert!(pieces::known(&bytes, &Digest::of(b"another blob"), file()).is_none());
    assert!(pieces::known(&bytes[..bytes.len() - 1], &digest, file()).is_none());
    let known = pieces::known(&bytes, &digest, file()).unwrap();
    assert!(known(&earlier.pieces[0].name).is_none(), "the blob is too short");
    bytes[100] ^= 1;
    assert!(pieces::known(&bytes, &digest, file()).is_none());
}

#[test]
fn chunks_with_files_that_nobody_hashed_have_no_names() {
    let unhashed = || {
        let mut items = hashed(1000, &[]);
        for item in &mut items {
            let Kind::File { content, .. } = &mut item.entry.kind else { panic!("files only") };
            *content = None;
        }
        items
    };
    let packed = pack_items(unhashed(), Encoding::GZIP).unwrap();
    assert_eq!(packed.pieces, []);
    assert!(packed.output == pack_items(hashed(1000, &[]), Encoding::GZIP).unwrap().output);
}

#[test]
fn names_tell_all_that_chunks_consist_of() {
    let large = |byte: u8, mode: u32| {
        let bytes = vec![byte; 5_000_000];
        let content = Some(ContentHash(*blake3::hash(&bytes).as_bytes()));
        let entry = Entry::plain("large", Kind::File { size: bytes.len() as u64, content }, mode);
        let item = Item { entry, content: Content::Bytes(bytes) };
        pack_items(vec![item], Encoding::GZIP).unwrap().pieces
    };
    let names = |pieces: Vec<Piece>| pieces.into_iter().map(|piece| piece.name).collect::<Vec<_>>();
    let (one, other, mode) = (names(large(1, 0o644)), names(large(2, 0o644)), names(large(1, 0o600)));
    assert_eq!(one.len(), 5);
    assert!(one.iter().all(|name| !other.contains(name)));
    assert_ne!(one[0], mode[0]);
    assert_eq!(one[1..], mode[1..], "the same parts of the same file");
    assert!(one.windows(2).all(|pair| pair[0] != pair[1]));
}
