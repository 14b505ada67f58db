//! Where a repository is served: the registry itself and its mirrors, as URLs. Sends nothing.

use reqwest::Url;

use super::address::{Authority, is_loopback_host};
use super::error::Problem;
use super::route::{self, Matched};
use super::settings::{Checks, Serves, Settings, Transport};
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
    /// How repositories are called there.
    pub naming: Naming,
    /// The registry itself, or a mirror of it.
    pub role: Role,
    /// How strictly its certificate is taken, where the registry's settings say nothing.
    pub checks: Checks,
    /// What it may speak besides the scheme of [`Self::base`].
    pub fallback: Fallback,
    /// Why it must not be asked, where that is forbidden.
    pub blocked: Option<Blocked>,
}

/// A route that forbids to ask a server (containers-registries.conf(5)). Its mirrors may be asked all the same: that
/// is how administrators say that images come from mirrors only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blocked {
    /// The names that it is for.
    pub prefix: String,
    /// The file that says so.
    pub file: String,
}

/// What an endpoint is for the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The registry that the reference names.
    Origin,
    /// A copy.
    Mirror,
}

/// Whether a registry that is expected to speak HTTPS may speak plain HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fallback {
    /// It may not.
    None,
    /// It may.
    Plain,
}

/// How a server calls the repositories of a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Naming {
    /// As the registry does.
    #[default]
    Same,
    /// With this path before each, which has a slash at its end.
    Below(String),
    /// One repository by another name.
    Instead {
        /// The registry's name.
        from: String,
        /// The server's.
        to: String,
    },
}

impl Endpoint {
    /// Returns the endpoint of the registry that `reference` names.
    pub fn origin(settings: &Settings, reference: &Reference) -> Result<Self, Problem> {
        let found = route::find(&settings.routes, reference);
        let checks = found.map_or(Checks::Usual, |found| found.route.checks);
        let made = endpoint(settings, &reference.registry, Naming::Same, Role::Origin, checks)?;
        Ok(Self { blocked: found.and_then(blocked), ..made })
    }

    /// Returns the endpoint that stands for the registry of `reference` when images are read.
    pub fn read_origin(settings: &Settings, reference: &Reference) -> Result<Self, Problem> {
        let found = route::find(&settings.routes, reference);
        let location =
            found.and_then(|found| found.route.location.as_ref().map(|location| (found, location)));
        let Some((found, location)) = location else { return Self::origin(settings, reference) };
        let made = routed(settings, reference, &found, location, Role::Origin, found.route.checks)?;
        Ok(Self { blocked: blocked(found).or(made.blocked.clone()), ..made })
    }

    /// Returns the endpoint of a registry by its name.
    pub fn of_registry(settings: &Settings, registry: &str) -> Result<Self, Problem> {
        let found = route::find_name(&settings.routes, registry);
        let checks = found.map_or(Checks::Usual, |found| found.route.checks);
        let made = endpoint(settings, registry, Naming::Same, Role::Origin, checks)?;
        Ok(Self { blocked: found.and_then(blocked), ..made })
    }

    /// Returns all endpoints that may serve `reference`, in the order in which they are asked.
    pub fn sources(settings: &Settings, reference: &Reference) -> Result<Vec<Self>, Problem> {
        let mirrors = settings.registries.get(&reference.registry).map_or(&[][..], |own| &own.mirrors);
        let mut sources = Vec::new();
        for mirror in mirrors {
            let (host, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
            let prefix = prefix.trim_matches('/');
            let naming = if prefix.is_empty() { Naming::Same } else { Naming::Below(format!("{prefix}/")) };
            sources.push(endpoint(settings, host, naming, Role::Mirror, Checks::Usual)?);
        }
        if let Some(found) = route::find(&settings.routes, reference) {
            let by_digest = reference.digest.is_some();
            let serves = |serves: Serves| match serves {
                Serves::All => true,
                Serves::Digests => by_digest,
                Serves::Tags => !by_digest,
            };
            for mirror in found.route.mirrors.iter().filter(|mirror| serves(mirror.serves)) {
                let role = Role::Mirror;
                sources.push(routed(settings, reference, &found, &mirror.location, role, mirror.checks)?);
            }
        }
        sources.push(Self::read_origin(settings, reference)?);
        Ok(sources)
    }

    /// Returns a server that is no registry, under this name.
    pub fn at(name: String, authority: Authority, base: Url) -> Self {
        Self {
            registry: name,
            authority,
            base,
            naming: Naming::Same,
            role: Role::Origin,
            checks: Checks::Usual,
            fallback: Fallback::None,
            blocked: None,
        }
    }

    /// Returns the name of `repository` on this server.
    pub fn repository(&self, repository: &str) -> String {
        match &self.naming {
            Naming::Same => repository.to_owned(),
            Naming::Below(prefix) => format!("{prefix}{repository}"),
            Naming::Instead { from, to } if from == repository => to.clone(),
            Naming::Instead { .. } => repository.to_owned(),
        }
    }

    /// Returns the URL of `rest` (such as `manifests/latest`) of `repository`.
    pub fn url(&self, repository: &str, rest: &str) -> Result<Url, Problem> {
        self.join(&format!("{}/{rest}", self.repository(repository)))
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

fn blocked(found: Matched<'_>) -> Option<Blocked> {
    let file = found.route.blocked.clone()?;
    Some(Blocked { prefix: found.route.prefix.clone(), file })
}

fn routed(
    settings: &Settings,
    reference: &Reference,
    found: &Matched<'_>,
    location: &str,
    role: Role,
    checks: Checks,
) -> Result<Endpoint, Problem> {
    let (host, repository) = found.rewrite(&reference.name(), location);
    if repository.is_empty() {
        return Err(Problem::Malformed {
            host,
            what: format!("no repository for {}", reference.name()),
            detail: format!("{location} stands for all of {}", found.route.prefix),
        });
    }
    let forbidden = route::find_name(&settings.routes, &format!("{host}/{repository}")).and_then(blocked);
    let naming = match repository == reference.repository {
        true => Naming::Same,
        false => Naming::Instead { from: reference.repository.clone(), to: repository },
    };
    Ok(Endpoint { blocked: forbidden, ..endpoint(settings, &host, naming, role, checks)? })
}

/// Returns `host[:port]` of `url` for messages.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn endpoint(
    settings: &Settings,
    registry: &str,
    naming: Naming,
    role: Role,
    checks: Checks,
) -> Result<Endpoint, Problem> {
    // docker.io itself is a web site.
    let host = if registry == DOCKER_HUB { "registry-1.docker.io" } else { registry };
    let own = settings.registries.get(registry);
    let transport = own.map(|own| own.transport).unwrap_or_default();
    let checks = if transport == Transport::ByAddress { checks } else { Checks::Usual };
    let (scheme, fallback) = scheme(transport, checks, host);
    let malformed = |detail: String| Problem::Malformed {
        host: host.to_owned(),
        what: "no registry address".to_owned(),
        detail,
    };
    let base = Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|error| malformed(error.to_string()))?;
    let authority = Authority::of(&base).ok_or_else(|| malformed("it has no host".to_owned()))?;
    let registry = registry.to_owned();
    Ok(Endpoint { registry, authority, base, naming, role, checks, fallback, blocked: None })
}

fn scheme(transport: Transport, checks: Checks, host: &str) -> (&'static str, Fallback) {
    match (transport, checks) {
        (Transport::Http, _) => ("http", Fallback::None),
        (Transport::Https, _) => ("https", Fallback::None),
        (Transport::Either, _) | (Transport::ByAddress, Checks::None) => ("https", Fallback::Plain),
        (Transport::ByAddress, Checks::Usual) if is_loopback_host(without_port(host)) => {
            ("http", Fallback::None)
        }
        (Transport::ByAddress, Checks::Usual) => ("https", Fallback::None),
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
    use crate::registry::settings::{Mirror, Route};

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

    fn mirror(location: &str, serves: Serves, checks: Checks) -> Mirror {
        Mirror { location: location.to_owned(), serves, checks }
    }

    #[test]
    fn routes_name_mirrors_and_what_stands_for_a_registry() {
        let mirrors = vec![
            mirror("m.example:5/hub", Serves::All, Checks::None),
            mirror("d.example", Serves::Digests, Checks::Usual),
            mirror("t.example", Serves::Tags, Checks::Usual),
        ];
        let library = Route { prefix: "docker.io/library".to_owned(), mirrors, ..Route::default() };
        let location = Some("inside.example/vendor".to_owned());
        let vendor = Route { prefix: "v.example".to_owned(), location, ..Route::default() };
        let settings = Settings { routes: vec![library, vendor], ..Settings::default() };
        let expected = [
            "https://m.example:5/v2/hub/alpine/tags/list",
            "https://t.example/v2/alpine/tags/list",
            "https://registry-1.docker.io/v2/library/alpine/tags/list",
        ];
        check(&settings, "alpine", &expected);
        let digest = crate::Digest::of(b"x");
        let expected = expected.map(|url| url.replace("t.example", "d.example"));
        check(&settings, &format!("alpine@{digest}"), &expected.each_ref().map(String::as_str));
        check(&settings, "other/alpine", &["https://registry-1.docker.io/v2/other/alpine/tags/list"]);
        check(&settings, "v.example/a/b", &["https://inside.example/v2/vendor/a/b/tags/list"]);
        let pushed = Endpoint::origin(&settings, &"v.example/a/b".parse().unwrap()).unwrap();
        assert_eq!(pushed.url("a/b", "x").unwrap().as_str(), "https://v.example/v2/a/b/x");
    }

    #[test]
    fn what_is_blocked_may_still_have_mirrors() {
        let file = || Some("registries.conf".to_owned());
        let mirrors =
            vec![mirror("m.io", Serves::All, Checks::Usual), mirror("b.io/x", Serves::All, Checks::Usual)];
        let blocked = Route { prefix: "h.io/team".to_owned(), blocked: file(), mirrors, ..Route::default() };
        let other = Route { prefix: "b.io".to_owned(), blocked: file(), ..Route::default() };
        let moved = Some("b.io/y".to_owned());
        let moved = Route { prefix: "v.io".to_owned(), location: moved, ..Route::default() };
        let settings = Settings { routes: vec![blocked, other, moved], ..Settings::default() };
        let check = |name: &str, expected: &[bool]| {
            let sources = Endpoint::sources(&settings, &name.parse().unwrap()).unwrap();
            let blocked: Vec<_> = sources.iter().map(|source| source.blocked.is_some()).collect();
            assert_eq!(blocked, expected, "{name}");
        };
        check("h.io/team/a", &[false, true, true]);
        check("h.io/other/a", &[false]);
        check("v.io/a", &[true]);
        let pushed = Endpoint::origin(&settings, &"h.io/team/a".parse().unwrap()).unwrap();
        assert_eq!(pushed.blocked.map(|blocked| blocked.prefix).as_deref(), Some("h.io/team"));
        assert!(Endpoint::of_registry(&settings, "b.io").unwrap().blocked.is_some());
        assert!(Endpoint::of_registry(&settings, "h.io").unwrap().blocked.is_none());
    }

    #[test]
    fn settings_of_a_registry_win_over_loose_checks() {
        let loose = Route { prefix: "h.io".to_owned(), checks: Checks::None, ..Route::default() };
        let mut settings = Settings { routes: vec![loose], ..Settings::default() };
        let origin = |settings: &Settings| Endpoint::origin(settings, &"h.io/a".parse().unwrap()).unwrap();
        assert_eq!((origin(&settings).checks, origin(&settings).fallback), (Checks::None, Fallback::Plain));
        settings.registries.entry("h.io".to_owned()).or_default().transport = Transport::Https;
        assert_eq!((origin(&settings).checks, origin(&settings).fallback), (Checks::Usual, Fallback::None));
    }
}
