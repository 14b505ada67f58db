//! `xbuild pull` and `xbuild push`: images between the store and registries.

use std::collections::BTreeMap;
use std::sync::Arc;

use oci::document::{self, Descriptor, Root};
use oci::reference::Reference;
use oci::registry::{BlobSource, PushBlob, PushDocument, PushImage, Pushed, plan_push};
use oci::{Platform, Store};

use super::print;
use crate::args::{PullArgs, PushArgs, RegistryArgs};
use crate::bases::{self, Bases, Pull};
use crate::failure::{Class, Failure};
use crate::image::{self, StoredImage};
use crate::options::RegistryOptions;
use crate::worker::build::Build;
use crate::worker::layer::Layers;
use crate::worker::registries::Registries;

/// Fetches an image whole and tags it.
///
/// # Errors
/// Source failures.
pub fn pull(args: &PullArgs, store: Store) -> Result<(), Failure> {
    let store = Arc::new(store);
    let reference: Reference = parse(&args.image)?;
    let platform = match &args.platform {
        Some(text) => text.parse().map_err(|error| {
            Failure::new(
                Class::Usage,
                &["unusable platform", text, &format!("{error}"), "write os/arch[/variant]"],
            )
        })?,
        None => Platform::host(),
    };
    let registries = registries(&args.registry)?;
    let bases = Bases::new(Arc::clone(&store), Arc::clone(&registries), Pull::Always);
    let layers = Layers::new(Arc::clone(&store), Arc::new(Build::new(Arc::clone(&store))), registries);
    let image = crate::runtime()?.block_on(async {
        let image = bases.resolve(&reference, &platform).await?;
        complete(&bases, &layers, &image, &reference).await?;
        Ok::<_, Failure>(image)
    })?;
    store.make_durable()?;
    store.layout().tag(&reference, &image.descriptor)?;
    print(&format!("{}\n", image.descriptor.digest()))
}

/// Downloads the layers of an image that the store lacks.
///
/// # Errors
/// Source failures.
pub async fn complete(
    bases: &Bases,
    layers: &Layers,
    image: &StoredImage,
    reference: &Reference,
) -> Result<(), Failure> {
    let failed = |error| Failure::from(&error);
    let stack = bases.stack(&image.manifest.digest, &reference.to_string()).map_err(failed)?;
    let downloads = stack.iter().map(|layer| async move {
        let blob = layers.blob(layer).await?;
        layers.download(&blob).await
    });
    futures_util::future::try_join_all(downloads).await.map_err(failed)?;
    Ok(())
}

/// Sends an image to the registry of its name, or of another.
///
/// # Errors
/// Push failures; the image stays in the store.
pub fn push(args: &PushArgs, store: Store) -> Result<(), Failure> {
    let name = args.name.as_deref().unwrap_or(&args.image);
    let reference: Reference = parse(name)?;
    let image = image::load(store.layout(), &args.image, &Platform::host())?;
    let registries = registries(&args.registry)?;
    let pushed = crate::runtime()?.block_on(send(&store, &registries, &image, &[reference]))?;
    pushed.iter().try_for_each(|pushed| print(&format!("{}\n", pushed.digest)))
}

/// Pushes an image of the store under all of `names`, one push per repository.
///
/// # Errors
/// Push failures, which name the command that repeats only the push.
pub async fn send(
    store: &Store,
    registries: &Registries,
    image: &StoredImage,
    names: &[Reference],
) -> Result<Vec<Pushed>, Failure> {
    let mut repositories: BTreeMap<(String, String), Vec<Reference>> = BTreeMap::new();
    for name in names {
        let name = name.clone().with_default_tag();
        repositories.entry((name.registry.clone(), name.repository.clone())).or_default().push(name);
    }
    let mut pushed = Vec::new();
    for names in repositories.into_values() {
        let content = content(store, image, &names)?;
        let plan = plan_push(&names[0], &content);
        let sent = registries.client()?.push(&plan).await.map_err(|error| {
            let failure = Failure::from(error);
            let again = format!(
                "{} is kept in the store; `xbuild push {} {}` repeats the push alone",
                image.descriptor.digest(),
                image.descriptor.digest(),
                names[0]
            );
            Failure { line: format!("{} — {again}", failure.line), ..failure }
        })?;
        pushed.push(sent);
    }
    Ok(pushed)
}

fn content(store: &Store, image: &StoredImage, names: &[Reference]) -> Result<PushImage, Failure> {
    let mut content = PushImage::default();
    let tags: Vec<String> = names.iter().filter_map(|name| name.tag.clone()).collect();
    add(store, &image.descriptor, &tags, 0, &mut content)?;
    Ok(content)
}

/// Adds a document after all that it names.
fn add(
    store: &Store,
    descriptor: &Descriptor,
    tags: &[String],
    depth: usize,
    content: &mut PushImage,
) -> Result<(), Failure> {
    let root = store.layout().read_root(descriptor)?;
    match &root {
        Root::Manifest(manifest) => {
            for descriptor in manifest.parsed.layers().iter().chain([manifest.parsed.config()]) {
                content.blobs.push(blob(store, descriptor)?);
            }
        }
        Root::Index(_) if depth >= document::INDEX_DEPTH => {
            let origin = descriptor.digest().to_string();
            return Err(oci::Error::document(origin, document::DocumentError::TooDeep).into());
        }
        Root::Index(index) => {
            let mut children = index.parsed.manifests().iter();
            children.try_for_each(|child| add(store, child, &[], depth + 1, content))?;
        }
    }
    content.documents.push(PushDocument {
        raw: root.raw().clone(),
        digest: root.digest(),
        media_type: root.media_type().to_owned(),
        tags: tags.to_vec(),
    });
    Ok(())
}

fn blob(store: &Store, descriptor: &Descriptor) -> Result<PushBlob, Failure> {
    let digest = document::digest_of(descriptor).map_err(oci::Error::from)?;
    let place = bases::place(store, &digest);
    let source = if store.layout().has(&digest)? {
        BlobSource::File(store.layout().blob_path(&digest))
    } else {
        let missing = || oci::Error::MissingBlob { digest, layout: store.layout().root().to_owned() };
        BlobSource::Remote(place.clone().ok_or_else(missing)?)
    };
    Ok(PushBlob {
        digest,
        size: descriptor.size(),
        media_type: descriptor.media_type().to_string(),
        source,
        found_in: place.into_iter().collect(),
    })
}

fn registries(args: &RegistryArgs) -> Result<Arc<Registries>, Failure> {
    Ok(Arc::new(Registries::new(RegistryOptions::new(args)?, |note| super::tell(&note))))
}

fn parse(name: &str) -> Result<Reference, Failure> {
    name.parse().map_err(|error| {
        Failure::new(Class::Usage, &["unusable image name", name, &format!("{error}"), "write NAME[:TAG]"])
    })
}
