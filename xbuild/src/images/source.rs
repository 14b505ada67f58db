//! An opened image: its root document, every document below by digest, and where the bytes of its blobs are.
//!
//! Opening reads documents only; no layer is downloaded, packed or hashed for it (but for compressed layers of old
//! Docker archives, whose digest stands nowhere).

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use oci::document::{self, Config, DOCUMENT_LIMIT, Descriptor, DocumentError, INDEX_DEPTH, Manifest, Root};
use oci::layout::Layout;
use oci::reference::Reference;
use oci::registry::Client;
use oci::{Digest, Platform, media_type};

use super::archive::{Archive, Extent};
use super::choose::{choose, names};
use super::contents::Contents;
use super::place::{Blob, Files, Place, damaged};
use super::{Places, damage, docker};
use crate::failure::{Class, Failure, chain};
use crate::image;
use crate::location::{Location, Version};
use crate::registries::Registries;
use crate::whereabouts;

/// What a name means that the store does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// A mistake.
    Refuse,
    /// The image of that name in its registry.
    AskRegistry,
}

/// An image in its place.
pub struct Source {
    /// The place, as messages name it.
    pub shown: String,
    /// The names that the image has there.
    pub names: Vec<Reference>,
    /// What the name stands for: a manifest or an index.
    pub root: Root,
    /// Where the rest is.
    pub(super) place: Place,
    registries: Arc<Registries>,
    /// Small blobs that a registry has sent, so that it is not asked for them again.
    fetched: Mutex<BTreeMap<Digest, Bytes>>,
}

impl Source {
    /// Opens the image at `location`.
    ///
    /// # Errors
    /// A source failure where there is no such image or its documents cannot be had, refusals of hostile ones.
    pub async fn open(places: &Places, location: &Location, absent: Absent) -> Result<Self, Failure> {
        match location {
            Location::Named(name) => Self::named(places, name, absent).await,
            Location::Registry(reference) => Self::registry(places, reference).await,
            Location::Layout(path, version) => Self::layout(places, path, version),
            Location::OciArchive(path, version) => {
                let archive = Archive::open(places, path)?;
                let shown = format!("oci-archive:{}", archive.shown());
                let entries = archive_entries(&archive)?;
                let chosen = choose(&entries, version, &shown)?;
                Self::of_archive(places, &archive, shown, chosen, version)
            }
            Location::DockerArchive(path, name) => {
                let archive = Archive::open(places, path)?;
                let images = docker::images(&archive)?;
                let image = docker::choose(&archive, &images, name.as_ref())?;
                Self::of_docker(
                    places,
                    &archive,
                    image,
                    name.clone().map(|name| vec![name.with_default_tag()]),
                )
            }
        }
    }

    async fn named(places: &Places, name: &str, absent: Absent) -> Result<Self, Failure> {
        let layout = places.store()?.layout();
        match image::find(layout, name) {
            Ok(descriptor) => {
                let tagged = layout.resolve(name)?.and_then(|_| name.parse::<Reference>().ok());
                let names = tagged.into_iter().map(Reference::with_default_tag).collect();
                Ok(Self { shown: name.to_owned(), names, ..Self::stored(places, &descriptor)? })
            }
            Err(failure) => match (absent, name.parse()) {
                (Absent::AskRegistry, Ok(reference)) if failure.class == Class::Source => {
                    Self::registry(places, &reference).await
                }
                (Absent::AskRegistry | Absent::Refuse, _) => Err(failure),
            },
        }
    }

    /// Opens the image of the store that a descriptor stands for.
    pub(super) fn stored(places: &Places, root: &Descriptor) -> Result<Self, Failure> {
        let store = places.store()?;
        Ok(Self {
            shown: root.digest().to_string(),
            names: Vec::new(),
            root: store.layout().read_root(root)?,
            place: Place::Store(Arc::clone(store)),
            registries: Arc::clone(&places.registries),
            fetched: Mutex::default(),
        })
    }

    async fn registry(places: &Places, reference: &Reference) -> Result<Self, Failure> {
        let root = places.client()?.root(reference).await?;
        let named = reference.tag.is_some() || reference.digest.is_none();
        let name = Reference { digest: None, ..reference.clone() }.with_default_tag();
        Ok(Self {
            shown: format!("docker://{reference}"),
            names: if named { vec![name] } else { Vec::new() },
            root,
            place: Place::Registry(reference.clone()),
            registries: Arc::clone(&places.registries),
            fetched: Mutex::default(),
        })
    }

    fn layout(places: &Places, path: &Path, version: &Version) -> Result<Self, Failure> {
        let shown = format!("oci-layout://{}", path.display());
        let layout = Layout::open(path).map_err(foreign)?;
        let entries: Vec<_> =
            layout.names().map_err(foreign)?.into_iter().map(|named| named.descriptor).collect();
        let chosen = match choose(&entries, version, &shown) {
            Ok(chosen) => chosen,
            // An image that is in the layout without being listed.
            Err(failure) => match version.digest.filter(|_| version.tag.is_none()) {
                Some(digest) => match layout.size(&digest).map_err(foreign)? {
                    Some(size) => unlisted(&layout, digest, size)?,
                    None => return Err(failure),
                },
                None => return Err(failure),
            },
        };
        Self::of_layout(places, layout, &entries, &chosen, version)
    }

    fn of_layout(
        places: &Places,
        layout: Layout,
        entries: &[Descriptor],
        chosen: &Descriptor,
        version: &Version,
    ) -> Result<Self, Failure> {
        Ok(Self {
            shown: format!("oci-layout://{}", layout.root().display()),
            names: names(entries, chosen, version),
            root: layout.read_root(chosen).map_err(foreign)?,
            place: Place::Layout(layout),
            registries: Arc::clone(&places.registries),
            fetched: Mutex::default(),
        })
    }

    fn of_archive(
        places: &Places,
        archive: &Archive,
        shown: String,
        chosen: Descriptor,
        version: &Version,
    ) -> Result<Self, Failure> {
        let files = Files { documents: BTreeMap::new(), blobs: archive.blobs() };
        let root = files.document(&chosen)?.ok_or_else(|| missing(&shown, chosen.digest().as_ref()))?;
        let names = names(&archive_entries(archive)?, &chosen, version);
        let registries = Arc::clone(&places.registries);
        Ok(Self { shown, names, root, place: Place::Files(files), registries, fetched: Mutex::default() })
    }

    fn of_docker(
        places: &Places,
        archive: &Archive,
        image: &docker::DockerImage,
        names: Option<Vec<Reference>>,
    ) -> Result<Self, Failure> {
        let (root, files) = docker::open(archive, image)?;
        let shown = format!("docker-archive:{}", archive.shown());
        let (registries, names) = (Arc::clone(&places.registries), names.unwrap_or_else(|| image.names()));
        Ok(Self { shown, names, root, place: Place::Files(files), registries, fetched: Mutex::default() })
    }

    /// Returns the registry client.
    pub(super) fn client(&self) -> Result<&Client, Failure> {
        self.registries.client()
    }

    /// Returns the descriptor of the root, as another place would name it.
    pub fn descriptor(&self) -> Descriptor {
        document::descriptor(self.root.media_type(), self.root.digest(), self.root.raw().len() as u64)
    }

    /// Reads the manifest or index that `descriptor` stands for.
    ///
    /// # Errors
    /// A source failure where it is missing, damaged or none.
    pub async fn document(&self, descriptor: &Descriptor) -> Result<Root, Failure> {
        match &self.place {
            Place::Store(store) => Ok(store.layout().read_root(descriptor)?),
            Place::Layout(layout) => layout.read_root(descriptor).map_err(foreign),
            Place::Files(files) => {
                files.document(descriptor)?.ok_or_else(|| missing(&self.shown, descriptor.digest().as_ref()))
            }
            Place::Registry(reference) => {
                let digest = document::digest_of(descriptor).map_err(oci::Error::from)?;
                Ok(self.client()?.root(&reference.with_digest(digest)).await?)
            }
        }
    }

    /// Reads the config of `manifest`, which must be a container image's.
    ///
    /// # Errors
    /// As [`Self::document`].
    pub async fn config(&self, manifest: &Manifest) -> Result<Config, Failure> {
        let failed = |source| {
            Failure::from(oci::Error::document(
                format!("image {} in {}", manifest.digest, self.shown),
                source,
            ))
        };
        manifest.require_image().map_err(failed)?;
        let raw = self.small(manifest.parsed.config()).await?;
        Config::parse(raw, &manifest.parsed).map_err(failed)
    }

    /// Reads a small blob.
    pub(super) async fn small(&self, descriptor: &Descriptor) -> Result<Bytes, Failure> {
        match &self.place {
            Place::Store(store) => Ok(store.layout().read_verified(descriptor, DOCUMENT_LIMIT)?),
            Place::Layout(layout) => layout.read_verified(descriptor, DOCUMENT_LIMIT).map_err(foreign),
            Place::Files(files) => {
                files.bytes(descriptor)?.ok_or_else(|| missing(&self.shown, descriptor.digest().as_ref()))
            }
            Place::Registry(reference) => {
                let digest = document::digest_of(descriptor).map_err(oci::Error::from)?;
                if let Some(bytes) = self.fetched().get(&digest) {
                    return Ok(bytes.clone());
                }
                let bytes = self.client()?.blob_bytes(reference, descriptor, DOCUMENT_LIMIT).await?;
                self.fetched().insert(digest, bytes.clone());
                Ok(bytes)
            }
        }
    }

    /// Finds the manifest for `platform`: in an index the one that fits best; a root that is a manifest is it.
    ///
    /// # Errors
    /// A source failure that lists the platforms there are.
    pub async fn select(&self, platform: &Platform) -> Result<Manifest, Failure> {
        let mut root = self.root.clone();
        for _ in 0..=INDEX_DEPTH {
            match root {
                Root::Manifest(manifest) => return Ok(manifest),
                Root::Index(index) => {
                    let chosen = document::select(&index.parsed, platform)
                        .map_err(|source| oci::Error::document(self.shown.clone(), source))?;
                    root = self.document(chosen).await?;
                }
            }
        }
        Err(oci::Error::document(self.shown.clone(), DocumentError::TooDeep).into())
    }

    /// Makes the image of one platform the whole of the source.
    ///
    /// # Errors
    /// As [`Self::select`]; also where the image is of another platform and there is no choice.
    pub async fn narrow(&mut self, platform: &Platform) -> Result<(), Failure> {
        let is_index = matches!(self.root, Root::Index(_));
        let manifest = self.select(platform).await?;
        if !is_index {
            let config = self.config(&manifest).await?.parsed;
            let variant = config.variant.clone().unwrap_or_default();
            let (os, architecture) = (config.os, config.architecture);
            let found = Platform { os, architecture, variant, os_version: String::new() };
            if !platform.accepts(&found) {
                let available = found.to_string();
                let error = DocumentError::NoPlatform { wanted: Box::new(platform.clone()), available };
                return Err(oci::Error::document(self.shown.clone(), error).into());
            }
        }
        self.root = Root::Manifest(manifest);
        Ok(())
    }

    /// Makes the image that fits `platform` best the whole of the source; where there is no choice, the one there is.
    ///
    /// # Errors
    /// As [`Self::select`].
    pub async fn prefer(&mut self, platform: &Platform) -> Result<(), Failure> {
        self.root = Root::Manifest(self.select(platform).await?);
        Ok(())
    }

    /// Looks whether all documents and blobs can be had, without reading blobs.
    ///
    /// # Errors
    /// A source failure that names the first that cannot.
    pub async fn check_complete(&self) -> Result<(), Failure> {
        let contents = Contents::of(self).await?;
        contents.blobs.values().try_for_each(|blob| self.blob(blob).map(drop))
    }

    /// Returns all names of the image in the store; `None` for other places.
    ///
    /// # Errors
    /// Store failures.
    pub fn names_in_store(&self) -> Result<Option<Vec<String>>, Failure> {
        let Place::Store(store) = &self.place else { return Ok(None) };
        let digest = self.root.digest().to_string();
        let named = store.layout().names()?.into_iter();
        let named =
            named.filter(|named| named.descriptor.digest().as_ref() == digest && !named.name.is_empty());
        Ok(Some(named.map(|named| named.name).collect()))
    }

    /// Says where the bytes of a blob are.
    pub(super) fn blob(&self, descriptor: &Descriptor) -> Result<Blob, Failure> {
        let digest = document::digest_of(descriptor).map_err(oci::Error::from)?;
        let absent = || missing(&self.shown, &digest.to_string());
        let whole = |path| Extent { path, offset: 0, size: descriptor.size() };
        match &self.place {
            Place::Store(store) if store.layout().has(&digest)? => {
                Ok(Blob::Kept(whole(store.layout().blob_path(&digest))))
            }
            Place::Store(store) => Ok(Blob::Remote(whereabouts::place(store, &digest).ok_or_else(absent)?)),
            Place::Layout(layout) => {
                // Opened once for what it refuses: links, pipes, a wrong size.
                layout.open_verified(descriptor).map_err(foreign)?;
                Ok(Blob::Foreign(whole(layout.blob_path(&digest))))
            }
            Place::Files(files) => match (files.documents.get(&digest), files.blobs.get(&digest)) {
                (Some(bytes), _) => Ok(Blob::Bytes(bytes.clone())),
                (None, Some(extent)) if extent.size == descriptor.size() => Ok(Blob::Foreign(extent.clone())),
                (None, Some(extent)) => {
                    let why =
                        format!("it has {} bytes, its descriptor says {}", extent.size, descriptor.size());
                    Err(damaged(&self.shown, &digest, &why))
                }
                (None, None) => Err(absent()),
            },
            Place::Registry(reference) => Ok(match self.fetched().get(&digest) {
                Some(bytes) => Blob::Bytes(bytes.clone()),
                None => Blob::Remote(reference.clone()),
            }),
        }
    }

    fn fetched(&self) -> MutexGuard<'_, BTreeMap<Digest, Bytes>> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns where else than at `first` a layer that the store lacks can be had.
    pub(super) fn others(&self, digest: &Digest, first: &Reference) -> Vec<Reference> {
        match &self.place {
            Place::Store(store) => whereabouts::others(store, digest, first),
            Place::Layout(_) | Place::Files(_) | Place::Registry(_) => Vec::new(),
        }
    }

    /// Tells the user something beside the result.
    pub(super) fn tell(&self, text: String) {
        self.registries.tell(text);
    }

    /// Returns repositories that are known to hold a blob.
    pub(super) fn found_in(&self, digest: &Digest) -> Vec<Reference> {
        match &self.place {
            Place::Store(store) => whereabouts::place(store, digest).into_iter().collect(),
            Place::Layout(_) | Place::Files(_) | Place::Registry(_) => Vec::new(),
        }
    }

    /// Makes the failure of a blob whose bytes cannot be read, or are not what its digest says.
    pub(super) fn unread(&self, digest: &Digest, error: &std::io::Error) -> Failure {
        let wrong = matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof);
        match &self.place {
            Place::Store(store) if wrong => {
                let what = format!("blob {digest} is damaged");
                let path = store.layout().blob_path(digest).display().to_string();
                let why = error.to_string();
                let why = why.strip_prefix(&format!("{what}: ")).unwrap_or(&why);
                damage::taken_out(store, digest, &[&what, &path, why])
            }
            _ => self.damaged(digest, &error.to_string()),
        }
    }

    /// Makes the failure of a blob that is not what its digest says.
    pub(super) fn damaged(&self, digest: &Digest, why: &str) -> Failure {
        damaged(&self.shown, digest, why)
    }
}

/// Opens every image of an archive, whichever of the forms it has.
///
/// # Errors
/// As [`Source::open`].
pub fn archived(places: &Places, path: &Path) -> Result<Vec<Source>, Failure> {
    let archive = Archive::open(places, path)?;
    if archive.has(docker::LIST) {
        let images = docker::images(&archive)?;
        return images.iter().map(|image| Source::of_docker(places, &archive, image, None)).collect();
    }
    let shown = format!("oci-archive:{}", archive.shown());
    let mut sources: Vec<Source> = Vec::new();
    for entry in archive_entries(&archive)? {
        let version = Version::default();
        let source = Source::of_archive(places, &archive, shown.clone(), entry, &version)?;
        // An image has an entry for each of its names.
        if !sources.iter().any(|other| other.root.digest() == source.root.digest()) {
            sources.push(source);
        }
    }
    Ok(sources)
}

/// Opens every image that a layout directory lists.
///
/// # Errors
/// Source failures.
pub fn listed(places: &Places, path: &Path) -> Result<Vec<Source>, Failure> {
    let layout = Layout::open(path).map_err(foreign)?;
    let entries: Vec<_> =
        layout.names().map_err(foreign)?.into_iter().map(|named| named.descriptor).collect();
    let version = Version::default();
    let open = |entry: &Descriptor| Source::of_layout(places, layout.clone(), &entries, entry, &version);
    // An image has an entry for each of its names.
    let mut seen = BTreeSet::new();
    entries.iter().filter(|entry| seen.insert(entry.digest().to_string())).map(open).collect()
}

fn archive_entries(archive: &Archive) -> Result<Vec<Descriptor>, Failure> {
    if !archive.has("index.json") {
        let why = "it has neither index.json nor manifest.json";
        return Err(Failure::new(Class::Source, &["no image in the archive", archive.shown(), why]));
    }
    let raw = archive.document("index.json")?;
    match Root::parse(raw, Some(media_type::OCI_INDEX)) {
        Ok(Root::Index(index)) => Ok(index.parsed.manifests().clone()),
        Ok(Root::Manifest(_)) => Err(archive.damaged("index.json is a manifest")),
        Err(error) => Err(archive.damaged(&format!("index.json: {}", chain(&error)))),
    }
}

/// An image whose blob is there, but which the index does not list. It must say itself what it is.
fn unlisted(layout: &Layout, digest: Digest, size: u64) -> Result<Descriptor, Failure> {
    let plain = document::descriptor("application/octet-stream", digest, size);
    let raw = layout.read_verified(&plain, DOCUMENT_LIMIT).map_err(foreign)?;
    let root = Root::parse(raw, None);
    let root = root.map_err(|source| oci::Error::document(format!("read {digest}"), source))?;
    Ok(document::descriptor(root.media_type(), digest, size))
}

/// What is wrong with a layout that somebody else made is wrong with the source, not with the store.
fn foreign(error: oci::Error) -> Failure {
    let failure = Failure::from(error);
    let class = if failure.class == Class::Store { Class::Source } else { failure.class };
    Failure { class, ..failure }
}

fn missing(shown: &str, digest: &str) -> Failure {
    let why = format!("blob {digest} is missing");
    Failure::new(Class::Source, &["incomplete image", shown, &why])
}
