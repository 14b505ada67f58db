//! An image into the store, a layout directory or an archive. A place is as it was until all of the image is there:
//! a layout lists it last, an archive appears when it is whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use exporter::archive::{self, Parts};
use exporter::layout::{Label, labels};
use oci::document::{self, Manifest};
use oci::layout::Layout;
use oci::reference::Reference;
use oci::store::Leased;
use oci::{Digest, Platform};

use super::contents::{Contents, platforms};
use super::fill::{fill, missing, remember, transfer, verified_copy};
use super::place::Blob;
use super::remote::Remote;
use super::source::Source;
use super::{Places, pack, push};
use crate::failure::{Class, Failure, io_class};
use crate::location::{Location, Version};

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
            into_oci_archive(places, &source, path, &labels_of(&source, version)?).await
        }
        Location::DockerArchive(path, name) => {
            one_platform(places, &mut source).await?;
            let names = name.as_ref().map_or_else(|| source.names.clone(), |name| vec![name.clone()]);
            into_docker_archive(places, &source, path, &names).await
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
    pack::pack(places, source, store.layout()).await?;
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
    pack::pack(places, source, layout).await?;
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

async fn into_oci_archive(
    places: &Places,
    source: &Source,
    path: &Path,
    labels: &[Label],
) -> Result<Written, Failure> {
    into_archive(places, source, path, |parts, out, blob| archive::oci_of(parts, labels, out, blob)).await?;
    Ok(Written { digest: source.root.digest(), names: names_of(labels) })
}

async fn into_docker_archive(
    places: &Places,
    source: &Source,
    path: &Path,
    names: &[Reference],
) -> Result<Written, Failure> {
    let labels = labels(names);
    into_archive(places, source, path, |parts, out, blob| {
        archive::docker_of(parts, names, &labels, out, blob)
    })
    .await?;
    let names = names.iter().map(|name| name.clone().with_default_tag().familiar()).collect();
    Ok(Written { digest: source.root.digest(), names })
}

/// What writes one blob of an archive.
type WriteBlob<'a> = dyn FnMut(&Digest, u64, &mut File) -> Result<(), Failure> + 'a;

async fn into_archive(
    places: &Places,
    source: &Source,
    path: &Path,
    write: impl FnOnce(&Parts<'_>, &mut File, &mut WriteBlob<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let contents = Contents::of(source).await?;
    let manifests: Vec<Manifest> = contents.manifests().cloned().collect();
    let blobs = sizes(&contents);
    let parts = Parts { root: &contents.root, manifests: &manifests, blobs: &blobs };
    let mut blob =
        |digest: &Digest, size, out: &mut File| archived_blob(places, source, &contents, digest, size, out);
    tokio::task::block_in_place(|| to_file(path, |out| write(&parts, out, &mut blob)))
}

/// Packs uncompressed layers of a Docker archive into scratch, for targets that are no layout themselves.
async fn packed(places: &Places, source: &mut Source) -> Result<(), Failure> {
    match pack::unpacked(source) {
        0 => Ok(()),
        _ => pack::pack(places, source, &places.scratch_layout()?).await,
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

/// Writes one blob of an archive: a document, or wherever the source has it.
fn archived_blob(
    places: &Places,
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
            let client = source.client()?;
            Remote { client, reference: &reference, digest: *digest, size }.write(places, out, full)
        }
    }
}

fn sizes(contents: &Contents) -> BTreeMap<Digest, u64> {
    let blobs = contents.blobs.iter().map(|(digest, descriptor)| (*digest, descriptor.size()));
    let documents = contents.documents.iter().map(|root| (root.digest(), root.raw().len() as u64));
    blobs.chain(documents).collect()
}

/// Writes a file through `write`: it appears when it is whole. `-` is standard output.
fn to_file(dest: &Path, write: impl FnOnce(&mut File) -> Result<(), Failure>) -> Result<(), Failure> {
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
