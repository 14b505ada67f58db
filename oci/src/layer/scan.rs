//! A layer tar to its members with hashes and its diff id, in one pass that keeps no content.
//!
//! It writes nothing to disk; the account files aside, bytes are hashed and forgotten.

use std::collections::BTreeMap;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::index::{INLINE_LIMIT, INLINE_PATHS};
use super::{ContentHash, Kind, Limits, Member, Reader, TarError, Warning};
use crate::{DiffId, Digest};

/// Everything about a layer but the bytes of its files.
#[derive(Debug, Clone)]
pub struct Scan {
    /// Members in the archive's order; files have their hashes. Positions are what
    /// [`super::tree::Source::Member`] counts.
    pub members: Vec<Member>,
    /// Bytes of account files, by position.
    pub inline: BTreeMap<usize, Vec<u8>>,
    /// sha256 of the archive.
    pub diff_id: DiffId,
    /// Bytes of the archive.
    pub size: u64,
    /// What was left out.
    pub warnings: Vec<Warning>,
}

/// Reads the whole uncompressed archive `tar`.
///
/// # Errors
/// [`TarError`].
pub fn scan(tar: impl Read, limits: Limits) -> Result<Scan, TarError> {
    let mut reader = Reader::new(Hashing { inner: tar, hasher: Sha256::new(), size: 0 }, limits);
    let mut members = Vec::new();
    let mut inline = BTreeMap::new();
    let mut buffer = vec![0; 256 * 1024];
    while let Some(mut member) = reader.next_member()? {
        if let Member::Object(entry) = &mut member
            && let Kind::File { size, content } = &mut entry.kind
        {
            let keeps = *size <= INLINE_LIMIT
                && INLINE_PATHS.iter().any(|inlined| entry.path.as_os_str() == *inlined);
            let mut kept = keeps.then(Vec::new);
            *content = Some(hash(&mut reader, &mut buffer, kept.as_mut())?);
            if let Some(kept) = kept {
                inline.insert(members.len(), kept);
            }
        }
        members.push(member);
    }
    let warnings = reader.take_warnings();
    let Hashing { hasher, size, .. } = reader.into_input();
    let diff_id = DiffId(Digest::from_bytes(hasher.finalize().into()));
    Ok(Scan { members, inline, diff_id, size, warnings })
}

fn hash(
    reader: &mut impl Read,
    buffer: &mut [u8],
    mut kept: Option<&mut Vec<u8>>,
) -> io::Result<ContentHash> {
    let mut hasher = blake3::Hasher::new();
    loop {
        let read = reader.read(buffer)?;
        if read == 0 {
            return Ok(ContentHash(hasher.finalize().into()));
        }
        hasher.update(&buffer[..read]);
        if let Some(kept) = &mut kept {
            kept.extend_from_slice(&buffer[..read]);
        }
    }
}

struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    size: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(out)?;
        self.hasher.update(&out[..read]);
        self.size += read as u64;
        Ok(read)
    }
}
