//! `xbuild inspect`: an image's documents as JSON, wherever the image is. No layer is read.

use std::path::PathBuf;

use bytes::Bytes;
use oci::Platform;
use oci::document::{self, Descriptor, Manifest, Root};
use serde_json::{Value, json};

use super::{Platforms, places, print};
use crate::args::InspectArgs;
use crate::failure::{Class, Failure};
use crate::images::{Absent, Source};
use crate::location::Location;
use crate::options::usage;

/// Prints names, digest, platforms, manifest and config, or one of them as it is.
///
/// # Errors
/// Where there is no such image, or its documents are damaged.
pub fn run(args: &InspectArgs, root: PathBuf) -> Result<(), Failure> {
    let location = location(args)?;
    let platforms = Platforms::parse(args.platform.as_deref(), Platforms::All)?;
    let places = places(root, &args.registry, [&location])?;
    let inspecting = async {
        let mut source = Source::open(&places, &location, Absent::Refuse).await.map_err(|mut failure| {
            if let (Location::Named(_), Class::Source) = (&location, failure.class) {
                failure.line += ", or ask its registry with --remote";
            }
            failure
        })?;
        platforms.apply(&mut source).await?;
        match (args.config, args.raw) {
            (false, true) => Ok(text(source.root.raw())),
            (true, true) => Ok(text(&config(&source).await?)),
            (true, false) => Ok(format!("{:#}\n", parsed(&config(&source).await?)?)),
            (false, false) => Ok(format!("{:#}\n", described(&source).await?)),
        }
    };
    let printed = super::await_result(inspecting)?;
    print(&printed)
}

fn location(args: &InspectArgs) -> Result<Location, Failure> {
    match (Location::parse(&args.image)?, args.remote) {
        (Location::Named(name), true) => Ok(Location::Registry(super::reference(&name)?)),
        (location, false) | (location @ Location::Registry(_), true) => Ok(location),
        (_, true) => Err(usage("--remote", "the image is in no registry", "leave it out")),
    }
}

async fn config(source: &Source) -> Result<Bytes, Failure> {
    let manifest = source.select(&Platform::host()).await?;
    Ok(source.config(&manifest).await?.raw)
}

async fn described(source: &Source) -> Result<Value, Failure> {
    let names: Vec<String> = match source.names_in_store()? {
        Some(names) => names,
        None => source.names.iter().map(ToString::to_string).collect(),
    };
    let descriptor = source.descriptor();
    let mut value = json!({
        "names": names,
        "digest": descriptor.digest().to_string(),
        "mediaType": descriptor.media_type().to_string(),
    });
    let host = Platform::host();
    if let Root::Index(index) = &source.root {
        let images = index.parsed.manifests().iter().filter(|entry| !document::is_attestation(entry));
        value["platforms"] = images.map(entry).collect();
        value["index"] = parsed(&index.raw)?;
        // Nothing to show of an index that has no image for us; its entries say the rest.
        if document::select(&index.parsed, &host).is_err() {
            return Ok(value);
        }
    }
    let manifest = source.select(&host).await?;
    value["size"] = size(&manifest).into();
    value["manifest"] = parsed(&manifest.raw)?;
    // Charts and other artifacts have configs that are none of images.
    if manifest.require_image().is_ok() {
        value["config"] = parsed(&source.config(&manifest).await?.raw)?;
    }
    Ok(value)
}

fn entry(entry: &Descriptor) -> Value {
    json!({
        "platform": document::platform_of(entry).map(|platform| platform.full()),
        "digest": entry.digest().to_string(),
        "mediaType": entry.media_type().to_string(),
    })
}

/// The bytes of an image without its manifest, as a registry keeps them.
fn size(manifest: &Manifest) -> u64 {
    let blobs = manifest.parsed.layers().iter().chain([manifest.parsed.config()]);
    blobs.map(Descriptor::size).fold(0, u64::saturating_add)
}

fn text(raw: &[u8]) -> String {
    String::from_utf8_lossy(raw).into_owned()
}

fn parsed(raw: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(raw)
        .map_err(|error| Failure::new(Class::Store, &["unreadable document", "", &error.to_string()]))
}
