//! An image into an archive, which appears when it is whole. Packs no layer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use exporter::archive::{self, Parts};
use exporter::layout::{Label, labels};
use oci::Digest;
use oci::document::Manifest;
use oci::reference::Reference;

use super::Places;
use super::contents::Contents;
use super::fill::{told, transfer, verified_copy};
use super::place::Blob;
use super::remote::Remote;
use super::source::Source;
use super::written::{Written, full, names_of, shown};
use crate::failure::from::{is_reader_gone, reader_gone};
use crate::failure::{Class, Failure, io_class};
use crate::location::Location;

/// Why there is no archive.
enum Unwritten {
    /// What was to be in it could not be had.
    Source(Failure),
    /// It could not be written.
    Target(exporter::Error),
}

impl From<Failure> for Unwritten {
    fn from(failure: Failure) -> Self {
        Self::Source(failure)
    }
}

impl From<exporter::Error> for Unwritten {
    fn from(error: exporter::Error) -> Self {
        Self::Target(error)
    }
}

/// What writes one blob of an archive.
type WriteBlob<'a> = dyn FnMut(&Digest, u64, &mut File) -> Result<(), Unwritten> + 'a;

/// An image on its way into an archive.
pub(super) struct Archiving<'a> {
    pub(super) places: &'a Places,
    pub(super) source: &'a Source,
    pub(super) target: &'a Location,
    /// Where `target` is; `-` is standard output.
    pub(super) path: &'a Path,
}

impl Archiving<'_> {
    /// Writes an OCI layout in an archive.
    pub(super) async fn oci(&self, labels: &[Label]) -> Result<Written, Failure> {
        self.write(|parts, out, blob| archive::oci_of(parts, labels, out, blob)).await?;
        Ok(Written { digest: self.source.root.digest(), names: names_of(labels) })
    }

    /// Writes what `docker load` reads.
    pub(super) async fn docker(&self, names: &[Reference]) -> Result<Written, Failure> {
        let labels = labels(names);
        self.write(|parts, out, blob| archive::docker_of(parts, names, &labels, out, blob)).await?;
        let names = names.iter().map(|name| name.clone().with_default_tag().familiar()).collect();
        Ok(Written { digest: self.source.root.digest(), names })
    }

    async fn write(
        &self,
        write: impl FnOnce(&Parts<'_>, &mut File, &mut WriteBlob<'_>) -> Result<(), Unwritten>,
    ) -> Result<(), Failure> {
        let contents = Contents::of(self.source).await?;
        let manifests: Vec<Manifest> = contents.manifests().cloned().collect();
        let blobs = sizes(&contents);
        let parts = Parts { root: &contents.root, manifests: &manifests, blobs: &blobs };
        let mut blob = |digest: &Digest, size, out: &mut File| Ok(self.blob(&contents, digest, size, out)?);
        let written = tokio::task::block_in_place(|| to_file(self.path, |out| write(&parts, out, &mut blob)));
        written.map_err(|unwritten| match unwritten {
            Unwritten::Source(failure) => failure,
            Unwritten::Target(error) if is_reader_gone(&error) => reader_gone(&shown(self.target)),
            Unwritten::Target(error) => full(self.target, error.into()),
        })
    }

    /// Writes one blob: a document, or wherever the source has it.
    fn blob(&self, contents: &Contents, digest: &Digest, size: u64, out: &mut File) -> Result<(), Failure> {
        let Self { places, source, target, .. } = self;
        let full = |error: io::Error| {
            if is_reader_gone(&error) {
                return reader_gone(&shown(target));
            }
            let class = io_class(&error, Class::Usage);
            full(target, Failure::new(class, &["cannot write the archive", "", &error.to_string()]))
        };
        if let Some(root) = contents.documents.iter().find(|root| root.digest() == *digest) {
            return out.write_all(root.raw()).map_err(full);
        }
        let write = |bytes: &[u8]| out.write_all(bytes).map_err(full);
        let descriptor = contents.blobs.get(digest).expect("every blob of the archive is one of the image");
        match source.blob(descriptor)? {
            Blob::Bytes(bytes) => verified_copy(source, digest, size, &bytes[..], write),
            Blob::Foreign(extent) => {
                let reader = extent.open().map_err(|error| source.damaged(digest, &error.to_string()))?;
                verified_copy(source, digest, size, reader, write)
            }
            Blob::Kept(extent) => transfer(source, digest, &extent, out, full),
            Blob::Remote(reference) => {
                let others = source.others(digest, &reference);
                Remote { source, references: [vec![reference], others].concat(), digest: *digest, size }
                    .write(places, out, full)
                    .map_err(|failure| told(failure, descriptor))
            }
        }
    }
}

fn sizes(contents: &Contents) -> BTreeMap<Digest, u64> {
    let blobs = contents.blobs.iter().map(|(digest, descriptor)| (*digest, descriptor.size()));
    let documents = contents.documents.iter().map(|root| (root.digest(), root.raw().len() as u64));
    blobs.chain(documents).collect()
}

/// Writes a file through `write`: it appears when it is whole. `-` is standard output.
fn to_file(dest: &Path, write: impl FnOnce(&mut File) -> Result<(), Unwritten>) -> Result<(), Unwritten> {
    match standard_output(dest)? {
        Some(mut out) => write(&mut out),
        None => exporter::write_file(dest, write),
    }
}

/// Returns standard output where an archive is to go there: `dest` is `-`.
///
/// # Errors
/// A usage failure where it is a terminal.
pub fn standard_output(dest: &Path) -> Result<Option<File>, Failure> {
    if dest != Path::new("-") {
        return Ok(None);
    }
    if io::IsTerminal::is_terminal(&io::stdout()) {
        let why = "standard output is a terminal";
        return Err(Failure::new(
            Class::Usage,
            &["no place for the archive", "", why, "add dest=PATH or redirect it"],
        ));
    }
    let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(|source| exporter::Error::Io {
        action: "duplicate",
        path: "standard output".into(),
        source,
    })?;
    Ok(Some(File::from(stdout)))
}
