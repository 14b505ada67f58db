//! URLs to blobs of the store: conditional on what was fetched before, verified, never decompressed.
//!
//! A download that fails on the way, or whose checksum is wrong, leaves nothing.

mod name;
mod record;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use frontend::graph::HttpOp;
use oci::layout::{BlobWriter, Layout, Written};
use oci::registry::{Problem, UrlAnswer, UrlRequest};
use oci::{Digest, Store};
use reqwest::Url;
use reqwest::header::{
    CONTENT_DISPOSITION, DATE, ETAG, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use tokio::sync::mpsc;

pub use name::file_name;
use record::Record;

use super::{SourceError, Sources, blocking};

/// What a URL served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// sha256 of the body, which is this blob of the store's layout.
    pub digest: Digest,
    /// Bytes of the body.
    pub size: u64,
    /// Last-Modified in seconds since the epoch, where the server told it.
    pub last_modified: Option<i64>,
    /// Name of the file: the server's, else the URL's, else `download`.
    pub filename: String,
    /// Whether bytes came over the network.
    pub freshness: Freshness,
}

/// How a body was had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Downloaded.
    Downloaded,
    /// The server said that it has not changed.
    Unchanged,
    /// It has the checksum that was asked for; the server was not asked.
    Known,
}

/// Why one attempt failed.
enum Failed {
    /// Another attempt may help.
    Problem(Problem),
    /// None does.
    Source(SourceError),
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<SourceError> for Failed {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

/// Returns what `url` serves, as a blob of the store. With a `checksum` that this URL had before, no request is
/// made.
///
/// # Errors
/// [`SourceError::Url`], [`SourceError::Http`], [`SourceError::Checksum`], [`SourceError::TooLarge`],
/// [`SourceError::Store`].
pub async fn fetch(sources: &Sources, url: &str, checksum: Option<Digest>) -> Result<Fetched, SourceError> {
    let url = parse(url)?;
    let record = record::read(&sources.store, &url)?;
    if let Some((known, expected)) = record.as_ref().zip(checksum)
        && is_body(sources, known, expected).await?
    {
        return Ok(known.fetched(Freshness::Known));
    }
    let request = request(sources, &url, record.as_ref())?;
    let mut attempts = sources.client.attempts(&url, "download");
    loop {
        let problem = match attempt(sources, &request, record.as_ref(), checksum).await {
            Ok(fetched) => return Ok(fetched),
            Err(Failed::Source(error)) => return Err(error),
            Err(Failed::Problem(problem)) => problem,
        };
        let last = |problem| SourceError::Http { url: shown(&url), problem: Box::new(problem) };
        attempts.pause(problem).await.map_err(last)?;
    }
}

/// Returns a URL for messages and records: without user, query and fragment, which may carry credentials.
pub fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

fn parse(text: &str) -> Result<Url, SourceError> {
    let bad = |why: String| {
        let url = text.split(['?', '#']).next().unwrap_or_default();
        let url = match url.split_once("://") {
            Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit('@').next().unwrap_or_default()),
            None => url.to_owned(),
        };
        SourceError::Url { url, why }
    };
    let url = Url::parse(text).map_err(|error| bad(error.to_string()))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        scheme => Err(bad(format!("{scheme} is neither http nor https"))),
    }
}

fn request(sources: &Sources, url: &Url, record: Option<&Record>) -> Result<UrlRequest, SourceError> {
    let mut headers = HeaderMap::new();
    if let Some(record) = record {
        let conditions = [(IF_NONE_MATCH, &record.etag), (IF_MODIFIED_SINCE, &record.unmodified_since)];
        for (name, value) in conditions {
            // What came as a header value is one.
            if let Some(Ok(value)) = value.as_deref().map(HeaderValue::from_str) {
                headers.insert(name, value);
            }
        }
    }
    Ok(UrlRequest { url: url.clone(), headers, authorization: authorization(sources, url)? })
}

/// The secret with the token wins over the one with the whole header, as in BuildKit.
fn authorization(sources: &Sources, url: &Url) -> Result<Option<HeaderValue>, SourceError> {
    let host = url.host_str().unwrap_or_default();
    let token = format!("HTTP_AUTH_TOKEN_{host}");
    let header = format!("HTTP_AUTH_HEADER_{host}");
    let (id, text) = match (sources.secrets.text(&token)?, sources.secrets.text(&header)?) {
        (Some(value), _) => (token, format!("Bearer {value}")),
        (None, Some(value)) => (header, value.to_owned()),
        (None, None) => return Ok(None),
    };
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| SourceError::Secret { id, why: "it cannot be sent as a header" })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

async fn attempt(
    sources: &Sources,
    request: &UrlRequest,
    record: Option<&Record>,
    checksum: Option<Digest>,
) -> Result<Fetched, Failed> {
    let url = &request.url;
    let answer = sources.client.open_url(request).await?;
    if let Some(record) = record.filter(|record| is_unchanged(&answer, record)) {
        return match checksum {
            // That it is not the body was found before it was asked for.
            Some(expected) => {
                let what = format!("the unchanged body has the digest {}", record.digest);
                Err(SourceError::Checksum { url: shown(url), what, expected }.into())
            }
            None => Ok(record.fetched(Freshness::Unchanged)),
        };
    }
    // 206 is an answer to a Range, which was not sent.
    if !answer.status().is_success() || answer.status().as_u16() == 206 {
        return Err(answer.failure().await.into());
    }
    let mut record = record_of(&answer, url);
    let written = receive(sources, answer, url, checksum).await?;
    (record.digest, record.size) = (written.digest, written.size);
    record::write(&sources.store, url, &record)?;
    Ok(record.fetched(Freshness::Downloaded))
}

/// Returns whether the body of `record` is the expected one. The store knows it by sha256, whatever the checksum is.
async fn is_body(sources: &Sources, record: &Record, expected: Digest) -> Result<bool, SourceError> {
    if record.digest.algorithm() == expected.algorithm() {
        return Ok(record.digest == expected);
    }
    let (layout, digest) = (sources.store.layout().clone(), record.digest);
    blocking(move || {
        let body = layout.open_blob(&digest)?;
        let found = Digest::of_reader(body, expected.algorithm());
        Ok(found.map_err(SourceError::io("read", &layout.blob_path(&digest)))?.0 == expected)
    })
    .await
}

/// Some servers answer 200 with the same ETag instead of 304; then the body is not read.
fn is_unchanged(answer: &UrlAnswer, record: &Record) -> bool {
    if answer.status().as_u16() == 304 {
        return true;
    }
    let tag = |etag: &str| etag.trim_start_matches("W/").to_owned();
    let known = record.etag.as_deref().map(tag).filter(|etag| !etag.is_empty());
    answer.status().is_success() && known.is_some() && answer.header(ETAG).map(tag) == known
}

fn record_of(answer: &UrlAnswer, url: &Url) -> Record {
    let last_modified = answer.header(LAST_MODIFIED);
    let seconds = last_modified.and_then(record::http_date);
    // A Last-Modified of the minute in which it was read may be that of two versions (RFC 9110 §8.8.2.2).
    let read = answer.header(DATE).and_then(record::http_date);
    let settled = seconds.zip(read).is_some_and(|(seconds, read)| seconds + 60 <= read);
    Record {
        version: record::VERSION,
        url: shown(url),
        etag: answer.header(ETAG).map(str::to_owned),
        unmodified_since: last_modified.filter(|_| settled).map(str::to_owned),
        last_modified: seconds,
        filename: file_name(url, answer.header(CONTENT_DISPOSITION)),
        digest: Digest::of(b""),
        size: 0,
    }
}

async fn receive(
    sources: &Sources,
    mut answer: UrlAnswer,
    url: &Url,
    checksum: Option<Digest>,
) -> Result<Written, Failed> {
    let limit = sources.limits.bytes;
    let too_large = || SourceError::TooLarge { what: shown(url), limit };
    if answer.content_length().is_some_and(|length| length > limit) {
        return Err(too_large().into());
    }
    let (sender, receiver) = mpsc::channel(16);
    let layout = sources.store.layout().clone();
    let writing = tokio::task::spawn_blocking(move || write(&layout, receiver));
    let mut received = 0;
    while let Some(chunk) = answer.chunk().await? {
        received += chunk.len() as u64;
        if received > limit {
            return Err(too_large().into());
        }
        if sender.send(chunk).await.is_err() {
            break; // The writer knows why.
        }
    }
    drop(sender);
    let writer = blocking_result(writing.await)?;
    let url = url.clone();
    Ok(blocking(move || finish(writer, &url, checksum)).await?)
}

fn blocking_result<T>(
    joined: Result<Result<T, SourceError>, tokio::task::JoinError>,
) -> Result<T, SourceError> {
    joined.unwrap_or(Err(SourceError::Stopped))
}

/// Writes until the sender is gone; whether that was the end, the sender knows.
fn write(layout: &Layout, mut chunks: mpsc::Receiver<Bytes>) -> Result<BlobWriter, SourceError> {
    use std::io::Write as _;
    let mut writer = layout.writer()?;
    while let Some(chunk) = chunks.blocking_recv() {
        writer.write_all(&chunk).map_err(SourceError::io("write a blob to", layout.root()))?;
    }
    Ok(writer)
}

/// Stores a body under its sha256, after comparing it with the checksum by whichever algorithm that is of.
fn finish(writer: BlobWriter, url: &Url, checksum: Option<Digest>) -> Result<Written, SourceError> {
    if let Some(expected) = checksum {
        let found = writer.digest_by(expected.algorithm())?;
        if found != expected {
            let what = format!("the bytes received have the digest {found}");
            return Err(SourceError::Checksum { url: shown(url), what, expected });
        }
    }
    Ok(writer.finish()?)
}

/// Writes what a step's op stands for into `directory` as ADD sees it: mode 0600, and the server's time or the
/// epoch. Returns the path of the file.
///
/// # Errors
/// [`SourceError::Store`] where somebody has removed the blob, [`SourceError::Io`] where it is damaged, or its file
/// is there already.
pub fn place(store: &Store, op: &HttpOp, directory: &Path) -> Result<PathBuf, SourceError> {
    let missing = || oci::Error::MissingBlob { digest: op.digest, layout: store.layout().root().to_owned() };
    let size = store.layout().size(&op.digest)?.ok_or_else(missing)?;
    let descriptor = oci::document::descriptor("application/octet-stream", op.digest, size);
    let mut body = store.layout().open_verified(&descriptor)?;
    // One name, whoever made the op.
    let path = directory.join(name::safe(&op.filename));
    let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
    let mut file = file.map_err(SourceError::io("create", &path))?;
    std::io::copy(&mut body, &mut file).map_err(SourceError::io("write", &path))?;
    let time = rustix::fs::Timespec { tv_sec: op.last_modified.unwrap_or(0), tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o600))
        .and_then(|()| rustix::fs::futimens(&file, &times))
        .map_err(|errno| SourceError::io("set mode and time of", &path)(errno.into()))?;
    Ok(path)
}
