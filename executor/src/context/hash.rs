//! Hashing files and reading their attributes, with a check that they hold still.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::path::Path;

use oci::layer::{ContentHash, Xattrs};
use rustix::fs::{AtFlags, StatxFlags};

use super::walk::Stamp;
use super::{Context, ScanError};
use crate::tree::open_beneath;

/// Files from this size on are hashed on all cores.
const LARGE: u64 = 16 << 20;

/// What reading a file gave.
#[derive(Debug)]
pub struct Hashed {
    /// Its status while it was read.
    pub stamp: Stamp,
    /// blake3 of its bytes.
    pub content: ContentHash,
    /// Attributes that a layer keeps.
    pub xattrs: Xattrs,
}

/// Reads the file at `path`, which had the stamp `seen` when it was listed.
pub fn hash(context: &Context<'_>, path: &Path, seen: &Stamp) -> Result<Hashed, ScanError> {
    let changed = || ScanError::Changed { path: path.to_owned() };
    let call = |call| ScanError::call(call, path);
    let mut file = match open_beneath(context.root, path) {
        Err(error) if is_replaced(&error) => return Err(changed()),
        file => file.map_err(call("open"))?,
    };
    let before = stamp(&file).map_err(call("statx"))?;
    let content = hash_file(&mut file, before.size).map_err(call("read"))?;
    let xattrs = xattrs(&file).map_err(call("flistxattr"))?;
    let after = stamp(&file).map_err(call("statx"))?;
    if before != *seen || after != before {
        return Err(changed());
    }
    Ok(Hashed { stamp: before, content, xattrs })
}

fn is_replaced(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    error.kind() == io::ErrorKind::InvalidInput
        || matches!(
            code,
            Some(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR)
        )
}

fn stamp(file: &File) -> io::Result<Stamp> {
    let stat = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    Ok(Stamp::of(&stat))
}

/// Returns blake3 of everything from the file's position on; `size` is what is expected.
///
/// # Errors
/// Those of reading.
pub fn hash_file(file: &mut File, size: u64) -> io::Result<ContentHash> {
    let mut hasher = blake3::Hasher::new();
    let length = if size >= LARGE { 4 << 20 } else { usize::try_from(size + 1).unwrap_or(LIMIT).min(LIMIT) };
    let mut buffer = vec![0; length];
    loop {
        let read = match file.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        match read {
            0 => return Ok(ContentHash(*hasher.finalize().as_bytes())),
            _ if size >= LARGE => hasher.update_rayon(&buffer[..read]),
            _ => hasher.update(&buffer[..read]),
        };
    }
}

/// Largest buffer for files below [`LARGE`].
const LIMIT: usize = 256 * 1024;

/// Returns the attributes that a COPY keeps: file capabilities. `user.*` never lands (as in BuildKit's layers), and
/// what a desktop notes there must not change keys.
pub fn xattrs(file: impl AsFd) -> io::Result<Xattrs> {
    let mut names = [0_u8; 1024];
    let length = match rustix::fs::flistxattr(&file, &mut names) {
        Ok(0) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOSYS) => return Ok(Xattrs::new()),
        Ok(length) => length,
        Err(rustix::io::Errno::RANGE) => return all_xattrs(file),
        Err(errno) => return Err(errno.into()),
    };
    values(file, &names[..length])
}

fn all_xattrs(file: impl AsFd) -> io::Result<Xattrs> {
    // The kernel's limit for a list of names (XATTR_LIST_MAX).
    let mut names = vec![0_u8; 65536];
    let length = rustix::fs::flistxattr(&file, &mut names)?;
    values(file, &names[..length])
}

fn values(file: impl AsFd, names: &[u8]) -> io::Result<Xattrs> {
    let mut xattrs = Xattrs::new();
    for name in names.split(|byte| *byte == 0) {
        if name != b"security.capability" {
            continue;
        }
        let size = rustix::fs::fgetxattr_query(&file, name)?;
        let mut value = vec![0; size];
        let length = rustix::fs::fgetxattr(&file, name, &mut value)?;
        value.truncate(length);
        xattrs.insert(name.to_owned(), value);
    }
    Ok(xattrs)
}
