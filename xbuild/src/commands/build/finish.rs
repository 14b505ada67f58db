//! From solved steps to an image: documents, durability, names, outputs, push.

use std::sync::Arc;

use exporter::{Addition, Assembly, Layer as ImageLayer};
use frontend::graph::{Definition, StepId};
use oci::document;
use solver::Solved;

use super::Session;
use super::output;
use crate::commands::{print, transfer};
use crate::failure::{Class, Failure};
use crate::image::{self, StoredImage};
use crate::worker::error::StepError;
use crate::worker::layer::{Blob, Stack};
use crate::worker::registries::Registries;
use crate::worker::{BuildWorker, Snapshot};

/// Makes the image and brings it where the options say.
pub async fn finish(
    session: &Session,
    worker: &Arc<BuildWorker>,
    registries: &Arc<Registries>,
    definition: Definition,
    solved: &Solved<Snapshot>,
) -> Result<(), Failure> {
    let failed = |error: StepError| Failure::from(&error);
    let stack = target_stack(&definition, solved);
    let mut blobs = Vec::with_capacity(stack.len());
    for layer in stack.iter() {
        blobs.push(worker.layers.blob(layer).await.map_err(failed)?);
    }
    if needs_all_blobs(session) {
        let downloads = blobs.iter().map(|blob| worker.layers.download(blob));
        futures_util::future::try_join_all(downloads).await.map_err(failed)?;
    }
    let image = assemble(session, &definition, solved, &blobs)?;
    worker.layers.keep().await.map_err(failed)?;
    session.store.make_durable()?;
    for name in &session.options.tags {
        session.store.layout().tag(name, &image.descriptor)?;
    }
    if session.options.tags.is_empty() && session.options.outputs.is_empty() {
        session.store.layout().list(&image.descriptor)?;
    }
    announce(session, &image);
    for output in &session.options.outputs {
        output::write(session, worker, &image, &stack, output).await?;
    }
    if session.options.load {
        output::load(session, &image)?;
    }
    if session.options.push {
        transfer::send(&session.store, registries, &image, &session.options.tags).await?;
        for name in &session.options.tags {
            session.progress.note(format!("pushed {}", name.clone().with_default_tag()));
        }
    }
    describe(session, &image)
}

/// A push takes base layers from where they are; everything else wants them here.
fn needs_all_blobs(session: &Session) -> bool {
    !session.options.push || session.options.load || !session.options.outputs.is_empty()
}

fn target_stack(definition: &Definition, solved: &Solved<Snapshot>) -> Stack {
    let snapshot = definition.target.and_then(|target| solved.outcomes[&target].snapshot.clone());
    match snapshot {
        Some(Snapshot::Layers(stack)) => stack,
        Some(Snapshot::Local(_)) | None => Arc::from([]),
    }
}

fn assemble(
    session: &Session,
    definition: &Definition,
    solved: &Solved<Snapshot>,
    blobs: &[Blob],
) -> Result<StoredImage, Failure> {
    let created =
        |id: StepId| solved.outcomes.get(&id).and_then(|outcome| outcome.record.as_ref()).map(|r| r.created);
    let (base, own) = blobs.split_at(definition.config.rootfs.diff_ids.len().min(blobs.len()));
    let mut own = own.iter();
    let additions = definition.history.iter().map(|entry| {
        let layer = entry.step.and_then(|_| own.next());
        let created = entry.step.and_then(created).map(rfc3339);
        Addition {
            history: oci::History { created, ..entry.history.clone() },
            layer: layer
                .map(|blob| ImageLayer { diff_id: blob.diff_id, descriptor: blob.descriptor.clone() }),
        }
    });
    let made = exporter::assemble(Assembly {
        config: definition.config.clone(),
        base: base.iter().map(|blob| blob.descriptor.clone()).collect(),
        additions: additions.collect(),
        created: definition.source_date_epoch.map(rfc3339),
        annotations: session.options.annotations.iter().cloned().collect(),
        types: oci::media_type::Types::Oci,
    })?;
    made.store(session.store.layout())?;
    Ok(StoredImage { descriptor: made.descriptor(), manifest: made.manifest, config: made.config })
}

/// A time in seconds since the epoch, as documents have it.
fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

fn announce(session: &Session, image: &StoredImage) {
    session.progress.note(format!("image {}", image.descriptor.digest()));
    for name in &session.options.tags {
        session.progress.note(format!("tagged {}", name.clone().with_default_tag()));
    }
}

/// Writes the digest where the options want it.
fn describe(session: &Session, image: &StoredImage) -> Result<(), Failure> {
    let digest = image::digest(&image.descriptor)?;
    if let Some(path) = &session.options.iidfile {
        write(path, &digest.to_string())?;
    }
    if let Some(path) = &session.options.metadata_file {
        write(path, &metadata(session, image)?)?;
    }
    if session.options.quiet { print(&format!("{digest}\n")) } else { Ok(()) }
}

fn metadata(session: &Session, image: &StoredImage) -> Result<String, Failure> {
    let names: Vec<_> =
        session.options.tags.iter().map(|name| name.clone().with_default_tag().to_string()).collect();
    let config = document::digest_of(image.manifest.parsed.config()).map_err(oci::Error::from)?;
    let mut value = serde_json::json!({
        "containerimage.digest": image.descriptor.digest().to_string(),
        "containerimage.config.digest": config.to_string(),
        "containerimage.descriptor": {
            "mediaType": image.descriptor.media_type().to_string(),
            "digest": image.descriptor.digest().to_string(),
            "size": image.descriptor.size(),
        },
    });
    if !names.is_empty() {
        value["image.name"] = names.join(",").into();
    }
    Ok(format!("{value:#}\n"))
}

fn write(path: &std::path::Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| {
        let class = crate::failure::io_class(&error, Class::Usage);
        Failure::new(class, &["cannot write", &path.display().to_string(), &error.to_string()])
    })
}
