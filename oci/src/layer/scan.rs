//! A layer tar to its members with hashes and its diff id, in one pass that keeps no content.
//!
//! It writes nothing to disk; the account files aside, bytes are hashed and forgotten.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::index::{INLINE_LIMIT, INLINE_PATHS};
use super::{ContentHash, Entry, Kind, Limits, Member, Reader, TarError, Warning};
use crate::DiffId;
use crate::digest::{Algorithm, Hasher};

/// Everything about a layer but the bytes of its files.
#[derive(Debug, Clone)]
pub struct Scan {
    /// Members in the archive's order; files have their hashes. Positions are what
    /// [`super::tree::Source::Member`] counts.
    pub members: Vec<Member>,
    /// Bytes of account files, by position.
    pub inline: BTreeMap<usize, Vec<u8>>,
    /// Digest of the archive.
    pub diff_id: DiffId,
    /// Bytes of the archive.
    pub size: u64,
    /// What was left out.
    pub warnings: Vec<Warning>,
}

/// Reads the whole uncompressed archive `tar`; its diff id will be of `algorithm`.
///
/// # Errors
/// [`TarError`].
pub fn scan(tar: impl Read, limits: Limits, algorithm: Algorithm) -> Result<Scan, TarError> {
    let mut buffer = vec![0; 256 * 1024];
    scan_with(tar, limits, algorithm, &mut |_, _, content| Ok(hash(content, &mut buffer)?))
}

/// Reads the whole uncompressed archive `tar` and hands each regular file to `take`: its position, its entry and
/// its bytes, which `take` reads to their end and returns the hash of.
///
/// # Errors
/// [`TarError`], and what `take` returns.
pub fn scan_with<E: From<TarError>>(
    tar: impl Read,
    limits: Limits,
    algorithm: Algorithm,
    take: &mut Take<'_, E>,
) -> Result<Scan, E> {
    let mut reader = Reader::new(Hashing { inner: tar, hasher: algorithm.hasher(), size: 0 }, limits);
    let mut members = Vec::new();
    let mut inline = BTreeMap::new();
    while let Some(mut member) = reader.next_member()? {
        if let Member::Object(entry) = &mut member
            && matches!(entry.kind, Kind::File { .. })
        {
            let size = entry.size();
            let keeps =
                size <= INLINE_LIMIT && INLINE_PATHS.iter().any(|kept| entry.path.as_os_str() == *kept);
            let found = if keeps {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).map_err(TarError::from)?;
                let found = take(members.len(), entry, &mut &bytes[..])?;
                inline.insert(members.len(), bytes);
                found
            } else {
                take(members.len(), entry, &mut reader)?
            };
            entry.kind = Kind::File { size, content: Some(found) };
        }
        members.push(member);
    }
    let warnings = reader.take_warnings();
    let Hashing { hasher, size, .. } = reader.into_input();
    let diff_id = DiffId(hasher.finish());
    Ok(Scan { members, inline, diff_id, size, warnings })
}

/// What [`scan_with`] hands files to.
pub type Take<'a, E> = dyn FnMut(usize, &Entry, &mut dyn Read) -> Result<ContentHash, E> + 'a;

fn hash(content: &mut dyn Read, buffer: &mut [u8]) -> io::Result<ContentHash> {
    let mut hasher = blake3::Hasher::new();
    loop {
        let read = content.read(buffer)?;
        if read == 0 {
            return Ok(ContentHash(hasher.finalize().into()));
        }
        hasher.update(&buffer[..read]);
    }
}

struct Hashing<R> {
    inner: R,
    hasher: Hasher,
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
