//! Reading `<Dockerfile>.dockerignore` or `.dockerignore` from a context, as a plain file of limited size.

use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use frontend::graph::pattern::ignore::{IgnoreError, Rules};
use rustix::io::Errno;

use crate::tree::{Directory, Last, open_beneath, resolve};

/// Larger ignore files are refused.
pub const LIMIT: u64 = 10 << 20;

/// An ignore file that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoreFile {
    /// Where, relative to the directory it was looked for in.
    pub path: PathBuf,
    /// Its rules.
    pub rules: Rules,
}

/// Why an ignore file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IgnoreFileError {
    /// It is a directory, a pipe, a device, or a link that leads to no file beneath the root.
    #[error("{} must be a plain file, not a directory, pipe, device or link out of the context", .0.display())]
    NotPlain(PathBuf),
    /// It is too large.
    #[error("{} is larger than {LIMIT} bytes", .0.display())]
    TooLarge(PathBuf),
    /// It cannot be read.
    #[error("read {}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is no pattern.
    #[error("{}", .path.display())]
    Rule {
        /// Which file.
        path: PathBuf,
        /// Which line, and why.
        source: IgnoreError,
    },
}

/// Returns the first of `names` that exists beneath `root`, usually `<Dockerfile>.dockerignore` and then
/// `.dockerignore`; `None` if there is none. A link is followed as far as it stays beneath `root`.
///
/// # Errors
/// [`IgnoreFileError`] for the first that exists.
pub fn read(root: &Arc<OwnedFd>, names: &[&Path]) -> Result<Option<IgnoreFile>, IgnoreFileError> {
    for name in names {
        if let Some(text) = read_text(root, name)? {
            let rules = Rules::parse(&text)
                .map_err(|source| IgnoreFileError::Rule { path: (*name).to_owned(), source })?;
            return Ok(Some(IgnoreFile { path: (*name).to_owned(), rules }));
        }
    }
    Ok(None)
}

fn read_text(root: &Arc<OwnedFd>, name: &Path) -> Result<Option<Vec<u8>>, IgnoreFileError> {
    let path = || name.to_owned();
    let file = match open(root, name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if is_not_plain(&error) => return Err(IgnoreFileError::NotPlain(path())),
        Err(source) => return Err(IgnoreFileError::Io { path: path(), source }),
    };
    let mut text = Vec::new();
    file.take(LIMIT + 1)
        .read_to_end(&mut text)
        .map_err(|source| IgnoreFileError::Io { path: path(), source })?;
    if text.len() as u64 > LIMIT { Err(IgnoreFileError::TooLarge(path())) } else { Ok(Some(text)) }
}

/// Opens a file; a link is resolved beneath `root`, and one that leads nowhere there is no plain file.
fn open(root: &Arc<OwnedFd>, name: &Path) -> io::Result<std::fs::File> {
    match open_beneath(root, name) {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {}
        opened => return opened,
    }
    let looped = || io::Error::from(Errno::LOOP);
    let resolved = resolve(&Directory::new(Arc::clone(root)), name, Last::Follow).map_err(|_| looped())?;
    resolved.node.ok_or_else(looped)?;
    open_beneath(root, &resolved.path)
}

fn is_not_plain(error: &io::Error) -> bool {
    // ENXIO: a socket cannot be opened (open(2)).
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    error.kind() == io::ErrorKind::InvalidInput || matches!(code, Some(Errno::LOOP | Errno::NXIO))
}
