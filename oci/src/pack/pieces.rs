//! Where the chunks of a blob are, so that a later layer that has the same ones copies them.
//!
//! File form: `XBPIECE` · version `u8` · blake3 of the blob's digest as text · chunks · blake3 of all before it. A chunk is, little
//! endian: name (32 bytes) · offset `u64` · length `u32` · blake3 of the compressed bytes (32 bytes). A file that is
//! damaged, of another version or of another blob names no chunks.
//!
//! What is copied is checked against its hash, so a damaged blob costs time and harms no other blob.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use crate::Digest;
use crate::compress::{ChunkName, Known, Piece};

const MAGIC: &[u8; 8] = b"XBPIECE\x01";
const CHECKSUM: usize = 32;
const RECORD: usize = 32 + 8 + 4 + 32;

/// Returns the byte form of `pieces` of a blob.
pub fn encode(blob: &Digest, pieces: &[Piece]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(blob_id(blob).as_bytes());
    for piece in pieces {
        out.extend_from_slice(&piece.name.0);
        out.extend_from_slice(&piece.offset.to_le_bytes());
        out.extend_from_slice(&piece.length.to_le_bytes());
        out.extend_from_slice(&piece.hash);
    }
    let checksum = blake3::hash(&out);
    out.extend_from_slice(checksum.as_bytes());
    out
}

/// Returns what is to be had from a blob, open as `file`, by the byte form of its pieces; `None` where those are none.
pub fn known(bytes: &[u8], blob: &Digest, file: File) -> Option<Known> {
    let pieces = decode(bytes, blob)?;
    Some(Arc::new(move |name| read(&file, pieces.get(name)?)))
}

fn decode(bytes: &[u8], blob: &Digest) -> Option<BTreeMap<ChunkName, Piece>> {
    let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
    let records = body.strip_prefix(MAGIC)?.strip_prefix(blob_id(blob).as_bytes())?;
    if blake3::hash(body).as_bytes().as_slice() != checksum || records.len() % RECORD != 0 {
        return None;
    }
    let piece = |record: &[u8]| Piece {
        name: ChunkName(field(record, 0)),
        offset: u64::from_le_bytes(field(record, 32)),
        length: u32::from_le_bytes(field(record, 40)),
        hash: field(record, 44),
    };
    Some(records.chunks_exact(RECORD).map(piece).map(|piece| (piece.name, piece)).collect())
}

fn field<const N: usize>(record: &[u8], at: usize) -> [u8; N] {
    record[at..at + N].try_into().expect("a record has all fields")
}

/// Digests of any algorithm in one length.
fn blob_id(blob: &Digest) -> blake3::Hash {
    blake3::hash(blob.to_string().as_bytes())
}

fn read(file: &File, piece: &Piece) -> Option<Vec<u8>> {
    let mut bytes = vec![0; piece.length as usize];
    file.read_exact_at(&mut bytes, piece.offset).ok()?;
    (blake3::hash(&bytes).as_bytes() == &piece.hash).then_some(bytes)
}
