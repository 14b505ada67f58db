//! Layers, history and a config become an image: two documents, as bytes.
//!
//! Nothing is written here, and no clock is read. A layer's time is given; an entry without a layer takes its
//! predecessor's, and the image takes the last entry's, so a build from cache gives the bytes of the build before.

use std::collections::BTreeMap;

use oci::document::{
    self, Config, DOCUMENT_LIMIT, Descriptor, Document, ImageManifest, Index, Manifest, Root,
};
use oci::media_type::{self, LayerCompression, Types};
use oci::{DiffId, History, ImageConfig, Layout};
use serde_json::json;

use crate::error::{Error, Result};

/// The time of an image that has no layer of its own, no dated base and no SOURCE_DATE_EPOCH.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// A layer with its uncompressed and its packed identity.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// The digest of its tar.
    pub diff_id: DiffId,
    /// The blob that it is packed as.
    pub descriptor: Descriptor,
}

/// What a build adds: a history entry and, unless it changed metadata only, a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Addition {
    /// Text, author and comment. `created` is the time of the layer (RFC 3339); for entries without a layer it
    /// is not read. `empty_layer` is set here.
    pub history: History,
    /// The layer that it describes.
    pub layer: Option<Layer>,
}

/// The parts of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Assembly {
    /// Config of the image; its `rootfs`, `history` and `created` are the base's.
    pub config: ImageConfig,
    /// The base's layers, one for each of its diff ids.
    pub base: Vec<Descriptor>,
    /// What the build adds, oldest first.
    pub additions: Vec<Addition>,
    /// Replaces the time of every addition and of the image (RFC 3339), for SOURCE_DATE_EPOCH.
    pub created: Option<String>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Whose media types it is written with.
    pub types: Types,
}

/// An assembled image.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The config.
    pub config: Config,
    /// The manifest.
    pub manifest: Manifest,
    /// Whose media types it has.
    pub types: Types,
}

/// Assembles an image.
///
/// # Errors
/// [`Error::ConfigTooLarge`], and [`Error::Inconsistent`] where the base's parts contradict each other.
pub fn assemble(assembly: Assembly) -> Result<Image> {
    let Assembly { mut config, base, additions, created, annotations, types } = assembly;
    if config.rootfs.diff_ids.len() != base.len() {
        let (ids, blobs) = (config.rootfs.diff_ids.len(), base.len());
        return Err(Error::Inconsistent(format!("the base has {ids} diff ids, but {blobs} layers")));
    }
    complete_history(&mut config);
    let mut layers = base;
    let mut time = config.history.last().and_then(|entry| entry.created.clone()).or(config.created.take());
    for Addition { mut history, layer } in additions {
        let dated = layer.as_ref().and(history.created.take());
        time = created.clone().or(dated).or(time);
        history.created = Some(time.clone().unwrap_or_else(|| EPOCH.to_owned()));
        history.empty_layer = layer.is_none();
        config.history.push(history);
        if let Some(layer) = layer {
            config.rootfs.diff_ids.push(layer.diff_id);
            layers.push(layer.descriptor);
        }
    }
    config.created = Some(created.or(time).unwrap_or_else(|| EPOCH.to_owned()));
    let config = Document::new(config);
    let size = config.raw.len() as u64;
    if size > DOCUMENT_LIMIT {
        return Err(Error::ConfigTooLarge { size, limit: DOCUMENT_LIMIT });
    }
    let layers = layers.iter().map(|layer| converted(layer, types)).collect::<Result<Vec<_>>>()?;
    Ok(Image { manifest: manifest(&config, &layers, &annotations, types)?, config, types })
}

impl Image {
    /// Returns the descriptor of the manifest, labelled with the image's platform as in an index.
    pub fn descriptor(&self) -> Descriptor {
        let descriptor = self.manifest.descriptor(self.types.manifest());
        document::labelled(descriptor, &self.config.parsed.platform())
    }

    /// Writes config and manifest into `layout`. The layers are there, or remain with the registry they are in.
    ///
    /// # Errors
    /// [`Error::Oci`].
    pub fn store(&self, layout: &Layout) -> Result<()> {
        layout.put(&self.config.raw)?;
        layout.put(&self.manifest.raw)?;
        Ok(())
    }
}

/// Makes an index of images: `entries` are their descriptors, in its order, labelled with platforms.
///
/// # Errors
/// [`Error::Inconsistent`] where what comes out is no index that readers accept.
pub fn index(entries: &[Descriptor], annotations: &BTreeMap<String, String>, types: Types) -> Result<Index> {
    let mut value = json!({
        "schemaVersion": 2,
        "mediaType": types.index(),
        "manifests": entries.iter().map(document::to_value).collect::<Vec<_>>(),
    });
    if !annotations.is_empty() {
        value["annotations"] = json!(annotations);
    }
    // Objects of a value are sorted maps, so equal entries give equal bytes.
    let raw = serde_json::to_vec(&value).expect("a value serialises");
    match Root::parse(raw.into(), Some(types.index())) {
        Ok(Root::Index(index)) => Ok(index),
        Ok(Root::Manifest(_)) => Err(Error::Inconsistent("index: it reads as a manifest".to_owned())),
        Err(error) => Err(Error::Inconsistent(format!("index: {error}"))),
    }
}

/// Some tools write fewer history entries than layers. Ours must not be taken for those of the layers before.
fn complete_history(config: &mut ImageConfig) {
    let accounted = config.history.iter().filter(|entry| !entry.empty_layer).count();
    let missing = config.rootfs.diff_ids.len().saturating_sub(accounted);
    let unknown =
        History { comment: Some("layer without history in the base".to_owned()), ..History::default() };
    config.history.extend(std::iter::repeat_n(unknown, missing));
}

fn manifest(
    config: &Config,
    layers: &[Descriptor],
    annotations: &BTreeMap<String, String>,
    types: Types,
) -> Result<Manifest> {
    let mut value = json!({
        "schemaVersion": 2,
        "mediaType": types.manifest(),
        "config": config.descriptor(types.config()),
        "layers": layers,
    });
    if !annotations.is_empty() {
        value["annotations"] = json!(annotations);
    }
    let parsed: ImageManifest =
        serde_json::from_value(value).map_err(|error| Error::Inconsistent(format!("manifest: {error}")))?;
    let manifest = Document::new(parsed);
    // What we write, we must be able to read.
    let read = Manifest::parse(manifest.raw.clone(), Some(types.manifest()))
        .and_then(|manifest| Config::parse(config.raw.clone(), &manifest.parsed).map(|_| manifest));
    read.map_err(|error| Error::Inconsistent(error.to_string()))
}

/// The descriptor under the media type of `types`: a manifest must not mix OCI's and Docker's.
fn converted(layer: &Descriptor, types: Types) -> Result<Descriptor> {
    let old = layer.media_type().as_ref();
    let Some(compression) = media_type::layer_compression(old) else {
        return Err(Error::Inconsistent(format!("a layer has the media type {old:?}")));
    };
    let digest = document::digest_of(layer).map_err(oci::Error::from)?;
    let urls = layer.urls().clone().filter(|urls| media_type::is_nondistributable(old) && !urls.is_empty());
    let new = if urls.is_some() { foreign_type(types, compression) } else { types.layer(compression) };
    let mut descriptor = document::descriptor(new, digest, layer.size());
    descriptor.set_annotations(layer.annotations().clone());
    descriptor.set_urls(urls);
    Ok(descriptor)
}

/// Layers that have a server of their own and are not pushed to others keep saying so; Docker has no word for such a
/// one in zstd. Without URLs they would be nowhere: they become layers as any, as with BuildKit.
fn foreign_type(types: Types, compression: LayerCompression) -> &'static str {
    match (types, compression) {
        (Types::Oci, LayerCompression::None) => "application/vnd.oci.image.layer.nondistributable.v1.tar",
        (Types::Oci, LayerCompression::Gzip) => {
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        }
        (_, LayerCompression::Zstd) => "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        (Types::Docker, LayerCompression::None) => "application/vnd.docker.image.rootfs.foreign.diff.tar",
        (Types::Docker, LayerCompression::Gzip) => {
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        }
    }
}

#[cfg(test)]
mod tests {
    use oci::Digest;

    use super::*;

    fn layer(name: &str) -> Layer {
        let descriptor = document::descriptor(media_type::OCI_LAYER_GZIP, Digest::of(name.as_bytes()), 1);
        Layer { diff_id: DiffId(Digest::of(format!("tar of {name}").as_bytes())), descriptor }
    }

    fn addition(text: &str, created: Option<&str>) -> Addition {
        let history = History {
            created_by: Some(text.to_owned()),
            created: created.map(str::to_owned),
            ..History::default()
        };
        Addition { history, layer: created.map(|_| layer(text)) }
    }

    fn assembly(additions: Vec<Addition>) -> Assembly {
        let config = ImageConfig { os: "linux".into(), architecture: "arm".into(), ..ImageConfig::default() };
        let config = ImageConfig { variant: Some("v7".into()), ..config };
        Assembly {
            config,
            base: Vec::new(),
            additions,
            created: None,
            annotations: BTreeMap::new(),
            types: Types::Oci,
        }
    }

    fn times(image: &Image) -> Vec<String> {
        let config = &image.config.parsed;
        config
            .history
            .iter()
            .map(|entry| entry.created.clone())
            .chain([config.created.clone()])
            .flatten()
            .collect()
    }

    #[test]
    fn entries_without_layers_take_their_predecessors_time() {
        let image = assemble(assembly(vec![
            addition("ENV", None),
            addition("RUN", Some("2024-01-01T00:00:00Z")),
            addition("CMD", None),
        ]))
        .unwrap();
        assert_eq!(
            times(&image),
            [EPOCH, "2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"]
        );
        let empty: Vec<bool> = image.config.parsed.history.iter().map(|entry| entry.empty_layer).collect();
        assert_eq!(empty, [true, false, true]);
        assert_eq!(image.config.parsed.rootfs.diff_ids, [layer("RUN").diff_id]);
    }

    #[test]
    fn source_date_epoch_replaces_our_times_and_no_others() {
        let mut base = assembly(vec![addition("RUN", Some("2024-01-01T00:00:00Z")), addition("CMD", None)]);
        let theirs = History { created: Some("2020-02-02T00:00:00Z".into()), ..History::default() };
        base.config.history = vec![theirs];
        base.config.rootfs.diff_ids = vec![layer("base").diff_id];
        base.base = vec![layer("base").descriptor];
        base.created = Some("1999-09-09T00:00:00Z".into());
        let image = assemble(base).unwrap();
        let ours = "1999-09-09T00:00:00Z";
        assert_eq!(times(&image), ["2020-02-02T00:00:00Z", ours, ours, ours]);
    }

    #[test]
    fn a_base_without_history_gets_entries_for_its_layers() {
        let mut base = assembly(vec![addition("CMD", None)]);
        base.config.rootfs.diff_ids = vec![layer("a").diff_id, layer("b").diff_id];
        base.base = vec![layer("a").descriptor, layer("b").descriptor];
        let image = assemble(base.clone()).unwrap();
        let empty: Vec<bool> = image.config.parsed.history.iter().map(|entry| entry.empty_layer).collect();
        assert_eq!(empty, [false, false, true]);
        base.base.pop();
        assert!(matches!(assemble(base), Err(Error::Inconsistent(_))));
    }

    #[test]
    fn df_14_a_config_over_the_limit_is_refused() {
        let mut large = assembly(Vec::new());
        large.config.config.labels =
            (0..50).map(|number| (number.to_string(), "x".repeat(100_000))).collect();
        let error = assemble(large).unwrap_err();
        assert!(matches!(error, Error::ConfigTooLarge { limit: 4_194_304, .. }), "{error}");
    }

    #[test]
    fn media_types_are_never_mixed() {
        let mut docker = assembly(vec![addition("RUN", Some(EPOCH))]);
        docker.config.rootfs.diff_ids = vec![layer("b").diff_id];
        let foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
        docker.base = vec![document::descriptor(foreign, Digest::of(b"f"), 1)];
        docker.base[0].set_urls(Some(vec!["https://vendor.example/f".to_owned()]));
        docker.types = Types::Docker;
        let image = assemble(docker).unwrap();
        let text = std::str::from_utf8(&image.manifest.raw).unwrap();
        assert!(!text.contains("vnd.oci"), "{text}");
        assert!(text.contains("rootfs.foreign.diff.tar.gzip") && text.contains("rootfs.diff.tar.gzip"));
        assert_eq!(document::platform_of(&image.descriptor()).unwrap().to_string(), "linux/arm/v7");
    }

    #[test]
    fn layers_not_to_be_distributed_are_as_any_where_no_url_leads_to_them() {
        for (types, kind, ordinary) in [
            (Types::Oci, "oci.image.layer.nondistributable.v1.tar", "oci.image.layer.v1.tar"),
            (Types::Docker, "docker.image.rootfs.foreign.diff.tar.gzip", "docker.image.rootfs.diff.tar.gzip"),
            (
                Types::Docker,
                "oci.image.layer.nondistributable.v1.tar+zstd",
                "docker.image.rootfs.diff.tar.zstd",
            ),
        ] {
            let kind = format!("application/vnd.{kind}");
            let bare = document::descriptor(&kind, Digest::of(b"f"), 1);
            let found = converted(&bare, types).unwrap();
            assert_eq!(found.media_type().as_ref(), format!("application/vnd.{ordinary}"));
            let mut elsewhere = bare.clone();
            elsewhere.set_urls(Some(vec!["https://vendor.example/f".to_owned()]));
            let found = converted(&elsewhere, types).unwrap();
            assert_eq!((found.media_type().as_ref(), found.urls()), (kind.as_str(), elsewhere.urls()));
        }
    }

    #[test]
    fn an_index_lists_its_images_in_order_with_their_platforms() {
        let image = |os: &str, architecture: &str, version: Option<&str>| {
            let mut assembly = assembly(Vec::new());
            assembly.config.os = os.to_owned();
            assembly.config.architecture = architecture.to_owned();
            assembly.config.variant = None;
            assembly.config.os_version = version.map(str::to_owned);
            assemble(assembly).unwrap().descriptor()
        };
        let mut entries = [image("windows", "amd64", Some("10.0.1")), image("linux", "arm64", None)];
        entries[1].set_annotations(Some((0..9).map(|n| (format!("k{n}"), "v".to_owned())).collect()));
        let annotations = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let made = index(&entries, &annotations, Types::Oci).unwrap();
        let platforms: Vec<_> = made
            .parsed
            .manifests()
            .iter()
            .map(|entry| document::platform_of(entry).unwrap().full())
            .collect();
        assert_eq!(platforms, ["windows(10.0.1)/amd64", "linux/arm64"]);
        for _ in 0..5 {
            assert_eq!(index(&entries, &annotations, Types::Oci).unwrap().raw, made.raw);
        }
        assert_eq!(made.parsed.annotations().as_ref().unwrap()["a"], "b");
    }

    #[test]
    fn equal_parts_give_equal_bytes() {
        let mut annotated = assembly(vec![addition("RUN", Some(EPOCH))]);
        annotated.annotations = (0..20).map(|number| (format!("k{number}"), "v".to_owned())).collect();
        let first = assemble(annotated.clone()).unwrap();
        for _ in 0..5 {
            assert_eq!(assemble(annotated.clone()).unwrap().manifest.raw, first.manifest.raw);
        }
    }
}
