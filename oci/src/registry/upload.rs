//! One blob into one repository: ask, link, send whole, and where that fails send in pieces and go on where the
//! registry stopped.

use bytes::Bytes;
use std::time::Duration;

use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, StatusCode, Url};

use super::answer::Answer;
use super::attempts::Retrier;
use super::auth::Subject;
use super::body::{self, BlobPart, BlobSource, Payload};
use super::client::{Client, Request, join};
use super::connections::Sharing;
use super::course::{self, Course, Mode};
use super::endpoint::Endpoint;
use super::error::Problem;
use super::event::{Event, Way};
use super::pull::CONTENT_DIGEST;
use super::push::{Check, Upload};
use super::retry::is_transient;
use crate::digest::Algorithm;
use crate::{Digest, Reference};

/// The smallest chunk that a registry takes, the last one excepted (distribution-spec, "Chunked uploads").
const CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");

/// Upload sessions that the registry may forget before the push gives up.
const MAX_SESSIONS: u32 = 6;

/// An upload session of the registry.
#[derive(Debug, Clone)]
struct Session {
    /// Where the next request goes.
    url: Url,
    /// Bytes that the registry has.
    offset: u64,
}

/// What one request has led to.
enum Step {
    Done,
    /// The session goes on.
    Continue(Session),
    /// The body was too large for something on the way.
    TooLarge(Box<Answer>),
    /// The registry takes no pieces.
    NoPieces(Problem),
    /// The session is gone.
    Lost(Problem),
    /// The registry may have some of the bytes.
    Broken(Problem),
    /// What was sent was wrong, and comes from elsewhere from now on.
    Unending,
}

/// What a session's begin has led to.
enum Begun {
    Linked(String),
    Session(Session, u64),
}

/// One blob on its way to one repository.
struct Transfer<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    subject: &'a Subject,
    target: &'a Reference,
    upload: &'a Upload,
    what: String,
}

impl Client {
    /// Makes sure that the blob is in the repository of `target`.
    pub(super) async fn ensure_blob(
        &self,
        endpoint: &Endpoint,
        subject: &Subject,
        target: &Reference,
        upload: &Upload,
        check: Check,
    ) -> Result<Way, Problem> {
        let what = format!("layer {}", upload.digest);
        let transfer = Transfer { client: self, endpoint, subject, target, upload, what };
        let way = if check == Check::Head && transfer.exists().await? {
            Way::Existed
        } else {
            transfer.run().await?
        };
        self.tell_pushed(target, upload, &way);
        Ok(way)
    }

    /// Looks for the blob in the repository of `target`, and has it linked from others. Sends no byte of it.
    pub(super) async fn find_or_link(
        &self,
        endpoint: &Endpoint,
        subject: &Subject,
        target: &Reference,
        upload: &Upload,
    ) -> Result<Option<Way>, Problem> {
        let what = format!("layer {}", upload.digest);
        let transfer = Transfer { client: self, endpoint, subject, target, upload, what };
        let way = if transfer.exists().await? {
            Way::Existed
        } else if upload.mounts.is_empty() {
            return Ok(None);
        } else {
            match transfer.begin_or_link().await? {
                Begun::Linked(from) => Way::Mounted { from },
                Begun::Session(session, _) => {
                    transfer.cancel(session).await;
                    return Ok(None);
                }
            }
        };
        self.tell_pushed(target, upload, &way);
        Ok(Some(way))
    }

    /// Opens an upload and gives it back.
    pub(super) async fn try_upload(
        &self,
        endpoint: &Endpoint,
        subject: &Subject,
        target: &Reference,
    ) -> Result<(), Problem> {
        let source = BlobSource::Bytes(Bytes::new());
        let upload = &Upload { digest: Digest::of(b""), size: 0, source, mounts: Vec::new() };
        let what = "permission to push".to_owned();
        let transfer = Transfer { client: self, endpoint, subject, target, upload, what };
        let (session, _) = transfer.begin().await?;
        transfer.cancel(session).await;
        Ok(())
    }

    fn tell_pushed(&self, target: &Reference, upload: &Upload, way: &Way) {
        let (digest, size) = (upload.digest, upload.size);
        self.events().tell(Event::Pushed { digest, to: target.place(), size, way: way.clone() });
    }
}

impl Transfer<'_> {
    fn request(&self, method: Method, url: Url) -> Request {
        Request::new(method, url, self.subject, self.what.clone())
    }

    fn url(&self, rest: &str) -> Result<Url, Problem> {
        self.endpoint.url(&self.target.repository, rest)
    }

    async fn exists(&self) -> Result<bool, Problem> {
        let request = self.request(Method::HEAD, self.url(&format!("blobs/{}", self.upload.digest))?);
        let answer = self.client.send(self.endpoint, &request).await?;
        match answer.status() {
            // A length that is not the blob's is no proof that the blob is there.
            StatusCode::OK => Ok(answer.content_length().is_none_or(|length| length == self.upload.size)),
            // An answer to HEAD has no words: what is wrong shows in the answer to the upload.
            _ => {
                answer.discard().await;
                Ok(false)
            }
        }
    }

    async fn run(&self) -> Result<Way, Problem> {
        let (mut session, least) = match self.begin_or_link().await? {
            Begun::Linked(from) => return Ok(Way::Mounted { from }),
            Begun::Session(session, least) => (session, least),
        };
        let problem = match self.send(&mut session, least).await {
            Ok(()) => return Ok(Way::Uploaded),
            Err(problem) => problem,
        };
        if let Problem::Status { .. }
        | Problem::Unauthorized { .. }
        | Problem::Source { .. }
        | Problem::Damaged { .. }
        | Problem::Digest { .. } = &problem
        {
            self.give_back(session).await;
        }
        // Where the bytes went in pieces, only the registry saw all of them.
        Err(match is_wrong_content(&problem) {
            true => body::damage(self.upload).await.unwrap_or(problem),
            false => problem,
        })
    }

    /// Cancels a session of a registry that is there and would keep what nobody will end (distribution-spec, "Cancel
    /// a blob upload").
    async fn give_back(&self, session: Session) {
        let _ = tokio::time::timeout(Duration::from_secs(2), self.cancel(session)).await;
    }

    /// Sends the bytes; `session` is the one that is open in the end.
    async fn send(&self, session: &mut Session, mut least: u64) -> Result<(), Problem> {
        let mut retrier = self.client.retrier(&self.endpoint.base, &self.what);
        let mut course = Course::new(self.client.settings().limits.chunk);
        let mut sessions = 0;
        let mut mirrored = self.mirrored();
        loop {
            match self.attempt(session, course.mode(), &mut mirrored).await? {
                Step::Done => return Ok(()),
                Step::Continue(next) => {
                    if course.moved(session.offset, next.offset, self.upload.size) == course::Way::Nowhere {
                        return Err(self.stuck(next.offset));
                    }
                    if next.offset > session.offset {
                        retrier.reset();
                    }
                    *session = next;
                    continue;
                }
                // Nothing has arrived, so the session is as it was.
                Step::TooLarge(answer) => match course.too_large(least) {
                    course::Way::On => continue,
                    course::Way::Nowhere => return Err(answer.failure().await),
                },
                Step::NoPieces(problem) => {
                    if course.without_pieces() == course::Way::Nowhere {
                        return Err(problem);
                    }
                }
                Step::Broken(problem) => {
                    retrier.pause(problem).await?;
                    course.broken(session.offset, least);
                    match self.status(session).await? {
                        Some(current) if course.mode() != Mode::Whole => {
                            *session = current;
                            continue;
                        }
                        _ if self.exists().await? => return Ok(()),
                        _ => {}
                    }
                }
                Step::Lost(problem) => self.survive_loss(&mut retrier, problem, sessions).await?,
                Step::Unending => self.give_back(session.clone()).await,
            }
            sessions += 1;
            (*session, least) = self.begin().await?;
        }
    }

    /// The repository that the bytes come from, where mirrors stand before it.
    fn mirrored(&self) -> Option<&Reference> {
        match &self.upload.source {
            BlobSource::Remote(reference) => Some(reference).filter(|own| self.client.has_mirrors(own)),
            BlobSource::File(_) | BlobSource::Part { .. } | BlobSource::Bytes(_) => None,
        }
    }

    fn stuck(&self, offset: u64) -> Problem {
        let detail = format!("it stays at {offset} of {} bytes, whatever is sent", self.upload.size);
        Problem::Malformed { host: self.endpoint.host(), what: "an upload range".to_owned(), detail }
    }

    async fn survive_loss(
        &self,
        retrier: &mut Retrier,
        problem: Problem,
        sessions: u32,
    ) -> Result<(), Problem> {
        if sessions >= MAX_SESSIONS {
            return Err(Problem::Exhausted { attempts: sessions, last: Box::new(problem) });
        }
        // The loss itself is no failure of the network; the pause only keeps two sides from spinning.
        let Problem::Status { host, .. } = &problem else { return Err(problem) };
        let pretext = Problem::Timeout { host: host.clone(), what: "lost the upload".to_owned() };
        retrier.pause(pretext).await
    }

    /// Tries to have the blob linked, and opens an upload where that does not work.
    async fn begin_or_link(&self) -> Result<Begun, Problem> {
        for (index, from) in self.upload.mounts.iter().enumerate() {
            let mut url = self.url("blobs/uploads/")?;
            url.query_pairs_mut()
                .append_pair("mount", &self.upload.digest.to_string())
                .append_pair("from", from);
            let answer = self.client.send(self.endpoint, &self.request(Method::POST, url)).await?;
            match answer.status() {
                StatusCode::CREATED => return Ok(Begun::Linked(from.clone())),
                StatusCode::ACCEPTED => {
                    let (session, least) = self.session(&answer, 0)?;
                    if index + 1 == self.upload.mounts.len() {
                        return Ok(Begun::Session(session, least));
                    }
                    self.cancel(session).await;
                }
                // No access to the source, or no idea of linking: the upload below tells what is really wrong.
                _ => answer.discard().await,
            }
        }
        let (session, least) = self.begin().await?;
        Ok(Begun::Session(session, least))
    }

    async fn begin(&self) -> Result<(Session, u64), Problem> {
        let mut url = self.url("blobs/uploads/")?;
        let algorithm = self.upload.digest.algorithm();
        if algorithm != Algorithm::Sha256 {
            // Registries hash while they receive, by sha256 where nothing else is said (distribution-spec, "Chunked").
            url.query_pairs_mut().append_pair("digest-algorithm", algorithm.name());
        }
        let request = self.request(Method::POST, url);
        let answer = self.client.send(self.endpoint, &request).await?;
        match answer.status() {
            StatusCode::ACCEPTED => self.session(&answer, 0),
            _ => Err(self.client.rejected(self.endpoint, self.subject, answer).await),
        }
    }

    /// Gives a session back that is not needed. A registry that does not know how will forget it in time.
    async fn cancel(&self, session: Session) {
        let request = self.request(Method::DELETE, session.url);
        if let Ok(answer) = self.client.exchange(self.endpoint, &request).await {
            answer.discard().await;
        }
    }

    /// Reads where a session goes on, and the smallest chunk it takes.
    fn session(&self, answer: &Answer, offset: u64) -> Result<(Session, u64), Problem> {
        let location = answer.header(LOCATION).ok_or_else(|| Problem::Malformed {
            host: answer.host(),
            what: "an upload session".to_owned(),
            detail: "it has no Location".to_owned(),
        })?;
        let least = answer.header(CHUNK_MIN_LENGTH).and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Ok((Session { url: join(&answer.url, location)?, offset }, least))
    }

    /// Takes one step. Wrong bytes of a mirror cannot be taken back from the registry: the session is not ended, and
    /// the blob goes once more, from the registry that was `mirrored`.
    async fn attempt(
        &self,
        session: &Session,
        mode: Mode,
        mirrored: &mut Option<&Reference>,
    ) -> Result<Step, Problem> {
        match (self.step(session, mode).await, mirrored.take()) {
            (Err(problem), Some(reference)) if is_wrong_content(&problem) => {
                self.client.distrust_mirrors(reference, &problem);
                Ok(Step::Unending)
            }
            (step, before) => {
                *mirrored = before;
                step
            }
        }
    }

    async fn step(&self, session: &Session, mode: Mode) -> Result<Step, Problem> {
        match mode {
            Mode::Whole => self.put(session, self.part(0, self.upload.size)).await,
            Mode::Pieces(_) if session.offset >= self.upload.size => self.put(session, Payload::Empty).await,
            Mode::Pieces(chunk) => {
                let length = chunk.min(self.upload.size - session.offset);
                self.patch(session, length).await
            }
        }
    }

    fn part(&self, from: u64, length: u64) -> Payload {
        if length == 0 {
            return Payload::Empty;
        }
        Payload::Stream(Box::new(BlobPart::new(self.upload, self.target, from, length)))
    }

    /// Ends the session, with the whole blob or with nothing.
    async fn put(&self, session: &Session, payload: Payload) -> Result<Step, Problem> {
        let mut url = session.url.clone();
        url.query_pairs_mut().append_pair("digest", &self.upload.digest.to_string());
        let mut request = self.request(Method::PUT, url);
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        carry(&mut request, payload);
        let answer = match self.exchange(&request).await? {
            Ok(answer) => answer,
            Err(broken) => return Ok(broken),
        };
        if !matches!(answer.status(), StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT) {
            return self.refused(answer).await;
        }
        match answer.header(CONTENT_DIGEST).and_then(|text| text.parse::<Digest>().ok()) {
            // A registry may have its own digest for what was sent under another algorithm's.
            Some(actual)
                if actual != self.upload.digest && actual.algorithm() == self.upload.digest.algorithm() =>
            {
                Err(Problem::digest(answer.host(), "stored layer", self.upload.digest, actual))
            }
            _ => Ok(Step::Done),
        }
    }

    async fn patch(&self, session: &Session, length: u64) -> Result<Step, Problem> {
        let mut request = self.request(Method::PATCH, session.url.clone());
        let range = format!("{}-{}", session.offset, session.offset + length - 1);
        request.headers.insert(CONTENT_RANGE, HeaderValue::from_str(&range).expect("digits are a header"));
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        carry(&mut request, self.part(session.offset, length));
        let answer = match self.exchange(&request).await? {
            Ok(answer) => answer,
            Err(broken) => return Ok(broken),
        };
        match answer.status() {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::OK | StatusCode::CREATED => {
                let offset = range_end(&answer).unwrap_or(session.offset + length);
                if offset > session.offset + length {
                    return Err(self.overrun(&answer, offset));
                }
                Ok(Step::Continue(self.session(&answer, offset)?.0))
            }
            StatusCode::RANGE_NOT_SATISFIABLE => match self.status(session).await? {
                Some(current) if current.offset != session.offset => Ok(Step::Continue(current)),
                _ => Ok(Step::Lost(answer.failure().await)),
            },
            // What registries say that know the whole only.
            StatusCode::BAD_REQUEST
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::NOT_IMPLEMENTED => {
                let problem = self.client.rejected(self.endpoint, self.subject, answer).await;
                Ok(Step::NoPieces(problem))
            }
            _ => self.refused(answer).await,
        }
    }

    fn overrun(&self, answer: &Answer, offset: u64) -> Problem {
        let detail = format!("it claims {offset} bytes, more than were sent");
        Problem::Malformed { host: answer.host(), what: "an upload range".to_owned(), detail }
    }

    /// Sends once. A failure of the network is a step of its own, since the registry may have kept bytes.
    async fn exchange(&self, request: &Request) -> Result<Result<Answer, Step>, Problem> {
        match self.client.exchange(self.endpoint, request).await {
            Ok(answer) if is_transient(answer.status()) => Ok(Err(Step::Broken(answer.failure().await))),
            Ok(answer) => Ok(Ok(answer)),
            Err(problem @ (Problem::Connection { .. } | Problem::Timeout { .. })) => {
                Ok(Err(Step::Broken(problem)))
            }
            Err(problem) => Err(problem),
        }
    }

    async fn refused(&self, answer: Answer) -> Result<Step, Problem> {
        match answer.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Ok(Step::TooLarge(Box::new(answer))),
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => {
                Ok(Step::Lost(answer.failure().await))
            }
            _ => Err(self.client.rejected(self.endpoint, self.subject, answer).await),
        }
    }

    /// Asks how many bytes the registry has; `None` where it has forgotten the upload.
    async fn status(&self, session: &Session) -> Result<Option<Session>, Problem> {
        let request = self.request(Method::GET, session.url.clone());
        let answer = self.client.send(self.endpoint, &request).await?;
        match answer.status() {
            StatusCode::NO_CONTENT | StatusCode::OK | StatusCode::ACCEPTED => {
                let Some(offset) = range_end(&answer).filter(|offset| *offset <= self.upload.size) else {
                    return Ok(None);
                };
                let url = match answer.header(LOCATION) {
                    Some(location) => join(&answer.url, location)?,
                    None => session.url.clone(),
                };
                Ok(Some(Session { url, offset }))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(self.client.rejected(self.endpoint, self.subject, answer).await)
            }
            // Other answers, such as 400 for a state that does not fit, mean that nothing can be continued.
            _ => {
                answer.discard().await;
                Ok(None)
            }
        }
    }
}

/// Whether what was sent is not what its digest says: found here, or by the registry, where the bytes of several
/// requests come together.
fn is_wrong_content(problem: &Problem) -> bool {
    match problem {
        Problem::Digest { .. } => true,
        Problem::Status { messages, .. } => messages.iter().any(|message| message.code == "DIGEST_INVALID"),
        _ => false,
    }
}

/// Lets `request` carry `payload`. Large ones get a connection of their own: with HTTP/2 all uploads would share one
/// connection and what the server's flow control leaves it, 1 MiB per round trip where the server is Go's.
fn carry(request: &mut Request, payload: Payload) {
    if let Payload::Stream(part) = &payload {
        request.sharing = Sharing::of_body(part.length);
    }
    request.payload = payload;
}

/// The number of bytes behind `Range: 0-N`. `0-0` means none: registries write it for a fresh upload.
fn range_end(answer: &Answer) -> Option<u64> {
    let range = answer.header(RANGE)?.trim().trim_start_matches("bytes=").split_once('-')?;
    match range {
        ("0", "0") => Some(0),
        ("0", end) => end.parse::<u64>().ok()?.checked_add(1),
        _ => None,
    }
}
