//! Options of the commands that move images between places.

use std::path::PathBuf;

use clap::Args;

use super::RegistryArgs;

/// How places are written, for help texts.
pub const PLACES: &str = "Images are named\n  \
    NAME[:TAG][@DIGEST]                in the store\n  \
    docker://NAME[:TAG][@DIGEST]       in a registry\n  \
    oci-layout://DIR[:TAG][@DIGEST]    in an OCI image layout\n  \
    oci-archive:FILE[:TAG][@DIGEST]    in a tar file of one\n  \
    docker-archive:FILE[:NAME[:TAG]]   in what `docker save` writes";

/// Options of `xbuild pull`.
#[derive(Debug, Args)]
#[command(after_help = PLACES)]
pub struct PullArgs {
    /// Name of the image in its registry, or another place of it
    pub image: String,
    /// Platform; `all` keeps the index with all of them
    #[arg(long, value_name = "PLATFORM|all")]
    pub platform: Option<String>,
    /// Name in the store instead of the image's own (repeatable)
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub tag: Vec<String>,
    /// How registries are reached
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Options of `xbuild push`.
#[derive(Debug, Args)]
#[command(after_help = PLACES)]
pub struct PushArgs {
    /// Name or digest of an image of the store, or another place of it
    pub image: String,
    /// Name to push to, where the image's own is another
    pub name: Option<String>,
    /// How registries are reached
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Options of `xbuild copy`.
#[derive(Debug, Args)]
#[command(after_help = PLACES)]
pub struct CopyArgs {
    /// Where the image is
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Where it goes
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// One platform instead of all
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// How registries are reached
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Options of `xbuild load`.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Archive of `docker save`, `podman save` or `xbuild save` (default: standard input), a layout directory, or either
    /// as a place, which may name one image: oci-layout://DIR[:TAG]
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Name instead of those in the archive (repeatable)
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub tag: Vec<String>,
    /// One platform instead of all
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
}
