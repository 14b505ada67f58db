//! An image into the store, a layout directory or an archive. A place is as it was until all of the image is there:
//! a layout lists it last, an archive appears when it is whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use exporter::archive::{self, Parts};
use exporter::layout::{Label, labels};
use oci::document::{self, Manifest};
use oci::layout::{Layout, VerifiedReader};
use oci::reference::Reference;
use oci::store::{Leased, Store};
use oci::{Digest, Platform};

use super::archive::Extent;
use super::contents::{Contents, platforms};
use super::pack;
use super::source::{Blob, Place, Source};
use super::{Places, push};
use crate::bases;
use crate::failure::{Class, Failure, io_class};
use crate::location::{Location, Version};

/// Bytes that are copied at once.
const COPIED: usize = 256 << 10;

/// Bytes of a file from which on verifying it is worth a thread.
const BESIDE: u64 = 1 << 20;

/// What was written.
#[derive(Debug, Clone)]
pub struct Written {
    /// The digest that the target knows the image by.
    pub digest: Digest,
    /// The names that it has there.
    pub names: Vec<String>,
}

/// Writes the image of `source` to `target`, which it is named by where it says a name, else by its own names.
///
/// # Errors
/// Source failures of what cannot be read, push failures, resource failures that name the target.
pub async fn write(places: &Places, mut source: Source, target: &Location) -> Result<Written, Failure> {
    let written = match target {
        Location::Named(name) => {
            let name = crate::commands::reference(name)?;
            into_store(places, &mut source, &[name]).await
        }
        Location::Registry(name) => {
            packed(places, &mut source).await?;
            push::copy(places, &source, name).await
        }
        Location::Layout(path, version) => into_directory(places, &mut source, path, version).await,
        Location::OciArchive(path, version) => {
            packed(places, &mut source).await?;
            into_oci_archive(&source, path, &labels_of(&source, version)?).await
        }
        Location::DockerArchive(path, name) => {
            one_platform(places, &mut source).await?;
            let names = name.as_ref().map_or_else(|| source.names.clone(), |name| vec![name.clone()]);
            into_docker_archive(&source, path, &names).await
        }
    };
    written.map_err(|failure| match target {
        Location::Named(_) | Location::Registry(_) => failure,
        Location::Layout(..) | Location::OciArchive(..) | Location::DockerArchive(..) => {
            full(places, target, failure)
        }
    })
}

/// Says of a full disk that it is the target's, unless it is the store's, where archives are spooled and packed.
fn full(places: &Places, target: &Location, failure: Failure) -> Failure {
    let is_store = failure.line.contains(&places.root.display().to_string());
    if failure.class != Class::Resource || is_store {
        return failure;
    }
    let why = "no space left there";
    Failure::new(
        Class::Resource,
        &["cannot write the image", &shown(target), why, "free some, or name another place"],
    )
}

/// Copies an image into the store and gives it `names`; without one it is listed by its digest.
///
/// # Errors
/// As [`write`].
pub async fn into_store(
    places: &Places,
    source: &mut Source,
    names: &[Reference],
) -> Result<Written, Failure> {
    let store = places.store()?.clone();
    let lease = store.lease()?;
    tell_packing(places, source);
    pack::pack(source, store.layout()).await?;
    let contents = Contents::of(source).await?;
    let here: Vec<_> = contents.blobs.keys().copied().map(Leased::Blob).collect();
    lease.add(&here)?;
    store.check_space(missing(&contents, store.layout())?)?;
    fill(store.layout(), source, &contents).await?;
    remember(&store, source, &contents)?;
    store.make_durable()?;
    for name in names {
        store.layout().tag(name, &contents.root)?;
    }
    if names.is_empty() {
        store.layout().list(&contents.root)?;
    }
    let names = names.iter().map(|name| name.clone().with_default_tag().to_string()).collect();
    Ok(Written { digest: source.root.digest(), names })
}

/// Copies an image into a layout, without listing it there.
///
/// # Errors
/// As [`write`].
pub(super) async fn into_layout(
    places: &Places,
    source: &mut Source,
    layout: &Layout,
) -> Result<Contents, Failure> {
    tell_packing(places, source);
    pack::pack(source, layout).await?;
    let contents = Contents::of(source).await?;
    fill(layout, source, &contents).await?;
    Ok(contents)
}

/// The layout directory that this command makes, until the image is listed there. A command makes one.
static UNFINISHED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// A directory that is removed again unless the image gets there: also where the copy is interrupted.
struct NewDirectory;

impl NewDirectory {
    fn at(path: &Path) -> Self {
        *unfinished() = (!path.exists()).then(|| path.to_owned());
        Self
    }

    fn keep(self) {
        *unfinished() = None;
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        abandon();
    }
}

fn unfinished() -> MutexGuard<'static, Option<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the layout directory that a copy was making. For processes that end without dropping what they hold.
pub fn abandon() {
    let Some(path) = unfinished().take() else { return };
    // Somebody else may have listed an image there meanwhile.
    let is_empty = Layout::open(&path).is_ok_and(|layout| layout.names().is_ok_and(|names| names.is_empty()));
    if is_empty {
        // What cannot be removed is a valid layout that lists nothing.
        let _ = oci::store::remove_tree(&path);
    }
}

async fn into_directory(
    places: &Places,
    source: &mut Source,
    path: &Path,
    version: &Version,
) -> Result<Written, Failure> {
    let labels = labels_of(source, version)?;
    let new = NewDirectory::at(path);
    let layout = Layout::create(path).map_err(at_target)?;
    let contents = into_layout(places, source, &layout).await?;
    exporter::layout::label(&layout, &contents.root, &labels)?;
    new.keep();
    Ok(Written { digest: source.root.digest(), names: names_of(&labels) })
}

/// A directory that the command line names is no store.
fn at_target(error: oci::Error) -> Failure {
    let failure = Failure::from(error);
    let class = if failure.class == Class::Store { Class::Usage } else { failure.class };
    Failure { class, ..failure }
}

async fn into_oci_archive(source: &Source, path: &Path, labels: &[Label]) -> Result<Written, Failure> {
    let contents = Contents::of(source).await?;
    let manifests: Vec<Manifest> = contents.manifests().cloned().collect();
    let blobs = sizes(&contents);
    let parts = Parts { root: &contents.root, manifests: &manifests, blobs: &blobs };
    tokio::task::block_in_place(|| {
        to_file(path, |out| {
            archive::oci_of(&parts, labels, out, |digest, size, out| {
                archived_blob(source, &contents, digest, size, out)
            })
        })
    })?;
    Ok(Written { digest: source.root.digest(), names: names_of(labels) })
}

async fn into_docker_archive(source: &Source, path: &Path, names: &[Reference]) -> Result<Written, Failure> {
    let contents = Contents::of(source).await?;
    let manifests: Vec<Manifest> = contents.manifests().cloned().collect();
    let blobs = sizes(&contents);
    let parts = Parts { root: &contents.root, manifests: &manifests, blobs: &blobs };
    tokio::task::block_in_place(|| {
        to_file(path, |out| {
            archive::docker_of(&parts, names, &labels(names), out, |digest, size, out| {
                archived_blob(source, &contents, digest, size, out)
            })
        })
    })?;
    let names = names.iter().map(|name| name.clone().with_default_tag().familiar()).collect();
    Ok(Written { digest: source.root.digest(), names })
}

/// Packs uncompressed layers of a Docker archive into scratch, for targets that are no layout themselves.
async fn packed(places: &Places, source: &mut Source) -> Result<(), Failure> {
    if pack::unpacked(source) == 0 {
        return Ok(());
    }
    tell_packing(places, source);
    pack::pack(source, &places.scratch_layout()?).await
}

pub(super) fn tell_packing(places: &Places, source: &Source) {
    let count = pack::unpacked(source);
    if count > 0 {
        let layers = if count == 1 { "1 layer".to_owned() } else { format!("{count} layers") };
        places.tell(format!("{layers} of {} compressed with gzip; the image's id stays", source.shown));
    }
}

/// Docker's archives hold one platform: of an index, ours.
async fn one_platform(places: &Places, source: &mut Source) -> Result<(), Failure> {
    let count = platforms(&source.root).len();
    if matches!(source.root, document::Root::Index(_)) {
        let platform = Platform::host();
        source.narrow(&platform).await?;
        if count > 1 {
            let left = count - 1;
            places.tell(format!("a Docker archive holds one platform: {platform} of {count}, {left} left out (--platform chooses another)"));
        }
    }
    Ok(())
}

/// What the image is called in a layout: by the tag that the target names, else by its own names.
fn labels_of(source: &Source, version: &Version) -> Result<Vec<Label>, Failure> {
    if let Some(digest) = version.digest.filter(|digest| *digest != source.root.digest()) {
        let why = format!("the image is {}", source.root.digest());
        return Err(Failure::new(
            Class::Usage,
            &["unusable target", &format!("@{digest}"), &why, "leave the digest out"],
        ));
    }
    Ok(match &version.tag {
        Some(tag) => match tag.parse::<Reference>() {
            Ok(full) if tag.contains('/') => labels(&[full]),
            Ok(_) | Err(_) => vec![Label { full: None, ref_name: tag.clone() }],
        },
        None => labels(&source.names),
    })
}

fn names_of(labels: &[Label]) -> Vec<String> {
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

/// The bytes that a layout lacks.
fn missing(contents: &Contents, layout: &Layout) -> Result<u64, Failure> {
    let mut bytes = 0_u64;
    for (digest, descriptor) in &contents.blobs {
        if layout.size(digest)? != Some(descriptor.size()) {
            bytes = bytes.saturating_add(descriptor.size());
        }
    }
    Ok(bytes)
}

/// Brings blobs and documents into a layout: several downloads at once, files one after the other.
async fn fill(layout: &Layout, source: &Source, contents: &Contents) -> Result<(), Failure> {
    let transfers = contents.blobs.iter().map(|(digest, descriptor)| async move {
        if layout.size(digest)? == Some(descriptor.size()) {
            return Ok(());
        }
        let size = descriptor.size();
        match source.blob(descriptor)? {
            Blob::Remote(reference) => {
                let incoming = layout.incoming()?;
                source.client()?.pull_file(&reference, *digest, size, incoming.file()?).await?;
                incoming.finish_verified(digest, size)?;
            }
            Blob::Bytes(bytes) => write_blob(layout, source, digest, size, &bytes[..])?,
            Blob::Foreign(extent) => tokio::task::block_in_place(|| {
                let reader = extent.open().map_err(|error| source.damaged(digest, &error.to_string()))?;
                write_blob(layout, source, digest, size, reader)
            })?,
            Blob::Kept(extent) => tokio::task::block_in_place(|| {
                let incoming = layout.incoming()?;
                transfer(source, digest, &extent, &mut incoming.file()?, at_layout(layout))?;
                incoming.finish_verified(digest, size)?;
                Ok::<_, Failure>(())
            })?,
        }
        Ok::<_, Failure>(())
    });
    futures_util::future::try_join_all(transfers).await?;
    put_documents(layout, contents)
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
pub(super) fn write_blob(
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
fn transfer(
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
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let verifier = scope.spawn(|| {
            let stopped = || Failure::new(Class::Internal, &["the copy ended"]);
            verified_copy(source, digest, extent.size, open()?, |_| {
                if over.load(Ordering::Relaxed) { Err(stopped()) } else { Ok(()) }
            })
        });
        let copied = io::copy(&mut open()?, out);
        over.store(copied.is_err(), Ordering::Relaxed);
        let verified = verifier.join().expect("verifying does not panic");
        copied.map_err(full)?;
        verified
    })
}

/// Hands the verified bytes of `reader` on. What is wrong with them is the source's.
fn verified_copy(
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
            Err(error) => return Err(source.damaged(digest, &error.to_string())),
        }
    }
}

/// Writes one blob of an archive: a document, or wherever the source has it.
fn archived_blob(
    source: &Source,
    contents: &Contents,
    digest: &Digest,
    size: u64,
    out: &mut File,
) -> Result<(), Failure> {
    let full = |error: io::Error| {
        Failure::new(io_class(&error, Class::Usage), &["cannot write the archive", "", &error.to_string()])
    };
    if let Some(root) = contents.documents.iter().find(|root| root.digest() == *digest) {
        return out.write_all(root.raw()).map_err(full);
    }
    let mut write = |bytes: &[u8]| out.write_all(bytes).map_err(full);
    let descriptor = contents.blobs.get(digest).expect("every blob of the archive is one of the image");
    match source.blob(descriptor)? {
        Blob::Bytes(bytes) => verified_copy(source, digest, size, &bytes[..], write),
        Blob::Foreign(extent) => {
            let reader = extent.open().map_err(|error| source.damaged(digest, &error.to_string()))?;
            verified_copy(source, digest, size, reader, write)
        }
        Blob::Kept(extent) => transfer(source, digest, &extent, out, full),
        Blob::Remote(reference) => {
            let client = source.client()?;
            tokio::runtime::Handle::current().block_on(async {
                let mut stream = client.open_blob(&reference, *digest, size)?;
                while let Some(chunk) = stream.next().await? {
                    write(&chunk)?;
                }
                Ok(())
            })
        }
    }
}

fn sizes(contents: &Contents) -> BTreeMap<Digest, u64> {
    let blobs = contents.blobs.iter().map(|(digest, descriptor)| (*digest, descriptor.size()));
    let documents = contents.documents.iter().map(|root| (root.digest(), root.raw().len() as u64));
    blobs.chain(documents).collect()
}

/// Notes where layers came from, so that a later push to that registry links them.
pub(super) fn remember(store: &Store, source: &Source, contents: &Contents) -> Result<(), Failure> {
    let Place::Registry(reference) = &source.place else { return Ok(()) };
    let mut manifests = contents.manifests();
    manifests
        .try_for_each(|manifest| bases::note_places(store, &reference.with_digest(manifest.digest), manifest))
}

/// Writes a file through `write`: it appears when it is whole. `-` is standard output.
pub fn to_file(dest: &Path, write: impl FnOnce(&mut File) -> Result<(), Failure>) -> Result<(), Failure> {
    if dest != Path::new("-") {
        return exporter::write_file(dest, write);
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
    write(&mut File::from(stdout))
}
