//! What can go wrong while an image is assembled or written out.

use std::io;
use std::path::{Path, PathBuf};

use oci::pack::PackError;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, named for what was being done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store, a blob, or a document.
    #[error(transparent)]
    Oci(#[from] oci::Error),
    /// A config that registries and readers refuse; it is refused before anything is written.
    #[error(
        "image config has {size} bytes, registries accept {limit} — use fewer or shorter labels, variables and history"
    )]
    ConfigTooLarge {
        /// Its size.
        size: u64,
        /// What is accepted.
        limit: u64,
    },
    /// The parts do not make an image.
    #[error("image cannot be assembled: {0}")]
    Inconsistent(String),
    /// An output that cannot hold what it was asked to.
    #[error("{output} cannot hold {what}")]
    Unsupported {
        /// Which form of output.
        output: &'static str,
        /// What it cannot hold, and what can.
        what: String,
    },
    /// A system call outside the image failed.
    #[error("{action} {}", .path.display())]
    Io {
        /// The verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A system call on a file of the image failed.
    #[error("{action} {:?} of the image", .path.display().to_string())]
    Rootfs {
        /// The verb.
        action: &'static str,
        /// Relative to the root of the image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the image cannot be written to a directory that has something else there.
    #[error("{:?} of the image is no directory, but the destination has a directory there — remove it first", .0.display().to_string())]
    InTheWay(PathBuf),
    /// The root file system does not fit into a tar archive.
    #[error("root file system cannot be archived")]
    Pack(#[from] PackError),
    /// A program that was to load the image could not be started, or failed.
    #[error("load the image with {program}: {what}")]
    Load {
        /// Which program.
        program: String,
        /// What it said.
        what: String,
    },
}

impl Error {
    /// Returns a closure that wraps an error of `action` on `path`, a path of the host.
    pub(crate) fn io<'a, E: Into<io::Error>>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(E) -> Self + use<'a, E> {
        move |source| Self::at_destination(oci::Error::io(action, path)(source))
    }

    /// Returns what a failed call on the destination means: it is no store, whoever made the call.
    pub(crate) fn at_destination(error: oci::Error) -> Self {
        match error {
            oci::Error::Io { action, path, source } => Self::Io { action, path, source },
            other => Self::Oci(other),
        }
    }

    /// Returns a closure that wraps an error of `action` on `path`, a path of the image.
    pub(crate) fn rootfs<'a, E: Into<io::Error>>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(E) -> Self + use<'a, E> {
        move |source| Self::Rootfs { action, path: path.to_owned(), source: source.into() }
    }
}
