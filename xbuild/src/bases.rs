//! Base images: what a name stands for, and where its layers are.
//!
//! A name that the store knows is not asked for again; `--pull` asks. Resolving stores manifest and config and
//! notes where each layer can be had, but downloads no layer.

use std::path::Path;
use std::sync::Arc;

use oci::document::{self, Descriptor};
use oci::layout::Layout;
use oci::reference::Reference;
use oci::store::Store;
use oci::{Digest, Platform, media_type};
use serde::{Deserialize, Serialize};

use crate::failure::{Class, Failure};
use crate::image::{self, StoredImage};
use crate::worker::error::StepError;
use crate::worker::layer::{Layer, Stack};
use crate::worker::registries::Registries;

/// Whether a name in the store counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// Only what the store lacks is asked for.
    Missing,
    /// The registry decides.
    Always,
}

/// Resolves names.
pub struct Bases {
    store: Arc<Store>,
    registries: Arc<Registries>,
    pull: Pull,
}

/// What a name stood for when it was resolved last.
#[derive(Debug, Serialize, Deserialize)]
struct Resolution {
    name: String,
    platform: String,
    manifest: Digest,
    size: u64,
    media_type: String,
}

/// What the store has under a name.
enum InStore {
    /// The image.
    Yes(Box<StoredImage>),
    /// An image of another platform.
    Other(Platform),
    /// Nothing.
    No,
}

impl Bases {
    /// Resolves into `store`.
    pub fn new(store: Arc<Store>, registries: Arc<Registries>, pull: Pull) -> Self {
        Self { store, registries, pull }
    }

    /// Returns the image that a name stands for.
    ///
    /// # Errors
    /// A source failure where nobody has it.
    pub async fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<StoredImage, Failure> {
        let store_counts = self.pull == Pull::Missing || reference.digest.is_some();
        let stored = if store_counts { self.in_store(reference, platform)? } else { InStore::No };
        match stored {
            InStore::Yes(image) => Ok(*image),
            InStore::No => self.fetch(reference, platform).await,
            InStore::Other(found) => self.fetch(reference, platform).await.map_err(|mut failure| {
                failure.line += &format!(" — the store has that name for {found} only");
                failure
            }),
        }
    }

    fn in_store(&self, reference: &Reference, platform: &Platform) -> Result<InStore, Failure> {
        let layout = self.store.layout();
        let name = reference.clone().with_default_tag().to_string();
        let tagged = layout.resolve(&name)?.into_iter().find(|found| {
            // A name with a digest must be that image.
            reference.digest.is_none_or(|digest| found.digest().to_string() == digest.to_string())
        });
        // A document that somebody cleaned up is fetched again.
        let read = |descriptor| match image::read(layout, descriptor, platform) {
            Ok(image) => Ok(Some(image)),
            Err(_) if reference.registry != "localhost" => Ok(None),
            Err(failure) => Err(failure),
        };
        let tagged = tagged.map(&read).transpose()?.flatten();
        let other = match tagged {
            // Who names a digest wants that image; what a registry had for the platform is as good as it gets.
            Some(image) if reference.digest.is_some() => return Ok(InStore::Yes(Box::new(image))),
            Some(image) => match other_platform(&image, platform) {
                None => return Ok(InStore::Yes(Box::new(image))),
                Some(other) => InStore::Other(other),
            },
            None => InStore::No,
        };
        let resolved = self.resolution(&name, platform)?.map(read).transpose()?.flatten();
        Ok(resolved.map_or(other, |image| InStore::Yes(Box::new(image))))
    }

    fn resolution(&self, name: &str, platform: &Platform) -> Result<Option<Descriptor>, Failure> {
        let Ok(bytes) = std::fs::read(source_path(&self.store, &resolution_key(name, platform))) else {
            return Ok(None);
        };
        let Ok(resolution) = serde_json::from_slice::<Resolution>(&bytes) else { return Ok(None) };
        Ok(Some(document::descriptor(&resolution.media_type, resolution.manifest, resolution.size)))
    }

    async fn fetch(&self, reference: &Reference, platform: &Platform) -> Result<StoredImage, Failure> {
        let found = self.registries.client()?.resolve(reference, platform).await?;
        let layout = self.store.layout();
        layout.put_document(&found.config)?;
        layout.put_document(&found.manifest)?;
        for layer in found.manifest.parsed.layers() {
            let digest = document::digest_of(layer).map_err(oci::Error::from)?;
            let place = found.reference.to_string();
            self.store.replace(&source_path(&self.store, &place_key(&digest)), place.as_bytes())?;
        }
        let kind = found
            .manifest
            .parsed
            .media_type()
            .as_ref()
            .map_or(media_type::OCI_MANIFEST.to_owned(), ToString::to_string);
        let descriptor = document::descriptor(&kind, found.manifest.digest, found.manifest.raw.len() as u64);
        let name = reference.clone().with_default_tag().to_string();
        let resolution = Resolution {
            platform: platform.full(),
            manifest: found.manifest.digest,
            size: found.manifest.raw.len() as u64,
            media_type: kind,
            name: name.clone(),
        };
        let bytes = serde_json::to_vec(&resolution).expect("a resolution serialises");
        self.store.replace(&source_path(&self.store, &resolution_key(&name, platform)), &bytes)?;
        Ok(StoredImage { descriptor, manifest: found.manifest, config: found.config })
    }

    /// Copies an image of an OCI layout directory into the store.
    ///
    /// # Errors
    /// A source failure where the layout or the image in it cannot be read.
    pub fn import(
        &self,
        path: &Path,
        version: Option<&str>,
        platform: &Platform,
    ) -> Result<StoredImage, Failure> {
        let from = Layout::open(path)?;
        let names = from.names()?;
        let by_version = |named: &&oci::layout::Named| {
            version.is_none_or(|version| {
                let digest = named.descriptor.digest().to_string();
                digest == version || named.name == version || named.name.ends_with(&format!(":{version}"))
            })
        };
        let found = names.iter().find(by_version).ok_or_else(|| {
            let why = version.map_or("it is empty".to_owned(), |version| format!("it has no {version:?}"));
            Failure::new(
                Class::Source,
                &["no such image in the OCI layout", &path.display().to_string(), &why],
            )
        })?;
        let image = image::read(&from, found.descriptor.clone(), platform)?;
        let to = self.store.layout();
        for descriptor in image.manifest.parsed.layers().iter().chain([image.manifest.parsed.config()]) {
            let digest = document::digest_of(descriptor).map_err(oci::Error::from)?;
            if !to.has(&digest)? {
                to.copy_from(&from, descriptor)?;
            }
        }
        to.put_document(&image.manifest)?;
        Ok(image)
    }

    /// Returns the layers of an image whose documents are in the store.
    ///
    /// # Errors
    /// Where a document is missing or damaged.
    pub fn stack(&self, manifest: &Digest, reference: &str) -> Result<Stack, StepError> {
        let layout = self.store.layout();
        let image = read_manifest(layout, manifest)?;
        let named = reference.parse::<Reference>().ok();
        let diff_ids = &image.config.parsed.rootfs.diff_ids;
        let layers = image.manifest.parsed.layers().iter().zip(diff_ids).map(|(descriptor, diff_id)| {
            let digest = document::digest_of(descriptor).map_err(oci::Error::from)?;
            let named = named.as_ref().map(|named| named.with_digest(*manifest));
            Ok(Layer::base(*diff_id, descriptor.clone(), place(&self.store, &digest).or(named)))
        });
        layers.collect::<Result<Vec<_>, StepError>>().map(Into::into)
    }
}

/// Returns where a layer that is not in the store can be had, where that is known.
pub fn place(store: &Store, digest: &Digest) -> Option<Reference> {
    std::fs::read_to_string(source_path(store, &place_key(digest))).ok()?.parse().ok()
}

/// Returns the platform of an image that cannot be used for `wanted`; what does not say its platform can.
fn other_platform(image: &StoredImage, wanted: &Platform) -> Option<Platform> {
    let config = &image.config.parsed;
    let found = Platform {
        os: config.os.clone(),
        architecture: config.architecture.clone(),
        variant: config.variant.clone().unwrap_or_default(),
        os_version: config.os_version.clone().unwrap_or_default(),
    };
    let says = !found.os.is_empty() && !found.architecture.is_empty();
    // Newer variants are taken as they are: whether the processor has what they want only it knows.
    let (one, other) = (wanted.normalize(), found.normalize());
    let fits = one.accepts(&other) || (one.os == other.os && one.architecture == other.architecture);
    (says && !fits).then_some(found)
}

fn read_manifest(layout: &Layout, manifest: &Digest) -> Result<StoredImage, StepError> {
    let size = layout.size(manifest)?;
    let missing = || oci::Error::MissingBlob { digest: *manifest, layout: layout.root().to_owned() };
    let descriptor = document::descriptor(media_type::OCI_MANIFEST, *manifest, size.ok_or_else(missing)?);
    let raw = layout.read_verified(&descriptor, document::DOCUMENT_LIMIT)?;
    let wrap = |source| oci::Error::document(format!("image {manifest}"), source);
    let parsed = document::Manifest::parse(raw, None).map_err(wrap)?.digested_by(manifest.algorithm());
    let config = layout.read_verified(parsed.parsed.config(), document::DOCUMENT_LIMIT)?;
    let config = document::Config::parse(config, &parsed.parsed).map_err(wrap)?;
    Ok(StoredImage { descriptor, manifest: parsed, config })
}

fn resolution_key(name: &str, platform: &Platform) -> String {
    blake3::hash(format!("image {name} {}", platform.full()).as_bytes()).to_hex().to_string()
}

fn place_key(digest: &Digest) -> String {
    blake3::hash(format!("layer {digest}").as_bytes()).to_hex().to_string()
}

fn source_path(store: &Store, key: &str) -> std::path::PathBuf {
    store.root().join("sources").join(key)
}
