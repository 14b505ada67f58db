//! One file system object of a layer or of a build context.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// blake3 of a file's bytes. Never leaves this machine: OCI digests stay sha256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash(pub [u8; 32]);

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Extended attributes, name to value.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// A modification time: seconds since the epoch and nanoseconds below 1e9 added to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mtime {
    /// Whole seconds, negative before 1970.
    pub seconds: i64,
    /// Nanoseconds in 0..1_000_000_000.
    pub nanoseconds: u32,
}

/// Major and minor number of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// An object at a path. Paths are relative to the root, cleaned (no `.`, `..`, empty or trailing parts);
/// the root itself is the empty path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is, relative to the root.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// Extended attributes, without overlay's own.
    pub xattrs: Xattrs,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file. `content` is absent where nobody has read the bytes yet.
    File {
        /// Bytes.
        size: u64,
        /// blake3 of the bytes.
        content: Option<ContentHash>,
    },
    /// A directory; `opaque` hides everything that lower layers have in it.
    Directory {
        /// Whether lower content is hidden.
        opaque: bool,
    },
    /// A symbolic link with its target verbatim.
    Symlink {
        /// The target's bytes as they stand.
        target: PathBuf,
    },
    /// Another name of a file of the same layer.
    HardLink {
        /// The first name, relative to the root and cleaned.
        target: PathBuf,
    },
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// Removes what lower layers have at the path. Owner, mode and times mean nothing.
    Whiteout,
}
