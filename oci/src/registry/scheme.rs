//! Finds out whether a registry that may speak plain HTTP does. Asks only where the settings leave it open.
//!
//! Docker and containers' tools mean this by "insecure": HTTPS first, plain HTTP where that is not spoken.

use std::borrow::Cow;
use std::collections::BTreeMap;

use reqwest::Url;

use super::address::Authority;
use super::client::Client;
use super::endpoint::{Blocked, Endpoint, Fallback};
use super::error::{Problem, Refusal};

/// What registries turned out to speak, by where they listen.
#[derive(Default)]
pub(super) struct Schemes(tokio::sync::Mutex<BTreeMap<Authority, Spoken>>);

/// What a registry speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Https,
    Plain,
}

impl Client {
    /// Returns the endpoint and a URL of it with the scheme that the registry speaks. Every request begins here, so
    /// what is blocked ends here.
    pub(super) async fn by_its_scheme<'a>(
        &self,
        endpoint: &'a Endpoint,
        url: &Url,
    ) -> Result<(Cow<'a, Endpoint>, Url), Problem> {
        if let Some(Blocked { prefix, file }) = endpoint.blocked.clone() {
            return Err(Refusal::Blocked { prefix, file }.into());
        }
        let open = endpoint.fallback == Fallback::Plain && endpoint.base.scheme() == "https";
        if !open || self.spoken(endpoint).await == Spoken::Https {
            return Ok((Cow::Borrowed(endpoint), url.clone()));
        }
        let plain = plain(endpoint);
        let own = Authority::of(url).as_ref() == Some(&endpoint.authority);
        let url = if own { with_http(url) } else { url.clone() };
        Ok((Cow::Owned(plain), url))
    }

    async fn spoken(&self, endpoint: &Endpoint) -> Spoken {
        // Held while asking, so that parallel layers ask once.
        let mut known = self.schemes().0.lock().await;
        if let Some(spoken) = known.get(&endpoint.authority) {
            return *spoken;
        }
        let spoken = match self.ask(endpoint).await {
            Ok(()) => Spoken::Https,
            Err(Problem::Tls { .. } | Problem::Connection { .. } | Problem::Timeout { .. })
                if self.ask(&plain(endpoint)).await.is_ok() =>
            {
                Spoken::Plain
            }
            // It may be in trouble for a moment; the request itself says so.
            Err(_) => return Spoken::Https,
        };
        known.insert(endpoint.authority.clone(), spoken);
        spoken
    }

    async fn ask(&self, endpoint: &Endpoint) -> Result<(), Problem> {
        let http = self.connections().client(self.settings(), endpoint, &endpoint.base)?;
        self.transmit(http.get(endpoint.base.clone()), &endpoint.base, None).await.map(drop)
    }
}

fn plain(endpoint: &Endpoint) -> Endpoint {
    let base = with_http(&endpoint.base);
    let authority = Authority::of(&base).unwrap_or_else(|| endpoint.authority.clone());
    Endpoint { base, authority, ..endpoint.clone() }
}

fn with_http(url: &Url) -> Url {
    let mut url = url.clone();
    url.set_scheme("http").expect("https and http are both special schemes");
    url
}
