//! The stat cache of one context: path, inode, size and times to content hash and attributes.
//!
//! File form: `XBSTAT` · version `u8` · records in path order · blake3 of all before it. A record is, little
//! endian: path length `u32` · path · inode `u64` · size `u64` · mtime seconds `i64`, nanoseconds `u32` ·
//! ctime likewise · hash (32 bytes) · length `u32` of attributes · attributes (name length `u32`, name, value
//! length `u32`, value, each). A file that is damaged or of another version is an empty cache.
//!
//! A file that was changed within [`RACY_SECONDS`] of being hashed is not kept: it may change again without a
//! new timestamp (git's "racy" rule).

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use oci::layer::{ContentHash, Mtime, Xattrs};

use super::hash::Hashed;
use super::walk::Stamp;

const MAGIC: &[u8; 7] = b"XBSTAT\x01";
const CHECKSUM: usize = 32;

/// Seconds within which a timestamp may hide a second change.
pub const RACY_SECONDS: i64 = 2;

/// Records that no scan of this process used are dropped beyond this multiple of those that were.
const STALE_FACTOR: usize = 4;

/// Hashes known from earlier scans, and those of this process.
#[derive(Debug, Default)]
pub struct StatCache {
    file: Option<PathBuf>,
    bytes: Vec<u8>,
    /// Start of each record in `bytes`, in path order.
    records: Vec<usize>,
    added: Mutex<BTreeMap<Box<[u8]>, Vec<u8>>>,
}

/// Why the cache could not be saved. The build does not depend on it.
#[derive(Debug, thiserror::Error)]
#[error("{call} stat cache {}", .path.display())]
pub struct CacheError {
    call: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// A record that fits a file.
#[derive(Debug)]
pub struct Known<'a> {
    /// blake3 of the bytes.
    pub content: ContentHash,
    attributes: &'a [u8],
}

impl StatCache {
    /// Reads the cache of the context at `root` from the directory `contexts` of the store.
    pub fn open(contexts: &Path, root: &Path) -> Self {
        let name = blake3::hash(root.as_os_str().as_bytes()).to_hex();
        Self::read(contexts.join(&name[..32]))
    }

    /// Reads a cache file; what is missing or damaged is empty.
    pub fn read(file: PathBuf) -> Self {
        let bytes = std::fs::read(&file).unwrap_or_default();
        let records = index(&bytes).unwrap_or_default();
        Self { file: Some(file), bytes, records, added: Mutex::default() }
    }

    /// Starts a pass over files in path order.
    pub(super) fn lookup(&self) -> Lookup<'_> {
        Lookup { cache: self, at: 0 }
    }

    /// Remembers a file that was hashed, unless it was changed just now.
    pub(super) fn add(&self, path: &Path, hashed: &Hashed, now: Mtime) {
        let latest = hashed.stamp.mtime.max(hashed.stamp.ctime);
        if latest.seconds.saturating_add(RACY_SECONDS) >= now.seconds {
            return;
        }
        let record = encode(path, hashed);
        self.added.lock().expect("nothing panics while it adds").insert(crate::tree::key(path), record);
    }

    /// Writes the cache if this process added anything: to a temporary file that is renamed into place.
    ///
    /// # Errors
    /// [`CacheError`], which callers report and go on.
    pub fn save(self) -> Result<(), CacheError> {
        let added = self.added.into_inner().expect("nothing panics while it adds");
        let Some(path) = self.file.filter(|_| !added.is_empty()) else {
            return Ok(());
        };
        let keeps_old = self.records.len() <= STALE_FACTOR * added.len() + 50_000;
        let mut out = MAGIC.to_vec();
        let old = self.records.iter().filter(|_| keeps_old).map(|at| record(&self.bytes, *at));
        merge(old, added, &mut out);
        let checksum = blake3::hash(&out);
        out.extend_from_slice(checksum.as_bytes());
        write(&path, &out)
    }
}

/// A pass over the cache beside a pass over sorted files.
#[derive(Debug)]
pub struct Lookup<'a> {
    cache: &'a StatCache,
    at: usize,
}

impl<'a> Lookup<'a> {
    /// Returns the record of `path` if it fits; paths must be asked for in path order.
    pub(super) fn find(&mut self, path: &Path, stamp: &Stamp) -> Option<Known<'a>> {
        let bytes = &self.cache.bytes;
        loop {
            let record = record(bytes, *self.cache.records.get(self.at)?);
            match crate::tree::compare_paths(record.path(), path) {
                std::cmp::Ordering::Less => self.at += 1,
                std::cmp::Ordering::Greater => return None,
                std::cmp::Ordering::Equal => return record.known(stamp),
            }
        }
    }
}

impl Known<'_> {
    /// Returns the attributes.
    pub fn xattrs(&self) -> Xattrs {
        let mut rest = self.attributes;
        let mut xattrs = Xattrs::new();
        while let Some((name, value)) = take_bytes(&mut rest).zip(take_bytes(&mut rest)) {
            xattrs.insert(name.to_owned(), value.to_owned());
        }
        xattrs
    }
}

/// A record's bytes and the length of its path.
#[derive(Debug, Clone, Copy)]
struct Record<'a> {
    whole: &'a [u8],
    path: usize,
}

/// inode, size, mtime, ctime, hash.
const FIXED: usize = 8 + 8 + 12 + 12 + 32;

impl<'a> Record<'a> {
    fn path(self) -> &'a Path {
        Path::new(std::ffi::OsStr::from_bytes(&self.whole[4..4 + self.path]))
    }

    fn known(self, stamp: &Stamp) -> Option<Known<'a>> {
        let fixed = &self.whole[4 + self.path..];
        let (stamped, rest) = fixed.split_at(FIXED - 32);
        if stamped != stamp_bytes(stamp) {
            return None;
        }
        let (content, attributes) = rest.split_at(32);
        let content = ContentHash(content.try_into().expect("split at 32"));
        Some(Known { content, attributes: &attributes[4..] })
    }
}

fn record(bytes: &[u8], at: usize) -> Record<'_> {
    let path = length(&bytes[at..]).expect("indexed records are whole");
    let attributes = length(&bytes[at + 4 + path + FIXED..]).expect("indexed records are whole");
    Record { whole: &bytes[at..at + 4 + path + FIXED + 4 + attributes], path }
}

/// Returns where the records start; `None` if the bytes are no cache of this version.
fn index(bytes: &[u8]) -> Option<Vec<usize>> {
    let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
    if !body.starts_with(MAGIC) || blake3::hash(body).as_bytes().as_slice() != checksum {
        return None;
    }
    let mut records = Vec::with_capacity(body.len() / 128);
    let mut at = MAGIC.len();
    while at < body.len() {
        records.push(at);
        let attributes = at + 4 + length(&body[at..])? + FIXED;
        at = attributes + 4 + length(body.get(attributes..)?)?;
    }
    (at == body.len()).then_some(records)
}

fn encode(path: &Path, hashed: &Hashed) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.as_os_str().len() + FIXED + 8);
    put_bytes(&mut out, path.as_os_str().as_bytes());
    out.extend_from_slice(&stamp_bytes(&hashed.stamp));
    out.extend_from_slice(&hashed.content.0);
    let mut attributes = Vec::new();
    for (name, value) in &hashed.xattrs {
        put_bytes(&mut attributes, name);
        put_bytes(&mut attributes, value);
    }
    put_bytes(&mut out, &attributes);
    out
}

fn stamp_bytes(stamp: &Stamp) -> [u8; FIXED - 32] {
    let mut out = [0; FIXED - 32];
    out[..8].copy_from_slice(&stamp.inode.to_le_bytes());
    out[8..16].copy_from_slice(&stamp.size.to_le_bytes());
    out[16..24].copy_from_slice(&stamp.mtime.seconds.to_le_bytes());
    out[24..28].copy_from_slice(&stamp.mtime.nanoseconds.to_le_bytes());
    out[28..36].copy_from_slice(&stamp.ctime.seconds.to_le_bytes());
    out[36..].copy_from_slice(&stamp.ctime.nanoseconds.to_le_bytes());
    out
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("paths and attributes are below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

fn length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    usize::try_from(length).ok()
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = length(rest)?;
    let (taken, left) = rest[4..].split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

/// Appends old and added records in path order; an added one replaces an old one.
fn merge<'a>(
    old: impl Iterator<Item = Record<'a>>,
    mut added: BTreeMap<Box<[u8]>, Vec<u8>>,
    out: &mut Vec<u8>,
) {
    for record in old {
        let key = crate::tree::key(record.path());
        while let Some(first) = added.first_entry().filter(|first| *first.key() < key) {
            out.extend_from_slice(&first.remove());
        }
        match added.remove(&key) {
            Some(newer) => out.extend_from_slice(&newer),
            None => out.extend_from_slice(record.whole),
        }
    }
    added.values().for_each(|record| out.extend_from_slice(record));
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
    let error = |call| move |source| CacheError { call, path: path.to_owned(), source };
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|_| error("name")(io::Error::other("no random bytes")))?;
    let temporary = path.with_extension(format!("{:016x}", u64::from_le_bytes(random)));
    let written = std::fs::File::create_new(&temporary).and_then(|mut file| file.write_all(bytes));
    let renamed = written
        .map_err(error("write"))
        .and_then(|()| std::fs::rename(&temporary, path).map_err(error("rename")));
    if renamed.is_err() {
        // The temporary file is of no use to anybody; the first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
    }
    renamed
}
