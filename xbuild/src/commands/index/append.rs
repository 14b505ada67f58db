//! Adding to the index that a tag stands for in a registry, while others do the same.
//!
//! A registry knows no conditions: who writes a tag replaces what was there. So everything but the index is sent before
//! the index is read; between reading and writing there are two requests. Who has written waits for longer than that and
//! looks: a job that read before we wrote has written by then, and what it did not know of is added again. That goes on
//! until what we wrote stands; whoever writes last has seen the others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use oci::document::{self, Descriptor, Index, Root};
use oci::reference::Reference;
use oci::registry::{PushDocument, PushImage, plan_push};
use oci::store::Lease;

use super::merge::{self, Entry};
use super::{Request, entries};
use crate::failure::{Class, Failure};
use crate::images::{self, Places};
use crate::location::Location;

/// How often the index is made anew because somebody else changed the tag.
const ATTEMPTS: u32 = 20;

/// How long a written tag is left alone before it is looked at, at least.
const SETTLING: Duration = Duration::from_millis(500);

/// Adds `given` to what `name` stands for; returns the index that it stands for then.
///
/// # Errors
/// Push failures, also where others change the tag again and again.
pub async fn to_registry(
    request: &Request,
    places: &Places,
    lease: &Lease,
    name: &Reference,
    given: &[Entry],
) -> Result<Index, Failure> {
    let client = places.client()?;
    client.push(&plan_push(name, &content(places, given).await?)).await?;
    for attempt in 0..ATTEMPTS {
        let begun = Instant::now();
        let (mut all, kept) = base(places, lease, name).await?;
        all.extend(given.iter().cloned());
        let index = request.index(merge::merge(all, request.second)?, kept)?;
        client.push(&plan_push(name, &alone(&index, name))).await?;
        tokio::time::sleep(pause(begun.elapsed(), &index, attempt)).await;
        if stands(&client.root(name).await?, &index) {
            // What others have sent is wanted in the store too, and under the names that follow.
            entries(places, &Location::Registry(name.with_digest(index.digest)), lease).await?;
            return Ok(index);
        }
        places.tell(format!("{name} was changed meanwhile; what is missing is added again"));
    }
    let why = format!("others changed it {ATTEMPTS} times");
    Err(Failure::new(
        Class::Push,
        &["cannot add to the index", &name.to_string(), &why, "repeat the command when they are done"],
    ))
}

/// The manifests of the entries with their blobs, without an index or a tag.
async fn content(places: &Places, given: &[Entry]) -> Result<PushImage, Failure> {
    let mut all = PushImage::default();
    for entry in given {
        let image = images::stored(places, &entry.descriptor).await?;
        all.blobs.extend(image.blobs);
        all.documents.extend(image.documents);
    }
    Ok(all)
}

/// The index without what it lists, which is there.
fn alone(index: &Index, name: &Reference) -> PushImage {
    let document = PushDocument {
        raw: index.raw.clone(),
        digest: index.digest,
        media_type: Root::Index(index.clone()).media_type().to_owned(),
        tags: name.tag.iter().cloned().collect(),
    };
    PushImage { blobs: Vec::new(), documents: vec![document] }
}

/// What the tag stands for now; where it does not exist yet, nothing.
async fn base(
    places: &Places,
    lease: &Lease,
    name: &Reference,
) -> Result<(Vec<Entry>, BTreeMap<String, String>), Failure> {
    let index = match places.client()?.root(name).await {
        Ok(Root::Index(index)) => index,
        Ok(Root::Manifest(_)) => return entries(places, &Location::Registry(name.clone()), lease).await,
        Err(error) if error.is_unknown_image() => return Ok((Vec::new(), BTreeMap::new())),
        Err(error) => return Err(error.into()),
    };
    let listed = index.parsed.manifests();
    if listed.iter().any(|entry| document::platform_of(entry).is_none()) {
        // What says no platform has to be looked into.
        return entries(places, &Location::Registry(name.clone()), lease).await;
    }
    let from = format!("docker://{name}");
    let entry = |descriptor: &Descriptor| Entry { descriptor: descriptor.clone(), from: from.clone() };
    let annotations = index.parsed.annotations().clone().unwrap_or_default();
    Ok((listed.iter().map(entry).collect(), annotations.into_iter().collect()))
}

/// Longer than anybody takes between reading and writing; different for every job, so that two do not keep step.
fn pause(took: Duration, index: &Index, attempt: u32) -> Duration {
    let seed = format!("{} {} {attempt}", std::process::id(), index.digest);
    let random =
        u32::from_le_bytes(blake3::hash(seed.as_bytes()).as_bytes()[..4].try_into().expect("four bytes"));
    let least = SETTLING.max(took * 3);
    least + least.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// Whether what we wrote is still there: all that it listed, or another image in the place of one, which then was
/// meant to be.
fn stands(found: &Root, ours: &Index) -> bool {
    let Root::Index(found) = found else { return false };
    let found = found.parsed.manifests();
    ours.parsed.manifests().iter().all(|entry| {
        let platform = document::platform_of(entry);
        found.iter().any(|other| {
            other.digest() == entry.digest()
                || (!document::is_attestation(entry) && document::platform_of(other) == platform)
        }) || document::is_attestation(entry)
    })
}
