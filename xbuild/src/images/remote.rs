//! A blob of a registry into an archive, verified on its way. Keeps nothing of it.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};

use oci::Digest;
use oci::reference::Reference;
use oci::registry::{Client, Error};
use tokio::runtime::Handle;

use super::Places;
use super::source::Source;
use crate::failure::Failure;
use crate::whereabouts;

/// One blob and where it is.
pub(super) struct Remote<'a> {
    pub(super) source: &'a Source,
    /// The repositories that have it, at least one; the first that gives it is enough.
    pub(super) references: Vec<Reference>,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl Remote<'_> {
    /// Writes the blob to where `out` stands; `full` makes the failure of what cannot be written.
    ///
    /// What was wrong or broke off is taken back from a file, and written once more from the registry itself or from
    /// the next one. A pipe gives nothing back: where there is another to ask, the blob lies in the store's staging
    /// before it goes there.
    ///
    /// # Errors
    /// Source failures, and those of `full`.
    pub(super) fn write(
        &self,
        places: &Places,
        out: &mut File,
        full: impl Fn(io::Error) -> Failure,
    ) -> Result<(), Failure> {
        let client = self.source.client()?;
        let [reference] = &self.references[..] else { return self.write_from_any(places, out, full) };
        match client.has_mirrors(reference) {
            true => self.write_from_any(places, out, full),
            false => Ok(self.stream(client, reference, out, &full)??),
        }
    }

    fn write_from_any(
        &self,
        places: &Places,
        out: &mut File,
        full: impl Fn(io::Error) -> Failure,
    ) -> Result<(), Failure> {
        let client = self.source.client()?;
        let is_file = out.metadata().map_err(&full)?.is_file();
        let start = if is_file { out.stream_position().map_err(&full)? } else { 0 };
        let mut first = None;
        for (index, reference) in self.references.iter().enumerate() {
            let written = match is_file {
                true => self.stream_to_file(client, reference, out, start, &full)?,
                false => self.spool(client, reference, places, out, &full)?,
            };
            let Err(error) = written else { return Ok(()) };
            if let Some(next) = self.references.get(index + 1) {
                self.source.tell(whereabouts::next(&error, next));
            }
            first.get_or_insert(error);
        }
        Err(first.expect("there is a place, and it has failed").into())
    }

    /// Writes the bytes to `start` of a file: twice where mirrors stand before the registry, which may be wrong.
    fn stream_to_file(
        &self,
        client: &Client,
        reference: &Reference,
        out: &mut File,
        start: u64,
        full: impl Fn(io::Error) -> Failure,
    ) -> Result<Result<(), Error>, Failure> {
        let mirrored = client.has_mirrors(reference);
        out.set_len(start).and_then(|()| out.seek(SeekFrom::Start(start))).map_err(&full)?;
        match self.stream(client, reference, out, &full)? {
            Err(error) if mirrored && error.is_wrong_content() => {
                out.set_len(start).and_then(|()| out.seek(SeekFrom::Start(start))).map_err(&full)?;
                self.stream(client, reference, out, &full)
            }
            done => Ok(done),
        }
    }

    /// Writes the bytes as they come. The inner error is the registry's.
    fn stream(
        &self,
        client: &Client,
        reference: &Reference,
        out: &mut File,
        full: impl Fn(io::Error) -> Failure,
    ) -> Result<Result<(), Error>, Failure> {
        let mut stream = match client.open_blob(reference, self.digest, self.size) {
            Ok(stream) => stream,
            Err(error) => return Ok(Err(error)),
        };
        loop {
            match Handle::current().block_on(stream.next()) {
                Ok(Some(chunk)) => out.write_all(&chunk).map_err(&full)?,
                Ok(None) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// Writes the bytes when all of them are there. The inner error is the registry's.
    fn spool(
        &self,
        client: &Client,
        reference: &Reference,
        places: &Places,
        out: &mut File,
        full: impl Fn(io::Error) -> Failure,
    ) -> Result<Result<(), Error>, Failure> {
        let path = places.scratch_file()?;
        let at_store = |error| Failure::from(oci::Error::io("write", &path)(error));
        let file = File::create_new(&path).map_err(at_store)?;
        if let Err(error) =
            Handle::current().block_on(client.pull_file(reference, self.digest, self.size, file))
        {
            return Ok(Err(error));
        }
        io::copy(&mut File::open(&path).map_err(at_store)?, out).map_err(full)?;
        // What is left of it goes with the staging directory.
        let _ = std::fs::remove_file(&path);
        Ok(Ok(()))
    }
}
