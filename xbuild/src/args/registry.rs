//! Options that say how registries are reached; every command that talks to one has them.

use clap::Args;

/// How registries are reached.
#[derive(Debug, Clone, Default, Args)]
pub struct RegistryArgs {
    /// Registry that may be reached by plain HTTP (repeatable; loopback always is)
    #[arg(long, value_name = "HOST[:PORT]")]
    pub insecure_registry: Vec<String>,
}
