//! `xbuild copy`: an image from one place to another, whole and as it is.

use std::path::{Path, PathBuf};

use super::{Platforms, places, print, tell};
use crate::args::CopyArgs;
use crate::failure::Failure;
use crate::images::{self, Absent, Source};
use crate::location::Location;

/// Copies; prints the digest that the target knows the image by.
///
/// # Errors
/// Source failures of the one place, push, resource and usage failures of the other.
pub fn run(args: &CopyArgs, root: PathBuf) -> Result<(), Failure> {
    let (source, target) = (Location::parse(&args.source)?, Location::parse(&args.target)?);
    super::writable::target(&target)?;
    let platforms = Platforms::parse(args.platform.as_deref(), Platforms::All)?;
    let places = places(root, &args.registry, [&source, &target])?;
    let copying = async {
        let mut source = Source::open(&places, &source, Absent::AskRegistry).await?;
        platforms.apply(&mut source).await?;
        images::write(&places, source, &target).await
    };
    let written = super::await_result(copying)?;
    match (&target, written.names.is_empty()) {
        (Location::Named(_) | Location::Registry(_), _) | (_, true) => {
            tell(&format!("wrote {}", images::shown(&target)))
        }
        (_, false) => tell(&format!("wrote {} as {}", images::shown(&target), written.names.join(", "))),
    }
    // Standard output is the archive's.
    if is_stdout(&target) {
        tell(&written.digest.to_string());
        return Ok(());
    }
    print(&format!("{}\n", written.digest))
}

fn is_stdout(target: &Location) -> bool {
    match target {
        Location::OciArchive(path, _) | Location::DockerArchive(path, _) => path == Path::new("-"),
        Location::Named(_) | Location::Registry(_) | Location::Layout(..) => false,
    }
}
