//! What lowering needs to know of the world, and what it was told.
//!
//! Lowering does no IO: it says what it needs, the caller finds all of it out at once, and lowering starts
//! again.

use std::collections::BTreeMap;
use std::sync::Arc;

use oci::reference::Reference;
use oci::{Digest, Platform};

use crate::graph::{Selection, SelectionRequest};
use crate::instruction::Span;

/// One thing that must be found out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The config of an image.
    Image(ImageNeed),
    /// The config of an image in an OCI layout directory.
    Layout(LayoutNeed),
    /// Files of a context.
    Selection(SelectionNeed),
    /// What a URL serves.
    Url(UrlNeed),
    /// What a git reference stands for.
    Git(GitNeed),
}

/// An image's config.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageNeed {
    /// The name, with its default tag.
    pub reference: Reference,
    /// For which platform.
    pub platform: Platform,
}

/// The config of an image in an OCI layout directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LayoutNeed {
    /// The named context, as the user wrote its name.
    pub context: String,
    /// For which platform.
    pub platform: Platform,
}

/// Files of a context.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SelectionNeed {
    /// Empty for the main context, else the named context, as the user wrote its name.
    pub context: String,
    /// Which files.
    pub request: SelectionRequest,
}

/// What a URL serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UrlNeed {
    /// The URL.
    pub url: String,
    /// The digest that it must have: an answer stands for bytes that have it, by whichever digest it names them.
    pub checksum: Option<Digest>,
    /// Whether the newest entry of an archive is looked for.
    pub time: SourceTime,
}

/// Whether the time of a source decides anything; finding it may cost a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceTime {
    /// It does not.
    Unused,
    /// SOURCE_DATE_EPOCH is to be it.
    Wanted,
}

/// What a git reference stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GitNeed {
    /// What is given to git.
    pub remote: String,
    /// Branch, tag or commit; empty for the remote's default.
    pub reference: String,
    /// Whether the commit's time is looked for.
    pub time: SourceTime,
}

/// Where a need arose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// The first place that needs it.
    pub span: Span,
    /// What to say if it cannot be found, such as a stage of a similar name.
    pub hint: Option<String>,
}

/// An image, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownImage {
    /// The normalised name, for people and to find the registry.
    pub name: String,
    /// Digest of the platform's manifest.
    pub manifest: Digest,
    /// The config document.
    pub config: Arc<[u8]>,
}

/// A URL, fetched or found unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownUrl {
    /// sha256 of the body.
    pub digest: Digest,
    /// Last-Modified in seconds since the epoch, where the server told it.
    pub last_modified: Option<i64>,
    /// Time of the newest entry, if the body is an archive and its time is wanted; else absent.
    pub newest_entry: Option<i64>,
}

/// A git reference, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownGit {
    /// The remote without credentials.
    pub remote: String,
    /// Full commit id.
    pub commit: String,
    /// What the reference names: the commit, or an annotated tag of it.
    pub object: String,
    /// Time of the commit in seconds since the epoch, where it is known.
    pub committed: Option<i64>,
}

/// Why files of a context cannot be selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SelectionError {
    /// A path that is named literally is not there.
    NotFound {
        /// As it was asked for.
        path: String,
        /// The most similar path that exists.
        nearest: Option<String>,
        /// What hides it.
        ignored_by: Option<IgnoredBy>,
    },
    /// Anything else that is the Dockerfile's or the context's fault, in words.
    Refused(String),
}

/// The rule that hides a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredBy {
    /// Name of the ignore file.
    pub file: String,
    /// Its line, from 1.
    pub line: u32,
    /// The rule.
    pub pattern: String,
}

/// What is known.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Images.
    pub images: BTreeMap<ImageNeed, KnownImage>,
    /// Images of OCI layout directories.
    pub layouts: BTreeMap<LayoutNeed, KnownImage>,
    /// Selections.
    pub selections: BTreeMap<SelectionNeed, Result<Arc<Selection>, SelectionError>>,
    /// URLs.
    pub urls: BTreeMap<UrlNeed, KnownUrl>,
    /// Git references.
    pub git: BTreeMap<GitNeed, KnownGit>,
}
