//! Proxies of the environment: which one is used for a URL, and what messages call it. Connects to nothing.

use reqwest::{NoProxy, Proxy, Url};

use super::address::is_loopback_host;
use super::endpoint::host_of;
use super::error::{Problem, clean};
use super::settings::Settings;

/// What travels between us and a server.
#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
pub(super) enum Wire {
    Plain,
    Tls,
}

impl Wire {
    /// Returns what `url` asks for.
    pub fn of(url: &Url) -> Self {
        if url.scheme() == "https" { Self::Tls } else { Self::Plain }
    }
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

/// Returns the proxy of `wire` with its URL; none where the environment names none.
///
/// # Errors
/// [`Problem::File`] where a variable names no proxy.
pub(super) fn proxies(settings: &Settings, wire: Wire) -> Result<Vec<(Url, Proxy)>, Problem> {
    let no_proxy = settings.environment.no_proxy.as_deref().and_then(NoProxy::from_string);
    for (name, value, make) in variables(settings, wire) {
        let Some(value) = value.as_deref().map(str::trim).filter(|value| !value.is_empty()) else { continue };
        let url = proxy_url(name, value)?;
        let proxy = make(url.clone())
            .map_err(|error| Problem::File { path: name.into(), detail: clean(&error.to_string()) })?;
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
    let set = variables(settings, Wire::of(url)).into_iter().find_map(|(name, value, _)| {
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
}
