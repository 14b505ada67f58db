//! From solved steps to images: documents, durability, names, outputs, push.

use std::collections::BTreeMap;
use std::sync::Arc;

use exporter::{Addition, Assembly, Layer as ImageLayer};
use frontend::graph::{ImageDefinition, Joint, StepId};
use oci::media_type::Types;
use oci::{Platform, document};
use solver::Solved;

use super::Session;
use super::output;
use super::push::{self, Ahead};
use crate::commands::print;
use crate::failure::{Class, Failure};
use crate::image::{self, StoredImage};
use crate::options::{Annotation, Form, Place, annotation, usage};
use crate::registries::Registries;
use crate::worker::error::StepError;
use crate::worker::layer::{Blob, Stack};
use crate::worker::{BuildWorker, Snapshot};

/// An image of the build.
pub struct Part {
    /// Its platform, normalised.
    pub platform: Platform,
    /// Its documents.
    pub image: StoredImage,
    /// Its layers.
    pub stack: Stack,
}

/// What the build made.
pub struct Made {
    /// The images, in the order of the platforms.
    pub parts: Vec<Part>,
    /// What the names stand for: the one image, or the index of all.
    pub root: StoredImage,
}

/// Makes the images and brings them where the options say.
pub async fn finish(
    session: &Session,
    worker: &Arc<BuildWorker>,
    registries: &Arc<Registries>,
    joint: &Joint,
    solved: &Solved<Snapshot>,
    ahead: Option<Ahead>,
) -> Result<(), Failure> {
    let mut parts = Vec::with_capacity(joint.images.len());
    for image in &joint.images {
        parts.push(part(session, worker, image, solved).await?);
    }
    let made = Made { root: root(session, &parts)?, parts };
    worker.layers.keep().await.map_err(|error| Failure::from(&error))?;
    session.store.make_durable()?;
    for name in &session.options.tags {
        session.store.layout().tag(name, &made.root.descriptor)?;
    }
    if session.options.tags.is_empty() && session.options.outputs.is_empty() {
        session.store.layout().list(&made.root.descriptor)?;
    }
    announce(session, &made);
    for output in &session.options.outputs {
        output::write(session, worker, &made, output).await?;
    }
    if session.options.load {
        output::load(session, &made.root)?;
    }
    if let Some(ahead) = ahead {
        push::finish(session, registries, &made.root.descriptor, ahead).await?;
    }
    describe(session, &made)
}

/// Refuses annotations for platforms that are not built, before anything is.
///
/// # Errors
/// A usage failure that names the platforms there are.
pub fn check_annotations(annotations: &[Annotation], joint: &Joint) -> Result<(), Failure> {
    let built: Vec<Platform> = joint.images.iter().map(|image| image.platform.normalize()).collect();
    for annotation in annotations {
        if let Some(platform) = annotation.platform.as_ref().filter(|platform| !built.contains(platform)) {
            let names: Vec<_> = built.iter().map(Platform::full).collect();
            let flag = format!("--annotation manifest[{}]:{}", platform.full(), annotation.key);
            let why = format!("nothing is built for that platform, only for {}", names.join(", "));
            return Err(usage(&flag, &why, "name one of them, or leave the platform out"));
        }
    }
    Ok(())
}

async fn part(
    session: &Session,
    worker: &Arc<BuildWorker>,
    image: &ImageDefinition,
    solved: &Solved<Snapshot>,
) -> Result<Part, Failure> {
    let failed = |error: StepError| Failure::from(&error);
    let stack = target_stack(image, solved);
    let mut blobs = Vec::with_capacity(stack.len());
    for layer in stack.iter() {
        blobs.push(worker.layers.blob(layer).await.map_err(failed)?);
    }
    if needs_all_blobs(session) {
        let downloads = blobs.iter().map(|blob| worker.layers.download(blob));
        futures_util::future::try_join_all(downloads).await.map_err(failed)?;
    }
    let platform = image.platform.normalize();
    let image = assemble(session, image, &platform, solved, &blobs)?;
    Ok(Part { platform, image, stack })
}

/// A push takes base layers from where they are; everything else wants them here.
fn needs_all_blobs(session: &Session) -> bool {
    session.options.pushed().is_empty() || session.options.load || !session.options.outputs.is_empty()
}

fn target_stack(image: &ImageDefinition, solved: &Solved<Snapshot>) -> Stack {
    let snapshot = image.target.and_then(|target| solved.outcomes[&target].snapshot.clone());
    match snapshot {
        Some(Snapshot::Layers(stack)) => stack,
        Some(Snapshot::Local(_)) | None => Arc::from([]),
    }
}

fn assemble(
    session: &Session,
    image: &ImageDefinition,
    platform: &Platform,
    solved: &Solved<Snapshot>,
    blobs: &[Blob],
) -> Result<StoredImage, Failure> {
    let created =
        |id: StepId| solved.outcomes.get(&id).and_then(|outcome| outcome.record.as_ref()).map(|r| r.created);
    let (base, own) = blobs.split_at(image.config.rootfs.diff_ids.len().min(blobs.len()));
    let mut own = own.iter();
    let additions = image.history.iter().map(|entry| {
        let layer = entry.step.and_then(|_| own.next());
        let created = entry.step.and_then(created).map(rfc3339);
        Addition {
            history: oci::History { created, ..entry.history.clone() },
            layer: layer
                .map(|blob| ImageLayer { diff_id: blob.diff_id, descriptor: blob.descriptor.clone() }),
        }
    });
    let annotations = |place| annotation::of(&session.options.annotations, place, Some(platform));
    let made = exporter::assemble(Assembly {
        config: image.config.clone(),
        base: base.iter().map(|blob| blob.descriptor.clone()).collect(),
        additions: additions.collect(),
        created: image.source_date_epoch.map(rfc3339),
        annotations: annotations(Place::Manifest),
        types: Types::Oci,
    })?;
    made.store(session.store.layout())?;
    let descriptor = annotated(made.descriptor(), annotations(Place::ManifestDescriptor));
    Ok(StoredImage { descriptor, manifest: made.manifest, config: made.config })
}

/// Returns what names will stand for.
fn root(session: &Session, parts: &[Part]) -> Result<StoredImage, Failure> {
    let host = Platform::host();
    let best = parts.iter().min_by_key(|part| host.rank(&part.platform).unwrap_or(usize::MAX));
    let best = &best.expect("a build makes at least one image").image;
    match session.options.form {
        Form::Image => Ok(best.clone()),
        Form::Index => {
            let entries: Vec<_> = parts.iter().map(|part| part.image.descriptor.clone()).collect();
            let annotations = |place| annotation::of(&session.options.annotations, place, None);
            let index = exporter::index(&entries, &annotations(Place::Index), Types::Oci)?;
            session.store.layout().put(&index.raw)?;
            let descriptor = index.descriptor(Types::Oci.index());
            let descriptor = annotated(descriptor, annotations(Place::IndexDescriptor));
            Ok(StoredImage { descriptor, ..best.clone() })
        }
    }
}

fn annotated(
    mut descriptor: document::Descriptor,
    annotations: BTreeMap<String, String>,
) -> document::Descriptor {
    if !annotations.is_empty() {
        descriptor.set_annotations(Some(annotations.into_iter().collect()));
    }
    descriptor
}

/// A time in seconds since the epoch, as documents have it.
fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

fn announce(session: &Session, made: &Made) {
    match session.options.form {
        Form::Image => session.progress.note(format!("image {}", made.root.descriptor.digest())),
        Form::Index => {
            for Part { platform, image, .. } in &made.parts {
                session.progress.note(format!("image {} for {}", image.descriptor.digest(), platform.full()));
            }
            session.progress.note(format!("index {}", made.root.descriptor.digest()));
        }
    }
    for name in &session.options.tags {
        session.progress.note(format!("tagged {}", name.clone().with_default_tag()));
    }
}

/// Writes the digest where the options want it.
fn describe(session: &Session, made: &Made) -> Result<(), Failure> {
    let digest = image::digest(&made.root.descriptor)?;
    if let Some(path) = &session.options.iidfile {
        write(path, &digest.to_string())?;
    }
    if let Some(path) = &session.options.metadata_file {
        write(path, &metadata(session, made)?)?;
    }
    if session.options.quiet { print(&format!("{digest}\n")) } else { Ok(()) }
}

/// The keys are BuildKit's; `xbuild.platforms`, which has those of each image of an index, is ours.
fn metadata(session: &Session, made: &Made) -> Result<String, Failure> {
    let tags = session.options.tags.iter().map(|name| name.clone().with_default_tag().to_string());
    // What was pushed by digest goes by its repository, as with BuildKit.
    let names: Vec<_> = tags.chain(session.options.by_digest.iter().map(ToString::to_string)).collect();
    let mut value = match session.options.form {
        Form::Image => of_image(&made.root)?,
        Form::Index => {
            let images = made.parts.iter();
            let images = images.map(|part| Ok((part.platform.full(), of_image(&part.image)?)));
            let images = images.collect::<Result<serde_json::Map<_, _>, Failure>>()?;
            let mut value = of_descriptor(&made.root);
            value["xbuild.platforms"] = images.into();
            value
        }
    };
    if !names.is_empty() {
        value["image.name"] = names.join(",").into();
    }
    Ok(format!("{value:#}\n"))
}

fn of_image(image: &StoredImage) -> Result<serde_json::Value, Failure> {
    let config = document::digest_of(image.manifest.parsed.config()).map_err(oci::Error::from)?;
    let mut value = of_descriptor(image);
    value["containerimage.config.digest"] = config.to_string().into();
    Ok(value)
}

fn of_descriptor(image: &StoredImage) -> serde_json::Value {
    let descriptor = &image.descriptor;
    let mut value = serde_json::json!({
        "mediaType": descriptor.media_type().to_string(),
        "digest": descriptor.digest().to_string(),
        "size": descriptor.size(),
    });
    if let Some(annotations) = descriptor.annotations() {
        value["annotations"] = serde_json::json!(annotations);
    }
    serde_json::json!({
        "containerimage.digest": descriptor.digest().to_string(),
        "containerimage.descriptor": value,
    })
}

fn write(path: &std::path::Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| {
        let class = crate::failure::io_class(&error, Class::Usage);
        Failure::new(class, &["cannot write", &path.display().to_string(), &error.to_string()])
    })
}
