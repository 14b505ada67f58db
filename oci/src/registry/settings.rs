//! How registries are reached: a plain value that the binary fills from flags, environment and files.
//!
//! Nothing here reads a file or the environment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::address::Authority;
use super::retry::RetryPolicy;

/// Everything a client is made from.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What the process' environment says.
    pub environment: Environment,
    /// Name and password given on the command line, by registry; they win over files.
    pub logins: BTreeMap<String, Login>,
    /// Per registry, by its name in references (`docker.io`, `localhost:5000`).
    pub registries: BTreeMap<String, RegistrySettings>,
    /// What stands for registries or parts of them when images are read.
    pub routes: Vec<Route>,
    /// Credential helpers that are asked about registries of which no file knows anything, in this order.
    pub helpers: Vec<String>,
    /// PEM files with further authorities, for every connection.
    pub ca_files: Vec<PathBuf>,
    /// Hosts that token realms, redirects and upload locations may name although their address is private.
    pub allowed: BTreeSet<Authority>,
    /// When requests are repeated.
    pub retry: RetryPolicy,
    /// When a connection counts as dead.
    pub timeouts: Timeouts,
    /// Sizes and numbers that the client keeps to.
    pub limits: Limits,
}

/// The environment variables that matter to a client, as values. `Debug` shows paths only: proxies may have passwords.
#[derive(Clone, Default)]
pub struct Environment {
    /// `http_proxy`; the upper-case form is ignored by convention where CGI could set it, the binary decides.
    pub http_proxy: Option<String>,
    /// `HTTPS_PROXY` or `https_proxy`.
    pub https_proxy: Option<String>,
    /// `ALL_PROXY` or `all_proxy`.
    pub all_proxy: Option<String>,
    /// `NO_PROXY` or `no_proxy`.
    pub no_proxy: Option<String>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `DOCKER_CONFIG`: the directory of config.json.
    pub docker_config: Option<PathBuf>,
    /// `DOCKER_AUTH_CONFIG`: the text of a config.json.
    pub docker_auth_config: Option<String>,
    /// `REGISTRY_AUTH_FILE`: the path of a containers auth.json.
    pub registry_auth_file: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub xdg_config_home: Option<PathBuf>,
    /// Further files of credentials, which are looked into last.
    pub further_credentials: Vec<PathBuf>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment")
            .field("home", &self.home)
            .field("docker_config", &self.docker_config)
            .field("registry_auth_file", &self.registry_auth_file)
            .field("xdg_runtime_dir", &self.xdg_runtime_dir)
            .field("xdg_config_home", &self.xdg_config_home)
            .field("further_credentials", &self.further_credentials)
            .finish_non_exhaustive()
    }
}

/// A user's name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Name, such as `robot$ci`.
    pub username: String,
    /// Password or access token.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({:?})", self.username)
    }
}

/// How one registry is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistrySettings {
    /// HTTP or HTTPS.
    pub transport: Transport,
    /// Whether its certificate is checked.
    pub verification: Verification,
    /// PEM files with further authorities.
    pub ca_files: Vec<PathBuf>,
    /// What it is shown where it asks for a client certificate.
    pub client_certificate: Option<ClientCertificate>,
    /// Asked before the registry itself when pulling, in this order: `host[:port][/prefix]`.
    pub mirrors: Vec<String>,
    /// Hosts that this registry may name as in [`Settings::allowed`].
    pub allowed: BTreeSet<Authority>,
}

/// What stands for a registry or a part of it (containers-registries.conf(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Route {
    /// The names that it is for: `host[:port][/path]`, or `*.domain`. The longest one counts.
    pub prefix: String,
    /// Asked before the registry itself when pulling, in this order.
    pub mirrors: Vec<Mirror>,
    /// What stands for the prefix when pulling, where that is something else.
    pub location: Option<String>,
    /// How strictly the registry itself is taken.
    pub checks: Checks,
    /// The file that forbids to use these names, where one does.
    pub blocked: Option<String>,
}

/// A copy of what a route is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// What stands for the prefix: `host[:port][/path]`.
    pub location: String,
    /// Which requests it is asked for.
    pub serves: Serves,
    /// How strictly it is taken.
    pub checks: Checks,
}

/// Which requests a mirror is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Serves {
    /// Every pull.
    #[default]
    All,
    /// Pulls by digest.
    Digests,
    /// Pulls by tag.
    Tags,
}

/// How strictly a server is taken of which [`Settings::registries`] says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Checks {
    /// As every other.
    #[default]
    Usual,
    /// HTTPS without a look at the certificate, else plain HTTP: what containers' files call insecure.
    None,
}

/// The protocol below the API.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transport {
    /// Plain HTTP for loopback hosts, HTTPS for all others.
    #[default]
    ByAddress,
    /// Plain HTTP.
    Http,
    /// HTTPS.
    Https,
    /// HTTPS, and plain HTTP where the registry does not speak it.
    Either,
}

/// What is asked of a server's certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verification {
    /// A valid chain to a known authority and the right name.
    #[default]
    Full,
    /// Nothing: anybody on the way can read and change everything.
    None,
}

/// Files of a client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// PEM chain.
    pub certificate: PathBuf,
    /// PEM key.
    pub key: PathBuf,
}

/// When a connection counts as dead (reliability REG-11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection with its TLS handshake.
    pub connect: Duration,
    /// From the end of a request to the head of its answer.
    pub answer: Duration,
    /// The same after an upload, where the registry may move the blob to its object store.
    pub upload_answer: Duration,
    /// A body that moves fewer than [`Self::stall_bytes`] in this time is dead.
    pub stall: Duration,
    /// See [`Self::stall`].
    pub stall_bytes: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            upload_answer: Duration::from_secs(600),
            stall: Duration::from_secs(60),
            stall_bytes: 60 * 1024,
        }
    }
}

/// Sizes and numbers that the client keeps to (reliability §1.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a manifest or an index.
    pub manifest: u64,
    /// Bytes of an image config.
    pub config: u64,
    /// Bytes of a token server's answer.
    pub token: u64,
    /// Bytes of an error body that are read.
    pub error: u64,
    /// Redirects of one request.
    pub redirects: u32,
    /// Blobs in flight per operation.
    pub parallel: usize,
    /// Bytes of one PATCH where an upload goes in chunks.
    pub chunk: u64,
    /// Bytes of one part where a large blob is pulled over several connections.
    pub part: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest: 4 << 20,
            config: 4 << 20,
            token: 1 << 20,
            error: 64 << 10,
            redirects: 5,
            parallel: 4,
            chunk: 8 << 20,
            part: 16 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_password() {
        let secret = || Some("hunter2".to_owned());
        let environment = Environment {
            http_proxy: secret(),
            https_proxy: secret(),
            all_proxy: secret(),
            docker_auth_config: secret(),
            ..Environment::default()
        };
        let login = Login { username: "u".to_owned(), password: "hunter2".to_owned() };
        let logins = [("h".to_owned(), login)].into();
        let shown = format!("{:?}", Settings { environment, logins, ..Settings::default() });
        assert!(shown.contains("Login(\"u\")") && !shown.contains("hunter2"), "{shown}");
    }
}
