//! Which objects may be trusted after a power failure.
//!
//! A rename makes an object whole for every process of this boot, but not for the next boot: its data may be lost
//! while its name survives. So an object is trusted if it is marked durable, which happens after a `syncfs`, or if
//! it was recorded in this boot. Objects that check themselves (records, indexes) need no mark.
//!
//! `marks/durable` and `marks/boot-<id>` are append-only lists, one object a line. A line that was lost or torn
//! costs a check, never a wrong answer: marks are written after the data they speak of is on disk.
//!
//! An object is in its place a moment before it is in a list. Whoever finds one that it may not trust must not take it
//! away from the process that is just writing that line, so objects are placed under `marks/lock` shared, and taken away
//! under it exclusive.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Digest;
use crate::error::{Error, Result};
use crate::lock::{self, Lock, Sharing};

/// A list that has grown by more lines than this, and to twice its size, since it was last rewritten is rewritten
/// without duplicates and without what is gone.
const COMPACT_LINES: usize = 2000;

/// What the first line of a rewritten list starts with; the number of lines follows.
const REWRITTEN: &str = "#rewritten ";

/// The journal of a store.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    boot: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    trusted: BTreeSet<String>,
    /// Whether the durable list is in `trusted`; it is read when first asked for.
    durable_read: bool,
    /// Recorded by this process and not durable yet.
    fresh: Vec<String>,
    /// How much of this boot's list has been read; other processes append to it.
    read_to: u64,
}

impl Journal {
    /// Returns the object of a blob; the length of its digits says of which algorithm they are.
    pub fn blob(digest: &Digest) -> String {
        format!("blob/{}", digest.hex())
    }

    /// Returns the object of an unpacked layer.
    pub fn layer(flavour: &str, id: &str) -> String {
        format!("layer/{flavour}/{id}")
    }

    pub(super) fn open(root: &Path) -> Self {
        Self::open_in_boot(root, boot_id())
    }

    pub(super) fn open_in_boot(root: &Path, boot: String) -> Self {
        Self { directory: root.join("marks"), boot, state: Mutex::default() }
    }

    /// Returns whether `object` is durable or was made in this boot.
    pub fn trusts(&self, object: &str) -> bool {
        let mut state = self.state();
        if state.trusted.contains(object) {
            return true;
        }
        // A list that cannot be read trusts nobody. Another process may have made the object since we looked.
        if !state.durable_read {
            let (text, _) = read_from(&self.durable(), 0).unwrap_or_default();
            state.trusted.extend(lines(&text));
            state.durable_read = true;
        }
        state.trusted.contains(object)
            || self.read_recent(&mut state).is_ok() && state.trusted.contains(object)
    }

    /// Has `put` put `object` in its place and records it; nobody takes it away in between.
    ///
    /// # Errors
    /// Those of `put`, [`Error::Io`], [`Error::NoSpace`].
    pub fn place<T>(&self, object: &str, put: impl FnOnce() -> Result<T>) -> Result<T> {
        let _lock = Lock::wait(&self.lock_path(), Sharing::Shared)?;
        let put = put()?;
        self.record(object)?;
        Ok(put)
    }

    /// Has `remove` take away what is in the place of `object`, unless it may be trusted by now: then another process has
    /// put it there, and the answer is `None`. `remove` should be quick.
    ///
    /// # Errors
    /// Those of `remove`, [`Error::Io`].
    pub fn displace<T>(&self, object: &str, remove: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        let _lock = Lock::wait(&self.lock_path(), Sharing::Exclusive)?;
        if self.trusts(object) {
            return Ok(None);
        }
        remove().map(Some)
    }

    /// Notes that `object` is in its place, whole for this boot. What another process may take for a leftover meanwhile
    /// goes through [`Self::place`].
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn record(&self, object: &str) -> Result<()> {
        let mut state = self.state();
        state.fresh.push(object.to_owned());
        state.trusted.insert(object.to_owned());
        // Also where this process trusts it already: others may have dropped the line when the object was gone.
        append(&self.recent(), std::iter::once(object))
    }

    pub(super) fn make_durable(&self, root: &Path) -> Result<()> {
        let fresh = std::mem::take(&mut self.state().fresh);
        if fresh.is_empty() {
            return Ok(());
        }
        let directory = File::open(root).map_err(Error::io("open", root))?;
        rustix::fs::syncfs(&directory).map_err(Error::io("syncfs", root))?;
        append(&self.durable(), fresh.iter().map(String::as_str))
    }

    /// Removes lists of earlier boots and shortens what has grown long. Both are only a matter of space.
    pub(super) fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let old =
                name.to_str().is_some_and(|name| name.starts_with("boot-")) && entry.path() != self.recent();
            if old {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        let _ = self.compact();
    }

    /// Lines that another process appends during the rewrite are lost, which costs a later check.
    fn compact(&self) -> Result<()> {
        let (text, _) = read_from(&self.durable(), 0)?;
        let first = text.split(|byte| *byte == b'\n').next().and_then(|line| std::str::from_utf8(line).ok());
        let before = first.and_then(|line| line.strip_prefix(REWRITTEN)?.parse::<usize>().ok()).unwrap_or(0);
        let count = text.iter().filter(|byte| **byte == b'\n').count();
        if count <= before.saturating_mul(2).saturating_add(COMPACT_LINES) {
            return Ok(());
        }
        let root = self.directory.parent().unwrap_or(&self.directory);
        let kept: BTreeSet<String> =
            lines(&text).filter(|object| object_path(root, object).exists()).collect();
        let head = format!("{REWRITTEN}{}\n", kept.len());
        let text: String =
            std::iter::once(head).chain(kept.into_iter().map(|object| object + "\n")).collect();
        lock::replace(&self.directory, &self.durable(), text.as_bytes())
    }

    fn read_recent(&self, state: &mut State) -> Result<()> {
        let (text, end) = read_from(&self.recent(), state.read_to)?;
        // A line that is being appended is read the next time.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        state.read_to = end - (text.len() - whole) as u64;
        state.trusted.extend(lines(&text[..whole]));
        Ok(())
    }

    fn durable(&self) -> PathBuf {
        self.directory.join("durable")
    }

    fn lock_path(&self) -> PathBuf {
        self.directory.join("lock")
    }

    fn recent(&self) -> PathBuf {
        self.directory.join(format!("boot-{}", self.boot))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn object_path(root: &Path, object: &str) -> PathBuf {
    match object.split_once('/') {
        Some(("blob", hex)) => match Digest::from_hex(hex) {
            Some(digest) => root.join("images/blobs").join(digest.path()),
            None => root.join("missing"),
        },
        Some(("layer", id)) => root.join("layers").join(id),
        _ => root.join("missing"),
    }
}

/// The kernel makes one at every boot. Where it cannot be read, every process is a boot of its own.
fn boot_id() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.map_or_else(|_| lock::random_name(), |text| text.trim().to_owned())
}

fn lines(text: &[u8]) -> impl Iterator<Item = String> {
    let lines = text.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    lines.filter(|line| line.starts_with("blob/") || line.starts_with("layer/")).map(str::to_owned)
}

/// Returns the bytes from `offset` on and where they end; a missing file is empty.
fn read_from(path: &Path, offset: u64) -> Result<(Vec<u8>, u64)> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), offset)),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(offset)).map_err(Error::io("seek", path))?;
    file.read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    let end = offset + bytes.len() as u64;
    Ok((bytes, end))
}

/// One write with O_APPEND: lines of several processes do not mix.
fn append<'a>(path: &Path, objects: impl Iterator<Item = &'a str>) -> Result<()> {
    let text: String = objects.flat_map(|object| [object, "\n"]).collect();
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("open", path))?;
    file.write_all(text.as_bytes()).map_err(Error::io("append to", path))
}
