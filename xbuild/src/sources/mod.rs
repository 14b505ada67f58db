//! Sources beyond local directories: URLs, git repositories, and contexts that come through them or through
//! standard input.
//!
//! What a server, a repository or an archive says is a stranger's word: it may choose bytes, and nothing else.
//! Nothing here reads the environment, draws progress or knows a Dockerfile.

pub mod archive;
pub mod context;
pub mod error;
pub mod git;
pub mod http;

use std::collections::BTreeMap;
use std::sync::Arc;

use oci::layer;
use oci::registry::Client;
use oci::store::Store;

pub use error::SourceError;

/// Everything that sources are had through.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Bodies of URLs are its blobs, repositories are in its `sources/git`.
    pub store: Arc<Store>,
    /// Connections, proxies and certificates.
    pub client: Client,
    /// Values of the secrets that name credentials.
    pub secrets: Secrets,
    /// How the host's git is run.
    pub git: git::Environment,
    /// Sizes and times.
    pub limits: Limits,
}

/// What a source may cost (SRC-08, SRC-09).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a URL's body, of standard input, and of a file that git writes.
    pub bytes: u64,
    /// Bytes of a Dockerfile that takes the place of a context.
    pub dockerfile: u64,
    /// What an archive may hold.
    pub archive: layer::Limits,
    /// How long git may list references.
    pub listing: std::time::Duration,
    /// How long git may fetch or check out.
    pub fetching: std::time::Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            dockerfile: 16 << 20,
            archive: layer::Limits::default(),
            listing: std::time::Duration::from_secs(120),
            fetching: std::time::Duration::from_secs(3600),
        }
    }
}

/// Secrets that sources look for, by their ids: `HTTP_AUTH_HEADER_<host>`, `HTTP_AUTH_TOKEN_<host>`,
/// `GIT_AUTH_HEADER[.<host>]`, `GIT_AUTH_TOKEN[.<host>]`.
#[derive(Clone, Default)]
pub struct Secrets(BTreeMap<String, Arc<[u8]>>);

impl Secrets {
    /// Takes ids and values.
    pub fn new(values: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        Self(values.into_iter().map(|(id, value)| (id, value.into())).collect())
    }

    /// Returns whether a source looks for a secret of this id, so that others need not be read.
    pub fn is_wanted(id: &str) -> bool {
        ["HTTP_AUTH_HEADER_", "HTTP_AUTH_TOKEN_", "GIT_AUTH_HEADER", "GIT_AUTH_TOKEN"]
            .iter()
            .any(|prefix| id.starts_with(prefix))
    }

    /// Returns a value as text, without the line end that editors leave.
    fn text(&self, id: &str) -> Result<Option<&str>, SourceError> {
        let Some(value) = self.0.get(id) else { return Ok(None) };
        let bad = |why| SourceError::Secret { id: id.to_owned(), why };
        let text =
            std::str::from_utf8(value).map_err(|_| bad("it is not UTF-8"))?.trim_end_matches(['\r', '\n']);
        if text.chars().any(char::is_control) {
            return Err(bad("it has control characters in it"));
        }
        Ok(Some(text).filter(|text| !text.is_empty()))
    }
}

/// Values never reach a log.
impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Returns 128 bits of blake3 over length-prefixed fields, in hexadecimal: the name of a source in the store.
fn name_of(fields: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for field in fields {
        hasher.update(&(field.len() as u64).to_le_bytes()).update(field.as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// Runs what blocks off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(SourceError::Stopped),
    }
}

#[cfg(test)]
mod testing;
