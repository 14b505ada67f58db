//! `xbuild index create`: images that were built apart become one index of several platforms.
//!
//! Documents are read and kept in the store; layers stay in the registries that they are in, until a push to another
//! one needs them.

mod append;
mod merge;

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci::Platform;
use oci::document::{self, Descriptor, Index, Root};
use oci::media_type;
use oci::reference::Reference;
use oci::store::{Lease, Store};

use self::merge::{Entry, Second};
use super::send::{self, There};
use super::{places, print};
use crate::args::IndexCreateArgs;
use crate::failure::{Class, Failure};
use crate::images::{self, Absent, Contents, Places, Source, gather};
use crate::location::Location;
use crate::options::{Annotation, Place, annotation, usage};

/// What is to be made.
struct Request {
    sources: Vec<Location>,
    names: Vec<Reference>,
    annotations: Vec<Annotation>,
    second: Second,
    /// Where the index that is added to is.
    base: Option<Location>,
    push: bool,
}

/// Makes the index; prints its digest.
///
/// # Errors
/// Usage failures, source failures of images, push failures.
pub fn create(args: &IndexCreateArgs, root: PathBuf) -> Result<(), Failure> {
    let request = Request::new(args)?;
    let targets: Vec<_> = request.names.iter().cloned().map(Location::Registry).collect();
    let places = places(root, &args.registry, request.sources.iter().chain(&targets))?;
    let making = request.make(&places);
    let digest = super::await_result(making)?;
    print(&format!("{digest}\n"))
}

impl Request {
    fn new(args: &IndexCreateArgs) -> Result<Self, Failure> {
        let names: Vec<Reference> =
            args.tag.iter().map(|name| super::reference(name)).collect::<Result<_, _>>()?;
        let mut distinct: Vec<Reference> = Vec::new();
        for name in names.into_iter().map(Reference::with_default_tag) {
            if !distinct.contains(&name) {
                distinct.push(name);
            }
        }
        let names = distinct;
        let nameless = |flag: &str, why: &str| Err(usage(flag, why, "give a name with -t"));
        if args.push && names.is_empty() {
            return nameless("--push", "there is no name to push to");
        }
        let base = match (args.append, names.first(), args.push) {
            (false, _, _) => None,
            (true, None, _) => return nameless("--append", "there is no index to add to"),
            (true, Some(name), true) => Some(Location::Registry(name.clone())),
            (true, Some(name), false) => Some(Location::Named(name.to_string())),
        };
        Ok(Self {
            sources: args.images.iter().map(|text| Location::parse(text)).collect::<Result<_, _>>()?,
            annotations: annotations(&args.annotation)?,
            second: if args.append { Second::Replace } else { Second::Refuse },
            push: args.push,
            names,
            base,
        })
    }

    async fn make(&self, places: &Places) -> Result<String, Failure> {
        let store = places.store()?;
        let lease = store.lease()?;
        let mut given = Vec::new();
        for location in &self.sources {
            given.extend(entries(places, location, &lease).await?.0);
        }
        let index = match &self.base {
            Some(Location::Registry(name)) => append::to_registry(self, places, &lease, name, &given).await?,
            base => {
                let base = base.as_ref().filter(|_| self.is_named(store));
                let (mut all, kept) = match base {
                    Some(base) => entries(places, base, &lease).await?,
                    None => (Vec::new(), BTreeMap::new()),
                };
                all.extend(given);
                self.index(merge::merge(all, self.second)?, kept)?
            }
        };
        store.layout().put_document(&index)?;
        store.make_durable()?;
        let descriptor = index.descriptor(Root::Index(index.clone()).media_type());
        for name in &self.names {
            store.layout().tag(name, &descriptor)?;
        }
        if self.names.is_empty() {
            store.layout().list(&descriptor)?;
        }
        // The name that was added to has it already; by now somebody else may have added more.
        let there = matches!(self.base, Some(Location::Registry(_)));
        let rest = &self.names[usize::from(there)..];
        if self.push && !rest.is_empty() {
            let content = images::stored(places, &descriptor).await?;
            send::send(store, places.registries(), &content, rest, &There::new()).await?;
        }
        Ok(index.digest.to_string())
    }

    /// Whether the store has something under the name that is added to.
    fn is_named(&self, store: &Store) -> bool {
        let name = self.names.first().map(ToString::to_string).unwrap_or_default();
        store.layout().resolve(&name).is_ok_and(|found| found.is_some())
    }

    /// Makes the index of `entries`, with the annotations that were there and those that are given.
    fn index(&self, entries: Vec<Entry>, kept: BTreeMap<String, String>) -> Result<Index, Failure> {
        self.check_annotations(&entries)?;
        let mut of_index = kept;
        of_index.extend(annotation::of(&self.annotations, Place::Index, None));
        let annotated: Vec<Descriptor> =
            entries.iter().map(|entry| annotated(&entry.descriptor, &self.annotations)).collect();
        let any = !of_index.is_empty() || annotated.iter().any(|entry| entry.annotations().is_some());
        Ok(exporter::index(&annotated, &of_index, merge::types(&entries, any))?)
    }

    /// Refuses annotations of platforms that the index does not have.
    fn check_annotations(&self, entries: &[Entry]) -> Result<(), Failure> {
        let images = entries.iter().filter(|entry| !document::is_attestation(&entry.descriptor));
        let platforms: Vec<Platform> = images
            .filter_map(|entry| document::platform_of(&entry.descriptor))
            .map(|platform| platform.normalize())
            .collect();
        for platform in self.annotations.iter().filter_map(|annotation| annotation.platform.as_ref()) {
            if !platforms.contains(platform) {
                let names: Vec<_> = platforms.iter().map(Platform::full).collect();
                let flag = format!("--annotation manifest-descriptor[{}]", platform.full());
                let why = format!("the index has no such platform, only {}", names.join(", "));
                return Err(usage(&flag, &why, "name one of them"));
            }
        }
        Ok(())
    }
}

/// Parses annotations; without a type they are the index's, since manifests stay as they are.
fn annotations(texts: &[String]) -> Result<Vec<Annotation>, Failure> {
    let mut all = Vec::new();
    for text in texts {
        for annotation in annotation::parse("--annotation", text)? {
            let refused =
                |why| Err(usage(&format!("--annotation {text}"), why, "use index or manifest-descriptor"));
            match annotation.place {
                None | Some(Place::Index) => all.push(Annotation { place: Some(Place::Index), ..annotation }),
                Some(Place::ManifestDescriptor) => all.push(annotation),
                Some(Place::Manifest) => return refused("an index leaves its manifests as they are"),
                Some(Place::IndexDescriptor) => return refused("nothing lists the index"),
            }
        }
    }
    Ok(all)
}

/// Adds what is said of an image to its entry; attestations are about images, not for a platform.
fn annotated(descriptor: &Descriptor, annotations: &[Annotation]) -> Descriptor {
    let mut descriptor = descriptor.clone();
    if document::is_attestation(&descriptor) {
        return descriptor;
    }
    let platform = document::platform_of(&descriptor).map(|platform| platform.normalize());
    let said = annotation::of(annotations, Place::ManifestDescriptor, platform.as_ref());
    if !said.is_empty() {
        let mut all = descriptor.annotations().clone().unwrap_or_default();
        all.extend(said);
        descriptor.set_annotations(Some(all));
    }
    descriptor
}

/// Opens an image, brings its documents into the store, and returns its entries and the annotations of its index.
async fn entries(
    places: &Places,
    location: &Location,
    lease: &Lease,
) -> Result<(Vec<Entry>, BTreeMap<String, String>), Failure> {
    let mut source = Source::open(places, location, Absent::AskRegistry).await?;
    let contents = gather(places, &mut source, lease).await?;
    check_lists(&contents, &source.shown)?;
    let mut entries = Vec::new();
    for listed in &contents.listed {
        entries.push(labelled(&source, &contents, listed.clone()).await?);
    }
    let annotations = match &source.root {
        Root::Index(index) => index.parsed.annotations().clone().unwrap_or_default().into_iter().collect(),
        Root::Manifest(_) => BTreeMap::new(),
    };
    Ok((entries, annotations))
}

/// Refuses indexes that list other things than images.
fn check_lists(contents: &Contents, shown: &str) -> Result<(), Failure> {
    let mut listed = contents.indexes().flat_map(|index| index.parsed.manifests());
    match listed.find(|entry| media_type::manifest_kind(entry.media_type().as_ref()).is_none()) {
        Some(other) => {
            let why = format!("it lists {:?}", other.media_type().to_string());
            Err(Failure::new(Class::Source, &["no index of images", shown, &why]))
        }
        None => Ok(()),
    }
}

/// An entry with its platform: as the index says it, else as the image's config does.
async fn labelled(source: &Source, contents: &Contents, listed: Descriptor) -> Result<Entry, Failure> {
    let from = source.shown.clone();
    if document::is_attestation(&listed) || document::platform_of(&listed).is_some() {
        return Ok(Entry { descriptor: listed, from });
    }
    let manifest =
        contents.manifests().find(|manifest| manifest.digest.to_string() == listed.digest().as_ref());
    let config = source.config(manifest.expect("what is listed was read")).await?.parsed;
    if config.os.is_empty() || config.architecture.is_empty() {
        let why = "its config names no operating system or no architecture";
        return Err(Failure::new(Class::Source, &["image without a platform", &from, why]));
    }
    let platform = config.platform().normalize();
    Ok(Entry { descriptor: document::labelled(listed, &platform), from })
}
