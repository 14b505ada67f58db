//! Why a source could not be had. One line each; credentials and query strings are in none.

use std::fmt;
use std::path::PathBuf;

use oci::Digest;
use oci::layer::{ResolveError, TarError};
use oci::registry::Problem;

/// What went wrong, named for what was being done.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A text is no usable URL.
    #[error("{url} is no URL that can be fetched — {why}")]
    Url {
        /// The text without credentials.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A URL could not be fetched.
    #[error("download {url} — {problem}{}", LoginHint(url, problem))]
    Http {
        /// The URL without credentials and query.
        url: String,
        /// What stood in the way.
        problem: Box<Problem>,
    },
    /// A body is not what its checksum says; nothing of it is kept.
    #[error("digest mismatch for {url} — {what}, expected {expected} — check the checksum and the URL")]
    Checksum {
        /// The URL without credentials and query.
        url: String,
        /// What was found.
        what: String,
        /// What was promised.
        expected: Digest,
    },
    /// Something is larger than allowed.
    #[error("{what} is refused — it is larger than {limit} bytes")]
    TooLarge {
        /// What.
        what: String,
        /// How much is allowed.
        limit: u64,
    },
    /// A checkout has more files than allowed.
    #[error("{what} is refused — it has more than {limit} files")]
    TooManyFiles {
        /// What.
        what: String,
        /// How many are allowed.
        limit: u64,
    },
    /// A secret's value cannot be used.
    #[error("secret {id:?} cannot be used — {why}")]
    Secret {
        /// Its id.
        id: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A git remote that is not talked to.
    #[error("git repository {remote:?} is refused — {why}")]
    Remote {
        /// The text without credentials.
        remote: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A git reference that git could take for something else.
    #[error("git reference {reference:?} of {remote} is refused — {why}")]
    Reference {
        /// Whose it is.
        remote: String,
        /// The reference.
        reference: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A repository has no such branch, tag or commit.
    #[error(
        "repository does not contain ref {reference} — {remote} — check the name of the branch, tag or commit"
    )]
    NoReference {
        /// The repository.
        remote: String,
        /// What was asked for.
        reference: String,
    },
    /// A reference stands for another commit than promised.
    #[error("expected checksum to match {expected}, got {found} — {remote}")]
    Commit {
        /// The repository.
        remote: String,
        /// What was promised.
        expected: String,
        /// What the reference stands for.
        found: String,
    },
    /// A checksum that is no commit id.
    #[error("invalid checksum {checksum:?} for {remote} — expected hex commit hash")]
    NoCommitId {
        /// The repository.
        remote: String,
        /// What was given.
        checksum: String,
    },
    /// Git could not be started.
    #[error("run git — {source} — install git, or use an archive of the repository")]
    NoGit {
        /// Why.
        source: std::io::Error,
    },
    /// Git failed.
    #[error("{action} {remote} — git: {detail}{}", GitHint(detail))]
    Git {
        /// What was being done, such as `fetch`.
        action: &'static str,
        /// The repository without credentials.
        remote: String,
        /// The last words of git, without credentials.
        detail: String,
    },
    /// Git took too long.
    #[error("{action} {remote} — git was stopped after {seconds} s")]
    GitTimeout {
        /// What was being done.
        action: &'static str,
        /// The repository.
        remote: String,
        /// How long it ran.
        seconds: u64,
    },
    /// A directory of a repository is not there.
    #[error("git directory {subdir:?} of {remote} — {at:?} does not exist")]
    NoSubdir {
        /// The repository.
        remote: String,
        /// What was asked for.
        subdir: String,
        /// The first part that is missing.
        at: String,
    },
    /// A directory of a repository leads elsewhere.
    #[error("git directory {subdir:?} of {remote} is refused — {at:?} is not a directory")]
    Subdir {
        /// The repository.
        remote: String,
        /// What was asked for.
        subdir: String,
        /// The part that is a link or a file.
        at: String,
    },
    /// An archive is malformed, too large, or has something in it that a context may not have.
    #[error("unpack {what} — {why}")]
    Archive {
        /// Which.
        what: String,
        /// Why.
        why: ArchiveProblem,
    },
    /// A context that is neither.
    #[error("{what} is no build context — {why}")]
    NoContext {
        /// Which.
        what: String,
        /// Why.
        why: &'static str,
    },
    /// A system call on a path failed.
    #[error("{action} {} — {source}", .path.display())]
    Io {
        /// The verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The store.
    #[error("{}", crate::failure::chain(&**.0))]
    Store(Box<oci::Error>),
    /// The command is being stopped.
    #[error("stopped")]
    Stopped,
}

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveProblem {
    /// Its bytes.
    #[error("{}", crate::failure::chain(.0))]
    Tar(#[from] TarError),
    /// Its members' places.
    #[error("{}", crate::failure::chain(.0))]
    Resolve(#[from] ResolveError),
    /// What cannot be made of it.
    #[error("{}", crate::failure::chain(.0))]
    Unpack(#[from] executor::unpack::UnpackError),
    /// A member that a context may not have.
    #[error("member {path:?} is refused: {what}")]
    Member {
        /// The member.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
}

impl SourceError {
    /// Returns whether xbuild refused (policy, attack, limit) rather than being unable to.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::TooLarge { .. }
            | Self::TooManyFiles { .. }
            | Self::Remote { .. }
            | Self::Reference { .. }
            | Self::Subdir { .. } => true,
            Self::Http { problem, .. } => match &**problem {
                Problem::Exhausted { last, .. } => matches!(**last, Problem::Refused(_)),
                problem => matches!(problem, Problem::Refused(_)),
            },
            Self::Archive { why, .. } => match why {
                ArchiveProblem::Tar(TarError::Refused { .. } | TarError::Limit(_))
                | ArchiveProblem::Resolve(_)
                | ArchiveProblem::Member { .. } => true,
                ArchiveProblem::Tar(TarError::Io(_) | TarError::CutOff { .. } | TarError::Trailing)
                | ArchiveProblem::Unpack(_) => false,
            },
            Self::Url { .. }
            | Self::Checksum { .. }
            | Self::Secret { .. }
            | Self::NoReference { .. }
            | Self::Commit { .. }
            | Self::NoCommitId { .. }
            | Self::NoGit { .. }
            | Self::Git { .. }
            | Self::GitTimeout { .. }
            | Self::NoSubdir { .. }
            | Self::NoContext { .. }
            | Self::Io { .. }
            | Self::Store(_)
            | Self::Stopped => false,
        }
    }

    pub(super) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    pub(super) fn archive(what: &str) -> impl Fn(ArchiveProblem) -> Self {
        move |why| Self::Archive { what: what.to_owned(), why }
    }
}

impl From<oci::Error> for SourceError {
    fn from(error: oci::Error) -> Self {
        Self::Store(Box::new(error))
    }
}

/// What to do about a server that wants a login.
struct LoginHint<'a>(&'a str, &'a Problem);

impl fmt::Display for LoginHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem::Status { status, .. } = self.1 else { return Ok(()) };
        if !matches!(status.as_u16(), 401 | 403) {
            return Ok(());
        }
        let host = reqwest::Url::parse(self.0).ok().and_then(|url| url.host_str().map(str::to_owned));
        write!(f, " — give a token with --secret id=HTTP_AUTH_TOKEN_{},env=…", host.unwrap_or_default())
    }
}

/// What to do about the commonest failures of git.
struct GitHint<'a>(&'a str);

impl fmt::Display for GitHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |text| self.0.contains(text);
        if has("could not read Username") || has("Authentication failed") || has("HTTP 403") {
            f.write_str(" — give a token with --secret id=GIT_AUTH_TOKEN,env=…")
        } else if has("Permission denied (publickey") {
            f.write_str(" — start an ssh agent with a key of the repository")
        } else if has("transport '") && has("not allowed") {
            f.write_str(" — only https, ssh, http and git are talked to")
        } else {
            Ok(())
        }
    }
}
