//! Staging directories: `tmp/<random>/`, alive as long as somebody holds the lock inside.
//!
//! Creating and sweeping agree on one protocol: both open `lock` with O_CREAT, lock it, and check that it is
//! still linked; only who holds the lock removes anything. It needs no process ids and no clocks, and works between
//! pid namespaces.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use super::{Store, remove};
use crate::error::{Error, Result};
use crate::lock;

/// A directory of our own on the store's file system, removed when it is dropped.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    name: String,
    /// Held for life; a forked child that keeps it open keeps the directory alive.
    lock: File,
}

impl Staging {
    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the random name of the directory, unique in the store.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Moves `from`, a path inside the directory, to `to`, a path inside the store. Where something is at `to`
    /// already, it stays and `from` is left behind: names are content-addressed, so it is as good.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn move_out(&self, from: &Path, to: &Path) -> Result<()> {
        match rustix::fs::renameat_with(
            rustix::fs::CWD,
            from,
            rustix::fs::CWD,
            to,
            rustix::fs::RenameFlags::NOREPLACE,
        ) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(errno) => Err(Error::io("rename to", to)(errno)),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is swept by a later command.
        let _ = remove_locked(&self.path, &self.lock);
    }
}

impl Store {
    /// Makes a staging directory.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn staging(&self) -> Result<Staging> {
        loop {
            let name = lock::random_name();
            let path = self.root().join("tmp").join(&name);
            DirBuilder::new().mode(0o700).create(&path).map_err(Error::io("create", &path))?;
            // A sweeper that was in between takes the directory away; then we make another.
            if let Some(lock) = try_lock(&path)? {
                return Ok(Staging { path, name, lock });
            }
        }
    }
}

/// Removes the staging directories in `tmp` whose owners are dead.
pub(super) fn sweep(tmp: &Path) -> Result<()> {
    for entry in std::fs::read_dir(tmp).map_err(Error::io("read", tmp))? {
        let entry = entry.map_err(Error::io("read", tmp))?;
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if let Ok(Some(lock)) = try_lock(&entry.path()) {
            // Mounts, or files of another user namespace: a later sweep with more rights gets them.
            let _ = remove_locked(&entry.path(), &lock);
        }
    }
    Ok(())
}

/// Returns the lock of a staging directory; `None` where somebody else has it or has removed the directory.
pub(super) fn try_lock(directory: &Path) -> Result<Option<File>> {
    let path = directory.join("lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = match rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(Error::io("open", &path)(errno)),
    };
    match rustix::io::retry_on_intr(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(errno) => return Err(Error::io("lock", &path)(errno)),
    }
    let linked = file.metadata().map_err(Error::io("stat", &path))?.nlink() > 0;
    Ok(linked.then_some(file))
}

/// Removes the directory whose lock we hold. The lock file goes last, because it is what protects the rest.
fn remove_locked(directory: &Path, _lock: &File) -> io::Result<()> {
    remove::contents(directory, Some("lock"))?;
    std::fs::remove_file(directory.join("lock"))?;
    std::fs::remove_dir(directory)
}
