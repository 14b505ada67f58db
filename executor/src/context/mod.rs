//! Selecting the files of a local context: which paths, what they are, and the hashes of their bytes.
//!
//! The context is read by handles only, so no link leads out of it, and nothing is opened whose hash the stat
//! cache knows. Nothing here copies a file or knows where it will land.

mod assemble;
mod cache;
mod hash;
pub mod ignore_file;
mod missing;
mod select;
mod walk;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use frontend::graph::pattern::PatternError;
use frontend::graph::pattern::ignore::{IgnoreError, Rules};
use frontend::graph::{Selection, SelectionRequest};
use oci::layer::Mtime;

use crate::tree::TreeError;
pub use cache::{CacheError, StatCache};
pub use hash::hash_file;

/// A context directory and what is known about it.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The open directory.
    pub root: &'a Arc<OwnedFd>,
    /// Rules of its ignore file; empty if there is none.
    pub ignore: &'a Rules,
    /// Hashes of earlier scans.
    pub cache: &'a StatCache,
    /// The present time. Hashes of files changed within two seconds of it are not kept.
    pub now: Mtime,
}

/// Why there is no selection.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// A source that is named literally is not there, or hidden by the ignore file.
    #[error("{:?} is not in the build context{}", .path.display().to_string(), missing::hint(.nearest.as_deref(), .ignored_by.as_ref()))]
    NotFound {
        /// As it was asked for, relative to the context.
        path: PathBuf,
        /// The most similar path that exists, differences of case first.
        nearest: Option<PathBuf>,
        /// The line of the ignore file that hides it.
        ignored_by: Option<IgnoredBy>,
    },
    /// A pipe or a device was selected.
    #[error("{:?} is a {kind}, which cannot be copied from a build context; exclude it in .dockerignore", .path.display().to_string())]
    Special {
        /// Where.
        path: PathBuf,
        /// `named pipe` or `device`.
        kind: &'static str,
    },
    /// A file was written, replaced or removed while it was read.
    #[error("{:?} changed during the build; build again when nothing writes to the context", .path.display().to_string())]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// A system call did not succeed.
    #[error("{call} {:?} in the build context", .path.display().to_string())]
    Call {
        /// Which call.
        call: &'static str,
        /// Path inside the context.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A path cannot be followed, such as through a loop of links.
    #[error("look up {:?} in the build context", .path.display().to_string())]
    Tree {
        /// As it was asked for.
        path: PathBuf,
        /// Why.
        source: TreeError,
    },
    /// A source is no valid pattern.
    #[error("source {pattern:?}")]
    Pattern {
        /// As written.
        pattern: String,
        /// What is wrong.
        source: PatternError,
    },
    /// `--exclude` or a `--parents` source is no valid pattern.
    #[error(transparent)]
    Exclude(#[from] IgnoreError),
}

/// What hides a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredBy {
    /// Line of the ignore file, from 1.
    pub line: u32,
    /// The pattern in it.
    pub pattern: String,
}

/// Selects and hashes the files that `request` wants.
///
/// Owners become 0:0 and sockets are left out. Directories that are only on the way to a selected file get
/// mode 0755 and no attributes, unless `--parents` copies them: what is not copied must not decide about a
/// cache hit. The context's own directory is always 0755, as it is in BuildKit.
///
/// # Errors
/// [`ScanError`]. A wildcard without a match is none.
pub fn scan(context: &Context<'_>, request: &SelectionRequest) -> Result<Selection, ScanError> {
    let roots = select::roots(context, request)?;
    let mut items = Vec::new();
    for root in &roots.walks {
        let found = walk::walk(context, root)?;
        if let Some(required) = &root.required
            && !found.iter().any(|item| item.role == walk::Role::Selected)
            && context.ignore.ignores(&required.real.to_string_lossy())
        {
            return Err(missing::not_found(context, &required.asked, &required.real));
        }
        items.extend(found);
    }
    assemble::assemble(context, items, roots.links)
}

impl ScanError {
    fn call(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Call { call, path, source }
    }
}

#[cfg(test)]
mod tests;
