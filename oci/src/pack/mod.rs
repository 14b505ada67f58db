//! Entries with their contents to a layer blob and its index, in one pass.
//!
//! One read of each file feeds the tar, the content hash, the diff id and the compression; compression and
//! writing overlap with reading ([`crate::compress::Encoder`]). Memory does not grow with the layer: the index
//! aside, it is a few chunks. It opens no path itself, and where the blob goes is the caller's.

mod content;
mod naming;
pub mod pieces;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

pub use content::Content;

use crate::DiffId;
use crate::compress::{self, ChunkName, Encoding, Known, Piece};
use crate::digest::{Algorithm, Hasher};
use crate::layer::index::{INLINE_LIMIT, INLINE_PATHS};
use crate::layer::writer::{self, WriteError};
use crate::layer::{ContentHash, Entry, Kind, LayerIndex};
use naming::{Naming, Part};

/// An entry with the bytes of its file.
#[derive(Debug)]
pub struct Item {
    /// The entry. A file's `content` hash, where it is set, is verified.
    pub entry: Entry,
    /// Where a regular file's bytes are; [`Content::None`] for everything else.
    pub content: Content,
}

/// A layer that has been packed.
#[derive(Debug)]
pub struct Packed<W> {
    /// Every entry, files with their hashes.
    pub index: LayerIndex,
    /// sha256 of the tar.
    pub diff_id: DiffId,
    /// Bytes of the tar.
    pub tar_size: u64,
    /// The writer, which has got the whole blob.
    pub output: W,
    /// Where in the blob the chunks are that have names.
    pub pieces: Vec<Piece>,
}

/// Why a layer could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// An entry that a layer cannot hold.
    #[error(transparent)]
    Entry(#[from] WriteError),
    /// A file could not be read.
    #[error("read {:?}", .path.display().to_string())]
    Source {
        /// Which, relative to the layer's root.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it was when the step was planned.
    #[error("{:?} changed during the build: {what}", .path.display().to_string())]
    Changed {
        /// Which, relative to the layer's root.
        path: PathBuf,
        /// How.
        what: String,
    },
    /// The blob could not be written.
    #[error("write layer blob")]
    Blob(#[source] io::Error),
}

/// Packs `items`, sorted by path, into `output`.
///
/// # Errors
/// [`PackError`], or the first error among `items`; `output` is then dropped.
pub fn pack<W, E>(
    items: impl IntoIterator<Item = Result<Item, E>>,
    encoding: Encoding,
    output: W,
) -> Result<Packed<W>, E>
where
    W: Write + Send + 'static,
    E: From<PackError>,
{
    pack_knowing(items, encoding, output, None)
}

/// As [`pack`], with chunks that have been compressed before; the result is the same.
///
/// # Errors
/// Those of [`pack`].
pub fn pack_knowing<W, E>(
    items: impl IntoIterator<Item = Result<Item, E>>,
    encoding: Encoding,
    output: W,
    known: Option<Known>,
) -> Result<Packed<W>, E>
where
    W: Write + Send + 'static,
    E: From<PackError>,
{
    let mut packer = Packer::new(encoding, output);
    if let Some(known) = known {
        packer.encoder = packer.encoder.knowing(known);
    }
    for item in items {
        let Item { entry, content } = item?;
        packer.add(entry, content)?;
    }
    Ok(packer.finish()?)
}

/// Packs one entry after another, for callers whose entries do not come from an iterator.
pub struct Packer<W> {
    encoder: compress::Encoder<W>,
    headers: writer::Encoder,
    header: Vec<u8>,
    diff_id: Hasher,
    naming: Option<Naming>,
    /// How much of the encoder's current chunk is part of `diff_id` already.
    hashed: usize,
    tar_size: u64,
    entries: Vec<Entry>,
    inline: BTreeMap<PathBuf, Vec<u8>>,
}

impl<W: Write + Send + 'static> Packer<W> {
    /// Starts a layer.
    pub fn new(encoding: Encoding, output: W) -> Self {
        Self {
            encoder: compress::Encoder::new(output, encoding),
            headers: writer::Encoder::default(),
            header: Vec::new(),
            diff_id: Algorithm::Sha256.hasher(),
            naming: match encoding {
                Encoding::None => None,
                Encoding::Gzip(_) | Encoding::Zstd(_) => Some(Naming::default()),
            },
            hashed: 0,
            tar_size: 0,
            entries: Vec::new(),
            inline: BTreeMap::new(),
        }
    }

    /// Adds `entry`, which must come after the one before in path order.
    ///
    /// # Errors
    /// [`PackError`].
    pub fn add(&mut self, mut entry: Entry, content: Content) -> Result<(), PackError> {
        self.header.clear();
        self.headers.entry(&entry, &mut self.header)?;
        let header = std::mem::take(&mut self.header);
        self.write(&header).map_err(PackError::Blob)?;
        self.header = header;
        if let Kind::File { size, content: expected } = entry.kind {
            let found = self.add_content(&entry.path, size, expected, content)?;
            if expected.is_some_and(|expected| expected != found) {
                return Err(changed(&entry.path, "its bytes are others than when it was hashed".into()));
            }
            entry.kind = Kind::File { size, content: Some(found) };
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Ends the archive and waits for the blob to be written.
    ///
    /// # Errors
    /// [`PackError::Blob`].
    pub fn finish(mut self) -> Result<Packed<W>, PackError> {
        self.write(&writer::END).map_err(PackError::Blob)?;
        self.hash_chunk();
        let name = self.name_chunk(None);
        let (output, pieces) = self.encoder.finish_named(name).map_err(PackError::Blob)?;
        Ok(Packed {
            index: LayerIndex::from_sorted(self.entries, self.inline),
            diff_id: DiffId(self.diff_id.finish()),
            tar_size: self.tar_size,
            output,
            pieces,
        })
    }

    fn add_content(
        &mut self,
        path: &Path,
        size: u64,
        expected: Option<ContentHash>,
        content: Content,
    ) -> Result<ContentHash, PackError> {
        let failed = |source| PackError::Source { path: path.to_owned(), source };
        let keeps = size <= INLINE_LIMIT && INLINE_PATHS.iter().any(|inline| path == Path::new(inline));
        let mut kept = Vec::new();
        let mut hasher = blake3::Hasher::new();
        let mut reader = content.open().map_err(failed)?;
        let mut left = size;
        while left > 0 {
            let (chunk, room) = self.encoder.space();
            let before = chunk.len();
            let wanted = left.min(room as u64);
            let read = reader.by_ref().take(wanted).read_to_end(chunk).map_err(failed)?;
            if read == 0 {
                return Err(changed(path, format!("it is {left} of {size} bytes shorter than it was")));
            }
            hasher.update(&chunk[before..]);
            if keeps {
                kept.extend_from_slice(&chunk[before..]);
            }
            let part = expected.map_or(Part::Unknown, |hash| Part::File(hash, size - left));
            left -= read as u64;
            self.wrote(part, read).map_err(PackError::Blob)?;
        }
        if !reader.is_at_end().map_err(failed)? {
            return Err(changed(path, format!("it is longer than {size} bytes by now")));
        }
        self.write(&[0; 512][..writer::padding(size)]).map_err(PackError::Blob)?;
        if keeps {
            self.inline.insert(path.to_owned(), kept);
        }
        Ok(ContentHash(hasher.finalize().into()))
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (chunk, room) = self.encoder.space();
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            chunk.extend_from_slice(now);
            bytes = rest;
            self.wrote(Part::Bytes, now.len())?;
        }
        Ok(())
    }

    /// Accounts for bytes that were appended to the buffer. A whole chunk is hashed while it is in the cache.
    fn wrote(&mut self, part: Part, count: usize) -> io::Result<()> {
        self.tar_size += count as u64;
        if let Some(naming) = &mut self.naming {
            naming.add(part, count);
        }
        while let Some(end) = self.encoder.end() {
            self.hash_chunk();
            let name = self.name_chunk(Some(end));
            self.encoder.cut(end, name)?;
            self.hashed = self.encoder.space().0.len();
        }
        Ok(())
    }

    fn hash_chunk(&mut self) {
        let (chunk, _) = self.encoder.space();
        self.diff_id.update(&chunk[self.hashed..]);
        self.hashed = chunk.len();
    }

    /// Returns the name of the chunk up to `end`, or of all that is left.
    fn name_chunk(&mut self, end: Option<usize>) -> Option<ChunkName> {
        let naming = self.naming.as_mut()?;
        let (chunk, _) = self.encoder.space();
        naming.name(chunk, end.unwrap_or(chunk.len()));
        naming.take()
    }
}

fn changed(path: &Path, what: String) -> PackError {
    PackError::Changed { path: path.to_owned(), what }
}

#[cfg(test)]
mod tests;
