//! `RUN --mount=type=cache`: directories that outlive builds.
//!
//! A directory is named by the hash of its namespace and id, so an id is never a path. Who may use it at the
//! same time is decided by a lock beside it, which the kernel releases when its holder dies.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use executor::sandbox::MountSource;
use frontend::graph::{CacheMount, CacheSharing, Step};
use oci::layer::ContentHash;
use oci::lock::{Attempt, Lock, Sharing};
use solver::{StepContext, Stream};

use super::error::StepError;
use super::{BuildWorker, Snapshot, mounted};

/// How often a locked directory is tried again.
const POLL: Duration = Duration::from_millis(50);

/// Mode, owner and group of a new directory where the mount says nothing.
const PLAIN: (u32, u32, u32) = (0o755, 0, 0);

/// A cache directory in use.
pub struct CacheDirectory {
    path: PathBuf,
    _lock: Lock,
}

impl CacheDirectory {
    /// Returns the directory as the source of a mount.
    pub fn handle(&self) -> Result<MountSource, StepError> {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let handle = rustix::fs::open(&self.path, flags, rustix::fs::Mode::empty())
            .map_err(|errno| StepError::io("open", &self.path)(errno.into()))?;
        Ok(MountSource::Handle(handle))
    }
}

/// The mounts of one directory in a step.
struct Group<'a> {
    /// Places in the step's list of cache mounts.
    places: Vec<usize>,
    /// The first of them, which says what the directory begins as.
    cache: &'a CacheMount,
    sharing: CacheSharing,
}

/// Opens the directories of a step's cache mounts, making what is missing; in the order of `mounts`.
///
/// A directory that several mounts name is opened once, as in BuildKit. Every step opens in the order of the directories'
/// names, so that no two steps wait for each other.
pub async fn open(
    worker: &BuildWorker,
    mounts: &[&CacheMount],
    step: &Step,
    inputs: &[Snapshot],
    context: &StepContext,
) -> Result<Vec<Arc<CacheDirectory>>, StepError> {
    let mut names = Vec::new();
    for cache in mounts {
        let first = match &cache.from {
            Some((input, source)) => mounted::shown(worker, &inputs[*input], source).await?,
            None => None,
        };
        names.push(name(cache, first));
    }
    let mut opened: Vec<Option<Arc<CacheDirectory>>> = vec![None; mounts.len()];
    for (name, group) in groups(names, mounts) {
        let directory = Arc::new(open_one(worker, &name, &group, step, inputs, context).await?);
        group.places.iter().for_each(|place| opened[*place] = Some(directory.clone()));
    }
    Ok(opened.into_iter().map(|directory| directory.expect("every mount is in a group")).collect())
}

/// The mounts by directory; of several ways of sharing one, the strictest.
fn groups<'a>(names: Vec<String>, mounts: &[&'a CacheMount]) -> BTreeMap<String, Group<'a>> {
    let strictness = |sharing: CacheSharing| match sharing {
        CacheSharing::Shared => 0,
        CacheSharing::Private => 1,
        CacheSharing::Locked => 2,
    };
    let mut groups = BTreeMap::new();
    for (place, (name, cache)) in names.into_iter().zip(mounts).enumerate() {
        let new = || Group { places: Vec::new(), cache, sharing: cache.sharing };
        let group: &mut Group<'a> = groups.entry(name).or_insert_with(new);
        group.places.push(place);
        if strictness(cache.sharing) > strictness(group.sharing) {
            group.sharing = cache.sharing;
        }
    }
    groups
}

async fn open_one(
    worker: &BuildWorker,
    name: &str,
    group: &Group<'_>,
    step: &Step,
    inputs: &[Snapshot],
    context: &StepContext,
) -> Result<CacheDirectory, StepError> {
    let cache = group.cache;
    let mounts = worker.store.root().join("mounts");
    if step.no_cache && has_first_content(cache) {
        begin_anew(worker, &mounts, name, cache, context)?;
    }
    let base = mounts.join(format!("{name}.lock"));
    let (name, lock) = match group.sharing {
        CacheSharing::Shared => (name.to_owned(), wait(&base, Sharing::Shared, cache, context).await?),
        CacheSharing::Locked => (name.to_owned(), wait(&base, Sharing::Exclusive, cache, context).await?),
        CacheSharing::Private => first_free(&mounts, name)?,
    };
    ready(worker, mounts.join(name), cache, inputs, lock).await
}

/// The first of `name`, `name.1`, `name.2`, … that nobody uses.
fn first_free(mounts: &Path, name: &str) -> Result<(String, Lock), StepError> {
    let mut number = 0_u32;
    loop {
        let candidate = if number == 0 { name.to_owned() } else { format!("{name}.{number}") };
        let path = mounts.join(format!("{candidate}.lock"));
        if let Attempt::Acquired(lock) = Lock::attempt(&path, Sharing::Exclusive)? {
            return Ok((candidate, lock));
        }
        number += 1;
    }
}

/// Whether the directory begins as something that a step of its own would make in BuildKit.
fn has_first_content(cache: &CacheMount) -> bool {
    cache.from.is_some() || (cache.mode, cache.uid, cache.gid) != PLAIN
}

/// Throws an earlier directory away, once per build: without the cache, what it begins as is made anew (BuildKit's
/// `testCacheMountModeNoCache`). One that another step uses stays.
fn begin_anew(
    worker: &BuildWorker,
    mounts: &Path,
    name: &str,
    cache: &CacheMount,
    context: &StepContext,
) -> Result<(), StepError> {
    let mut begun = worker.build.begun.lock().unwrap_or_else(PoisonError::into_inner);
    if !begun.insert(name.to_owned()) {
        return Ok(());
    }
    let Attempt::Acquired(_lock) = Lock::attempt(&mounts.join(format!("{name}.lock")), Sharing::Exclusive)?
    else {
        let note = format!("the cache mount {:?} is in use and keeps its content\n", cache.id);
        context.log(Stream::Note, note.as_bytes());
        return Ok(());
    };
    let path = mounts.join(name);
    match std::fs::rename(&path, worker.scratch_directory()?.join("cache")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(StepError::io("rename", &path)),
    }
}

/// blake3 of the id and of what the directory starts as: its content, owner and mode.
fn name(cache: &CacheMount, first: Option<ContentHash>) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(b"xbuild-cache-mount-1");
    field(cache.id.as_bytes());
    if let Some(first) = first {
        field(&first.0);
    }
    // BuildKit makes these the mount's initial content, so directories that differ in them are different caches.
    if (cache.mode, cache.uid, cache.gid) != PLAIN {
        [cache.mode, cache.uid, cache.gid].iter().for_each(|number| field(&number.to_le_bytes()));
    }
    hasher.finalize().to_hex().to_string()
}

async fn wait(
    path: &Path,
    sharing: Sharing,
    cache: &CacheMount,
    context: &StepContext,
) -> Result<Lock, StepError> {
    let mut told = false;
    loop {
        if let Attempt::Acquired(lock) = Lock::attempt(path, sharing)? {
            return Ok(lock);
        }
        if !told {
            context.waiting(format!("another step that uses the cache mount {:?}", cache.id));
            told = true;
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = context.cancelled() => return Err(StepError::Stopped),
        }
    }
}

async fn ready(
    worker: &BuildWorker,
    path: PathBuf,
    cache: &CacheMount,
    inputs: &[Snapshot],
    lock: Lock,
) -> Result<CacheDirectory, StepError> {
    if !path.is_dir() {
        // Made aside and renamed: a directory that is there is complete.
        let staged = worker.scratch_directory()?.join("cache");
        match &cache.from {
            Some((input, source)) => worker.copy_directory(&inputs[*input], source, &staged).await?,
            None => {
                std::fs::DirBuilder::new()
                    .mode(0o700)
                    .create(&staged)
                    .map_err(StepError::io("make directory", &staged))?;
                let permissions = std::fs::Permissions::from_mode(cache.mode);
                std::fs::set_permissions(&staged, permissions).map_err(StepError::io("chmod", &staged))?;
                std::os::unix::fs::chown(&staged, Some(cache.uid), Some(cache.gid))
                    .map_err(StepError::io("chown", &staged))?;
            }
        }
        keep_first(&staged, &path)?;
    }
    Ok(CacheDirectory { path, _lock: lock })
}

/// Renames `staged` to `path` unless something is there: two steps that share a directory may both have made it.
///
/// Without RENAME_NOREPLACE, rename(2) would replace an empty directory, which the other step has mounted by then.
fn keep_first(staged: &Path, path: &Path) -> Result<(), StepError> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, staged, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(StepError::io("rename", path)(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn mount(sharing: CacheSharing) -> CacheMount {
        let (id, target) = ("id".to_owned(), "/target".to_owned());
        CacheMount { id, target, sharing, from: None, mode: 0o755, uid: 0, gid: 0, read_only: false }
    }

    #[test]
    fn directories_are_opened_once_each_and_in_the_same_order_by_every_step() {
        use CacheSharing::{Locked, Private, Shared};
        fn check(mounts: &[(&str, CacheSharing)], expected: &[(&str, CacheSharing, &[usize])]) {
            let caches: Vec<CacheMount> = mounts.iter().map(|(_, sharing)| mount(*sharing)).collect();
            let names = mounts.iter().map(|(name, _)| (*name).to_owned()).collect();
            let groups = groups(names, &caches.iter().collect::<Vec<_>>());
            let found: Vec<_> = groups
                .iter()
                .map(|(name, group)| (name.as_str(), group.sharing, group.places.as_slice()))
                .collect();
            assert_eq!(found, expected);
        }
        check(&[], &[]);
        check(&[("a", Locked), ("b", Locked)], &[("a", Locked, &[0]), ("b", Locked, &[1])]);
        check(&[("b", Locked), ("a", Locked)], &[("a", Locked, &[1]), ("b", Locked, &[0])]);
        check(&[("a", Locked), ("b", Shared), ("a", Locked)], &[("a", Locked, &[0, 2]), ("b", Shared, &[1])]);
        check(&[("a", Shared), ("a", Locked), ("a", Private)], &[("a", Locked, &[0, 1, 2])]);
        check(&[("a", Shared), ("a", Private)], &[("a", Private, &[0, 1])]);
    }

    #[test]
    fn a_directory_that_another_step_made_meanwhile_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let [first, second, path] = ["first", "second", "cache"].map(|name| scratch.path().join(name));
        std::fs::create_dir(&first).unwrap();
        std::fs::create_dir(&second).unwrap();
        let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
        let made = inode(&first);
        keep_first(&first, &path).unwrap();
        keep_first(&second, &path).unwrap();
        assert_eq!(inode(&path), made);
        assert!(second.is_dir());
    }
}
