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
    label(&target, root, &labels(names))
}

/// Lists `root` in the index of `target` under `labels`, or without a name where there are none.
///
/// # Errors
/// [`Error::Oci`].
pub fn label(target: &Layout, root: &Descriptor, labels: &[Label]) -> Result<()> {
    if labels.is_empty() {
        return Ok(target.list(root)?);
    }
    let full = labels.iter().filter_map(|label| Some((label.full.clone()?, label.ref_name.clone())));
    let full: Vec<_> = full.collect();
    if !full.is_empty() {
        target.tag_as(&full, root)?;
    }
    let mut short = labels.iter().filter(|label| label.full.is_none());
    short.try_for_each(|label| Ok(target.tag_ref(&label.ref_name, root)?))
}

/// How an entry of a layout's index is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The full name, where there is one.
    pub full: Option<String>,
    /// `org.opencontainers.image.ref.name`.
    pub ref_name: String,
}

/// Returns the labels of each name, as BuildKit's exports have them: the tag alone is what
/// `skopeo copy oci-archive:FILE:TAG` asks for.
pub fn labels(names: &[Reference]) -> Vec<Label> {
    let tagged = names.iter().map(|name| name.clone().with_default_tag());
    let label =
        |name: Reference| Label { full: Some(name.to_string()), ref_name: name.tag.unwrap_or_default() };
    tagged.map(label).collect()
}
