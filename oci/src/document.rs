//! Documents of images: raw bytes beside what they parse to, with the checks that every reader must make.
//!
//! In reading order: why bytes are refused (`error`), what they are (`kind`), what they name (`descriptor`). Nothing is
//! fetched or stored here. A document is refused when it is too large, ambiguous about what it is,
//! names a digest that is none, or has duplicate keys: two readers that disagree about such bytes would run
//! different images under one digest (CVE-2021-41190).

mod descriptor;
mod error;
mod kind;

use bytes::Bytes;
pub use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::digest::Algorithm;
use crate::media_type::{self, ManifestKind};
use crate::{Digest, ImageConfig, json};
use descriptor::{PLATFORM_KEYS, rename};
pub use descriptor::{
    descriptor, digest_of, from_value, is_attestation, kept_elsewhere, labelled, platform_of, select,
    to_value,
};
pub use error::DocumentError;
use kind::kind;

/// Largest manifest, index and config (distribution-spec: registries should refuse more than 4 MiB).
pub const DOCUMENT_LIMIT: u64 = 4 << 20;

/// Most descriptors in one manifest or index.
const DESCRIPTOR_LIMIT: usize = 10_000;

/// How deep indexes may be nested.
pub const INDEX_DEPTH: usize = 3;

/// Bytes, their digest, and what they say.
#[derive(Debug, Clone, PartialEq)]
pub struct Document<T> {
    /// The bytes as they were read or will be written.
    pub raw: Bytes,
    /// The digest of `raw`: sha256, unless the document is known by another.
    pub digest: Digest,
    /// What the bytes say.
    pub parsed: T,
}

/// An image manifest.
pub type Manifest = Document<ImageManifest>;
/// An image index.
pub type Index = Document<ImageIndex>;
/// An image config.
pub type Config = Document<ImageConfig>;

/// What a reference can stand for.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one exists at a time, and matching on it stays plain")]
pub enum Root {
    /// One image.
    Manifest(Manifest),
    /// Images of several platforms.
    Index(Index),
}

impl<T: Serialize> Document<T> {
    /// Serialises `parsed` with sorted keys, so that equal values have equal bytes.
    pub fn new(parsed: T) -> Self {
        // A value's objects are sorted maps; oci-spec keeps annotations in hash maps.
        let value =
            serde_json::to_value(&parsed).expect("documents have string keys and finite numbers only");
        let raw = Bytes::from(serde_json::to_vec(&value).expect("a value serialises"));
        Self { digest: Digest::of(&raw), raw, parsed }
    }
}

impl<T> Document<T> {
    /// Returns the document known by its digest of `algorithm`, as what refers to it has it.
    #[must_use]
    pub fn digested_by(self, algorithm: Algorithm) -> Self {
        if self.digest.algorithm() == algorithm {
            return self;
        }
        Self { digest: algorithm.digest(&self.raw), ..self }
    }

    /// Returns the descriptor of the document under `media_type`.
    pub fn descriptor(&self, media_type: &str) -> Descriptor {
        descriptor(media_type, self.digest, self.raw.len() as u64)
    }
}

impl Manifest {
    /// Parses a manifest; `declared` is the media type of the descriptor or of the response, where there is one.
    ///
    /// # Errors
    /// [`DocumentError`], also where the bytes are an index.
    pub fn parse(raw: Bytes, declared: Option<&str>) -> Result<Self, DocumentError> {
        match Root::parse(raw, declared)? {
            Root::Manifest(manifest) => Ok(manifest),
            Root::Index(_) => Err(DocumentError::Ambiguous("expected a manifest, found an index".to_owned())),
        }
    }

    /// Checks that the manifest is of a container image whose layers can be applied.
    ///
    /// # Errors
    /// [`DocumentError::NoImage`] for charts and other artifacts, [`DocumentError::LayerType`].
    pub fn require_image(&self) -> Result<(), DocumentError> {
        let config = self.parsed.config().media_type().as_ref();
        if !media_type::is_config(config) {
            return Err(DocumentError::NoImage(config.to_owned()));
        }
        for (number, layer) in (1..).zip(self.parsed.layers()) {
            let media_type = layer.media_type().as_ref();
            if media_type::layer_compression(media_type).is_none() {
                return Err(DocumentError::LayerType { number, media_type: media_type.to_owned() });
            }
        }
        Ok(())
    }
}

impl Config {
    /// Parses the config of `manifest` and checks it against it.
    ///
    /// History may account for fewer layers than there are (some tools write none), not for more.
    ///
    /// # Errors
    /// [`DocumentError::Config`] where the two disagree.
    pub fn parse(raw: Bytes, manifest: &ImageManifest) -> Result<Self, DocumentError> {
        let named = digest_of(manifest.config())
            .map_err(|source| DocumentError::Digest { what: "manifest", source })?;
        let config = Self::parse_alone(raw)?.digested_by(named.algorithm());
        let ImageConfig { rootfs, history, .. } = &config.parsed;
        let (layers, diff_ids) = (manifest.layers().len(), rootfs.diff_ids.len());
        let accounted = history.iter().filter(|entry| !entry.empty_layer).count();
        if rootfs.kind != "layers" {
            return Err(DocumentError::Config(format!(
                "rootfs.type is {:?}, expected \"layers\"",
                rootfs.kind
            )));
        }
        if layers != diff_ids {
            return Err(DocumentError::Config(format!("{layers} layers, but {diff_ids} diff_ids")));
        }
        if accounted > layers {
            return Err(DocumentError::Config(format!("history of {accounted} layers, but {layers} layers")));
        }
        Ok(config)
    }

    /// Parses a config without its manifest.
    ///
    /// # Errors
    /// [`DocumentError::TooLarge`] and [`DocumentError::Json`].
    pub fn parse_alone(raw: Bytes) -> Result<Self, DocumentError> {
        parse("config", raw)
    }
}

impl Root {
    /// Parses a manifest or an index; `declared` is the media type of the descriptor or of the response.
    ///
    /// # Errors
    /// [`DocumentError::Ambiguous`] where the document has parts of both, says that it is something else than
    /// `declared`, or says nothing and nothing was declared.
    pub fn parse(raw: Bytes, declared: Option<&str>) -> Result<Self, DocumentError> {
        match kind(&raw, declared)? {
            ManifestKind::Schema1 => Err(DocumentError::Schema1),
            ManifestKind::Manifest => {
                let manifest: Manifest = parse("manifest", raw)?;
                let descriptors = std::iter::once(manifest.parsed.config()).chain(manifest.parsed.layers());
                check_descriptors("manifest", descriptors)?;
                Ok(Self::Manifest(manifest))
            }
            ManifestKind::Index => {
                let index: Index = parse_with("index", raw, |value| {
                    let entries = value.get_mut("manifests").and_then(Value::as_array_mut);
                    entries.into_iter().flatten().for_each(|entry| rename(entry, &PLATFORM_KEYS));
                })?;
                check_descriptors("index", index.parsed.manifests().iter())?;
                Ok(Self::Index(index))
            }
        }
    }

    /// Returns the document known by its digest of `algorithm`.
    #[must_use]
    pub fn digested_by(self, algorithm: Algorithm) -> Self {
        match self {
            Self::Manifest(manifest) => Self::Manifest(manifest.digested_by(algorithm)),
            Self::Index(index) => Self::Index(index.digested_by(algorithm)),
        }
    }

    /// Returns the digest of the document.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Manifest(manifest) => manifest.digest,
            Self::Index(index) => index.digest,
        }
    }

    /// Returns the bytes of the document.
    pub fn raw(&self) -> &Bytes {
        match self {
            Self::Manifest(manifest) => &manifest.raw,
            Self::Index(index) => &index.raw,
        }
    }

    /// Returns the media type to send and to describe the document with.
    pub fn media_type(&self) -> &str {
        match self {
            Self::Manifest(manifest) => {
                manifest.parsed.media_type().as_ref().map_or(media_type::OCI_MANIFEST, AsRef::as_ref)
            }
            Self::Index(index) => {
                index.parsed.media_type().as_ref().map_or(media_type::OCI_INDEX, AsRef::as_ref)
            }
        }
    }
}

fn parse<T: DeserializeOwned>(what: &'static str, raw: Bytes) -> Result<Document<T>, DocumentError> {
    checked(what, &raw)?;
    let parsed = serde_json::from_slice(&raw).map_err(|source| DocumentError::Json { what, source })?;
    Ok(Document { digest: Digest::of(&raw), raw, parsed })
}

/// Parses what `edit` makes of the bytes.
fn parse_with<T: DeserializeOwned>(
    what: &'static str,
    raw: Bytes,
    edit: impl FnOnce(&mut Value),
) -> Result<Document<T>, DocumentError> {
    checked(what, &raw)?;
    let wrong = |source| DocumentError::Json { what, source };
    let mut value: Value = serde_json::from_slice(&raw).map_err(wrong)?;
    edit(&mut value);
    let parsed = serde_json::from_value(value).map_err(wrong)?;
    Ok(Document { digest: Digest::of(&raw), raw, parsed })
}

fn checked(what: &'static str, raw: &[u8]) -> Result<(), DocumentError> {
    if raw.len() as u64 > DOCUMENT_LIMIT {
        return Err(DocumentError::TooLarge { what, size: raw.len() as u64 });
    }
    json::check_unique_keys(raw).map_err(|source| DocumentError::Json { what, source })
}

fn check_descriptors<'a>(
    what: &'static str,
    descriptors: impl Iterator<Item = &'a Descriptor>,
) -> Result<(), DocumentError> {
    let mut count = 0;
    for descriptor in descriptors {
        digest_of(descriptor).map_err(|source| DocumentError::Digest { what, source })?;
        count += 1;
    }
    if count > DESCRIPTOR_LIMIT { Err(DocumentError::TooMany { what, count }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
