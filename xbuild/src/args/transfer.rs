//! Options of the commands that move images between places.

use clap::Args;

use super::RegistryArgs;

/// Options of `xbuild pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Name of the image
    pub image: String,
    /// Platform
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// How registries are reached
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Options of `xbuild push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// Name or digest of an image of the store
    pub image: String,
    /// Name to push to, where the image's own is another
    pub name: Option<String>,
    /// How registries are reached
    #[command(flatten)]
    pub registry: RegistryArgs,
}
