//! Outputs beside the store: archives, directories, docker and podman.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use super::Session;
use super::finish::{Made, Part};
use crate::commands::save::{self, RootFs};
use crate::failure::Failure;
use crate::image::StoredImage;
use crate::options::{Form, Output, OutputKind};
use crate::worker::BuildWorker;

/// Writes one output. Of several platforms, root file systems get a directory each, as with BuildKit.
pub async fn write(
    session: &Session,
    worker: &Arc<BuildWorker>,
    made: &Made,
    output: &Output,
) -> Result<(), Failure> {
    let tags = &session.options.tags;
    match (session.options.form, output.kind) {
        (Form::Index, OutputKind::Local) => {
            for part in &made.parts {
                let output = Output { dest: output.dest.join(directory(part)), ..output.clone() };
                save::write(&session.store, &part.image, tags, &root(worker, part), &output).await?;
            }
        }
        (Form::Index, OutputKind::Tar) => {
            let mut trees = Vec::with_capacity(made.parts.len());
            for part in &made.parts {
                trees.push((directory(part), save::mount(&root(worker, part)).await?));
            }
            let trees: Vec<_> = trees.iter().map(|(name, view)| (name.as_str(), view.as_fd())).collect();
            save::to_file(&output.dest, |file| {
                exporter::rootfs::tar_of_several(&trees, save::duplicate(file, &output.dest)?).map(drop)
            })?;
        }
        (Form::Index, OutputKind::OciArchive | OutputKind::OciDirectory | OutputKind::Docker)
        | (Form::Image, _) => {
            let part = made.parts.first().expect("a build makes at least one image");
            save::write(&session.store, &made.root, tags, &root(worker, part), output).await?;
        }
    }
    if output.dest.as_os_str() != "-" {
        session.progress.note(save::wrote(output));
    }
    Ok(())
}

fn root<'a>(worker: &'a BuildWorker, part: &'a Part) -> RootFs<'a> {
    RootFs { layers: &worker.layers, build: &worker.build, stack: &part.stack }
}

/// BuildKit's name of a platform's directory: `linux_arm_v7`.
fn directory(part: &Part) -> String {
    part.platform.full().replace('/', "_")
}

/// Loads the image into the first of docker and podman that is installed.
pub fn load(session: &Session, image: &StoredImage) -> Result<(), Failure> {
    let program = save::load(&session.store, image, &session.options.tags)?;
    session.progress.note(format!("loaded into {program}"));
    Ok(())
}
