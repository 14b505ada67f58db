//! File locks that name their holder, and files that are swept when their writer is dead.
//!
//! A lock is an flock: the kernel drops it with the last descriptor, so a killed process leaves none behind, and
//! no clock or process id decides. Whoever removes a locked file does so while holding the lock; whoever has
//! just got a lock checks that the file is still linked. That makes removal safe.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use crate::error::{Error, Result};

/// How a lock is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Any number of holders.
    Shared,
    /// One holder.
    Exclusive,
}

/// What happens to the lock file when the lock is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtEnd {
    Keep,
    Remove,
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
    at_end: AtEnd,
}

/// Who holds a lock, in the words that it left in the lock file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder(pub String);

/// The outcome of an attempt.
#[derive(Debug)]
pub enum Attempt {
    /// The lock is ours.
    Acquired(Lock),
    /// Somebody else has it.
    Held(Holder),
}

impl Lock {
    /// Tries to lock the file at `path`, which is created where it is missing and kept afterwards.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be opened or locked.
    pub fn attempt(path: &Path, sharing: Sharing) -> Result<Attempt> {
        attempt(path, sharing, AtEnd::Keep)
    }

    /// Waits for the lock. For locks that are held for microseconds only; it cannot be cancelled.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be opened or locked.
    pub fn wait(path: &Path, sharing: Sharing) -> Result<Self> {
        let file = open(path)?;
        let operation = match sharing {
            Sharing::Shared => FlockOperation::LockShared,
            Sharing::Exclusive => FlockOperation::LockExclusive,
        };
        rustix::io::retry_on_intr(|| flock(&file, operation)).map_err(Error::io("lock", path))?;
        Ok(Self { file, path: path.to_owned(), at_end: AtEnd::Keep })
    }

    /// Tries to lock the file at `path`, which is removed when the lock is dropped, and leaves `what` for those
    /// who wait.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be opened or locked.
    pub fn attempt_named(path: &Path, what: &str) -> Result<Attempt> {
        let attempt = attempt(path, Sharing::Exclusive, AtEnd::Remove)?;
        if let Attempt::Acquired(lock) = &attempt {
            lock.describe(what);
        }
        Ok(attempt)
    }

    /// A description is a courtesy: where it cannot be written, waiters see none.
    fn describe(&self, what: &str) {
        let text = format!("process {}, {what}", std::process::id());
        let _ = self.file.set_len(0);
        let _ = (&self.file).write_all(text.as_bytes());
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        match self.at_end {
            AtEnd::Keep => {}
            AtEnd::Remove => {
                // A file that is gone already, or cannot be removed, is locked by nobody in a moment.
                let _ = std::fs::remove_file(&self.path);
            }
        }
    }
}

fn attempt(path: &Path, sharing: Sharing, at_end: AtEnd) -> Result<Attempt> {
    let operation = match sharing {
        Sharing::Shared => FlockOperation::NonBlockingLockShared,
        Sharing::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    loop {
        let mut file = open(path)?;
        match rustix::io::retry_on_intr(|| flock(&file, operation)) {
            Ok(()) if is_linked(&file, path)? => {
                return Ok(Attempt::Acquired(Lock { file, path: path.to_owned(), at_end }));
            }
            // Its holder removed it between our open and our lock.
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Attempt::Held(Holder(read_text(&mut file)))),
            Err(errno) => return Err(Error::io("lock", path)(errno)),
        }
    }
}

fn open(path: &Path) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)).map_err(Error::io("open", path))?;
    Ok(File::from(file))
}

fn is_linked(file: &File, path: &Path) -> Result<bool> {
    Ok(file.metadata().map_err(Error::io("stat", path))?.nlink() > 0)
}

fn read_text(file: &mut File) -> String {
    let mut text = Vec::new();
    let _ = file.seek(SeekFrom::Start(0));
    let _ = file.take(500).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    if text.is_empty() { "another xbuild".to_owned() } else { text }
}

/// The prefix of files that are being written.
const TEMPORARY: &str = ".tmp-";

/// Files that this process is writing, for [`abandon`].
static BEING_WRITTEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn being_written() -> std::sync::MutexGuard<'static, BTreeSet<PathBuf>> {
    BEING_WRITTEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Removes the files that this process is writing: for a process that ends without dropping anything. Nothing is
/// written into them afterwards that anybody sees.
pub fn abandon() {
    for path in std::mem::take(&mut *being_written()) {
        // Left behind, it is swept later.
        let _ = std::fs::remove_file(path);
    }
}

/// A file that appears under its name only when it is complete. Dropping it removes it; what a killed process
/// left is removed by [`sweep`].
#[derive(Debug)]
pub struct TemporaryFile {
    /// The file, locked for its life.
    pub file: File,
    path: PathBuf,
    persisted: bool,
}

impl TemporaryFile {
    /// Creates an empty file in `directory`, which has to be on the file system of its later name.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn create(directory: &Path) -> Result<Self> {
        loop {
            let path = directory.join(format!("{TEMPORARY}{}", random_name()));
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = match rustix::fs::open(&path, flags, Mode::from_raw_mode(0o644)) {
                Ok(file) => File::from(file),
                Err(rustix::io::Errno::EXIST) => continue,
                Err(errno) => return Err(Error::io("create", &path)(errno)),
            };
            // A sweeper can hold the lock for a moment only, and then has removed the file.
            rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))
                .map_err(Error::io("lock", &path))?;
            if is_linked(&file, &path)? {
                being_written().insert(path.clone());
                return Ok(Self { file, path, persisted: false });
            }
        }
    }

    /// Gives the file its name, replacing what had it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn persist(mut self, name: &Path) -> Result<()> {
        std::fs::rename(&self.path, name).map_err(Error::io("rename to", name))?;
        self.persisted = true;
        being_written().remove(&self.path);
        Ok(())
    }

    /// Gives the file its name unless something has it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn persist_new(mut self, name: &Path) -> Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, &self.path, CWD, name, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.persisted = true;
                being_written().remove(&self.path);
                Ok(())
            }
            Err(rustix::io::Errno::EXIST) => Ok(()),
            // Not every file system knows the flag (renameat2(2)); links do the same on those that have them.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                match rustix::fs::link(&self.path, name) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
                    Err(_) => self.persist(name),
                }
            }
            Err(errno) => Err(Error::io("rename to", name)(errno)),
        }
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.persisted {
            // Left behind, it is swept later.
            let _ = std::fs::remove_file(&self.path);
            being_written().remove(&self.path);
        }
    }
}

/// Replaces the file `name` by `bytes`: readers see the old or the new bytes. `scratch` is a directory of the
/// same file system.
///
/// # Errors
/// [`Error::Io`], [`Error::NoSpace`].
pub fn replace(scratch: &Path, name: &Path, bytes: &[u8]) -> Result<()> {
    let mut temporary = TemporaryFile::create(scratch)?;
    temporary.file.write_all(bytes).map_err(Error::io("write", name))?;
    temporary.persist(name)
}

/// Creates the file `name` with `bytes`: it is there complete or not at all. A file that is there already stays.
/// `scratch` is a directory of the same file system.
///
/// # Errors
/// [`Error::Io`], [`Error::NoSpace`].
pub fn create(scratch: &Path, name: &Path, bytes: &[u8]) -> Result<()> {
    let mut temporary = TemporaryFile::create(scratch)?;
    temporary.file.write_all(bytes).map_err(Error::io("write", name))?;
    temporary.persist_new(name)
}

/// Removes the temporary files in `directory` whose writers are dead. A directory that is missing has none.
///
/// # Errors
/// [`Error::Io`] where the directory cannot be read.
pub fn sweep(directory: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("read", directory)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(Error::io("read", directory))?;
        if !entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
            continue;
        }
        let Ok(file) = File::open(entry.path()) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Another sweeper may have been faster.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Returns 128 random bits as a file name.
pub fn random_name() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel has random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acquired(attempt: Attempt) -> Option<Lock> {
        match attempt {
            Attempt::Acquired(lock) => Some(lock),
            Attempt::Held(_) => None,
        }
    }

    #[test]
    fn one_holder_at_a_time_and_waiters_learn_who() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("l");
        let first = acquired(Lock::attempt_named(&path, "RUN make").unwrap()).unwrap();
        let Attempt::Held(holder) = Lock::attempt_named(&path, "x").unwrap() else { panic!("held twice") };
        assert!(holder.0.ends_with("RUN make"), "{holder:?}");
        drop(first);
        assert!(!path.exists(), "named locks leave no file");
        assert!(acquired(Lock::attempt_named(&path, "x").unwrap()).is_some());
    }

    #[test]
    fn shared_locks_exclude_exclusive_ones_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("l");
        let _first = Lock::wait(&path, Sharing::Shared).unwrap();
        let _second = Lock::wait(&path, Sharing::Shared).unwrap();
        assert!(acquired(Lock::attempt(&path, Sharing::Exclusive).unwrap()).is_none());
        assert!(acquired(Lock::attempt(&path, Sharing::Shared).unwrap()).is_some());
    }

    #[test]
    fn a_lock_that_changes_hands_is_never_held_twice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("l");
        let inside = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut rounds = 0;
                    while rounds < 200 {
                        if let Some(lock) = acquired(Lock::attempt_named(&path, "x").unwrap()) {
                            assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                            inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                            drop(lock);
                            rounds += 1;
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn only_dead_writers_are_swept() {
        let directory = tempfile::tempdir().unwrap();
        let live = TemporaryFile::create(directory.path()).unwrap();
        let dead = directory.path().join(".tmp-dead");
        std::fs::write(&dead, "x").unwrap();
        std::fs::write(directory.path().join("other"), "x").unwrap();
        sweep(directory.path()).unwrap();
        assert!(!dead.exists());
        live.persist(&directory.path().join("name")).unwrap();
        let mut names: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["name", "other"]);
        sweep(&directory.path().join("missing")).unwrap();
    }

    #[test]
    fn replacing_is_all_or_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("name");
        replace(directory.path(), &name, b"old").unwrap();
        replace(directory.path(), &name, b"new").unwrap();
        assert_eq!(std::fs::read(&name).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn creating_leaves_what_is_there_alone() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("name");
        create(directory.path(), &name, b"first").unwrap();
        create(directory.path(), &name, b"second").unwrap();
        assert_eq!(std::fs::read(&name).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
