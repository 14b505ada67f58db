//! Descriptors: what they name, which platform they are for, and which one of an index fits.

use oci_spec::image::{Descriptor, ImageIndex};
use serde_json::Value;

use super::DocumentError;
use crate::digest::DigestError;
use crate::media_type::is_nondistributable;
use crate::{Digest, Platform};

/// Returns the first address of a layer that is marked as not to be distributed and is kept by its maker; registries
/// need not have it.
pub fn kept_elsewhere(descriptor: &Descriptor) -> Option<&str> {
    let urls = descriptor.urls().as_deref().unwrap_or_default();
    let marked = is_nondistributable(descriptor.media_type().as_ref());
    urls.first().filter(|_| marked).map(String::as_str)
}

/// Returns a descriptor without annotations.
pub fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    let digest: oci_spec::image::Digest =
        digest.to_string().parse().expect("a digest of ours is one of image-spec's");
    Descriptor::new(media_type.into(), size, digest)
}

/// Keys of a platform: as image-spec has them, and as oci-spec reads and writes them.
pub(super) const PLATFORM_KEYS: [(&str, &str); 2] =
    [("os.version", "os_version"), ("os.features", "os_features")];

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
pub(super) fn rename(descriptor: &mut Value, keys: &[(&str, &str)]) {
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
/// [`DigestError`] where it is neither sha256 nor sha512. Descriptors of a parsed [`Root`](super::Root) have been checked.
pub fn digest_of(descriptor: &Descriptor) -> Result<Digest, DigestError> {
    descriptor.digest().as_ref().parse()
}

/// Returns the entry of `index` that fits `wanted` best. It may be an index again; callers follow it at most
/// [`INDEX_DEPTH`](super::INDEX_DEPTH) levels.
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
