//! GET of a URL that the user named: ADD of URLs and contexts. Knows no repository and keeps nothing.
//!
//! It shares connections, TLS, proxies, time-outs and retries with the registry client, and the rule of where a
//! server may lead: a server on the internet cannot make the builder talk to an address inside (SRC-08), while a
//! server inside, which the user named, may lead to others inside.

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{StatusCode, Url};

use super::address::{Authority, Kind, classify, is_loopback_host, literal};
use super::answer::Answer;
use super::attempts::Retrier;
use super::client::Client;
use super::connections::shown;
use super::endpoint::{Endpoint, host_of};
use super::error::{Problem, Refusal};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct UrlRequest {
    /// An `http:` or `https:` URL; a user and password in it are sent as Basic credentials.
    pub url: Url,
    /// Headers that go wherever redirects lead.
    pub headers: HeaderMap,
    /// Goes to the URL's own scheme, host and port only.
    pub authorization: Option<HeaderValue>,
}

/// The head of an answer, and its body as it comes.
pub struct UrlAnswer(Answer);

/// Counts failed attempts of one download and sleeps between them.
pub struct Attempts(Retrier);

impl Attempts {
    /// Sleeps if another attempt may help.
    ///
    /// # Errors
    /// `problem`, with the number of attempts, if not.
    pub async fn pause(&mut self, problem: Problem) -> Result<(), Problem> {
        self.0.pause(problem).await
    }
}

impl UrlAnswer {
    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.0.status()
    }

    /// Returns a header as text.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.0.header(name)
    }

    /// Returns where redirects have led.
    pub fn url(&self) -> &Url {
        &self.0.url
    }

    /// Returns the announced length of the body.
    pub fn content_length(&self) -> Option<u64> {
        self.0.content_length()
    }

    /// Returns the next bytes of the body as they are on the wire, `None` at its end.
    ///
    /// # Errors
    /// A connection that breaks or is silent for too long.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Problem> {
        self.0.chunk().await
    }

    /// Turns an answer that reports an error into a problem with the server's own words.
    pub async fn failure(self) -> Problem {
        self.0.failure().await
    }
}

impl Client {
    /// Starts counting attempts to get `what`.
    pub fn attempts(&self, url: &Url, what: &str) -> Attempts {
        Attempts(self.retrier(url, what))
    }

    /// Sends `request` once, following redirects.
    ///
    /// # Errors
    /// No connection, or a redirect that is not followed.
    pub async fn open_url(&self, request: &UrlRequest) -> Result<UrlAnswer, Problem> {
        let mut url = request.url.clone();
        let mut endpoint = endpoint_of(&url)?;
        let mut hops = 0;
        loop {
            let http = self.connections().client(self.settings(), &endpoint, &url)?;
            let mut builder = http.get(url.clone()).headers(request.headers.clone());
            if let Some(value) = request.authorization.as_ref().filter(|_| is_same_origin(&request.url, &url))
            {
                builder = builder.header(AUTHORIZATION, value);
            }
            let answer = self.transmit(builder, &url, None).await?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(UrlAnswer(answer));
            }
            hops += 1;
            let next = self.next_hop(&answer, &url, hops)?;
            endpoint = match self.place(&answer, &url) {
                // From here the connection is guarded: names are looked up with the check inside.
                Kind::Public => endpoint_of(&url)?,
                from => {
                    check_inside(from, &url, &next)?;
                    endpoint_of(&next)?
                }
            };
            url = next;
        }
    }

    /// Returns what kind of address answered. Behind a proxy the peer says nothing about the server, so a name
    /// counts as public there.
    fn place(&self, answer: &Answer, url: &Url) -> Kind {
        let environment = &self.settings().environment;
        let proxied = [&environment.http_proxy, &environment.https_proxy, &environment.all_proxy]
            .into_iter()
            .any(|proxy| proxy.as_deref().is_some_and(|proxy| !proxy.trim().is_empty()));
        if url.host_str().is_some_and(is_loopback_host) {
            return Kind::Loopback;
        }
        let peer = if proxied { None } else { answer.peer().map(|peer| peer.ip()) };
        literal(url).or(peer).map_or(Kind::Public, classify)
    }
}

fn is_same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && Authority::of(a) == Authority::of(b)
}

/// Checks where a server inside leads: to the outside and to its own kind, and this machine to the networks it is
/// in; never to a metadata service.
fn check_inside(from: Kind, url: &Url, next: &Url) -> Result<(), Problem> {
    let loopback = next.host_str().is_some_and(is_loopback_host).then_some([127, 0, 0, 1].into());
    let Some(address) = literal(next).or(loopback) else { return Ok(()) };
    let kind = classify(address);
    let allowed = match kind {
        Kind::Public => true,
        Kind::Private => matches!(from, Kind::Private | Kind::Loopback),
        Kind::Loopback => from == Kind::Loopback,
        Kind::LinkLocal | Kind::Special => is_same_origin(url, next),
    };
    if allowed {
        return Ok(());
    }
    Err(Refusal::Address { registry: host_of(url), url: shown(next), address, kind }.into())
}

/// Returns the server of `url` as an endpoint that the user named.
fn endpoint_of(url: &Url) -> Result<Endpoint, Problem> {
    let malformed = |detail: &str| Problem::Malformed {
        host: host_of(url),
        what: "a URL".to_owned(),
        detail: detail.to_owned(),
    };
    let authority = Authority::of(url).ok_or_else(|| malformed("it has no host"))?;
    let mut base = url.clone();
    base.set_path("/");
    base.set_query(None);
    base.set_fragment(None);
    Ok(Endpoint::at(host_of(url), authority, base))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(from: Kind, next: &str, allowed: bool) {
        let url = Url::parse("http://inside.example/a").unwrap();
        let result = check_inside(from, &url, &Url::parse(next).unwrap());
        assert_eq!(result.is_ok(), allowed, "{from:?} -> {next}: {:?}", result.err());
    }

    #[test]
    fn src_08_where_a_server_inside_may_lead() {
        check(Kind::Private, "http://10.0.0.9/b", true);
        check(Kind::Private, "http://other.inside.example/b", true);
        check(Kind::Private, "https://1.1.1.1/b", true);
        check(Kind::Private, "http://127.0.0.1/b", false);
        check(Kind::Private, "http://localhost/b", false);
        check(Kind::Private, "http://169.254.169.254/latest", false);
        check(Kind::Loopback, "http://127.0.0.1:81/b", true);
        check(Kind::Loopback, "http://10.0.0.9/b", true);
        check(Kind::Loopback, "http://169.254.169.254/latest", false);
    }
}
