//! What can go wrong with names, documents, layouts and the store: the error of the crate's door.
//!
//! The registry client and the layer archives have errors of their own, because their turn is another's.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::DigestError;
use crate::document::DocumentError;
use crate::platform::PlatformError;
use crate::reference::ReferenceError;
use crate::{Descriptor, Digest};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, named for what was being done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An image name that is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A platform that is none.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// A digest that is none, or neither sha256 nor sha512.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A manifest, index or config that may not be used.
    #[error("{origin}")]
    Document {
        /// Which document.
        origin: String,
        /// Why it may not be used.
        source: Box<DocumentError>,
    },
    /// A system call on a path failed.
    #[error("{action} {}", .path.display())]
    Io {
        /// The verb, such as `open`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no space, or nearly none.
    #[error("no space left in {}: {free} free{} — free some, or put the store elsewhere with --root", .path.display(), at_least(.needed.as_deref()))]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// What is free, with its unit.
        free: String,
        /// What is needed, with its unit, where that is known.
        needed: Option<String>,
    },
    /// A blob that is named is not there.
    #[error("blob {digest} is missing in {}", .layout.display())]
    MissingBlob {
        /// Which blob.
        digest: Digest,
        /// In which layout.
        layout: PathBuf,
    },
    /// A blob is not what its descriptor says.
    #[error("blob {digest} in {} is damaged: {what}", .path.display())]
    Damaged {
        /// Which blob.
        digest: Digest,
        /// Where its bytes are.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// A blob is larger than its reader allows.
    #[error("blob {digest} has {size} bytes, the limit is {limit}")]
    BlobTooLarge {
        /// Which blob.
        digest: Digest,
        /// What its descriptor says.
        size: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A name that no image has.
    #[error("no image named {name:?} in {}", .layout.display())]
    UnknownName {
        /// As asked for.
        name: String,
        /// In which layout.
        layout: PathBuf,
    },
    /// A directory that is no OCI layout.
    #[error("{} is no OCI image layout: {what}", .path.display())]
    NoLayout {
        /// Which directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A directory that is no store of ours.
    #[error("{} is not an xbuild store: {what}", .path.display())]
    NoStore {
        /// Which directory.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: String,
    },
    /// The store belongs to somebody else.
    #[error("store {} belongs to user {owner}, but xbuild runs as user {user} — choose another with --root, or run as its owner", .path.display())]
    Owner {
        /// Which store.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Nothing can be written to the store.
    #[error("the store {} is on a read-only file system — remount it, or name another store with --root", .path.display())]
    ReadOnly {
        /// Which store.
        path: PathBuf,
    },
    /// A newer xbuild made the store.
    #[error("store {} has format {found}, this xbuild knows up to {known} — update xbuild, or choose another store with --root", .path.display())]
    Version {
        /// Which store.
        path: PathBuf,
        /// Its format.
        found: String,
        /// What we know.
        known: u32,
    },
}

impl Error {
    /// Returns a closure that wraps an `io::Error` of `action` on `path`. Full disks and quotas become
    /// [`Error::NoSpace`].
    pub fn io<'a, E: Into<io::Error>>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(E) -> Self + use<'a, E> {
        move |source| {
            let source = source.into();
            match source.kind() {
                io::ErrorKind::StorageFull => Self::full(path, "0 bytes or inodes"),
                io::ErrorKind::QuotaExceeded => Self::full(path, "0 bytes of the user's quota"),
                io::ErrorKind::FileTooLarge => Self::full(path, "0 bytes of the process's file size limit"),
                _ => Self::Io { action, path: path.to_owned(), source },
            }
        }
    }

    /// Wraps an error about the document named `origin`.
    pub fn document(origin: impl Into<String>, source: DocumentError) -> Self {
        Self::Document { origin: origin.into(), source: Box::new(source) }
    }

    /// Returns whether the machine lacks a resource, rather than the data being wrong.
    pub fn is_resource(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }

    fn full(path: &Path, free: &str) -> Self {
        Self::NoSpace { path: path.to_owned(), free: free.to_owned(), needed: None }
    }
}

fn at_least(needed: Option<&str>) -> String {
    needed.map_or_else(String::new, |needed| format!(", at least {needed} needed"))
}

/// Returns what a reader of `descriptor` may expect: its digest and size.
///
/// # Errors
/// [`Error::Digest`] for digests other than sha256 and sha512.
pub(crate) fn expectation(descriptor: &Descriptor) -> Result<(Digest, u64)> {
    Ok((crate::document::digest_of(descriptor)?, descriptor.size()))
}
