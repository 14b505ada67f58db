//! A mounted root file system, walked by handles in path order: the source of `type=tar` and `type=local`.
//!
//! Nothing in the image is followed. A directory is opened from the root by its path without symbolic links, so
//! the walk needs one handle, however deep the tree is.

mod local;
mod tar;

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci::layer::Xattrs;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};

pub use local::{Report, local};
pub use tar::{tar, tar_of_several};

use crate::error::{Error, Result};

const NO_LINKS: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// An object of the tree.
struct Object<'a> {
    /// Relative to the root.
    path: PathBuf,
    /// The directory that it is in.
    parent: BorrowedFd<'a>,
    name: CString,
    stat: Stat,
}

impl Object<'_> {
    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    fn permissions(&self) -> u32 {
        self.stat.st_mode & 0o7777
    }

    /// The identity that names of one file share.
    fn inode(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    fn link_target(&self) -> Result<CString> {
        rustix::fs::readlinkat(self.parent, &self.name, Vec::new())
            .map_err(Error::rootfs("readlink", &self.path))
    }

    /// Extended attributes by name; the lists of file systems without any are empty.
    fn xattrs(&self) -> Result<Xattrs> {
        // No system call before 6.13 reads attributes relative to a handle without opening the object.
        let prefix = format!("/proc/self/fd/{}/", self.parent.as_raw_fd());
        let path = PathBuf::from(OsStr::from_bytes(&[prefix.as_bytes(), self.name.to_bytes()].concat()));
        let names = match sized(|buffer| rustix::fs::llistxattr(&path, buffer)) {
            Ok(names) => names,
            Err(rustix::io::Errno::NOTSUP) => return Ok(Xattrs::new()),
            Err(errno) => return Err(Error::rootfs("llistxattr", &self.path)(errno)),
        };
        let mut xattrs = Xattrs::new();
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let value = match sized(|buffer| rustix::fs::lgetxattr(&path, name, buffer)) {
                Ok(value) => value,
                Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => continue,
                Err(errno) => return Err(Error::rootfs("lgetxattr", &self.path)(errno)),
            };
            xattrs.insert(name.to_vec(), value);
        }
        Ok(xattrs)
    }
}

/// Calls `visit` for everything below `root`, a directory before what is in it, names in byte order.
fn walk(root: BorrowedFd<'_>, mut visit: impl FnMut(&Object<'_>) -> Result<()>) -> Result<()> {
    let mut waiting = vec![PathBuf::new()];
    // Directories are visited when their turn comes, so that what follows stays in path order.
    let mut pending: Vec<(PathBuf, Vec<CString>)> = Vec::new();
    while let Some(path) = waiting.pop() {
        pending.push((path.clone(), names(root, &path)?));
        'level: while let Some((path, names)) = pending.last_mut() {
            let directory = open_directory(root, path)?;
            while let Some(name) = names.pop() {
                let at = path.join(OsStr::from_bytes(name.to_bytes()));
                let stat = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(Error::rootfs("stat", &at))?;
                let object = Object { path: at, parent: directory.as_fd(), name, stat };
                visit(&object)?;
                if object.kind() == FileType::Directory {
                    waiting.push(object.path);
                    break 'level;
                }
            }
            pending.pop();
        }
    }
    Ok(())
}

/// The names in a directory, last first.
fn names(root: BorrowedFd<'_>, path: &Path) -> Result<Vec<CString>> {
    let directory = open_directory(root, path)?;
    let entries = rustix::fs::Dir::read_from(&directory).map_err(Error::rootfs("readdir", path))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(Error::rootfs("readdir", path))?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort_unstable_by(|left, right| right.cmp(left));
    Ok(names)
}

fn open_directory(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(root, path, flags).map_err(Error::rootfs("open", path))
}

/// Opens a regular file; a pipe that took its place would not make us wait.
fn open_file(root: BorrowedFd<'_>, path: &Path) -> io::Result<File> {
    let file = File::from(open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC)?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("no longer a regular file")) }
}

fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    rustix::fs::openat2(root, path, flags, Mode::empty(), NO_LINKS)
}

/// Calls `read` with a buffer that is large enough.
fn sized(mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 1024];
    loop {
        match read(&mut buffer) {
            Ok(size) => {
                buffer.truncate(size);
                return Ok(buffer);
            }
            // 64 KiB is the kernel's limit for both lists and values (XATTR_LIST_MAX, XATTR_SIZE_MAX).
            Err(rustix::io::Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 8, 0),
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests;
