//! Writing and reading blobs: hashed on the way in, verified on the way out.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use bytes::Bytes;

use super::Layout;
use crate::digest::{Algorithm, Hasher};
use crate::document::{self, Root};
use crate::error::{Error, Result, expectation};
use crate::lock::TemporaryFile;
use crate::store::Journal;
use crate::{Descriptor, Digest, Document};

/// Bytes that are copied at once.
const COPIED: usize = 128 << 10;

/// A blob that is being written. Dropping it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    layout: Layout,
    temporary: TemporaryFile,
    hasher: Hasher,
    size: u64,
}

/// The identity of a blob that has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The digest of its bytes.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
}

impl Written {
    /// Returns the blob's descriptor under `media_type`.
    pub fn descriptor(&self, media_type: &str) -> Descriptor {
        document::descriptor(media_type, self.digest, self.size)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.temporary.file.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temporary.file.flush()
    }
}

impl BlobWriter {
    /// Returns how many bytes have been written.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Puts the blob in its place.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(self) -> Result<Written> {
        let written = Written { digest: self.hasher.finish(), size: self.size };
        self.layout.place(self.temporary, written)
    }

    /// Puts the blob in its place if its bytes are those that `digest` and `size` promise. Otherwise nothing is
    /// kept.
    ///
    /// # Errors
    /// [`Error::Damaged`] where they differ.
    pub fn finish_expecting(self, digest: &Digest, size: u64) -> Result<Written> {
        let damaged =
            |what| Err(Error::Damaged { digest: *digest, path: self.layout.blob_path(digest), what });
        if self.size != size {
            return damaged(format!("{} bytes were received, {size} were promised", self.size));
        }
        let found = self.digest_by(digest.algorithm())?;
        if found != *digest {
            return damaged(format!("the bytes received have the digest {found}"));
        }
        let written = Written { digest: found, size };
        self.layout.place(self.temporary, written)
    }

    /// Returns the digest of what was written. A writer that was opened for another algorithm reads it again.
    /// Nothing more may be written afterwards.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn digest_by(&self, algorithm: Algorithm) -> Result<Digest> {
        if self.hasher.algorithm() == algorithm {
            return Ok(self.hasher.clone().finish());
        }
        let mut file = &self.temporary.file;
        let read = file.seek(SeekFrom::Start(0)).and_then(|_| Digest::of_reader(file, algorithm));
        read.map(|(digest, _)| digest).map_err(Error::io("read", &self.layout.blobs()))
    }
}

/// A blob that somebody else writes and verifies. Dropping it leaves nothing.
#[derive(Debug)]
pub struct Incoming {
    layout: Layout,
    temporary: TemporaryFile,
}

impl Incoming {
    /// Returns the file, which is empty, for writing at any position.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn file(&self) -> Result<File> {
        self.temporary.file.try_clone().map_err(Error::io("open again", &self.layout.blobs()))
    }

    /// Puts the blob in its place. The caller has verified that its bytes have this digest.
    ///
    /// # Errors
    /// [`Error::Damaged`] where the size is another one, [`Error::Io`].
    pub fn finish_verified(self, digest: &Digest, size: u64) -> Result<Written> {
        let path = self.layout.blob_path(digest);
        let found = self.temporary.file.metadata().map_err(Error::io("stat", &path))?.size();
        if found != size {
            let what = format!("{found} bytes were written, {size} were promised");
            return Err(Error::Damaged { digest: *digest, path, what });
        }
        self.layout.place(self.temporary, Written { digest: *digest, size })
    }
}

/// A reader that fails at the end where the bytes were not those of its descriptor.
#[derive(Debug)]
pub struct VerifiedReader<R> {
    inner: R,
    hasher: Hasher,
    left: u64,
    digest: Digest,
}

impl<R: Read> VerifiedReader<R> {
    /// Wraps `inner`, whose bytes shall have `digest` and `size`.
    pub fn new(inner: R, digest: Digest, size: u64) -> Self {
        Self { inner, hasher: digest.algorithm().hasher(), left: size, digest }
    }

    fn check_end(&mut self) -> io::Result<usize> {
        let wrong = |what: String| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        let digest = self.digest;
        if self.left > 0 {
            return wrong(format!("blob {digest} is {} bytes short", self.left));
        }
        let found = self.hasher.clone().finish();
        if found != digest {
            return wrong(format!("blob {digest} is damaged: its bytes have the digest {found}"));
        }
        Ok(0)
    }
}

impl<R: Read> Read for VerifiedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let read = self.inner.read(buffer)?;
        if read == 0 {
            return self.check_end();
        }
        let Some(left) = self.left.checked_sub(read as u64) else {
            let what = format!("blob {} is longer than its descriptor says", self.digest);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        };
        self.left = left;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

impl Layout {
    /// Starts a blob of our own, whose digest will be sha256.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn writer(&self) -> Result<BlobWriter> {
        self.writer_by(Algorithm::Sha256)
    }

    /// Starts a blob whose digest is of `algorithm`.
    ///
    /// # Errors
    /// As [`Self::writer`].
    pub fn writer_by(&self, algorithm: Algorithm) -> Result<BlobWriter> {
        let temporary = TemporaryFile::create(&self.blobs())?;
        Ok(BlobWriter { layout: self.clone(), temporary, hasher: algorithm.hasher(), size: 0 })
    }

    /// Starts a blob that somebody else writes and verifies.
    ///
    /// # Errors
    /// As [`Self::writer`].
    pub fn incoming(&self) -> Result<Incoming> {
        let temporary = TemporaryFile::create(&self.blobs())?;
        Ok(Incoming { layout: self.clone(), temporary })
    }

    /// Stores `bytes` under their sha256 digest; the same ones that are there already are not written again, a damaged
    /// blob is replaced (CACHE-05).
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        self.put_by(Algorithm::Sha256, bytes)
    }

    /// Stores a document under its digest, which may be one that others chose.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn put_document<T>(&self, document: &Document<T>) -> Result<Digest> {
        self.put_by(document.digest.algorithm(), &document.raw)
    }

    fn put_by(&self, algorithm: Algorithm, bytes: &[u8]) -> Result<Digest> {
        let digest = algorithm.digest(bytes);
        if self.size(&digest)? == Some(bytes.len() as u64) && self.holds(&digest, bytes)? {
            return Ok(digest);
        }
        let mut writer = self.writer_by(algorithm)?;
        writer.write_all(bytes).map_err(Error::io("write", &self.blob_path(&digest)))?;
        Ok(writer.finish()?.digest)
    }

    /// Whether the blob is there and consists of `bytes`. One that cannot be read does not hold them.
    fn holds(&self, digest: &Digest, bytes: &[u8]) -> Result<bool> {
        let mut found = Vec::with_capacity(bytes.len());
        let file = match self.open_blob(digest) {
            Ok(file) => file,
            Err(Error::MissingBlob { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let read = file.take(bytes.len() as u64 + 1).read_to_end(&mut found);
        Ok(read.is_ok() && found == bytes)
    }

    /// Copies a blob of another layout, verified on the way. Errors name the side that they are about.
    ///
    /// # Errors
    /// [`Error::MissingBlob`] and [`Error::Damaged`] of `from`, [`Error::Io`], [`Error::NoSpace`].
    pub fn copy_from(&self, from: &Self, descriptor: &Descriptor) -> Result<()> {
        let (digest, size) = expectation(descriptor)?;
        let mut reader = from.open_verified(descriptor)?;
        // The reader hashes; once is enough.
        let incoming = self.incoming()?;
        let mut file = incoming.file()?;
        let mut buffer = vec![0; COPIED];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    file.write_all(&buffer[..read]).map_err(Error::io("write a blob in", &self.root))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(from.read_error(digest, error)),
            }
        }
        incoming.finish_verified(&digest, size).map(drop)
    }

    /// Reads a blob of at most `limit` bytes and verifies it.
    ///
    /// # Errors
    /// [`Error::MissingBlob`], [`Error::BlobTooLarge`], [`Error::Damaged`].
    pub fn read_verified(&self, descriptor: &Descriptor, limit: u64) -> Result<Bytes> {
        let (digest, size) = expectation(descriptor)?;
        if size > limit {
            return Err(Error::BlobTooLarge { digest, size, limit });
        }
        let mut bytes = Vec::new();
        let mut reader = self.open_verified(descriptor)?;
        reader.read_to_end(&mut bytes).map_err(|error| self.read_error(digest, error))?;
        Ok(bytes.into())
    }

    /// Opens a blob; the reader fails at the end where digest or size are wrong.
    ///
    /// # Errors
    /// [`Error::MissingBlob`], and [`Error::Damaged`] where the size is wrong already.
    pub fn open_verified(&self, descriptor: &Descriptor) -> Result<VerifiedReader<File>> {
        let (digest, size) = expectation(descriptor)?;
        let file = self.open_blob(&digest)?;
        let found = file.metadata().map_err(Error::io("stat", &self.blob_path(&digest)))?.size();
        if found != size {
            let what = format!("it has {found} bytes, its descriptor says {size}");
            return Err(Error::Damaged { digest, path: self.blob_path(&digest), what });
        }
        Ok(VerifiedReader::new(file, digest, size))
    }

    /// Opens a blob without verifying it, for readers that do so themselves.
    ///
    /// # Errors
    /// [`Error::MissingBlob`].
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        match self.open_file(&format!("blobs/{}", digest.path())) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(Error::MissingBlob { digest: *digest, layout: self.root.clone() })
            }
            other => other,
        }
    }

    /// Reads the manifest or index that `descriptor` stands for, verified.
    ///
    /// # Errors
    /// As [`Self::read_verified`], and [`Error::Document`].
    pub fn read_root(&self, descriptor: &Descriptor) -> Result<Root> {
        let raw = self.read_verified(descriptor, document::DOCUMENT_LIMIT)?;
        let root = Root::parse(raw, Some(descriptor.media_type().as_ref()))
            .map_err(|source| Error::document(format!("read {}", descriptor.digest()), source))?;
        Ok(root.digested_by(document::digest_of(descriptor)?.algorithm()))
    }

    /// Turns an error of a verified read into the error of this crate.
    pub fn read_error(&self, digest: Digest, error: io::Error) -> Error {
        let path: PathBuf = self.blob_path(&digest);
        if error.kind() == io::ErrorKind::InvalidData {
            return Error::Damaged { digest, path, what: error.to_string() };
        }
        Error::io("read", &path)(error)
    }

    fn place(&self, temporary: TemporaryFile, written: Written) -> Result<Written> {
        self.make_place(written.digest.algorithm())?;
        let put = || temporary.persist(&self.blob_path(&written.digest));
        match &self.journal {
            Some(journal) => journal.place(&Journal::blob(&written.digest), put)?,
            None => put()?,
        }
        Ok(written)
    }
}
