//! Read-only trees of layers for the builder itself: exports, COPY from a stage. No path names them, only a handle.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use super::error::{Named, SandboxError};
use super::mount_call::Attributes;
use super::overlayfs::{self, XattrClass};
use super::spec::Overlay;

/// A tree that exists while this value lives.
#[derive(Debug)]
pub struct MountedView {
    root: OwnedFd,
}

impl AsFd for MountedView {
    /// The root directory (O_PATH).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Mounts layers (topmost first) read-only. `empty` is an empty directory that closes the stack: the kernel takes no single
/// layer, and a bind of one would show its whiteouts as devices.
pub fn mount_readonly(lowers: &[PathBuf], empty: &Path) -> Result<MountedView, SandboxError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let empty = rustix::fs::openat(CWD, empty, flags, Mode::empty())
        .named(|| format!("open({})", empty.display()))?;
    let overlay = Overlay { lowers: lowers.to_vec(), writes: None };
    let attributes =
        Attributes::READ_ONLY.and(Attributes::NO_SUID).and(Attributes::NO_DEVICES).and(Attributes::NO_EXEC);
    let root = overlayfs::mount(&overlay, empty.as_fd(), XattrClass::of_this_process(), attributes)?;
    Ok(MountedView { root })
}
