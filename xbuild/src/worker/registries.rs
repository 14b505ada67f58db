//! The registry client of a command, made when it is first needed: reading the host's CA files costs more than
//! a cached build.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;

use oci::registry::address::Authority;
use oci::registry::{Client, Environment, Event, Events, Settings};

use crate::failure::Failure;
use crate::options::{RegistryOptions, variable};

/// Makes the client.
pub struct Registries {
    options: RegistryOptions,
    events: Events,
    client: OnceLock<Result<Client, Failure>>,
}

impl Registries {
    /// `note` is told what a user should know.
    pub fn new(options: RegistryOptions, note: impl Fn(String) + Send + Sync + 'static) -> Self {
        let events = Events::new(move |event| note_of(&event).into_iter().for_each(&note));
        Self { options, events, client: OnceLock::new() }
    }

    /// Returns the client, which is made when it is asked for first.
    ///
    /// # Errors
    /// Usage failures of the files that say how registries are reached; the same again for who asks again.
    pub fn client(&self) -> Result<&Client, Failure> {
        let made = self.client.get_or_init(|| Ok(Client::new(self.settings(), self.events.clone())));
        made.as_ref().map_err(Failure::clone)
    }

    /// Tells the user.
    pub fn tell(&self, text: String) {
        self.events.tell(Event::Note(text));
    }

    fn settings(&self) -> Settings {
        Settings {
            environment: environment(),
            registries: self.options.registries.clone(),
            logins: self.options.logins.clone(),
            allowed: allowed(),
            ..Settings::default()
        }
    }
}

/// Returns what is worth a line; bytes that come and go are not.
fn note_of(event: &Event) -> Option<String> {
    match event {
        Event::Waiting { host, what, reason, delay, attempt, attempts } => Some(format!(
            "{what}: {reason}; attempt {attempt} of {attempts}, trying {host} again in {:.1} s",
            delay.as_secs_f64()
        )),
        Event::TokenServer { registry, host } => Some(format!("{registry} has its tokens from {host}")),
        Event::MirrorFailed { mirror, reason } => Some(format!("mirror {mirror}: {reason}")),
        Event::Note(text) => Some(text.clone()),
        Event::Received { .. } | Event::Sent { .. } | Event::Pushed { .. } => None,
    }
}

/// Hosts inside that a registry may send us to, such as the token server of a company's GitLab:
/// `XBUILD_ALLOW_REGISTRY_ADDRESS=host[:port],…`.
fn allowed() -> BTreeSet<Authority> {
    let hosts = variable("XBUILD_ALLOW_REGISTRY_ADDRESS").unwrap_or_default();
    hosts.split(',').filter_map(|host| Authority::parse(host.trim())).collect()
}

fn environment() -> Environment {
    // An upper-case HTTP_PROXY can be set by a request header under CGI and is ignored, as curl does.
    let either = |upper: &str, lower: &str| variable(lower).or_else(|| variable(upper));
    let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    Environment {
        http_proxy: variable("http_proxy"),
        https_proxy: either("HTTPS_PROXY", "https_proxy"),
        all_proxy: either("ALL_PROXY", "all_proxy"),
        no_proxy: either("NO_PROXY", "no_proxy"),
        home: path("HOME"),
        docker_config: path("DOCKER_CONFIG"),
        docker_auth_config: variable("DOCKER_AUTH_CONFIG"),
        registry_auth_file: path("REGISTRY_AUTH_FILE"),
        xdg_runtime_dir: path("XDG_RUNTIME_DIR"),
        xdg_config_home: path("XDG_CONFIG_HOME"),
    }
}
