//! Why a document is refused.

use super::{DESCRIPTOR_LIMIT, DOCUMENT_LIMIT, INDEX_DEPTH};
use crate::Platform;
use crate::digest::DigestError;

/// Why bytes are no document that may be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// There are more bytes than any reader has to accept.
    #[error("{what} has {size} bytes, the limit is {DOCUMENT_LIMIT}")]
    TooLarge {
        /// `manifest`, `index` or `config`.
        what: &'static str,
        /// How many bytes.
        size: u64,
    },
    /// The bytes are not JSON of the right shape.
    #[error("{what} is not valid")]
    Json {
        /// `manifest`, `index` or `config`.
        what: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The bytes can be taken for two kinds of document, or say nothing about their kind.
    #[error("manifest is ambiguous: {0}")]
    Ambiguous(String),
    /// Docker's old format.
    #[error(
        "manifest is of Docker's schema 1, which is no longer supported; push the image again with a current tool"
    )]
    Schema1,
    /// A digest is none, or of another algorithm.
    #[error("{what} refers to an unusable digest")]
    Digest {
        /// `manifest` or `index`.
        what: &'static str,
        /// What is wrong with it.
        source: DigestError,
    },
    /// More descriptors than the limit.
    #[error("{what} lists {count} descriptors, the limit is {DESCRIPTOR_LIMIT}")]
    TooMany {
        /// `manifest` or `index`.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// The manifest is of something else than a container image.
    #[error("not a container image: its config has the media type {0:?}")]
    NoImage(String),
    /// A layer has a media type that cannot be applied.
    #[error("layer {number} has the media type {media_type:?}, which is no layer that can be applied")]
    LayerType {
        /// 1 is the lowest.
        number: usize,
        /// As the manifest has it.
        media_type: String,
    },
    /// Manifest and config disagree.
    #[error("image config does not fit its manifest: {0}")]
    Config(String),
    /// The index has nothing for the platform.
    #[error("no image for platform {wanted}; available: {available}")]
    NoPlatform {
        /// What was asked for.
        wanted: Box<Platform>,
        /// What there is, separated by commas.
        available: String,
    },
    /// Indexes are nested deeper than [`INDEX_DEPTH`].
    #[error("indexes are nested deeper than {INDEX_DEPTH}")]
    TooDeep,
}
