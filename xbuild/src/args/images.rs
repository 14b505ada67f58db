//! Options of the commands on images of the store.

use clap::Args;

use super::RegistryArgs;

/// Options of `xbuild run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Image of the store
    pub image: String,
    /// Command instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
    /// Environment variable
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// User instead of the image's
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Working directory instead of the image's
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Entrypoint instead of the image's
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Network: host or none
    #[arg(long, value_name = "MODE", default_value = "host")]
    pub network: String,
    /// How registries are reached
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Trust the host's CA certificates (or those of PATH)
    #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub host_ca: Option<String>,
}

/// Options of `xbuild images`.
#[derive(Debug, Args)]
pub struct ImagesArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Print digests only
    #[arg(short, long)]
    pub quiet: bool,
}

/// An image.
#[derive(Debug, Args)]
pub struct ImageArg {
    /// Name or digest of an image of the store
    pub image: String,
}

/// Options of `xbuild tag`.
#[derive(Debug, Args)]
pub struct TagArgs {
    /// Name or digest of an image of the store
    pub image: String,
    /// The further name
    pub name: String,
}

/// Options of `xbuild rmi`.
#[derive(Debug, Args)]
pub struct RmiArgs {
    /// Names or digests
    #[arg(required = true)]
    pub images: Vec<String>,
}

/// Options of `xbuild save`.
#[derive(Debug, Args)]
pub struct SaveArgs {
    /// Name or digest of an image of the store
    pub image: String,
    /// type=oci|docker|tar|local,dest=PATH
    #[arg(short, long, value_name = "SPEC")]
    pub output: String,
    /// How registries are reached
    #[command(flatten)]
    pub registry: RegistryArgs,
}
