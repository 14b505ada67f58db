//! Owner, mode, attributes and times of one object, by handle, in the order that keeps them all.
//!
//! chown clears setuid bits and file capabilities, so it comes first; everything else changes the time, so that
//! comes last (TAR-48).

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use oci::layer::{Entry, Kind, Mtime};
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::{LeftOut, UnpackError};
use crate::layers::Flavour;
use crate::owner::Ids;

/// Returns whose everything is that this process makes below `root`, which it has just made; `None` where that
/// is not certain.
///
/// A new object has the file system user id of its maker, and its group id or, in a directory with the setgid bit
/// or under the mount option `grpid`, that of the directory (open(2), mkdir(2)). A server that maps users shows
/// it in the root's own owner.
pub(super) fn born_below(root: BorrowedFd<'_>) -> Option<Ids> {
    let stat = rustix::fs::fstat(root).ok()?;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let plain =
        stat.st_uid == uid && stat.st_gid == gid && !Mode::from_raw_mode(stat.st_mode).contains(Mode::SGID);
    plain.then_some(Ids { uid, gid })
}

/// Sets everything on an open file or directory that was made for it; `born` is its owner, where that is known.
pub(super) fn set_on_handle(
    object: BorrowedFd<'_>,
    entry: &Entry,
    born: Option<Ids>,
    flavour: Flavour,
    left_out: &mut Vec<LeftOut>,
) -> Result<(), UnpackError> {
    let failed = |call| UnpackError::call(call, entry);
    if born != Some(Ids { uid: entry.uid, gid: entry.gid }) {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        rustix::fs::fchown(object, Some(uid), Some(gid)).map_err(|error| owner(entry, error))?;
    }
    rustix::fs::fchmod(object, Mode::from_raw_mode(entry.mode)).map_err(failed("fchmod"))?;
    for (name, value) in &entry.xattrs {
        let disk = flavour.to_disk(name);
        let set = rustix::fs::fsetxattr(object, OsStr::from_bytes(&disk), value, XattrFlags::empty());
        attribute_result(set, name, entry, left_out)?;
    }
    if entry.kind == (Kind::Directory { opaque: true }) {
        let set = rustix::fs::fsetxattr(object, flavour.opaque(), b"y", XattrFlags::empty());
        set.map_err(failed("fsetxattr(overlay.opaque)"))?;
    }
    rustix::fs::futimens(object, &times(entry.mtime)).map_err(failed("utimensat"))
}

/// Sets everything on `name`, which is no directory and no regular file and is not followed.
pub(super) fn set_on_name(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    entry: &Entry,
    flavour: Flavour,
    left_out: &mut Vec<LeftOut>,
) -> Result<(), UnpackError> {
    let failed = |call| UnpackError::call(call, entry);
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| owner(entry, error))?;
    if !matches!(entry.kind, Kind::Symlink { .. }) {
        let mode = Mode::from_raw_mode(entry.mode);
        rustix::fs::chmodat(directory, name, mode, AtFlags::empty()).map_err(failed("fchmodat"))?;
    }
    for (attribute, value) in &entry.xattrs {
        let disk = flavour.to_disk(attribute);
        let path = in_proc(directory.as_fd(), name);
        let set = rustix::fs::lsetxattr(path, OsStr::from_bytes(&disk), value, XattrFlags::empty());
        attribute_result(set, attribute, entry, left_out)?;
    }
    rustix::fs::utimensat(directory, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("utimensat"))
}

/// There is no call that sets attributes of a name in an open directory before setxattrat (Linux 6.13); the
/// descriptor's link in proc leads to the same directory, and the last name is not followed.
pub(crate) fn in_proc(directory: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    path.push(name);
    path
}

/// What the file system or the user namespace refuses is kept in the index and told; the layer stays usable.
fn attribute_result(
    result: rustix::io::Result<()>,
    name: &[u8],
    entry: &Entry,
    left_out: &mut Vec<LeftOut>,
) -> Result<(), UnpackError> {
    match result {
        Ok(()) => Ok(()),
        Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS | Errno::INVAL) => {
            left_out.push(LeftOut::Xattr { path: entry.path.clone(), name: name.to_vec() });
            Ok(())
        }
        Err(error) => Err(UnpackError::call("setxattr", entry)(error)),
    }
}

fn owner(entry: &Entry, error: Errno) -> UnpackError {
    match error {
        Errno::INVAL | Errno::PERM => UnpackError::Owner {
            path: entry.path.clone(),
            uid: entry.uid,
            gid: entry.gid,
            source: error.into(),
        },
        error => UnpackError::call("fchownat", entry)(error),
    }
}

/// Returns the arguments that set a modification time and leave the access time alone.
pub(crate) fn times(mtime: Mtime) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() },
    }
}
