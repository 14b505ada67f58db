//! What an index needs of an image, brought into the store: all documents, configs, and the blobs that are in a layout
//! or an archive. Layers of a registry stay there; where that is, is noted.

use oci::document::Descriptor;
use oci::store::{Lease, Leased};

use super::Places;
use super::contents::Contents;
use super::fill::{bring, put_documents, remember};
use super::pack;
use super::place::Blob;
use super::source::Source;
use crate::failure::Failure;

/// Brings them, under `lease`; returns all that the image consists of.
///
/// # Errors
/// Source failures of what cannot be read, resource failures of the store.
pub async fn gather(places: &Places, source: &mut Source, lease: &Lease) -> Result<Contents, Failure> {
    let store = places.store()?.clone();
    pack::pack(places, source, store.layout()).await?;
    let contents = Contents::of(source).await?;
    let blobs: Vec<_> = contents.blobs.keys().copied().map(Leased::Blob).collect();
    lease.add(&blobs)?;
    let configs = contents.manifests().map(|manifest| manifest.parsed.config());
    let configs: Vec<&Descriptor> = configs.collect();
    for (digest, descriptor) in &contents.blobs {
        if store.layout().size(digest)? == Some(descriptor.size()) {
            continue;
        }
        let is_config = configs.iter().any(|config| config.digest() == descriptor.digest());
        match source.blob(descriptor)? {
            Blob::Remote(_) if !is_config => continue,
            // The source keeps it: who makes the index reads it for its platform.
            Blob::Remote(_) => drop(source.small(descriptor).await?),
            Blob::Bytes(_) | Blob::Kept(_) | Blob::Foreign(_) => {}
        }
        bring(store.layout(), source, digest, descriptor).await?;
    }
    put_documents(store.layout(), &contents)?;
    remember(&store, source, &contents)?;
    Ok(contents)
}
