//! What a step left in an overlay's upper directory, as the entries of a layer.
//!
//! The directory is read by handles; nothing in it is followed, and nobody writes to it any more. Deletions are
//! recognised in overlayfs's own form (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque
//! directories"). The lower layers are not looked at.

mod xattrs;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci::layer::{Device, Entry, Kind, Mtime, WriteError};
use oci::pack::{Content, Item};
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::layers::Flavour;
use crate::tree::{entry_of, list, open_beneath, open_directory_beneath, read_link, stat_at};
use crate::unpack::Cursor;

/// How an upper directory becomes a layer.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Whose attributes mean opaque.
    pub flavour: Flavour,
    /// SOURCE_DATE_EPOCH: later times become this one.
    pub epoch: Option<i64>,
    /// Mount points that were made for the step, with everything below them; they are no part of the layer.
    pub stubs: &'a [PathBuf],
}

/// The content of an upper directory.
#[derive(Debug)]
pub struct Upper {
    /// The root directory, which is no entry of the layer unless the caller decides so.
    pub root: Entry,
    /// Everything below it, in path order; files without hashes.
    pub entries: Vec<Entry>,
    /// Where overlayfs left attributes of its own, apart from the mark of opaque directories.
    leftovers: Vec<(PathBuf, Vec<u8>)>,
    /// What has a later time on disk than in its entry.
    clamped: Vec<(PathBuf, Mtime)>,
}

/// Why an upper directory cannot become a layer.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// A name that the layer format reserves.
    #[error(transparent)]
    Name(#[from] WriteError),
    /// A system call failed.
    #[error("{call} {path:?} in the step's layer")]
    Call {
        /// The call.
        call: &'static str,
        /// On what, relative to the root of the layer.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DiffError {
    fn call<E: Into<io::Error>>(call: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |error| Self::Call { call, path: path.to_owned(), source: error.into() }
    }
}

/// Reads the upper directory `root`.
///
/// # Errors
/// [`DiffError::Name`] for a name like `.wh.x` (OVL-05), [`DiffError::Call`].
pub fn scan(root: BorrowedFd<'_>, options: Options<'_>) -> Result<Upper, DiffError> {
    let mut scanner = Scanner {
        cursor: Cursor::new(root),
        options,
        inodes: BTreeMap::new(),
        entries: Vec::new(),
        leftovers: Vec::new(),
        clamped: Vec::new(),
    };
    let own = scanner.entry(Path::new(""))?;
    let mut pending = vec![scanner.names(Path::new(""))?];
    // Depth first with sorted names is path order; the stack is on the heap (TAR-52).
    while let Some(names) = pending.last_mut() {
        let Some(path) = names.next() else {
            pending.pop();
            continue;
        };
        if options.stubs.contains(&path) {
            continue;
        }
        oci::layer::writer::check_names(Path::new(path.file_name().unwrap_or_default())).map_err(
            |error| match error {
                WriteError::Reserved(_) => WriteError::Reserved(path.clone()),
                other => other,
            },
        )?;
        let Some(entry) = scanner.entry(&path)? else { continue };
        if entry.is_directory() {
            pending.push(scanner.names(&path)?);
        }
        scanner.entries.push(entry);
    }
    let root = own.unwrap_or_else(|| Entry::directory("", 0o755));
    let Scanner { entries, leftovers, clamped, .. } = scanner;
    Ok(Upper { root, entries, leftovers, clamped })
}

struct Scanner<'a> {
    cursor: Cursor<'a>,
    options: Options<'a>,
    /// First name of each inode that has several.
    inodes: BTreeMap<u64, PathBuf>,
    entries: Vec<Entry>,
    leftovers: Vec<(PathBuf, Vec<u8>)>,
    clamped: Vec<(PathBuf, Mtime)>,
}

impl Scanner<'_> {
    /// Returns the paths of everything in a directory, sorted.
    fn names(&mut self, path: &Path) -> Result<std::vec::IntoIter<PathBuf>, DiffError> {
        let directory = self.cursor.go(path).map_err(DiffError::call("openat", path))?;
        // A handle of its own: listing moves the position of the caller's.
        let fresh =
            open_directory_beneath(directory, Path::new("")).map_err(DiffError::call("openat2", path))?;
        let mut names = list(fresh).map_err(DiffError::call("getdents64", path))?;
        names.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        let paths: Vec<_> = names.into_iter().map(|(name, _)| path.join(OsString::from_vec(name))).collect();
        Ok(paths.into_iter())
    }

    /// Returns what is at `path`; `None` for a socket, which no layer can hold.
    fn entry(&mut self, path: &Path) -> Result<Option<Entry>, DiffError> {
        let (directory, name) = go_to(&mut self.cursor, path)?;
        let stat = stat_at(directory, name).map_err(DiffError::call("statx", path))?;
        let Some(mut entry) = entry_of(path.to_owned(), &stat) else { return Ok(None) };
        if entry.kind == Kind::CharDevice(Device { major: 0, minor: 0 }) {
            // All whiteouts of an upper directory share one inode; they are no hard links.
            return Ok(Some(Entry::whiteout(path)));
        }
        // Times after SOURCE_DATE_EPOCH become it (reproducible-builds.org, "SOURCE_DATE_EPOCH").
        if let Some(seconds) = self.options.epoch
            && entry.mtime > (Mtime { seconds, nanoseconds: 0 })
        {
            entry.mtime = Mtime { seconds, nanoseconds: 0 };
            self.clamped.push((path.to_owned(), entry.mtime));
        }
        if let Kind::Symlink { target } = &mut entry.kind {
            *target = read_link(directory, name).map_err(DiffError::call("readlinkat", path))?;
        }
        let found = xattrs::read(directory, name, self.options.flavour);
        let found = found.map_err(DiffError::call("getxattr", path))?;
        entry.xattrs = found.xattrs;
        self.leftovers.extend(found.leftovers.into_iter().map(|name| (path.to_owned(), name)));
        if let Kind::Directory { opaque } = &mut entry.kind {
            *opaque = found.opaque;
        } else if stat.stx_nlink > 1 {
            match self.inodes.get(&stat.stx_ino) {
                Some(first) => entry.kind = Kind::HardLink { target: first.clone() },
                None => drop(self.inodes.insert(stat.stx_ino, path.to_owned())),
            }
        }
        Ok(Some(entry))
    }
}

impl Upper {
    /// Returns the entries with their contents beneath `root`, ready to be packed.
    pub fn items(&self, root: &Arc<OwnedFd>) -> impl Iterator<Item = Item> {
        let root = Arc::clone(root);
        self.entries.iter().map(move |entry| {
            let content = match entry.kind {
                Kind::File { size: 0, .. } => Content::None,
                Kind::File { .. } => content(&root, &entry.path),
                Kind::Directory { .. }
                | Kind::Symlink { .. }
                | Kind::HardLink { .. }
                | Kind::CharDevice(_)
                | Kind::BlockDevice(_)
                | Kind::Fifo
                | Kind::Whiteout => Content::None,
            };
            Item { entry: entry.clone(), content }
        })
    }

    /// Makes the directory itself what the entries say, so that it can serve as a lower layer: removes overlayfs's
    /// attributes but the opaque marks (`origin`, `impure` and `redirect` would be believed) and clamps times.
    ///
    /// # Errors
    /// [`DiffError::Call`].
    pub fn settle(&self, root: BorrowedFd<'_>) -> Result<(), DiffError> {
        let mut cursor = Cursor::new(root);
        for (path, attribute) in &self.leftovers {
            let (directory, name) = go_to(&mut cursor, path)?;
            let target = crate::unpack::in_proc(directory, name);
            match rustix::fs::lremovexattr(target, OsStr::from_bytes(attribute)) {
                // It went with another name of the same file.
                Ok(()) | Err(rustix::io::Errno::NODATA) => {}
                Err(errno) => return Err(DiffError::call("lremovexattr", path)(errno)),
            }
        }
        for (path, mtime) in &self.clamped {
            let (directory, name) = go_to(&mut cursor, path)?;
            let times = crate::unpack::times(*mtime);
            rustix::fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(DiffError::call("utimensat", path))?;
        }
        Ok(())
    }
}

/// Returns the handle of the directory above `path` and the last name, `.` for the root.
fn go_to<'c, 'p>(
    cursor: &'c mut Cursor<'_>,
    path: &'p Path,
) -> Result<(BorrowedFd<'c>, &'p OsStr), DiffError> {
    let parent = path.parent().unwrap_or(Path::new(""));
    let name = path.file_name().unwrap_or(OsStr::new("."));
    Ok((cursor.go(parent).map_err(DiffError::call("openat", path))?, name))
}

/// Returns a source that opens the file at `path` beneath `root` when its turn comes.
pub fn content(root: &Arc<OwnedFd>, path: &Path) -> Content {
    let (root, path) = (Arc::clone(root), path.to_owned());
    Content::open_with(move || open_far(root.as_fd(), &path))
}

/// Opens a file whose path may be longer than the kernel takes.
fn open_far(root: BorrowedFd<'_>, path: &Path) -> io::Result<File> {
    if path.as_os_str().len() < 4000 {
        return open_beneath(root, path);
    }
    let mut cursor = Cursor::new(root);
    let (parent, name) = cursor.parent_of(path)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?.into())
}

#[cfg(test)]
mod tests;
