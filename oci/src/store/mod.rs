//! The store: one directory that holds everything xbuild keeps between builds.
//!
//! ```text
//! version               format number
//! images/               an OCI image layout: blobs and names
//! layers/<flavour>/<id> unpacked layers; what is inside is the executor's
//! index/<diff id>       layer indexes
//! packed/<diff id>.<encoding>  which blob is this layer in this encoding
//! packed/<diff id>.<encoding>.pieces  where its chunks are in that blob
//! steps/<key>           cache records; what is inside is the solver's
//! sources/ mounts/ contexts/   of the worker
//! marks/                which objects survive a power failure; marks/lock guards placing them
//! tmp/<random>/         staging, each locked by its owner
//! gc.lock               shared to add to a lease, exclusive to prune
//! ```
//!
//! This module owns the directories, their atomicity and their locks. It does not know what a step, a layer's
//! directory or a record means, and it decides nothing about what may be pruned. Whatever is missing was cleaned
//! up by somebody and is a miss, never an error.

mod journal;
mod lease;
mod records;
mod remove;
mod space;
mod staging;

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

pub use journal::Journal;
pub use lease::{Lease, Leased, PruneGuard};
pub use remove::{discard, tree as remove_tree};
pub use space::{Kind, Space, Usage, human};
pub use staging::Staging;

use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::lock;

/// The format that this xbuild writes.
const FORMAT: u32 = 1;

const DIRECTORIES: [&str; 9] =
    ["layers", "index", "packed", "steps", "sources", "mounts", "contexts", "marks", "tmp"];

/// A store on disk. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    root: Arc<PathBuf>,
    layout: Layout,
    journal: Arc<Journal>,
}

impl Store {
    /// Opens the store at `root`, making it where there is none. Nothing is fsynced, and an existing store is
    /// only looked at.
    ///
    /// # Errors
    /// [`Error::Owner`], [`Error::Version`], [`Error::NoStore`] for a directory that holds something else or that
    /// others may write to, [`Error::Io`].
    pub fn open(root: &Path) -> Result<Self> {
        let root = std::path::absolute(root).map_err(Error::io("resolve", root))?;
        if !check_directory(&root)? || read_version(&root)?.is_none() {
            initialise(&root)?;
        }
        let journal = Arc::new(Journal::open(&root));
        let layout = Layout::restore(&root.join("images"))?;
        Ok(Self { layout: layout.with_journal(journal.clone()), journal, root: Arc::new(root) })
    }

    /// Returns the directory of the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the images: blobs and names.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the journal of objects that may be trusted after a crash.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Makes everything that was recorded so far survive a power failure: one `syncfs`, then marks. Does nothing
    /// where nothing was recorded.
    ///
    /// # Errors
    /// [`Error::Io`]: an error of the disk, after which nothing recorded may be relied on.
    pub fn make_durable(&self) -> Result<()> {
        self.journal.make_durable(&self.root)
    }

    /// Replaces `name`, a path inside the store, by `bytes`: readers see the old or the new bytes.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn replace(&self, name: &Path, bytes: &[u8]) -> Result<()> {
        lock::replace(&self.root.join("tmp"), name, bytes)
    }

    /// Removes what dead processes left: staging directories, half-written files, marks of earlier boots.
    /// Whatever cannot be removed is left for a later command.
    ///
    /// # Errors
    /// [`Error::Io`] where a directory of the store cannot be read.
    pub fn sweep(&self) -> Result<()> {
        lock::sweep(&self.root.join("tmp"))?;
        self.layout.sweep()?;
        self.journal.sweep();
        staging::sweep(&self.root.join("tmp"))
    }
}

/// Returns whether `root` exists, after checking whose it is and who can write to it.
fn check_directory(root: &Path) -> Result<bool> {
    let metadata = match std::fs::metadata(root) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::io("open store", root)(error)),
    };
    let user = rustix::process::geteuid().as_raw();
    if !metadata.is_dir() {
        return Err(Error::NoStore { path: root.to_owned(), what: "it is not a directory".to_owned() });
    }
    if metadata.uid() != user {
        return Err(Error::Owner { path: root.to_owned(), owner: metadata.uid(), user });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 && read_version(root)?.is_some() {
        let what = format!(
            "others may write to it (mode {mode:04o}) — run `chmod 700` on it if you trust its content"
        );
        return Err(Error::NoStore { path: root.to_owned(), what });
    }
    // Set-user-id files of images must not be reachable by others (CVE-2021-41091).
    if mode & 0o077 != 0 && read_version(root)?.is_some() {
        std::fs::set_permissions(root, Permissions::from_mode(0o700))
            .map_err(Error::io("chmod 0700", root))?;
    }
    Ok(true)
}

/// Returns the format of the store, `None` where there is no version file.
fn read_version(root: &Path) -> Result<Option<u32>> {
    let path = root.join("version");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", &path)(error)),
    };
    match text.trim().parse() {
        Ok(version @ 1..=FORMAT) => Ok(Some(version)),
        // A power failure can leave a file without its bytes: the store is initialised again, and keeps what it has.
        _ if text.trim().trim_matches('\0').is_empty() => Ok(None),
        _ => {
            let found = text.trim().chars().take(20).collect();
            Err(Error::Version { path: root.to_owned(), found, known: FORMAT })
        }
    }
}

/// Makes the directories; the version file comes last, so that a store that has one is whole.
fn initialise(root: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(Error::io("create", root))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(root, flags, Mode::empty()).map_err(Error::io("open", root))?;
    // Two first builds at once: one makes the store, the other finds it.
    flock(&directory, FlockOperation::LockExclusive).map_err(Error::io("lock", root))?;
    if read_version(root)?.is_some() {
        return Ok(());
    }
    check_empty(root)?;
    std::fs::set_permissions(root, Permissions::from_mode(0o700)).map_err(Error::io("chmod 0700", root))?;
    for name in DIRECTORIES {
        let path = root.join(name);
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(Error::io("create", &path))?;
    }
    Layout::restore(&root.join("images"))?;
    lock::replace(&root.join("tmp"), &root.join("version"), format!("{FORMAT}\n").as_bytes())
}

/// A directory with a stranger's files must not become a store: prune would remove them.
fn check_empty(root: &Path) -> Result<()> {
    for entry in std::fs::read_dir(root).map_err(Error::io("read", root))? {
        let name = entry.map_err(Error::io("read", root))?.file_name();
        let ours = ["images", "lost+found", "version", "gc.lock"]
            .into_iter()
            .chain(DIRECTORIES)
            .any(|known| name == *known);
        if !ours {
            let what = format!(
                "it holds {name:?} and has no file `version` — choose an empty directory with --root"
            );
            return Err(Error::NoStore { path: root.to_owned(), what });
        }
    }
    Ok(())
}

#[cfg(test)]
mod race_tests;
#[cfg(test)]
mod tests;
