//! Leases: what a running build uses, so that prune leaves it alone.
//!
//! The order is: add to the lease, then look up. Adding takes `gc.lock` shared for the moment of the write; prune
//! takes it exclusive for as long as it decides and removes. So prune either sees the lease, or is over before the
//! look-up, which then misses. Looking first and leasing later loses to prune (BuildKit issue 6521).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::{Staging, Store, staging};
use crate::error::{Error, Result};
use crate::lock::{Lock, Sharing};
use crate::{DiffId, Digest};

/// Something that a build uses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leased {
    /// A blob of the layout.
    Blob(Digest),
    /// An unpacked layer: flavour and id.
    Layer(String, String),
    /// A layer by its diff id: its index, and whichever blobs it is packed as.
    Diff(DiffId),
    /// A step record by its key, in hexadecimal digits.
    Step(String),
}

/// The lease of a build, given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    staging: Staging,
    file: File,
    path: PathBuf,
    gc_lock: PathBuf,
}

/// The right to remove things: while it lives, no lease grows.
#[derive(Debug)]
pub struct PruneGuard {
    _lock: Lock,
    leased: Vec<Leased>,
}

impl Lease {
    /// Adds `things`; look them up afterwards.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn add(&self, things: &[Leased]) -> Result<()> {
        let text: String = things.iter().map(|thing| encode(thing) + "\n").collect();
        let _lock = Lock::wait(&self.gc_lock, Sharing::Shared)?;
        (&self.file).write_all(text.as_bytes()).map_err(Error::io("write", &self.path))
    }

    /// Returns the staging directory that the lease lives in.
    pub fn staging(&self) -> &Staging {
        &self.staging
    }
}

impl PruneGuard {
    /// Returns what live builds use, sorted.
    pub fn leased(&self) -> &[Leased] {
        &self.leased
    }

    /// Returns whether a live build uses `thing`.
    pub fn is_leased(&self, thing: &Leased) -> bool {
        self.leased.binary_search(thing).is_ok()
    }
}

impl Store {
    /// Starts an empty lease.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn lease(&self) -> Result<Lease> {
        let staging = self.staging()?;
        let path = staging.path().join("lease");
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("create", &path))?;
        Ok(Lease { staging, file, path, gc_lock: self.gc_lock() })
    }

    /// Waits until nobody is adding to a lease, and keeps it so; then reads what live builds use.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn prune_guard(&self) -> Result<PruneGuard> {
        let lock = Lock::wait(&self.gc_lock(), Sharing::Exclusive)?;
        let tmp = self.root().join("tmp");
        let mut leased = Vec::new();
        for entry in std::fs::read_dir(&tmp).map_err(Error::io("read", &tmp))? {
            let entry = entry.map_err(Error::io("read", &tmp))?;
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            // Whoever gets the lock of a staging directory has found a dead build.
            if !is_directory || staging::try_lock(&entry.path()).is_ok_and(|lock| lock.is_some()) {
                continue;
            }
            let text = std::fs::read_to_string(entry.path().join("lease")).unwrap_or_default();
            leased.extend(text.lines().filter_map(decode));
        }
        leased.sort_unstable();
        leased.dedup();
        Ok(PruneGuard { _lock: lock, leased })
    }

    fn gc_lock(&self) -> PathBuf {
        self.root().join("gc.lock")
    }
}

fn encode(thing: &Leased) -> String {
    match thing {
        Leased::Blob(digest) => format!("blob {digest}"),
        Leased::Layer(flavour, id) => format!("layer {flavour} {id}"),
        Leased::Diff(diff_id) => format!("diff {diff_id}"),
        Leased::Step(key) => format!("step {key}"),
    }
}

fn decode(line: &str) -> Option<Leased> {
    let (kind, rest) = line.split_once(' ')?;
    match kind {
        "blob" => rest.parse().ok().map(Leased::Blob),
        "layer" => rest.split_once(' ').map(|(flavour, id)| Leased::Layer(flavour.to_owned(), id.to_owned())),
        "diff" => rest.parse().ok().map(|digest| Leased::Diff(DiffId(digest))),
        "step" => Some(Leased::Step(rest.to_owned())),
        _ => None,
    }
}
