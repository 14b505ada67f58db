//! Reading blobs from registries: verified streams that survive broken connections. Stores nothing.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, HeaderValue, RANGE};
use reqwest::{Method, StatusCode};

use super::answer::Answer;
use super::client::{Client, Request, Retrier, error};
use super::endpoint::Endpoint;
use super::error::{Action, Error, Problem};
use super::event::Event;
use super::pull::{pull_subject, sources};
use crate::digest::Hasher;
use crate::{Digest, Reference};

impl Client {
    /// Opens the blob `digest` of `size` bytes in `reference`'s repository.
    ///
    /// Nothing is sent before the first call of [`BlobStream::next`].
    ///
    /// # Errors
    /// A mirror or registry of the settings that is no address.
    pub fn open_blob(&self, reference: &Reference, digest: Digest, size: u64) -> Result<BlobStream, Error> {
        self.blob_stream(reference, digest, size).map_err(|problem| error(Action::Pull, reference, problem))
    }

    pub(super) fn blob_stream(
        &self,
        reference: &Reference,
        digest: Digest,
        size: u64,
    ) -> Result<BlobStream, Problem> {
        let (origin, mirrors) = sources(self, reference)?;
        let retrier = self.retrier(&origin.base, &format!("layer {digest}"));
        let mut sources = mirrors;
        sources.push(origin);
        Ok(BlobStream {
            client: self.clone(),
            reference: reference.clone(),
            sources,
            digest,
            size,
            hasher: digest.algorithm().hasher(),
            offset: 0,
            settled: 0,
            complete: size == 0,
            skip: 0,
            answer: None,
            retrier,
        })
    }

    /// Streams a blob into `writer` and returns it when every byte is written and verified. Of all calls on one
    /// client, [`super::settings::Limits::parallel`] run at a time.
    ///
    /// The writer runs on a thread that may block, so it can unpack, index and write files. After an error what
    /// it got is worthless.
    ///
    /// # Errors
    /// [`Error`] with action [`Action::Pull`]; what the writer returned is [`Problem::Sink`].
    pub async fn pull_blob<W: io::Write + Send + 'static>(
        &self,
        reference: &Reference,
        digest: Digest,
        size: u64,
        writer: W,
    ) -> Result<W, Error> {
        let _slot = self.slot().await;
        let mut stream = self.open_blob(reference, digest, size)?;
        let sink_failed = |source: io::Error| {
            error(Action::Pull, reference, Problem::Sink { what: format!("layer {digest}"), source })
        };
        let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(16);
        let writing = tokio::task::spawn_blocking(move || drain(receiver, writer));
        while let Some(chunk) = stream.next().await? {
            // A writer that has failed closes the channel; its error is picked up below.
            if sender.send(chunk).await.is_err() {
                break;
            }
        }
        drop(sender);
        match writing.await {
            Ok(written) => written.map_err(sink_failed),
            Err(join) => Err(sink_failed(io::Error::other(join))),
        }
    }
}

fn drain<W: io::Write>(mut chunks: tokio::sync::mpsc::Receiver<Bytes>, mut writer: W) -> io::Result<W> {
    while let Some(chunk) = chunks.blocking_recv() {
        writer.write_all(&chunk)?;
    }
    writer.flush()?;
    Ok(writer)
}

/// A blob on its way in. Every byte is hashed; the last chunk is given out only when size and digest are right.
///
/// A connection that breaks is resumed by Range at the first byte that is not hashed yet.
pub struct BlobStream {
    client: Client,
    reference: Reference,
    /// Mirrors, then the registry; the first is in use.
    sources: Vec<Endpoint>,
    digest: Digest,
    size: u64,
    hasher: Hasher,
    /// Bytes that are hashed.
    offset: u64,
    /// `offset` at the last failure.
    settled: u64,
    /// All bytes are hashed without having come through a connection.
    complete: bool,
    /// Bytes that the server repeats because it ignored the Range.
    skip: u64,
    answer: Option<Answer>,
    retrier: Retrier,
}

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobStream({} at {} of {})", self.digest, self.offset, self.size)
    }
}

/// Progress after which earlier failures are forgotten. A server that breaks off after every byte must not keep
/// us forever.
const PROGRESS: u64 = 64 * 1024;

impl BlobStream {
    /// Hashes the blob's first bytes, which the caller kept from an earlier attempt, so that only the rest is
    /// asked for. Wrong bytes show when the digest of the whole is compared.
    ///
    /// Must come before [`BlobStream::next`]; bytes past the blob's size are not taken.
    pub fn feed(&mut self, kept: &[u8]) {
        let room = usize::try_from(self.size - self.offset).unwrap_or(usize::MAX);
        let kept = &kept[..kept.len().min(room)];
        self.hasher.update(kept);
        self.offset += kept.len() as u64;
        self.settled = self.offset;
        self.complete = self.offset == self.size;
    }

    /// Returns the next bytes; `None` when all of them have been given out and were right.
    ///
    /// # Errors
    /// [`Error`] with action [`Action::Pull`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match self.next_chunk().await {
            Ok(chunk) => Ok(chunk),
            Err(problem) => Err(error(Action::Pull, &self.reference, problem)),
        }
    }

    pub(super) async fn next_chunk(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            if self.offset == self.size {
                // An empty blob, or one that was kept whole, needs no connection and is verified here.
                return if std::mem::take(&mut self.complete) {
                    self.verify().map(|()| None)
                } else {
                    Ok(None)
                };
            }
            match self.step().await {
                Ok(Some(chunk)) => return Ok(Some(chunk)),
                Ok(None) => {}
                Err(problem) => self.recover(problem).await?,
            }
        }
    }

    /// Takes one chunk from the connection; `None` where all of it was to be skipped.
    async fn step(&mut self) -> Result<Option<Bytes>, Problem> {
        let mut answer = match self.answer.take() {
            Some(answer) => answer,
            None => self.connect().await?,
        };
        let what = || format!("layer {}", self.digest);
        let Some(mut chunk) = answer.chunk().await? else {
            let (host, received) = (answer.host(), self.offset);
            return Err(Problem::Truncated { host, what: what(), received, size: self.size });
        };
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
        let _ = chunk.split_to(skipped);
        self.skip -= skipped as u64;
        if self.offset + chunk.len() as u64 > self.size {
            return Err(Problem::TooLarge { host: answer.host(), what: what(), limit: self.size });
        }
        self.hasher.update(&chunk);
        self.offset += chunk.len() as u64;
        if self.offset == self.size {
            // The end is waited for briefly: it makes the connection free again, or shows what is too much.
            let end = tokio::time::timeout(Duration::from_secs(5), answer.chunk()).await;
            if matches!(end, Ok(Ok(Some(more))) if !more.is_empty()) {
                return Err(Problem::TooLarge { host: answer.host(), what: what(), limit: self.size });
            }
            self.verify()?;
        }
        self.answer = Some(answer);
        if chunk.is_empty() {
            return Ok(None);
        }
        self.client.events().tell(Event::Received { digest: self.digest, bytes: chunk.len() as u64 });
        Ok(Some(chunk))
    }

    fn verify(&self) -> Result<(), Problem> {
        let actual = self.hasher.clone().finish();
        if actual == self.digest {
            return Ok(());
        }
        let host = self.sources.first().map(Endpoint::host).unwrap_or_default();
        Err(Problem::Digest { host, what: "layer".to_owned(), expected: self.digest, actual })
    }

    /// Decides what a failure means: the next source, another attempt, or the end.
    async fn recover(&mut self, problem: Problem) -> Result<(), Problem> {
        self.answer = None;
        if self.offset >= self.settled + PROGRESS {
            self.retrier.reset();
        }
        self.settled = self.offset;
        match self.retrier.pause(problem).await {
            Ok(()) => Ok(()),
            // What a mirror sent so far is hashed, so the next source continues where it stopped. Wrong bytes
            // cannot be taken back.
            Err(problem) if self.sources.len() > 1 && !matches!(problem, Problem::Digest { .. }) => {
                let mirror = self.sources.remove(0);
                self.client.tell_mirror_failed(&mirror, &problem);
                self.retrier.reset();
                Ok(())
            }
            Err(problem) => Err(problem),
        }
    }

    async fn connect(&mut self) -> Result<Answer, Problem> {
        let endpoint = self.sources.first().expect("the registry itself is never removed").clone();
        let subject = pull_subject(&endpoint, &self.reference);
        let url = endpoint.url(&self.reference.repository, &format!("blobs/{}", self.digest))?;
        let mut request = Request::new(Method::GET, url, &subject, format!("layer {}", self.digest));
        if self.offset > 0 {
            let range =
                HeaderValue::from_str(&format!("bytes={}-", self.offset)).expect("digits are a header");
            request.headers.insert(RANGE, range);
        }
        let answer = self.client.exchange(&endpoint, &request).await?;
        match answer.status() {
            StatusCode::OK => self.skip = self.offset,
            StatusCode::PARTIAL_CONTENT if range_starts_at(&answer, self.offset) => self.skip = 0,
            StatusCode::PARTIAL_CONTENT => {
                let detail = format!("it does not start at byte {}", self.offset);
                let what = "a range of a blob".to_owned();
                return Err(Problem::Malformed { host: answer.host(), what, detail });
            }
            status if super::retry::is_transient(status) => return Err(answer.failure().await),
            _ => return Err(self.client.rejected(&endpoint, &subject, answer).await),
        }
        let promised = answer.content_length().filter(|length| *length > self.size - self.offset + self.skip);
        match promised {
            Some(_) => {
                let what = format!("layer {}", self.digest);
                Err(Problem::TooLarge { host: answer.host(), what, limit: self.size })
            }
            None => Ok(answer),
        }
    }
}

fn range_starts_at(answer: &Answer, offset: u64) -> bool {
    let range = answer.header(CONTENT_RANGE).and_then(|text| text.trim().strip_prefix("bytes "));
    range.and_then(|range| range.split_once('-')).is_some_and(|(start, _)| start.trim().parse() == Ok(offset))
}
