//! Everything that an image consists of, as blobs of a layout.

use std::collections::BTreeMap;
use std::io::Read;

use oci::document::{self, Descriptor, INDEX_DEPTH, Manifest, Root};
use oci::{Digest, Layout};

use crate::error::{Error, Result};

/// The blobs of an image.
#[derive(Debug)]
pub(crate) struct Closure {
    /// Size of every blob: manifests, configs, layers, and the index where there is one.
    pub(crate) blobs: BTreeMap<Digest, u64>,
    /// The manifests, in the order of the index.
    pub(crate) manifests: Vec<Manifest>,
}

/// Reads the documents below `root`.
pub(crate) fn of(layout: &Layout, root: &Descriptor) -> Result<Closure> {
    let mut closure = Closure { blobs: BTreeMap::new(), manifests: Vec::new() };
    let mut waiting = vec![(root.clone(), 0)];
    while let Some((descriptor, depth)) = waiting.pop() {
        closure.add(&descriptor)?;
        match layout.read_root(&descriptor)? {
            Root::Manifest(manifest) => {
                closure.add(manifest.parsed.config())?;
                manifest.parsed.layers().iter().try_for_each(|layer| closure.add(layer))?;
                closure.manifests.push(manifest);
            }
            Root::Index(_) if depth >= INDEX_DEPTH => {
                let origin = format!("read {}", descriptor.digest());
                return Err(oci::Error::document(origin, document::DocumentError::TooDeep).into());
            }
            Root::Index(index) => {
                waiting.extend(index.parsed.manifests().iter().rev().map(|entry| (entry.clone(), depth + 1)));
            }
        }
    }
    Ok(closure)
}

impl Closure {
    fn add(&mut self, descriptor: &Descriptor) -> Result<()> {
        let digest = document::digest_of(descriptor).map_err(oci::Error::from)?;
        self.blobs.insert(digest, descriptor.size());
        Ok(())
    }

    /// Reads every blob and compares size and digest.
    pub(crate) fn verify(&self, layout: &Layout) -> Result<()> {
        let mut buffer = vec![0; 256 * 1024];
        for (digest, size) in &self.blobs {
            let descriptor = document::descriptor("application/octet-stream", *digest, *size);
            let mut reader = layout.open_verified(&descriptor)?;
            while reader.read(&mut buffer).map_err(|error| layout.read_error(*digest, error))? > 0 {}
        }
        Ok(())
    }

    /// Does `write` while the blobs are verified beside it, and fails where either fails.
    pub(crate) fn verified<T>(&self, layout: &Layout, write: impl FnOnce() -> Result<T>) -> Result<T> {
        std::thread::scope(|scope| {
            let verifier = scope.spawn(|| self.verify(layout));
            let written = write();
            let verified = verifier
                .join()
                .unwrap_or_else(|_| Err(Error::Inconsistent("the check of its blobs panicked".to_owned())));
            // A damaged blob explains a failed write, not the other way round.
            verified?;
            written
        })
    }
}
