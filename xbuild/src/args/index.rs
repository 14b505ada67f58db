//! Options of `xbuild index`.

use clap::{Args, Subcommand};

use super::RegistryArgs;
use super::transfer::PLACES;

/// What is done with an index.
#[derive(Debug, Subcommand)]
pub enum IndexCommand {
    /// Make an index of images of several platforms
    Create(IndexCreateArgs),
}

/// Options of `xbuild index create`.
#[derive(Debug, Args)]
#[command(after_help = PLACES)]
pub struct IndexCreateArgs {
    /// Images to list; of an index, all that it lists
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Name of the index, `name[:tag]` (repeatable)
    #[arg(short, long, value_name = "NAME")]
    pub tag: Vec<String>,
    /// Push the index and its images to the registries of its names
    #[arg(long)]
    pub push: bool,
    /// Add to what the first name stands for (with --push: in its registry); an image replaces one of its platform
    #[arg(long)]
    pub append: bool,
    /// Annotation; the types are index (which is meant where there is none) and manifest-descriptor
    #[arg(long, value_name = "[TYPE[[PLATFORM]],…:]NAME=VALUE")]
    pub annotation: Vec<String>,
    /// How registries are reached
    #[command(flatten)]
    pub registry: RegistryArgs,
}
