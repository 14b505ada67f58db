//! Walking a tree that is being built, by handles: each step opens one name, none is ever followed.
//!
//! Depth costs neither stack nor descriptors: the handles of the nearest ancestors are kept, and what lies
//! farther is opened again from the root in pieces below PATH_MAX.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::tree::open_directory_beneath;

/// Handles that are kept. Several cursors may walk at once, and a process has 1024 handles (RLIMIT_NOFILE's usual
/// soft limit).
const WINDOW: usize = 32;

/// Longest path that is given to the kernel; PATH_MAX is 4096 with the NUL.
const PIECE: usize = 4000;

/// The current directory of a walk beneath a root.
#[derive(Debug)]
pub struct Cursor<'a> {
    root: BorrowedFd<'a>,
    kept: VecDeque<(PathBuf, OwnedFd)>,
}

impl<'a> Cursor<'a> {
    /// Starts at `root`.
    pub const fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, kept: VecDeque::new() }
    }

    /// Goes to the directory `path` and returns its handle, valid until the next call.
    ///
    /// # Errors
    /// Those of `openat`: ELOOP or ENOTDIR where a component is no directory.
    pub fn go(&mut self, path: &Path) -> io::Result<BorrowedFd<'_>> {
        while self.kept.back().is_some_and(|(kept, _)| !path.starts_with(kept)) {
            self.kept.pop_back();
        }
        let done = self.kept.back().map_or(0, |(kept, _)| kept.iter().count());
        let names: Vec<&OsStr> = path.iter().skip(done).collect();
        let jump = names.len().saturating_sub(WINDOW);
        if jump > 0 {
            let opened = self.open_far(&names[..jump])?;
            let at: PathBuf = path.iter().take(done + jump).collect();
            self.kept.push_back((at, opened));
        }
        for name in &names[jump..] {
            let (at, fd) = self.kept.back().map_or((Path::new(""), self.root), |(at, fd)| (at, fd.as_fd()));
            let next = (at.join(name), open_step(fd, name)?);
            self.kept.push_back(next);
            if self.kept.len() > WINDOW {
                self.kept.pop_front();
            }
        }
        Ok(self.kept.back().map_or(self.root, |(_, fd)| fd.as_fd()))
    }

    /// Goes to the parent of `path` and returns its handle and the last name.
    ///
    /// # Errors
    /// As for [`Cursor::go`]; `InvalidInput` for the root, which has no parent.
    pub fn parent_of<'p>(&mut self, path: &'p Path) -> io::Result<(BorrowedFd<'_>, &'p OsStr)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        Ok((self.go(parent)?, name))
    }

    fn open_far(&self, names: &[&OsStr]) -> io::Result<OwnedFd> {
        let mut current: Option<OwnedFd> = None;
        let mut piece = OsString::new();
        for (at, name) in names.iter().enumerate() {
            if !piece.is_empty() {
                piece.push("/");
            }
            piece.push(name);
            if at + 1 == names.len() || piece.as_bytes().len() + names[at + 1].len() >= PIECE {
                let start = current.as_ref().or(self.kept.back().map(|(_, fd)| fd));
                let start = start.map_or(self.root, AsFd::as_fd);
                current = Some(open_directory_beneath(start, Path::new(&piece))?);
                piece.clear();
            }
        }
        current.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn open_step(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}
