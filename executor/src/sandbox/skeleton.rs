//! The mount points that every step needs, as a directory that goes below an image's lowest layer.
//!
//! Where an image lacks `/etc/resolv.conf` or `/proc`, the mount point shows through from below: nothing has to be made in
//! the upper directory, nothing copied up, nothing removed afterwards (0.4 to 4 ms a step on a busy ext4). It must lie on
//! the layers' own file system: with layers of several, the overlay shows files under several device numbers, which breaks
//! `tar --one-file-system` in a step.

use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::error::{Named, SandboxError};

/// Makes the skeleton's content in an existing directory. Repeating it changes nothing.
pub fn make_skeleton(directory: &Path) -> Result<(), SandboxError> {
    for name in ["proc", "sys", "dev", "etc"] {
        let path = directory.join(name);
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).named(|| format!("mkdir({})", path.display())),
        }
    }
    for name in ["hosts", "resolv.conf", "hostname"] {
        let path = directory.join("etc").join(name);
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, &path, flags, Mode::from_raw_mode(0o644))
            .named(|| format!("create({})", path.display()))?;
    }
    Ok(())
}
