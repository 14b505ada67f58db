//! The privileged loop over a mount plan, run by a step's init in the step's own mount namespace.
//!
//! Everything is attached by handle (`move_mount` onto descriptors), nothing by path. The file systems are first mounted on a
//! scratch tmpfs over the old root; `enter` makes the new root the only one.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, MoveMountFlags, UnmountFlags};

use super::error::{Setup, StepFailure};
use super::mount_call::{Attributes, MountCall, Source, Target};
use super::overlayfs::{self, XattrClass};
use super::resolve::{self, Kind, Stub, Walk, WalkError};
use super::spec::{MemoryFile, Overlay};
use super::sys;

/// The scratch directory that closes short stacks and masks directories.
const EMPTY: &str = "empty";

/// A file system under construction.
pub(super) struct Rootfs {
    scratch: OwnedFd,
    empty: OwnedFd,
    root: OwnedFd,
    views: BTreeMap<u32, OwnedFd>,
    handles: Vec<Option<OwnedFd>>,
    reserved: Vec<u64>,
    class: XattrClass,
    /// A procfs of the step's pid namespace that no step can shadow (RT-07).
    pub(super) proc: Option<OwnedFd>,
    /// Mount points to remove afterwards.
    pub(super) stubs: Vec<Stub>,
}

/// Does the plan.
pub(super) fn build(
    calls: &[MountCall],
    handles: Vec<OwnedFd>,
    class: XattrClass,
) -> Result<Rootfs, StepFailure> {
    let [MountCall::Root { overlay, attributes }, rest @ ..] = calls else {
        return Err(StepFailure::Setup { call: "plan without a root".to_owned(), errno: libc::EINVAL });
    };
    let scratch = scratch()?;
    let empty = resolve::open_plain(&scratch, Path::new(EMPTY), OFlags::PATH)
        .setup(|| "open(scratch/empty)".to_owned())?;
    let root = overlayfs::mount(overlay, empty.as_fd(), class, *attributes)?;
    attach_in_scratch(&scratch, &root, "root")?;
    let handles = handles.into_iter().map(Some).collect();
    let mut rootfs = Rootfs {
        scratch,
        empty,
        root,
        views: BTreeMap::new(),
        handles,
        reserved: Vec::new(),
        class,
        proc: None,
        stubs: Vec::new(),
    };
    for call in rest {
        rootfs.act(call)?;
    }
    Ok(rootfs)
}

fn scratch() -> Result<OwnedFd, StepFailure> {
    let context =
        rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).setup(|| "fsopen(tmpfs)".to_owned())?;
    rustix::mount::fsconfig_set_string(&context, "mode", "755")
        .setup(|| "fsconfig(tmpfs, mode=755)".to_owned())?;
    let scratch = overlayfs::finish(&context, "tmpfs", Attributes::NONE)?;
    // Over the old root, which is given up anyway: needs no directory of the host's. Copies of parts of a mount can only be
    // made while it is attached (before Linux 6.15).
    rustix::mount::move_mount(&scratch, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .setup(|| "move_mount(scratch, /)".to_owned())?;
    rustix::fs::mkdirat(&scratch, EMPTY, Mode::from_raw_mode(0o755))
        .setup(|| "mkdirat(scratch, empty)".to_owned())?;
    Ok(scratch)
}

fn attach_in_scratch(scratch: &OwnedFd, mount: &OwnedFd, name: &str) -> Result<(), StepFailure> {
    rustix::fs::mkdirat(scratch, name, Mode::from_raw_mode(0o700))
        .setup(|| format!("mkdirat(scratch, {name})"))?;
    rustix::mount::move_mount(mount, "", scratch, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .setup(|| format!("move_mount({name}, scratch)"))
}

impl Rootfs {
    fn act(&mut self, call: &MountCall) -> Result<(), StepFailure> {
        match call {
            MountCall::Root { .. } => {
                Err(StepFailure::Setup { call: "plan with two roots".to_owned(), errno: libc::EINVAL })
            }
            MountCall::Fresh { filesystem, target, options, attributes } => {
                self.fresh(filesystem, target, options, *attributes)
            }
            MountCall::Directory { path } => {
                let (parent, name) = self.parent(path)?;
                rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))
                    .setup(|| format!("mkdir({path})"))
            }
            MountCall::File { path } => {
                let (parent, name) = self.parent(path)?;
                create(&parent, Path::new(name), 0o444).map(drop)
            }
            MountCall::Device { path, major, minor } => self.device(path, *major, *minor),
            MountCall::Symlink { path, to } => {
                let (parent, name) = self.parent(path)?;
                rustix::fs::symlinkat(to, parent, name).setup(|| format!("symlink({to}, {path})"))
            }
            MountCall::ScratchFile { name, file } => self.scratch_file(name, file),
            MountCall::ScratchDirectory { name } => {
                rustix::fs::mkdirat(&self.scratch, name, Mode::from_raw_mode(0o755))
                    .setup(|| format!("mkdirat(scratch, {name})"))
            }
            MountCall::View { id, overlay } => self.view(*id, overlay),
            MountCall::Bind { source, target, attributes } => self.bind(source, target, *attributes),
            MountCall::Mask { path } => self.mask(path),
            MountCall::ReadOnly { path } => self.read_only(path),
        }
    }

    fn fresh(
        &mut self,
        filesystem: &str,
        target: &Target,
        options: &[(String, String)],
        attributes: Attributes,
    ) -> Result<(), StepFailure> {
        let context = rustix::mount::fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC)
            .setup(|| format!("fsopen({filesystem})"))?;
        for (key, value) in options {
            rustix::mount::fsconfig_set_string(&context, key, value)
                .setup(|| format!("fsconfig({filesystem}, {key}={value})"))?;
        }
        let mount = overlayfs::finish(&context, filesystem, attributes)?;
        self.attach(&mount, Kind::Directory, target)?;
        if !matches!(target, Target::Image { .. } | Target::Existing { .. }) && !is_shared_memory(target) {
            self.reserved.push(rustix::fs::fstat(&mount).setup(|| format!("fstat({filesystem})"))?.st_dev);
        }
        if filesystem == "proc" {
            self.proc = Some(overlayfs::clone_tree(&mount, attributes)?);
        }
        Ok(())
    }

    /// Attaches a detached mount; says nothing where an optional target does not exist.
    fn attach(&mut self, mount: &OwnedFd, kind: Kind, target: &Target) -> Result<(), StepFailure> {
        let Some((place, path)) = self.place(kind, target)? else { return Ok(()) };
        let found = Kind::of(&place).setup(|| format!("fstat({path})"))?;
        if found != kind {
            let what = match kind {
                Kind::Directory => "the source is a directory, the target is a file",
                Kind::File => "the source is a file, the target is a directory",
            };
            return Err(StepFailure::MountKind { target: path, what: what.to_owned() });
        }
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(mount, "", &place, "", flags).setup(|| format!("move_mount({path})"))
    }

    fn place(&mut self, kind: Kind, target: &Target) -> Result<Option<(OwnedFd, String)>, StepFailure> {
        match target {
            Target::Standard { path } => self.standard(path).map(|place| Some((place, path.clone()))),
            Target::Ours { path } => resolve::open_plain(&self.root, Path::new(path), OFlags::PATH)
                .setup(|| format!("open({path})"))
                .map(|place| Some((place, path.clone()))),
            Target::Image { path } => {
                self.make(path, kind).map(|place| Some((place, path.display().to_string())))
            }
            Target::Existing { path } => match resolve::open(&self.root, path, OFlags::PATH) {
                Ok(place) => Ok(Some((place, path.display().to_string()))),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
                Err(errno) => Err(errno).setup(|| format!("open({})", path.display())),
            },
        }
    }

    /// `/dev -> /elsewhere` in an image is refused rather than followed (RT-08, RT-10).
    fn standard(&mut self, path: &str) -> Result<OwnedFd, StepFailure> {
        match resolve::open_plain(&self.root, Path::new(path), OFlags::PATH | OFlags::DIRECTORY) {
            Ok(place) => Ok(place),
            Err(Errno::NOENT) => self.make(Path::new(path), Kind::Directory),
            Err(Errno::LOOP | Errno::NOTDIR) => Err(StepFailure::NotADirectory { path: path.to_owned() }),
            Err(errno) => Err(errno).setup(|| format!("open({path})")),
        }
    }

    fn make(&mut self, path: &Path, kind: Kind) -> Result<OwnedFd, StepFailure> {
        let walk = Walk { root: &self.root, reserved: &self.reserved };
        walk.make(path, kind, &mut self.stubs).map_err(|error| match error {
            WalkError::Reserved => StepFailure::ForbiddenTarget {
                target: path.display().to_string(),
                on: "/proc, /sys or /dev".to_owned(),
            },
            WalkError::Call(errno) => StepFailure::Setup {
                call: format!("making mount point {}", path.display()),
                errno: errno.raw_os_error(),
            },
        })
    }

    /// Splits a path on a file system of ours.
    fn parent<'a>(&self, path: &'a str) -> Result<(OwnedFd, &'a str), StepFailure> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = Path::new(if parent.is_empty() { "/" } else { parent });
        let fd = resolve::open_plain(&self.root, parent, OFlags::PATH)
            .setup(|| format!("open({})", parent.display()))?;
        Ok((fd, name))
    }

    fn device(&mut self, path: &str, major: u32, minor: u32) -> Result<(), StepFailure> {
        let (parent, name) = self.parent(path)?;
        let device = rustix::fs::makedev(major, minor);
        match rustix::fs::mknodat(
            &parent,
            name,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            device,
        ) {
            // Inside a user namespace devices cannot be made, only bound.
            Err(Errno::PERM) => {
                create(&parent, Path::new(name), 0o666)?;
                self.bind_host_device(path, device)
            }
            other => other.setup(|| format!("mknod({path}, c {major}:{minor})")),
        }
    }

    fn bind_host_device(&mut self, path: &str, device: u64) -> Result<(), StepFailure> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let source = rustix::fs::openat(CWD, path, flags, Mode::empty()).setup(|| format!("open({path})"))?;
        let found = rustix::fs::fstat(&source).setup(|| format!("fstat({path})"))?;
        let is_device = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice;
        if !is_device || found.st_rdev != device {
            return Err(StepFailure::Setup {
                call: format!("{path} of the host is not the device it should be"),
                errno: libc::ENODEV,
            });
        }
        let mount = overlayfs::clone_tree(&source, Attributes::NO_SUID.and(Attributes::NO_EXEC))?;
        self.attach(&mount, Kind::File, &Target::Ours { path: path.to_owned() })
    }

    fn scratch_file(&mut self, name: &str, file: &MemoryFile) -> Result<(), StepFailure> {
        let fd = create(&self.scratch, Path::new(name), file.mode)?;
        let mut rest = file.data.as_slice();
        while !rest.is_empty() {
            let count = rustix::io::write(&fd, rest).setup(|| format!("write(scratch/{name})"))?;
            rest = &rest[count..];
        }
        rustix::fs::fchown(&fd, Some(Uid::from_raw(file.uid)), Some(Gid::from_raw(file.gid)))
            .setup(|| format!("fchown(scratch/{name})"))?;
        // chown clears setuid bits, and the umask must not matter.
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(file.mode)).setup(|| format!("fchmod(scratch/{name})"))
    }

    fn view(&mut self, id: u32, overlay: &Overlay) -> Result<(), StepFailure> {
        let mount = overlayfs::mount(overlay, self.empty.as_fd(), self.class, Attributes::NONE)?;
        attach_in_scratch(&self.scratch, &mount, &format!("view-{id}"))?;
        self.views.insert(id, mount);
        Ok(())
    }

    fn bind(&mut self, source: &Source, target: &Target, attributes: Attributes) -> Result<(), StepFailure> {
        let mount = self.source(source, target, attributes)?;
        let kind = Kind::of(&mount).setup(|| "fstat(mount source)".to_owned())?;
        self.attach(&mount, kind, target)
    }

    fn source(
        &mut self,
        source: &Source,
        target: &Target,
        attributes: Attributes,
    ) -> Result<OwnedFd, StepFailure> {
        let missing = |path: &Path, errno: Errno| StepFailure::MountSource {
            path: path.display().to_string(),
            target: target_text(target),
            errno: errno.raw_os_error(),
        };
        match source {
            Source::Handle { index } => {
                let handle = self.handles.get_mut(*index as usize).and_then(Option::take);
                let mount = handle.ok_or_else(|| StepFailure::Setup {
                    call: format!("mount handle {index}"),
                    errno: libc::EBADF,
                })?;
                sys::attach_attributes(&mount, attributes.bits).setup(|| "mount_setattr".to_owned())?;
                Ok(mount)
            }
            Source::Host { path } => {
                let fd = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|errno| missing(path, errno))?;
                Ok(overlayfs::clone_tree(&fd, attributes)?)
            }
            Source::Scratch { name } => {
                let fd = resolve::open_plain(&self.scratch, Path::new(name), OFlags::PATH)
                    .setup(|| format!("open(scratch/{name})"))?;
                Ok(overlayfs::clone_tree(&fd, attributes)?)
            }
            Source::View { id, path } => {
                let view = self
                    .views
                    .get(id)
                    .ok_or_else(|| StepFailure::Setup { call: format!("view {id}"), errno: libc::EBADF })?;
                let fd = resolve::open(view, path, OFlags::PATH).map_err(|errno| missing(path, errno))?;
                Ok(overlayfs::clone_tree(&fd, attributes)?)
            }
        }
    }

    fn mask(&mut self, path: &str) -> Result<(), StepFailure> {
        let Some(place) = self.optional(path)? else { return Ok(()) };
        let cover = match Kind::of(&place).setup(|| format!("fstat({path})"))? {
            Kind::Directory => self.empty.as_fd().try_clone_to_owned().map_err(|_| Errno::MFILE),
            // Our own /dev/null on a fresh tmpfs: an image cannot have put anything else there (RT-05).
            Kind::File => resolve::open_plain(&self.root, Path::new("/dev/null"), OFlags::PATH),
        };
        let cover = cover.setup(|| format!("open(cover of {path})"))?;
        let mount = overlayfs::clone_tree(
            &cover,
            Attributes::READ_ONLY.and(Attributes::NO_SUID).and(Attributes::NO_EXEC),
        )?;
        move_onto(&mount, &place, path)
    }

    fn read_only(&mut self, path: &str) -> Result<(), StepFailure> {
        let Some(place) = self.optional(path)? else { return Ok(()) };
        let attributes = Attributes::READ_ONLY
            .and(Attributes::NO_SUID)
            .and(Attributes::NO_DEVICES)
            .and(Attributes::NO_EXEC);
        let mount = overlayfs::clone_tree(&place, attributes)?;
        move_onto(&mount, &place, path)
    }

    fn optional(&self, path: &str) -> Result<Option<OwnedFd>, StepFailure> {
        match resolve::open_plain(&self.root, Path::new(path), OFlags::PATH) {
            Ok(place) => Ok(Some(place)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).setup(|| format!("open({path})")),
        }
    }

    /// Makes the new root the process's root and drops everything else: the old root, the scratch, the views.
    pub(super) fn enter(&self) -> Result<(), StepFailure> {
        let old =
            rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .setup(|| "open(/)".to_owned())?;
        rustix::process::fchdir(&self.root).setup(|| "fchdir(root)".to_owned())?;
        // Never chroot: a process with CAP_SYS_CHROOT walks out of one (RT-25).
        rustix::process::pivot_root(".", ".").setup(|| "pivot_root(., .)".to_owned())?;
        rustix::process::fchdir(&old).setup(|| "fchdir(old root)".to_owned())?;
        // Once for the scratch, which covers the old root, and once for the old root, which covers the new one.
        for what in ["scratch", "old root"] {
            rustix::mount::unmount(".", UnmountFlags::DETACH)
                .setup(|| format!("umount2({what}, MNT_DETACH)"))?;
        }
        rustix::process::chdir("/").setup(|| "chdir(/)".to_owned())?;
        self.refuse_covered_root()
    }

    /// `/..` crosses into a mount that covers the root, so it tells whether one is left.
    fn refuse_covered_root(&self) -> Result<(), StepFailure> {
        let above = rustix::fs::stat("/..").setup(|| "stat(/..)".to_owned())?;
        let root = rustix::fs::fstat(&self.root).setup(|| "fstat(root)".to_owned())?;
        if (above.st_dev, above.st_ino) == (root.st_dev, root.st_ino) {
            return Ok(());
        }
        Err(StepFailure::Setup {
            call: "the old root still covers the new one".to_owned(),
            errno: libc::EBUSY,
        })
    }

    /// Returns a handle on the working directory, made where it is missing; that one stays in the layer, as with runc.
    pub(super) fn working_directory(&self, path: &Path) -> Result<OwnedFd, StepFailure> {
        let refused = |why: String| StepFailure::WorkingDirectory { path: path.display().to_string(), why };
        match resolve::open(&self.root, path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(fd) => Ok(fd),
            Err(Errno::NOENT) => {
                let walk = Walk { root: &self.root, reserved: &self.reserved };
                walk.make(path, Kind::Directory, &mut Vec::new()).map_err(|error| match error {
                    WalkError::Reserved => refused("it lies on a file system of the sandbox".to_owned()),
                    WalkError::Call(errno) => refused(std::io::Error::from(errno).to_string()),
                })
            }
            Err(Errno::NOTDIR) => Err(refused("it is not a directory".to_owned())),
            // RESOLVE_NO_MAGICLINKS: /proc/self/fd/7 could be a directory of the host (CVE-2024-21626).
            Err(Errno::LOOP) => {
                Err(refused("it leads through a link of /proc or through too many links".to_owned()))
            }
            Err(errno) => Err(refused(std::io::Error::from(errno).to_string())),
        }
    }
}

fn create(parent: impl AsFd, name: &Path, mode: u32) -> Result<OwnedFd, StepFailure> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(mode))
        .setup(|| format!("create({})", name.display()))
}

fn move_onto(mount: &OwnedFd, place: &OwnedFd, path: &str) -> Result<(), StepFailure> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", place, "", flags).setup(|| format!("move_mount({path})"))
}

fn is_shared_memory(target: &Target) -> bool {
    matches!(target, Target::Ours { path } if path == "/dev/shm")
}

fn target_text(target: &Target) -> String {
    match target {
        Target::Standard { path } | Target::Ours { path } => path.clone(),
        Target::Image { path } | Target::Existing { path } => path.display().to_string(),
    }
}
