//! Walking a part of a context in parallel: one status call per file, one open per directory.
//!
//! Directories are tasks, not recursion, and each is opened from the context's root by its whole path: depth
//! costs neither stack nor descriptors, and a directory that was exchanged for a link is refused.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use frontend::graph::pattern::ignore::{Directory as Known, Rules};
use oci::layer::{Entry, Kind, Mtime};
use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, Statx, StatxFlags};
use rustix::io::Errno;

use super::select::Root;
use super::{Context, ScanError, hash};
use crate::tree::{entry_of, list, open_directory_beneath, read_link, stat_at};

/// What a walk found.
#[derive(Debug)]
pub struct Item {
    /// Everything but the hash and the xattrs of a file.
    pub entry: Entry,
    /// What tells versions of the file apart.
    pub stamp: Stamp,
    /// Why it is there.
    pub role: Role,
}

/// Why something is in a selection. Where one path has several roles, the first of these counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It is wanted itself.
    Selected,
    /// `--parents` looks below it, even where that finds nothing. Its metadata is not copied.
    Base,
    /// It is a directory around what is wanted, which `--parents` copies.
    Parent,
    /// It is a directory on the way to what is wanted.
    Passing,
}

/// Inode, size and times: equal stamps of one path mean equal content, but for files changed just now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Device, to tell hard links apart; not kept in the cache.
    pub device: (u32, u32),
    /// Inode number.
    pub inode: u64,
    /// Number of names.
    pub links: u32,
    /// Bytes.
    pub size: u64,
    /// Modification.
    pub mtime: Mtime,
    /// Change of content, mode, owner or attributes.
    pub ctime: Mtime,
}

impl Stamp {
    /// Takes the stamp from a status.
    pub fn of(stat: &Statx) -> Self {
        let time =
            |time: &rustix::fs::StatxTimestamp| Mtime { seconds: time.tv_sec, nanoseconds: time.tv_nsec };
        Self {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            links: stat.stx_nlink,
            size: stat.stx_size,
            mtime: time(&stat.stx_mtime),
            ctime: time(&stat.stx_ctime),
        }
    }
}

/// Names in one directory beyond this many are looked at in parallel.
const CHUNK: usize = 256;

/// Walks what `root` wants.
pub fn walk(context: &Context<'_>, root: &Root) -> Result<Vec<Item>, ScanError> {
    let walker = Walker { context, root, found: Mutex::default(), failure: Mutex::default() };
    if let Some(start) = walker.start()? {
        rayon::scope(|scope| walker.visit(scope, start));
    }
    match walker.failure.into_inner().expect("no task panics while it reports") {
        Some(error) => Err(error),
        None => Ok(walker.found.into_inner().expect("no task panics while it reports")),
    }
}

struct Walker<'a> {
    context: &'a Context<'a>,
    root: &'a Root,
    found: Mutex<Vec<Item>>,
    failure: Mutex<Option<ScanError>>,
}

/// A directory to visit.
struct Visit {
    path: PathBuf,
    state: State,
}

/// What the rules say of a directory.
#[derive(Debug, Clone, Default)]
struct State {
    ignore: Known,
    excludes: Known,
    included: bool,
}

enum Verdict {
    Include,
    /// A directory that is not wanted, but below which something may be.
    Pass,
    Skip,
}

impl<'a> Walker<'a> {
    /// Judges the root of the walk; a file is reported at once.
    fn start(&self) -> Result<Option<Visit>, ScanError> {
        let path = &self.root.path;
        let mut state = State { included: true, ..State::default() };
        let mut hidden = false;
        let whole = path.to_string_lossy();
        let ends = whole.match_indices('/').map(|(at, _)| at).chain([whole.len()]).filter(|end| *end > 0);
        for end in ends {
            let (rule, known) = self.context.ignore.enter(&state.ignore, &whole[..end]);
            (hidden, state.ignore) = (rule.is_some(), known);
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        let parent = open_directory_beneath(self.context.root, parent);
        let parent = parent.map_err(ScanError::call("openat2", path))?;
        let name = path.file_name().unwrap_or(OsStr::new("."));
        let stat = stat_at(&parent, name).map_err(|errno| ScanError::call("statx", path)(errno.into()))?;
        if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory {
            state.included = !hidden && self.root.parents.is_none();
            return Ok(Some(Visit { path: path.clone(), state }));
        }
        if !hidden {
            self.report(&parent, path.clone(), &stat)?;
        }
        Ok(None)
    }

    fn visit<'scope>(&'scope self, scope: &rayon::Scope<'scope>, visit: Visit)
    where
        'a: 'scope,
    {
        if self.failure.lock().expect("no task panics while it reports").is_some() {
            return;
        }
        match self.directory(&visit) {
            Ok(below) => {
                for next in below {
                    scope.spawn(move |scope| self.visit(scope, next));
                }
            }
            Err(error) => {
                self.failure.lock().expect("no task panics while it reports").get_or_insert(error);
            }
        }
    }

    /// Reports a directory and the files in it; returns the directories in it.
    fn directory(&self, visit: &Visit) -> Result<Vec<Visit>, ScanError> {
        let Visit { path, state } = visit;
        let call = |call| ScanError::call(call, path);
        let open = match open_directory_beneath(self.context.root, path) {
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                return Err(ScanError::Changed { path: path.clone() });
            }
            open => open.map_err(call("openat2"))?,
        };
        let stat = rustix::fs::statx(&open, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
            .map_err(|errno| call("statx")(errno.into()))?;
        let mut entry = entry_of(path.clone(), &stat).expect("an open directory is a directory");
        entry.xattrs = hash::xattrs(&open).map_err(call("flistxattr"))?;
        let role = match (state.included, &self.root.parents) {
            (true, _) => Role::Selected,
            (false, Some(_)) if *path == self.root.path => Role::Base,
            (false, Some(_)) => Role::Parent,
            (false, None) => Role::Passing,
        };
        let item = Item { entry, stamp: Stamp::of(&stat), role };
        let names = list(&open).map_err(call("getdents64"))?;
        let chunks: Result<Vec<_>, _> = if names.len() > CHUNK {
            names.par_chunks(CHUNK).map(|names| self.names(&open, visit, names)).collect()
        } else {
            self.names(&open, visit, &names).map(|found| vec![found])
        };
        let mut below = Vec::new();
        let mut found = vec![item];
        for (items, directories) in chunks? {
            found.extend(items);
            below.extend(directories);
        }
        self.found.lock().expect("no task panics while it reports").append(&mut found);
        Ok(below)
    }

    fn names(
        &self,
        open: &std::os::fd::OwnedFd,
        visit: &Visit,
        names: &[(Vec<u8>, FileType)],
    ) -> Result<(Vec<Item>, Vec<Visit>), ScanError> {
        let (mut items, mut below) = (Vec::with_capacity(names.len()), Vec::new());
        for (name, listed) in names {
            let name = OsStr::from_bytes(name);
            let path = visit.path.join(name);
            let (mut kind, mut stat) = (*listed, None);
            if kind == FileType::Unknown {
                // Some file systems do not say the type in the directory (getdents64(2)).
                let Some(known) = status(open, name, &path)? else { continue };
                kind = FileType::from_raw_mode(known.stx_mode.into());
                stat = Some(known);
            }
            let (verdict, state) = self.judge(&visit.state, &path, kind);
            match verdict {
                Verdict::Skip => {}
                Verdict::Include | Verdict::Pass if kind == FileType::Directory => {
                    below.push(Visit { path, state });
                }
                Verdict::Pass => {}
                Verdict::Include => {
                    let stat = match stat {
                        Some(stat) => Some(stat),
                        None => status(open, name, &path)?,
                    };
                    let Some(stat) = stat else { continue };
                    items.extend(item(open, path, &stat)?);
                }
            }
        }
        Ok((items, below))
    }

    fn judge(&self, parent: &State, path: &Path, kind: FileType) -> (Verdict, State) {
        let whole = path.to_string_lossy();
        let relative = relative(&whole, &self.root.path);
        let (hidden, ignore) = enter(self.context.ignore, &parent.ignore, &whole);
        let (excluded, excludes) = enter(&self.root.excludes, &parent.excludes, relative);
        let parents = self.root.parents.as_ref();
        let wanted = parents.is_none_or(|parents| parents.matches(relative));
        let included = !hidden && !excluded && wanted;
        let state = State { ignore, excludes, included };
        if included {
            return (Verdict::Include, state);
        }
        let passes = kind == FileType::Directory
            && (!hidden || self.context.ignore.may_bring_back_below(&whole))
            && (!excluded || self.root.excludes.may_bring_back_below(relative))
            && (wanted || parents.is_some_and(|parents| parents.may_match_below(relative)));
        (if passes { Verdict::Pass } else { Verdict::Skip }, state)
    }

    fn report(&self, parent: &std::os::fd::OwnedFd, path: PathBuf, stat: &Statx) -> Result<(), ScanError> {
        let found = item(parent, path, stat)?;
        self.found.lock().expect("no task panics while it reports").extend(found);
        Ok(())
    }
}

fn enter(rules: &Rules, known: &Known, path: &str) -> (bool, Known) {
    if rules.is_empty() {
        return (false, Known::default());
    }
    let (rule, known) = rules.enter(known, path);
    (rule.is_some(), known)
}

/// Returns the part of `path` below the root of the walk.
fn relative<'a>(path: &'a str, root: &Path) -> &'a str {
    let root = root.to_string_lossy();
    if root.is_empty() { path } else { path.get(root.len() + 1..).unwrap_or_default() }
}

/// Returns the status of a name; `None` if it vanished since it was listed.
fn status(open: &std::os::fd::OwnedFd, name: &OsStr, path: &Path) -> Result<Option<Statx>, ScanError> {
    match stat_at(open, name) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(ScanError::call("statx", path)(errno.into())),
    }
}

/// Makes the item of anything but a directory; `None` for a socket.
fn item(open: &std::os::fd::OwnedFd, path: PathBuf, stat: &Statx) -> Result<Option<Item>, ScanError> {
    let Some(mut entry) = entry_of(path, stat) else {
        return Ok(None);
    };
    match &mut entry.kind {
        Kind::Symlink { target } => {
            let name = entry.path.file_name().unwrap_or_default();
            *target = read_link(open, name).map_err(ScanError::call("readlinkat", &entry.path))?;
        }
        Kind::Fifo => return Err(ScanError::Special { path: entry.path, kind: "named pipe" }),
        Kind::CharDevice(_) | Kind::BlockDevice(_) => {
            return Err(ScanError::Special { path: entry.path, kind: "device" });
        }
        // A directory here replaced a file since it was listed: its content would be missed.
        Kind::Directory { .. } => return Err(ScanError::Changed { path: entry.path }),
        Kind::File { .. } | Kind::HardLink { .. } | Kind::Whiteout => {}
    }
    Ok(Some(Item { entry, stamp: Stamp::of(stat), role: Role::Selected }))
}
