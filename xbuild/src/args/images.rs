//! Options of the commands on images of the store.

use clap::Args;

use super::RegistryArgs;
use super::transfer::PLACES;

/// Options of `xbuild run`.
#[derive(Debug, Args)]
#[command(after_help = PLACES)]
pub struct RunArgs {
    /// Name or digest of an image of the store, or another place of it
    pub image: String,
    /// Command instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
    /// Platform, of an index (default: this machine's)
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
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
    /// As docker has it: standard input is the program's anyway
    #[arg(short, long, hide = true)]
    pub interactive: bool,
    /// As docker has it: the program is on our terminal, where there is one
    #[arg(short, long, hide = true)]
    pub tty: bool,
    /// As docker has it: what the program writes is never kept
    #[arg(long, hide = true)]
    pub rm: bool,
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

/// Options of `xbuild history`.
#[derive(Debug, Args)]
#[command(after_help = PLACES)]
pub struct HistoryArgs {
    /// Name or digest of an image of the store, or another place of it
    pub image: String,
    /// Platform, of an index (default: this machine's)
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// How registries are reached
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Options of `xbuild inspect`.
#[derive(Debug, Args)]
#[command(after_help = PLACES)]
pub struct InspectArgs {
    /// Name or digest of an image of the store, or another place of it
    pub image: String,
    /// Ask the registry, whatever the store has
    #[arg(long)]
    pub remote: bool,
    /// Print the manifest or index as it is (with --config: the config)
    #[arg(long)]
    pub raw: bool,
    /// Print the config only
    #[arg(long)]
    pub config: bool,
    /// Platform whose manifest and config are meant
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// How registries are reached
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Options of `xbuild tag`.
#[derive(Debug, Args)]
#[command(after_help = PLACES)]
pub struct TagArgs {
    /// Name or digest of an image of the store, or another place of it
    pub image: String,
    /// The further name
    pub name: String,
    /// How registries are reached
    #[command(flatten)]
    pub registry: RegistryArgs,
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
#[command(after_help = PLACES)]
pub struct SaveArgs {
    /// Name or digest of an image of the store, or another place of it
    pub image: String,
    /// One platform instead of all that the output can hold
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// File for a Docker archive (default: standard output), or type=oci|docker|tar|local,dest=PATH
    #[arg(short, long, value_name = "FILE|SPEC")]
    pub output: Option<String>,
    /// How registries are reached
    #[command(flatten)]
    pub registry: RegistryArgs,
}
