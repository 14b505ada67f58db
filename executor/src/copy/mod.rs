//! COPY, ADD and WORKDIR as plans: which entries the step's layer holds, and where their bytes are.
//!
//! A plan is computed from source trees and from what the parent has at the destination; nothing is written
//! and no overlay is mounted. Semantics are BuildKit's file operations (fsutil `copy`), which differ from
//! `cp`: a directory source stands for its contents, an existing destination directory keeps mode and owner,
//! nested directories take those of the source. The layer is self-contained: every ancestor is in it.

mod archive;
mod copier;
mod mkdir;
mod sources;
mod target;

use std::io;
use std::path::{Path, PathBuf};

use frontend::graph::pattern::PatternError;
use frontend::graph::pattern::ignore::IgnoreError;
use frontend::graph::{Chmod, CopyOp, CopySource, InlineFile, Unpack};
use oci::layer::{Entry, Kind, Limits, Mtime, TarError};
use oci::pack;

use crate::owner::{Ids, OwnerError, resolve_chown};
use crate::tree::{Content, Empty, Memory, Tree, TreeError, nearest};
use copier::Copier;
pub use mkdir::plan as plan_workdir;
use target::Target;

/// Where an input of a COPY comes from.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// Its files.
    pub tree: &'a dyn Tree,
    /// What they are.
    pub kind: SourceKind,
}

/// What a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// A build context. Under SOURCE_DATE_EPOCH its files get exactly that time.
    Context,
    /// A git checkout: as a context, and no archive in it is unpacked.
    Git,
    /// A downloaded file.
    Url,
    /// A stage or an image. Its files keep their owners, and times that are not after SOURCE_DATE_EPOCH.
    Rootfs,
}

/// What a plan depends on beside sources and parent.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// SOURCE_DATE_EPOCH in seconds.
    pub source_date_epoch: Option<i64>,
    /// The present time, for directories that the step makes.
    pub now: Mtime,
    /// A directory on disk in which archives are spooled, in files without a name.
    pub staging: &'a Path,
    /// What an archive may cost.
    pub limits: Limits,
    /// What happens to device nodes in archives.
    pub devices: Devices,
}

/// What happens to device nodes in archives of ADD.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Devices {
    /// They are an error.
    #[default]
    Refuse,
    /// They are made (`--allow-devices`).
    Allow,
}

/// What a step's layer holds.
#[derive(Debug, Default)]
pub struct CopyPlan {
    /// The entries in path order, each path once, every ancestor among them; the root is not.
    pub entries: Vec<Planned>,
    /// Wildcards that matched nothing, which is no error and worth a warning.
    pub unmatched: Vec<String>,
    /// Wildcards that matched several files where one can land: the last one stays.
    pub replaced: Vec<String>,
    /// Why a directory of WORKDIR belongs to root although USER says otherwise.
    pub unknown_owner: Option<OwnerError>,
    /// What was left out of archives.
    pub warnings: Vec<oci::layer::Warning>,
}

/// An entry and the bytes of its file.
#[derive(Debug)]
pub struct Planned {
    /// The entry.
    pub entry: Entry,
    /// Where the bytes are; `None` for everything but files with a size.
    pub content: Option<Content>,
}

/// Why a COPY, ADD or WORKDIR cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A source is not there.
    #[error("{} not found{}", rooted(.path), did_you_mean(.nearest.as_deref()))]
    NotFound {
        /// Which, relative to its root.
        path: PathBuf,
        /// The most similar path that exists.
        nearest: Option<PathBuf>,
    },
    /// A directory cannot land where something else is.
    #[error("cannot copy to non-directory: {}", rooted(.0))]
    NotDirectory(PathBuf),
    /// WORKDIR leads to or through something that is no directory.
    #[error(
        "cannot work in {}: {} exists and is no directory — choose another path, or remove it in a RUN before",
        rooted(.path), rooted(.found)
    )]
    Workdir {
        /// What WORKDIR says.
        path: PathBuf,
        /// What is in the way.
        found: PathBuf,
    },
    /// A file cannot land where a directory is.
    #[error("cannot replace directory {} with a file", rooted(.0))]
    IsDirectory(PathBuf),
    /// An archive could not be unpacked.
    #[error("unpack {:?}", .path.display().to_string())]
    Archive {
        /// The archive in its source.
        path: PathBuf,
        /// Why.
        source: TarError,
    },
    /// A member of an archive is refused.
    #[error("unpack {:?}: member {:?} {what}", .path.display().to_string(), .member.display().to_string())]
    Member {
        /// The archive in its source.
        path: PathBuf,
        /// The member.
        member: PathBuf,
        /// What is wrong with it and what to do.
        what: &'static str,
    },
    /// An archive could not be written to the staging directory.
    #[error("spool archive in {}", .directory.display())]
    Spool {
        /// Where.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A tree has no answer.
    #[error("look at {}", rooted(.path))]
    Tree {
        /// What was looked at.
        path: PathBuf,
        /// Why.
        source: TreeError,
    },
    /// A file of the parent, which the layer must hold because a member of an archive is a link to it, cannot
    /// be read.
    #[error("bring {} of the image along", rooted(.path))]
    Parent {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: TreeError,
    },
    /// A file could not be read.
    #[error("read {:?}", .path.display().to_string())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no such user or group.
    #[error(transparent)]
    Owner(#[from] OwnerError),
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

/// A layer whose unpacked directory a plan needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingLayer {
    /// A layer of the stage or image that is copied from, 0 is the lowest.
    Source(usize),
    /// A layer of the parent.
    Parent(usize),
}

/// Plans the layer of a COPY or ADD on `parent`; `sources` are the step's inputs in order.
///
/// With `--link` and without `--chmod` nothing of the parent but its account files is looked at.
///
/// # Errors
/// [`CopyError`].
///
/// # Panics
/// If the op names an input that is not in `sources`: graphs are made with their inputs.
pub fn plan(
    op: &CopyOp,
    sources: &[Source<'_>],
    parent: &dyn Tree,
    options: &Options<'_>,
) -> Result<CopyPlan, CopyError> {
    let chown = op.chown.as_ref().map(|owner| resolve_chown(parent, owner)).transpose()?;
    let below: &dyn Tree = if op.link && op.chmod.is_none() { &Empty } else { parent };
    let mut copier = Copier::new(op, chown, Target::new(below), options)?;
    for source in &op.sources {
        match source {
            CopySource::Input { input, path, wildcards } => {
                let matching =
                    if *wildcards { sources::Matching::Wildcards } else { sources::Matching::Literal };
                copier.copy(sources[*input], path, matching)?;
            }
            CopySource::Inline(file) => copier.copy_inline(&inline_tree(file, options))?,
        }
    }
    Ok(copier.finish())
}

/// A tree of one file; a heredoc's name is no path.
fn inline_tree(file: &InlineFile, options: &Options<'_>) -> Memory {
    let name = Path::new(&file.name).file_name().unwrap_or_default();
    let mut entry = Entry::plain(name, Kind::Fifo, file.mode);
    entry.mtime = options.time_of_new();
    Memory::default().with_file(entry, &file.data)
}

impl CopyError {
    /// Returns the layer that has to be unpacked before the plan can be made: it is worth another try then.
    pub const fn missing_layer(&self) -> Option<MissingLayer> {
        match self {
            Self::Tree { source: TreeError::NotUnpacked { layer, .. }, .. } => {
                Some(MissingLayer::Source(*layer))
            }
            Self::Parent { source: TreeError::NotUnpacked { layer, .. }, .. }
            | Self::Owner(OwnerError::Tree { source: TreeError::NotUnpacked { layer, .. }, .. }) => {
                Some(MissingLayer::Parent(*layer))
            }
            Self::NotFound { .. }
            | Self::NotDirectory(_)
            | Self::Workdir { .. }
            | Self::IsDirectory(_)
            | Self::Archive { .. }
            | Self::Member { .. }
            | Self::Spool { .. }
            | Self::Tree { .. }
            | Self::Parent { .. }
            | Self::Read { .. }
            | Self::Owner(_)
            | Self::Pattern { .. }
            | Self::Exclude(_) => None,
        }
    }

    fn not_found(tree: &dyn Tree, path: PathBuf) -> Self {
        let nearest = nearest(tree, &path);
        Self::NotFound { path, nearest }
    }
}

impl Options<'_> {
    /// Returns the time of what the step itself makes.
    fn time_of_new(&self) -> Mtime {
        self.source_date_epoch.map_or(self.now, |seconds| Mtime { seconds, nanoseconds: 0 })
    }

    /// Returns the time that a file of a source gets.
    fn time_of(&self, kind: SourceKind, mtime: Mtime) -> Mtime {
        let Some(seconds) = self.source_date_epoch else {
            return mtime;
        };
        let epoch = Mtime { seconds, nanoseconds: 0 };
        match kind {
            // Keys ignore the times of contexts; clamping would let older ones make cold differ from warm.
            SourceKind::Context | SourceKind::Git => epoch,
            SourceKind::Url | SourceKind::Rootfs => mtime.min(epoch),
        }
    }
}

impl CopyPlan {
    /// Returns the entries as the packer takes them. Files are opened one by one when their turn comes, and
    /// their bytes compared with the hashes that the plan knows.
    pub fn into_items(self) -> impl ExactSizeIterator<Item = pack::Item> {
        self.entries.into_iter().map(|Planned { entry, content }| pack::Item {
            entry,
            content: content.map_or(pack::Content::None, Content::into_pack),
        })
    }
}

/// Who and which mode: what flags say about every entry.
#[derive(Debug, Clone)]
struct Flags {
    chown: Option<Ids>,
    chmod: Option<Chmod>,
    unpack: Unpack,
}

fn rooted(path: &Path) -> String {
    format!("{:?}", Path::new("/").join(path).display().to_string())
}

fn did_you_mean(nearest: Option<&Path>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; did you mean {}?", rooted(nearest)))
}

#[cfg(test)]
mod tests;
