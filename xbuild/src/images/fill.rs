//! Blobs and documents of a source into a layout, verified on their way. Gives no image a name.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use oci::Digest;
use oci::document::{self, Descriptor};
use oci::layout::{Layout, VerifiedReader};
use oci::reference::Reference;
use oci::store::Store;

use super::archive::Extent;
use super::contents::Contents;
use super::place::{Blob, Place};
use super::source::Source;
use crate::failure::{Class, Failure};
use crate::whereabouts;

/// Bytes that are copied at once.
const COPIED: usize = 256 << 10;

/// Bytes of a file from which on verifying it is worth a thread.
const BESIDE: u64 = 1 << 20;

/// The bytes that a layout lacks.
pub(super) fn missing(contents: &Contents, layout: &Layout) -> Result<u64, Failure> {
    let mut bytes = 0_u64;
    for (digest, descriptor) in &contents.blobs {
        if layout.size(digest)? != Some(descriptor.size()) {
            bytes = bytes.saturating_add(descriptor.size());
        }
    }
    Ok(bytes)
}

/// Brings blobs and documents into a layout: several downloads at once, files one after the other.
pub(super) async fn fill(layout: &Layout, source: &Source, contents: &Contents) -> Result<(), Failure> {
    let transfers =
        contents.blobs.iter().map(|(digest, descriptor)| bring(layout, source, digest, descriptor));
    futures_util::future::try_join_all(transfers).await?;
    put_documents(layout, contents)
}

/// Brings one blob into a layout that may have it.
pub(super) async fn bring(
    layout: &Layout,
    source: &Source,
    digest: &Digest,
    descriptor: &Descriptor,
) -> Result<(), Failure> {
    let size = descriptor.size();
    if layout.size(digest)? == Some(size) {
        return Ok(());
    }
    match source.blob(descriptor)? {
        Blob::Remote(reference) => {
            let done = download(layout, source, reference, *digest, size).await;
            done.map_err(|failure| told(failure, descriptor))
        }
        Blob::Bytes(bytes) => write_blob(layout, source, digest, size, &bytes[..]),
        Blob::Foreign(extent) => tokio::task::block_in_place(|| {
            let reader = extent.open().map_err(|error| source.damaged(digest, &error.to_string()))?;
            write_blob(layout, source, digest, size, reader)
        }),
        Blob::Kept(extent) => tokio::task::block_in_place(|| {
            let incoming = layout.incoming()?;
            transfer(source, digest, &extent, &mut incoming.file()?, at_layout(layout))?;
            incoming.finish_verified(digest, size)?;
            Ok(())
        }),
    }
}

/// Adds what is known of a layer that no registry may have.
pub(super) fn told(failure: Failure, descriptor: &Descriptor) -> Failure {
    match document::kept_elsewhere(descriptor) {
        Some(url) if failure.class == Class::Source => {
            let line = format!("{} — {}", failure.line, whereabouts::elsewhere(url));
            Failure { line, ..failure }
        }
        Some(_) | None => failure,
    }
}

/// Downloads a blob from `reference`, else from where else it is known to be.
async fn download(
    layout: &Layout,
    source: &Source,
    mut reference: Reference,
    digest: Digest,
    size: u64,
) -> Result<(), Failure> {
    let mut others = source.others(&digest, &reference).into_iter();
    let mut first = None;
    loop {
        let incoming = layout.incoming()?;
        let Err(error) = source.client()?.pull_file(&reference, digest, size, incoming.file()?).await else {
            incoming.finish_verified(&digest, size)?;
            return Ok(());
        };
        match others.next().filter(|_| !error.is_sink()) {
            Some(next) => {
                source.tell(whereabouts::next(&error, &next));
                reference = next;
                first.get_or_insert(error);
            }
            None => return Err(first.unwrap_or(error).into()),
        }
    }
}

/// Writes manifests and indexes, each after those that it names.
pub(super) fn put_documents(layout: &Layout, contents: &Contents) -> Result<(), Failure> {
    for root in &contents.documents {
        match root {
            document::Root::Manifest(manifest) => layout.put_document(manifest)?,
            document::Root::Index(index) => layout.put_document(index)?,
        };
    }
    Ok(())
}

/// Writes a small blob, or one whose bytes come through a reader.
fn write_blob(
    layout: &Layout,
    source: &Source,
    digest: &Digest,
    size: u64,
    reader: impl Read,
) -> Result<(), Failure> {
    let incoming = layout.incoming()?;
    let mut file = incoming.file()?;
    verified_copy(source, digest, size, reader, |bytes| file.write_all(bytes).map_err(at_layout(layout)))?;
    incoming.finish_verified(digest, size)?;
    Ok(())
}

/// What a failed write into a layout means.
fn at_layout(layout: &Layout) -> impl Fn(io::Error) -> Failure {
    |error| oci::Error::io("write a blob in", layout.root())(error).into()
}

/// Copies the bytes of a file inside the kernel, where it can, while they are verified beside it. Only for files that
/// nobody else writes to: what is verified and what is copied are two reads.
pub(super) fn transfer(
    source: &Source,
    digest: &Digest,
    extent: &Extent,
    out: &mut File,
    full: impl Fn(io::Error) -> Failure,
) -> Result<(), Failure> {
    let open = || extent.open().map_err(|error| source.damaged(digest, &error.to_string()));
    if extent.size < BESIDE {
        return verified_copy(source, digest, extent.size, open()?, |bytes| {
            out.write_all(bytes).map_err(&full)
        });
    }
    // Both before either begins: what is found damaged may be gone in the next moment.
    let (checked, mut copied) = (open()?, open()?);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let verifier = scope.spawn(|| {
            let stopped = || Failure::new(Class::Internal, &["the copy ended"]);
            verified_copy(source, digest, extent.size, checked, |_| {
                if over.load(Ordering::Relaxed) { Err(stopped()) } else { Ok(()) }
            })
        });
        let copied = io::copy(&mut copied, out);
        over.store(copied.is_err(), Ordering::Relaxed);
        let verified = verifier.join().expect("verifying does not panic");
        copied.map_err(full)?;
        verified
    })
}

/// Hands the verified bytes of `reader` on. What is wrong with them is the source's.
pub(super) fn verified_copy(
    source: &Source,
    digest: &Digest,
    size: u64,
    reader: impl Read,
    mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut reader = VerifiedReader::new(reader, *digest, size);
    let mut buffer = vec![0; COPIED];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => take(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(source.unread(digest, &error)),
        }
    }
}

/// Notes where layers came from, so that a later push to that registry links them.
pub(super) fn remember(store: &Store, source: &Source, contents: &Contents) -> Result<(), Failure> {
    let Place::Registry(reference) = &source.place else { return Ok(()) };
    let mut manifests = contents.manifests();
    manifests.try_for_each(|manifest| {
        whereabouts::note_places(store, &reference.with_digest(manifest.digest), manifest)
    })
}
