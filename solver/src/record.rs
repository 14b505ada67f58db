//! What the cache remembers of a step: its result, and apart from it what the result was made of.
//!
//! A record is small, because a cached build reads one per step. The components are written beside it and read
//! only to explain a miss.

use oci::DiffId;
use oci::layer::ContentHash;
use serde::{Deserialize, Serialize};

use crate::key::CacheKey;

/// Format of records; a record of another version is a miss.
pub const VERSION: u32 = 1;

/// A layer that a step made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerResult {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Its entries without times, files by their hash (`frontend::graph::content_id`).
    #[serde(with = "content_hex")]
    pub content_id: ContentHash,
    /// Bytes of the uncompressed tar.
    pub size: u64,
    /// Number of entries.
    pub entries: u64,
}

/// What a key produced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// [`VERSION`].
    pub version: u32,
    /// The key it is stored under.
    pub key: CacheKey,
    /// The result key: what dependents build their keys on.
    pub effective: CacheKey,
    /// The layer.
    pub layer: LayerResult,
    /// When the layer was made, in seconds since the epoch; the history entry's time.
    pub created: i64,
    /// How long the step ran, in milliseconds.
    pub duration_ms: u64,
    /// The step as shown to people.
    pub text: String,
}

/// The parts of a key, for explanations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// `(name, value)` of the step's own parts and of what it stands on, in order.
    pub components: Vec<(String, String)>,
}

mod content_hex {
    use oci::layer::ContentHash;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(hash: &ContentHash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(hash)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ContentHash, D::Error> {
        let text = String::deserialize(deserializer)?;
        crate::key::decode(&text).map(ContentHash).ok_or_else(|| de::Error::custom("no content hash"))
    }
}
