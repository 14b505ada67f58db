//! Which entries an index of images and indexes has. Pure: documents were read before.

use std::collections::BTreeSet;

use oci::document::{self, Descriptor};
use oci::media_type::{DOCKER_MANIFEST, Types};

use crate::failure::{Class, Failure};

/// By which an attestation names the image that it is about (BuildKit's attestation-storage.md).
const SUBJECT: &str = "vnd.docker.reference.digest";

/// An entry, and where it is from.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// What the index will hold: an image labelled with its platform, or an attestation.
    pub descriptor: Descriptor,
    /// The place, as messages name it.
    pub from: String,
}

/// What a second image of one platform means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Second {
    /// A mistake.
    Refuse,
    /// The image that is meant, instead of the first.
    Replace,
}

/// Returns the entries of an index of all that is given: images in the order in which their platforms came first, then
/// the attestations of those images. What is the same is there once.
///
/// # Errors
/// A usage failure where two images are of one platform.
pub fn merge(entries: Vec<Entry>, second: Second) -> Result<Vec<Entry>, Failure> {
    let (attestations, images): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|entry| document::is_attestation(&entry.descriptor));
    let mut merged: Vec<Entry> = Vec::new();
    for entry in images {
        let same = |other: &&mut Entry| platform(&other.descriptor) == platform(&entry.descriptor);
        match (merged.iter_mut().find(same), second) {
            (None, _) => merged.push(entry),
            (Some(other), _) if other.descriptor.digest() == entry.descriptor.digest() => {}
            (Some(other), Second::Replace) => *other = entry,
            (Some(other), Second::Refuse) => return Err(two_of_one(other, &entry)),
        }
    }
    let digests: BTreeSet<String> =
        merged.iter().map(|entry| entry.descriptor.digest().to_string()).collect();
    let mut known = BTreeSet::new();
    for entry in attestations {
        let is_of_us = subject(&entry.descriptor).is_none_or(|subject| digests.contains(subject));
        if is_of_us && known.insert(entry.descriptor.digest().to_string()) {
            merged.push(entry);
        }
    }
    Ok(merged)
}

/// Returns whose words the index is written in: Docker's where all of its images are, as long as nothing is annotated.
pub fn types(entries: &[Entry], annotated: bool) -> Types {
    let is_docker = |entry: &Entry| entry.descriptor.media_type().as_ref() == DOCKER_MANIFEST;
    match !annotated && entries.iter().all(is_docker) {
        true => Types::Docker,
        false => Types::Oci,
    }
}

fn platform(descriptor: &Descriptor) -> Option<String> {
    document::platform_of(descriptor).map(|platform| platform.normalize().full())
}

fn subject(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations().as_ref()?.get(SUBJECT).map(String::as_str)
}

fn two_of_one(one: &Entry, other: &Entry) -> Failure {
    let shown = |entry: &Entry| format!("{} ({})", entry.from, entry.descriptor.digest());
    let platform = platform(&other.descriptor).unwrap_or_else(|| "no platform".to_owned());
    let why = format!("{} and {}", shown(one), shown(other));
    let fix = "leave one out, or give --append to let the later one replace the other";
    Failure::new(Class::Usage, &["two images of one platform", &platform, &why, fix])
}

#[cfg(test)]
mod tests {
    use oci::media_type::OCI_MANIFEST;
    use oci::{Digest, Platform};

    use super::*;

    fn image(name: &str, platform: &str) -> Entry {
        let descriptor = document::descriptor(OCI_MANIFEST, Digest::of(name.as_bytes()), 1);
        let platform: Platform = platform.parse().unwrap();
        Entry { descriptor: document::labelled(descriptor, &platform), from: name.to_owned() }
    }

    fn attestation(name: &str, about: &str) -> Entry {
        let mut entry = image(name, "linux/amd64");
        let about = Digest::of(about.as_bytes()).to_string();
        let annotations =
            [("vnd.docker.reference.type", "attestation-manifest".to_owned()), (SUBJECT, about)];
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value));
        entry.descriptor.set_annotations(Some(annotations.into_iter().collect()));
        entry
    }

    fn names(entries: Vec<Entry>, second: Second) -> Result<Vec<String>, String> {
        let merged = merge(entries, second).map_err(|failure| failure.line)?;
        Ok(merged.into_iter().map(|entry| entry.from).collect())
    }

    #[test]
    fn images_come_first_and_each_once() {
        let entries = || {
            vec![
                image("arm64", "linux/arm64"),
                attestation("about-arm64", "arm64"),
                image("arm", "linux/arm"),
                image("arm64", "linux/arm64/v8"),
                attestation("about-arm64", "arm64"),
                image("windows", "windows(10.0.1)/amd64"),
                image("newer", "windows(10.0.2)/amd64"),
            ]
        };
        let expect = ["arm64", "arm", "windows", "newer", "about-arm64"].map(str::to_owned);
        assert_eq!(names(entries(), Second::Refuse).unwrap(), expect);
        assert_eq!(names(entries(), Second::Replace).unwrap(), expect);
    }

    #[test]
    fn two_images_of_one_platform_are_named_or_the_later_stays() {
        let entries = || {
            vec![
                image("old", "linux/arm/v7"),
                image("amd64", "linux/amd64"),
                attestation("about-old", "old"),
                image("new", "linux/arm"),
                attestation("about-new", "new"),
            ]
        };
        let refused = names(entries(), Second::Refuse).unwrap_err();
        for fragment in ["linux/arm/v7", "old (sha256:", "new (sha256:", "--append"] {
            assert!(refused.contains(fragment), "{fragment} is not in {refused}");
        }
        assert_eq!(names(entries(), Second::Replace).unwrap(), ["new", "amd64", "about-new"]);
    }

    #[test]
    fn dockers_words_are_for_dockers_images_alone() {
        let mut docker = image("a", "linux/amd64");
        docker.descriptor.set_media_type(DOCKER_MANIFEST.into());
        let both = [docker.clone(), image("b", "linux/arm64")];
        assert_eq!(types(std::slice::from_ref(&docker), false), Types::Docker);
        assert_eq!(types(&[docker], true), Types::Oci);
        assert_eq!(types(&both, false), Types::Oci);
    }
}
