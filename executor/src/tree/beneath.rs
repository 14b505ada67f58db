//! Opening what lies beneath a directory, by handle: no symbolic link is followed and nothing waits.
//!
//! `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)` (Linux 5.6) refuses every escape in one call. Where a
//! sandbox's filter answers ENOSYS or EPERM for it, each component is opened by itself with O_NOFOLLOW.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// Opens the directory that is the root of a tree. Links in `path` itself are the user's and followed.
///
/// # Errors
/// Those of `open`; ENOTDIR for anything that is no directory.
pub fn open_root(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a directory beneath `root`; the empty path is `root` itself.
///
/// # Errors
/// ELOOP where a component is a symbolic link, and those of `openat2`.
pub fn open_directory_beneath(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    Ok(open(root, path, DIRECTORY)?)
}

/// Opens a regular file beneath `root` for reading.
///
/// # Errors
/// ELOOP where a component is a symbolic link, `InvalidInput` for what is no regular file, and those of
/// `openat2`. A FIFO is opened without waiting and refused.
pub fn open_beneath(root: impl AsFd, path: &Path) -> io::Result<File> {
    let file = open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(File::from(file))
}

fn open(root: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    loop {
        return match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
            // EAGAIN: a rename elsewhere raced with the look-up (openat2(2)). EINTR: slow file systems.
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(Errno::NOSYS | Errno::PERM) => by_components(&root, path, flags),
            opened => opened,
        };
    }
}

fn by_components(root: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let mut directory: Option<OwnedFd> = None;
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        let name = match component {
            Component::Normal(name) => name,
            Component::CurDir => std::ffi::OsStr::new("."),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(Errno::XDEV),
        };
        let flags = if components.peek().is_some() {
            OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
        } else {
            flags
        };
        let at = directory.as_ref().map_or_else(|| root.as_fd(), AsFd::as_fd);
        directory = Some(rustix::fs::openat(at, name, flags, Mode::empty())?);
    }
    directory.ok_or(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    type Opener = fn(&OwnedFd, &Path, OFlags) -> rustix::io::Result<OwnedFd>;

    fn both(test: impl Fn(&OwnedFd, Opener)) {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("canary"), "secret").unwrap();
        let inside = scratch.path().join("root");
        std::fs::create_dir_all(inside.join("d/e")).unwrap();
        std::fs::write(inside.join("d/e/f"), "bytes").unwrap();
        symlink("../canary", inside.join("link")).unwrap();
        symlink("d", inside.join("dir")).unwrap();
        let root = open_root(&inside).unwrap();
        test(&root, |root, path, flags| open(root, path, flags));
        test(&root, |root, path, flags| {
            by_components(root, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC)
        });
    }

    #[test]
    fn ctx_03_links_are_never_followed() {
        both(|root, open| {
            for path in ["link", "dir/e/f", "dir/e"] {
                assert!(open(root, Path::new(path), OFlags::RDONLY).is_err(), "{path}");
            }
            for path in ["../canary", "d/../../canary", "/etc/passwd"] {
                assert_eq!(open(root, Path::new(path), OFlags::RDONLY).unwrap_err(), Errno::XDEV, "{path}");
            }
        });
    }

    #[test]
    fn opens_what_is_there() {
        both(|root, open| {
            let mut text = String::new();
            let file = open(root, Path::new("d/e/f"), OFlags::RDONLY).unwrap();
            File::from(file).read_to_string(&mut text).unwrap();
            assert_eq!(text, "bytes");
            open(root, Path::new("."), DIRECTORY).unwrap();
        });
    }

    #[test]
    fn ctx_06_a_fifo_is_refused_at_once() {
        let scratch = tempfile::tempdir().unwrap();
        let root = open_root(scratch.path()).unwrap();
        rustix::fs::mknodat(&root, "pipe", FileType::Fifo, Mode::from(0o644), 0).unwrap();
        let error = open_beneath(&root, Path::new("pipe")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
