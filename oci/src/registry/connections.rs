//! HTTP clients: TLS, proxies, name resolution. Knows nothing of the distribution API or of credentials.
//!
//! Two kinds of client exist per registry: *open* for hosts that the user named, and *guarded* for hosts that a
//! registry named, which connects to public addresses only. Each has its own pool, so a connection made by the
//! one is never used by the other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use reqwest::{Client, ClientBuilder, NoProxy, Proxy, Url, redirect};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::address::{Authority, Kind, classify, is_loopback_host, literal};
use super::dns::{Guarded, Lookup, Open};
use super::endpoint::{Endpoint, host_of};
use super::error::{Problem, Refusal};
use super::settings::{Checks, ClientCertificate, RegistrySettings, Settings, Verification};
use super::{no_nss, verify};

/// All connections of one client.
pub(super) struct Connections {
    lookup: Lookup,
    roots: OnceLock<Arc<RootCertStore>>,
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
enum Wire {
    Plain,
    Tls,
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
        Self { lookup: Lookup::default(), roots: OnceLock::new(), clients: Mutex::new(BTreeMap::new()) }
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
            wire: wire_of(url),
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
                Wire::Tls => self.tls(own, &settings.ca_files, key)?,
                Wire::Plain => plain_tls(),
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

    fn tls(&self, own: &RegistrySettings, all: &[PathBuf], key: &Key) -> Result<ClientConfig, Problem> {
        let builder = ClientConfig::builder_with_provider(verify::provider())
            .with_safe_default_protocol_versions()
            .expect("ring has all suites of TLS 1.2 and 1.3");
        let verification = match key.checks {
            Checks::Usual => own.verification,
            Checks::None => Verification::None,
        };
        let builder = match verification {
            Verification::None => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verify::Nothing::new()))
            }
            Verification::Full => {
                let files = [&own.ca_files, all].concat();
                let roots = self.roots_with(&files)?;
                if files.is_empty() {
                    builder.with_root_certificates(roots)
                } else {
                    let named =
                        files.iter().map(|path| read_certificates(path)).collect::<Result<Vec<_>, _>>()?;
                    let verifier = verify::Named::new(roots, named.concat());
                    builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
                }
            }
        };
        // A client certificate is shown to the registry only, not to hosts that it named.
        let mut config = match own.client_certificate.as_ref().filter(|_| key.trust == Trust::Open) {
            Some(identity) => {
                let (chain, private) = read_identity(identity)?;
                builder.with_client_auth_cert(chain, private).map_err(|error| Problem::File {
                    path: identity.certificate.clone(),
                    detail: error.to_string(),
                })?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = match key.sharing {
            Sharing::Agreed => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Sharing::Own => vec![b"http/1.1".to_vec()],
        };
        Ok(config)
    }

    fn roots_with(&self, files: &[PathBuf]) -> Result<Arc<RootCertStore>, Problem> {
        let system = self.roots.get_or_init(|| Arc::new(system_roots()));
        if files.is_empty() {
            return Ok(system.clone());
        }
        let mut roots = RootCertStore::clone(system);
        for path in files {
            for certificate in read_certificates(path)? {
                roots.add(certificate).map_err(|error| bad_file(path, &error))?;
            }
        }
        Ok(Arc::new(roots))
    }
}

/// The host's bundle; SSL_CERT_FILE and SSL_CERT_DIR are honoured by the reader. A certificate that cannot be
/// parsed is left out, as every client does.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// The configuration of a client that is used for http:// only; it trusts nobody and reads no file.
fn plain_tls() -> ClientConfig {
    ClientConfig::builder_with_provider(verify::provider())
        .with_safe_default_protocol_versions()
        .expect("ring has all suites of TLS 1.2 and 1.3")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

fn resolver(builder: ClientBuilder, trust: Trust, lookup: Lookup, exempt: BTreeSet<String>) -> ClientBuilder {
    match trust {
        Trust::Open => builder.dns_resolver(Arc::new(Open(lookup))),
        Trust::Guarded => builder.dns_resolver(Arc::new(Guarded { lookup, exempt })),
    }
}

fn bad_file(path: &Path, error: &dyn std::fmt::Display) -> Problem {
    Problem::File { path: path.to_owned(), detail: error.to_string() }
}

/// Looks whether the file at `path` holds certificates, before anybody is connected to.
///
/// # Errors
/// [`Problem::File`] where it cannot be read or holds none.
pub fn check_certificates(path: &Path) -> Result<(), Problem> {
    read_certificates(path).map(drop)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let text = std::fs::read(path).map_err(|error| bad_file(path, &error))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.map_err(|error| bad_file(path, &error))?;
    if certificates.is_empty() {
        return Err(bad_file(path, &"no PEM certificate in it"));
    }
    Ok(certificates)
}

fn read_identity(
    identity: &ClientCertificate,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Problem> {
    let chain = read_certificates(&identity.certificate)?;
    let text = std::fs::read(&identity.key).map_err(|error| bad_file(&identity.key, &error))?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => bad_file(&identity.key, &"no PEM key in it"),
        error => bad_file(&identity.key, &error),
    })?;
    Ok((chain, key))
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
    super::error::clean(&format!("{}://{}{}", url.scheme(), host_of(url), url.path()))
}

type MakeProxy = fn(Url) -> reqwest::Result<Proxy>;

/// The proxies of one wire, each with its variable's name; the first that is set counts.
fn variables(settings: &Settings, wire: Wire) -> [(&'static str, &Option<String>, MakeProxy); 2] {
    let environment = &settings.environment;
    let all: (_, _, MakeProxy) = ("ALL_PROXY", &environment.all_proxy, Proxy::all);
    match wire {
        Wire::Tls => [("HTTPS_PROXY", &environment.https_proxy, Proxy::https), all],
        Wire::Plain => [("HTTP_PROXY", &environment.http_proxy, Proxy::http), all],
    }
}

fn wire_of(url: &Url) -> Wire {
    if url.scheme() == "https" { Wire::Tls } else { Wire::Plain }
}

/// A proxy's URL, as curl and Go read it: `host:port` without a scheme means http.
fn proxy_url(name: &str, value: &str) -> Result<Url, Problem> {
    // Not quoted: it may hold a password.
    let unusable = |detail: String| Problem::File { path: name.into(), detail };
    let text = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    let url = Url::parse(&text).map_err(|error| unusable(format!("it names no proxy: {error}")))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => {
            Err(unusable(format!("it names a {other:?} proxy, where http:// and https:// are understood")))
        }
    }
}

fn proxies(settings: &Settings, wire: Wire) -> Result<Vec<(Url, Proxy)>, Problem> {
    let no_proxy = settings.environment.no_proxy.as_deref().and_then(NoProxy::from_string);
    for (name, value, make) in variables(settings, wire) {
        let Some(value) = value.as_deref().map(str::trim).filter(|value| !value.is_empty()) else { continue };
        let url = proxy_url(name, value)?;
        let proxy = make(url.clone()).map_err(|error| Problem::File {
            path: name.into(),
            detail: super::error::clean(&error.to_string()),
        })?;
        return Ok(vec![(url, proxy.no_proxy(no_proxy))]);
    }
    Ok(Vec::new())
}

/// Returns the proxy that stands between us and `url`, for messages; `None` where there is none or that is unsure.
pub(super) fn proxy_before(settings: &Settings, url: &Url) -> Option<String> {
    let host = url.host_str().filter(|host| !is_loopback_host(host))?;
    if is_exempt(host, settings.environment.no_proxy.as_deref().unwrap_or_default()) {
        return None;
    }
    let set = variables(settings, wire_of(url)).into_iter().find_map(|(name, value, _)| {
        let value = value.as_deref().map(str::trim).filter(|value| !value.is_empty())?;
        Some((name, value))
    });
    let (name, value) = set?;
    Some(format!("the proxy {} ({name})", host_of(&proxy_url(name, value).ok()?)))
}

/// Whether `NO_PROXY` names the host or a domain above it, or may name a network that it is in.
fn is_exempt(host: &str, no_proxy: &str) -> bool {
    no_proxy.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let domain = entry.trim_start_matches("*.").trim_start_matches('.');
        entry == "*"
            || entry.contains('/')
            || host == domain
            || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
    })
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
    fn the_proxy_on_the_way_is_named_where_there_is_one() {
        let mut settings = Settings::default();
        settings.environment.https_proxy = Some("u:secret@proxy.example:3128".to_owned());
        settings.environment.no_proxy = Some(".inside.example, h.example".to_owned());
        let before = |url: &str| proxy_before(&settings, &Url::parse(url).unwrap());
        let named = Some("the proxy proxy.example:3128 (HTTPS_PROXY)".to_owned());
        assert_eq!(before("https://reg.example/v2/"), named);
        for direct in
            ["http://reg.example/", "https://a.inside.example/", "https://h.example/", "https://127.0.0.1/"]
        {
            assert_eq!(before(direct), None, "{direct}");
        }
    }

    #[test]
    fn a_variable_that_names_no_proxy_is_told() {
        for (value, part) in [("garbage://p", "garbage"), (":::", "no proxy"), ("socks5://p:1080", "socks5")]
        {
            let mut settings = Settings::default();
            settings.environment.all_proxy = Some(value.to_owned());
            let problem = proxies(&settings, Wire::Tls).unwrap_err().to_string();
            assert!(problem.starts_with("ALL_PROXY: ") && problem.contains(part), "{problem}");
            // The scheme's own comes first, and the other is not used then.
            settings.environment.https_proxy = Some("http://p:3128".to_owned());
            assert_eq!(proxies(&settings, Wire::Tls).unwrap().len(), 1);
        }
    }

    #[test]
    fn messages_show_no_signature() {
        let url = Url::parse("https://u:p@cdn.example:8443/blob?sig=secret#f").unwrap();
        assert_eq!(shown(&url), "https://cdn.example:8443/blob");
    }
}
