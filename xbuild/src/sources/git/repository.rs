//! The cached repository of a remote: `sources/git/<hash>`, bare, used by one process at a time.
//!
//! It is a cache: whatever is wrong with it, it can be thrown away and fetched again.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci::lock::{Attempt, Lock};

use super::command::{Git, is_transient};
use super::{Remote, SourceError, Sources};
use crate::sources::{blocking, name_of};

/// A repository that is ours as long as this value lives.
pub(super) struct Repository<'a> {
    sources: &'a Sources,
    remote: &'a Remote,
    git: Git<'a>,
    directory: PathBuf,
    object_format: ObjectFormat,
    _lock: Lock,
}

/// How a repository names its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ObjectFormat {
    /// 40 digits.
    Sha1,
    /// 64 digits.
    Sha256,
}

impl ObjectFormat {
    /// Returns the format of an id.
    pub fn of(id: &str) -> Self {
        if id.len() == 64 { Self::Sha256 } else { Self::Sha1 }
    }

    /// Returns what `git init` must be told; a git before 2.29 knows no other than sha1.
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Self::Sha1 => &[],
            Self::Sha256 => &["--object-format=sha256"],
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
        }
    }
}

/// Longest pause between attempts to take the lock.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Attempts in all to fetch one thing.
const ATTEMPTS: u32 = 3;

impl<'a> Repository<'a> {
    /// Opens the repository for ids of one format, waiting for other processes and making it where
    /// it is missing.
    pub async fn open(
        sources: &'a Sources,
        remote: &'a Remote,
        object_format: ObjectFormat,
    ) -> Result<Self, SourceError> {
        let git = Git::new(sources, remote)?;
        let name = name_of(&["xbuild-git-1", remote.url(), object_format.name()]);
        let directory = git.home().join(&name);
        let lock = wait(&git.home().join(format!("{name}.lock")), remote).await?;
        let git = git.in_repository(&directory);
        let repository = Self { sources, remote, git, directory, object_format, _lock: lock };
        repository.make().await?;
        Ok(repository)
    }

    /// Returns where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns how it names its objects.
    pub fn object_format(&self) -> ObjectFormat {
        self.object_format
    }

    /// Returns a way to run git in it.
    pub fn git(&self) -> &Git<'a> {
        &self.git
    }

    /// Throws everything away that was fetched.
    pub async fn reset(&self) -> Result<(), SourceError> {
        let directory = self.directory.clone();
        let removed = blocking(move || {
            std::fs::remove_dir_all(&directory).map_err(SourceError::io("remove", &directory))
        });
        removed.await?;
        self.make().await
    }

    /// Makes sure that `commit`, or an annotated tag of that id, is there; returns the commit. `reference` is where
    /// it was found, for servers that give references only.
    pub async fn ensure(&self, commit: &str, reference: Option<&str>) -> Result<String, SourceError> {
        if let Some(found) = self.find(commit).await? {
            return Ok(found);
        }
        let by_id = format!("+{commit}:refs/xbuild/{commit}");
        let by_name = reference.map(|name| format!("+{name}:refs/xbuild/{commit}"));
        let shallow = [Some(by_id.as_str()), by_name.as_deref()];
        for refspec in shallow.into_iter().flatten() {
            self.fetch_or_go_on(&["--depth=1"], &[refspec]).await?;
            if let Some(found) = self.find(commit).await? {
                return Ok(found);
            }
        }
        // A dumb server has no shallow fetches, and many give no commits by their ids.
        for refspecs in
            [&["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"][..], &["+refs/*:refs/all/*"]]
        {
            self.fetch_everything(refspecs).await?;
            if let Some(found) = self.find(commit).await? {
                return Ok(found);
            }
        }
        Err(SourceError::NoReference { remote: self.remote.to_string(), reference: commit.to_owned() })
    }

    /// Returns the commit that a whole id names, if it is there.
    async fn find(&self, id: &str) -> Result<Option<String>, SourceError> {
        let expression = format!("{id}^{{commit}}");
        let arguments = ["rev-parse", "--quiet", "--verify", &expression];
        match self.git.own().run("look into", &arguments, self.sources.limits.listing).await {
            Ok(found) => Ok(super::refs::full_commit_id(found.trim())),
            Err(SourceError::Git { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the committer's time of a commit that is there, in seconds since the epoch.
    pub async fn time(&self, commit: &str) -> Result<i64, SourceError> {
        let arguments = ["show", "--no-patch", "--no-show-signature", "--format=%ct", commit, "--"];
        let text = self.git.own().run("look into", &arguments, self.sources.limits.listing).await?;
        text.trim().parse().map_err(|_| SourceError::Git {
            action: "look into",
            remote: self.remote.to_string(),
            detail: format!("{:?} is no time of a commit", text.trim()),
        })
    }

    async fn make(&self) -> Result<(), SourceError> {
        if self.directory.join("HEAD").is_file() {
            return self.remove_stale_locks();
        }
        let mut arguments = ["init", "--quiet", "--bare", "--template="].map(OsStr::new).to_vec();
        arguments.extend(self.object_format.options().iter().map(OsStr::new));
        arguments.extend([OsStr::new("--"), self.directory.as_os_str()]);
        let outside = Git::new(self.sources, self.remote)?.own();
        outside.run("prepare", &arguments, self.sources.limits.listing).await.map(drop)
    }

    /// A git that was killed leaves its locks; ours is the only process that uses the repository.
    fn remove_stale_locks(&self) -> Result<(), SourceError> {
        for name in ["shallow.lock", "packed-refs.lock", "config.lock", "HEAD.lock"] {
            let path = self.directory.join(name);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(SourceError::io("remove", &path)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    async fn fetch_everything(&self, refspecs: &[&str]) -> Result<(), SourceError> {
        let shallow = self.directory.join("shallow").is_file();
        // A branch may have come where there was a directory of branches; what is gone there is pruned first.
        let options: &[&str] = if shallow { &["--prune", "--unshallow"] } else { &["--prune"] };
        self.fetch(options, refspecs).await
    }

    /// Fetches, and takes a server that cannot do so much for one that has nothing.
    async fn fetch_or_go_on(&self, options: &[&str], refspecs: &[&str]) -> Result<(), SourceError> {
        match self.fetch(options, refspecs).await {
            Err(SourceError::Git { detail, .. }) if is_unable(&detail) => Ok(()),
            other => other,
        }
    }

    async fn fetch(&self, options: &[&str], refspecs: &[&str]) -> Result<(), SourceError> {
        let fixed = ["fetch", "--quiet", "--no-tags", "--force"];
        let mut arguments = fixed.to_vec();
        arguments.extend(options);
        arguments.extend(["--", self.remote.url()]);
        arguments.extend(refspecs);
        let mut attempt = 1;
        loop {
            match self.git.run("fetch", &arguments, self.sources.limits.fetching).await {
                Err(error) if is_transient(&error) && attempt < ATTEMPTS => {
                    tokio::time::sleep(Duration::from_secs(attempt.into())).await;
                    attempt += 1;
                }
                other => return other.map(drop),
            }
        }
    }
}

/// Returns whether a server, or git on its behalf, says that it cannot do this kind of fetch.
fn is_unable(detail: &str) -> bool {
    // git: fetch-pack.c, upload-pack.c, remote-curl.c.
    [
        "shallow",
        "--depth",
        "not our ref",
        "unadvertised object",
        "couldn't find remote ref",
        "no such remote ref",
    ]
    .iter()
    .any(|text| detail.contains(text))
}

async fn wait(path: &Path, remote: &Remote) -> Result<Lock, SourceError> {
    let mut pause = Duration::from_millis(5);
    loop {
        match Lock::attempt_named(path, &format!("git repository {remote}"))? {
            Attempt::Acquired(lock) => return Ok(lock),
            Attempt::Held(holder) => tracing::debug!(%remote, holder = holder.0, "wait for the repository"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
