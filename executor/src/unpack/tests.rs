//! Layers on disk: nothing gets out, everything comes back, and overlayfs shows what the model says.

mod breakouts;
mod changes;
mod overlay;
mod round_trip;
mod threads;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use oci::compress::Encoding;
use oci::layer::{LayerIndex, Scan};
use oci::pack::{Item, Packed};
use oci::{DiffId, Digest};

use super::*;
use crate::tree::open_root;

pub(super) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("needs root: owners, devices and trusted attributes");
    }
    root
}

#[expect(clippy::disallowed_methods, reason = "strictness of tests is the tester's environment")]
pub(super) fn skip(why: &str) {
    println!("SKIP: {why}");
    assert!(std::env::var_os("XBUILD_TEST_STRICT").is_none(), "{why}");
}

pub(super) struct Scratch {
    pub dir: tempfile::TempDir,
    pub root: Arc<OwnedFd>,
}

/// A directory whose `fs` is the root of a layer.
pub(super) fn scratch() -> Scratch {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("fs")).unwrap();
    let root = Arc::new(open_root(&dir.path().join("fs")).unwrap());
    Scratch { dir, root }
}

pub(super) fn scan_of(members: Vec<Member>) -> Scan {
    let (diff_id, inline) = (DiffId(Digest::of(b"")), BTreeMap::new());
    Scan { members, inline, diff_id, size: 0, warnings: Vec::new() }
}

/// The bytes of the file that the member at `position` brings: of every size around block and buffer borders.
pub(super) fn bytes_of(position: usize) -> Vec<u8> {
    let size = [0, 1, 511, 512, 513, 5000, 300_000][position % 7];
    (0..size).map(|at| (at * 7 + position) as u8).collect()
}

pub(super) fn pack_items(items: impl Iterator<Item = Item>) -> Packed<Vec<u8>> {
    oci::pack::pack(items.map(Ok::<_, oci::pack::PackError>), Encoding::None, Vec::new()).unwrap()
}

/// Packs what `scan` amounts to.
pub(super) fn pack_resolved(resolved: &Resolved) -> Packed<Vec<u8>> {
    let item = |(entry, source): (&Entry, &Source)| {
        let mut entry = entry.clone();
        let mut content = Content::None;
        if let (Kind::File { size, content: hash }, Source::Member(position)) = (&mut entry.kind, source) {
            let bytes = bytes_of(*position);
            (*size, *hash) = (bytes.len() as u64, None);
            content = Content::Bytes(bytes);
        }
        Item { entry, content }
    };
    pack_items(resolved.index.entries().iter().zip(&resolved.sources).map(item))
}

pub(super) fn unpack_tar(root: &OwnedFd, tar: &[u8]) -> Result<Resolved, String> {
    let scan = oci::layer::scan(tar, Limits::default(), oci::digest::Algorithm::Sha256)
        .map_err(|error| error.to_string())?;
    let resolved = oci::layer::resolve(&scan).map_err(|error| error.to_string())?;
    let below = &mut |_, _: &Path| Err(io::ErrorKind::NotFound.into());
    let left_out = unpack_archive(root.as_fd(), &resolved, tar, Limits::default(), Flavour::Root, below);
    assert_eq!(left_out.map_err(|error| error.to_string())?, []);
    Ok(resolved)
}

/// Returns what is on disk, packed again.
pub(super) fn pack_again(root: &Arc<OwnedFd>) -> (LayerIndex, Vec<u8>) {
    let options = crate::diff::Options { flavour: Flavour::Root, epoch: None, stubs: &[] };
    let upper = crate::diff::scan(root.as_fd(), options).unwrap();
    let packed = pack_items(upper.items(root));
    (packed.index, packed.output)
}
