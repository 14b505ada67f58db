//! What `docker save` writes: `manifest.json` with a config and layers for each image, in Docker's old form
//! (`<id>/layer.tar`) or beside an OCI layout (Docker 25 and newer, and xbuild). Reads members, packs nothing.
//!
//! The format is described by moby's `image/spec/v1.2.md`, "Combined Image JSON + Filesystem Changeset Format".

use std::collections::BTreeMap;
use std::io::Read as _;

use bytes::Bytes;
use oci::compress::Format;
use oci::digest::Algorithm;
use oci::document::{self, Config, Descriptor, INDEX_DEPTH, Manifest, Root};
use oci::reference::Reference;
use oci::{Digest, media_type};
use serde::Deserialize;

use super::archive::{Archive, Extent};
use super::place::Files;
use crate::failure::{Class, Failure, chain};

/// The member that lists the images.
pub const LIST: &str = "manifest.json";

/// An image of the list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerImage {
    /// The member with its config.
    config: String,
    /// Its names.
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    /// The members with its layers, lowest first.
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl DockerImage {
    /// Returns the names of the image; what is none is left out.
    pub fn names(&self) -> Vec<Reference> {
        let tags = self.repo_tags.iter().flatten().filter_map(|tag| tag.parse::<Reference>().ok());
        tags.map(Reference::with_default_tag).collect()
    }
}

/// Returns the images of an archive.
///
/// # Errors
/// A source failure where there is no list or it is none.
pub fn images(archive: &Archive) -> Result<Vec<DockerImage>, Failure> {
    let list = archive.document(LIST)?;
    let images: Vec<DockerImage> =
        serde_json::from_slice(&list).map_err(|error| archive.damaged(&format!("{LIST}: {error}")))?;
    if images.is_empty() { Err(archive.damaged(&format!("{LIST} lists no image"))) } else { Ok(images) }
}

/// Chooses an image by its name; without a name there may be only one.
///
/// # Errors
/// A source failure that lists the names there are, a usage failure where several are to choose from.
pub fn choose<'a>(
    archive: &Archive,
    images: &'a [DockerImage],
    wanted: Option<&Reference>,
) -> Result<&'a DockerImage, Failure> {
    let names = || {
        let names: Vec<_> = images.iter().flat_map(DockerImage::names).map(|name| name.familiar()).collect();
        if names.is_empty() {
            "its images have no names".to_owned()
        } else {
            format!("it has {}", names.join(", "))
        }
    };
    match (wanted, images) {
        (None, [image]) => Ok(image),
        (None, _) => Err(Failure::new(
            Class::Usage,
            &["several images in one archive", archive.shown(), &names(), "write docker-archive:FILE:NAME"],
        )),
        (Some(wanted), images) => {
            let wanted = wanted.clone().with_default_tag();
            images.iter().find(|image| image.names().contains(&wanted)).ok_or_else(|| {
                let what = format!("no image {} in the archive", wanted.familiar());
                Failure::new(Class::Source, &[&what, archive.shown(), &names()])
            })
        }
    }
}

/// Opens an image of the archive: with the manifest that lies beside it where its layers are packed, else with one
/// made for the members as they are.
///
/// # Errors
/// A source failure where members are missing or no layers, a refusal where they lead out of the archive.
pub fn open(archive: &Archive, image: &DockerImage) -> Result<(Root, Files), Failure> {
    let raw = archive.document(&image.config)?;
    compare(archive, &image.config, &Digest::of(&raw))?;
    let unusable = |error: document::DocumentError| archive.damaged(&chain(&error));
    let mut files = Files { documents: BTreeMap::new(), blobs: archive.blobs() };
    if let Some(manifest) = beside(archive, &files, &Digest::of(&raw))? {
        return Ok((Root::Manifest(manifest), files));
    }
    let config = Config::parse_alone(raw.clone()).map_err(unusable)?;
    let layers = image.layers.as_deref().unwrap_or_default();
    let diff_ids = &config.parsed.rootfs.diff_ids;
    if layers.len() != diff_ids.len() {
        let why = format!("{} layers, but {} diff_ids in the image config", layers.len(), diff_ids.len());
        return Err(archive.damaged(&why));
    }
    let mut descriptors = Vec::with_capacity(layers.len());
    for (name, diff_id) in layers.iter().zip(diff_ids) {
        let extent = archive.file(name)?;
        let descriptor = layer(archive, name, &extent, diff_id.0)?;
        files.blobs.insert(document::digest_of(&descriptor).map_err(oci::Error::from)?, extent);
        descriptors.push(descriptor);
    }
    let manifest = manifest(&config, &descriptors);
    let manifest = Manifest::parse(manifest, None).map_err(unusable)?;
    Config::parse(raw.clone(), &manifest.parsed).map_err(unusable)?;
    files.documents.insert(config.digest, raw);
    files.documents.insert(manifest.digest, manifest.raw.clone());
    Ok((Root::Manifest(manifest), files))
}

fn manifest(config: &Config, layers: &[Descriptor]) -> Bytes {
    let value = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": config.descriptor(media_type::OCI_CONFIG),
        "layers": layers,
    });
    serde_json::to_vec(&value).expect("a value serialises").into()
}

/// Describes a layer as it is in the archive. An uncompressed one is known by its diff id.
fn layer(archive: &Archive, name: &str, extent: &Extent, diff_id: Digest) -> Result<Descriptor, Failure> {
    let unreadable = |error: std::io::Error| archive.damaged(&format!("{name}: {error}"));
    let mut start = Vec::new();
    let reader = extent.open().map_err(unreadable)?;
    reader.take(Format::MAGIC_LENGTH as u64).read_to_end(&mut start).map_err(unreadable)?;
    let media_type = match Format::sniff(&start) {
        Format::Plain => {
            return Ok(document::descriptor(media_type::OCI_LAYER, diff_id, extent.size));
        }
        Format::Gzip => media_type::OCI_LAYER_GZIP,
        Format::Zstd => media_type::OCI_LAYER_ZSTD,
        Format::Xz | Format::Bzip2 => {
            return Err(archive.damaged(&format!("layer {name} is neither a tar, nor gzip, nor zstd")));
        }
    };
    let reader = extent.open().map_err(unreadable)?;
    let (digest, size) = Digest::of_reader(reader, Algorithm::Sha256).map_err(unreadable)?;
    compare(archive, name, &digest)?;
    Ok(document::descriptor(media_type, digest, size))
}

/// Compares a member with the sha256 digest that is its name in most forms: `<hex>.json`, `sha256:<hex>`,
/// `blobs/sha256/<hex>`.
fn compare(archive: &Archive, name: &str, found: &Digest) -> Result<(), Failure> {
    let last = name.rsplit('/').next().unwrap_or_default();
    let hex = last.strip_suffix(".json").unwrap_or(last);
    match format!("sha256:{}", hex.strip_prefix("sha256:").unwrap_or(hex)).parse::<Digest>() {
        Ok(digest) if digest != *found => {
            Err(archive.damaged(&format!("{name} is damaged: its bytes have the digest {found}")))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Finds the manifest of the OCI layout in the same archive whose config this is, provided that its layers are
/// there and packed.
///
/// # Errors
/// Where a document of the layout is there and damaged.
fn beside(archive: &Archive, files: &Files, config: &Digest) -> Result<Option<Manifest>, Failure> {
    if !archive.has("index.json") || !archive.has("oci-layout") {
        return Ok(None);
    }
    let index = Root::parse(archive.document("index.json")?, Some(media_type::OCI_INDEX));
    let mut pending =
        vec![(index.map_err(|error| archive.damaged(&format!("index.json: {}", chain(&error))))?, 0)];
    while let Some((root, depth)) = pending.pop() {
        match root {
            Root::Manifest(manifest) => {
                let named = document::digest_of(manifest.parsed.config()).map_err(oci::Error::from)?;
                if named == *config && is_packed(files, &manifest) {
                    return Ok(Some(manifest));
                }
            }
            Root::Index(index) if depth <= INDEX_DEPTH => {
                for child in index.parsed.manifests().iter().rev() {
                    // Indexes name more platforms than archives hold.
                    pending.extend(files.document(child)?.map(|root| (root, depth + 1)));
                }
            }
            Root::Index(_) => {}
        }
    }
    Ok(None)
}

fn is_packed(files: &Files, manifest: &Manifest) -> bool {
    manifest.require_image().is_ok()
        && manifest.parsed.layers().iter().all(|layer| {
            let packed = media_type::layer_compression(layer.media_type().as_ref());
            let there = document::digest_of(layer).is_ok_and(|digest| files.blobs.contains_key(&digest));
            there && packed != Some(media_type::LayerCompression::None)
        })
}
