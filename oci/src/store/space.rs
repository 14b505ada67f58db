//! How much space there is, what takes it, and whether anything may be written.

use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::Access;
use rustix::io::Errno;

use super::Store;
use crate::error::{Error, Result};

/// Free space below which nothing new is written: a full disk breaks more than one build.
const RESERVE: u64 = 1 << 30;

/// Inodes that are left alone.
const INODE_RESERVE: u64 = 1000;

/// What is free on the store's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this user may still write.
    pub free: u64,
    /// Bytes of the whole file system.
    pub total: u64,
    /// Inodes that may still be made; `None` where the file system does not count them.
    pub free_inodes: Option<u64>,
}

/// A kind of thing that takes space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Blobs: packed layers, configs, manifests.
    Blobs,
    /// Unpacked layers.
    Layers,
    /// Step records, indexes and other small files.
    Records,
    /// `RUN --mount=type=cache` directories.
    Mounts,
    /// What builds are working on, or killed builds have left.
    Staging,
}

/// What a kind takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Objects: blobs, layers, records, cache directories, staging directories.
    pub objects: u64,
    /// Bytes on disk; a file with several names counts once.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl Space {
    /// Returns how many bytes are kept free: 1 GiB or 2 % of the file system, but never more than 5 % of it.
    pub fn reserve(&self) -> u64 {
        RESERVE.max(self.total / 50).min(self.total / 20)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blobs => "blobs",
            Self::Layers => "layers",
            Self::Records => "records",
            Self::Mounts => "cache mounts",
            Self::Staging => "staging",
        })
    }
}

impl Store {
    /// Checks that the store's file system is not mounted read-only, where images can be looked at and no more.
    ///
    /// # Errors
    /// [`Error::ReadOnly`].
    pub fn check_writable(&self) -> Result<()> {
        // access(2): EROFS also for root, who may write everywhere else.
        match rustix::fs::access(self.root(), Access::WRITE_OK) {
            Err(Errno::ROFS) => Err(Error::ReadOnly { path: self.root().to_owned() }),
            // Whatever else stands in the way is told of what is written.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Returns what is free.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn space(&self) -> Result<Space> {
        let found = rustix::fs::statvfs(self.root()).map_err(Error::io("statvfs", self.root()))?;
        Ok(Space {
            free: found.f_bavail * found.f_frsize,
            total: found.f_blocks * found.f_frsize,
            // btrfs says 0 of 0.
            free_inodes: (found.f_files > 0).then_some(found.f_favail),
        })
    }

    /// Checks that `needed` more bytes leave the reserve free, before writing begins.
    ///
    /// # Errors
    /// [`Error::NoSpace`].
    pub fn check_space(&self, needed: u64) -> Result<()> {
        let space = self.space()?;
        let no_space =
            |free, needed| Err(Error::NoSpace { path: self.root().to_owned(), free, needed: Some(needed) });
        let wanted = needed.saturating_add(space.reserve());
        if space.free < wanted {
            return no_space(human(space.free), human(wanted));
        }
        match space.free_inodes {
            Some(free) if free < INODE_RESERVE => {
                no_space(format!("{free} inodes"), format!("{INODE_RESERVE} inodes"))
            }
            _ => Ok(()),
        }
    }

    /// Returns what each kind takes. What cannot be read, or vanishes meanwhile, does not count.
    pub fn usage(&self) -> Vec<(Kind, Usage)> {
        let all = [
            (Kind::Blobs, vec!["images/blobs/sha256", "images/blobs/sha512"]),
            (Kind::Layers, vec!["layers"]),
            (Kind::Records, vec!["steps", "index", "packed", "sources", "contexts", "marks"]),
            (Kind::Mounts, vec!["mounts"]),
            (Kind::Staging, vec!["tmp"]),
        ];
        all.map(|(kind, names)| (kind, usage_of(self.root(), &names))).into()
    }
}

/// Returns `bytes` with a unit, as users read it.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut rest = bytes;
    let mut unit = "B";
    let mut tenths = 0;
    for next in UNITS {
        if rest < 1024 {
            break;
        }
        tenths = rest % 1024 * 10 / 1024;
        rest /= 1024;
        unit = next;
    }
    if unit == "B" { format!("{rest} B") } else { format!("{rest}.{tenths} {unit}") }
}

fn usage_of(root: &Path, names: &[&str]) -> Usage {
    let mut usage = Usage::default();
    let mut seen = BTreeSet::new();
    for name in names {
        // layers/<flavour>/<id>: objects are one level further down.
        let object_depth = if *name == "layers" { 2 } else { 1 };
        let mut waiting = vec![(root.join(name), 0)];
        while let Some((directory, depth)) = waiting.pop() {
            let Ok(entries) = std::fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                if depth + 1 == object_depth {
                    usage.objects += 1;
                }
                if metadata.nlink() < 2 || metadata.is_dir() || seen.insert((metadata.dev(), metadata.ino()))
                {
                    usage.inodes += 1;
                    usage.bytes += metadata.blocks() * 512;
                }
                if metadata.is_dir() {
                    waiting.push((entry.path(), depth + 1));
                }
            }
        }
    }
    usage
}
