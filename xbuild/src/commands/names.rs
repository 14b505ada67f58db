//! `xbuild tag` and `xbuild rmi`: names of images.

use oci::layout::Layout;
use oci::reference::Reference;

use super::print;
use crate::args::{RmiArgs, TagArgs};
use crate::failure::{Class, Failure};
use crate::image;

/// Gives an image a further name.
///
/// # Errors
/// Where the image is not in the store or the name is none.
pub fn tag(layout: &Layout, args: &TagArgs) -> Result<(), Failure> {
    let reference: Reference = args
        .name
        .parse()
        .map_err(|error| Failure::new(Class::Usage, &["unusable name", &args.name, &format!("{error}")]))?;
    let descriptor = image::find(layout, &args.image)?;
    Ok(layout.tag(&reference, &descriptor)?)
}

/// Takes names away. Layers that no name needs any more stay as cache.
///
/// # Errors
/// The first name that is not in the store; the names before it are gone then.
pub fn remove(layout: &Layout, args: &RmiArgs) -> Result<(), Failure> {
    for name in &args.images {
        let named = match layout.resolve(name)? {
            Some(_) => vec![name.clone()],
            None => {
                let descriptor = image::find(layout, name)?;
                let all = layout.names()?.into_iter();
                all.filter(|named| named.descriptor.digest() == descriptor.digest())
                    .map(|named| named.name)
                    .collect()
            }
        };
        for name in named {
            layout.untag(&name)?;
            print(&format!("untagged {name}\n"))?;
        }
    }
    Ok(())
}
