//! Names of chunks, without reading their bytes again: a chunk consists of headers and of parts of files whose hashes are
//! known.
//!
//! A name is blake3 over the parts in order: bytes as `00`, length `u64`, bytes; a part of a file as `01`, the file's
//! hash, offset `u64`, length `u64`, little endian. A file's hash is known before its bytes are read, and if they turn out
//! to be others, packing fails and nothing keeps the name. A chunk with bytes of a file that nobody has hashed has none.

use std::collections::VecDeque;

use crate::compress::ChunkName;
use crate::layer::ContentHash;

/// What a stretch of the archive is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// Headers and padding.
    Bytes,
    /// A file's bytes from an offset on.
    File(ContentHash, u64),
    /// Bytes of a file without a hash.
    Unknown,
}

/// Names one chunk after another.
#[derive(Debug, Default)]
pub(super) struct Naming {
    /// What follows in the chunk and is not in its name yet.
    parts: VecDeque<(Part, usize)>,
    /// What the name is a hash of; less than the chunk, since files are in it as hashes.
    text: Vec<u8>,
    nameless: bool,
    /// How much of the chunk is in its name.
    named: usize,
}

impl Naming {
    /// Notes what the next `length` bytes are.
    pub(super) fn add(&mut self, part: Part, length: usize) {
        self.parts.push_back((part, length));
    }

    /// Takes the chunk's bytes up to `end`, all of which have been noted, into its name.
    pub(super) fn name(&mut self, chunk: &[u8], end: usize) {
        while self.named < end {
            let (part, left) = self.parts.front_mut().expect("all bytes of the chunk were noted");
            let length = (*left).min(end - self.named);
            match part {
                Part::Bytes => {
                    self.text.push(0);
                    self.text.extend_from_slice(&(length as u64).to_le_bytes());
                    self.text.extend_from_slice(&chunk[self.named..self.named + length]);
                }
                Part::File(hash, offset) => {
                    self.text.push(1);
                    self.text.extend_from_slice(&hash.0);
                    self.text.extend_from_slice(&offset.to_le_bytes());
                    self.text.extend_from_slice(&(length as u64).to_le_bytes());
                    *offset += length as u64;
                }
                Part::Unknown => self.nameless = true,
            }
            *left -= length;
            self.named += length;
            if *left == 0 {
                self.parts.pop_front();
            }
        }
    }

    /// Returns the name of the chunk that ends here.
    pub(super) fn take(&mut self) -> Option<ChunkName> {
        let name = (!self.nameless).then(|| ChunkName(blake3::hash(&self.text).into()));
        self.text.clear();
        (self.nameless, self.named) = (false, 0);
        name
    }
}
