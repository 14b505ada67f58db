//! The directory of step records. Plain files are the truth; whatever cannot be read is a miss.
//!
//! ```text
//! <key>                        a StepRecord as JSON
//! <key>.why                    a Why as JSON, read only to explain
//! cutoff/<below>/<content id>  the key that first made this content on this state; `@<seconds>` is added where the
//!                              step had a SOURCE_DATE_EPOCH, whose times a content id does not tell
//! ops/<op digest>              the key that the op produced last
//! tmp/                         files that are being written
//! ```
//! Files appear by rename and are never changed in place, so readers need no lock. They are not synced one by
//! one: a file that a power cut emptied does not parse and is a miss.

use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use frontend::graph::OpDigest;
use oci::layer::ContentHash;

use crate::key::{Below, CacheKey};
use crate::record::{StepRecord, VERSION, Why};

/// How old a file in `tmp/` must be for nobody to be writing it any more.
const STALE: Duration = Duration::from_secs(3600);

/// A directory of records.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
    /// Part of the names in `tmp/`. Process ids do not do: two containers that share a store may have the same.
    nonce: u64,
    counter: AtomicU64,
}

/// Why a record could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the step record {}: {source}", path.display())]
pub struct RecordError {
    /// The file or directory.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl Records {
    /// Opens a directory of records, making it where it is missing.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, RecordError> {
        let directory = directory.into();
        for path in [directory.join("cutoff"), directory.join("ops"), directory.join("tmp")] {
            fs::create_dir_all(&path).map_err(|source| RecordError { path, source })?;
        }
        let nonce = RandomState::new().build_hasher().finish();
        Ok(Self { directory, nonce, counter: AtomicU64::new(0) })
    }

    /// Returns the record of a key.
    pub fn get(&self, key: CacheKey) -> Option<StepRecord> {
        let record: StepRecord = read(&self.path(key))?;
        (record.version == VERSION && record.key == key).then_some(record)
    }

    /// Returns whether any result was recorded on this state.
    pub fn has_results(&self, below: Below) -> bool {
        self.cutoff(below).exists()
    }

    /// Returns the first result that has this content on this state, and the times of this SOURCE_DATE_EPOCH.
    pub fn with_content(&self, below: Below, epoch: Option<i64>, content: ContentHash) -> Option<StepRecord> {
        let key = read_key(&self.cutoff(below).join(content_name(epoch, content)))?;
        self.get(key).filter(|record| record.layer.content_id == content)
    }

    /// Returns keys whose results stand on this state, at most `limit`.
    pub fn on_state(&self, below: Below, limit: usize) -> Vec<CacheKey> {
        let Ok(entries) = fs::read_dir(self.cutoff(below)) else { return Vec::new() };
        let mut keys: Vec<_> =
            entries.take(limit).filter_map(|entry| read_key(&entry.ok()?.path())).collect();
        keys.sort();
        keys
    }

    /// Returns the key that an op produced last.
    pub fn of_op(&self, op: OpDigest) -> Option<CacheKey> {
        read_key(&self.op(op))
    }

    /// Returns what a key was made of.
    pub fn why(&self, key: CacheKey) -> Option<Why> {
        read(&self.why_path(key))
    }

    /// Writes what a key was made of. To be called before [`Records::put`] or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn put_why(&self, key: CacheKey, op: OpDigest, why: &Why) -> Result<(), RecordError> {
        self.write_json(&self.why_path(key), why)?;
        self.write(&self.op(op), key.to_string().as_bytes())
    }

    /// Writes a record, replacing an earlier one of the same key.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn put(&self, record: &StepRecord) -> Result<(), RecordError> {
        self.write_json(&self.path(record.key), record)
    }

    /// Makes a record found by its content. An earlier record that still has that content stays the one found.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn put_content(
        &self,
        below: Below,
        epoch: Option<i64>,
        record: &StepRecord,
    ) -> Result<(), RecordError> {
        let content = record.layer.content_id;
        if self.with_content(below, epoch, content).is_some_and(|earlier| earlier.layer == record.layer) {
            return Ok(());
        }
        let directory = self.cutoff(below);
        fs::create_dir_all(&directory).map_err(|source| RecordError { path: directory.clone(), source })?;
        self.write(&directory.join(content_name(epoch, content)), record.key.to_string().as_bytes())
    }

    /// Removes a record and its components; what is not there is removed already.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub fn remove(&self, key: CacheKey) -> Result<(), RecordError> {
        for path in [self.path(key), self.why_path(key)] {
            if let Err(source) = fs::remove_file(&path)
                && source.kind() != io::ErrorKind::NotFound
            {
                return Err(RecordError { path, source });
            }
        }
        Ok(())
    }

    /// Returns all readable records, sorted by key.
    pub fn all(&self) -> Vec<StepRecord> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let mut keys: Vec<CacheKey> =
            entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
        keys.sort();
        keys.into_iter().filter_map(|key| self.get(key)).collect()
    }

    /// Removes half-written files of processes that died.
    pub fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.directory.join("tmp")) else { return };
        for entry in entries.flatten() {
            let age = entry.metadata().ok().and_then(|data| data.modified().ok()?.elapsed().ok());
            if age.is_some_and(|age| age > STALE)
                && let Err(error) = fs::remove_file(entry.path())
            {
                tracing::debug!(path = %entry.path().display(), %error, "stale record file stays");
            }
        }
    }

    fn path(&self, key: CacheKey) -> PathBuf {
        self.directory.join(key.to_string())
    }

    fn why_path(&self, key: CacheKey) -> PathBuf {
        self.directory.join(format!("{key}.why"))
    }

    fn op(&self, op: OpDigest) -> PathBuf {
        self.directory.join("ops").join(format!("{op:?}"))
    }

    fn cutoff(&self, below: Below) -> PathBuf {
        let cutoff = self.directory.join("cutoff");
        match below {
            Below::Nothing => cutoff.join("scratch"),
            Below::State(key) => cutoff.join(key.to_string()),
            Below::Ignored => cutoff.join("detached"),
        }
    }

    fn write_json(&self, path: &Path, value: &impl serde::Serialize) -> Result<(), RecordError> {
        let bytes = serde_json::to_vec(value)
            .map_err(|error| RecordError { path: path.to_owned(), source: error.into() })?;
        self.write(path, &bytes)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), RecordError> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let temporary = self.directory.join("tmp").join(format!("{:016x}-{number}", self.nonce));
        fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path)).map_err(|source| {
            // The write failed for a reason that matters more than a leftover, which `sweep` removes.
            let _ = fs::remove_file(&temporary);
            RecordError { path: path.to_owned(), source }
        })
    }
}

fn content_name(epoch: Option<i64>, content: ContentHash) -> String {
    match epoch {
        Some(epoch) => format!("{content}@{epoch}"),
        None => content.to_string(),
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = read_bytes(path)?;
    serde_json::from_slice(&bytes)
        .inspect_err(|error| tracing::debug!(path = %path.display(), %error, "unreadable record is a miss"))
        .ok()
}

fn read_key(path: &Path) -> Option<CacheKey> {
    std::str::from_utf8(&read_bytes(path)?).ok()?.parse().ok()
}

fn read_bytes(path: &Path) -> Option<Vec<u8>> {
    match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot read a step record, taking it as a miss");
            None
        }
    }
}
