//! Where the bytes of a file come from. A handle or bytes, never a path.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};

/// The bytes of one regular file.
pub enum Content {
    /// There are none: everything but regular files, and empty files.
    None,
    /// Bytes in memory.
    Bytes(Vec<u8>),
    /// A file that is opened when its turn comes, so that a layer of many files needs few handles.
    Open(Opener),
    /// Bytes that are produced while they are read, such as a member of another archive.
    Stream(Box<dyn Read + Send>),
}

/// Opens a file beneath a handle that the closure owns.
pub type Opener = Box<dyn FnOnce() -> io::Result<File> + Send>;

impl Content {
    /// Wraps a closure.
    pub fn open_with(open: impl FnOnce() -> io::Result<File> + Send + 'static) -> Self {
        Self::Open(Box::new(open))
    }

    /// Opens the source for reading.
    ///
    /// # Errors
    /// Whatever the closure of [`Content::Open`] returns.
    pub fn open(self) -> io::Result<ContentReader> {
        Ok(match self {
            Self::None => ContentReader::Bytes(io::Cursor::new(Vec::new())),
            Self::Bytes(bytes) => ContentReader::Bytes(io::Cursor::new(bytes)),
            Self::Open(open) => ContentReader::File(open()?),
            Self::Stream(reader) => ContentReader::Stream(reader),
        })
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Open(_) => f.write_str("Open"),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// An open source.
pub enum ContentReader {
    /// Bytes in memory.
    Bytes(io::Cursor<Vec<u8>>),
    /// A file.
    File(File),
    /// Produced while read.
    Stream(Box<dyn Read + Send>),
}

impl ContentReader {
    /// Returns whether nothing follows what has been read.
    ///
    /// # Errors
    /// Whatever reading returns.
    pub fn is_at_end(&mut self) -> io::Result<bool> {
        loop {
            match self.read(&mut [0]) {
                Ok(read) => return Ok(read == 0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Read for ContentReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Bytes(cursor) => cursor.read(out),
            Self::File(file) => file.read(out),
            Self::Stream(reader) => reader.read(out),
        }
    }
}
