//! Random stacks: the model of layers on layers against the kernel's overlay of what was unpacked.

use oci::layer::MergedView;
use proptest::prelude::*;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use super::round_trip::members;
use super::*;

/// Mounts `lowers`, the lowest first, detached; nothing becomes visible to other processes.
pub(super) fn mount(lowers: &[&Scratch], empty: &Scratch) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let paths: Vec<_> = [empty]
        .into_iter()
        .chain(lowers.iter().copied())
        .rev()
        .map(|layer| layer.dir.path().join("fs"))
        .collect();
    let joined: Vec<_> = paths.iter().map(|path| path.to_str().unwrap()).collect();
    fsconfig_set_string(&context, "lowerdir", joined.join(":"))?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// In a directory that only one layer has, overlayfs lists a whiteout as a name that does not exist.
pub(super) fn without_idle_whiteouts(index: &LayerIndex, below: &MergedView<'_>) -> LayerIndex {
    let works = |entry: &&Entry| entry.kind != Kind::Whiteout || below.lstat(&entry.path).is_some();
    LayerIndex::new(index.entries().iter().filter(works).cloned().collect(), BTreeMap::new()).unwrap()
}

/// What a merged tree shows, one line a path.
fn model_lines(view: &MergedView<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        if let Some(found) = view.lstat(&path).filter(|_| path != Path::new("")) {
            let inode = view.layers()[found.layer].inode_of(found.entry).unwrap();
            lines.push(line(&Entry { path: path.clone(), ..inode.clone() }));
        }
        let children: Vec<_> = children_of(view, &path);
        pending.extend(children.into_iter().rev());
    }
    lines
}

fn children_of(view: &MergedView<'_>, directory: &Path) -> Vec<PathBuf> {
    view.children(directory).iter().map(|found| found.entry.path.clone()).collect()
}

fn line(entry: &Entry) -> String {
    let Entry { path, mode, uid, gid, mtime, xattrs, .. } = entry;
    let kind = match &entry.kind {
        Kind::File { size, .. } => format!("file {size}"),
        Kind::Directory { .. } => "directory".to_owned(),
        other => format!("{other:?}"),
    };
    format!("{path:?} {kind} {mode:o} {uid}:{gid} {mtime:?} {xattrs:?}")
}

/// What the mounted tree shows; hard links are told by their objects, as overlayfs may give each its own inode.
fn mounted_lines(mounted: &OwnedFd) -> Vec<String> {
    let options = crate::diff::Options { flavour: Flavour::Root, epoch: None, stubs: &[] };
    let upper = crate::diff::scan(mounted.as_fd(), options).unwrap();
    let by_path: BTreeMap<_, _> = upper.entries.iter().map(|entry| (&entry.path, entry)).collect();
    let resolve = |entry: &Entry| match &entry.kind {
        Kind::HardLink { target } => line(&Entry { path: entry.path.clone(), ..by_path[target].clone() }),
        _ => line(entry),
    };
    upper.entries.iter().map(resolve).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn tar_46_overlayfs_shows_what_the_model_says(stack in prop::collection::vec(members(), 1..4)) {
        if !is_root() {
            return Ok(());
        }
        let mut indexes: Vec<LayerIndex> = Vec::new();
        let mut layers: Vec<Scratch> = Vec::new();
        for members in stack {
            let view = MergedView::new(indexes.iter().collect());
            let mut kept = Vec::new();
            for member in members {
                kept.push(member);
                let scan = scan_of(kept.clone());
                if oci::layer::resolve_onto(&scan, &view).is_err() {
                    kept.pop();
                }
            }
            let resolved = oci::layer::resolve_onto(&scan_of(kept), &view).unwrap();
            let layer = scratch();
            let mut content = {
                let by_path: BTreeMap<_, _> =
                    resolved.index.entries().iter().map(|entry| entry.path.clone()).zip(&resolved.sources).collect();
                move |entry: &Entry| Ok(match by_path[&entry.path] {
                    Source::Member(position) => Content::Bytes(bytes_of(*position)[..entry.size() as usize].to_vec()),
                    Source::None | Source::Below { .. } => Content::None,
                })
            };
            let index = without_idle_whiteouts(&resolved.index, &view);
            unpack_index(layer.root.as_fd(), &index, Flavour::Root, &mut content).unwrap();
            layers.push(layer);
            indexes.push(index);
        }
        let empty = scratch();
        let mounted = match mount(&layers.iter().collect::<Vec<_>>(), &empty) {
            Ok(mounted) => mounted,
            Err(error) => {
                skip(&format!("no overlay mounts here: {error}"));
                return Ok(());
            }
        };
        let view = MergedView::new(indexes.iter().collect());
        prop_assert_eq!(mounted_lines(&mounted), model_lines(&view));
    }
}
