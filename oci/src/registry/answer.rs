//! Answers of a server, read with limits: of size, of time, of patience with trickles.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_ENCODING, HeaderMap, HeaderName};
use reqwest::{Response, StatusCode, Url};

use super::endpoint::host_of;
use super::error::{self, Problem, Transient};
use super::retry;
use super::settings::{Limits, Timeouts};

/// The head of an answer, and its body as it comes.
pub(super) struct Answer {
    response: Response,
    /// Where it came from in the end.
    pub url: Url,
    timeouts: Timeouts,
    error_limit: u64,
    window: Window,
}

/// Counts what came and how long it was waited for: fewer than so many bytes in so much time is a dead connection
/// (REG-11). Time in which nobody asked for bytes does not count, so that a slow disk does not break a download.
#[derive(Default)]
struct Window {
    waited: Duration,
    bytes: u64,
}

impl Answer {
    pub(super) fn new(response: Response, url: Url, timeouts: &Timeouts, limits: &Limits) -> Self {
        Self {
            response,
            url,
            timeouts: timeouts.clone(),
            error_limit: limits.error,
            window: Window::default(),
        }
    }

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Returns the headers.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Returns a header as text.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// Returns `host[:port]` for messages.
    pub fn host(&self) -> String {
        host_of(&self.url)
    }

    /// Returns the address that answered: the server's, or that of a proxy.
    pub fn peer(&self) -> Option<std::net::SocketAddr> {
        self.response.remote_addr()
    }

    /// Returns the announced length of the body.
    pub fn content_length(&self) -> Option<u64> {
        self.header(reqwest::header::CONTENT_LENGTH)?.parse().ok()
    }

    /// Says that the server has encoded the body, where it says so itself. Nobody asked for that: what is hashed is what
    /// a blob is. Stores also call a file encoded that is a gzip itself, so this is told only of bodies that are wrong.
    pub fn encoded(&self, what: &str) -> Option<Problem> {
        let encoding = self.header(CONTENT_ENCODING).map(str::trim)?;
        if encoding.is_empty() || encoding.eq_ignore_ascii_case("identity") {
            return None;
        }
        let encoding = error::clean(encoding);
        let detail = format!("it is encoded (Content-Encoding: {encoding}), which was not asked for");
        Some(Problem::Malformed { host: self.host(), what: what.to_owned(), detail })
    }

    /// Returns the next bytes of the body; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Problem> {
        let silent = |host: String| Problem::Timeout { host, what: "stopped sending".to_owned() };
        let before = Instant::now();
        let chunk = match tokio::time::timeout(self.timeouts.stall, self.response.chunk()).await {
            Ok(chunk) => chunk.map_err(|error| problem(&error, &self.host()))?,
            Err(_) => return Err(silent(self.host())),
        };
        self.window.waited += before.elapsed();
        self.window.bytes += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if self.window.waited >= self.timeouts.stall {
            if self.window.bytes < self.timeouts.stall_bytes && chunk.is_some() {
                return Err(silent(self.host()));
            }
            self.window = Window::default();
        }
        Ok(chunk)
    }

    /// Reads the whole body, of `limit` bytes at most.
    pub async fn body(&mut self, limit: u64, what: &str) -> Result<Bytes, Problem> {
        let too_large = |host: String| Problem::TooLarge { host, what: what.to_owned(), limit };
        if self.content_length().is_some_and(|length| length > limit) {
            return Err(too_large(self.host()));
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(too_large(self.host()));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    /// Turns an answer that reports an error into a problem with the server's own words.
    pub async fn failure(mut self) -> Problem {
        let mut body = Vec::new();
        let patience = Duration::from_secs(5).min(self.timeouts.stall);
        while let Ok(Ok(Some(chunk))) = tokio::time::timeout(patience, self.chunk()).await {
            let room = usize::try_from(self.error_limit).unwrap_or(usize::MAX).saturating_sub(body.len());
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() >= room {
                break;
            }
        }
        Problem::Status {
            host: self.host(),
            status: self.status(),
            messages: error::messages(&body),
            retry_after: retry::retry_after(self.headers(), now()),
        }
    }

    /// Reads what is left of a short body, so that the connection can be used again; gives up on a long one.
    pub async fn discard(mut self) {
        let mut left = self.error_limit;
        while let Ok(Ok(Some(chunk))) = tokio::time::timeout(Duration::from_secs(1), self.chunk()).await {
            left = left.saturating_sub(chunk.len() as u64);
            if left == 0 {
                return;
            }
        }
    }
}

/// Seconds since the epoch by this machine's clock.
#[expect(clippy::disallowed_methods, reason = "how long a server is waited for reaches no output")]
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or(0)
}

/// hyper's words for answers that would be the same next time; its errors are behind those of others.
const UNREADABLE: &[&str] =
    &["message head is too large", "invalid HTTP ", "invalid content-length", "invalid transfer-encoding"];

/// What such an answer is called.
pub(super) const NO_HTTP: &str = "an answer that is no HTTP";

/// Says what went wrong with a connection to `host`.
pub(super) fn problem(error: &reqwest::Error, host: &str) -> Problem {
    let host = host.to_owned();
    if let Some(refused) = find::<super::dns::RefusedAddress>(error) {
        let (address, kind) = (refused.address, refused.kind);
        let url = error.url().map_or_else(|| refused.name.clone(), super::connections::shown);
        return super::error::Refusal::Address { registry: host, url, address, kind }.into();
    }
    if error.is_dns() {
        return unresolved(host, error);
    }
    if let Some(tls) = tls_error(error) {
        return Problem::Tls { host, detail: tls };
    }
    if error.is_timeout() {
        let what = if error.is_connect() { "did not accept a connection" } else { "did not answer in time" };
        return Problem::Timeout { host, what: what.to_owned() };
    }
    if let Some(detail) = rejected_certificate(error) {
        return Problem::Tls { host, detail };
    }
    let cause = root_cause(error);
    if UNREADABLE.iter().any(|words| cause.contains(words)) {
        return Problem::Malformed { host, what: NO_HTTP.to_owned(), detail: cause };
    }
    let (what, transient) = match find::<std::io::Error>(error).map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionRefused) => ("connection refused".to_owned(), Transient::Briefly),
        Some(std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe) => {
            ("connection reset".to_owned(), Transient::Yes)
        }
        Some(_) | None if error.is_builder() => (cause, Transient::No),
        Some(_) | None => (format!("connection broken ({cause})"), Transient::Yes),
    };
    Problem::Connection { host, what, transient }
}

/// Says what went wrong on the way to `host` through `proxy`: before there is a connection, it is the proxy's.
pub(super) fn problem_behind(error: &reqwest::Error, host: &str, proxy: &str) -> Problem {
    let by = format!("{proxy} on the way to {host}");
    match problem(error, host) {
        Problem::Connection { what, .. } if what.contains("proxy authorization required") => {
            let what = "user and password wanted".to_owned();
            Problem::Connection { host: by, what, transient: Transient::No }
        }
        Problem::Connection { what, .. } if what.contains("tunnel error") => {
            let what = "no connection made".to_owned();
            Problem::Connection { host: by, what, transient: Transient::Briefly }
        }
        Problem::Connection { what, transient, .. } if error.is_connect() => {
            Problem::Connection { host: by, what, transient }
        }
        Problem::Timeout { what, .. } if error.is_connect() => Problem::Timeout { host: by, what },
        Problem::Name { detail, transient, .. } => {
            Problem::Name { host: proxy.to_owned(), detail, transient }
        }
        other => other,
    }
}

fn unresolved(host: String, error: &reqwest::Error) -> Problem {
    match find::<hickory_resolver::net::NetError>(error) {
        Some(answer) if answer.is_no_records_found() || answer.is_nx_domain() => {
            Problem::Name { host, detail: "there is no such name".to_owned(), transient: Transient::No }
        }
        Some(_) | None => Problem::Name { host, detail: root_cause(error), transient: Transient::Yes },
    }
}

fn find<'a, E: std::error::Error + 'static>(error: &'a reqwest::Error) -> Option<&'a E> {
    let mut source: Option<&'a (dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = source {
        if let Some(found) = current.downcast_ref::<E>() {
            return Some(found);
        }
        // An io::Error hides what it was made from behind `get_ref`.
        let inner = current.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        source = match inner {
            Some(inner) => Some(inner),
            None => current.source(),
        };
    }
    None
}

fn tls_error(error: &reqwest::Error) -> Option<String> {
    find::<rustls::Error>(error).map(super::tls::told)
}

/// What a server says of our certificate comes after the handshake (RFC 8446 §4.4.2.4), and as text: HTTP/2 hides the
/// error below it.
fn rejected_certificate(error: &reqwest::Error) -> Option<String> {
    let cause = root_cause(error);
    let words = ["Certificate", "UnknownCA", "AccessDenied"];
    let rejected = cause.contains("received fatal alert") && words.iter().any(|word| cause.contains(word));
    rejected.then_some(cause)
}

fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    error::clean(&cause.to_string())
}
