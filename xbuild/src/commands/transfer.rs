//! `xbuild pull` and `xbuild push`: images between the store, registries and whatever else holds one.

use std::path::PathBuf;

use oci::document::Root;
use oci::layout::Layout;
use oci::reference::Reference;

use super::send::{self, There};
use super::{Platforms, places, print, reference, tell};
use crate::args::{PullArgs, PushArgs};
use crate::failure::{Class, Failure};
use crate::image;
use crate::images::{self, Absent, Places, Source};
use crate::location::Location;

/// Fetches an image and tags it; prints its digest.
///
/// # Errors
/// Source failures.
pub fn pull(args: &PullArgs, root: PathBuf) -> Result<(), Failure> {
    let location = match Location::parse(&args.image)? {
        Location::Named(name) => Location::Registry(reference(&name)?),
        location => location,
    };
    let platforms = Platforms::parse(args.platform.as_deref(), Platforms::Host)?;
    let names: Vec<Reference> = args.tag.iter().map(|name| reference(name)).collect::<Result<_, _>>()?;
    let places = places(root, &args.registry, [&location])?;
    let pulling = async {
        let mut source = Source::open(&places, &location, Absent::Refuse).await?;
        platforms.apply(&mut source).await?;
        if let Root::Manifest(manifest) = source.root.clone() {
            // Told before anything is downloaded: what is no image, or does not fit its config.
            source.config(&manifest).await?;
        }
        let names = match (names.is_empty(), &location) {
            (false, _) => names,
            (true, Location::Registry(reference)) => vec![reference.clone()],
            (true, _) => source.names.clone(),
        };
        images::into_store(&places, &mut source, &names).await
    };
    let written = super::await_result(pulling)?;
    if written.names.is_empty() {
        tell(&format!("the image has no name; `xbuild tag {} NAME` gives it one", written.digest));
    }
    print(&format!("{}\n", written.digest))
}

/// Sends an image to the registry of its name, or of another; prints its digest there.
///
/// # Errors
/// Push failures; an image of the store stays there, and what repeats the push is told.
pub fn push(args: &PushArgs, root: PathBuf) -> Result<(), Failure> {
    let location = Location::parse(&args.image)?;
    let name = args.name.as_deref().map(target).transpose()?;
    let named = name.clone().map(Location::Registry);
    let places = places(root, &args.registry, [named.as_ref().unwrap_or(&location)])?;
    let pushing = async {
        match &location {
            Location::Named(image) => {
                let name = name.map_or_else(|| own_name(places.store()?.layout(), image), Ok)?;
                stored(&places, image, name).await
            }
            Location::Registry(_)
            | Location::Layout(..)
            | Location::OciArchive(..)
            | Location::DockerArchive(..) => {
                let source = Source::open(&places, &location, Absent::Refuse).await?;
                let name = name.or_else(|| source.names.first().cloned()).ok_or_else(|| {
                    let why = "the image has no name there";
                    Failure::new(
                        Class::Usage,
                        &["no name to push to", &args.image, why, "write `xbuild push IMAGE NAME`"],
                    )
                })?;
                let shown = name.clone().with_default_tag();
                let written = images::write(&places, source, &Location::Registry(name)).await?;
                tell(&format!("pushed {shown}"));
                print(&format!("{}\n", written.digest))
            }
        }
    };
    super::await_result(pushing)
}

/// Pushes an image of the store.
async fn stored(places: &Places, image: &str, name: Reference) -> Result<(), Failure> {
    let store = places.store()?;
    let content = images::stored(places, &image::find(store.layout(), image)?).await?;
    let pushed = send::send(store, places.registries(), &content, &[name], &There::new()).await?;
    pushed.iter().try_for_each(|pushed| print(&format!("{}\n", pushed.digest)))
}

/// The name of an image of the store as a place to push to: a digest by which it is found, in full or shortened, is
/// none.
fn own_name(layout: &Layout, image: &str) -> Result<Reference, Failure> {
    image::find(layout, image)?;
    if layout.resolve(image)?.is_some() || !image::called(layout, image)?.is_empty() {
        return reference(image);
    }
    let fix = "write `xbuild push IMAGE NAME`";
    Err(Failure::new(Class::Usage, &["no name to push to", image, "a digest has none", fix]))
}

/// A name to push to, with or without `docker://`.
fn target(name: &str) -> Result<Reference, Failure> {
    match Location::parse(name)? {
        Location::Registry(reference) => Ok(reference),
        _ => reference(name),
    }
}
