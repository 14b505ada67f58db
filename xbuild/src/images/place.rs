//! Where an opened image is, and where the bytes of its blobs are. Opens no image; `source` does.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use oci::Digest;
use oci::document::{self, DOCUMENT_LIMIT, Descriptor, Root};
use oci::layout::{Layout, VerifiedReader};
use oci::reference::Reference;
use oci::registry::BlobSource;
use oci::store::Store;

use super::archive::Extent;
use crate::failure::{Class, Failure};

/// Where documents and blobs are.
pub(super) enum Place {
    /// The store; what it lacks, where it is noted to be.
    Store(Arc<Store>),
    /// A layout directory that others may have written.
    Layout(Layout),
    /// An archive.
    Files(Files),
    /// A repository.
    Registry(Reference),
}

/// Documents and blobs of an archive.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Documents that are in no file.
    pub(super) documents: BTreeMap<Digest, Bytes>,
    /// Where the others are.
    pub(super) blobs: BTreeMap<Digest, Extent>,
}

/// Where the bytes of one blob are.
#[derive(Debug)]
pub(super) enum Blob {
    /// In memory.
    Bytes(Bytes),
    /// In a file of the store.
    Kept(Extent),
    /// In a file that others may have written.
    Foreign(Extent),
    /// In a repository.
    Remote(Reference),
}

impl Files {
    /// Reads the manifest or index that `descriptor` stands for, verified; `None` where it is not there.
    pub(super) fn document(&self, descriptor: &Descriptor) -> Result<Option<Root>, Failure> {
        let Some(raw) = self.bytes(descriptor)? else { return Ok(None) };
        let digest = document::digest_of(descriptor).map_err(oci::Error::from)?;
        let root = Root::parse(raw, Some(descriptor.media_type().as_ref()));
        let root = root.map_err(|source| oci::Error::document(format!("read {digest}"), source))?;
        Ok(Some(root.digested_by(digest.algorithm())))
    }

    /// Reads a small blob, verified; `None` where it is not there.
    pub(super) fn bytes(&self, descriptor: &Descriptor) -> Result<Option<Bytes>, Failure> {
        let (digest, size) = (document::digest_of(descriptor).map_err(oci::Error::from)?, descriptor.size());
        if let Some(bytes) = self.documents.get(&digest) {
            return Ok(Some(bytes.clone()));
        }
        let Some(extent) = self.blobs.get(&digest) else { return Ok(None) };
        if size > DOCUMENT_LIMIT {
            return Err(oci::Error::BlobTooLarge { digest, size, limit: DOCUMENT_LIMIT }.into());
        }
        let mut bytes = Vec::new();
        let read = extent
            .open()
            .and_then(|reader| VerifiedReader::new(reader, digest, size).read_to_end(&mut bytes));
        read.map_err(|error| damaged(&extent.path.display().to_string(), &digest, &error.to_string()))?;
        Ok(Some(bytes.into()))
    }
}

impl Blob {
    /// Returns the blob as a push takes it. What others wrote is verified while it is sent.
    pub(super) fn into_source(self) -> BlobSource {
        match self {
            Self::Bytes(bytes) => BlobSource::Bytes(bytes),
            Self::Kept(extent) => BlobSource::File(extent.path),
            Self::Foreign(extent) => BlobSource::Part { path: extent.path, offset: extent.offset },
            Self::Remote(reference) => BlobSource::Remote(reference),
        }
    }
}

/// Makes the failure of a blob that is not what its digest says.
pub(super) fn damaged(shown: &str, digest: &Digest, why: &str) -> Failure {
    let what = format!("blob {digest} is damaged");
    let why = why.strip_prefix(&format!("{what}: ")).unwrap_or(why);
    Failure::new(Class::Source, &[&what, shown, why])
}
