//! A commit to a directory: files, perhaps submodules, perhaps `.git`.
//!
//! The work is done in a repository of its own, made for this checkout, so that nothing that the commit says about
//! submodules stays in the cache.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use frontend::graph::GitOp;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::command::Git;
use super::repository::{ObjectFormat, Repository};
use super::{Remote, SourceError, Sources, modes};
use crate::sources::blocking;

/// What is checked out.
#[derive(Debug, Clone, Copy)]
pub struct Checkout<'a> {
    /// The repository.
    pub remote: &'a Remote,
    /// Whole id of a commit, or of an annotated tag.
    pub commit: &'a str,
    /// The full name under which it was found, for servers that give references only.
    pub reference: Option<&'a str>,
    /// Directory inside the repository; empty for all of it.
    pub subdir: &'a str,
    /// Whether `.git` stays.
    pub git_directory: GitDirectory,
    /// Whether submodules come too.
    pub submodules: Submodules,
}

/// What happens to `.git`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitDirectory {
    /// It is left out, also that of submodules.
    Drop,
    /// It stays, with one commit and a detached HEAD; not where a subdirectory is asked for.
    Keep,
}

/// What happens to submodules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submodules {
    /// Their directories are empty.
    Skip,
    /// They are checked out, with those inside them.
    Fetch,
}

impl GitDirectory {
    /// Reads a flag.
    pub fn of(keep: bool) -> Self {
        if keep { Self::Keep } else { Self::Drop }
    }
}

impl Submodules {
    /// Reads a flag.
    pub fn of(fetch: bool) -> Self {
        if fetch { Self::Fetch } else { Self::Skip }
    }
}

impl<'a> Checkout<'a> {
    /// Returns what a step's op asks for. `remote` is its repository with credentials.
    pub fn of_op(remote: &'a Remote, op: &'a GitOp) -> Self {
        Self {
            remote,
            commit: &op.commit,
            reference: None,
            subdir: &op.subdir,
            git_directory: GitDirectory::of(op.keep_git_dir),
            submodules: Submodules::of(op.submodules),
        }
    }

    fn keeps_git_directory(&self) -> bool {
        self.git_directory == GitDirectory::Keep && self.subdir.trim_matches('/').is_empty()
    }
}

/// A commit on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedOut {
    /// The files: a directory inside the scratch directory.
    pub directory: PathBuf,
    /// The commit, peeled.
    pub commit: String,
    /// Its committer's time in seconds since the epoch.
    pub time: i64,
}

/// Checks a commit out into the empty directory `scratch`. Files have the modes 0644 and 0755 whatever the umask.
///
/// # Errors
/// [`SourceError::NoReference`] where the repository does not have the commit, [`SourceError::Subdir`],
/// [`SourceError::NoSubdir`], [`SourceError::TooLarge`], [`SourceError::Git`], [`SourceError::GitTimeout`],
/// [`SourceError::NoGit`], [`SourceError::Io`].
pub async fn checkout(
    sources: &Sources,
    checkout: &Checkout<'_>,
    scratch: PathBuf,
) -> Result<CheckedOut, SourceError> {
    let wanted = super::refs::full_commit_id(checkout.commit).ok_or_else(|| SourceError::NoCommitId {
        remote: checkout.remote.to_string(),
        checksum: checkout.commit.to_owned(),
    })?;
    let repository = Repository::open(sources, checkout.remote, ObjectFormat::of(&wanted)).await?;
    let job = Job { sources, checkout, repository: &repository, tree: scratch.join("tree") };
    let (commit, time) = match job.run(&wanted, &scratch).await {
        // A cache that lost objects, in a power failure say, is made anew once.
        Err(SourceError::Git { detail, .. }) if is_damage(&detail) => {
            tracing::warn!(remote = %checkout.remote, detail, "the cached repository is damaged");
            repository.reset().await?;
            empty(&scratch).await?;
            job.run(&wanted, &scratch).await?
        }
        other => other?,
    };
    let directory = subdirectory(&job.tree, checkout)?;
    Ok(CheckedOut { directory, commit, time })
}

fn is_damage(detail: &str) -> bool {
    let texts = [
        "unable to read",
        "is corrupt",
        "is empty",
        "bad object",
        "loose object",
        "packfile",
        "Could not read",
        "did not send all necessary objects",
        "local refs could not be updated",
    ];
    texts.iter().any(|text| detail.contains(text))
}

async fn empty(scratch: &Path) -> Result<(), SourceError> {
    let scratch = scratch.to_owned();
    blocking(move || {
        for name in ["tree", "git"] {
            let path = scratch.join(name);
            match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(SourceError::io("remove", &path)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    })
    .await
}

struct Job<'a> {
    sources: &'a Sources,
    checkout: &'a Checkout<'a>,
    repository: &'a Repository<'a>,
    tree: PathBuf,
}

impl Job<'_> {
    /// Does everything but the subdirectory; returns the commit and its time.
    async fn run(&self, wanted: &str, scratch: &Path) -> Result<(String, i64), SourceError> {
        let commit = self.repository.ensure(wanted, self.checkout.reference).await?;
        self.check_size(&commit).await?;
        let time = self.repository.time(&commit).await?;
        std::fs::create_dir(&self.tree).map_err(SourceError::io("create", &self.tree))?;
        let keeps = self.checkout.keeps_git_directory();
        let directory = if keeps { self.tree.join(".git") } else { scratch.join("git") };
        self.prepare(&directory).await?;
        let git = self.repository.git().in_repository(&directory).with_work_tree(&self.tree);
        self.files(&git.own(), &commit).await?;
        if self.checkout.submodules == Submodules::Fetch {
            self.submodules(&git).await?;
        }
        let tree = self.tree.clone();
        let (dropped, kept) = match keeps {
            true => (None, modes::GitEntries::Keep),
            false => (Some(directory), modes::GitEntries::Remove),
        };
        blocking(move || {
            if let Some(directory) = dropped {
                std::fs::remove_dir_all(&directory).map_err(SourceError::io("remove", &directory))?;
            }
            modes::normalise(&tree, kept)
        })
        .await?;
        Ok((commit, time))
    }

    /// Writes the files of the commit; a repository that is kept first copies what it needs from the cache.
    async fn files(&self, own: &Git<'_>, commit: &str) -> Result<(), SourceError> {
        if !self.checkout.keeps_git_directory() {
            return self.run_git(own, "check out", &["read-tree", "--reset", "-u", commit]).await;
        }
        let source = url_of(self.repository.directory());
        // Loose objects are the same however the cache is packed, as long as they are not too many.
        let options = ["-c", "fetch.unpackLimit=10000", "fetch", "--quiet", "--depth=1", "--no-tags", "--"];
        let fetch: Vec<_> = options.into_iter().chain([source.as_str(), commit]).collect();
        self.run_git(own, "copy", &fetch).await?;
        self.run_git(own, "check out", &["checkout", "--quiet", "--force", "--detach", commit, "--"]).await?;
        // An index without the times and inodes of this checkout, which say nothing in an image and differ each
        // time.
        for name in ["FETCH_HEAD", "index"] {
            let path = self.tree.join(".git").join(name);
            std::fs::remove_file(&path).map_err(SourceError::io("remove", &path))?;
        }
        self.run_git(own, "check out", &["read-tree", commit]).await
    }

    /// A small repository can name one file a billion times (SRC-09).
    async fn check_size(&self, commit: &str) -> Result<(), SourceError> {
        let limits = &self.sources.limits.archive;
        let mut listing = Listing::default();
        let mut take = |bytes: &[u8]| {
            listing.read(bytes);
            match listing.files > limits.entries || listing.bytes > limits.bytes {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let arguments = ["ls-tree", "-r", "-z", "-l", "--full-tree", commit, "--"];
        let own = self.repository.git().own();
        let result = own.stream("list", &arguments, self.sources.limits.fetching, &mut take).await;
        let what = || format!("checkout of {}", self.checkout.remote);
        if listing.files > limits.entries {
            return Err(SourceError::TooManyFiles { what: what(), limit: limits.entries });
        }
        if listing.bytes > limits.bytes {
            return Err(SourceError::TooLarge { what: what(), limit: limits.bytes });
        }
        result
    }

    /// Makes the repository of the checkout; one that is not kept borrows the cache's objects.
    async fn prepare(&self, directory: &Path) -> Result<(), SourceError> {
        let own = Git::new(self.sources, self.checkout.remote)?.own();
        let keeps = self.checkout.keeps_git_directory();
        let mut arguments = ["init", "--quiet", "--template="].map(OsStr::new).to_vec();
        arguments.extend(self.repository.object_format().options().iter().map(OsStr::new));
        match keeps {
            true => arguments.extend([OsStr::new("--"), self.tree.as_os_str()]),
            false => arguments.extend([OsStr::new("--bare"), OsStr::new("--"), directory.as_os_str()]),
        }
        own.run("prepare", &arguments, self.sources.limits.listing).await?;
        if !keeps {
            let info = directory.join("objects/info");
            let path = info.join("alternates");
            let objects = self.repository.directory().join("objects");
            std::fs::create_dir_all(&info).map_err(SourceError::io("create", &info))?;
            std::fs::write(&path, format!("{}\n", objects.display()))
                .map_err(SourceError::io("write", &path))?;
        }
        // Submodules may be named relative to it; whoever keeps the directory finds where it came from.
        let url = self.checkout.remote.url();
        let arguments = ["config", "remote.origin.url", url];
        own.in_repository(directory).run("prepare", &arguments, self.sources.limits.listing).await.map(drop)
    }

    async fn submodules(&self, git: &Git<'_>) -> Result<(), SourceError> {
        // Reading through the link that it may be is git's business, which refuses it.
        if std::fs::symlink_metadata(self.tree.join(".gitmodules")).is_err() {
            return Ok(());
        }
        let update = ["submodule", "--quiet", "update", "--init", "--recursive", "--force"];
        let shallow: Vec<_> = update.into_iter().chain(["--depth=1"]).collect();
        match self.run_git(git, "fetch submodules of", &shallow).await {
            // Dumb servers have no shallow fetches, others give no commits by their ids.
            Err(SourceError::Git { .. }) => self.run_git(git, "fetch submodules of", &update).await,
            other => other,
        }
    }

    async fn run_git(
        &self,
        git: &Git<'_>,
        action: &'static str,
        arguments: &[&str],
    ) -> Result<(), SourceError> {
        git.run(action, arguments, self.sources.limits.fetching).await.map(drop)
    }
}

/// What `git ls-tree -r -l -z` has said so far.
#[derive(Default)]
struct Listing {
    files: u64,
    bytes: u64,
    rest: Vec<u8>,
}

impl Listing {
    /// Reads `<mode> <type> <id> <size>\t<path>\0`.
    fn read(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let whole = self.rest.iter().rposition(|byte| *byte == 0).map_or(0, |at| at + 1);
        for record in self.rest[..whole].split(|byte| *byte == 0).filter(|record| !record.is_empty()) {
            let head = record.split(|byte| *byte == b'\t').next().unwrap_or_default();
            let size = head.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
            // A submodule has the size `-`.
            let size: u64 = std::str::from_utf8(size).ok().and_then(|size| size.parse().ok()).unwrap_or(0);
            self.files += 1;
            self.bytes = self.bytes.saturating_add(size);
        }
        self.rest.drain(..whole);
    }
}

/// Returns the URL of a directory of ours. Only a percent sign means anything in it.
fn url_of(directory: &Path) -> String {
    format!("file://{}", directory.display().to_string().replace('%', "%25"))
}

/// Returns the directory inside the checkout; each of its parts must be a directory, not a link (SRC-03).
fn subdirectory(tree: &Path, checkout: &Checkout<'_>) -> Result<PathBuf, SourceError> {
    let subdir = checkout.subdir;
    let (remote, subdir_text) = (checkout.remote.to_string(), subdir.to_owned());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(tree, flags, Mode::empty());
    let root = root.map_err(|errno| SourceError::io("open", tree)(errno.into()))?;
    let mut done = PathBuf::new();
    for part in subdir.split('/').filter(|part| !matches!(*part, "" | ".")) {
        done.push(part);
        let at = done.display().to_string();
        if part == ".." {
            return Err(SourceError::Subdir { remote, subdir: subdir_text, at });
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(&root, &done, flags, Mode::empty(), resolve) {
            Ok(_) => {}
            Err(rustix::io::Errno::NOENT) => {
                return Err(SourceError::NoSubdir { remote, subdir: subdir_text, at });
            }
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                return Err(SourceError::Subdir { remote, subdir: subdir_text, at });
            }
            Err(errno) => return Err(SourceError::io("open", &tree.join(&done))(errno.into())),
        }
    }
    Ok(tree.join(done))
}
