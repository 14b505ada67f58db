//! Documents of images: raw bytes beside what they parse to, with the checks that every reader must make.
//!
//! Nothing is fetched or stored here. A document is refused when it is too large, ambiguous about what it is,
//! names a digest that is none, or has duplicate keys: two readers that disagree about such bytes would run
//! different images under one digest (CVE-2021-41190).

use bytes::Bytes;
pub use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::digest::{Algorithm, DigestError};
use crate::media_type::{self, ManifestKind};
use crate::{Digest, ImageConfig, Platform, json};

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
    /// More descriptors than [`DESCRIPTOR_LIMIT`].
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

/// Returns a descriptor without annotations.
pub fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    let digest: oci_spec::image::Digest =
        digest.to_string().parse().expect("a digest of ours is one of image-spec's");
    Descriptor::new(media_type.into(), size, digest)
}

/// Keys of a platform: as image-spec has them, and as oci-spec reads and writes them.
const PLATFORM_KEYS: [(&str, &str); 2] = [("os.version", "os_version"), ("os.features", "os_features")];

/// Returns a descriptor as JSON, with image-spec's keys.
pub fn to_value(descriptor: &Descriptor) -> Value {
    let mut value = serde_json::to_value(descriptor).expect("a descriptor serialises");
    rename(&mut value, &PLATFORM_KEYS.map(|(ours, theirs)| (theirs, ours)));
    value
}

/// Reads a descriptor from JSON with image-spec's keys.
///
/// # Errors
/// Where it is none.
pub fn from_value(value: &Value) -> Result<Descriptor, serde_json::Error> {
    let mut value = value.clone();
    rename(&mut value, &PLATFORM_KEYS);
    serde_json::from_value(value)
}

/// Renames keys of the platform in a descriptor.
fn rename(descriptor: &mut Value, keys: &[(&str, &str)]) {
    let Some(platform) = descriptor.get_mut("platform").and_then(Value::as_object_mut) else { return };
    for (from, to) in keys {
        if let Some(value) = platform.remove(*from) {
            platform.insert((*to).to_owned(), value);
        }
    }
}

/// Returns the digest that `descriptor` names.
///
/// # Errors
/// [`DigestError`] where it is neither sha256 nor sha512. Descriptors of a parsed [`Root`] have been checked.
pub fn digest_of(descriptor: &Descriptor) -> Result<Digest, DigestError> {
    descriptor.digest().as_ref().parse()
}

/// Returns the entry of `index` that fits `wanted` best. It may be an index again; callers follow it at most
/// [`INDEX_DEPTH`] levels.
///
/// Attestations are passed over. Entries without a platform are used only where none with one fits.
///
/// # Errors
/// [`DocumentError::NoPlatform`] with what is available.
pub fn select<'a>(index: &'a ImageIndex, wanted: &Platform) -> Result<&'a Descriptor, DocumentError> {
    let images = || index.manifests().iter().filter(|entry| !is_attestation(entry));
    let ranked = images().filter_map(|entry| Some((wanted.rank(&platform_of(entry)?)?, entry)));
    // min_by_key returns the first of equals, as containerd does.
    if let Some((_, best)) = ranked.min_by_key(|(rank, _)| *rank) {
        return Ok(best);
    }
    if let Some(unlabelled) = images().find(|entry| entry.platform().is_none()) {
        return Ok(unlabelled);
    }
    let mut available: Vec<String> =
        images().filter_map(platform_of).map(|found| found.to_string()).collect();
    available.sort_unstable();
    available.dedup();
    available.truncate(50);
    let available = if available.is_empty() { "none".to_owned() } else { available.join(", ") };
    Err(DocumentError::NoPlatform { wanted: Box::new(wanted.clone()), available })
}

/// Returns `descriptor` labelled with a platform, as entries of an index are.
pub fn labelled(mut descriptor: Descriptor, platform: &Platform) -> Descriptor {
    let Platform { os, architecture, variant, os_version } = platform;
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut label = oci_spec::image::Platform::default();
    label.set_os(os.as_str().into());
    label.set_architecture(architecture.as_str().into());
    label.set_variant(text(variant));
    label.set_os_version(text(os_version));
    descriptor.set_platform(Some(label));
    descriptor
}

/// Returns the platform that `descriptor` is labelled with.
pub fn platform_of(descriptor: &Descriptor) -> Option<Platform> {
    let platform = descriptor.platform().as_ref()?;
    Some(Platform {
        os: platform.os().to_string(),
        architecture: platform.architecture().to_string(),
        variant: platform.variant().clone().unwrap_or_default(),
        os_version: platform.os_version().clone().unwrap_or_default(),
    })
}

/// Returns whether the entry of an index is an attestation about another entry (BuildKit's
/// attestation-storage.md).
pub fn is_attestation(entry: &Descriptor) -> bool {
    let annotations = entry.annotations().as_ref();
    annotations.is_some_and(|annotations| annotations.contains_key("vnd.docker.reference.type"))
        || platform_of(entry).is_some_and(|found| found.os == "unknown" && found.architecture == "unknown")
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

/// The parts of a manifest that tell what it is.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

fn kind(raw: &[u8], declared: Option<&str>) -> Result<ManifestKind, DocumentError> {
    if raw.len() as u64 > DOCUMENT_LIMIT {
        return Err(DocumentError::TooLarge { what: "manifest", size: raw.len() as u64 });
    }
    let shape: Shape =
        serde_json::from_slice(raw).map_err(|source| DocumentError::Json { what: "manifest", source })?;
    let ambiguous = |reason: String| Err(DocumentError::Ambiguous(reason));
    let said = shape.media_type.as_deref().map(|text| (text, media_type::manifest_kind(text)));
    let declared = declared.and_then(|text| Some((text, media_type::manifest_kind(text)?)));
    if shape.schema_version == Some(1) || shape.fs_layers.is_some() {
        return Ok(ManifestKind::Schema1);
    }
    let is_image = shape.layers.is_some() || shape.config.is_some();
    if shape.manifests.is_some() && is_image {
        return ambiguous("it has manifests as well as layers".to_owned());
    }
    let kind = match (said, declared) {
        (Some((text, None)), _) => return ambiguous(format!("its mediaType {text:?} is no manifest's")),
        (Some((said, Some(kind))), Some((declared, other))) if kind != other => {
            return ambiguous(format!("its mediaType is {said:?}, but it was announced as {declared:?}"));
        }
        (Some((_, Some(kind))), _) | (None, Some((_, kind))) => kind,
        (None, None) => return ambiguous("neither it nor its source names a media type".to_owned()),
    };
    match kind {
        ManifestKind::Manifest if !is_image => {
            ambiguous("it is called a manifest, but has no config".to_owned())
        }
        ManifestKind::Index if is_image || shape.manifests.is_none() => {
            ambiguous("it is called an index, but has no manifests".to_owned())
        }
        kind => Ok(kind),
    }
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
