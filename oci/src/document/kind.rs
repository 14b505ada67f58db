//! What bytes are: a manifest, an index, or something that two readers would take for different things.

use super::{DOCUMENT_LIMIT, DocumentError};
use crate::media_type::{self, ManifestKind};

/// The parts of a manifest that tell what it is.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Tells what `raw` is; `declared` is what its descriptor or the response says.
pub(super) fn kind(raw: &[u8], declared: Option<&str>) -> Result<ManifestKind, DocumentError> {
    if raw.len() as u64 > DOCUMENT_LIMIT {
        return Err(DocumentError::TooLarge { what: "manifest", size: raw.len() as u64 });
    }
    let shape: Shape =
        serde_json::from_slice(raw).map_err(|source| DocumentError::Json { what: "manifest", source })?;
    let ambiguous = |reason: String| Err(DocumentError::Ambiguous(reason));
    let said = shape.media_type.as_deref().map(|text| (text, media_type::manifest_kind(text)));
    let declared = declared.and_then(|text| Some((text, media_type::manifest_kind(text)?)));
    if shape.schema_version == Some(1) || shape.fs_layers.is_some() {
        return Ok(ManifestKind::Schema1);
    }
    let is_image = shape.layers.is_some() || shape.config.is_some();
    if shape.manifests.is_some() && is_image {
        return ambiguous("it has manifests as well as layers".to_owned());
    }
    let kind = match (said, declared) {
        (Some((text, None)), _) => return ambiguous(format!("its mediaType {text:?} is no manifest's")),
        (Some((said, Some(kind))), Some((declared, other))) if kind != other => {
            return ambiguous(format!("its mediaType is {said:?}, but it was announced as {declared:?}"));
        }
        (Some((_, Some(kind))), _) | (None, Some((_, kind))) => kind,
        (None, None) => return ambiguous("neither it nor its source names a media type".to_owned()),
    };
    match kind {
        ManifestKind::Manifest if !is_image => {
            ambiguous("it is called a manifest, but has no config".to_owned())
        }
        ManifestKind::Index if is_image || shape.manifests.is_none() => {
            ambiguous("it is called an index, but has no manifests".to_owned())
        }
        kind => Ok(kind),
    }
}
