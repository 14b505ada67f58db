//! Git repositories to commits and directories, through the host's git in a clean environment.
//!
//! A repository chooses the bytes and names of files below the checkout, and nothing else: no program is run for
//! it, no file outside is read for it, and its submodules come over the network or not at all. Credentials are in
//! no argument, file, message or result.

mod checkout;
mod command;
mod modes;
mod refs;
mod remote;
mod repository;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use checkout::{Checkout, GitDirectory, Submodules, checkout};
pub use refs::Resolved;
pub use remote::{Remote, redacted};

use super::{SourceError, Sources};
use command::Git;
use repository::{ObjectFormat, Repository};

/// What git sees of the process' environment; nothing else of it does.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `PATH`.
    pub path: String,
    /// `SSH_AUTH_SOCK`.
    pub ssh_agent: Option<PathBuf>,
    /// A file of known hosts; without one the user's is used, and a host that is in none is trusted from its
    /// first connection on.
    pub known_hosts: Option<PathBuf>,
    /// Proxy variables that are set, with their names.
    pub proxies: Vec<(String, String)>,
    /// A file with certificate authorities.
    pub ca_file: Option<PathBuf>,
    /// A directory with certificate authorities.
    pub ca_directory: Option<PathBuf>,
}

impl Environment {
    /// Takes what matters from `variable`.
    pub fn new(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name: &str| set(name).map(PathBuf::from);
        let names = ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
        let mut proxies: Vec<_> =
            names.iter().filter_map(|name| Some(((*name).to_owned(), set(name)?))).collect();
        if !proxies.is_empty() {
            // This machine is reached directly, as registries on it are.
            let exempt =
                set("no_proxy").or_else(|| set("NO_PROXY")).map(|hosts| hosts + ",").unwrap_or_default();
            proxies.push(("no_proxy".to_owned(), format!("{exempt}localhost,127.0.0.1,::1")));
        }
        Self {
            path: variable("PATH").unwrap_or_default(),
            ssh_agent: path("SSH_AUTH_SOCK"),
            known_hosts: None,
            proxies,
            ca_file: path("GIT_SSL_CAINFO").or_else(|| path("SSL_CERT_FILE")),
            ca_directory: path("GIT_SSL_CAPATH").or_else(|| path("SSL_CERT_DIR")),
        }
    }
}

/// Returns the time of a commit in seconds since the epoch, fetching it.
///
/// # Errors
/// [`SourceError::NoReference`], [`SourceError::Git`], [`SourceError::GitTimeout`], [`SourceError::NoGit`].
pub async fn time(sources: &Sources, remote: &Remote, resolved: &Resolved) -> Result<i64, SourceError> {
    let repository = Repository::open(sources, remote, ObjectFormat::of(&resolved.commit)).await?;
    let commit = repository.ensure(&resolved.commit, resolved.name.as_deref()).await?;
    repository.time(&commit).await
}

/// Returns the commit that `reference` stands for: a branch, a tag, a full name or a whole commit id;
/// empty for the remote's default. A full commit id is taken at its word until it is checked out.
///
/// # Errors
/// [`SourceError::Reference`], [`SourceError::NoReference`], [`SourceError::Git`], [`SourceError::GitTimeout`],
/// [`SourceError::NoGit`].
pub async fn resolve(sources: &Sources, remote: &Remote, reference: &str) -> Result<Resolved, SourceError> {
    if let Some(commit) = refs::full_commit_id(reference) {
        return Ok(Resolved { object: commit.clone(), commit, name: None });
    }
    let git = Git::new(sources, remote)?;
    if matches!(reference, "" | "HEAD") {
        let listing = git.list(&["--symref", "--", remote.url(), "HEAD"]).await?;
        return refs::default_branch(&listing, remote);
    }
    refs::check(reference, remote)?;
    let peeled = format!("{reference}^{{}}");
    let listing = git.list(&["--", remote.url(), reference, &peeled]).await?;
    refs::pick(&listing, reference).ok_or_else(|| SourceError::NoReference {
        remote: remote.to_string(),
        reference: reference.to_owned(),
    })
}
