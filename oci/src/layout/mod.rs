//! An OCI image layout on disk: blobs by digest, and names for some of them (image-spec image-layout.md).
//!
//! The store's `images/` is one, an exported directory is one, and a layout that somebody else made is read
//! through here too: nothing is followed out of it, only regular files are opened, and every read of a blob is
//! verified. It knows nothing of steps, leases or what may be pruned.
//!
//! # Names
//! An image that is tagged `flaskdemo` is listed in `index.json` under its full name,
//! `docker.io/library/flaskdemo:latest`, in two annotations: `org.opencontainers.image.ref.name`, by which OCI
//! tools find it, and `io.containerd.image.name`, which says that the text is a full name. So
//! `skopeo copy oci:STORE/images:docker.io/library/flaskdemo:latest …` works. A tag alone, which is what exports
//! of one image carry as `ref.name`, would be ambiguous among many images.

mod blob;
mod mend;
mod names;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};

pub use blob::{BlobWriter, Incoming, VerifiedReader, Written};
pub use mend::SetAside;
pub use names::{CONTAINERD_NAME, Named, REF_NAME};

use crate::digest::Algorithm;
use crate::error::{Error, Result};
use crate::lock;
use crate::store::Journal;
use crate::{Digest, document};

/// The content of the `oci-layout` file.
pub const LAYOUT_FILE: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// Largest `index.json`; a store of thousands of images stays far below.
const INDEX_LIMIT: u64 = 64 << 20;

/// An OCI image layout.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
    /// Which blobs may be trusted after a crash; only the store's layout has one.
    journal: Option<Arc<Journal>>,
}

impl Layout {
    /// Opens the layout at `root`, making what is missing of it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`], and [`Error::NoLayout`] where another version is there.
    pub fn create(root: &Path) -> Result<Self> {
        let layout = Self { root: root.to_owned(), journal: None };
        layout.make_place(Algorithm::Sha256)?;
        for (name, content) in [("index.json", names::EMPTY_INDEX), ("oci-layout", LAYOUT_FILE)] {
            let path = root.join(name);
            if std::fs::symlink_metadata(&path).is_err() {
                // Whoever makes the same layout at the same time may have listed an image by now.
                lock::create(&layout.blobs(), &path, content.as_bytes())?;
            }
        }
        layout.check_version()?;
        Ok(layout)
    }

    /// Opens the layout at `root` for reading.
    ///
    /// # Errors
    /// [`Error::NoLayout`] where there is none, or one of another version.
    pub fn open(root: &Path) -> Result<Self> {
        let layout = Self { root: root.to_owned(), journal: None };
        layout.check_version()?;
        Ok(layout)
    }

    pub(crate) fn with_journal(mut self, journal: Arc<Journal>) -> Self {
        self.journal = Some(journal);
        self
    }

    /// Returns the directory of the layout.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns where the blob is, or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.path())
    }

    /// Returns the size of the blob, `None` where it is missing or may not be trusted.
    ///
    /// A blob that was written before the last boot and never made durable is read and hashed first, and removed
    /// where its digest is wrong: after a power failure files can be there with half of their bytes.
    ///
    /// # Errors
    /// [`Error::Io`] for anything but absence.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = self.blob_path(digest);
        let metadata = match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("stat", &path)(error)),
        };
        match &self.journal {
            Some(journal) if !journal.trusts(&Journal::blob(digest)) => self.reverify(journal, digest),
            _ => Ok(Some(metadata.len())),
        }
    }

    /// Returns whether the blob is there and may be trusted.
    ///
    /// # Errors
    /// As [`Self::size`].
    pub fn has(&self, digest: &Digest) -> Result<bool> {
        Ok(self.size(digest)?.is_some())
    }

    /// Removes the blob; one that is missing already is removed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(&self, digest: &Digest) -> Result<()> {
        let path = self.blob_path(digest);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("remove", &path)(error)),
        }
    }

    /// Returns the digests and sizes of all blobs, in digest order. Files with other names are not listed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn blobs_in_store(&self) -> Result<Vec<(Digest, u64)>> {
        let mut found = Vec::new();
        for algorithm in Algorithm::ALL {
            self.list_blobs(algorithm, &mut found)?;
        }
        found.sort_unstable();
        Ok(found)
    }

    fn list_blobs(&self, algorithm: Algorithm, found: &mut Vec<(Digest, u64)>) -> Result<()> {
        let directory = self.blobs().join(algorithm.name());
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            // Most layouts have no sha512.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("read", &directory)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(Error::io("read", &directory))?;
            let digest = entry.file_name().to_str().map(|name| format!("{algorithm}:{name}").parse());
            // Another process may have removed it meanwhile.
            if let (Some(Ok(digest)), Ok(metadata)) = (digest, entry.metadata()) {
                found.push((digest, metadata.len()));
            }
        }
        Ok(())
    }

    /// Removes what killed writers left.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sweep(&self) -> Result<()> {
        lock::sweep(&self.blobs())
    }

    /// Finds out what a blob is that may not be trusted.
    fn reverify(&self, journal: &Journal, digest: &Digest) -> Result<Option<u64>> {
        let object = Journal::blob(digest);
        let file = match self.open_blob(digest) {
            Ok(file) => file,
            // Another process has found it wrong.
            Err(Error::MissingBlob { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (found, size) = Digest::of_reader(file, digest.algorithm())
            .map_err(Error::io("read", &self.blob_path(digest)))?;
        if found == *digest {
            journal.record(&object)?;
            return Ok(Some(size));
        }
        match journal.displace(&object, || self.remove(digest))? {
            Some(()) => Ok(None),
            // Another process has put a whole one there meanwhile.
            None => self.size(digest),
        }
    }

    /// Where blobs are, by algorithm, and where files are written that will be renamed.
    fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// Makes the directory of an algorithm's blobs.
    fn make_place(&self, algorithm: Algorithm) -> Result<()> {
        let place = self.blobs().join(algorithm.name());
        if place.is_dir() {
            return Ok(());
        }
        std::fs::create_dir_all(&place).map_err(Error::io("create", &place))
    }

    fn check_version(&self) -> Result<()> {
        let no_layout = |what: String| Error::NoLayout { path: self.root.clone(), what };
        let mut text = String::new();
        let file =
            self.open_file("oci-layout").map_err(|_| no_layout("it has no file oci-layout".to_owned()))?;
        file.take(document::DOCUMENT_LIMIT)
            .read_to_string(&mut text)
            .map_err(|error| no_layout(format!("oci-layout: {error}")))?;
        let parsed: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| no_layout(format!("oci-layout: {error}")))?;
        match parsed.get("imageLayoutVersion").and_then(serde_json::Value::as_str) {
            Some(version) if version.starts_with("1.") => Ok(()),
            other => Err(no_layout(format!("imageLayoutVersion is {other:?}, expected 1.0.0"))),
        }
    }

    /// Opens a regular file of the layout for reading; nothing leads out of it (IMG-11).
    fn open_file(&self, name: &str) -> Result<File> {
        let path = self.root.join(name);
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root: OwnedFd =
            rustix::fs::open(&self.root, directory, Mode::empty()).map_err(Error::io("open", &self.root))?;
        // Without NONBLOCK, opening a pipe would wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = rustix::fs::openat2(&root, name, flags, Mode::empty(), resolve)
            .map_err(Error::io("open", &path))?;
        let file = File::from(file);
        if !file.metadata().map_err(Error::io("stat", &path))?.is_file() {
            return Err(Error::NoLayout { path, what: "not a regular file".to_owned() });
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests;
