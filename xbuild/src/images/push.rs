//! An image into a repository of a registry: blobs stay where they are until the registry has no other way to them.

use oci::document::{self, Descriptor};
use oci::reference::Reference;
use oci::registry::{Problem, PushBlob, PushDocument, PushImage, Pushed, plan_push};

use super::contents::Contents;
use super::place::Place;
use super::source::Source;
use super::written::{Written, check_digest};
use super::{Places, damage};
use crate::failure::{Class, Failure};

/// Describes an image for a push under `tags`.
///
/// # Errors
/// Where a blob is nowhere to be had.
fn described(source: &Source, contents: &Contents, tags: &[String]) -> Result<PushImage, Failure> {
    let mut image = PushImage::default();
    for (digest, descriptor) in &contents.blobs {
        image.blobs.push(PushBlob {
            digest: *digest,
            size: descriptor.size(),
            media_type: descriptor.media_type().to_string(),
            urls: descriptor.urls().clone().unwrap_or_default(),
            source: source.blob(descriptor)?.into_source(),
            found_in: source.found_in(digest),
        });
    }
    let root = document::digest_of(&contents.root).map_err(oci::Error::from)?;
    for known in &contents.documents {
        image.documents.push(PushDocument {
            raw: known.raw().clone(),
            digest: known.digest(),
            media_type: known.media_type().to_owned(),
            tags: if known.digest() == root { tags.to_vec() } else { Vec::new() },
        });
    }
    Ok(image)
}

/// Describes the image of the store that `root` stands for, for pushes that say its tags.
///
/// # Errors
/// Where a document or a blob is nowhere to be had.
pub async fn stored(places: &Places, root: &Descriptor) -> Result<PushImage, Failure> {
    let source = Source::stored(places, root)?;
    described(&source, &Contents::of(&source).await?, &[])
}

/// Sends all of `source` to the repository of `name`, under its tag.
async fn push(places: &Places, source: &Source, name: &Reference) -> Result<Pushed, Failure> {
    let contents = Contents::of(source).await?;
    let tags: Vec<String> = name.tag.iter().cloned().collect();
    let plan = plan_push(name, &described(source, &contents, &tags)?);
    places.client()?.push(&plan).await.map_err(|error| match (&source.place, &*error.problem) {
        (Place::Store(store), Problem::Damaged { .. }) => damage::pushed(store, error),
        // Not the registry's turn: what was to be sent is not what it should be.
        (_, Problem::Damaged { .. } | Problem::Source { .. }) => {
            Failure { class: Class::Source, ..error.into() }
        }
        _ => error.into(),
    })
}

/// Copies all of `source` to `name`; a name with a digest and no tag gets none.
pub(super) async fn copy(places: &Places, source: &Source, name: &Reference) -> Result<Written, Failure> {
    if let Some(digest) = name.digest {
        check_digest(&name.to_string(), digest, source.root.digest())?;
    }
    let name = name.clone().with_default_tag();
    let pushed = push(places, source, &name).await?;
    Ok(Written { digest: pushed.digest, names: vec![format!("docker://{name}")] })
}
