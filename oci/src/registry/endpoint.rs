//! Where a repository is served: the registry itself and its mirrors, as URLs. Sends nothing.

use reqwest::Url;

use super::address::{Authority, is_loopback_host};
use super::error::Problem;
use super::settings::{RegistrySettings, Settings, Transport};
use crate::Reference;
use crate::reference::DOCKER_HUB;

/// One server that answers the distribution API.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// Name under which settings and credentials are looked up.
    pub registry: String,
    /// Where it listens.
    pub authority: Authority,
    /// `https://host:port/v2/`.
    pub base: Url,
    /// Path that stands before every repository, with a slash at its end; empty for none.
    pub prefix: String,
    /// The registry itself, or a mirror of it.
    pub role: Role,
}

/// What an endpoint is for the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The registry that the reference names.
    Origin,
    /// A copy.
    Mirror,
}

impl Endpoint {
    /// Returns the endpoint of the registry that `reference` names.
    pub fn origin(settings: &Settings, reference: &Reference) -> Result<Self, Problem> {
        endpoint(settings, &reference.registry, reference.registry_host(), "", Role::Origin)
    }

    /// Returns the endpoint of a registry by its name.
    pub fn of_registry(settings: &Settings, registry: &str) -> Result<Self, Problem> {
        let host = if registry == DOCKER_HUB { "registry-1.docker.io" } else { registry };
        endpoint(settings, registry, host, "", Role::Origin)
    }

    /// Returns all endpoints that may serve `reference`, in the order in which they are asked.
    pub fn sources(settings: &Settings, reference: &Reference) -> Result<Vec<Self>, Problem> {
        let mirrors = settings.registries.get(&reference.registry).map_or(&[][..], |own| &own.mirrors);
        let mut sources = Vec::new();
        for mirror in mirrors {
            let (host, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
            let prefix = prefix.trim_matches('/');
            let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
            sources.push(endpoint(settings, host, host, &prefix, Role::Mirror)?);
        }
        sources.push(Self::origin(settings, reference)?);
        Ok(sources)
    }

    /// Returns the name of `repository` on this server.
    pub fn repository(&self, repository: &str) -> String {
        format!("{}{repository}", self.prefix)
    }

    /// Returns the URL of `rest` (such as `manifests/latest`) of `repository`.
    pub fn url(&self, repository: &str, rest: &str) -> Result<Url, Problem> {
        self.join(&format!("{}{repository}/{rest}", self.prefix))
    }

    /// Returns the URL of `path` below `/v2/`.
    pub fn join(&self, path: &str) -> Result<Url, Problem> {
        self.base.join(path).map_err(|error| Problem::Malformed {
            host: self.host(),
            what: format!("no URL for {path}"),
            detail: error.to_string(),
        })
    }

    /// Returns `host:port`, without the scheme's own port.
    pub fn host(&self) -> String {
        host_of(&self.base)
    }
}

/// Returns `host[:port]` of `url` for messages.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn endpoint(
    settings: &Settings,
    registry: &str,
    host: &str,
    prefix: &str,
    role: Role,
) -> Result<Endpoint, Problem> {
    let own = settings.registries.get(registry);
    let scheme = scheme(own, host);
    let malformed = |detail: String| Problem::Malformed {
        host: host.to_owned(),
        what: "no registry address".to_owned(),
        detail,
    };
    let base = Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|error| malformed(error.to_string()))?;
    let authority = Authority::of(&base).ok_or_else(|| malformed("it has no host".to_owned()))?;
    Ok(Endpoint { registry: registry.to_owned(), authority, base, prefix: prefix.to_owned(), role })
}

fn scheme(settings: Option<&RegistrySettings>, host: &str) -> &'static str {
    match settings.map(|settings| settings.transport).unwrap_or_default() {
        Transport::Http => "http",
        Transport::Https => "https",
        Transport::ByAddress if is_loopback_host(without_port(host)) => "http",
        Transport::ByAddress => "https",
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') || name.ends_with(']') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(settings: &Settings, reference: &str, expected: &[&str]) {
        let reference: Reference = reference.parse().unwrap();
        let urls: Vec<String> = Endpoint::sources(settings, &reference)
            .unwrap()
            .iter()
            .map(|source| source.url(&reference.repository, "tags/list").unwrap().to_string())
            .collect();
        assert_eq!(urls, expected);
    }

    #[test]
    fn registries_are_found_at_their_hosts() {
        let none = Settings::default();
        check(&none, "alpine", &["https://registry-1.docker.io/v2/library/alpine/tags/list"]);
        check(&none, "h.example:5000/a/b", &["https://h.example:5000/v2/a/b/tags/list"]);
        check(&none, "localhost:5000/a", &["http://localhost:5000/v2/a/tags/list"]);
        check(&none, "127.0.0.1:5000/a", &["http://127.0.0.1:5000/v2/a/tags/list"]);
        check(&none, "[::1]:5000/a", &["http://[::1]:5000/v2/a/tags/list"]);
        check(&none, "10.0.0.1/a", &["https://10.0.0.1/v2/a/tags/list"]);
    }

    #[test]
    fn mirrors_come_first_with_their_path() {
        let mut settings = Settings::default();
        let hub = settings.registries.entry("docker.io".to_owned()).or_default();
        hub.mirrors = vec!["harbor.example/hub".to_owned(), "127.0.0.1:1".to_owned()];
        let expected = [
            "https://harbor.example/v2/hub/library/alpine/tags/list",
            "http://127.0.0.1:1/v2/library/alpine/tags/list",
            "https://registry-1.docker.io/v2/library/alpine/tags/list",
        ];
        check(&settings, "alpine", &expected);
    }
}
