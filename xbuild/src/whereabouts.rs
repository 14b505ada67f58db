//! Notes of where blobs are: layers that the store lacks, and what was pushed to a registry. They live in the store's
//! `sources/`; without a note more is asked or sent, nothing else.
//!
//! The note of a layer has a place in each line: the one that it was named at last, then others that it was pushed to,
//! which are asked where the first cannot serve it any more.

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
    for layer in manifest.parsed.layers() {
        let digest = document::digest_of(layer).map_err(oci::Error::from)?;
        let mut all = places(store, &digest);
        all.retain(|place| place.place() != reference.place());
        all.insert(0, reference.clone());
        write(store, &digest, &all)?;
    }
    Ok(())
}

/// Most places of one layer.
const PLACES: usize = 4;

fn write(store: &Store, digest: &Digest, places: &[Reference]) -> Result<(), Failure> {
    let lines: Vec<String> = places.iter().take(PLACES).map(Reference::to_string).collect();
    Ok(store.replace(&source_path(store, &place_key(digest)), lines.join("\n").as_bytes())?)
}

/// Notes that a blob was pushed to the repository of `reference`: others of the registry can link it from there.
///
/// # Errors
/// Store failures.
pub fn note_pushed(store: &Store, reference: &Reference, digest: &Digest) -> Result<(), Failure> {
    let path = source_path(store, &pushed_key(&reference.registry, digest));
    store.replace(&path, reference.to_string().as_bytes())?;
    let mut all = places(store, digest);
    // What has no note is in the store.
    if all.is_empty() || all.iter().any(|place| place.place() == reference.place()) {
        return Ok(());
    }
    all.insert(1, reference.clone());
    write(store, digest, &all)
}

/// Returns the repository of a registry that a blob was pushed to last, where it was.
pub fn pushed(store: &Store, registry: &str, digest: &Digest) -> Option<Reference> {
    std::fs::read_to_string(source_path(store, &pushed_key(registry, digest))).ok()?.parse().ok()
}

/// Returns where a layer that is not in the store can be had, where that is known.
pub fn place(store: &Store, digest: &Digest) -> Option<Reference> {
    places(store, digest).into_iter().next()
}

/// Returns where else a layer can be had than at `first`.
pub fn others(store: &Store, digest: &Digest, first: &Reference) -> Vec<Reference> {
    let mut all = places(store, digest);
    all.retain(|place| place.place() != first.place());
    all
}

/// Says where a layer is that registries need not have. What a manifest names there is not followed: it may lead
/// anywhere (reliability IMG-05).
pub fn elsewhere(url: &str) -> String {
    format!("the layer is marked as not to be distributed: its maker has it at {url}, which is not followed")
}

/// Says that the next place is asked.
pub fn next(error: &oci::registry::Error, place: &Reference) -> String {
    format!("{error}; it is asked for at {}", place.place())
}

fn places(store: &Store, digest: &Digest) -> Vec<Reference> {
    let note = std::fs::read_to_string(source_path(store, &place_key(digest))).unwrap_or_default();
    note.lines().filter_map(|line| line.parse().ok()).collect()
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
