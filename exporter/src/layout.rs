//! An image into an OCI image layout directory.

use std::path::Path;

use oci::document::{self, Descriptor};
use oci::{Layout, Reference};

use crate::closure;
use crate::error::Result;

/// Copies the image `root` of `layout` into the OCI layout at `destination`, which is made where it is missing and
/// added to where it is there. The index comes last, so the layout is valid at every moment.
///
/// Blobs are copied, not linked: a link would let an edit there damage the store.
///
/// # Errors
/// [`Error::Oci`] for missing or damaged blobs, [`Error::Io`].
pub fn write(layout: &Layout, root: &Descriptor, names: &[Reference], destination: &Path) -> Result<()> {
    let closure = closure::of(layout, root)?;
    let target = Layout::create(destination)?;
    for (digest, size) in &closure.blobs {
        if target.size(digest)? == Some(*size) {
            continue;
        }
        let descriptor = document::descriptor("application/octet-stream", *digest, *size);
        target.copy_from(layout, &descriptor)?;
    }
    let names = export_names(names);
    if names.is_empty() {
        target.list(root)?
    } else {
        target.tag_as(&names, root)?
    }
    Ok(())
}

/// Full name and `ref.name` of each reference, as BuildKit's exports have them: the tag alone is what
/// `skopeo copy oci-archive:FILE:TAG` asks for.
pub(crate) fn export_names(names: &[Reference]) -> Vec<(String, String)> {
    let tagged = names.iter().map(|name| name.clone().with_default_tag());
    tagged.map(|name| (name.to_string(), name.tag.clone().unwrap_or_default())).collect()
}
