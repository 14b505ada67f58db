//! A layer's entries and bytes to a directory in overlay form, by handles only.
//!
//! What is created is decided beforehand ([`oci::layer::resolve`], or a COPY's plan): each path once, sorted,
//! every ancestor a directory. So nothing on disk is ever replaced, removed or followed here, whatever the
//! archive says. Directories come first and get their metadata last, links and devices come after files.

mod cursor;
mod files;
mod metadata;
mod stream;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use oci::layer::{Entry, Kind, LayerIndex, Limits, Member, Reader, Resolved, Source, TarError};
use oci::pack::Content;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

pub use cursor::Cursor;
pub(crate) use metadata::{in_proc, times};
pub use stream::{Streamed, assemble, stream};

use crate::layers::Flavour;
use crate::owner::Ids;
use files::Job;

/// Something that the directory cannot hold and only the index knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftOut {
    /// An extended attribute that the file system or user namespace refuses.
    Xattr {
        /// Whose.
        path: PathBuf,
        /// Its name.
        name: Vec<u8>,
    },
    /// A device node, which a user namespace may not create.
    Device(PathBuf),
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive is malformed or too large.
    #[error(transparent)]
    Archive(#[from] TarError),
    /// The archive is not the one that was scanned before.
    #[error("{path:?} differs from what the layer's index says")]
    Differs {
        /// The file.
        path: PathBuf,
    },
    /// The bytes of a file could not be read.
    #[error("read {path:?}")]
    Source {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An owner that this process may not give files to.
    #[error(
        "{path:?} belongs to {uid}:{gid}, which this user namespace has no id for: give the user more ids in /etc/subuid and /etc/subgid"
    )]
    Owner {
        /// The object.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
        /// What chown said.
        source: io::Error,
    },
    /// A system call failed.
    #[error("{call} {path:?} in a layer")]
    Call {
        /// The call.
        call: &'static str,
        /// The object, relative to the layer's root.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl UnpackError {
    fn call<E: Into<io::Error>>(call: &'static str, entry: &Entry) -> impl FnOnce(E) -> Self {
        let path = entry.path.clone();
        move |error| Self::Call { call, path, source: error.into() }
    }
}

/// Unpacks the archive that `resolved` was made from into the empty directory `root`. `below` opens files of the
/// layers below, for hard links that lead there.
///
/// # Errors
/// [`UnpackError`]; `root` is then incomplete and to be thrown away.
pub fn unpack_archive(
    root: BorrowedFd<'_>,
    resolved: &Resolved,
    tar: impl Read,
    limits: Limits,
    flavour: Flavour,
    below: &mut dyn FnMut(usize, &Path) -> io::Result<File>,
) -> Result<Vec<LeftOut>, UnpackError> {
    let mut unpacker = Unpacker::new(root, flavour);
    let entries = resolved.index.entries();
    for entry in entries.iter().filter(|entry| entry.is_directory()) {
        unpacker.make_directory(entry)?;
    }
    unpacker.archive_files(resolved, tar, limits)?;
    for (entry, source) in entries.iter().zip(&resolved.sources) {
        if let Source::Below { layer, path } = source {
            unpacker.make_below(entry, *layer, path, below)?;
        }
    }
    unpacker.finish(&resolved.index)
}

/// Unpacks `index` into the empty directory `root`, the bytes of each file from `content`, which is asked in path
/// order. Files are made on all cores.
///
/// # Errors
/// [`UnpackError`]; `root` is then incomplete and to be thrown away.
pub fn unpack_index(
    root: BorrowedFd<'_>,
    index: &LayerIndex,
    flavour: Flavour,
    content: &mut dyn FnMut(&Entry) -> io::Result<Content>,
) -> Result<Vec<LeftOut>, UnpackError> {
    unpack_shared(root, index, flavour, content, files::SHARE)
}

/// Unpacks an index; `share` files are one thread's at a time.
fn unpack_shared(
    root: BorrowedFd<'_>,
    index: &LayerIndex,
    flavour: Flavour,
    content: &mut dyn FnMut(&Entry) -> io::Result<Content>,
    share: usize,
) -> Result<Vec<LeftOut>, UnpackError> {
    let mut unpacker = Unpacker::new(root, flavour);
    let mut jobs = Vec::new();
    for entry in index.entries() {
        match entry.kind {
            Kind::Directory { .. } => unpacker.make_directory(entry)?,
            Kind::File { .. } => {
                let content = content(entry);
                let content =
                    content.map_err(|source| UnpackError::Source { path: entry.path.clone(), source })?;
                jobs.push(Job { entry, content });
            }
            Kind::Symlink { .. }
            | Kind::HardLink { .. }
            | Kind::CharDevice(_)
            | Kind::BlockDevice(_)
            | Kind::Fifo
            | Kind::Whiteout => {}
        }
    }
    files::make_all(&mut unpacker, jobs, share)?;
    unpacker.finish(index)
}

struct Unpacker<'a> {
    root: BorrowedFd<'a>,
    cursor: Cursor<'a>,
    flavour: Flavour,
    born: Option<Ids>,
    left_out: Vec<LeftOut>,
    buffer: Vec<u8>,
}

const BUFFER: usize = 256 * 1024;

impl<'a> Unpacker<'a> {
    fn new(root: BorrowedFd<'a>, flavour: Flavour) -> Self {
        let buffer = vec![0; BUFFER];
        let born = metadata::born_below(root);
        Self { root, cursor: Cursor::new(root), flavour, born, left_out: Vec::new(), buffer }
    }

    /// Makes a file with all the bytes that `content` has.
    fn make_file_of(&mut self, entry: &Entry, content: Content) -> Result<(), UnpackError> {
        let failed = |source| UnpackError::Source { path: entry.path.clone(), source };
        let mut reader = content.open().map_err(failed)?;
        self.make_file(entry, &mut reader)?;
        match reader.is_at_end().map_err(failed)? {
            true => Ok(()),
            false => Err(UnpackError::Differs { path: entry.path.clone() }),
        }
    }

    /// Makes a directory that only we can enter; [`Self::finish`] gives it its mode.
    fn make_directory(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.path.as_os_str().is_empty() {
            return Ok(());
        }
        let (parent, name) =
            self.cursor.parent_of(&entry.path).map_err(UnpackError::call("openat", entry))?;
        rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(UnpackError::call("mkdirat", entry))
    }

    fn make_file(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), UnpackError> {
        let (parent, name) =
            self.cursor.parent_of(&entry.path).map_err(UnpackError::call("openat", entry))?;
        // O_EXCL: the name is new, and no link at it is followed.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.map_err(UnpackError::call("openat", entry))?);
        let hash = copy(content, &mut file, entry, &mut self.buffer)?;
        if let Kind::File { content: Some(expected), .. } = entry.kind
            && expected.0 != *hash.as_bytes()
        {
            return Err(UnpackError::Differs { path: entry.path.clone() });
        }
        metadata::set_on_handle(file.as_fd(), entry, self.born, self.flavour, &mut self.left_out)
    }

    /// Makes a file of bytes that a layer below has.
    fn make_below(
        &mut self,
        entry: &Entry,
        layer: usize,
        path: &Path,
        below: &mut dyn FnMut(usize, &Path) -> io::Result<File>,
    ) -> Result<(), UnpackError> {
        let opened = below(layer, path);
        let mut file = opened.map_err(|source| UnpackError::Source { path: entry.path.clone(), source })?;
        self.make_file(entry, &mut file)
    }

    fn archive_files(
        &mut self,
        resolved: &Resolved,
        tar: impl Read,
        limits: Limits,
    ) -> Result<(), UnpackError> {
        let mut wanted: Vec<(usize, &Entry)> = resolved
            .index
            .entries()
            .iter()
            .zip(&resolved.sources)
            .filter_map(|(entry, source)| match source {
                Source::Member(position) if matches!(entry.kind, Kind::File { .. }) => {
                    Some((*position, entry))
                }
                Source::Member(_) | Source::None | Source::Below { .. } => None,
            })
            .collect();
        wanted.sort_unstable_by_key(|(position, _)| *position);
        let mut wanted = wanted.into_iter().peekable();
        let mut reader = Reader::new(tar, limits);
        let mut position = 0;
        while let Some(member) = reader.next_member()? {
            if let Some((_, entry)) = wanted.next_if(|(at, _)| *at == position) {
                let differs = || UnpackError::Differs { path: entry.path.clone() };
                let Member::Object(found) = &member else { return Err(differs()) };
                if found.size() != entry.size() {
                    return Err(differs());
                }
                self.make_file(entry, &mut reader)?;
            }
            position += 1;
        }
        match wanted.next() {
            Some((_, entry)) => Err(UnpackError::Differs { path: entry.path.clone() }),
            None => Ok(()),
        }
    }

    /// Makes what is neither directory nor file, then gives directories their metadata, the deepest first.
    fn finish(mut self, index: &LayerIndex) -> Result<Vec<LeftOut>, UnpackError> {
        let mut targets = Cursor::new(self.root);
        for entry in index.entries() {
            self.make_other(entry, &mut targets)?;
        }
        for entry in index.entries().iter().rev().filter(|entry| entry.is_directory()) {
            let directory = self.cursor.go(&entry.path).map_err(UnpackError::call("openat", entry))?;
            metadata::set_on_handle(directory, entry, self.born, self.flavour, &mut self.left_out)?;
        }
        if index.get(Path::new("")).is_none() {
            let root = Entry::directory("", 0o755);
            metadata::set_on_handle(self.root, &root, None, self.flavour, &mut self.left_out)?;
        }
        Ok(self.left_out)
    }

    fn make_other(&mut self, entry: &Entry, targets: &mut Cursor<'_>) -> Result<(), UnpackError> {
        if matches!(entry.kind, Kind::Directory { .. } | Kind::File { .. }) {
            return Ok(());
        }
        let failed = |call| UnpackError::call::<Errno>(call, entry);
        let (parent, name) =
            self.cursor.parent_of(&entry.path).map_err(UnpackError::call("openat", entry))?;
        let node = |kind, device| rustix::fs::mknodat(parent, name, kind, Mode::empty(), device);
        match &entry.kind {
            Kind::Directory { .. } | Kind::File { .. } => return Ok(()),
            Kind::Symlink { target } => {
                rustix::fs::symlinkat(target, parent, name).map_err(failed("symlinkat"))?;
            }
            Kind::HardLink { target } => {
                let (directory, first) =
                    targets.parent_of(target).map_err(UnpackError::call("openat", entry))?;
                let flags = rustix::fs::AtFlags::empty();
                return rustix::fs::linkat(directory, first, parent, name, flags).map_err(failed("linkat"));
            }
            Kind::Whiteout => {
                // Overlayfs's own form of a deletion: mode and owner of the node mean nothing.
                return node(FileType::CharacterDevice, 0).map_err(failed("mknodat(0:0)"));
            }
            Kind::Fifo => node(FileType::Fifo, 0).map_err(failed("mknodat"))?,
            Kind::CharDevice(device) | Kind::BlockDevice(device) => {
                let is_block = matches!(entry.kind, Kind::BlockDevice(_));
                let kind = if is_block { FileType::BlockDevice } else { FileType::CharacterDevice };
                match node(kind, rustix::fs::makedev(device.major, device.minor)) {
                    Err(Errno::PERM) => {
                        self.left_out.push(LeftOut::Device(entry.path.clone()));
                        return Ok(());
                    }
                    made => made.map_err(failed("mknodat"))?,
                }
            }
        }
        metadata::set_on_name(parent, name, entry, self.flavour, &mut self.left_out)
    }
}

/// Copies exactly the entry's size and returns the hash of it.
fn copy(
    from: &mut dyn Read,
    to: &mut File,
    entry: &Entry,
    buffer: &mut [u8],
) -> Result<blake3::Hash, UnpackError> {
    let mut hasher = blake3::Hasher::new();
    let mut left = entry.size();
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = match from.read(&mut buffer[..wanted]) {
            Ok(0) => return Err(UnpackError::Differs { path: entry.path.clone() }),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(UnpackError::Source { path: entry.path.clone(), source }),
        };
        hasher.update(&buffer[..read]);
        to.write_all(&buffer[..read]).map_err(UnpackError::call("write", entry))?;
        left -= read as u64;
    }
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests;
