//! `xbuild inspect`: an image's documents as JSON.

use oci::Platform;
use oci::layout::Layout;

use super::print;
use crate::failure::{Class, Failure};
use crate::image;

/// Prints digest, manifest and config.
///
/// # Errors
/// Where the image is not in the store, or damaged.
pub fn run(layout: &Layout, name: &str) -> Result<(), Failure> {
    let found = image::load(layout, name, &Platform::host())?;
    let names: Vec<_> = layout
        .names()?
        .into_iter()
        .filter(|named| named.descriptor.digest() == found.descriptor.digest() && !named.name.is_empty())
        .map(|named| named.name)
        .collect();
    let parse = |raw: &[u8]| {
        serde_json::from_slice::<serde_json::Value>(raw)
            .map_err(|error| Failure::new(Class::Store, &["unreadable document", name, &error.to_string()]))
    };
    let value = serde_json::json!({
        "names": names,
        "digest": found.descriptor.digest().to_string(),
        "mediaType": found.descriptor.media_type().to_string(),
        "manifest": parse(&found.manifest.raw)?,
        "config": parse(&found.config.raw)?,
    });
    print(&format!("{value:#}\n"))
}
