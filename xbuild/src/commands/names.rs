//! `xbuild tag` and `xbuild rmi`: names of images.

use std::path::PathBuf;

use oci::Digest;
use oci::layout::Layout;
use oci::reference::Reference;

use super::print;
use crate::args::{RmiArgs, TagArgs};
use crate::failure::Failure;
use crate::image;
use crate::images::{self, Absent, Source};
use crate::location::Location;

/// Gives an image a further name; one of another place comes into the store for it.
///
/// # Errors
/// Where there is no such image or the name is none.
pub fn tag(args: &TagArgs, root: PathBuf) -> Result<(), Failure> {
    let name = super::reference(&args.name)?;
    match Location::parse(&args.image)? {
        Location::Named(image) => {
            let store = crate::open_to_write(&root)?;
            Ok(store.layout().tag(&name, &image::find(store.layout(), &image)?)?)
        }
        location => {
            let places = super::places(root, &args.registry, [&location])?;
            let copying = async {
                let mut source = Source::open(&places, &location, Absent::Refuse).await?;
                images::into_store(&places, &mut source, &[name]).await.map(drop)
            };
            super::await_result(copying)
        }
    }
}

/// Takes names away. Layers that no name needs any more stay as cache.
///
/// # Errors
/// The first name that is not in the store; the names before it are gone then.
pub fn remove(layout: &Layout, args: &RmiArgs) -> Result<(), Failure> {
    for name in &args.images {
        if layout.resolve(name)?.is_some() {
            untag(layout, name)?;
            continue;
        }
        let found = image::find(layout, name)?;
        match name.parse::<Reference>() {
            Ok(named) if named.digest.is_some() => untag_all(layout, name, named.tag.as_deref())?,
            Ok(_) | Err(_) => remove_all(layout, &image::digest(&found)?)?,
        }
    }
    Ok(())
}

/// Takes away the names of a repository that stand for a digest: that with the tag, where one is given.
fn untag_all(layout: &Layout, name: &str, tag: Option<&str>) -> Result<(), Failure> {
    let mut called = image::called(layout, name)?;
    called.retain(|(named, _)| tag.is_none() || named.tag.as_deref() == tag);
    if called.is_empty() {
        return Err(image::unknown(name));
    }
    called.iter().try_for_each(|(named, _)| untag(layout, &named.to_string()))
}

/// Takes away every name of an image, and its entry without one.
fn remove_all(layout: &Layout, digest: &Digest) -> Result<(), Failure> {
    let shown = digest.to_string();
    let of_image = layout.names()?.into_iter().filter(|named| named.descriptor.digest().as_ref() == shown);
    for named in of_image {
        if named.name.is_empty() {
            layout.unlist(digest)?;
            print(&format!("removed {shown}\n"))?;
        } else {
            untag(layout, &named.name)?;
        }
    }
    Ok(())
}

fn untag(layout: &Layout, name: &str) -> Result<(), Failure> {
    layout.untag(name)?;
    print(&format!("untagged {name}\n"))
}
