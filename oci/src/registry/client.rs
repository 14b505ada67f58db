//! One exchange with a registry: log in, send, follow redirects, try again. Knows no manifest and no blob.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, RequestBuilder, StatusCode, Url};

use super::address::Authority;
use super::answer::{self, Answer};
use super::attempts::{Patience, Retrier};
use super::auth::{Again, Keyring, Refused, Subject};
use super::body::Payload;
use super::connections::{Connections, Sharing, shown};
use super::endpoint::{Endpoint, Role, host_of};
use super::error::{Action, Error, Problem, Refusal};
use super::event::{Event, Events};
use super::message;
use super::nature::is_nobody_there;
use super::retry::is_transient;
use super::scheme::Schemes;
use super::settings::Settings;

/// Talks to registries. Cheap to make and to clone: nothing is read and no connection is made before the first
/// request.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    settings: Settings,
    events: Events,
    connections: Connections,
    keyring: Keyring,
    announced: Mutex<BTreeSet<(String, String)>>,
    schemes: Schemes,
    /// Mirrors that nobody answers at, which are not asked again.
    absent: Mutex<BTreeSet<Authority>>,
    /// Hosts that have answered.
    reached: Mutex<BTreeSet<String>>,
    /// Blobs that are pulled at once; documents need no slot.
    slots: tokio::sync::Semaphore,
}

/// How a registry lets somebody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// It has looked at the credentials.
    Checked,
    /// It lets in everybody, at least as far as asking what it is.
    Open,
}

/// Refusals of one request that are answered with a login: the first, which only asks for one, and three tokens
/// that end under the request.
const MAX_CHALLENGES: u32 = 4;

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

/// What is sent.
pub(super) struct Request {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub payload: Payload,
    pub sharing: Sharing,
    pub subject: Subject,
    /// What it is about, for messages: `manifest`, `layer sha256:…`.
    pub what: String,
}

impl Request {
    pub fn new(method: Method, url: Url, subject: &Subject, what: impl Into<String>) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            payload: Payload::Empty,
            sharing: Sharing::Agreed,
            subject: subject.clone(),
            what: what.into(),
        }
    }
}

/// How much of a request's body the connection has taken.
#[derive(Debug, Default)]
pub(super) struct Meter {
    pub taken: AtomicU64,
    pub length: u64,
}

impl Client {
    /// Makes a client.
    pub fn new(settings: Settings, events: Events) -> Self {
        let slots = tokio::sync::Semaphore::new(settings.limits.parallel.max(1));
        Self(Arc::new(Inner {
            slots,
            settings,
            events,
            connections: Connections::new(),
            keyring: Keyring::default(),
            announced: Mutex::default(),
            schemes: Schemes::default(),
            absent: Mutex::default(),
            reached: Mutex::default(),
        }))
    }

    /// Returns what the client was made with.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub(super) fn events(&self) -> &Events {
        &self.0.events
    }

    pub(super) fn connections(&self) -> &Connections {
        &self.0.connections
    }

    /// Takes note that nobody answers at a mirror, or nobody to be believed.
    pub(super) fn is_absent_from_now(&self, mirror: &Endpoint) {
        self.0.absent.lock().unwrap_or_else(PoisonError::into_inner).insert(mirror.authority.clone());
    }

    /// Whether a mirror is not to be asked any more.
    pub(super) fn is_absent(&self, mirror: &Endpoint) -> bool {
        self.0.absent.lock().unwrap_or_else(PoisonError::into_inner).contains(&mirror.authority)
    }

    /// Whether `host` has ever answered.
    pub(super) fn has_reached(&self, host: &str) -> bool {
        self.0.reached.lock().unwrap_or_else(PoisonError::into_inner).contains(host)
    }

    pub(super) fn schemes(&self) -> &Schemes {
        &self.0.schemes
    }

    /// Waits until another blob may be pulled.
    pub(super) async fn slot(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.0.slots.acquire().await.expect("the semaphore is never closed")
    }

    pub(super) fn retrier(&self, url: &Url, what: &str) -> Retrier {
        Retrier::new(self.clone(), host_of(url), what.to_owned(), Patience::Full)
    }

    /// Behind a mirror there is another place to ask.
    pub(super) fn retrier_at(&self, endpoint: &Endpoint, url: &Url, what: &str) -> Retrier {
        let patience = match endpoint.role {
            Role::Mirror => Patience::Little,
            Role::Origin => Patience::Full,
        };
        Retrier::new(self.clone(), host_of(url), what.to_owned(), patience)
    }

    /// Checks that the registry answers and, where it asks for a login, that the credentials are right.
    ///
    /// # Errors
    /// The registry is not there, is none, or refuses the credentials.
    pub async fn check_login(&self, registry: &str) -> Result<Entrance, Error> {
        let run = async {
            let endpoint = Endpoint::of_registry(self.settings(), registry)?;
            let (endpoint, _) = self.by_its_scheme(&endpoint, &endpoint.base).await?;
            let subject = Subject { repository: String::new(), scopes: super::token::Scopes::none() };
            let request = Request::new(Method::GET, endpoint.base.clone(), &subject, "login");
            let mut answer = self.send(&endpoint, &request).await?;
            match answer.status() {
                StatusCode::OK if is_web_page(&mut answer, self.settings().limits.manifest).await => {
                    Err(Problem::WebPage { host: answer.host() })
                }
                StatusCode::OK if self.0.keyring.has_asked(&endpoint) => Ok(Entrance::Checked),
                StatusCode::OK => Ok(Entrance::Open),
                _ => Err(self.rejected(&endpoint, &subject, answer).await),
            }
        };
        run.await.map_err(|problem| error(Action::Login, registry, problem))
    }

    pub(super) fn announce_token_server(&self, endpoint: &Endpoint, realm: &Url) {
        // What has no host gets no request.
        if Authority::of(realm).is_none_or(|authority| authority == endpoint.authority) {
            return;
        }
        let pair = (endpoint.host(), host_of(realm));
        let mut announced = self.0.announced.lock().unwrap_or_else(PoisonError::into_inner);
        if announced.insert(pair.clone()) {
            self.events().tell(Event::TokenServer { registry: pair.0, host: pair.1 });
        }
    }

    /// Sends `request` until there is an answer that a repetition would not change.
    pub(super) async fn send(&self, endpoint: &Endpoint, request: &Request) -> Result<Answer, Problem> {
        let mut retrier = self.retrier_at(endpoint, &request.url, &request.what);
        loop {
            let problem = match self.exchange(endpoint, request).await {
                Ok(answer) if is_transient(answer.status()) => answer.failure().await,
                Ok(answer) => return Ok(answer),
                Err(problem) => problem,
            };
            // Where nobody listens, the next source is asked rather than this one again.
            if endpoint.role == Role::Mirror && is_nobody_there(&problem) {
                return Err(problem);
            }
            retrier.pause(problem).await?;
        }
    }

    /// Sends `request` once, following redirects and answering challenges.
    pub(super) async fn exchange(&self, endpoint: &Endpoint, request: &Request) -> Result<Answer, Problem> {
        let keyring = &self.0.keyring;
        let (endpoint, mut url) = self.by_its_scheme(endpoint, &request.url).await?;
        let endpoint = endpoint.as_ref();
        let (mut hops, mut challenges, mut by) = (0, 0, None);
        loop {
            let authorization = match is_own(endpoint, &url) {
                true => keyring.authorization(self, endpoint, &request.subject, by.as_ref()).await?,
                false => None,
            };
            let answer = self.exchange_at(endpoint, request, &url, authorization.clone()).await?;
            self.0.reached.lock().unwrap_or_else(PoisonError::into_inner).insert(host_of(&url));
            match answer.status() {
                StatusCode::UNAUTHORIZED if is_own(endpoint, &url) && challenges < MAX_CHALLENGES => {
                    challenges += 1;
                    let used = authorization.as_ref();
                    let refused = Refused { headers: answer.headers(), used, count: challenges };
                    match keyring.refused(self, endpoint, &request.subject, refused).await {
                        Again::Yes => by = None,
                        Again::By(other) => by = Some(other),
                        Again::No => return Ok(answer),
                    }
                    answer.discard().await;
                }
                status if is_redirect(&request.method, status) => {
                    hops += 1;
                    url = self.next_hop(&answer, &url, hops)?;
                    answer.discard().await;
                }
                status => {
                    if let Some(by) = by.filter(|_| status.is_success()) {
                        keyring.settle(endpoint, by);
                    }
                    return Ok(answer);
                }
            }
        }
    }

    /// Returns where a redirect leads, which is the `hops`th in a row; never from https down to http.
    pub(super) fn next_hop(&self, answer: &Answer, url: &Url, hops: u32) -> Result<Url, Problem> {
        let location = answer.header(LOCATION).ok_or_else(|| Problem::Malformed {
            host: answer.host(),
            what: "a redirect".to_owned(),
            detail: "it has no Location".to_owned(),
        })?;
        let next = join(url, location)?;
        let limit = self.settings().limits.redirects;
        if hops > limit {
            return Err(Refusal::Redirects { limit, url: shown(&next) }.into());
        }
        let plain_is_fine = url.scheme() == "http";
        if !(next.scheme() == "https" || next.scheme() == "http" && plain_is_fine) {
            return Err(Refusal::Scheme { registry: host_of(url), url: shown(&next) }.into());
        }
        Ok(next)
    }

    async fn exchange_at(
        &self,
        endpoint: &Endpoint,
        request: &Request,
        url: &Url,
        authorization: Option<HeaderValue>,
    ) -> Result<Answer, Problem> {
        let http = self.connections().client_sharing(self.settings(), endpoint, url, request.sharing)?;
        let mut builder = http.request(request.method.clone(), url.clone()).headers(request.headers.clone());
        if let Some(value) = authorization {
            builder = builder.header(AUTHORIZATION, value);
        }
        match &request.payload {
            // An explicit zero: some registries answer 411 to a POST or PUT without a length.
            Payload::Empty if matches!(request.method, Method::POST | Method::PUT | Method::PATCH) => {
                self.transmit(builder.header(CONTENT_LENGTH, 0), url, None).await
            }
            Payload::Empty => self.transmit(builder, url, None).await,
            Payload::Bytes(bytes) => self.transmit(builder.body(bytes.clone()), url, None).await,
            Payload::Stream(stream) => {
                let (body, meter) = stream.open(self).await?;
                let builder = builder.header(CONTENT_LENGTH, stream.length).body(body);
                let sent = self.transmit(builder, url, Some(&meter)).await;
                // A source that cannot be read breaks the connection; the reason is the source, not the network.
                stream.take_failure().map_or(sent, Err)
            }
        }
    }

    /// Sends one request and waits for the head of its answer, as long as there is life in the connection.
    pub(super) async fn transmit(
        &self,
        builder: RequestBuilder,
        url: &Url,
        meter: Option<&Meter>,
    ) -> Result<Answer, Problem> {
        let timeouts = &self.settings().timeouts;
        let mut sending = pin!(builder.send());
        let mut watch = Watch { since: Instant::now(), taken: 0, stored: Stored::Unsaid };
        loop {
            let tick = Duration::from_secs(1).min(timeouts.answer);
            match tokio::time::timeout(tick, &mut sending).await {
                Ok(Ok(response)) => {
                    return Ok(Answer::new(response, url.clone(), timeouts, &self.settings().limits));
                }
                Ok(Err(error)) => {
                    let (host, settings) = (host_of(url), self.settings());
                    return Err(match super::proxy::proxy_before(settings, url) {
                        Some(proxy) => answer::problem_behind(&error, &host, &proxy),
                        None => answer::problem(&error, &host),
                    });
                }
                Err(_) => {
                    watch.check(timeouts, meter, url)?;
                    if let Some(text) = watch.news(timeouts, meter, url) {
                        self.events().tell(Event::Note(text));
                    }
                }
            }
        }
    }

    /// Turns an answer that refuses a request into a problem that tells what to do.
    pub(super) async fn rejected(&self, endpoint: &Endpoint, subject: &Subject, answer: Answer) -> Problem {
        let failure = answer.failure().await;
        let Problem::Status { host, status, messages, .. } = failure else { return failure };
        if !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Problem::Status { host, status, messages, retry_after: None };
        }
        let offered = self.0.keyring.offered(self, endpoint, subject).await;
        Problem::Unauthorized { host, status, messages, offered, registry: endpoint.registry.clone() }
    }
}

/// Credentials go to the registry's own host, port and scheme, and nowhere else.
fn is_own(endpoint: &Endpoint, url: &Url) -> bool {
    url.scheme() == endpoint.base.scheme() && Authority::of(url).as_ref() == Some(&endpoint.authority)
}

fn is_redirect(method: &Method, status: StatusCode) -> bool {
    match status.as_u16() {
        // RFC 9110 §15.4: only these keep the method for what is no GET.
        307 | 308 => true,
        301..=303 => matches!(*method, Method::GET | Method::HEAD),
        _ => false,
    }
}

/// Resolves a Location against the URL that answered with it.
pub(super) fn join(url: &Url, location: &str) -> Result<Url, Problem> {
    url.join(location).map_err(|error| Problem::Malformed {
        host: host_of(url),
        what: format!("a Location {:?}", super::error::clean(location)),
        detail: error.to_string(),
    })
}

pub(super) fn error(action: Action, object: impl fmt::Display, problem: Problem) -> Error {
    Error { action, object: object.to_string(), problem: Box::new(problem) }
}

/// Since when nothing has moved.
struct Watch {
    since: Instant,
    taken: u64,
    stored: Stored,
}

/// Whether it was said that a server has all bytes and is not done with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    Unsaid,
    Said,
}

impl Watch {
    fn check(
        &mut self,
        timeouts: &super::settings::Timeouts,
        meter: Option<&Meter>,
        url: &Url,
    ) -> Result<(), Problem> {
        let dead = |what: &str| Problem::Timeout { host: host_of(url), what: what.to_owned() };
        let Some(meter) = meter else {
            let waited = self.since.elapsed() >= timeouts.answer;
            return if waited { Err(dead("did not answer in time")) } else { Ok(()) };
        };
        let taken = meter.taken.load(Ordering::Relaxed);
        if taken >= self.taken + timeouts.stall_bytes || taken == meter.length && self.taken != taken {
            *self = Self { since: Instant::now(), taken, ..*self };
            return Ok(());
        }
        let (patience, what) = if taken == meter.length {
            (timeouts.upload_answer, "did not answer after an upload")
        } else {
            (timeouts.stall, "stopped receiving")
        };
        if self.since.elapsed() >= patience { Err(dead(what)) } else { Ok(()) }
    }

    /// Says once that all is sent where the answer is long in coming: registries move a blob to their object store
    /// before they answer.
    fn news(
        &mut self,
        timeouts: &super::settings::Timeouts,
        meter: Option<&Meter>,
        url: &Url,
    ) -> Option<String> {
        let is_sent = meter.is_some_and(|meter| meter.taken.load(Ordering::Relaxed) == meter.length);
        if !is_sent || self.stored == Stored::Said || self.since.elapsed() < timeouts.answer / 3 {
            return None;
        }
        self.stored = Stored::Said;
        let (host, patience) = (host_of(url), timeouts.upload_answer.as_secs());
        Some(format!("{host} has all bytes of a blob and is still storing it; it may take {patience} s"))
    }
}

/// Whether what answers at a registry's entrance is a login page or a captive portal. Registries say their version
/// or answer in JSON; what cannot be read is left to those who need it.
async fn is_web_page(answer: &mut Answer, limit: u64) -> bool {
    let says_version = answer.headers().contains_key("docker-distribution-api-version");
    !says_version && answer.body(limit, "login").await.is_ok_and(|body| message::starts_a_page(&body))
}
