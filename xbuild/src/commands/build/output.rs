//! Outputs beside the store: archives, directories, docker and podman.

use std::sync::Arc;

use super::Session;
use crate::commands::save;
use crate::failure::Failure;
use crate::image::StoredImage;
use crate::options::Output;
use crate::worker::BuildWorker;
use crate::worker::layer::Stack;

/// Writes one output.
pub async fn write(
    session: &Session,
    worker: &Arc<BuildWorker>,
    image: &StoredImage,
    stack: &Stack,
    output: &Output,
) -> Result<(), Failure> {
    let root = save::RootFs { layers: &worker.layers, build: &worker.build, stack };
    save::write(&session.store, image, &session.options.tags, &root, output).await?;
    if output.dest.as_os_str() != "-" {
        session.progress.note(format!("wrote {}", output.dest.display()));
    }
    Ok(())
}

/// Loads the image into the first of docker and podman that is installed.
pub fn load(session: &Session, image: &StoredImage) -> Result<(), Failure> {
    let program = save::load(&session.store, image, &session.options.tags)?;
    session.progress.note(format!("loaded into {program}"));
    Ok(())
}
