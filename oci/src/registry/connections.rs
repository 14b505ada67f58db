//! HTTP clients: which connections requests share, and whom a registry may lead to. TLS is `tls`', proxies are
//! `proxy`'s, names are `dns`'s. Knows nothing of the distribution API or of credentials.
//!
//! Two kinds of client exist per registry: *open* for hosts that the user named, and *guarded* for hosts that a
//! registry named, which connects to public addresses only. Each has its own pool, so a connection made by the
//! one is never used by the other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::{Client, ClientBuilder, Url, redirect};

use super::address::{Authority, Kind, classify, is_loopback_host, literal};
use super::dns::{Guarded, Lookup, Open};
use super::endpoint::{Endpoint, host_of};
use super::error::{Problem, Refusal};
use super::no_nss;
use super::proxy::{Wire, proxies};
use super::settings::{Checks, RegistrySettings, Settings, Verification};
use super::tls::{self, Handshake, Roots};

/// All connections of one client.
pub(super) struct Connections {
    lookup: Lookup,
    roots: Roots,
    clients: Mutex<BTreeMap<Key, Client>>,
}

/// What two requests must share to share a pool.
#[derive(PartialEq, Eq, PartialOrd, Ord, Clone)]
struct Key {
    settings_of: String,
    trust: Trust,
    checks: Checks,
    wire: Wire,
    way: Way,
    sharing: Sharing,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Trust {
    Open,
    Guarded,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Way {
    Direct,
    Proxied,
}

/// Bytes that are worth a connection of their own, even where that takes a TLS handshake first.
const OWN_CONNECTION: u64 = 4 << 20;

/// How requests share connections.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
pub(super) enum Sharing {
    /// As server and client agree: with HTTP/2 all requests to a host travel on one connection.
    Agreed,
    /// HTTP/1.1, where requests at the same time have connections of their own. One TCP connection is often slower
    /// than the line, because each lost packet halves its rate (RFC 5681 §3.1).
    Own,
}

impl Sharing {
    /// Returns what is best for a body of so many bytes.
    pub fn of_body(length: u64) -> Self {
        if length < OWN_CONNECTION { Self::Agreed } else { Self::Own }
    }
}

impl Connections {
    /// Makes no connection and reads no file yet.
    pub fn new() -> Self {
        debug_assert!(no_nss::keep());
        Self { lookup: Lookup::default(), roots: Roots::default(), clients: Mutex::new(BTreeMap::new()) }
    }

    /// Returns the client for `url`, which is `endpoint`'s own or one that it named.
    ///
    /// # Errors
    /// [`Refusal`] where the endpoint may not lead there; a CA or client certificate file that cannot be used.
    pub fn client(&self, settings: &Settings, endpoint: &Endpoint, url: &Url) -> Result<Client, Problem> {
        self.client_sharing(settings, endpoint, url, Sharing::Agreed)
    }

    /// Returns the client for `url` whose requests share connections in this way.
    ///
    /// # Errors
    /// As [`Self::client`].
    pub fn client_sharing(
        &self,
        settings: &Settings,
        endpoint: &Endpoint,
        url: &Url,
        sharing: Sharing,
    ) -> Result<Client, Problem> {
        let trust = check_target(settings, endpoint, url)?;
        let key = Key {
            settings_of: settings_name(settings, endpoint, url),
            trust,
            checks: endpoint.checks,
            wire: Wire::of(url),
            way: if url.host_str().is_some_and(is_loopback_host) { Way::Direct } else { Way::Proxied },
            sharing,
        };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = self.build(settings, &key, endpoint)?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    fn build(&self, settings: &Settings, key: &Key, endpoint: &Endpoint) -> Result<Client, Problem> {
        let none = RegistrySettings::default();
        let own = settings.registries.get(&key.settings_of).unwrap_or(&none);
        let mut builder = Client::builder()
            .user_agent(concat!("xbuild/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .connect_timeout(settings.timeouts.connect)
            .tcp_nodelay(true)
            .http2_initial_stream_window_size(4 << 20)
            .http2_initial_connection_window_size(16 << 20)
            .http2_max_header_list_size(64 << 10)
            .tls_backend_preconfigured(match key.wire {
                Wire::Tls => self.roots.config(&handshake(own, &settings.ca_files, key))?,
                Wire::Plain => tls::nobody(),
            });
        if key.sharing == Sharing::Own {
            builder = builder.http1_only();
        }
        let proxies = if key.way == Way::Proxied { proxies(settings, key.wire)? } else { Vec::new() };
        let exempt = proxies.iter().filter_map(|(url, _)| Some(Authority::of(url)?.host)).collect();
        for (_, proxy) in proxies {
            builder = builder.proxy(proxy);
        }
        resolver(builder, key.trust, self.lookup.clone(), exempt).build().map_err(|error| {
            Problem::Malformed {
                host: endpoint.host(),
                what: "no HTTP client".to_owned(),
                detail: error.to_string(),
            }
        })
    }
}

/// What TLS connections of `key` begin with; `all` are the authorities of every registry.
fn handshake<'a>(own: &'a RegistrySettings, all: &[PathBuf], key: &Key) -> Handshake<'a> {
    Handshake {
        verification: match key.checks {
            Checks::Usual => own.verification,
            Checks::None => Verification::None,
        },
        authorities: [&own.ca_files, all].concat(),
        // A client certificate is shown to the registry only, not to hosts that it named.
        identity: own.client_certificate.as_ref().filter(|_| key.trust == Trust::Open),
        protocols: match key.sharing {
            Sharing::Agreed => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Sharing::Own => vec![b"http/1.1".to_vec()],
        },
    }
}

fn resolver(builder: ClientBuilder, trust: Trust, lookup: Lookup, exempt: BTreeSet<String>) -> ClientBuilder {
    match trust {
        Trust::Open => builder.dns_resolver(Arc::new(Open(lookup))),
        Trust::Guarded => builder.dns_resolver(Arc::new(Guarded { lookup, exempt })),
    }
}

/// The registry whose settings apply to `url`: the one configured for that very host, else the endpoint's own.
fn settings_name(settings: &Settings, endpoint: &Endpoint, url: &Url) -> String {
    match configured(settings, url) {
        Some(name) if Authority::of(url).as_ref() != Some(&endpoint.authority) => name.to_owned(),
        _ => endpoint.registry.clone(),
    }
}

fn configured<'a>(settings: &'a Settings, url: &Url) -> Option<&'a str> {
    let target = Authority::of(url)?;
    settings
        .registries
        .keys()
        .map(String::as_str)
        .find(|name| Authority::parse(name).as_ref() == Some(&target))
}

/// Checks that `endpoint` may lead to `url`: never from https down to http, and to an address inside only where
/// the user named that host himself (reliability REG-01, REG-04, REG-05).
fn check_target(settings: &Settings, endpoint: &Endpoint, url: &Url) -> Result<Trust, Problem> {
    let plain_is_fine = endpoint.base.scheme() == "http";
    if !(url.scheme() == "https" || url.scheme() == "http" && plain_is_fine) {
        return Err(Refusal::Scheme { registry: endpoint.host(), url: shown(url) }.into());
    }
    let authority = Authority::of(url);
    let named = authority.as_ref() == Some(&endpoint.authority)
        || authority.is_some_and(|authority| is_allowed(settings, endpoint, &authority))
        || configured(settings, url).is_some();
    if named {
        return Ok(Trust::Open);
    }
    let address = match literal(url) {
        Some(address) => Some(address),
        None if url.host_str().is_some_and(is_loopback_host) => Some([127, 0, 0, 1].into()),
        None => None,
    };
    match address.map(|address| (address, classify(address))) {
        None | Some((_, Kind::Public)) => Ok(Trust::Guarded),
        Some((address, kind)) => {
            Err(Refusal::Address { registry: endpoint.host(), url: shown(url), address, kind }.into())
        }
    }
}

/// Whether the user said that `endpoint` may lead to `authority`.
fn is_allowed(settings: &Settings, endpoint: &Endpoint, authority: &Authority) -> bool {
    let own = settings.registries.get(&endpoint.registry);
    settings.allowed.contains(authority) || own.is_some_and(|own| own.allowed.contains(authority))
}

/// Returns `url` for a message: without user, query and fragment, which may carry signatures.
pub(super) fn shown(url: &Url) -> String {
    let host = url.host_str().map(|_| host_of(url)).unwrap_or_default();
    let separator = if url.cannot_be_a_base() { ":" } else { "://" };
    super::error::clean(&format!("{}{separator}{host}{}", url.scheme(), url.path()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reference;

    fn settings() -> Settings {
        let mut settings = Settings::default();
        settings.allowed.insert(Authority::parse("10.0.0.9").unwrap());
        settings.registries.insert("gitlab.inside:5050".to_owned(), RegistrySettings::default());
        settings
    }

    fn check(reference: &str, url: &str, expected: Option<Trust>) {
        let settings = settings();
        let reference: Reference = reference.parse().unwrap();
        let endpoint = Endpoint::origin(&settings, &reference).unwrap();
        let trust = check_target(&settings, &endpoint, &Url::parse(url).unwrap());
        assert!(trust.as_ref().ok() == expected.as_ref(), "{reference} -> {url}: {:?}", trust.err());
    }

    #[test]
    fn reg_01_where_a_registry_may_lead() {
        check("h.example/a", "https://h.example/token", Some(Trust::Open));
        check("h.example/a", "https://auth.example/token", Some(Trust::Guarded));
        check("h.example/a", "https://1.1.1.1/token", Some(Trust::Guarded));
        check("10.0.0.1/a", "https://10.0.0.1/service/token", Some(Trust::Open));
        check("h.example/a", "https://10.0.0.9/token", Some(Trust::Open));
        check("h.example/a", "https://gitlab.inside:5050/jwt", Some(Trust::Open));
        check("127.0.0.1:5000/a", "http://127.0.0.1:5000/token", Some(Trust::Open));
        check("127.0.0.1:5000/a", "https://cdn.example/blob", Some(Trust::Guarded));
    }

    #[test]
    fn reg_01_where_it_may_not() {
        for url in [
            "http://h.example/token",
            "http://auth.example/token",
            "file:///etc/passwd",
            "ftp://h.example/x",
            "https://127.0.0.1/x",
            "https://localhost/x",
            "https://10.0.0.1/x",
            "https://10.0.0.9:8443/x",
            "https://169.254.169.254/latest/meta-data",
            "https://[fd00:ec2::254]/x",
            "https://0.0.0.0/x",
            "https://2130706433/x",
            "https://0177.1/x",
            "https://[::ffff:169.254.169.254]/x",
        ] {
            check("h.example/a", url, None);
        }
        check("127.0.0.1:5000/a", "http://127.0.0.1:5001/x", None);
        check("127.0.0.1:5000/a", "http://169.254.169.254/x", None);
    }

    #[test]
    fn messages_show_no_signature() {
        let url = Url::parse("https://u:p@cdn.example:8443/blob?sig=secret#f").unwrap();
        assert_eq!(shown(&url), "https://cdn.example:8443/blob");
        for hostless in ["file:///etc/passwd", "javascript:1"] {
            assert_eq!(shown(&Url::parse(hostless).unwrap()), hostless);
        }
    }
}
