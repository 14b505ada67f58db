//! Paths inside a root by handles only, with the mount points that had to be made and, in the image, are removed again.
//!
//! A target may be a symbolic link of the image (`/etc/resolv.conf -> ../run/…`), so links are followed, but always inside
//! the root (openat2(2) RESOLVE_IN_ROOT). No function here takes a path of the host.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::{Errno, Result};

/// Links that one path may pass, as the kernel's MAXSYMLINKS.
const MAX_LINKS: u32 = 40;

/// What a mount point has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// For a directory.
    Directory,
    /// For anything else.
    File,
}

impl Kind {
    /// The kind of what a descriptor refers to.
    pub(super) fn of(fd: impl AsFd) -> Result<Kind> {
        let mode = rustix::fs::fstat(fd)?.st_mode;
        Ok(if FileType::from_raw_mode(mode) == FileType::Directory { Kind::Directory } else { Kind::File })
    }
}

/// A mount point in the image that did not exist before.
#[derive(Debug)]
pub(super) struct Stub {
    /// Where it is, links resolved.
    pub(super) path: PathBuf,
    parent: OwnedFd,
    name: OsString,
    kind: Kind,
    identity: (u64, u64),
    /// The parent's modification time before and after.
    before: Timespec,
    after: Timespec,
    /// Whether the parent belongs to the image.
    pub(super) parent_is_of_image: bool,
}

/// Opens a path beneath a root; links stay inside, /proc magic links are refused (RT-01).
pub(super) fn open(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    open_with(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Opens a path beneath a root in which no component may be a link.
pub(super) fn open_plain(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    open_with(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS)
}

fn open_with(root: impl AsFd, path: &Path, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd> {
    // The empty path is the root itself; for the kernel it is none.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    loop {
        match rustix::fs::openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // openat2(2): a rename or mount elsewhere raced with "..", try again.
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// Walks to a path and makes what is missing.
pub(super) struct Walk<'a> {
    /// The root.
    pub(super) root: &'a OwnedFd,
    /// Device numbers of file systems that nothing may be made on.
    pub(super) reserved: &'a [u64],
}

/// Why a walk failed.
pub(super) enum WalkError {
    /// It led to a reserved file system.
    Reserved,
    /// A system call failed.
    Call(Errno),
}

impl From<Errno> for WalkError {
    fn from(errno: Errno) -> Self {
        WalkError::Call(errno)
    }
}

impl Walk<'_> {
    /// Returns a handle on the path, made where missing; what was made in the image is appended to `stubs`.
    ///
    /// What is made inside another mount stays. A cache directory may be shared: another step makes the same mount point at
    /// the same moment, or has mounted on this one, and rmdir(2) would detach that mount (Linux since 3.18).
    pub(super) fn make(
        &self,
        path: &Path,
        kind: Kind,
        stubs: &mut Vec<Stub>,
    ) -> std::result::Result<OwnedFd, WalkError> {
        match open(self.root, path, OFlags::PATH) {
            Ok(fd) => {
                self.refuse_reserved(&fd)?;
                Ok(fd)
            }
            Err(Errno::NOENT) => self.make_missing(path, kind, stubs),
            Err(errno) => Err(errno.into()),
        }
    }

    fn make_missing(
        &self,
        path: &Path,
        kind: Kind,
        stubs: &mut Vec<Stub>,
    ) -> std::result::Result<OwnedFd, WalkError> {
        let mut todo: VecDeque<OsString> = components(path);
        let image = rustix::fs::fstat(self.root)?.st_dev;
        let mut stack =
            vec![(PathBuf::from("/"), open(self.root, Path::new("/"), OFlags::PATH | OFlags::DIRECTORY)?)];
        let mut links = 0;
        let mut made_here = stubs.len();
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let (at, parent) = stack.last().expect("the root is never popped");
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let child = match rustix::fs::openat(parent, &name, flags, Mode::empty()) {
                Ok(child) => child,
                Err(Errno::NOENT) => {
                    let wanted = if todo.is_empty() { kind } else { Kind::Directory };
                    self.refuse_reserved(parent)?;
                    if rustix::fs::fstat(parent)?.st_dev == image {
                        let parent_is_of_image = made_here == stubs.len();
                        stubs.push(make_stub(parent, &name, wanted, at.join(&name), parent_is_of_image)?);
                        made_here = 0;
                    } else {
                        make_lasting(parent, &name, wanted)?;
                    }
                    rustix::fs::openat(parent, &name, flags, Mode::empty())?
                }
                Err(errno) => return Err(errno.into()),
            };
            let mode = rustix::fs::fstat(&child)?.st_mode;
            if FileType::from_raw_mode(mode) == FileType::Symlink {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let text = rustix::fs::readlinkat(&child, "", Vec::new())?;
                let text = PathBuf::from(OsString::from_vec(text.into_bytes()));
                if text.is_absolute() {
                    stack.truncate(1);
                }
                let mut rest = components(&text);
                rest.append(&mut todo);
                todo = rest;
            } else {
                let path = at.join(&name);
                stack.push((path, child));
            }
        }
        let (_, fd) = stack.pop().expect("the root is never popped");
        self.refuse_reserved(&fd)?;
        Ok(fd)
    }

    fn refuse_reserved(&self, fd: &OwnedFd) -> std::result::Result<(), WalkError> {
        let device = rustix::fs::fstat(fd)?.st_dev;
        if self.reserved.contains(&device) { Err(WalkError::Reserved) } else { Ok(()) }
    }
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn make_stub(
    parent: &OwnedFd,
    name: &OsString,
    kind: Kind,
    path: PathBuf,
    parent_is_of_image: bool,
) -> Result<Stub> {
    // O_PATH descriptors take no futimens: reopen the directory.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::openat(parent, ".", flags, Mode::empty())?;
    let before = modified(&rustix::fs::fstat(&parent)?);
    make_empty(&parent, name, kind)?;
    let made = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let after = modified(&rustix::fs::fstat(&parent)?);
    let identity = (made.st_dev, made.st_ino);
    Ok(Stub { path, parent, name: name.clone(), kind, identity, before, after, parent_is_of_image })
}

/// Makes a mount point that stays; one that another step has just made will do.
fn make_lasting(parent: &OwnedFd, name: &OsString, kind: Kind) -> Result<()> {
    match make_empty(parent, name, kind) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

fn make_empty(parent: &OwnedFd, name: &OsString, kind: Kind) -> Result<()> {
    match kind {
        Kind::Directory => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    }
}

fn modified(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 }
}

impl Stub {
    /// Removes the mount point if it is still the one that was made and is empty (MT-04), and gives the parent its time
    /// back. What the step put in its place stays. Returns whether it was removed.
    pub(super) fn remove(&self) -> Result<bool> {
        let found = match rustix::fs::statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        if (found.st_dev, found.st_ino) != self.identity || (self.kind == Kind::File && found.st_size != 0) {
            return Ok(false);
        }
        let current = modified(&rustix::fs::fstat(&self.parent)?);
        let flags = match self.kind {
            Kind::Directory => AtFlags::REMOVEDIR,
            Kind::File => AtFlags::empty(),
        };
        match rustix::fs::unlinkat(&self.parent, &self.name, flags) {
            Ok(()) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(false),
            Err(errno) => return Err(errno),
        }
        let time = if current == self.after { self.before } else { current };
        let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ };
        rustix::fs::futimens(&self.parent, &Timestamps { last_access: omit, last_modification: time })?;
        Ok(true)
    }
}
