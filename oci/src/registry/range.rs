//! Some bytes of a blob on their way in, which survive broken connections. Hashes nothing and stores nothing.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, HeaderValue, RANGE};
use reqwest::{Method, StatusCode};

use super::answer::Answer;
use super::attempts::Retrier;
use super::client::{Client, Request};
use super::connections::Sharing;
use super::endpoint::Endpoint;
use super::error::Problem;
use super::event::Event;
use super::pull::{pull_subject, sources};
use crate::{Digest, Reference};

/// Bytes of a blob, given out in order and without gaps. Whoever takes them has to verify them.
///
/// A connection that breaks is resumed by Range at the first byte that was not given out.
pub(super) struct RangeStream {
    client: Client,
    reference: Reference,
    /// Mirrors, then the registry; the first is in use.
    sources: Vec<Endpoint>,
    /// What the blob is called in messages.
    kind: &'static str,
    digest: Digest,
    /// Bytes of the whole blob.
    size: u64,
    /// The next byte.
    offset: u64,
    /// The byte after the last.
    end: u64,
    /// `offset` at the last failure.
    settled: u64,
    /// Bytes that the server repeats because it ignored the Range.
    skip: u64,
    /// The byte after the last that the connection may carry.
    until: u64,
    /// `offset` when the connection was made.
    begun: u64,
    answered: Answered,
    ranges: Ranges,
    answer: Option<Answer>,
    sharing: Sharing,
    retrier: Retrier,
}

/// What a server has made of the last request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answered {
    /// There was none, or what was asked for.
    AsAsked,
    /// It ignored the Range.
    Whole,
}

/// Whether the present source is asked for ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ranges {
    /// It is, where not everything is needed.
    Asked,
    /// It refused one, and is asked for everything.
    Refused,
}

/// Progress after which earlier failures are forgotten. A server that breaks off after every byte must not keep
/// us forever.
const PROGRESS: u64 = 64 * 1024;

/// What most blobs are.
const LAYER: &str = "layer";

impl Client {
    /// Prepares to read the bytes `range` of a blob. Nothing is sent yet.
    pub(super) fn range_stream(
        &self,
        reference: &Reference,
        digest: Digest,
        size: u64,
        range: Range<u64>,
        sharing: Sharing,
    ) -> Result<RangeStream, Problem> {
        let (origin, mirrors) = sources(self, reference)?;
        let mut sources = mirrors;
        sources.push(origin);
        let retrier = retrier(self, &sources[0], LAYER, digest);
        Ok(RangeStream {
            client: self.clone(),
            kind: LAYER,
            reference: reference.clone(),
            sources,
            digest,
            size,
            offset: range.start,
            end: range.end.min(size),
            settled: range.start,
            skip: 0,
            until: 0,
            begun: range.start,
            answered: Answered::AsAsked,
            ranges: Ranges::Asked,
            answer: None,
            sharing,
            retrier,
        })
    }
}

impl RangeStream {
    /// Returns the blob's digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Calls the blob something else than a layer in messages.
    pub fn call(&mut self, kind: &'static str) {
        self.kind = kind;
        self.retrier = retrier(&self.client, &self.sources[0], kind, self.digest);
    }

    /// Returns what the blob is called.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Returns the image that the blob belongs to.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Returns the size of the whole blob.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the position of the next byte in the blob.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns whether every byte was given out.
    pub fn is_done(&self) -> bool {
        self.offset >= self.end
    }

    /// Returns whether the server was asked for a range and sends everything.
    pub fn is_range_ignored(&self) -> bool {
        self.answered == Answered::Whole
    }

    /// Goes on at `offset`: the bytes before are known from elsewhere.
    pub fn start_at(&mut self, offset: u64) {
        (self.offset, self.settled) = (offset, offset);
    }

    /// Moves the end. What was given out stays given out.
    pub fn end_at(&mut self, end: u64) {
        self.end = end.min(self.size).max(self.offset);
        if self.is_done() {
            self.answer = None;
        }
    }

    /// Returns the host that is asked, for messages.
    pub fn host(&self) -> String {
        self.sources.first().map(Endpoint::host).unwrap_or_default()
    }

    /// Tells that the blob is there as a whole.
    pub fn tell_pulled(&self) {
        let (digest, from, size) = (self.digest, self.reference.place(), self.size);
        self.client.events().tell(Event::Pulled { digest, from, size });
    }

    /// After wrong bytes: no mirror of the image is asked again.
    pub fn distrust_mirrors(&self, problem: &Problem) {
        self.client.distrust_mirrors(&self.reference, problem);
    }

    /// Connects if that has not been done, once: a failure is not repaired.
    pub async fn open(&mut self) -> Result<(), Problem> {
        if self.answer.is_none() {
            self.answer = Some(self.connect().await?);
        }
        Ok(())
    }

    /// Returns the next bytes, at least one; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        while !self.is_done() {
            match self.step().await {
                Ok(chunk) if chunk.is_empty() => {}
                Ok(chunk) => return Ok(Some(chunk)),
                Err(problem) => self.recover(problem).await?,
            }
        }
        Ok(None)
    }

    /// Takes one chunk from the connection; it is empty where all of it was to be skipped.
    async fn step(&mut self) -> Result<Bytes, Problem> {
        self.open().await?;
        let mut answer = self.answer.take().expect("it is open");
        let Some(mut chunk) = answer.chunk().await? else {
            if self.is_short_answer() {
                return Ok(Bytes::new());
            }
            let (host, what, received) = (answer.host(), self.what(), self.offset);
            let encoded = answer.encoded(&what);
            return Err(encoded.unwrap_or(Problem::Truncated { host, what, received, size: self.end }));
        };
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
        let _ = chunk.split_to(skipped);
        self.skip -= skipped as u64;
        if self.offset + chunk.len() as u64 > self.until {
            return Err(self.too_large(&answer, self.until));
        }
        let room = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        chunk.truncate(room);
        self.offset += chunk.len() as u64;
        if !self.is_done() {
            self.answer = Some(answer);
        } else if self.end == self.until {
            self.await_end(answer).await?;
        }
        if !chunk.is_empty() {
            let (digest, from, size) = (self.digest, self.reference.place(), self.size);
            self.client.events().tell(Event::Received { digest, from, bytes: chunk.len() as u64, size });
        }
        Ok(chunk)
    }

    /// Whether all came that was announced, and that was a part of what was asked for: a server may send less (RFC 9110
    /// §15.3.7), and is asked for the rest. Crumbs are another thing.
    fn is_short_answer(&self) -> bool {
        let (sent, asked) = (self.until - self.begun, self.end - self.begun);
        self.offset == self.until && sent < asked && (sent >= PROGRESS || sent * 2 >= asked)
    }

    /// Waits briefly for the end of a body whose bytes are all there: it makes the connection free again, or shows
    /// what is too much.
    async fn await_end(&self, mut answer: Answer) -> Result<(), Problem> {
        let end = tokio::time::timeout(Duration::from_secs(5), answer.chunk()).await;
        match end {
            Ok(Ok(Some(more))) if !more.is_empty() => Err(self.too_large(&answer, self.until)),
            _ => Ok(()),
        }
    }

    /// Decides what a failure means: the next source, another attempt, or the end.
    async fn recover(&mut self, problem: Problem) -> Result<(), Problem> {
        self.answer = None;
        if self.offset >= self.settled + PROGRESS {
            self.retrier.reset();
        }
        self.settled = self.offset;
        if self.ranges == Ranges::Asked && self.range_header().is_some() && is_no(&problem) {
            // Whoever refuses a part may still send the whole, of which the rest is taken.
            self.ranges = Ranges::Refused;
            return Ok(());
        }
        match self.retrier.pause(problem).await {
            Ok(()) => Ok(()),
            // What a mirror sent so far is kept, so the next source continues where it stopped. Wrong bytes cannot
            // be taken back.
            Err(problem) if self.sources.len() > 1 => {
                let mirror = self.sources.remove(0);
                self.client.tell_mirror_failed(&mirror, &problem);
                self.retrier = retrier(&self.client, &self.sources[0], self.kind, self.digest);
                Ok(())
            }
            Err(problem) => Err(problem),
        }
    }

    async fn connect(&mut self) -> Result<Answer, Problem> {
        let endpoint = self.sources.first().expect("the registry itself is never removed").clone();
        let subject = pull_subject(&endpoint, &self.reference);
        let url = endpoint.url(&self.reference.repository, &format!("blobs/{}", self.digest))?;
        let mut request = Request::new(Method::GET, url, &subject, self.what());
        request.sharing = self.sharing;
        let range = self.range_header();
        let asked = range.is_some();
        if let Some(range) = range {
            request.headers.insert(RANGE, range);
        }
        let answer = self.client.exchange(&endpoint, &request).await?;
        (self.answered, self.begun) = (Answered::AsAsked, self.offset);
        match answer.status() {
            StatusCode::OK => {
                (self.skip, self.until) = (self.offset, self.size);
                if asked || self.ranges == Ranges::Refused {
                    self.answered = Answered::Whole;
                }
            }
            StatusCode::PARTIAL_CONTENT => {
                let range = self.accept(&answer)?;
                (self.skip, self.until) = (0, range.end);
            }
            status if super::retry::is_transient(status) => return Err(answer.failure().await),
            _ => return Err(self.client.rejected(&endpoint, &subject, answer).await),
        }
        match answer.content_length().filter(|length| *length > self.until - (self.offset - self.skip)) {
            Some(_) => Err(self.too_large(&answer, self.until)),
            None => Ok(answer),
        }
    }

    fn range_header(&self) -> Option<HeaderValue> {
        let text = match (self.offset, self.end) {
            (0, end) if end == self.size => return None,
            _ if self.ranges == Ranges::Refused => return None,
            (offset, end) if end == self.size => format!("bytes={offset}-"),
            (offset, end) => format!("bytes={offset}-{}", end - 1),
        };
        Some(HeaderValue::from_str(&text).expect("digits are a header"))
    }

    /// Checks that a partial answer is of this blob, starts where it was asked to, and stays within.
    fn accept(&self, answer: &Answer) -> Result<Range<u64>, Problem> {
        let header = answer.header(CONTENT_RANGE);
        let malformed = |detail: String| {
            Err(Problem::Malformed { host: answer.host(), what: "a range of a blob".to_owned(), detail })
        };
        let Some((range, total)) = header.and_then(content_range) else {
            return malformed("it does not say which".to_owned());
        };
        if range.start != self.offset {
            return malformed(format!("it does not start at byte {}", self.offset));
        }
        if range.end > self.end {
            return malformed(format!("it goes beyond byte {}", self.end - 1));
        }
        match total.filter(|total| *total != self.size) {
            Some(total) => {
                malformed(format!("the blob is said to have {total} bytes instead of {}", self.size))
            }
            None => Ok(range),
        }
    }

    fn what(&self) -> String {
        format!("{} {}", self.kind, self.digest)
    }

    fn too_large(&self, answer: &Answer, limit: u64) -> Problem {
        let what = self.what();
        answer.encoded(&what).unwrap_or_else(|| Problem::TooLarge { host: answer.host(), what, limit })
    }
}

/// Whether a server has said no.
fn is_no(problem: &Problem) -> bool {
    match problem {
        Problem::Status { status, .. } => !super::retry::is_transient(*status),
        Problem::Unauthorized { .. } => true,
        _ => false,
    }
}

fn retrier(client: &Client, endpoint: &Endpoint, kind: &str, digest: Digest) -> Retrier {
    client.retrier_at(endpoint, &endpoint.base, &format!("{kind} {digest}"))
}

/// Reads `bytes FIRST-LAST/TOTAL` (RFC 9110 §14.4); the total may be `*`.
fn content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    let end = last.checked_add(1)?;
    (first < end && total.is_none_or(|total| end <= total)).then_some((first..end, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        assert_eq!(content_range("bytes 0-9/10"), Some((0..10, Some(10))));
        assert_eq!(content_range(" bytes 5-5/* "), Some((5..6, None)));
        for nonsense in [
            "",
            "bytes */10",
            "bytes 5-4/10",
            "bytes 0-10/10",
            "bytes 0-9",
            "items 0-9/10",
            "bytes -9/10",
            "bytes 0-18446744073709551615/*",
            "bytes 1-x/10",
        ] {
            assert_eq!(content_range(nonsense), None, "{nonsense}");
        }
    }
}
