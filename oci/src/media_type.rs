//! Media types of manifests, configs and layers, in the words of OCI and of Docker.
//!
//! Texts only: which documents they stand for is in `document`, how layers are decompressed in `compress`.

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer without compression.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Docker image manifest, version 2, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker layer without compression.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker layer, gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker layer, zstd: written by BuildKit with Docker types; no specification names it.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// What a client sends as `Accept` for manifests, best first.
pub const ACCEPTED_MANIFESTS: [&str; 4] = [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST];

/// Whose media types an image is written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Types {
    /// image-spec.
    #[default]
    Oci,
    /// Docker schema 2.
    Docker,
}

/// How a layer's tar is compressed according to its media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LayerCompression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// What a manifest's media type stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestKind {
    /// One image.
    Manifest,
    /// A list of manifests.
    Index,
    /// Docker's signed schema 1, gone from registries and readers since 2023.
    Schema1,
}

impl Types {
    /// Returns the type of a manifest.
    pub const fn manifest(self) -> &'static str {
        match self {
            Self::Oci => OCI_MANIFEST,
            Self::Docker => DOCKER_MANIFEST,
        }
    }

    /// Returns the type of an index.
    pub const fn index(self) -> &'static str {
        match self {
            Self::Oci => OCI_INDEX,
            Self::Docker => DOCKER_INDEX,
        }
    }

    /// Returns the type of a config.
    pub const fn config(self) -> &'static str {
        match self {
            Self::Oci => OCI_CONFIG,
            Self::Docker => DOCKER_CONFIG,
        }
    }

    /// Returns the type of a layer.
    pub const fn layer(self, compression: LayerCompression) -> &'static str {
        match (self, compression) {
            (Self::Oci, LayerCompression::None) => OCI_LAYER,
            (Self::Oci, LayerCompression::Gzip) => OCI_LAYER_GZIP,
            (Self::Oci, LayerCompression::Zstd) => OCI_LAYER_ZSTD,
            (Self::Docker, LayerCompression::None) => DOCKER_LAYER,
            (Self::Docker, LayerCompression::Gzip) => DOCKER_LAYER_GZIP,
            (Self::Docker, LayerCompression::Zstd) => DOCKER_LAYER_ZSTD,
        }
    }
}

/// Returns what `media_type` stands for, `None` for what is no manifest. Parameters such as `; charset=utf-8`
/// do not count.
pub fn manifest_kind(media_type: &str) -> Option<ManifestKind> {
    match media_type.split(';').next().unwrap_or_default().trim() {
        OCI_MANIFEST | DOCKER_MANIFEST => Some(ManifestKind::Manifest),
        OCI_INDEX | DOCKER_INDEX => Some(ManifestKind::Index),
        "application/vnd.docker.distribution.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v1+prettyjws" => Some(ManifestKind::Schema1),
        _ => None,
    }
}

/// Returns the compression that the media type of a layer names, `None` where it is no type of a layer that
/// xbuild can apply (encrypted layers, charts, attestations).
pub fn layer_compression(media_type: &str) -> Option<LayerCompression> {
    match media_type {
        OCI_LAYER
        | DOCKER_LAYER
        | "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar" => Some(LayerCompression::None),
        OCI_LAYER_GZIP
        | DOCKER_LAYER_GZIP
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Some(LayerCompression::Gzip),
        OCI_LAYER_ZSTD
        | DOCKER_LAYER_ZSTD
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd" => Some(LayerCompression::Zstd),
        _ => None,
    }
}

/// Returns whether layers of `media_type` are marked as not to be distributed: licences bound them to their makers'
/// servers (image-spec layer.md, "Non-Distributable Layers").
pub fn is_nondistributable(media_type: &str) -> bool {
    media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
}

/// Returns whether `media_type` is that of an image config.
pub fn is_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_recognised_in_both_words() {
        for compression in [LayerCompression::None, LayerCompression::Gzip, LayerCompression::Zstd] {
            for types in [Types::Oci, Types::Docker] {
                assert_eq!(layer_compression(types.layer(compression)), Some(compression));
            }
        }
        for unknown in
            ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "application/vnd.cncf.helm.chart"]
        {
            assert_eq!(layer_compression(unknown), None);
        }
    }

    #[test]
    fn parameters_of_a_content_type_do_not_count() {
        let kind = manifest_kind("application/vnd.oci.image.index.v1+json; charset=utf-8");
        assert_eq!(kind, Some(ManifestKind::Index));
        assert_eq!(manifest_kind("application/json"), None);
    }
}
