//! Archives and directories of an image: `xbuild save`, and the outputs of a build.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;

use oci::reference::Reference;
use oci::{Platform, Store};

use crate::args::SaveArgs;
use crate::bases::{Bases, Pull};
use crate::commands::Platforms;
use crate::failure::{Class, Failure};
use crate::image::{self, StoredImage};
use crate::images::{self, Absent, Places, Source};
use crate::location::{Location, Version};
use crate::options::{Output, OutputKind, RegistryOptions, output, usage, variable};
use crate::registries::Registries;
use crate::worker::build::Build;
use crate::worker::error::StepError;
use crate::worker::layer::{Layers, Stack};

/// What a root file system can be had from.
pub struct RootFs<'a> {
    /// Unpacks.
    pub layers: &'a Layers,
    /// Where an empty directory is made.
    pub build: &'a Build,
    /// The image's layers.
    pub stack: &'a Stack,
}

/// Writes an image to an archive or a directory.
///
/// # Errors
/// Where there is no such image or the output cannot be written.
pub fn run(args: &SaveArgs, root: &Path) -> Result<(), Failure> {
    let output = requested(args.output.as_deref())?;
    if let Some(annotation) = output.annotations.first() {
        let why = "an image that is there cannot be annotated without becoming another";
        return Err(usage(&format!("annotation {}", annotation.key), why, "annotate it when it is built"));
    }
    super::writable::output_of("-o", &output)?;
    let location = Location::parse(&args.image)?;
    let (dest, version) = (output.dest.clone(), Version::default());
    let target = match output.kind {
        OutputKind::OciArchive => Location::OciArchive(dest, version),
        OutputKind::OciDirectory => Location::Layout(dest, version),
        OutputKind::Docker => Location::DockerArchive(dest, None),
        OutputKind::Tar | OutputKind::Local => return tree(args, root, &location, &output),
    };
    let platforms = Platforms::parse(args.platform.as_deref(), Platforms::All)?;
    let places = super::places(root.to_owned(), &args.registry, [&location])?;
    let saving = async {
        let mut source = Source::open(&places, &location, Absent::Refuse).await?;
        platforms.apply(&mut source).await?;
        images::write(&places, source, &target).await.map(drop)
    };
    super::await_result(saving)?;
    super::tell(&format!("wrote {}", images::shown(&target)));
    Ok(())
}

/// Says what `-o` asks for. A bare path is what it is for `docker save`: where its archive goes, standard output
/// without one. (Of a build it is what it is for buildx: where the root file system goes.)
fn requested(text: Option<&str>) -> Result<Output, Failure> {
    let text = match text {
        Some(text) if text.contains('=') => return output::parse("-o", text),
        Some(text) => text,
        None => "-",
    };
    let unusable = |why, fix| Err(usage(&format!("-o {text}"), why, fix));
    if Location::explicit(text)?.is_some() {
        return unusable("it is a place", "`xbuild copy IMAGE PLACE` writes there");
    }
    if text.is_empty() || text.ends_with('/') || Path::new(text).is_dir() {
        let why =
            if text.is_empty() { "there is no path" } else { "it is a directory, not an archive's path" };
        let fix =
            "write -o FILE, or type=local,dest=DIR for the root file system, or type=oci,tar=false,dest=DIR";
        return unusable(why, fix);
    }
    Ok(Output { kind: OutputKind::Docker, dest: text.into(), annotations: Vec::new() })
}

/// Writes the root file system of an image.
fn tree(args: &SaveArgs, root: &Path, location: &Location, output: &Output) -> Result<(), Failure> {
    let platform = match Platforms::parse(args.platform.as_deref(), Platforms::Host)? {
        Platforms::One(platform) => platform,
        Platforms::Host => Platform::host(),
        Platforms::All => {
            return Err(usage("--platform all", "a root file system is one platform's", "name it"));
        }
    };
    // Mounting the image's tree must not be seen by the host, so the namespace is left before threads start.
    let _spawner = crate::spawner()?;
    let store = Arc::new(crate::open_to_write(root)?);
    let options = RegistryOptions::new(&args.registry)?.for_images(location.reference().as_ref())?;
    let registries = Arc::new(Registries::new(options, |note| super::tell(&note)));
    let bases = Bases::new(Arc::clone(&store), Arc::clone(&registries), Pull::Missing);
    let build = Arc::new(Build::new(Arc::clone(&store)));
    let layers = Layers::new(Arc::clone(&store), Arc::clone(&build), Arc::clone(&registries));
    let writing = async {
        let found = match location {
            Location::Named(name) => image::load(store.layout(), name, &platform)?,
            place => {
                let places = Places::of_store(Arc::clone(&store), registries);
                images::import(&places, place, &platform).await?.0
            }
        };
        let stack =
            bases.stack(&found.manifest.digest, &args.image).map_err(|error| Failure::from(&error))?;
        let root = RootFs { layers: &layers, build: &build, stack: &stack };
        write(&store, &found, &[], &root, output).await
    };
    super::await_result(writing)?;
    super::tell(&wrote(output));
    Ok(())
}

/// Writes one output of an image whose blobs are all in the store.
///
/// # Errors
/// Where the destination cannot be written.
pub async fn write(
    store: &Store,
    image: &StoredImage,
    names: &[Reference],
    root: &RootFs<'_>,
    output: &Output,
) -> Result<(), Failure> {
    let layout = store.layout();
    let full = |error| crate::failure::from::output(error, &output.dest);
    match output.kind {
        OutputKind::OciArchive => {
            to_file(&output.dest, |file| exporter::archive::oci(layout, &image.descriptor, names, file))
        }
        OutputKind::Docker => {
            to_file(&output.dest, |file| exporter::archive::docker(layout, &image.descriptor, names, file))
        }
        OutputKind::OciDirectory => {
            exporter::layout::write(layout, &image.descriptor, names, &output.dest).map_err(full)
        }
        OutputKind::Tar => {
            let view = mount(root).await?;
            to_file(&output.dest, |file| {
                exporter::rootfs::tar(view.as_fd(), duplicate(file, &output.dest)?).map(drop)
            })
        }
        OutputKind::Local => {
            let view = mount(root).await?;
            let report = exporter::rootfs::local(view.as_fd(), &output.dest).map_err(full)?;
            for path in report.stripped {
                super::tell(&format!("warning: {} lost its set-user-id or set-group-id bit", path.display()));
            }
            Ok(())
        }
    }
}

/// Says what was written, and where.
pub fn wrote(output: &Output) -> String {
    let dest = output.dest.display();
    match output.kind {
        OutputKind::OciArchive | OutputKind::OciDirectory | OutputKind::Docker => format!("wrote {dest}"),
        OutputKind::Tar => format!("wrote the root file system to {dest}"),
        OutputKind::Local => format!("wrote the root file system to the directory {dest}"),
    }
}

/// Mounts a root file system to be read.
///
/// # Errors
/// Where its layers cannot be had or mounted.
pub async fn mount(root: &RootFs<'_>) -> Result<executor::sandbox::MountedView, Failure> {
    let failed = |error: StepError| Failure::from(&error);
    let lowers = root.layers.directories(root.stack).await.map_err(failed)?;
    let empty = root.build.scratch().map_err(failed)?;
    Ok(executor::sandbox::mount_readonly(&lowers, &empty)?)
}

/// Returns another handle of the output at `dest`.
///
/// # Errors
/// An IO error of the exporter.
pub fn duplicate(file: &File, dest: &Path) -> exporter::Result<File> {
    file.try_clone().map_err(|source| exporter::Error::Io {
        action: "duplicate",
        path: dest.to_owned(),
        source,
    })
}

/// Writes a file, or standard output where `dest` is `-`.
///
/// # Errors
/// Where it cannot be written; standard output must not be a terminal.
pub fn to_file(dest: &Path, write: impl FnOnce(&mut File) -> exporter::Result<()>) -> Result<(), Failure> {
    let failed = |error| crate::failure::from::output(error, dest);
    match images::standard_output(dest)? {
        Some(mut out) => write(&mut out).map_err(failed),
        None => exporter::write_file(dest, write).map_err(failed),
    }
}

/// Loads an image into the first of docker and podman that is installed; returns its name.
///
/// # Errors
/// An environment failure where neither is, and what the program said.
pub fn load(store: &Store, image: &StoredImage, names: &[Reference]) -> Result<String, Failure> {
    let path = variable("PATH").unwrap_or_default();
    let program = exporter::load::find(path.as_ref()).ok_or_else(|| {
        let why = "neither docker nor podman is installed";
        Failure::new(
            Class::Environment,
            &["cannot load the image", "--load", why, "use -o type=docker,dest=PATH"],
        )
    })?;
    exporter::load::load(store.layout(), &image.descriptor, names, &program)?;
    Ok(program.display().to_string())
}
