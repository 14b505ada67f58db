//! `type=local`: the root file system as a directory of the user's.
//!
//! The image decides names and contents, never where they go: everything is made relative to handles of
//! directories that were opened without following links, and a link that is in the way is replaced (CTX-12). As with
//! BuildKit, files belong to the user who exports and are merged with what is there.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::{Object, open, open_file, walk};
use crate::error::{Error, Result};

/// What a directory of the user's could not or must not get, for the build to tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Device nodes and sockets that were left out.
    pub devices: Vec<PathBuf>,
    /// Files that lost set-user-id or set-group-id, because they now belong to the user.
    pub stripped: Vec<PathBuf>,
}

/// Writes the tree at `root` into the directory `destination`, which is made where it is missing.
///
/// # Errors
/// [`Error::Rootfs`], [`Error::InTheWay`] where the destination has a directory in place of something else.
pub fn local(root: BorrowedFd<'_>, destination: &Path) -> Result<Report> {
    std::fs::create_dir_all(destination).map_err(Error::io("create", destination))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target =
        rustix::fs::open(destination, flags, Mode::empty()).map_err(Error::io("open", destination))?;
    let mut copier = Copier {
        root,
        target,
        report: Report::default(),
        first_names: BTreeMap::new(),
        directories: Vec::new(),
        parent: None,
    };
    walk(root, |object| copier.copy(object))?;
    copier.finish()
}

struct Copier<'a> {
    root: BorrowedFd<'a>,
    target: OwnedFd,
    report: Report,
    first_names: BTreeMap<(u64, u64), PathBuf>,
    /// Modes and times of directories are set last: writing into them changes times and needs permission.
    directories: Vec<(PathBuf, u32, Stat)>,
    /// The directory of the object before, open.
    parent: Option<(PathBuf, OwnedFd)>,
}

impl Copier<'_> {
    fn copy(&mut self, object: &Object<'_>) -> Result<()> {
        let path = &object.path;
        let above = path.parent().unwrap_or(Path::new(""));
        let parent = match self.parent.take() {
            Some((open, handle)) if open == above => handle,
            _ => self.open_target(above)?,
        };
        self.make(object, &parent)?;
        self.parent = Some((above.to_owned(), parent));
        Ok(())
    }

    fn open_target(&self, path: &Path) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open(self.target.as_fd(), path, flags).map_err(Error::rootfs("open destination of", path))
    }

    fn make(&mut self, object: &Object<'_>, parent: &OwnedFd) -> Result<()> {
        let (path, name) = (&object.path, &object.name);
        match object.kind() {
            FileType::Directory => return self.make_directory(object, parent),
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Socket | FileType::Unknown => {
                self.report.devices.push(path.clone());
                return Ok(());
            }
            FileType::RegularFile | FileType::Symlink | FileType::Fifo => {}
        }
        clear(parent, name, path)?;
        if object.stat.st_nlink > 1 {
            if let Some(first) = self.first_names.get(&object.inode()) {
                return self.make_link(first, parent, name, path);
            }
            self.first_names.insert(object.inode(), path.clone());
        }
        match object.kind() {
            FileType::RegularFile => self.make_file(object, parent)?,
            FileType::Symlink => {
                rustix::fs::symlinkat(object.link_target()?, parent, name)
                    .map_err(Error::rootfs("symlink", path))?;
            }
            _ => {
                let mode = Mode::from_raw_mode(object.permissions() & 0o777);
                rustix::fs::mknodat(parent, name, FileType::Fifo, mode, 0)
                    .map_err(Error::rootfs("mkfifo", path))?;
            }
        }
        let times = times(&object.stat);
        rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Error::rootfs("set times of", path))
    }

    fn make_directory(&mut self, object: &Object<'_>, parent: &OwnedFd) -> Result<()> {
        let (path, name) = (&object.path, &object.name);
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
            Ok(_) => {
                clear(parent, name, path)?;
                make_directory(parent, name, path)?;
            }
            Err(Errno::NOENT) => make_directory(parent, name, path)?,
            Err(errno) => return Err(Error::rootfs("stat destination of", path)(errno)),
        }
        self.directories.push((path.clone(), object.permissions() & 0o1777, object.stat));
        Ok(())
    }

    fn make_file(&mut self, object: &Object<'_>, parent: &OwnedFd) -> Result<()> {
        let (path, name) = (&object.path, &object.name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))
            .map_err(Error::rootfs("create destination of", path))?;
        let mut file = File::from(file);
        let mut source = open_file(self.root, path).map_err(Error::rootfs("open", path))?;
        std::io::copy(&mut source, &mut file).map_err(Error::rootfs("copy", path))?;
        for (name, value) in object.xattrs()? {
            // Other namespaces give rights (capabilities) or belong to the system.
            if name.starts_with(b"user.") {
                match rustix::fs::fsetxattr(&file, &name[..], &value, rustix::fs::XattrFlags::empty()) {
                    Ok(()) | Err(Errno::NOTSUP) => {}
                    Err(errno) => return Err(Error::rootfs("set attributes of", path)(errno)),
                }
            }
        }
        let mode = object.permissions();
        if mode & 0o6000 != 0 {
            self.report.stripped.push(path.clone());
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o1777)).map_err(Error::rootfs("chmod", path))
    }

    fn make_link(&self, first: &Path, parent: &OwnedFd, name: &CStr, path: &Path) -> Result<()> {
        let above = self.open_target(first.parent().unwrap_or(Path::new("")))?;
        let first = first.file_name().unwrap_or_default();
        rustix::fs::linkat(&above, first, parent, name, AtFlags::empty()).map_err(Error::rootfs("link", path))
    }

    fn finish(self) -> Result<Report> {
        for (path, mode, stat) in self.directories.iter().rev() {
            let directory = self.open_target(path)?;
            rustix::fs::fchmod(&directory, Mode::from_raw_mode(*mode))
                .map_err(Error::rootfs("chmod", path))?;
            rustix::fs::futimens(&directory, &times(stat)).map_err(Error::rootfs("set times of", path))?;
        }
        Ok(self.report)
    }
}

fn make_directory(parent: &OwnedFd, name: &CStr, path: &Path) -> Result<()> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)).map_err(Error::rootfs("mkdir", path))
}

/// Removes what has the name, unless that is a directory of the user's.
fn clear(parent: &OwnedFd, name: &CStr, path: &Path) -> Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => Err(Error::InTheWay(path.to_owned())),
        Err(errno) => Err(Error::rootfs("replace destination of", path)(errno)),
    }
}

fn times(stat: &Stat) -> Timestamps {
    let time =
        Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or_default() };
    Timestamps { last_access: time, last_modification: time }
}
