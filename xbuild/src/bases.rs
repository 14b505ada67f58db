//! Base images: what a name stands for, and where its layers are.
//!
//! A name that the store knows is not asked for again; `--pull` asks, and `--pull=never` asks nothing at all.
//! Resolving stores manifest and config and notes where each layer can be had, but downloads no layer.

use std::sync::Arc;

use executor::layers::{Flavour, LayerId, LayerStore};
use oci::document::{self, Descriptor, Manifest};
use oci::layout::Layout;
use oci::media_type::Types;
use oci::reference::Reference;
use oci::store::Store;
use oci::{ChainId, Digest, Platform, media_type};
use serde::{Deserialize, Serialize};

use crate::failure::{Class, Failure};
use crate::image::{self, StoredImage};
use crate::images::{self, Places};
use crate::location::Location;
use crate::registries::Registries;
use crate::whereabouts;
use crate::worker::error::StepError;
use crate::worker::layer::{Layer, Stack};

/// Whether a name in the store counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// Only what the store lacks is asked for.
    Missing,
    /// The registry decides.
    Always,
    /// What the store lacks is an error.
    Never,
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
        // A digest stands for the same image whenever it is asked for.
        let store_counts = self.pull != Pull::Always || reference.digest.is_some();
        let stored = if store_counts { self.in_store(reference, platform)? } else { InStore::No };
        match stored {
            InStore::Yes(image) if self.pull == Pull::Never => {
                self.check_layers(reference, &image)?;
                Ok(*image)
            }
            InStore::Yes(image) => Ok(*image),
            InStore::No if self.pull == Pull::Never => Err(lacking(reference, "the store does not have it")),
            InStore::Other(found) if self.pull == Pull::Never => {
                Err(lacking(reference, &format!("the store has it for {found}, not for {platform}")))
            }
            InStore::No => self.fetch(reference, platform).await,
            InStore::Other(found) => self.fetch(reference, platform).await.map_err(|mut failure| {
                failure.line += &format!(" — the store has that name for {found} only");
                failure
            }),
        }
    }

    /// Fails where a layer of an image would have to be downloaded.
    fn check_layers(&self, reference: &Reference, image: &StoredImage) -> Result<(), Failure> {
        let unpacked = LayerStore::new((*self.store).clone(), Flavour::Root);
        let diff_ids = &image.config.parsed.rootfs.diff_ids;
        for (position, (layer, diff_id)) in image.manifest.parsed.layers().iter().zip(diff_ids).enumerate() {
            let digest = document::digest_of(layer).map_err(oci::Error::from)?;
            let chain = ChainId::of(&diff_ids[..=position]).expect("it has the layer at `position`");
            let ids = [LayerId::Diff(*diff_id), LayerId::Chain(chain)];
            let is_unpacked = || ids.iter().any(|id| unpacked.has_unpacked(*id).unwrap_or(false));
            if !self.store.layout().has(&digest)? && !is_unpacked() {
                return Err(lacking(reference, &format!("the store does not have its layer {digest}")));
            }
        }
        Ok(())
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
        let found = resolved.or_else(|| self.by_digest(reference.digest?, platform));
        Ok(found.map_or(other, |image| InStore::Yes(Box::new(image))))
    }

    /// Returns the image that a digest names, whatever it was called when it came.
    fn by_digest(&self, digest: Digest, platform: &Platform) -> Option<StoredImage> {
        let layout = self.store.layout();
        let size = layout.size(&digest).ok()??;
        let [oci, docker] = [Types::Oci, Types::Docker];
        let kinds = [oci.manifest(), docker.manifest(), oci.index(), docker.index()];
        let read = |kind: &str| image::read(layout, document::descriptor(kind, digest, size), platform).ok();
        kinds.into_iter().find_map(read)
    }

    fn resolution(&self, name: &str, platform: &Platform) -> Result<Option<Descriptor>, Failure> {
        let Ok(bytes) = std::fs::read(whereabouts::source_path(&self.store, &resolution_key(name, platform)))
        else {
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
        whereabouts::note_places(&self.store, &found.reference, &found.manifest)?;
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
        self.store
            .replace(&whereabouts::source_path(&self.store, &resolution_key(&name, platform)), &bytes)?;
        Ok(StoredImage { descriptor, manifest: found.manifest, config: found.config })
    }

    /// Copies an image of a layout or an archive into the store; returns it with the name of its place.
    ///
    /// # Errors
    /// A source failure where the place or the image in it cannot be read.
    pub async fn import(
        &self,
        location: &Location,
        platform: &Platform,
    ) -> Result<(StoredImage, String), Failure> {
        let places = Places::of_store(Arc::clone(&self.store), Arc::clone(&self.registries));
        images::import(&places, location, platform).await
    }

    /// Returns the blobs that are the layers of an image whose documents are in the store.
    ///
    /// # Errors
    /// Where a document is missing or damaged.
    pub fn blobs(&self, manifest: &Digest) -> Result<Vec<Descriptor>, StepError> {
        Ok(read_manifest(self.store.layout(), manifest)?.manifest.parsed.layers().clone())
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
            Ok(Layer::base(*diff_id, descriptor.clone(), whereabouts::place(&self.store, &digest).or(named)))
        });
        layers.collect::<Result<Vec<_>, StepError>>().map(Into::into)
    }
}

/// Says that no registry may be asked for what the store lacks.
fn lacking(reference: &Reference, why: &str) -> Failure {
    let name = reference.to_string();
    let why = format!("{why}, and --pull=never asks no registry");
    let fix = format!("`xbuild pull {name}` first, or leave --pull=never out");
    Failure::new(Class::Source, &["cannot use the image", &name, &why, &fix])
}

/// Returns the platform of an image that cannot be used for `wanted`; what does not say its platform can.
fn other_platform(image: &StoredImage, wanted: &Platform) -> Option<Platform> {
    let found = image.config.parsed.platform();
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
    let parsed =
        Manifest::parse(raw, Some(media_type::OCI_MANIFEST)).map_err(wrap)?.digested_by(manifest.algorithm());
    let config = image::config(layout, &parsed)?;
    Ok(StoredImage { descriptor, manifest: parsed, config })
}

fn resolution_key(name: &str, platform: &Platform) -> String {
    blake3::hash(format!("image {name} {}", platform.full()).as_bytes()).to_hex().to_string()
}
