//! Reading blobs from registries in order: verified streams that survive broken connections. Stores nothing.

use bytes::Bytes;

use super::client::{Client, error};
use super::connections::Sharing;
use super::error::{Action, Error, Problem};
use super::range::RangeStream;
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
        let range = self.range_stream(reference, digest, size, 0..size, Sharing::Agreed)?;
        Ok(BlobStream { range, hasher: digest.algorithm().hasher(), complete: size == 0 })
    }
}

/// A blob on its way in. Every byte is hashed; the last chunk is given out only when size and digest are right.
///
/// A connection that breaks is resumed by Range at the first byte that is not hashed yet.
pub struct BlobStream {
    range: RangeStream,
    hasher: Hasher,
    /// All bytes are hashed without having come through a connection.
    complete: bool,
}

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let range = &self.range;
        write!(f, "BlobStream({} at {} of {})", range.digest(), range.offset(), range.size())
    }
}

impl BlobStream {
    /// Hashes the blob's first bytes, which the caller kept from an earlier attempt, so that only the rest is
    /// asked for. Wrong bytes show when the digest of the whole is compared.
    ///
    /// Must come before [`BlobStream::next`]; bytes past the blob's size are not taken.
    pub fn feed(&mut self, kept: &[u8]) {
        let room = usize::try_from(self.range.size() - self.range.offset()).unwrap_or(usize::MAX);
        let kept = &kept[..kept.len().min(room)];
        self.hasher.update(kept);
        self.range.start_at(self.range.offset() + kept.len() as u64);
        self.complete = self.range.is_done();
    }

    pub(super) fn call(&mut self, kind: &'static str) {
        self.range.call(kind);
    }

    /// Returns the next bytes; `None` when all of them have been given out and were right.
    ///
    /// Bytes that were wrong cannot be taken back from whoever has them: where there were mirrors, another stream
    /// asks none of these.
    ///
    /// # Errors
    /// [`Error`] with action [`Action::Pull`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match self.next_chunk().await {
            Ok(chunk) => Ok(chunk),
            Err(problem) => Err(error(Action::Pull, self.range.reference(), problem)),
        }
    }

    pub(super) async fn next_chunk(&mut self) -> Result<Option<Bytes>, Problem> {
        // An empty blob, or one that was kept whole, needs no connection and is verified here.
        if std::mem::take(&mut self.complete) {
            return self.verify().map(|()| None);
        }
        let Some(chunk) = self.range.next().await? else { return Ok(None) };
        self.hasher.update(&chunk);
        if self.range.is_done() {
            self.verify()?;
        }
        Ok(Some(chunk))
    }

    fn verify(&self) -> Result<(), Problem> {
        let verified = verify(&self.range, self.hasher.clone().finish());
        match &verified {
            Ok(()) => self.range.tell_pulled(),
            Err(problem) => self.range.distrust_mirrors(problem),
        }
        verified
    }
}

/// Compares what came with what was asked for.
pub(super) fn verify(range: &RangeStream, actual: Digest) -> Result<(), Problem> {
    if actual == range.digest() {
        return Ok(());
    }
    Err(Problem::digest(range.host(), range.kind(), range.digest(), actual))
}
