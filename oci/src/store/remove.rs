//! Removing trees that steps have made: without following links, without recursion, whatever their modes.
//!
//! `std::fs::remove_dir_all` recurses and stops at directories without permissions, of which overlay's `work/work`
//! (mode 000) is one. Here a directory inside the tree that is not empty is moved up to the base and dealt with in
//! its turn, so depth costs neither stack nor descriptors.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, chmodat, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::{Staging, Store};
use crate::error::{Error, Result};
use crate::lock::random_name;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes `path` of a `store` so that it is gone at once, whatever happens then: it is moved to a staging
/// directory, which a sweep would remove too. What is not there is removed.
///
/// # Errors
/// [`Error::Io`].
pub fn discard(store: &Store, path: &Path) -> Result<()> {
    move_away(store, path).map(drop)
}

/// Moves `path` of a `store` to a staging directory, with which it is removed. What is not there is moved.
pub(super) fn move_away(store: &Store, path: &Path) -> Result<Staging> {
    let staging = store.staging()?;
    match std::fs::rename(path, staging.path().join("trash")) {
        Ok(()) => Ok(staging),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(staging),
        Err(error) => Err(Error::io("remove", path)(error)),
    }
}

/// Removes the tree or file at `path`. What is not there is removed.
///
/// # Errors
/// [`Error::Io`] where something inside cannot be removed, such as a mount point.
pub fn tree(path: &Path) -> Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("remove", path)(error)),
    };
    if metadata.is_dir() {
        contents(path, None).map_err(Error::io("remove", path))?;
        std::fs::remove_dir(path).map_err(Error::io("remove", path))
    } else {
        std::fs::remove_file(path).map_err(Error::io("remove", path))
    }
}

/// Removes everything in `directory` except the file named `kept`.
pub(super) fn contents(directory: &Path, kept: Option<&str>) -> io::Result<()> {
    let parent = rustix::fs::CWD;
    let name = CString::new(directory.as_os_str().as_bytes())?;
    let base = open_directory(parent, &name)?;
    let mut waiting = empty(&base, &base, kept)?;
    while let Some(name) = waiting.pop() {
        let inner = open_directory(base.as_fd(), &name)?;
        waiting.extend(empty(&base, &inner, None)?);
        drop(inner);
        unlinkat(&base, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    match openat(parent, name, DIRECTORY, Mode::empty()) {
        Err(Errno::ACCESS) => {
            chmodat(parent, name, Mode::from_raw_mode(0o700), AtFlags::empty())?;
            Ok(openat(parent, name, DIRECTORY, Mode::empty())?)
        }
        other => Ok(other?),
    }
}

/// Unlinks all that can be unlinked in `directory` and moves what is left to `base`; returns the names there.
fn empty(base: &OwnedFd, directory: &OwnedFd, kept: Option<&str>) -> io::Result<Vec<CString>> {
    let entries: Vec<(CString, rustix::fs::FileType)> = rustix::fs::Dir::read_from(directory)?
        .map(|entry| entry.map(|entry| (entry.file_name().to_owned(), entry.file_type())))
        .collect::<Result<_, _>>()?;
    let mut moved = Vec::new();
    for (name, kind) in entries {
        if matches!(name.to_bytes(), b"." | b"..")
            || kept.is_some_and(|kept| name.to_bytes() == kept.as_bytes())
        {
            continue;
        }
        if kind != rustix::fs::FileType::Directory {
            match writable(directory, || unlinkat(directory, &name, AtFlags::empty())) {
                Err(Errno::ISDIR) => {}
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno.into()),
            }
        }
        match writable(directory, || unlinkat(directory, &name, AtFlags::REMOVEDIR)) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => moved.push(move_up(base, directory, name)?),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(moved)
}

fn move_up(base: &OwnedFd, directory: &OwnedFd, name: CString) -> io::Result<CString> {
    if std::ptr::eq(base, directory) {
        return Ok(name);
    }
    let target = CString::new(random_name())?;
    match writable(directory, || renameat(directory, &name, base, &target)) {
        // Moving a directory changes its `..`, for which it has to be writable itself.
        Err(Errno::ACCESS) => {
            chmodat(directory, &name, Mode::from_raw_mode(0o700), AtFlags::empty())?;
            renameat(directory, &name, base, &target)?;
        }
        other => other?,
    }
    Ok(target)
}

/// Does `act` in `directory`; where its mode forbids that, the mode is changed and `act` done again.
fn writable(directory: &OwnedFd, mut act: impl FnMut() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    match act() {
        Err(Errno::ACCESS) => {
            rustix::fs::fchmod(directory, Mode::from_raw_mode(0o700))?;
            act()
        }
        other => other,
    }
}
