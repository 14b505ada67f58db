//! Options that say how registries are reached; every command that talks to one has them.

use std::path::PathBuf;

use clap::Args;

/// Heading under which help lists these options.
const HEADING: &str = "Registries (also by variables and registries.toml, see docs/registries.md)";

/// How registries are reached, and who asks.
#[derive(Debug, Clone, Default, Args)]
pub struct RegistryArgs {
    /// How they are reached
    #[command(flatten)]
    pub reach: ReachArgs,
    /// User of the registry that the command's image names; with --password-stdin
    #[arg(long, value_name = "NAME", help_heading = HEADING)]
    pub username: Option<String>,
    /// Read the password from standard input
    #[arg(long, help_heading = HEADING)]
    pub password_stdin: bool,
    /// Registry that --username is for, where the image's is not meant
    #[arg(long, value_name = "HOST[:PORT]", help_heading = HEADING)]
    pub login_registry: Option<String>,
}

/// How registries are reached.
#[derive(Debug, Clone, Default, Args)]
pub struct ReachArgs {
    /// Registry that is reached by plain HTTP (repeatable; loopback is anyway)
    #[arg(long, value_name = "HOST[:PORT]", help_heading = HEADING)]
    pub insecure_registry: Vec<String>,
    /// Registry whose certificate is not checked (repeatable)
    #[arg(long, value_name = "HOST[:PORT]", help_heading = HEADING)]
    pub registry_skip_verify: Vec<String>,
    /// Mirror of a registry, of Docker Hub where none is named, asked before it (repeatable)
    #[arg(long, value_name = "[HOST=]MIRROR[/PATH]", help_heading = HEADING)]
    pub registry_mirror: Vec<String>,
    /// PEM file with further authorities for a registry's certificate, or for all (repeatable)
    #[arg(long, value_name = "[HOST=]PATH", help_heading = HEADING)]
    pub registry_ca: Vec<String>,
    /// Client certificate for a registry; the key may stand in the same file (repeatable)
    #[arg(long, value_name = "HOST=CERT[,KEY]", help_heading = HEADING)]
    pub registry_cert: Vec<String>,
    /// Host inside that registries may lead to, such as a token server (repeatable)
    #[arg(long, value_name = "HOST[:PORT]", help_heading = HEADING)]
    pub allow_registry_address: Vec<String>,
    /// Layers, and parts of large ones, that travel at a time (default 4)
    #[arg(long, value_name = "NUMBER", help_heading = HEADING)]
    pub registry_parallel: Option<String>,
    /// File of credentials instead of the usual ones
    #[arg(long, value_name = "PATH", help_heading = HEADING)]
    pub authfile: Option<PathBuf>,
}

impl RegistryArgs {
    /// Returns what was typed, for a command that repeats a part of this one; a password is typed anew.
    pub fn again(&self) -> Vec<String> {
        let user = pairs("--username", self.username.as_slice());
        let password = self.password_stdin.then(|| "--password-stdin".to_owned());
        let registry = pairs("--login-registry", self.login_registry.as_slice());
        self.reach.again().into_iter().chain(user).chain(password).chain(registry).collect()
    }
}

impl ReachArgs {
    fn again(&self) -> Vec<String> {
        let authfile = self.authfile.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        let all: [(&str, &[String]); 8] = [
            ("--insecure-registry", &self.insecure_registry),
            ("--registry-skip-verify", &self.registry_skip_verify),
            ("--registry-mirror", &self.registry_mirror),
            ("--registry-ca", &self.registry_ca),
            ("--registry-cert", &self.registry_cert),
            ("--allow-registry-address", &self.allow_registry_address),
            ("--registry-parallel", self.registry_parallel.as_slice()),
            ("--authfile", &authfile),
        ];
        all.into_iter().flat_map(|(flag, values)| pairs(flag, values)).collect()
    }
}

fn pairs(flag: &str, values: &[String]) -> Vec<String> {
    values.iter().flat_map(|value| [flag.to_owned(), value.clone()]).collect()
}
