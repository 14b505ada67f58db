//! What writing an image comes to: the digest and the names that its target knows it by, or a target that is full. Writes
//! nothing.

use exporter::layout::{Label, labels};
use oci::Digest;
use oci::reference::Reference;

use super::source::Source;
use crate::failure::{Class, Failure};
use crate::location::{Location, Version};

/// What was written.
#[derive(Debug, Clone)]
pub struct Written {
    /// The digest that the target knows the image by.
    pub digest: Digest,
    /// The names that it has there.
    pub names: Vec<String>,
}

/// Says of a full disk that it is the target's. Only for what is written there: archives are packed, and blobs may be
/// spooled, in the store.
pub(super) fn full(target: &Location, failure: Failure) -> Failure {
    if failure.class != Class::Resource {
        return failure;
    }
    let why = "no space left there";
    Failure::new(
        Class::Resource,
        &["cannot write the image", &shown(target), why, "free some, or name another place"],
    )
}

/// What the image is called in a layout: by the tag that the target names, else by its own names.
pub(super) fn labels_of(source: &Source, version: &Version) -> Result<Vec<Label>, Failure> {
    if let Some(digest) = version.digest {
        check_digest(&format!("@{digest}"), digest, source.root.digest())?;
    }
    Ok(match &version.tag {
        Some(tag) => match tag.parse::<Reference>() {
            Ok(full) if tag.contains('/') => labels(&[full]),
            Ok(_) | Err(_) => vec![Label { full: None, ref_name: tag.clone() }],
        },
        None => labels(&source.names),
    })
}

/// Refuses a `target` that says which image it means, and means another.
pub fn check_digest(target: &str, digest: Digest, image: Digest) -> Result<(), Failure> {
    if digest == image {
        return Ok(());
    }
    let why = format!("the image is {image}");
    Err(Failure::new(Class::Usage, &["unusable target", target, &why, "leave the digest out"]))
}

pub(super) fn names_of(labels: &[Label]) -> Vec<String> {
    labels.iter().map(|label| label.full.clone().unwrap_or_else(|| label.ref_name.clone())).collect()
}

/// Returns the target as the user would write it.
pub fn shown(target: &Location) -> String {
    match target {
        Location::Named(name) => name.clone(),
        Location::Registry(reference) => format!("docker://{reference}"),
        Location::Layout(path, _) => format!("oci-layout://{}", path.display()),
        Location::OciArchive(path, _) => format!("oci-archive:{}", path.display()),
        Location::DockerArchive(path, _) => format!("docker-archive:{}", path.display()),
    }
}
