//! Random layers: changes stacked on an older layer against the newer layer itself, both through overlayfs.

use oci::layer::MergedView;
use proptest::prelude::*;

use super::overlay::{mount, without_idle_whiteouts};
use super::round_trip::members;
use super::*;
use crate::layers::all_changes;

/// What happens to a member of the older layer.
#[derive(Debug, Clone, Copy)]
enum Edit {
    Keep,
    Drop,
    Touch,
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    prop::collection::vec(
        prop_oneof![8 => Just(Edit::Keep), 1 => Just(Edit::Drop), 1 => Just(Edit::Touch)],
        25,
    )
}

fn edited(members: &[Member], edits: &[Edit], more: Vec<Member>) -> Vec<Member> {
    let edit = |(member, edit): (&Member, &Edit)| match (member, edit) {
        (_, Edit::Drop) => None,
        (Member::Object(entry), Edit::Touch) => {
            let mut entry = entry.clone();
            entry.mtime.seconds += 1;
            Some(Member::Object(entry))
        }
        (member, Edit::Keep | Edit::Touch) => Some(member.clone()),
    };
    members.iter().zip(edits).filter_map(edit).chain(more).collect()
}

/// Bytes that differ where path or time do.
fn bytes(entry: &Entry) -> Vec<u8> {
    format!("{:?} {}", entry.path, entry.mtime.seconds).into_bytes()
}

/// Applies as many members as are possible, and gives every file bytes and their hash.
fn index(members: Vec<Member>, below: &MergedView<'_>) -> LayerIndex {
    let mut kept = Vec::new();
    for member in members {
        kept.push(member);
        if oci::layer::resolve_onto(&scan_of(kept.clone()), below).is_err() {
            kept.pop();
        }
    }
    let resolved = oci::layer::resolve_onto(&scan_of(kept), below).unwrap();
    let with_bytes = |entry: &Entry| match entry.kind {
        Kind::File { .. } => {
            let bytes = bytes(entry);
            let content = Some(oci::layer::ContentHash(*blake3::hash(&bytes).as_bytes()));
            Entry { kind: Kind::File { size: bytes.len() as u64, content }, ..entry.clone() }
        }
        _ => entry.clone(),
    };
    let entries = resolved.index.entries().iter().map(with_bytes).collect();
    without_idle_whiteouts(&LayerIndex::new(entries, BTreeMap::new()).unwrap(), below)
}

fn unpacked(index: &LayerIndex) -> Scratch {
    let layer = scratch();
    let mut content = |entry: &Entry| Ok(Content::Bytes(bytes(entry)));
    unpack_index(layer.root.as_fd(), index, Flavour::Root, &mut content).unwrap();
    layer
}

/// Everything that the mounted layers show, bytes and hard links included.
fn shown(layers: &[&Scratch], empty: &Scratch) -> io::Result<(LayerIndex, Vec<u8>)> {
    Ok(pack_again(&Arc::new(mount(layers, empty)?)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn changes_on_an_older_layer_show_the_newer_one(
        below in prop::collection::vec(members(), 0..3),
        first in members(),
        edits in edits(),
        more in prop_oneof![2 => Just(Vec::new()), 1 => members()],
    ) {
        if !is_root() {
            return Ok(());
        }
        let mut indexes: Vec<LayerIndex> = Vec::new();
        for members in below {
            let index = index(members, &MergedView::new(indexes.iter().collect()));
            indexes.push(index);
        }
        let view = MergedView::new(indexes.iter().collect());
        let old = index(first.clone(), &view);
        let new = index(edited(&first, &edits, more.into_iter().take(2).collect()), &view);
        let Some(changes) = all_changes(&old, &new, view.layers()) else { return Ok(()) };
        let below: Vec<Scratch> = indexes.iter().map(unpacked).collect();
        let (old, new, changes, empty) = (unpacked(&old), unpacked(&new), unpacked(&changes), scratch());
        let below = below.iter();
        let whole = match shown(&below.clone().chain([&new]).collect::<Vec<_>>(), &empty) {
            Ok(whole) => whole,
            Err(error) => {
                skip(&format!("no overlay mounts here: {error}"));
                return Ok(());
            }
        };
        let stacked = shown(&below.chain([&old, &changes]).collect::<Vec<_>>(), &empty).unwrap();
        prop_assert_eq!(&stacked.0, &whole.0);
        prop_assert!(stacked.1 == whole.1);
    }
}
