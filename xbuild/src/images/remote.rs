//! A blob of a registry into an archive, verified on its way. Keeps nothing of it.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};

use oci::Digest;
use oci::reference::Reference;
use oci::registry::{Client, Error};
use tokio::runtime::Handle;

use super::Places;
use crate::failure::Failure;

/// One blob and where it is.
pub(super) struct Remote<'a> {
    pub(super) client: &'a Client,
    /// The repository.
    pub(super) reference: &'a Reference,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl Remote<'_> {
    /// Writes the blob to where `out` stands; `full` makes the failure of what cannot be written.
    ///
    /// What a mirror sent wrongly is taken back from a file, and written once more as the registry itself sends it.
    /// A pipe gives nothing back: where there are mirrors, the blob lies in the store's staging before it goes there.
    ///
    /// # Errors
    /// Source failures, and those of `full`.
    pub(super) fn write(
        &self,
        places: &Places,
        out: &mut File,
        full: impl Fn(io::Error) -> Failure,
    ) -> Result<(), Failure> {
        if !self.client.has_mirrors(self.reference) {
            return Ok(self.stream(out, &full)??);
        }
        if !out.metadata().map_err(&full)?.is_file() {
            return self.spool(places, out, full);
        }
        let start = out.stream_position().map_err(&full)?;
        match self.stream(out, &full)? {
            Err(error) if error.is_wrong_content() => {
                out.set_len(start).and_then(|()| out.seek(SeekFrom::Start(start))).map_err(&full)?;
                Ok(self.stream(out, &full)??)
            }
            done => Ok(done?),
        }
    }

    /// Writes the bytes as they come. The inner error is the registry's.
    fn stream(
        &self,
        out: &mut File,
        full: impl Fn(io::Error) -> Failure,
    ) -> Result<Result<(), Error>, Failure> {
        let mut stream = match self.client.open_blob(self.reference, self.digest, self.size) {
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

    /// Writes the bytes when all of them are there.
    fn spool(
        &self,
        places: &Places,
        out: &mut File,
        full: impl Fn(io::Error) -> Failure,
    ) -> Result<(), Failure> {
        let path = places.scratch_file()?;
        let at_store = |error| Failure::from(oci::Error::io("write", &path)(error));
        let file = File::create_new(&path).map_err(at_store)?;
        Handle::current().block_on(self.client.pull_file(self.reference, self.digest, self.size, file))?;
        io::copy(&mut File::open(&path).map_err(at_store)?, out).map_err(full)?;
        // What is left of it goes with the staging directory.
        let _ = std::fs::remove_file(&path);
        Ok(())
    }
}
