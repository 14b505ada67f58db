//! One mount of a step as a value, and its encoding. Says what is done, not how or in which order.

use std::path::PathBuf;

use super::spec::{MemoryFile, Overlay, Writes};
use super::wire::{wire_enum, wire_struct};

/// One privileged act. Init does them in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountCall {
    /// Mounts the root file system. Always first.
    Root {
        /// Its layers.
        overlay: Overlay,
        /// Attributes of the mount.
        attributes: Attributes,
    },
    /// Mounts a file system of the kernel's.
    Fresh {
        /// Type as in /proc/filesystems.
        filesystem: String,
        /// Where.
        target: Target,
        /// Options; never from data, only constants and numbers.
        options: Vec<(String, String)>,
        /// Attributes of the mount.
        attributes: Attributes,
    },
    /// Makes a directory on a file system of ours.
    Directory {
        /// Where.
        path: String,
    },
    /// Makes an empty file on a file system of ours, to mount on.
    File {
        /// Where.
        path: String,
    },
    /// Makes a character device on a file system of ours, readable and writable by all.
    Device {
        /// Where.
        path: String,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Makes a symbolic link on a file system of ours.
    Symlink {
        /// Where.
        path: String,
        /// What it holds.
        to: String,
    },
    /// Writes a file into the scratch file system, in memory and out of the step's sight.
    ScratchFile {
        /// Name, possibly inside a directory made before.
        name: String,
        /// Content and mode.
        file: MemoryFile,
    },
    /// Makes a directory in the scratch file system.
    ScratchDirectory {
        /// Name.
        name: String,
    },
    /// Mounts layers out of the step's sight, to bind parts of them.
    View {
        /// Number that [`Source::View`] refers to.
        id: u32,
        /// The layers.
        overlay: Overlay,
    },
    /// Shows a source at a target.
    Bind {
        /// What.
        source: Source,
        /// Where.
        target: Target,
        /// Attributes of the mount.
        attributes: Attributes,
    },
    /// Hides a path of /proc or /sys where it exists: a file behind /dev/null, a directory behind an empty one.
    Mask {
        /// The path.
        path: String,
    },
    /// Makes a path of /proc or /sys read-only where it exists.
    ReadOnly {
        /// The path.
        path: String,
    },
}

/// What a bind shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A mount that came with the request.
    Handle {
        /// Its position.
        index: u32,
    },
    /// A path of the host's, resolved in the builder's mount namespace.
    Host {
        /// The path; given by the user, never by an image.
        path: PathBuf,
    },
    /// Something in the scratch file system.
    Scratch {
        /// Its name.
        name: String,
    },
    /// A path inside layers mounted before.
    View {
        /// Which.
        id: u32,
        /// The path, resolved inside.
        path: PathBuf,
    },
}

/// Where something is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/proc`, `/sys` or `/dev`: a real directory of the root, made where missing.
    Standard {
        /// The path.
        path: String,
    },
    /// A path on a file system that an earlier call mounted.
    Ours {
        /// The path.
        path: String,
    },
    /// A path of the image: links are followed inside the root, what is missing is made and removed afterwards.
    Image {
        /// The path.
        path: PathBuf,
    },
    /// As `Image`, but skipped where the image does not have it.
    Existing {
        /// The path.
        path: PathBuf,
    },
}

/// MOUNT_ATTR_* bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The bits.
    pub bits: u64,
}

impl Attributes {
    /// No attribute.
    pub const NONE: Attributes = Attributes { bits: 0 };
    /// Read-only.
    pub const READ_ONLY: Attributes = Attributes { bits: 1 };
    /// setuid bits and file capabilities have no effect.
    pub const NO_SUID: Attributes = Attributes { bits: 2 };
    /// Devices cannot be opened.
    pub const NO_DEVICES: Attributes = Attributes { bits: 4 };
    /// Programs cannot be run.
    pub const NO_EXEC: Attributes = Attributes { bits: 8 };

    /// Both sets.
    pub const fn and(self, other: Attributes) -> Attributes {
        Attributes { bits: self.bits | other.bits }
    }
}

/// Whether a control group restricts the devices that the step may open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceControl {
    /// A device group does.
    Group,
    /// Nothing does: the root is mounted nodev and CAP_MKNOD is dropped.
    None,
}

wire_struct!(Attributes { bits });
wire_struct!(Overlay { lowers, writes });
wire_struct!(Writes { upper, work });
wire_struct!(MemoryFile { data, mode, uid, gid });
wire_enum!(Target { 0 Standard { path: path }, 1 Ours { path: path }, 2 Image { path: path }, 3 Existing { path: path } });
wire_enum!(Source { 0 Handle { index: index }, 1 Host { path: path }, 2 Scratch { name: name }, 3 View { id: id, path: path } });
wire_enum!(MountCall {
    0 Root { overlay: overlay, attributes: attributes },
    1 Fresh { filesystem: filesystem, target: target, options: options, attributes: attributes },
    2 Directory { path: path },
    3 Device { path: path, major: major, minor: minor },
    4 Symlink { path: path, to: to },
    5 ScratchFile { name: name, file: file },
    6 ScratchDirectory { name: name },
    7 View { id: id, overlay: overlay },
    8 Bind { source: source, target: target, attributes: attributes },
    9 Mask { path: path },
    10 ReadOnly { path: path },
    11 File { path: path },
});
