//! Sources of one build that are fetched: URLs, repositories and contexts, on their way from what lowering asks for
//! to files that steps take from.
//!
//! Credentials stay here: what the graph knows of a repository is its address without them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use executor::context::{Context, StatCache};
use executor::copy::SourceKind;
use executor::tree;
use frontend::graph::pattern::ignore::Rules;
use frontend::graph::{GitOp, HttpOp, Selection, SelectionRequest};
use frontend::lower::{GitNeed, KnownGit, KnownUrl, SourceTime, UrlNeed};
use oci::layer::{Entry, Kind, Mtime};
use oci::store::{Leased, Store};

use crate::options::{BuildOptions, Secret, variable};
use crate::registries::Registries;
use crate::sources::context::{self, Argument, Prepared};
use crate::sources::git::{self, Checkout, Remote};
use crate::sources::{Limits, Secrets, SourceError, Sources, http};
use crate::worker::build::Build;
use crate::worker::error::StepError;
use crate::worker::layer::blocking;
use crate::worker::{LocalFiles, now, read_secret};

/// How long a source may take before the user is told what is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Fetches for one build.
pub struct Fetcher {
    store: Arc<Store>,
    build: Arc<Build>,
    registries: Arc<Registries>,
    agent: Option<PathBuf>,
    secrets: Vec<Secret>,
    sources: OnceLock<Sources>,
    repositories: Mutex<BTreeMap<(String, String), Repository>>,
}

/// Where a commit was found.
#[derive(Clone)]
struct Repository {
    remote: Remote,
    /// Full name of the reference.
    name: Option<String>,
}

impl Fetcher {
    /// Prepares for a build; nothing is read or made yet.
    pub fn new(
        store: Arc<Store>,
        build: Arc<Build>,
        registries: Arc<Registries>,
        options: &BuildOptions,
    ) -> Self {
        let agent =
            options.steps.ssh.iter().find(|(id, _)| id == "default").map(|(_, socket)| socket.clone());
        let secrets =
            options.steps.secrets.iter().filter(|secret| Secrets::is_wanted(&secret.id)).cloned().collect();
        let (sources, repositories) = (OnceLock::new(), Mutex::default());
        Self { store, build, registries, agent, secrets, sources, repositories }
    }

    /// Makes a directory of a context, which lives as long as the build.
    ///
    /// # Errors
    /// Those of [`context::prepare`].
    pub async fn context(&self, argument: &Argument) -> Result<Prepared, StepError> {
        let what = match argument {
            Argument::Stdin => "standard input",
            Argument::Git(reference) => &reference.remote,
            Argument::Url(url) => url,
            Argument::Directory(_) => "a directory",
        };
        let preparing = context::prepare(self.sources()?, argument, self.build.scratch()?);
        let prepared = self.told(what, preparing).await?;
        if let context::Origin::Url { digest, .. } = &prepared.origin {
            self.build.lease(&[Leased::Blob(*digest)])?;
        }
        Ok(prepared)
    }

    /// Returns what a URL serves.
    ///
    /// # Errors
    /// Those of [`http::fetch`].
    pub async fn url(&self, need: &UrlNeed) -> Result<KnownUrl, StepError> {
        let fetching = http::fetch(self.sources()?, &need.url, need.checksum);
        let fetched = self.told(&need.url, fetching).await?;
        self.build.lease(&[Leased::Blob(fetched.digest)])?;
        let newest_entry = match (need.time, fetched.last_modified) {
            (SourceTime::Wanted, None) => {
                let (store, digest) = (Arc::clone(&self.store), fetched.digest);
                blocking(move || {
                    let mut file = store.layout().open_blob(&digest)?;
                    Ok(crate::sources::archive::newest_entry(&mut file, Limits::default().archive))
                })
                .await?
            }
            (SourceTime::Unused, _) | (SourceTime::Wanted, Some(_)) => None,
        };
        Ok(KnownUrl { digest: fetched.digest, last_modified: fetched.last_modified, newest_entry })
    }

    /// Returns what a git reference stands for.
    ///
    /// # Errors
    /// Those of [`git::resolve`] and [`git::time`].
    pub async fn git(&self, need: &GitNeed) -> Result<KnownGit, StepError> {
        let sources = self.sources()?;
        let remote = Remote::parse(&need.remote)?;
        let resolved = self.told(remote.url(), git::resolve(sources, &remote, &need.reference)).await?;
        let committed = match need.time {
            SourceTime::Wanted => Some(git::time(sources, &remote, &resolved).await?),
            SourceTime::Unused => None,
        };
        let (url, name) = (remote.url().to_owned(), resolved.name);
        let mut repositories = self.repositories.lock().unwrap_or_else(PoisonError::into_inner);
        repositories.insert((url.clone(), resolved.commit.clone()), Repository { remote, name });
        Ok(KnownGit { remote: url, commit: resolved.commit, object: resolved.object, committed })
    }

    /// Returns a downloaded file as the tree of a step.
    ///
    /// # Errors
    /// Those of [`http::place`].
    pub async fn file(&self, op: &HttpOp) -> Result<LocalFiles, StepError> {
        let (store, op, directory) = (Arc::clone(&self.store), op.clone(), self.build.scratch()?);
        blocking(move || {
            let path = http::place(&store, &op, &directory)?;
            let size = std::fs::metadata(&path).map_err(StepError::io("look at", &path))?.len();
            let name = path.file_name().map(Path::new).unwrap_or(&path);
            let mut entry = Entry::plain(name, Kind::File { size, content: None }, 0o600);
            entry.mtime = Mtime { seconds: op.last_modified.unwrap_or(0), nanoseconds: 0 };
            let root = tree::open_root(&directory).map_err(StepError::io("open", &directory))?;
            let selection = Arc::new(Selection::new(vec![entry]));
            Ok(LocalFiles { selection, root: Arc::new(root), kind: SourceKind::Url })
        })
        .await
    }

    /// Returns a commit as the tree of a step.
    ///
    /// # Errors
    /// Those of [`git::checkout`].
    pub async fn commit(&self, op: &GitOp) -> Result<LocalFiles, StepError> {
        let known = {
            let repositories = self.repositories.lock().unwrap_or_else(PoisonError::into_inner);
            repositories.get(&(op.remote.clone(), op.commit.clone())).cloned()
        };
        let Repository { remote, name } = match known {
            Some(known) => known,
            None => Repository { remote: Remote::parse(&op.remote)?, name: None },
        };
        let checkout = Checkout { reference: name.as_deref(), ..Checkout::of_op(&remote, op) };
        let done = git::checkout(self.sources()?, &checkout, self.build.scratch()?).await?;
        blocking(move || files_of(&done.directory)).await
    }

    /// Does `work`, and says so where it takes a while.
    async fn told<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(PATIENCE) => {}
        }
        // A query may hold a token.
        let shown = git::redacted(what.split('?').next().unwrap_or_default());
        self.registries.tell(format!("reading {shown} …"));
        work.await
    }

    fn sources(&self) -> Result<&Sources, StepError> {
        if let Some(sources) = self.sources.get() {
            return Ok(sources);
        }
        let environment = git::Environment::new(variable);
        let made = Sources {
            store: Arc::clone(&self.store),
            client: self.registries.client()?.clone(),
            secrets: read(&self.secrets)?,
            git: git::Environment {
                ssh_agent: self.agent.clone().or(environment.ssh_agent.clone()),
                ..environment
            },
            limits: Limits::default(),
        };
        Ok(self.sources.get_or_init(|| made))
    }
}

fn read(secrets: &[Secret]) -> Result<Secrets, StepError> {
    let mut values = Vec::new();
    for secret in secrets {
        if let Some(value) = read_secret(secret)? {
            values.push((secret.id.clone(), value));
        }
    }
    Ok(Secrets::new(values))
}

/// Returns everything in a checkout.
fn files_of(directory: &Path) -> Result<LocalFiles, StepError> {
    let root = tree::open_root(directory).map_err(StepError::io("open", directory))?;
    let root = Arc::new(root);
    let (ignore, cache) = (Rules::default(), StatCache::default());
    let context = Context { root: &root, ignore: &ignore, cache: &cache, now: now() };
    let everything = SelectionRequest {
        patterns: vec![String::new()],
        wildcards: false,
        parents: false,
        excludes: Vec::new(),
        follow: false,
    };
    let selection = executor::context::scan(&context, &everything).map_err(|error| {
        let source = std::io::Error::other(crate::failure::chain(&error));
        StepError::io("read the checkout in", directory)(source)
    })?;
    Ok(LocalFiles { selection: Arc::new(selection), root, kind: SourceKind::Git })
}

impl From<SourceError> for StepError {
    fn from(error: SourceError) -> Self {
        Self::Source(Arc::new(error))
    }
}
