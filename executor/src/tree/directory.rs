//! A live directory as a tree, read by handles; what changes while it is read is an error of the reader.

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci::layer::{Device, Entry, Kind, Mtime};
use rustix::fs::{AtFlags, FileType, RawDir, Statx, StatxFlags};
use rustix::io::Errno;

use super::{Content, Node, Tree, TreeError, open_directory_beneath};

/// A directory of the host. Names in it with several links are not told apart; sockets are not shown.
#[derive(Debug, Clone)]
pub struct Directory {
    root: Arc<OwnedFd>,
}

impl Directory {
    /// Wraps an open directory.
    pub const fn new(root: Arc<OwnedFd>) -> Self {
        Self { root }
    }

    /// Returns the directory's descriptor.
    pub const fn root(&self) -> &Arc<OwnedFd> {
        &self.root
    }
}

/// Returns what an open directory has under the last name of `path`; `None` if it is not there.
fn node_at(directory: impl AsFd, path: PathBuf) -> Result<Option<Node>, TreeError> {
    let name = path.file_name().unwrap_or(OsStr::new("."));
    let stat = match stat_at(&directory, name) {
        Ok(stat) => stat,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(TreeError::Call { call: "statx", path, source: errno.into() }),
    };
    let target = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::Symlink => match read_link(&directory, name) {
            Ok(target) => Some(target),
            Err(source) => return Err(TreeError::Call { call: "readlinkat", path, source }),
        },
        _ => None,
    };
    let mut entry = entry_of(path, &stat);
    if let (Some(entry), Some(target)) = (&mut entry, target) {
        entry.kind = Kind::Symlink { target };
    }
    Ok(entry.map(Node::new))
}

/// Whether an error of opening says that there is nothing at the path: ELOOP is a symbolic link in the middle,
/// which a tree does not follow.
fn is_absent(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

impl Tree for Directory {
    fn lstat(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        match open_directory_beneath(&self.root, parent) {
            Ok(parent) => node_at(parent, path.to_owned()),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(TreeError::Call { call: "openat2", path: path.to_owned(), source }),
        }
    }

    fn children(&self, directory: &Path) -> Result<Vec<Node>, TreeError> {
        let call =
            |call| move |source: io::Error| TreeError::Call { call, path: directory.to_owned(), source };
        let open = match open_directory_beneath(&self.root, directory) {
            Ok(open) => open,
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            Err(error) => return Err(call("openat2")(error)),
        };
        let mut names = list(&open).map_err(call("getdents64"))?;
        names.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        let paths = names.into_iter().map(|(name, _)| directory.join(OsStr::from_bytes(&name)));
        paths.filter_map(|path| node_at(&open, path).transpose()).collect()
    }

    fn content(&self, path: &Path) -> Result<Content, TreeError> {
        Ok(Content::Beneath { root: Arc::clone(&self.root), path: path.to_owned() })
    }
}

/// Returns name and type of everything in an open directory, in the kernel's order.
pub(crate) fn list(directory: impl AsFd) -> io::Result<Vec<(Vec<u8>, FileType)>> {
    let mut buffer = [const { MaybeUninit::uninit() }; 32 * 1024];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(names)
}

/// Returns the status of `name` in an open directory without following it.
pub(crate) fn stat_at(directory: impl AsFd, name: &OsStr) -> rustix::io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS)
}

/// Returns the target of the symbolic link `name` in an open directory.
pub(crate) fn read_link(directory: impl AsFd, name: &OsStr) -> io::Result<PathBuf> {
    let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
    Ok(std::ffi::OsString::from_vec(target.into_bytes()).into())
}

/// Returns an entry without xattrs, link target and hash; `None` for a socket, which no layer can hold.
pub(crate) fn entry_of(path: PathBuf, stat: &Statx) -> Option<Entry> {
    let mode = u32::from(stat.stx_mode);
    let device = Device { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor };
    let kind = match FileType::from_raw_mode(mode) {
        FileType::RegularFile => Kind::File { size: stat.stx_size, content: None },
        FileType::Directory => Kind::Directory { opaque: false },
        FileType::Symlink => Kind::Symlink { target: PathBuf::new() },
        FileType::Fifo => Kind::Fifo,
        FileType::CharacterDevice => Kind::CharDevice(device),
        FileType::BlockDevice => Kind::BlockDevice(device),
        FileType::Socket | FileType::Unknown => return None,
    };
    Some(Entry {
        path,
        kind,
        mode: mode & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        mtime: Mtime { seconds: stat.stx_mtime.tv_sec, nanoseconds: stat.stx_mtime.tv_nsec },
        xattrs: oci::layer::Xattrs::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::open_root;
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn shows_what_is_there_and_follows_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("d")).unwrap();
        std::fs::write(scratch.path().join("d/f"), "bytes").unwrap();
        symlink("d", scratch.path().join("l")).unwrap();
        let tree = Directory::new(Arc::new(open_root(scratch.path()).unwrap()));
        let kinds: Vec<_> = tree.children(Path::new("")).unwrap().into_iter().map(|n| n.entry.kind).collect();
        assert_eq!(kinds, [Kind::Directory { opaque: false }, Kind::Symlink { target: "d".into() }]);
        assert!(tree.lstat(Path::new("l/f")).unwrap().is_none());
        assert!(tree.lstat(Path::new("d/f/g")).unwrap().is_none());
        assert_eq!(tree.read(Path::new("d/f"), 5).unwrap(), b"bytes");
        assert!(matches!(tree.read(Path::new("d/f"), 4), Err(TreeError::TooLarge { limit: 4, .. })));
        assert!(tree.lstat(Path::new("")).unwrap().unwrap().entry.is_directory());
    }
}
