//! Finding, packing, scanning and unpacking layers of one store in one flavour.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use oci::compress::{Decoder, Encoding, Known, ReadAhead};
use oci::digest::Algorithm;
use oci::layer::{Entry, LayerIndex, Limits, Resolved, Scan, TarError};
use oci::media_type::Types;
use oci::pack::{Content, Item, PackError};
use oci::store::{Staging, Store};
use oci::{Descriptor, DiffId};

use super::{Flavour, LayerId};
use crate::tree::open_root;
use crate::unpack::{self, LeftOut, Streamed, UnpackError};

/// The layers of a store. Cheap to clone; indexes that were read stay in memory.
#[derive(Debug, Clone)]
pub struct LayerStore {
    store: Store,
    flavour: Flavour,
    indexes: Arc<Mutex<BTreeMap<String, Arc<LayerIndex>>>>,
}

/// A layer that was packed into the store's images.
#[derive(Debug, Clone)]
pub struct PackedLayer {
    /// sha256 of the tar.
    pub diff_id: DiffId,
    /// The blob.
    pub descriptor: Descriptor,
    /// Bytes of the tar.
    pub size: u64,
    /// Its entries, with hashes.
    pub index: Arc<LayerIndex>,
}

/// What went wrong with a layer.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The store.
    #[error(transparent)]
    Store(#[from] oci::error::Error),
    /// Packing.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// An upper directory.
    #[error(transparent)]
    Diff(#[from] crate::diff::DiffError),
    /// A blob's archive.
    #[error("read layer blob {blob}")]
    Archive {
        /// Its digest.
        blob: String,
        /// Why.
        source: TarError,
    },
    /// Unpacking.
    #[error("unpack layer {layer}")]
    Unpack {
        /// Its name in the store.
        layer: String,
        /// Why.
        source: UnpackError,
    },
    /// A directory of the store.
    #[error("{action} {}", .path.display())]
    Io {
        /// The verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

type Result<T> = std::result::Result<T, LayerError>;
type Unpacked = std::result::Result<Vec<LeftOut>, UnpackError>;

/// An archive whose files are on disk but not in their places yet. Dropping it leaves nothing.
#[derive(Debug)]
pub struct StreamedLayer {
    staging: Staging,
    files: OwnedFd,
    streamed: Streamed,
}

impl StreamedLayer {
    /// Returns what the archive holds.
    pub const fn scan(&self) -> &Scan {
        &self.streamed.scan
    }
}

impl LayerStore {
    /// Looks at the layers of `store` in one flavour.
    pub fn new(store: Store, flavour: Flavour) -> Self {
        Self { store, flavour, indexes: Arc::default() }
    }

    /// Returns the store.
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the flavour of the unpacked directories.
    pub const fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Returns the root of an unpacked layer, `None` where it is not unpacked in this flavour.
    ///
    /// # Errors
    /// [`LayerError::Store`].
    pub fn path(&self, id: LayerId) -> Result<Option<PathBuf>> {
        Ok(self.store.layer(self.flavour.name(), &id.name())?.map(|layer| layer.join("fs")))
    }

    /// Returns whether a layer is unpacked in this flavour.
    ///
    /// # Errors
    /// [`LayerError::Store`].
    pub fn has_unpacked(&self, id: LayerId) -> Result<bool> {
        Ok(self.path(id)?.is_some())
    }

    /// Returns a layer's index, `None` where there is none or it is damaged.
    pub fn index(&self, id: LayerId) -> Option<Arc<LayerIndex>> {
        let name = id.name();
        if let Some(index) = self.indexes.lock().unwrap_or_else(PoisonError::into_inner).get(&name) {
            return Some(Arc::clone(index));
        }
        // Damage is a miss: the index can be made again from blob or directory.
        let index = Arc::new(LayerIndex::read(&self.index_path(id)).ok()?);
        self.remember(name, &index);
        Some(index)
    }

    /// Keeps a layer's index.
    ///
    /// # Errors
    /// [`LayerError::Store`].
    pub fn put_index(&self, id: LayerId, index: &Arc<LayerIndex>) -> Result<()> {
        self.store.replace(&self.index_path(id), &index.to_bytes())?;
        self.remember(id.name(), index);
        Ok(())
    }

    fn remember(&self, name: String, index: &Arc<LayerIndex>) {
        self.indexes.lock().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::clone(index));
    }

    fn index_path(&self, id: LayerId) -> PathBuf {
        self.store.root().join("index").join(id.name())
    }

    /// Packs `items`, sorted by path, into a blob of the store, and keeps index and packed record. Blocking.
    ///
    /// # Errors
    /// [`LayerError::Pack`], [`LayerError::Store`].
    pub fn pack(&self, items: impl IntoIterator<Item = Item>, encoding: Encoding) -> Result<PackedLayer> {
        self.pack_knowing(items, encoding, None)
    }

    /// As [`Self::pack`], copying what the blob of an earlier layer has in common with the new one. Blocking.
    ///
    /// # Errors
    /// [`LayerError::Pack`], [`LayerError::Store`].
    pub fn pack_after(
        &self,
        earlier: &DiffId,
        items: impl IntoIterator<Item = Item>,
        encoding: Encoding,
    ) -> Result<PackedLayer> {
        let known = self.store.pieces(earlier, &encoding.to_string());
        self.pack_knowing(items, encoding, known)
    }

    fn pack_knowing(
        &self,
        items: impl IntoIterator<Item = Item>,
        encoding: Encoding,
        known: Option<Known>,
    ) -> Result<PackedLayer> {
        let writer = self.store.layout().writer()?;
        let items = items.into_iter().map(Ok::<_, PackError>);
        let packed = oci::pack::pack_knowing(items, encoding, writer, known)?;
        let media_type = Types::Oci.layer(encoding.compression());
        let written = packed.output.finish()?;
        let descriptor = written.descriptor(media_type);
        let size = packed.tar_size;
        let index = Arc::new(packed.index);
        self.put_index(packed.diff_id.into(), &index)?;
        let encoding = encoding.to_string();
        self.store.set_pieces(&packed.diff_id, &encoding, &written.digest, &packed.pieces)?;
        self.store.set_packed(&packed.diff_id, &encoding, &descriptor)?;
        Ok(PackedLayer { diff_id: packed.diff_id, descriptor, size, index })
    }

    /// Returns the blob that a layer is packed as in `encoding`.
    ///
    /// # Errors
    /// [`LayerError::Store`].
    pub fn packed(&self, diff_id: &DiffId, encoding: Encoding) -> Result<Option<Descriptor>> {
        Ok(self.store.packed(diff_id, &encoding.to_string())?)
    }

    /// Opens a blob of the store decompressed and verified: reading it to the end fails where its digest is wrong.
    ///
    /// # Errors
    /// [`LayerError::Store`], [`LayerError::Archive`].
    pub fn open_tar(&self, descriptor: &Descriptor) -> Result<ReadAhead> {
        self.decode(descriptor, self.store.layout().open_verified(descriptor)?)
    }

    /// Decompresses a blob that is read from elsewhere. Whoever reads it to the end must know that it is the one.
    /// Blocks until its first bytes are there.
    ///
    /// # Errors
    /// [`LayerError::Archive`].
    pub fn decode(&self, descriptor: &Descriptor, blob: impl Read + Send + 'static) -> Result<ReadAhead> {
        let decoder = Decoder::new(BufReader::with_capacity(128 * 1024, blob));
        let (decoder, _) = decoder.map_err(|error| archive(descriptor, error.into()))?;
        ReadAhead::new(decoder).map_err(|error| archive(descriptor, error.into()))
    }

    /// Reads a blob of the store and hashes what is in it; the diff id is of `algorithm`. Blocking.
    ///
    /// # Errors
    /// [`LayerError::Store`], [`LayerError::Archive`].
    pub fn scan_blob(&self, descriptor: &Descriptor, algorithm: Algorithm) -> Result<Scan> {
        self.scan(descriptor, self.open_tar(descriptor)?, algorithm)
    }

    /// Reads the decompressed archive of a blob and hashes what is in it; the diff id is of `algorithm`. Blocking.
    ///
    /// # Errors
    /// [`LayerError::Archive`].
    pub fn scan(&self, descriptor: &Descriptor, tar: impl Read, algorithm: Algorithm) -> Result<Scan> {
        oci::layer::scan(tar, Limits::default(), algorithm).map_err(|source| archive(descriptor, source))
    }

    /// Unpacks a blob of the store that was scanned and resolved. `below` opens files of the layers below.
    /// Blocking. Where another process was faster, its directory is the result.
    ///
    /// # Errors
    /// [`LayerError::Store`], [`LayerError::Unpack`].
    pub fn unpack_blob(
        &self,
        id: LayerId,
        resolved: &Resolved,
        descriptor: &Descriptor,
        below: &mut dyn FnMut(usize, &Path) -> io::Result<File>,
    ) -> Result<(PathBuf, Vec<LeftOut>)> {
        let tar = self.open_tar(descriptor)?;
        self.unpack_into(id, |root| {
            unpack::unpack_archive(root, resolved, tar, Limits::default(), self.flavour, below)
        })
    }

    /// Unpacks a layer from its index, such as that of a planned COPY; `content` has the bytes of each file.
    /// Blocking.
    ///
    /// # Errors
    /// [`LayerError::Store`], [`LayerError::Unpack`].
    pub fn unpack_index(
        &self,
        id: LayerId,
        index: &LayerIndex,
        content: &mut dyn FnMut(&Entry) -> io::Result<Content>,
    ) -> Result<(PathBuf, Vec<LeftOut>)> {
        self.unpack_into(id, |root| unpack::unpack_index(root, index, self.flavour, content))
    }

    /// Reads an uncompressed archive and writes its files to a staging directory in the same pass, for a layer that
    /// will be needed unpacked; [`Self::assemble`] finishes it. The diff id is of `algorithm`. Blocking.
    ///
    /// # Errors
    /// [`LayerError::Store`], [`LayerError::Unpack`].
    pub fn stream(&self, tar: impl Read, algorithm: Algorithm) -> Result<StreamedLayer> {
        let staging = self.store.staging()?;
        let files = staging.path().join("files");
        DirBuilder::new().mode(0o700).create(&files).map_err(io_error("create", &files))?;
        let handle = open_root(&files).map_err(io_error("open", &files))?;
        let streamed = unpack::stream(handle.as_fd(), tar, Limits::default(), algorithm, self.flavour);
        let streamed =
            streamed.map_err(|source| LayerError::Unpack { layer: "being read".to_owned(), source })?;
        Ok(StreamedLayer { staging, files: handle, streamed })
    }

    /// Builds the unpacked layer `id` from its streamed files. `resolved` is made from [`StreamedLayer::scan`].
    /// Blocking.
    ///
    /// # Errors
    /// [`LayerError::Store`], [`LayerError::Unpack`].
    pub fn assemble(
        &self,
        id: LayerId,
        layer: &StreamedLayer,
        resolved: &Resolved,
        below: &mut dyn FnMut(usize, &Path) -> io::Result<File>,
    ) -> Result<(PathBuf, Vec<LeftOut>)> {
        let (files, streamed) = (layer.files.as_fd(), &layer.streamed);
        self.unpack_in(id, &layer.staging, |root| {
            unpack::assemble(root, files, streamed, resolved, self.flavour, below)
        })
    }

    fn unpack_into(
        &self,
        id: LayerId,
        unpack: impl FnOnce(BorrowedFd<'_>) -> Unpacked,
    ) -> Result<(PathBuf, Vec<LeftOut>)> {
        if let Some(path) = self.path(id)? {
            return Ok((path, Vec::new()));
        }
        let staging = self.store.staging()?;
        self.unpack_in(id, &staging, unpack)
    }

    fn unpack_in(
        &self,
        id: LayerId,
        staging: &Staging,
        unpack: impl FnOnce(BorrowedFd<'_>) -> Unpacked,
    ) -> Result<(PathBuf, Vec<LeftOut>)> {
        let layer = staging.path().join("layer");
        let root = layer.join("fs");
        DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(io_error("create", &root))?;
        let handle = open_root(&root).map_err(io_error("open", &root))?;
        let left_out =
            unpack(handle.as_fd()).map_err(|source| LayerError::Unpack { layer: id.name(), source })?;
        let placed = self.store.place_layer(staging, &layer, self.flavour.name(), &id.name())?;
        Ok((placed.join("fs"), left_out))
    }

    /// Publishes a directory with a finished `fs` inside, such as that of a RUN step, as the unpacked layer `id`.
    ///
    /// # Errors
    /// [`LayerError::Store`].
    pub fn publish(&self, staging: &Staging, layer: &Path, id: LayerId) -> Result<PathBuf> {
        let placed = self.store.place_layer(staging, layer, self.flavour.name(), &id.name())?;
        Ok(placed.join("fs"))
    }
}

fn archive(descriptor: &Descriptor, source: TarError) -> LayerError {
    LayerError::Archive { blob: descriptor.digest().to_string(), source }
}

pub(super) fn io_error<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> LayerError + use<'a> {
    move |source| LayerError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
