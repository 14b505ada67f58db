//! All that an image consists of: documents, each after those that it names, and blobs, each once.
//!
//! Every platform of an index and its attestations count; entries of an index that are no manifests are carried
//! along as blobs.

use std::collections::BTreeMap;

use oci::document::{self, Descriptor, DocumentError, INDEX_DEPTH, Index, Manifest, Root};
use oci::media_type::{self, ManifestKind};
use oci::{Digest, Platform};

use super::source::Source;
use crate::failure::Failure;

/// Most manifests below one name.
const MANIFESTS: usize = 10_000;

/// An image with all its documents read.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The manifest or index that the image is known by.
    pub root: Descriptor,
    /// Manifests and indexes; the root comes last.
    pub documents: Vec<Root>,
    /// The manifests as they are listed, in that order: one of several names or platforms more than once.
    pub listed: Vec<Descriptor>,
    /// Configs, layers and other blobs.
    pub blobs: BTreeMap<Digest, Descriptor>,
}

impl Contents {
    /// Reads the documents below the root of `source`.
    ///
    /// # Errors
    /// Where one of them cannot be had.
    pub async fn of(source: &Source) -> Result<Self, Failure> {
        let root = source.descriptor();
        let (documents, listed, blobs) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut contents = Self { root: root.clone(), documents, listed, blobs };
        // A stack of what is to be done: an index is added after what it names.
        let mut pending = vec![Task::Read(Box::new((root, source.root.clone(), 0)))];
        let mut count = 0_usize;
        while let Some(task) = pending.pop() {
            match task {
                Task::Add(root) => contents.add(*root),
                Task::Read(task) => match *task {
                    (listed, Root::Manifest(manifest), _) => {
                        contents.listed.push(listed);
                        contents.add_manifest(manifest)?;
                    }
                    (_, Root::Index(index), depth) => {
                        let children = index.parsed.manifests().clone();
                        pending.push(Task::Add(Box::new(Root::Index(index))));
                        count += children.len();
                        if depth >= INDEX_DEPTH || count > MANIFESTS {
                            let shown = source.shown.clone();
                            return Err(oci::Error::document(shown, DocumentError::TooDeep).into());
                        }
                        for child in children.into_iter().rev() {
                            match media_type::manifest_kind(child.media_type().as_ref()) {
                                Some(
                                    ManifestKind::Manifest | ManifestKind::Index | ManifestKind::Schema1,
                                ) => {
                                    let document = source.document(&child).await?;
                                    pending.push(Task::Read(Box::new((child, document, depth + 1))));
                                }
                                None => contents.add_blob(&child)?,
                            }
                        }
                    }
                },
            }
        }
        Ok(contents)
    }

    /// Returns the manifests.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.documents.iter().filter_map(|root| match root {
            Root::Manifest(manifest) => Some(manifest),
            Root::Index(_) => None,
        })
    }

    /// Returns the indexes.
    pub fn indexes(&self) -> impl Iterator<Item = &Index> {
        self.documents.iter().filter_map(|root| match root {
            Root::Index(index) => Some(index),
            Root::Manifest(_) => None,
        })
    }

    fn add(&mut self, root: Root) {
        if !self.documents.iter().any(|known| known.digest() == root.digest()) {
            self.documents.push(root);
        }
    }

    fn add_manifest(&mut self, manifest: Manifest) -> Result<(), Failure> {
        let descriptors = manifest.parsed.layers().iter().chain([manifest.parsed.config()]);
        descriptors.cloned().collect::<Vec<_>>().iter().try_for_each(|blob| self.add_blob(blob))?;
        self.add(Root::Manifest(manifest));
        Ok(())
    }

    fn add_blob(&mut self, descriptor: &Descriptor) -> Result<(), Failure> {
        let digest = document::digest_of(descriptor).map_err(oci::Error::from)?;
        self.blobs.insert(digest, descriptor.clone());
        Ok(())
    }
}

/// What is to be done with a document.
enum Task {
    /// As it is listed, and how deep.
    Read(Box<(Descriptor, Root, usize)>),
    Add(Box<Root>),
}

/// Returns the platforms of an index's images, attestations left out.
pub fn platforms(root: &Root) -> Vec<Platform> {
    match root {
        Root::Manifest(_) => Vec::new(),
        Root::Index(index) => {
            let images = index.parsed.manifests().iter().filter(|entry| !document::is_attestation(entry));
            images.filter_map(document::platform_of).collect()
        }
    }
}
