//! A writer that compresses on several threads with bounded memory and the same bytes for any thread count.
//!
//! The input is cut into chunks ([`super::cut`]) and each becomes gzip members or a zstd frame of its own; threads
//! take chunks as they come, one thread writes the results in order. Threads are started by the second chunk,
//! so a small layer costs none.
//!
//! A chunk that the caller has a name for may have been compressed before; then the caller may have the result.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use super::Encoding;
use super::cut::Cutter;
use super::gzip::Gzip;

/// Compresses what is written to it into `W`.
pub struct Encoder<W> {
    encoding: Encoding,
    threads: usize,
    chunk: Vec<u8>,
    chunk_size: usize,
    cutter: Option<Cutter>,
    known: Option<Known>,
    state: State<W>,
}

/// What a chunk consists of: equal names mean equal bytes. It says nothing of the encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkName(pub [u8; 32]);

/// Returns a chunk as the same encoding has compressed it before, if that is at hand.
pub type Known = Arc<dyn Fn(&ChunkName) -> Option<Vec<u8>> + Send + Sync>;

/// A chunk in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// What it consists of.
    pub name: ChunkName,
    /// Where it starts in the output.
    pub offset: u64,
    /// How long it is there.
    pub length: u32,
    /// blake3 of its bytes there.
    pub hash: [u8; 32],
}

enum State<W> {
    Idle(W),
    Running(Pipeline<W>),
    /// A thread has failed; its error has been reported.
    Failed,
}

struct Pipeline<W> {
    jobs: SyncSender<Job>,
    order: SyncSender<Receiver<io::Result<Chunk>>>,
    spare: Receiver<Vec<u8>>,
    writer: JoinHandle<io::Result<Output<W>>>,
}

/// The output and its named chunks.
struct Output<W> {
    output: W,
    size: u64,
    pieces: Vec<Piece>,
}

struct Job {
    raw: Vec<u8>,
    name: Option<ChunkName>,
    done: SyncSender<io::Result<Chunk>>,
}

/// A compressed chunk with the buffer it came from, for reuse.
struct Chunk {
    compressed: Vec<u8>,
    raw: Option<Vec<u8>>,
    /// Its name and the hash of what is compressed.
    named: Option<(ChunkName, [u8; 32])>,
}

/// Bytes that are taken in at once: what is behind the end of a chunk is moved to the next one.
const INTAKE: usize = 256 << 10;

/// More threads gain nothing: hashing the tar is serial and as fast as eight of them.
const MOST_THREADS: usize = 8;

impl<W: Write + Send + 'static> Encoder<W> {
    /// Compresses into `output` with as many threads as the machine has cores, eight at most.
    pub fn new(output: W, encoding: Encoding) -> Self {
        // Asked for once: the answer is read from the control groups' files.
        static CORES: OnceLock<usize> = OnceLock::new();
        let cores = CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from));
        Self::with_threads(output, encoding, *cores)
    }

    /// Compresses into `output` with `threads` threads; the bytes do not depend on the number.
    pub fn with_threads(output: W, encoding: Encoding, threads: usize) -> Self {
        let chunk_size = match encoding {
            Encoding::None | Encoding::Gzip(_) => 1 << 20,
            Encoding::Zstd(_) => 2 << 20,
        };
        let threads = threads.clamp(1, MOST_THREADS);
        Self {
            encoding,
            threads,
            chunk: Vec::with_capacity(chunk_size),
            chunk_size,
            cutter: match encoding {
                Encoding::None => None,
                Encoding::Gzip(_) | Encoding::Zstd(_) => Some(Cutter::default()),
            },
            known: None,
            state: State::Idle(output),
        }
    }

    /// Asks `known` for chunks that have names before they are compressed. To be called before anything is written.
    #[must_use]
    pub fn knowing(self, known: Known) -> Self {
        Self { known: Some(known), ..self }
    }

    /// Compresses what is left and returns the output.
    ///
    /// # Errors
    /// What compressing or writing gave.
    pub fn finish(self) -> io::Result<W> {
        self.finish_named(None).map(|(output, _)| output)
    }

    /// Compresses what is left, a chunk of this name, and returns the output with the places of named chunks.
    ///
    /// # Errors
    /// What compressing or writing gave.
    pub fn finish_named(mut self, name: Option<ChunkName>) -> io::Result<(W, Vec<Piece>)> {
        let raw = std::mem::take(&mut self.chunk);
        let output = match std::mem::replace(&mut self.state, State::Failed) {
            State::Idle(output) => {
                let chunk = Worker::new(self.encoding, self.known)?.chunk(raw, name)?;
                let mut output = Output { output, size: 0, pieces: Vec::new() };
                output.write(&chunk)?;
                output
            }
            State::Running(mut pipeline) => {
                if !raw.is_empty() && pipeline.submit(raw, name).is_err() {
                    return Err(pipeline.failure());
                }
                pipeline.finish()?
            }
            State::Failed => return Err(io::Error::other("the output failed before")),
        };
        Ok((output.output, output.pieces))
    }

    /// Returns the buffer that is filled next and how many bytes may be appended, for callers that read into it directly.
    /// What is appended counts as written; it has to be cut as [`Encoder::end`] says.
    pub fn space(&mut self) -> (&mut Vec<u8>, usize) {
        let room = (self.chunk_size - self.chunk.len()).min(INTAKE);
        (&mut self.chunk, room)
    }

    /// Returns where the chunk in the buffer ends, if it does: [`Encoder::cut`] has to follow, and this again.
    pub fn end(&mut self) -> Option<usize> {
        match &mut self.cutter {
            Some(cutter) => cutter.find(&self.chunk, self.chunk_size),
            None => (self.chunk.len() == self.chunk_size).then_some(self.chunk_size),
        }
    }

    /// Hands the chunk, the first `end` bytes of the buffer, on.
    ///
    /// # Errors
    /// What compressing or writing an earlier chunk gave.
    pub fn cut(&mut self, end: usize, name: Option<ChunkName>) -> io::Result<()> {
        if matches!(self.state, State::Idle(_)) {
            let State::Idle(output) = std::mem::replace(&mut self.state, State::Failed) else {
                return Err(io::Error::other("the output failed before"));
            };
            self.state = State::Running(start(output, self.encoding, self.threads, self.known.as_ref())?);
        }
        let State::Running(pipeline) = &mut self.state else {
            return Err(io::Error::other("the output failed before"));
        };
        let mut next = pipeline.spare.try_recv().unwrap_or_else(|_| Vec::with_capacity(self.chunk_size));
        next.extend_from_slice(&self.chunk[end..]);
        let mut full = std::mem::replace(&mut self.chunk, next);
        full.truncate(end);
        if pipeline.submit(full, name).is_err() {
            let State::Running(pipeline) = std::mem::replace(&mut self.state, State::Failed) else {
                return Err(io::Error::other("the output failed before"));
            };
            return Err(pipeline.failure());
        }
        Ok(())
    }
}

impl<W: Write + Send + 'static> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (chunk, room) = self.space();
        let count = bytes.len().min(room);
        chunk.extend_from_slice(&bytes[..count]);
        while let Some(end) = self.end() {
            self.cut(end, None)?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W> Pipeline<W> {
    /// Queues a chunk; blocks while the threads are busy. The error is the writer's and found in its result.
    fn submit(&mut self, raw: Vec<u8>, name: Option<ChunkName>) -> Result<(), ()> {
        let (done, result) = sync_channel(1);
        self.order.send(result).map_err(drop)?;
        self.jobs.send(Job { raw, name, done }).map_err(drop)
    }

    fn finish(self) -> io::Result<Output<W>> {
        let Self { jobs, order, spare, writer } = self;
        drop((jobs, order, spare));
        writer.join().unwrap_or_else(|_| Err(io::Error::other("a compressing thread panicked")))
    }

    fn failure(self) -> io::Error {
        self.finish().err().unwrap_or_else(|| io::Error::other("compressing stopped early"))
    }
}

impl<W: Write> Output<W> {
    fn write(&mut self, chunk: &Chunk) -> io::Result<()> {
        self.output.write_all(&chunk.compressed)?;
        let length = u32::try_from(chunk.compressed.len()).expect("a chunk is small");
        let offset = self.size;
        self.pieces.extend(chunk.named.map(|(name, hash)| Piece { name, offset, length, hash }));
        self.size += u64::from(length);
        Ok(())
    }
}

/// Starts the threads. Memory is bounded by the queues: each thread holds a chunk and its result, and
/// `threads + 1` results wait to be written.
fn start<W: Write + Send + 'static>(
    output: W,
    encoding: Encoding,
    threads: usize,
    known: Option<&Known>,
) -> io::Result<Pipeline<W>> {
    let (jobs, work) = sync_channel::<Job>(1);
    let (order, results) = sync_channel::<Receiver<io::Result<Chunk>>>(threads + 1);
    let (recycle, spare) = sync_channel(2);
    let work = Arc::new(Mutex::new(work));
    for _ in 0..threads {
        let (work, mut worker) = (Arc::clone(&work), Worker::new(encoding, known.cloned())?);
        spawn("compress", move || {
            loop {
                let Ok(job) = work.lock().map_err(drop).and_then(|work| work.recv().map_err(drop)) else {
                    return;
                };
                // The receiver is gone only after an error that is reported elsewhere.
                let _ = job.done.send(worker.chunk(job.raw, job.name));
            }
        })?;
    }
    let output = Output { output, size: 0, pieces: Vec::new() };
    let writer = spawn("write layer", move || write_in_order(output, &results, &recycle))?;
    Ok(Pipeline { jobs, order, spare, writer })
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

fn write_in_order<W: Write>(
    mut output: Output<W>,
    results: &Receiver<Receiver<io::Result<Chunk>>>,
    recycle: &SyncSender<Vec<u8>>,
) -> io::Result<Output<W>> {
    for result in results {
        let chunk = result.recv().map_err(|_| io::Error::other("a compressing thread panicked"))??;
        output.write(&chunk)?;
        let mut raw = chunk.raw.unwrap_or(chunk.compressed);
        raw.clear();
        // Full when there are spare buffers enough.
        let _ = recycle.try_send(raw);
    }
    Ok(output)
}

/// One thread's compressor.
struct Worker {
    compressor: Compressor,
    known: Option<Known>,
}

enum Compressor {
    None,
    Gzip(Gzip),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Worker {
    fn new(encoding: Encoding, known: Option<Known>) -> io::Result<Self> {
        let compressor = match encoding {
            Encoding::None => Compressor::None,
            Encoding::Gzip(level) => Compressor::Gzip(Gzip::new(level)?),
            Encoding::Zstd(level) => {
                let mut compressor = zstd::bulk::Compressor::new(level.into())?;
                compressor.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true))?;
                Compressor::Zstd(compressor)
            }
        };
        Ok(Self { compressor, known })
    }

    fn chunk(&mut self, raw: Vec<u8>, name: Option<ChunkName>) -> io::Result<Chunk> {
        let known = name.zip(self.known.as_ref()).and_then(|(name, known)| known(&name));
        let (compressed, raw) = match (known, &mut self.compressor) {
            (Some(compressed), _) => (compressed, Some(raw)),
            (None, Compressor::None) => (raw, None),
            (None, Compressor::Gzip(gzip)) => (gzip.compress(&raw)?, Some(raw)),
            (None, Compressor::Zstd(compressor)) => (compressor.compress(&raw)?, Some(raw)),
        };
        let named = name.map(|name| (name, blake3::hash(&compressed).into()));
        Ok(Chunk { compressed, raw, named })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::compress::Decoder;

    /// Text, zeros and noise in turn.
    fn data(size: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        let byte = |at: usize| match at >> 19 & 3 {
            0 => b"some text that repeats itself, "[at % 31],
            1 => 0,
            _ => random(),
        };
        (0..size).map(byte).collect()
    }

    fn encode(data: &[u8], encoding: Encoding, threads: usize) -> Vec<u8> {
        let mut encoder = Encoder::with_threads(Vec::new(), encoding, threads);
        for piece in data.chunks(100_001) {
            encoder.write_all(piece).unwrap();
        }
        encoder.finish().unwrap()
    }

    #[test]
    fn output_is_readable_and_independent_of_threads() {
        for encoding in [Encoding::None, Encoding::GZIP, Encoding::Gzip(9), Encoding::ZSTD] {
            for size in [0, 1, 1 << 20, (1 << 20) + 1, 7_000_000] {
                let data = data(size);
                let one = encode(&data, encoding, 1);
                for threads in [2, 3, 8] {
                    assert_eq!(encode(&data, encoding, threads), one, "{encoding} {size} {threads}");
                }
                let (mut decoder, _) = Decoder::new(&one[..]).unwrap();
                let mut back = Vec::new();
                decoder.read_to_end(&mut back).unwrap();
                assert!(back == data, "{encoding} {size}");
            }
        }
    }

    #[test]
    fn gzip_bytes_known_answer() {
        // A fixed header (no name, no time): RFC 1952, 2.3. Another encoder version changes the identity.
        let bytes = encode(b"xbuild", Encoding::GZIP, 1);
        assert_eq!(bytes[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
    }

    /// Fails after some bytes.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 < bytes.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0 -= bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_reported_as_such() {
        for room in [0, 3 << 20] {
            let mut encoder = Encoder::with_threads(Full(room), Encoding::GZIP, 2);
            let written = (0..20).try_for_each(|_| encoder.write_all(&data(4 << 20)[1 << 20..]));
            let result = written.and_then(|()| encoder.finish().map(drop));
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
        }
    }
}
