//! Options of `xbuild login` and `xbuild logout`.

use clap::Args;

use super::ReachArgs;

/// Options of `xbuild login`.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Registry, HOST[:PORT] (default: Docker Hub)
    pub registry: Option<String>,
    /// User (default: $XBUILD_USERNAME, else asked for)
    #[arg(short, long, value_name = "NAME")]
    pub username: Option<String>,
    /// Read the password from standard input (default: $XBUILD_PASSWORD, else asked for)
    #[arg(long)]
    pub password_stdin: bool,
    /// Refused: every process can read the command line
    #[arg(short, long, value_name = "PASSWORD", hide = true)]
    pub password: Option<String>,
    /// How registries are reached
    #[command(flatten)]
    pub reach: ReachArgs,
}

/// Options of `xbuild logout`.
#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// Registry, HOST[:PORT] (default: Docker Hub)
    #[arg(conflicts_with = "all")]
    pub registry: Option<String>,
    /// Forget the credentials of all registries
    #[arg(long)]
    pub all: bool,
    /// File of credentials instead of the usual one
    #[arg(long, value_name = "PATH")]
    pub authfile: Option<std::path::PathBuf>,
}
