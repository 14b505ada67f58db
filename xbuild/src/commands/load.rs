//! `xbuild load`: the images of an archive or a layout into the store, under the names that they have in it.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use oci::Platform;
use oci::document::Root;
use oci::reference::Reference;

use super::{Platforms, places, print, tell};
use crate::args::{LoadArgs, RegistryArgs};
use crate::failure::{Class, Failure};
use crate::images::{self, Absent, Places, Source};
use crate::location::{Location, Version};
use crate::options::usage;

/// Loads; prints the digest of each image.
///
/// # Errors
/// Source failures of the archive, refusals of hostile ones, store failures.
pub fn run(args: &LoadArgs, root: PathBuf) -> Result<(), Failure> {
    let names: Vec<Reference> =
        args.tag.iter().map(|name| super::reference(name)).collect::<Result<_, _>>()?;
    let platforms =
        args.platform.as_deref().map(|text| Platforms::parse(Some(text), Platforms::All)).transpose()?;
    let input = args.input.clone().unwrap_or_else(|| PathBuf::from("-"));
    if input == Path::new("-") && std::io::stdin().is_terminal() {
        return Err(usage("load", "standard input is a terminal", "give -i FILE, or pipe the archive in"));
    }
    let places = places(root, &RegistryArgs::default(), [])?;
    let loading = async {
        let sources = open(&places, &input).await?;
        if sources.len() > 1 && !names.is_empty() {
            let why = format!("there are {} images in the archive", sources.len());
            return Err(usage(
                "-t",
                &why,
                "leave it out, or load one by `xbuild copy docker-archive:FILE:NAME NAME`",
            ));
        }
        for mut source in sources {
            match &platforms {
                Some(platforms) => platforms.apply(&mut source).await?,
                None => settle(&mut source).await?,
            }
            load(&places, source, &names).await?;
        }
        Ok(())
    };
    super::await_result(loading)
}

/// Opens what a path, or a place as other commands have it, holds: all images unless one is named.
async fn open(places: &Places, input: &Path) -> Result<Vec<Source>, Failure> {
    let all = Version::default();
    let sources = match input.to_str().map(Location::explicit).transpose()?.flatten() {
        None if input.is_dir() => images::listed(places, input)?,
        None => images::archived(places, input)?,
        Some(Location::Layout(path, version)) if version == all => images::listed(places, &path)?,
        Some(Location::OciArchive(path, version)) if version == all => images::archived(places, &path)?,
        Some(Location::DockerArchive(path, None)) => images::archived(places, &path)?,
        Some(Location::Named(_) | Location::Registry(_)) => {
            let place = format!("-i {}", input.display());
            return Err(usage(&place, "it is in a registry", "`xbuild pull` fetches it"));
        }
        Some(location) => vec![Source::open(places, &location, Absent::Refuse).await?],
    };
    match sources.is_empty() {
        true => Err(Failure::new(
            Class::Source,
            &["nothing to load", &input.display().to_string(), "it lists no image"],
        )),
        false => Ok(sources),
    }
}

async fn load(places: &Places, mut source: Source, names: &[Reference]) -> Result<(), Failure> {
    let names = if names.is_empty() { source.names.clone() } else { names.to_vec() };
    let written = images::into_store(places, &mut source, &names).await?;
    match written.names.is_empty() {
        true => tell(&format!(
            "loaded {0}, which has no name; `xbuild tag {0} NAME` gives it one",
            written.digest
        )),
        false => written.names.iter().for_each(|name| tell(&format!("loaded {name}"))),
    }
    print(&format!("{}\n", written.digest))
}

/// Tools write indexes of all platforms beside the blobs of one: then that one is meant.
async fn settle(source: &mut Source) -> Result<(), Failure> {
    match (source.check_complete().await, &source.root) {
        (Err(failure), Root::Index(_)) if failure.class == Class::Source => {
            let host = Platform::host();
            if source.prefer(&host).await.is_err() {
                return Err(failure);
            }
            source.check_complete().await.map_err(|_| failure)?;
            tell(&format!("only {host} of the index is in {}", source.shown));
            Ok(())
        }
        (result, _) => result,
    }
}
