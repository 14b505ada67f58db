//! Whole blobs into files, verified; large ones over several connections. Opens and names no file.
//!
//! A blob starts on one connection, without a Range. When there are connections to spare, the rest of a large blob is
//! cut into parts, which are asked for one by one; the first connection stops where the first part begins. That is
//! agreed only after a part was answered as it should be, so a server without ranges costs nothing but the question.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::sync::{SemaphorePermit, mpsc, watch};
use tokio::task::JoinHandle;

use super::arrival::Arrival;
use super::assembly::Assembly;
use super::client::{Client, error};
use super::connections::Sharing;
use super::error::{Action, Error, Problem};
use super::range::RangeStream;
use crate::{Digest, Reference};

/// Blobs of fewer parts stay on one connection.
const LEAST_PARTS: u64 = 4;

/// How often a part is asked for that the first connection reaches before there is an answer; each time it is
/// farther ahead.
const SPLIT_ATTEMPTS: u32 = 3;

/// Pieces between a connection and its writer, beside the one that is written.
const AHEAD: usize = 3;

/// Bytes after which a piece is handed over. A chunk has 400 KiB at most with HTTP/1.1, 16 KiB with TLS or HTTP/2.
const PIECE: usize = 256 << 10;

impl Client {
    /// Writes a blob into an empty file. Returns when every byte is written and verified. Of all connections that do
    /// so for one client, [`super::settings::Limits::parallel`] are open at a time.
    ///
    /// After an error what is in the file is worthless.
    ///
    /// # Errors
    /// [`Error`] with action [`Action::Pull`]; [`Problem::Sink`] where the file could not be written.
    pub async fn pull_file(
        &self,
        reference: &Reference,
        digest: Digest,
        size: u64,
        file: File,
    ) -> Result<(), Error> {
        loop {
            let mirrored = self.has_mirrors(reference);
            let again = file.try_clone().map_err(|source| sink(reference, digest, source))?;
            match self.pull_arriving(reference, digest, size, &Arrival::new(again)).await {
                Err(error) if mirrored && error.is_wrong_content() => {
                    file.set_len(0).map_err(|source| sink(reference, digest, source))?;
                }
                done => return done,
            }
        }
    }

    /// Like [`Self::pull_file`], for a file that others read meanwhile. When this ends, for whatever reason, they do
    /// not wait any longer. Bytes that were wrong cannot be taken back from them: where there were mirrors, another
    /// attempt asks none of these.
    ///
    /// # Errors
    /// As [`Self::pull_file`].
    pub async fn pull_arriving(
        &self,
        reference: &Reference,
        digest: Digest,
        size: u64,
        arrival: &Arc<Arrival>,
    ) -> Result<(), Error> {
        let _ended = Ended(arrival);
        let _slot = self.slot().await;
        let fetch = Fetch::new(self, reference, digest, size, arrival);
        if let Err(problem) = fetch.run().await {
            if matches!(problem, Problem::Digest { .. }) {
                self.distrust_mirrors(reference, &problem);
            }
            return Err(error(Action::Pull, reference, problem));
        }
        arrival.set_verified();
        Ok(())
    }
}

fn sink(reference: &Reference, digest: Digest, source: io::Error) -> Error {
    error(Action::Pull, reference, Problem::Sink { what: format!("layer {digest}"), source })
}

/// Abandons what has not arrived, also where the pull is dropped.
struct Ended<'a>(&'a Arrival);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// One blob on its way into a file.
struct Fetch<'a> {
    client: &'a Client,
    reference: &'a Reference,
    digest: Digest,
    size: u64,
    assembly: Arc<Assembly>,
    plan: Mutex<Plan>,
    stage: watch::Sender<Stage>,
    /// One connection at a time tries to cut the blob.
    cutting: tokio::sync::Mutex<()>,
}

/// What further connections could do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing: the first one has no bytes yet.
    Opening,
    /// Help.
    Flowing,
    /// Nothing: there is nothing left to ask for.
    Ending,
}

/// Who fetches what. No byte belongs to two connections: what one of them wrote must be what another hashed.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    size: u64,
    /// Bytes of a part.
    part: u64,
    /// What is left to the first connection.
    first: Range<u64>,
    /// The first byte of the rest, which belongs to nobody yet.
    next: u64,
}

impl Plan {
    fn new(size: u64, part: u64) -> Self {
        Self { size, part: part.max(1), first: 0..size, next: size }
    }

    /// Gives `length` bytes to the first connection, or what is left to it.
    fn advance(&mut self, length: u64) -> u64 {
        let length = length.min(self.first.end - self.first.start);
        self.first.start += length;
        length
    }

    /// Returns a part in the reach of the first connection, `distance` parts ahead of it, with another behind it.
    fn propose(&self, distance: u64) -> Option<Range<u64>> {
        let start = self.first.start.checked_add(self.part.checked_mul(distance)?)?;
        let end = start.checked_add(self.part)?;
        (end <= self.first.end).then_some(start..end)
    }

    /// Takes `part` and all behind it from the first connection, unless that has come as far.
    fn cut(&mut self, part: &Range<u64>) -> bool {
        let possible = self.first.start <= part.start && part.end <= self.first.end && self.next == self.size;
        if possible {
            (self.first.end, self.next) = (part.start, part.end);
        }
        possible
    }

    /// Gives out a part of the rest.
    fn take(&mut self) -> Option<Range<u64>> {
        let part = self.next..self.next.saturating_add(self.part).min(self.size);
        self.next = part.end;
        (!part.is_empty()).then_some(part)
    }

    /// Gives out all of the rest as one part next time: the server has begun to ignore ranges, and every part costs as
    /// much as the whole blob.
    fn stop_cutting(&mut self) {
        self.part = self.size.max(1);
    }
}

impl<'a> Fetch<'a> {
    fn new(
        client: &'a Client,
        reference: &'a Reference,
        digest: Digest,
        size: u64,
        arrival: &Arc<Arrival>,
    ) -> Self {
        Self {
            client,
            reference,
            digest,
            size,
            assembly: Arc::new(Assembly::new(Arc::clone(arrival), digest.algorithm())),
            plan: Mutex::new(Plan::new(size, client.settings().limits.part)),
            stage: watch::Sender::new(Stage::Opening),
            cutting: tokio::sync::Mutex::default(),
        }
    }

    async fn run(&self) -> Result<(), Problem> {
        let helpers = (0..self.helpers()).map(|_| self.help());
        let source = tokio::try_join!(self.lead(), try_join_all(helpers))?.0;
        let assembly = Arc::clone(&self.assembly);
        let finished = tokio::task::spawn_blocking(move || assembly.finish()).await;
        let (received, actual) = self.sunk(finished.map_err(io::Error::other).flatten())?;
        if received != self.size {
            let (host, what) = (source.host(), self.what());
            return Err(Problem::Truncated { host, what, received, size: self.size });
        }
        super::blob::verify(&source, actual)?;
        source.tell_pulled();
        Ok(())
    }

    fn helpers(&self) -> u64 {
        let limits = &self.client.settings().limits;
        let parts = self.size / limits.part.max(1);
        if parts < LEAST_PARTS { 0 } else { parts.min(limits.parallel.saturating_sub(1) as u64) }
    }

    /// The first connection. Returns its stream, which knows whom the bytes came from.
    async fn lead(&self) -> Result<RangeStream, Problem> {
        let mut range = self.range(0..self.size, Sharing::of_body(self.size))?;
        let mut writer = Writer::start(&self.assembly);
        let done = self.lead_to(&mut range, &mut writer).await;
        self.end(done, writer).await?;
        Ok(range)
    }

    async fn lead_to(&self, range: &mut RangeStream, writer: &mut Writer) -> Result<(), Problem> {
        loop {
            range.end_at(self.plan().first.end);
            let offset = range.offset();
            let Some(mut chunk) = range.next().await? else { break };
            let own = self.plan().advance(chunk.len() as u64);
            chunk.truncate(usize::try_from(own).unwrap_or(usize::MAX));
            if !chunk.is_empty() && writer.send(offset, chunk).await.is_err() {
                return Ok(());
            }
            self.stage.send_if_modified(|stage| {
                *stage == Stage::Opening && std::mem::replace(stage, Stage::Flowing) == Stage::Opening
            });
        }
        self.take_parts(writer).await
    }

    /// One more connection, as soon as there is one to spare.
    async fn help(&self) -> Result<(), Problem> {
        let _ = self.stage.subscribe().wait_for(|stage| *stage != Stage::Opening).await;
        let Some(slot) = self.spare().await else { return Ok(()) };
        let Some(range) = self.first_part().await? else { return Ok(()) };
        let mut writer = Writer::start(&self.assembly);
        let done = self.fetch_parts(range, slot, &mut writer).await;
        self.end(done, writer).await
    }

    /// Waits for a connection to spare; `None` where there is nothing left to do with it.
    async fn spare(&self) -> Option<SemaphorePermit<'_>> {
        let mut stage = self.stage.subscribe();
        tokio::select! {
            biased;
            _ = stage.wait_for(|stage| *stage == Stage::Ending) => None,
            slot = self.client.slot() => Some(slot),
        }
    }

    /// Returns a part of a blob that is cut already, or cuts it.
    async fn first_part(&self) -> Result<Option<RangeStream>, Problem> {
        let _turn = self.cutting.lock().await;
        let part = self.plan().take();
        if let Some(part) = part {
            return self.range(part, Sharing::Own).map(Some);
        }
        // Another one may have asked while this one waited for its turn.
        if *self.stage.borrow() == Stage::Ending {
            return Ok(None);
        }
        for attempt in 0..SPLIT_ATTEMPTS {
            let Some(part) = self.plan().propose(1 << attempt) else { break };
            let mut range = self.range(part.clone(), Sharing::Own)?;
            // Nothing depends on this connection yet: whatever is wrong, the first one goes on alone.
            if range.open().await.is_err() || range.is_range_ignored() {
                self.stage.send_replace(Stage::Ending);
                break;
            }
            if self.plan().cut(&part) {
                return Ok(Some(range));
            }
        }
        Ok(None)
    }

    /// Fetches part after part. In between, blobs that wait for a connection come first.
    async fn fetch_parts(
        &self,
        mut range: RangeStream,
        mut slot: SemaphorePermit<'_>,
        writer: &mut Writer,
    ) -> Result<(), Problem> {
        while self.fetch_part(&mut range, writer).await? == Written::Yes {
            drop(slot);
            slot = match self.spare().await {
                Some(slot) => slot,
                None => break,
            };
            match self.next_part()? {
                Some(next) => range = next,
                None => break,
            }
        }
        Ok(())
    }

    /// Fetches the parts that nobody else does.
    async fn take_parts(&self, writer: &mut Writer) -> Result<(), Problem> {
        while let Some(mut range) = self.next_part()? {
            if self.fetch_part(&mut range, writer).await? == Written::No {
                break;
            }
        }
        Ok(())
    }

    fn next_part(&self) -> Result<Option<RangeStream>, Problem> {
        let part = self.plan().take();
        match part {
            Some(part) => self.range(part, Sharing::Own).map(Some),
            None => {
                self.stage.send_replace(Stage::Ending);
                Ok(None)
            }
        }
    }

    async fn fetch_part(&self, range: &mut RangeStream, writer: &mut Writer) -> Result<Written, Problem> {
        loop {
            let offset = range.offset();
            let Some(chunk) = range.next().await? else { return Ok(Written::Yes) };
            if range.is_range_ignored() {
                self.plan().stop_cutting();
            }
            if writer.send(offset, chunk).await.is_err() {
                return Ok(Written::No);
            }
        }
    }

    /// Waits for the writer. It knows best why it takes no more bytes.
    async fn end(&self, done: Result<(), Problem>, writer: Writer) -> Result<(), Problem> {
        done?;
        self.sunk(writer.finish().await)
    }

    fn sunk<T>(&self, written: io::Result<T>) -> Result<T, Problem> {
        written.map_err(|source| Problem::Sink { what: self.what(), source })
    }

    fn range(&self, range: Range<u64>, sharing: Sharing) -> Result<RangeStream, Problem> {
        self.client.range_stream(self.reference, self.digest, self.size, range, sharing)
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn what(&self) -> String {
        format!("layer {}", self.digest)
    }
}

/// Whether the writer took the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Yes,
    No,
}

/// Writes what one connection receives, on a thread that may block.
struct Writer {
    pieces: mpsc::Sender<Piece>,
    collected: Piece,
    writing: JoinHandle<io::Result<()>>,
}

/// Bytes that follow each other.
#[derive(Default)]
struct Piece {
    offset: u64,
    length: usize,
    chunks: Vec<Bytes>,
}

/// The writer takes nothing more: it has failed.
struct Closed;

impl Writer {
    fn start(assembly: &Arc<Assembly>) -> Self {
        let (pieces, receiver) = mpsc::channel(AHEAD);
        let assembly = Arc::clone(assembly);
        let writing = tokio::task::spawn_blocking(move || drain(receiver, &assembly));
        Self { pieces, collected: Piece::default(), writing }
    }

    async fn send(&mut self, offset: u64, chunk: Bytes) -> Result<(), Closed> {
        if self.collected.offset + self.collected.length as u64 != offset {
            self.flush().await?;
            self.collected.offset = offset;
        }
        self.collected.length += chunk.len();
        self.collected.chunks.push(chunk);
        if self.collected.length >= PIECE { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Closed> {
        let piece = std::mem::take(&mut self.collected);
        self.collected.offset = piece.offset + piece.length as u64;
        if piece.length == 0 {
            return Ok(());
        }
        self.pieces.send(piece).await.map_err(|_| Closed)
    }

    async fn finish(mut self) -> io::Result<()> {
        // A writer that has failed says why below.
        let _ = self.flush().await;
        drop(self.pieces);
        self.writing.await.map_err(io::Error::other)?
    }
}

fn drain(mut pieces: mpsc::Receiver<Piece>, assembly: &Assembly) -> io::Result<()> {
    while let Some(piece) = pieces.blocking_recv() {
        assembly.write(piece.offset, &piece.chunks)?;
    }
    Ok(())
}
