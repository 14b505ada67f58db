//! Bodies of requests: bytes, or a blob that can be opened again at any offset.

use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;

use super::client::{Client, Meter};
use super::error::{Action, Problem};
use super::event::{Event, Events};
use super::push::Upload;
use crate::digest::Hasher;
use crate::{Digest, Reference};

/// Where a blob's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobSource {
    /// In a file of its own.
    File(PathBuf),
    /// In a part of a file.
    Part {
        /// The file.
        path: PathBuf,
        /// Where the blob starts in it.
        offset: u64,
    },
    /// In memory.
    Bytes(Bytes),
    /// In a repository of a registry; they are streamed through when the target has no other way to them.
    Remote(Reference),
}

/// What a request carries.
pub(super) enum Payload {
    Empty,
    Bytes(Bytes),
    Stream(Box<BlobPart>),
}

/// A range of a blob, sent as a stream.
pub(super) struct BlobPart {
    pub source: BlobSource,
    pub digest: Digest,
    /// Size of the whole blob.
    pub size: u64,
    /// First byte to send.
    pub from: u64,
    /// Bytes to send.
    pub length: u64,
    /// Registry and repository that it goes to.
    to: String,
    failure: Arc<Mutex<Option<Problem>>>,
}

/// Bytes per read: large enough that a loopback upload is not bound by system calls.
const CHUNK: usize = 512 * 1024;

/// Reads ahead of the connection.
const AHEAD: usize = 4;

type Chunks = mpsc::Receiver<io::Result<Bytes>>;

impl BlobPart {
    /// The `length` bytes from `from` of a blob, on their way to the repository of `target`.
    pub fn new(upload: &Upload, target: &Reference, from: u64, length: u64) -> Self {
        let Upload { source, digest, size, mounts: _ } = upload;
        let (source, digest, size, to) = (source.clone(), *digest, *size, target.place());
        Self { source, digest, size, from, length, to, failure: Arc::default() }
    }

    /// Opens the stream from its start.
    pub async fn open(&self, client: &Client) -> Result<(reqwest::Body, Arc<Meter>), Problem> {
        let chunks = match &self.source {
            BlobSource::File(path) => self.read(path, 0)?,
            BlobSource::Part { path, offset } => self.read(path, *offset)?,
            BlobSource::Bytes(bytes) => self.slices(bytes)?,
            BlobSource::Remote(reference) => self.forward(client, reference),
        };
        let meter = Arc::new(Meter { length: self.length, ..Meter::default() });
        let stream = self.metered(chunks, meter.clone(), client.events().clone());
        Ok((reqwest::Body::wrap_stream(stream), meter))
    }

    /// Returns why the stream broke, if it was the source's fault.
    pub fn take_failure(&self) -> Option<Problem> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reads the blob, which starts at `offset` of a file. One that is sent whole is verified on the way; what is
    /// wrong with another one shows when the registry compares the digest, see [`damage`].
    fn read(&self, path: &Path, offset: u64) -> Result<Chunks, Problem> {
        let whole = self.from == 0 && self.length == self.size;
        let check = whole.then(|| Check::new(path, self.digest));
        read_file(path, offset + self.from, self.length, check).map_err(|source| self.unreadable(source))
    }

    fn unreadable(&self, source: io::Error) -> Problem {
        let what = match &self.source {
            BlobSource::File(path) | BlobSource::Part { path, .. } => path.display().to_string(),
            BlobSource::Bytes(_) | BlobSource::Remote(_) => self.digest.to_string(),
        };
        Problem::Source { what, source }
    }

    fn metered(
        &self,
        chunks: Chunks,
        meter: Arc<Meter>,
        events: Events,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let (digest, size, from) = (self.digest, self.size, self.from);
        let (to, failure) = (self.to.clone(), self.failure.clone());
        let what = self.unreadable(io::ErrorKind::Other.into());
        let name = match what {
            Problem::Source { what, .. } => what,
            _ => digest.to_string(),
        };
        tokio_stream(chunks).map(move |chunk| match chunk {
            Ok(bytes) => {
                let length = bytes.len() as u64;
                let end = from + length + meter.taken.fetch_add(length, Ordering::Relaxed);
                events.tell(Event::Sent { digest, to: to.clone(), bytes: length, end, size });
                Ok(bytes)
            }
            Err(error) => {
                let kind = error.kind();
                let problem = match error.downcast::<super::error::Error>() {
                    Ok(error) => *error.problem,
                    Err(source) => Problem::Source { what: name.clone(), source },
                };
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
                Err(kind.into())
            }
        })
    }

    fn slices(&self, bytes: &Bytes) -> Result<Chunks, Problem> {
        let range = usize::try_from(self.from).ok().zip(usize::try_from(self.from + self.length).ok());
        let (from, to) = range
            .filter(|(_, to)| *to <= bytes.len())
            .ok_or_else(|| self.unreadable(io::ErrorKind::UnexpectedEof.into()))?;
        let (sender, receiver) = mpsc::channel(AHEAD);
        let mut rest = bytes.slice(from..to);
        tokio::spawn(async move {
            while !rest.is_empty() {
                let chunk = rest.split_to(rest.len().min(CHUNK));
                if sender.send(Ok(chunk)).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    /// Streams the blob from another repository. The wanted range is cut out of the whole, because only the
    /// whole can be verified.
    fn forward(&self, client: &Client, reference: &Reference) -> Chunks {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (mut skip, mut left) = (self.from, self.length);
        let stream = client.open_blob(reference, self.digest, self.size);
        tokio::spawn(async move {
            let mut stream = match stream {
                Ok(stream) => stream,
                Err(error) => return drop(sender.send(Err(io::Error::other(error))).await),
            };
            while left > 0 {
                let mut chunk = match stream.next().await {
                    Ok(Some(chunk)) => chunk,
                    Ok(None) => break,
                    Err(error) => return drop(sender.send(Err(io::Error::other(error))).await),
                };
                let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
                skip -= skipped as u64;
                let _ = chunk.split_to(skipped);
                chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                left -= chunk.len() as u64;
                if !chunk.is_empty() && sender.send(Ok(chunk)).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }
}

fn tokio_stream(mut chunks: Chunks) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    futures_util::stream::poll_fn(move |context| chunks.poll_recv(context))
}

/// Packs a problem for a way that only takes errors of IO.
fn carried(problem: Problem) -> io::Error {
    io::Error::other(super::client::error(Action::Push, "", problem))
}

/// Compares what is read with a digest.
struct Check {
    path: PathBuf,
    digest: Digest,
    hasher: Hasher,
}

impl Check {
    fn new(path: &Path, digest: Digest) -> Self {
        Self { path: path.to_owned(), digest, hasher: digest.algorithm().hasher() }
    }

    /// Takes the next bytes; `left` more follow.
    fn take(&mut self, bytes: &[u8], left: u64) -> Result<(), Problem> {
        self.hasher.update(bytes);
        if left > 0 {
            return Ok(());
        }
        match self.hasher.clone().finish() {
            found if found == self.digest => Ok(()),
            found => Err(self.damaged(format!("has the digest {found}"))),
        }
    }

    fn damaged(&self, what: String) -> Problem {
        Problem::Damaged { digest: self.digest, path: self.path.clone(), what }
    }
}

/// Says what is wrong with the bytes of a blob that a registry does not take for what its digest says; `None` where it
/// is nothing, or where the bytes are in no file.
pub(super) async fn damage(upload: &Upload) -> Option<Problem> {
    let (path, offset) = match &upload.source {
        BlobSource::File(path) => (path, 0),
        BlobSource::Part { path, offset } => (path, *offset),
        BlobSource::Bytes(_) | BlobSource::Remote(_) => return None,
    };
    let check = Check::new(path, upload.digest);
    let mut chunks = read_file(path, offset, upload.size, Some(check)).ok()?;
    while let Some(chunk) = chunks.recv().await {
        if let Err(error) = chunk {
            return error.downcast::<super::error::Error>().ok().map(|error| *error.problem);
        }
    }
    None
}

/// Reads `length` bytes from `from` on a thread that may block. The last of them are held back until all are
/// checked.
fn read_file(path: &Path, from: u64, length: u64, mut check: Option<Check>) -> io::Result<Chunks> {
    let mut file = std::fs::File::open(path)?;
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut left = length;
        let mut start = file.seek(io::SeekFrom::Start(from)).map(|_| ());
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
            let mut buffer = BytesMut::zeroed(want);
            left -= want as u64;
            let read =
                std::mem::replace(&mut start, Ok(())).and_then(|()| file.read_exact(&mut buffer)).and_then(
                    |()| check.as_mut().map_or(Ok(()), |check| check.take(&buffer, left).map_err(carried)),
                );
            let failed = read.is_err();
            if sender.blocking_send(read.map(|()| buffer.freeze())).is_err() || failed {
                return;
            }
        }
    });
    Ok(receiver)
}
