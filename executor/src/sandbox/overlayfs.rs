//! Mounting a stack of layers through the new mount API. Returns detached mounts: no path is involved.
//!
//! Layer directories are handed to the kernel as descriptors, or as `/proc/self/fd/N` on kernels that take only strings, so
//! no byte of a path is ever parsed as an option (MT-07).

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use super::error::{SandboxError, StepFailure};
use super::mount_call::Attributes;
use super::spec::Overlay;

/// A failed call with its arguments, before it is known whether the builder or an init made it.
#[derive(Debug)]
pub(super) struct CallError {
    call: String,
    errno: Errno,
}

impl From<CallError> for StepFailure {
    fn from(error: CallError) -> Self {
        StepFailure::Setup { call: error.call, errno: error.errno.raw_os_error() }
    }
}

impl From<CallError> for SandboxError {
    fn from(error: CallError) -> Self {
        SandboxError::Call { call: error.call, source: error.errno.into() }
    }
}

fn failed(call: impl Into<String>) -> impl FnOnce(Errno) -> CallError {
    let call = call.into();
    move |errno| CallError { call, errno }
}

/// Whether overlay attributes live in `user.*`, as they must inside a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum XattrClass {
    /// `trusted.overlay.*`.
    Trusted,
    /// `user.overlay.*`; without it mounting works and `rm -r d && mkdir d` gives EIO.
    User,
}

impl XattrClass {
    /// The initial user namespace maps every id to itself; any other is one of somebody else's.
    pub(super) fn of_this_process() -> XattrClass {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        match map.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["0", "0", "4294967295"] | [] => XattrClass::Trusted,
            _ => XattrClass::User,
        }
    }
}

/// Lower layers that one overlay takes (OVL_MAX_STACK of the kernel's fs/overlayfs/params.h).
const MOST_LOWERS: usize = 500;

/// Mounts a stack, detached. `empty` closes stacks that the kernel would find too short.
///
/// Of more layers than one overlay takes, the lowest become an overlay of their own, which is the lowest layer of this
/// one: nothing lies below them, so that they lose no whiteout by it. The kernel stacks two overlays and no more
/// (FILESYSTEM_MAX_STACK_DEPTH).
pub(super) fn mount(
    overlay: &Overlay,
    empty: BorrowedFd<'_>,
    class: XattrClass,
    attributes: Attributes,
) -> Result<OwnedFd, CallError> {
    let paths = unique(&overlay.lowers)?;
    let own = if paths.len() > MOST_LOWERS { MOST_LOWERS - 1 } else { paths.len() };
    let (paths, lowest) = paths.split_at(own);
    // Before the others are opened: its own descriptors are closed again then, and a process has 1024 of them.
    let lowest = (!lowest.is_empty()).then(|| mount_lowest(lowest, empty, class)).transpose()?;
    let count = lowest.is_some().then_some(overlay.lowers.len());
    let opened: Result<Vec<OwnedFd>, CallError> = paths.iter().map(|path| directory(path)).collect();
    let lowers: Vec<OwnedFd> = opened?.into_iter().chain(lowest).collect();
    let context =
        rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen(overlay)"))?;
    let mut borrowed: Vec<BorrowedFd<'_>> = lowers.iter().map(AsFd::as_fd).collect();
    // Without an upper directory the kernel wants two lower ones; a lone bind would show whiteouts as devices.
    if borrowed.is_empty() || (overlay.writes.is_none() && borrowed.len() == 1) {
        borrowed.push(empty);
    }
    if overlay.writes.is_none() && borrowed.len() == 1 {
        return clone_tree(empty, attributes.and(Attributes::READ_ONLY));
    }
    append_lowers(context.as_fd(), &borrowed)?;
    if let Some(writes) = &overlay.writes {
        adopt_root(borrowed[0], &writes.upper)?;
        for (key, path) in [("upperdir", &writes.upper), ("workdir", &writes.work)] {
            let fd = directory(path)?;
            set_directory(context.as_fd(), key, fd.as_fd())
                .map_err(failed(format!("fsconfig(overlay, {key}, {})", path.display())))?;
        }
        // Upper directories are thrown away after a crash, so nothing has to be synced at umount.
        rustix::mount::fsconfig_set_flag(&context, "volatile")
            .map_err(failed("fsconfig(overlay, volatile)"))?;
    }
    for (key, value) in [("redirect_dir", "nofollow"), ("index", "off"), ("metacopy", "off"), ("xino", "off")]
    {
        rustix::mount::fsconfig_set_string(&context, key, value)
            .map_err(failed(format!("fsconfig(overlay, {key}={value})")))?;
    }
    match rustix::mount::fsconfig_set_string(&context, "uuid", "null") {
        // Linux < 6.6 does not know the option.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(errno) => return Err(failed("fsconfig(overlay, uuid=null)")(errno)),
    }
    if class == XattrClass::User {
        rustix::mount::fsconfig_set_flag(&context, "userxattr")
            .map_err(failed("fsconfig(overlay, userxattr)"))?;
    }
    finish(&context, "overlay", attributes).map_err(|error| match (count, error.errno) {
        // Until then a layer was to be a mount of this namespace ("fs: allow detached mounts in clone_private_mount").
        (Some(count), Errno::INVAL) => {
            CallError { call: format!("{} — {count} layers need Linux 6.15, 500 any", error.call), ..error }
        }
        (Some(_) | None, _) => error,
    })
}

fn mount_lowest(paths: &[&PathBuf], empty: BorrowedFd<'_>, class: XattrClass) -> Result<OwnedFd, CallError> {
    if paths.len() > MOST_LOWERS {
        let (all, most) = (paths.len() + MOST_LOWERS - 1, 2 * MOST_LOWERS - 1);
        return Err(failed(format!("overlay of {all} layers, where the kernel takes {most}"))(Errno::TOOBIG));
    }
    let lowers = paths.iter().map(|path| (*path).clone()).collect();
    mount(&Overlay { lowers, writes: None }, empty, class, Attributes::READ_ONLY)
}

/// The root of an overlay has its upper directory's attributes: those shall be the image's.
fn adopt_root(lower: BorrowedFd<'_>, upper: &Path) -> Result<(), CallError> {
    let call = || format!("attributes of {}", upper.display());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(CWD, upper, flags, Mode::empty()).map_err(failed(call()))?;
    let (root, own) =
        (rustix::fs::fstat(lower).map_err(failed(call()))?, rustix::fs::fstat(&fd).map_err(failed(call()))?);
    if (root.st_uid, root.st_gid) != (own.st_uid, own.st_gid) {
        let (uid, gid) = (Uid::from_raw(root.st_uid), Gid::from_raw(root.st_gid));
        rustix::fs::fchown(&fd, Some(uid), Some(gid)).map_err(failed(call()))?;
    }
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(root.st_mode)).map_err(failed(call()))?;
    let time = Timespec { tv_sec: root.st_mtime, tv_nsec: root.st_mtime_nsec as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::futimens(&fd, &times).map_err(failed(call()))
}

/// Creates the file system of a context and mounts it, detached.
pub(super) fn finish(context: &OwnedFd, name: &str, attributes: Attributes) -> Result<OwnedFd, CallError> {
    rustix::mount::fsconfig_create(context)
        .map_err(|errno| CallError { call: format!("fsconfig({name}, create){}", log(context)), errno })?;
    rustix::mount::fsmount(
        context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::from_bits_retain(attributes.bits as u32),
    )
    .map_err(failed(format!("fsmount({name})")))
}

/// What the kernel wrote into the context's log: the reason behind a bare EINVAL.
fn log(context: &OwnedFd) -> String {
    let mut text = String::new();
    let mut buffer = [0; 512];
    while let Ok(count) = rustix::io::read(context, &mut buffer) {
        text.push_str(": ");
        text.push_str(String::from_utf8_lossy(&buffer[..count]).trim());
    }
    text
}

/// Returns a detached copy of the mount at a handle, with attributes.
pub(super) fn clone_tree(source: impl AsFd, attributes: Attributes) -> Result<OwnedFd, CallError> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = rustix::mount::open_tree(source, "", flags).map_err(failed("open_tree(clone)"))?;
    super::sys::attach_attributes(&mount, attributes.bits).map_err(failed("mount_setattr"))?;
    Ok(mount)
}

/// Returns layers, each once.
///
/// The kernel refuses a directory that occurs twice (ELOOP), as the empty layers of two `RUN true` do. The upper
/// occurrence decides on every path that the layer has an entry for, so the lower one adds nothing, whatever lies
/// between.
fn unique(paths: &[PathBuf]) -> Result<Vec<&PathBuf>, CallError> {
    let mut seen = BTreeSet::new();
    let mut unique = Vec::with_capacity(paths.len());
    for path in paths {
        let stat = rustix::fs::stat(path).map_err(failed(format!("stat({})", path.display())))?;
        if seen.insert((stat.st_dev, stat.st_ino)) {
            unique.push(path);
        }
    }
    Ok(unique)
}

fn directory(path: &Path) -> Result<OwnedFd, CallError> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed(format!("open({})", path.display())))
}

fn append_lowers(context: BorrowedFd<'_>, lowers: &[BorrowedFd<'_>]) -> Result<(), CallError> {
    for (position, lower) in lowers.iter().enumerate() {
        match set_directory(context, "lowerdir+", *lower) {
            Ok(()) => {}
            // Linux < 6.8 knows only the colon-separated option.
            Err(Errno::INVAL) if position == 0 => return join_lowers(context, lowers),
            Err(errno) => {
                return Err(failed(format!("fsconfig(overlay, lowerdir+, layer {position})"))(errno));
            }
        }
    }
    Ok(())
}

/// By descriptor since Linux 6.13, before that by a name that holds no data.
fn set_directory(context: BorrowedFd<'_>, key: &str, directory: BorrowedFd<'_>) -> Result<(), Errno> {
    match rustix::mount::fsconfig_set_fd(context, key, directory) {
        Err(Errno::INVAL) => rustix::mount::fsconfig_set_string(context, key, descriptor_path(directory)),
        other => other,
    }
}

fn join_lowers(context: BorrowedFd<'_>, lowers: &[BorrowedFd<'_>]) -> Result<(), CallError> {
    let joined = lowers.iter().map(|lower| descriptor_path(*lower)).collect::<Vec<_>>().join(":");
    rustix::mount::fsconfig_set_string(context, "lowerdir", &joined)
        .map_err(failed(format!("fsconfig(overlay, lowerdir, {} layers)", lowers.len())))
}

fn descriptor_path(directory: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}
