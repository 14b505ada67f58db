//! Images in every place that one can be in: opened as a source, written to a target.
//!
//! In reading order: `archive` (tar files by offset), `docker` (what `docker save` writes), `choose` (one of a layout's
//! images), `place` (where the bytes of blobs are), `damage` (blobs of the store that are wrong), `source` (an opened
//! image: documents by digest, blobs wherever they are), `contents` (all that an image consists of), `pack` (uncompressed
//! layers to gzip), `fill` (blobs into a layout), `remote` (those of registries into archives), `written` (what comes of
//! writing), `archiving` (archives), `push` (registries), `target` (any of them, the store, layouts), `gather` (what an
//! index needs in the store). Whatever is read is verified on the way; documents travel as the bytes they are, so a copy
//! has its original's digest.

mod archive;
mod archiving;
mod choose;
mod contents;
pub mod damage;
mod docker;
mod fill;
mod gather;
mod pack;
mod place;
mod push;
mod remote;
mod source;
mod target;
mod written;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use oci::Platform;
use oci::layout::Layout;
use oci::registry::Client;
use oci::store::{Staging, Store};

pub use archiving::standard_output;
pub use contents::Contents;
pub use gather::gather;
pub use push::stored;
pub use source::{Absent, Source, archived, listed};
pub use target::{abandon, into_store, write};
pub use written::{check_digest, shown};

use crate::failure::Failure;
use crate::image::{self, StoredImage};
use crate::location::Location;
use crate::registries::Registries;

/// What opening and writing images may need; nothing of it is made before it is needed.
pub struct Places {
    root: PathBuf,
    registries: Arc<Registries>,
    store: OnceLock<Arc<Store>>,
    staging: OnceLock<Staging>,
    files: AtomicU32,
}

impl Places {
    /// `root` is where the store is or will be.
    pub fn new(root: PathBuf, registries: Arc<Registries>) -> Self {
        let (store, staging) = (OnceLock::new(), OnceLock::new());
        Self { root, registries, store, staging, files: AtomicU32::new(0) }
    }

    /// Works with a store that is open already.
    pub fn of_store(store: Arc<Store>, registries: Arc<Registries>) -> Self {
        let places = Self::new(store.root().to_owned(), registries);
        // It is set nowhere else.
        let _ = places.store.set(store);
        places
    }

    /// Returns the store, opening it the first time.
    ///
    /// # Errors
    /// Store failures.
    pub fn store(&self) -> Result<&Arc<Store>, Failure> {
        if self.store.get().is_none() {
            // Of two that open it, one is kept.
            let _ = self.store.set(Arc::new(crate::open(Some(self.root.clone()))?));
        }
        Ok(self.store.get().expect("it was set"))
    }

    /// Returns the registry client.
    ///
    /// # Errors
    /// Where what the user says about registries is wrong.
    pub fn client(&self) -> Result<&Client, Failure> {
        self.registries.client()
    }

    /// Returns what makes the registry client.
    pub fn registries(&self) -> &Registries {
        &self.registries
    }

    /// Tells the user something beside the result.
    pub fn tell(&self, text: String) {
        self.registries.tell(text);
    }

    /// Returns the path of a new file in the store's staging, gone when the command is over.
    fn scratch_file(&self) -> Result<PathBuf, Failure> {
        if self.staging.get().is_none() {
            let _ = self.staging.set(self.store()?.staging()?);
        }
        let staging = self.staging.get().expect("it was set");
        Ok(staging.path().join(format!("image-{}", self.files.fetch_add(1, Ordering::Relaxed))))
    }

    /// Returns a new, empty layout in the store's staging, gone when the command is over.
    fn scratch_layout(&self) -> Result<Layout, Failure> {
        Ok(Layout::create(&self.scratch_file()?)?)
    }
}

/// Copies the image of one platform into the store without giving it a name.
///
/// # Errors
/// Source failures where it cannot be had, resource failures.
pub async fn import(
    places: &Places,
    location: &Location,
    platform: &Platform,
) -> Result<(StoredImage, String), Failure> {
    let mut source = Source::open(places, location, Absent::Refuse).await?;
    source.prefer(platform).await?;
    let layout = places.store()?.layout();
    target::into_layout(places, &mut source, layout).await?;
    Ok((image::read(layout, source.descriptor(), platform)?, source.shown))
}
