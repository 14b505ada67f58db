//! Packed, unpacked and packed again gives the same bytes.

use oci::digest::Algorithm;
use oci::layer::{Device, Mtime, Xattrs};
use proptest::prelude::*;

use super::*;

fn name() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[abc]", 1 => Just("a-b".to_owned()), 1 => Just("n".repeat(120)), 1 => Just("ü\n".to_owned())]
}

pub(super) fn path() -> impl Strategy<Value = PathBuf> {
    prop::collection::vec(name(), 1..4).prop_map(|parts| parts.iter().collect())
}

fn kind() -> impl Strategy<Value = Kind> {
    let device = (0..4096_u32, 1..1_048_576_u32).prop_map(|(major, minor)| Device { major, minor });
    prop_oneof![
        4 => Just(Kind::File { size: 0, content: None }),
        3 => Just(Kind::Directory { opaque: false }),
        1 => "[a-z./]{1,150}".prop_map(|target| Kind::Symlink { target: target.into() }),
        2 => path().prop_map(|target| Kind::HardLink { target }),
        1 => device.clone().prop_map(Kind::CharDevice),
        1 => device.prop_map(Kind::BlockDevice),
        1 => Just(Kind::Fifo),
        2 => Just(Kind::Whiteout),
    ]
}

fn xattrs(prefix: &'static str) -> impl Strategy<Value = Xattrs> {
    let name = prop::string::string_regex(&format!("{prefix}\\.[a-z.]{{1,10}}")).unwrap();
    let value = prop::collection::vec(any::<u8>(), 0..300);
    prop::collection::btree_map(name.prop_map(String::into_bytes), value, 0..3)
}

/// An object with everything that ext4 and the kernel can hold for its kind.
fn object() -> impl Strategy<Value = Member> {
    let time = (0..8_000_000_000_i64, prop_oneof![Just(0), 0..1_000_000_000_u32]);
    let ids = (prop_oneof![Just(0), 0..u32::MAX], prop_oneof![Just(0), 0..u32::MAX]);
    let attributes = (xattrs("user"), xattrs("trusted"));
    (path(), kind(), 0..=0o7777_u32, ids, time, attributes).prop_map(
        |(path, kind, mode, (uid, gid), (seconds, nanoseconds), (user, trusted))| {
            if kind == Kind::Whiteout {
                return Member::Object(Entry::whiteout(path));
            }
            let is_link = matches!(kind, Kind::Symlink { .. });
            let holds_user = matches!(kind, Kind::File { .. } | Kind::Directory { .. });
            let mut xattrs = trusted;
            if holds_user {
                xattrs.extend(user);
            }
            let mode = if is_link { 0o777 } else { mode };
            let mtime = Mtime { seconds, nanoseconds };
            Member::Object(Entry { path, kind, mode, uid, gid, mtime, xattrs })
        },
    )
}

pub(super) fn members() -> impl Strategy<Value = Vec<Member>> {
    let member = prop_oneof![9 => object(), 1 => path().prop_map(Member::Opaque)];
    prop::collection::vec(member, 0..25)
}

/// Applies as many members as are possible one after another.
pub(super) fn resolvable(members: Vec<Member>) -> Resolved {
    let mut kept = Vec::new();
    let view = oci::layer::MergedView::default();
    for member in members {
        kept.push(member);
        if oci::layer::resolve_onto(&scan_of(kept.clone()), &view).is_err() {
            kept.pop();
        }
    }
    oci::layer::resolve_onto(&scan_of(kept), &view).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tar_48_a_layer_survives_the_disk(members in members()) {
        if !is_root() {
            return Ok(());
        }
        let packed = pack_resolved(&resolvable(members));
        let scratch = scratch();
        let resolved = unpack_tar(&scratch.root, &packed.output).unwrap();
        prop_assert!(resolved.self_contained);
        prop_assert_eq!(&resolved.index, &packed.index);
        let (index, bytes) = pack_again(&scratch.root);
        prop_assert_eq!(&index, &packed.index);
        prop_assert!(bytes == packed.output);
        let from_plan = super::scratch();
        let mut content = |entry: &Entry| Ok(crate::diff::content(&scratch.root, &entry.path));
        unpack_shared(from_plan.root.as_fd(), &index, Flavour::Root, &mut content, 1).unwrap();
        prop_assert!(pack_again(&from_plan.root).1 == packed.output);
        let (files, streamed_root) = (super::scratch(), super::scratch());
        let streamed = stream(files.root.as_fd(), &packed.output[..], Limits::default(), Algorithm::Sha256, Flavour::Root).unwrap();
        let resolved = oci::layer::resolve(&streamed.scan).unwrap();
        let below = &mut |_, _: &Path| Err(io::ErrorKind::NotFound.into());
        let (to, from) = (streamed_root.root.as_fd(), files.root.as_fd());
        assemble(to, from, &streamed, &resolved, Flavour::Root, below).unwrap();
        prop_assert!(pack_again(&streamed_root.root).1 == packed.output);
    }
}

#[test]
fn a_changed_source_is_noticed() {
    let scratch = scratch();
    let hash = oci::layer::ContentHash(*blake3::hash(b"12345").as_bytes());
    let check = |bytes: &[u8], fits: bool| {
        let entry = Entry::plain("f", Kind::File { size: 5, content: Some(hash) }, 0o644);
        let index = LayerIndex::new(vec![entry], BTreeMap::new()).unwrap();
        let inner = tempfile::tempdir_in(scratch.dir.path()).unwrap();
        let root = open_root(inner.path()).unwrap();
        let mut content = |_: &Entry| Ok(Content::Bytes(bytes.to_vec()));
        let result = unpack_index(root.as_fd(), &index, Flavour::Root, &mut content);
        assert_eq!(result.is_ok(), fits, "{bytes:?}");
    };
    if is_root() {
        check(b"12345", true);
        check(b"1234", false);
        check(b"123456", false);
        check(b"12346", false);
    }
}

#[test]
fn tar_52_deep_trees_cost_neither_stack_nor_handles() {
    if !is_root() {
        return;
    }
    let mut path = PathBuf::new();
    let mut entries = Vec::new();
    for _ in 0..2000 {
        path.push("d");
        entries.push(Entry::directory(&path, 0o755));
    }
    entries.push(Entry::plain(path.join("f"), Kind::File { size: 0, content: None }, 0o644));
    let items = entries.into_iter().map(|entry| Item { entry, content: Content::None });
    let packed = pack_items(items);
    let scratch = scratch();
    unpack_tar(&scratch.root, &packed.output).unwrap();
    assert!(pack_again(&scratch.root).1 == packed.output);
}
