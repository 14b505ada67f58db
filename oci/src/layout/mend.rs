//! Making a layout of ours usable again after a disk or somebody's hand damaged it. What is damaged is taken away, not
//! repaired: whoever needs it makes or fetches it again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::{LAYOUT_FILE, Layout, names};
use crate::error::{Error, Result};
use crate::{Digest, lock};

/// A damaged list of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Where it is kept; nothing is there where the list was missing.
    pub path: PathBuf,
    /// What was wrong with it.
    pub why: String,
}

impl Layout {
    /// Opens the layout at `root` as [`Self::create`] does, and writes `oci-layout` anew whatever it says: for a store, whose
    /// own version file says that the layout is of the version we write.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub(crate) fn restore(root: &Path) -> Result<Self> {
        if let Ok(layout) = Self::open(root) {
            return Ok(layout);
        }
        let path = root.join("oci-layout");
        if std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_file()) {
            // In place, because the file is also the lock of the names, and never shorter than its text, because somebody
            // else may have written it a moment ago and others read it.
            let file = File::options().write(true).open(&path).map_err(Error::io("open", &path))?;
            let text = LAYOUT_FILE.as_bytes();
            let written = file.write_all_at(text, 0).and_then(|()| file.set_len(text.len() as u64));
            written.map_err(Error::io("write", &path))?;
        }
        Self::create(root)
    }

    /// Begins an empty list of names where `index.json` is damaged or missing; a damaged one is kept beside it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn mend_names(&self) -> Result<Option<SetAside>> {
        if self.why_no_names()?.is_none() {
            return Ok(None);
        }
        let _lock = self.lock_index()?;
        // Another process may have mended it meanwhile.
        let Some(why) = self.why_no_names()? else { return Ok(None) };
        let index = self.index_path();
        let path = self.root.join("index.json.damaged");
        match std::fs::rename(&index, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(Error::io("set aside", &index))?,
        }
        lock::create(&self.blobs(), &index, names::EMPTY_INDEX.as_bytes())?;
        Ok(Some(SetAside { path, why }))
    }

    /// Reads a blob whose reader failed, and removes it where its bytes are not those of its digest. Returns what was wrong;
    /// `None` where the blob is whole.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn take_out_damaged(&self, digest: &Digest) -> Result<Option<Error>> {
        let path = self.blob_path(digest);
        let file = match self.open_blob(digest) {
            Ok(file) => file,
            // Somebody else has taken it out.
            Err(error @ Error::MissingBlob { .. }) => return Ok(Some(error)),
            Err(error) => return Err(error),
        };
        let (found, _) = Digest::of_reader(file, digest.algorithm()).map_err(Error::io("read", &path))?;
        if found == *digest {
            return Ok(None);
        }
        self.remove(digest)?;
        let what = format!("its bytes have the digest {found}; it is out of the store now");
        Ok(Some(Error::Damaged { digest: *digest, path, what }))
    }

    /// Why the list of names cannot be read, if it is damaged or missing.
    fn why_no_names(&self) -> Result<Option<String>> {
        match self.names() {
            Ok(_) => Ok(None),
            Err(error) if matches!(error, Error::Io { .. } | Error::NoSpace { .. }) => Err(error),
            Err(Error::NoLayout { what, .. }) => Ok(Some(what)),
            Err(error) => Ok(Some(error.to_string())),
        }
    }
}
