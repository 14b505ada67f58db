//! Notes of where blobs are: layers that the store lacks, and what was pushed to a registry. They live in the store's
//! `sources/`; without a note more is asked or sent, nothing else.

use std::path::PathBuf;

use oci::Digest;
use oci::document::{self, Manifest};
use oci::reference::Reference;
use oci::store::Store;

use crate::failure::Failure;

/// Notes that the layers of `manifest` are in the repository of `reference`.
///
/// # Errors
/// Store failures.
pub fn note_places(store: &Store, reference: &Reference, manifest: &Manifest) -> Result<(), Failure> {
    let place = reference.to_string();
    for layer in manifest.parsed.layers() {
        let digest = document::digest_of(layer).map_err(oci::Error::from)?;
        store.replace(&source_path(store, &place_key(&digest)), place.as_bytes())?;
    }
    Ok(())
}

/// Notes that a blob was pushed to the repository of `reference`: others of the registry can link it from there.
///
/// # Errors
/// Store failures.
pub fn note_pushed(store: &Store, reference: &Reference, digest: &Digest) -> Result<(), Failure> {
    let path = source_path(store, &pushed_key(&reference.registry, digest));
    Ok(store.replace(&path, reference.to_string().as_bytes())?)
}

/// Returns the repository of a registry that a blob was pushed to last, where it was.
pub fn pushed(store: &Store, registry: &str, digest: &Digest) -> Option<Reference> {
    std::fs::read_to_string(source_path(store, &pushed_key(registry, digest))).ok()?.parse().ok()
}

/// Returns where a layer that is not in the store can be had, where that is known.
pub fn place(store: &Store, digest: &Digest) -> Option<Reference> {
    std::fs::read_to_string(source_path(store, &place_key(digest))).ok()?.parse().ok()
}

fn place_key(digest: &Digest) -> String {
    blake3::hash(format!("layer {digest}").as_bytes()).to_hex().to_string()
}

fn pushed_key(registry: &str, digest: &Digest) -> String {
    blake3::hash(format!("pushed {registry} {digest}").as_bytes()).to_hex().to_string()
}

/// Returns the path of a note, or of what else is known of a source.
pub fn source_path(store: &Store, key: &str) -> PathBuf {
    store.root().join("sources").join(key)
}
