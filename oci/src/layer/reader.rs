//! A layer tar to its members and their bytes, strictly: what is malformed is an error, never skipped.
//!
//! It keeps no tree: later members may replace earlier ones, and what a member means on top of other layers is
//! decided by [`super::tree`].

use std::io::{self, Read};
use std::path::Path;

use tar_core::parse::{Limits as ParserLimits, ParseError, ParseEvent, Parser};
use tar_core::{HEADER_SIZE, SparseEntry};

use super::fields::Refusal;
use super::header::{self, Member, Warning};

/// What an archive may cost. The defaults are those of the limits table in the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Members.
    pub entries: u64,
    /// Bytes of file content, holes included.
    pub bytes: u64,
    /// Bytes of names, link targets and attributes, and 200 for each member: what an index holds in memory.
    pub metadata: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 10_000_000, bytes: 64 << 30, metadata: 512 << 20 }
    }
}

/// Which limit an archive exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// [`Limits::entries`].
    Entries(u64),
    /// [`Limits::bytes`].
    Bytes(u64),
    /// [`Limits::metadata`].
    Metadata(u64),
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Entries(limit) => write!(f, "{limit} entries"),
            Self::Bytes(limit) => write!(f, "{limit} bytes of files"),
            Self::Metadata(limit) => write!(f, "{limit} bytes of names and attributes"),
        }
    }
}

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The bytes could not be had.
    #[error("read archive")]
    Io(#[from] io::Error),
    /// The archive stops in the middle, or without the two zero blocks that end it.
    #[error("archive is cut off at byte {at}")]
    CutOff {
        /// Where.
        at: u64,
    },
    /// Something stands behind the end.
    #[error("archive has data behind its end")]
    Trailing,
    /// A member is malformed or means something dangerous.
    #[error("archive member {path:?} at byte {at} is refused: {what}")]
    Refused {
        /// Its name as far as it is known.
        path: String,
        /// Where its header starts.
        at: u64,
        /// Why.
        what: String,
    },
    /// The archive is larger than allowed.
    #[error("archive exceeds the limit of {0}")]
    Limit(Limit),
}

/// Reads members one after another; between two of them, reads the content of the last one.
pub struct Reader<R> {
    input: R,
    parser: Parser,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    position: u64,
    content: Content,
    limits: Limits,
    used: Limits,
    warnings: Vec<Warning>,
    done: bool,
}

/// What is left of the current member's content.
#[derive(Default)]
struct Content {
    stored: u64,
    padding: usize,
    /// The bytes that a reader still sees; more than `stored` where there are holes.
    left: u64,
    sparse: Vec<SparseEntry>,
    next_chunk: usize,
    size: u64,
}

const BUFFER: usize = 64 * 1024;

impl<R: Read> Reader<R> {
    /// Reads the uncompressed archive `input`.
    pub fn new(input: R, limits: Limits) -> Self {
        let mut parser = Parser::new(ParserLimits { max_sparse_entries: 20_000, ..ParserLimits::default() });
        parser.set_allow_empty_path(false);
        // Numbers are checked by header.rs, which also knows negative and fractional times.
        parser.set_ignore_pax_errors(true);
        Self {
            input,
            parser,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            position: 0,
            content: Content::default(),
            limits,
            used: Limits { entries: 0, bytes: 0, metadata: 0 },
            warnings: Vec::new(),
            done: false,
        }
    }

    /// Returns the next member, having skipped what is left of the content before; `None` at the end. After
    /// the end the input has been read to its own end, so that a hash over it is complete.
    ///
    /// # Errors
    /// [`TarError`].
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        self.skip_content()?;
        while !self.done {
            if self.at_end()? {
                self.done = true;
                self.check_rest()?;
                break;
            }
            if let Some(member) = self.parse()? {
                return Ok(Some(member));
            }
            self.skip_content()?;
        }
        Ok(None)
    }

    /// Returns how many bytes of the current member's content are still to be read.
    pub const fn content_left(&self) -> u64 {
        self.content.left
    }

    /// Takes what was left out so far.
    pub fn take_warnings(&mut self) -> Vec<Warning> {
        std::mem::take(&mut self.warnings)
    }

    /// Returns the input after it has been read.
    pub fn into_input(self) -> R {
        self.input
    }

    fn parse(&mut self) -> Result<Option<Member>, TarError> {
        loop {
            let event = self.parser.parse(&self.buffer[self.start..self.end]);
            let at = self.position;
            match event {
                Err(error) => return Err(refused(at, self.name_here(), ParseError::to_string(&error))),
                Ok(ParseEvent::NeedData { min_bytes }) => self.fill(min_bytes)?,
                Ok(ParseEvent::End { .. }) => return Err(TarError::Trailing),
                Ok(ParseEvent::GlobalExtensions { consumed, pax_data }) => {
                    // A global header between an extension and its member would drop the extension.
                    let alone = self.buffer[self.start + 156] == b'g';
                    let checked = if alone {
                        header::check_global(pax_data)
                    } else {
                        Err(Refusal("a global header stands between an extension and its member".into()))
                    };
                    checked.map_err(|refusal| refused(at, String::new(), refusal.0))?;
                    self.consume(consumed);
                    return Ok(None);
                }
                Ok(ParseEvent::Entry { consumed, entry }) => {
                    let blocks = &self.buffer[self.start..self.start + consumed];
                    let member = header::check_chain(blocks, &entry)
                        .and_then(|()| header::member(&entry, None, &mut self.warnings))
                        .map_err(|refusal| refused(at, lossy(&entry.path), refusal.0))?;
                    self.content = Content::plain(entry.size);
                    self.consume(consumed);
                    return self.account(member);
                }
                Ok(ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size }) => {
                    let blocks = &self.buffer[self.start..self.start + consumed];
                    let content = Content::sparse(entry.size, sparse_map, real_size);
                    let member = header::check_chain(blocks, &entry)
                        .and_then(|()| header::member(&entry, Some(real_size), &mut self.warnings))
                        .and_then(|member| Ok((member, content?)));
                    let (member, content) =
                        member.map_err(|refusal| refused(at, lossy(&entry.path), refusal.0))?;
                    self.content = content;
                    self.consume(consumed);
                    return self.account(member);
                }
            }
        }
    }

    /// Counts a member against the limits.
    fn account(&mut self, member: Option<Member>) -> Result<Option<Member>, TarError> {
        let Limits { entries, bytes, metadata } = self.limits;
        self.used.entries += 1;
        self.used.bytes = self.used.bytes.saturating_add(self.content.size);
        self.used.metadata += member.as_ref().map_or(0, metadata_size);
        if self.used.entries > entries {
            return Err(TarError::Limit(Limit::Entries(entries)));
        }
        if self.used.bytes > bytes {
            return Err(TarError::Limit(Limit::Bytes(bytes)));
        }
        if self.used.metadata > metadata {
            return Err(TarError::Limit(Limit::Metadata(metadata)));
        }
        Ok(member)
    }

    /// Whether two zero blocks follow; one alone is refused, because readers differ on what it means.
    fn at_end(&mut self) -> Result<bool, TarError> {
        self.fill(HEADER_SIZE)?;
        if !is_zero(&self.buffer[self.start..self.start + HEADER_SIZE]) {
            return Ok(false);
        }
        self.fill(2 * HEADER_SIZE)?;
        if !is_zero(&self.buffer[self.start..self.start + 2 * HEADER_SIZE]) {
            return Err(refused(self.position, String::new(), "a zero block stands in front of it".into()));
        }
        Ok(true)
    }

    /// Reads the input to its end: archives are padded with zeros to a record, and nothing else may follow.
    fn check_rest(&mut self) -> Result<(), TarError> {
        loop {
            if !is_zero(&self.buffer[self.start..self.end]) {
                return Err(TarError::Trailing);
            }
            self.consume(self.end - self.start);
            if self.read_more()? == 0 {
                return Ok(());
            }
        }
    }

    fn skip_content(&mut self) -> Result<(), TarError> {
        let mut left = self.content.stored + self.content.padding as u64;
        self.content = Content::default();
        while left > 0 {
            if self.start == self.end {
                self.fill(1)?;
            }
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.end - self.start);
            self.consume(here);
            left -= here as u64;
        }
        Ok(())
    }

    /// Makes at least `count` bytes available.
    fn fill(&mut self, count: usize) -> Result<(), TarError> {
        while self.end - self.start < count {
            if self.buffer.len() - self.start < count {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
                if self.buffer.len() < count {
                    self.buffer.resize(count.next_multiple_of(BUFFER), 0);
                }
            }
            if self.read_more()? == 0 {
                return Err(TarError::CutOff { at: self.position + (self.end - self.start) as u64 });
            }
        }
        Ok(())
    }

    fn read_more(&mut self) -> Result<usize, TarError> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        let read = retry(|| self.input.read(&mut self.buffer[self.end..]))?;
        self.end += read;
        Ok(read)
    }

    const fn consume(&mut self, count: usize) {
        self.start += count;
        self.position += count as u64;
    }

    fn name_here(&self) -> String {
        let header = &self.buffer[self.start..self.end];
        let name = header.get(..100).unwrap_or_default();
        lossy(name.split(|byte| *byte == 0).next().unwrap_or_default())
    }

    /// Reads stored bytes, from the buffer first, large pieces straight from the input.
    fn read_stored(&mut self, out: &mut [u8]) -> Result<usize, TarError> {
        if self.start == self.end && out.len() >= BUFFER {
            let read = retry(|| self.input.read(out))?;
            self.position += read as u64;
            return if read == 0 { Err(TarError::CutOff { at: self.position }) } else { Ok(read) };
        }
        if self.start == self.end {
            self.fill(1)?;
        }
        let here = out.len().min(self.end - self.start);
        out[..here].copy_from_slice(&self.buffer[self.start..self.start + here]);
        self.consume(here);
        Ok(here)
    }
}

/// Reads the current member's content, holes as zeros. Errors are [`TarError`] inside an [`io::Error`].
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let (stored, count) = self.content.next();
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(out.len());
        if count == 0 {
            return Ok(0);
        }
        let read = if stored {
            let read = self.read_stored(&mut out[..count]).map_err(io::Error::other)?;
            self.content.stored -= read as u64;
            read
        } else {
            out[..count].fill(0);
            count
        };
        self.content.left -= read as u64;
        Ok(read)
    }
}

impl Content {
    const fn plain(size: u64) -> Self {
        let padding = super::writer::padding(size);
        Self { stored: size, padding, left: size, sparse: Vec::new(), next_chunk: 0, size }
    }

    /// Checks the map: in order, without overlap, inside the file, and as long as what is stored.
    fn sparse(stored: u64, map: Vec<SparseEntry>, size: u64) -> Result<Self, Refusal> {
        let mut end = 0_u64;
        let mut sum = 0_u64;
        for chunk in &map {
            let after = chunk.offset.checked_add(chunk.length).filter(|after| *after <= size);
            let Some(after) = after.filter(|_| chunk.offset >= end) else {
                return Err(Refusal("its sparse map is out of order or beyond its size".into()));
            };
            end = after;
            sum += chunk.length;
        }
        if sum != stored {
            return Err(Refusal("its sparse map does not fit what is stored".into()));
        }
        let sparse = map.into_iter().filter(|chunk| chunk.length > 0).collect::<Vec<_>>();
        // An empty map would read as a plain file: one chunk of nothing at the end keeps the hole.
        let sparse = if sparse.is_empty() { vec![SparseEntry { offset: size, length: 0 }] } else { sparse };
        let padding = super::writer::padding(stored);
        Ok(Self { stored, padding, left: size, sparse, next_chunk: 0, size })
    }

    /// Returns whether the next bytes are stored (or a hole) and how many of them follow.
    fn next(&mut self) -> (bool, u64) {
        if self.sparse.is_empty() {
            return (true, self.left);
        }
        let at = self.size - self.left;
        while let Some(chunk) = self.sparse.get(self.next_chunk) {
            if at < chunk.offset {
                return (false, chunk.offset - at);
            }
            let end = chunk.offset + chunk.length;
            if at < end {
                return (true, end - at);
            }
            self.next_chunk += 1;
        }
        (false, self.left)
    }
}

fn metadata_size(member: &Member) -> u64 {
    let path = |path: &Path| path.as_os_str().len() as u64;
    200 + match member {
        Member::Opaque(directory) => path(directory),
        Member::Object(entry) => {
            let xattrs: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
            let target = match &entry.kind {
                super::Kind::Symlink { target } | super::Kind::HardLink { target } => path(target),
                super::Kind::File { .. }
                | super::Kind::Directory { .. }
                | super::Kind::CharDevice(_)
                | super::Kind::BlockDevice(_)
                | super::Kind::Fifo
                | super::Kind::Whiteout => 0,
            };
            path(&entry.path) + target + xattrs as u64
        }
    }
}

fn refused(at: u64, path: String, what: String) -> TarError {
    TarError::Refused { path, at, what }
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn retry(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
