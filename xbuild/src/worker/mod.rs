//! The solver's worker over the executor: ops to snapshots, remote layers to packed ones before the executor is
//! called. The one place that knows both sides.

pub mod build;
mod caches;
mod copy;
mod download;
pub mod error;
pub mod layer;
mod mounted;
mod packed;
mod run;
mod ssh;
mod stacked;

use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use executor::copy::SourceKind;
use executor::layers::Flavour;
use executor::sandbox::Spawner;
use executor::{diff, tree};
use frontend::graph::{Op, Selection, Step, content_id};
use futures_util::FutureExt as _;
use oci::layer::{ContentHash, LayerIndex, Mtime};
use oci::lock::{Holder, Lock};
use oci::store::Store;
use solver::{CacheKey, Execution, LayerResult, StepContext, StepRecord, Worker};

use crate::bases::Bases;
use crate::fetch::Fetcher;
use crate::options::{BuildOptions, Secret, SecretSource, variable};
use error::StepError;
use layer::{Layer, Layers, Stack, blocking};

/// The most bytes of a secret, as BuildKit has it.
const SECRET_LIMIT: u64 = 500 << 10;

/// Does the steps of one build.
pub struct BuildWorker {
    /// The store.
    pub store: Arc<Store>,
    /// Lease and staging directory.
    pub build: Arc<build::Build>,
    /// Layers and their residences.
    pub layers: Layers,
    /// Base images.
    pub bases: Arc<Bases>,
    /// Runs processes.
    pub spawner: Spawner,
    /// What the user asked for.
    pub options: Arc<BuildOptions>,
    /// Open directories of contexts, by name.
    pub contexts: std::collections::BTreeMap<String, Arc<OwnedFd>>,
    /// URLs and git repositories.
    pub fetcher: Arc<Fetcher>,
}

/// What a step makes or names.
#[derive(Clone)]
pub enum Snapshot {
    /// A file system state.
    Layers(Stack),
    /// Files of a context.
    Local(Arc<LocalFiles>),
}

/// Selected files and the directory they are in.
pub struct LocalFiles {
    /// What was selected.
    pub selection: Arc<Selection>,
    /// The directory that they are in.
    pub root: Arc<OwnedFd>,
    /// What they are.
    pub kind: SourceKind,
}

impl Snapshot {
    fn stack(&self) -> Option<&Stack> {
        match self {
            Self::Layers(stack) => Some(stack),
            Self::Local(_) => None,
        }
    }
}

/// Returns the stack below a step; none is an empty one.
fn parent_stack(parent: Option<&Snapshot>) -> Stack {
    parent.and_then(Snapshot::stack).cloned().unwrap_or_else(|| Arc::from([]))
}

fn on_top(parent: &Stack, layer: Arc<Layer>) -> Snapshot {
    Snapshot::Layers(parent.iter().cloned().chain([layer]).collect())
}

impl Worker for BuildWorker {
    type Snapshot = Snapshot;
    type Error = StepError;
    type Guard = Lock;

    fn available(&self, layer: &LayerResult) -> bool {
        self.layers.available(layer)
    }

    async fn source(&self, step: &Step, context: &StepContext) -> Result<Snapshot, StepError> {
        match &step.op {
            Op::Image(image) => Ok(Snapshot::Layers(self.bases.stack(&image.manifest, &image.reference)?)),
            Op::OciLayout(layout) => Ok(Snapshot::Layers(self.bases.stack(&layout.manifest, "")?)),
            Op::Local(local) => {
                let root = self.contexts.get(&local.context).cloned().ok_or_else(|| {
                    StepError::Unsupported(format!("the context {:?} is no directory", local.context))
                })?;
                let (selection, kind) = (Arc::clone(&local.selection), SourceKind::Context);
                Ok(Snapshot::Local(Arc::new(LocalFiles { selection, root, kind })))
            }
            Op::Git(git) => unless_stopped(context, self.fetcher.commit(git)).await.map(of_files),
            Op::Http(http) => unless_stopped(context, self.fetcher.file(http)).await.map(of_files),
            Op::Run(_) | Op::Copy(_) | Op::Mkdir(_) => unreachable!("the solver executes layer steps"),
        }
    }

    async fn restore(
        &self,
        _step: &Step,
        parent: Option<&Snapshot>,
        record: &StepRecord,
    ) -> Option<Snapshot> {
        if !self.layers.available(&record.layer) {
            return None;
        }
        Some(on_top(&parent_stack(parent), Layer::recorded(record.layer.clone())))
    }

    async fn content_digest(
        &self,
        step: &Step,
        parent: Option<&Snapshot>,
        inputs: &[Snapshot],
    ) -> Result<Option<ContentHash>, StepError> {
        match &step.op {
            Op::Copy(op) => copy::content_digest(self, op, step, &parent_stack(parent), inputs).await,
            Op::Run(op) => mounted::content_digest(self, op, inputs).await,
            Op::Mkdir(_) | Op::Image(_) | Op::Local(_) | Op::Git(_) | Op::Http(_) | Op::OciLayout(_) => {
                Ok(None)
            }
        }
    }

    async fn lock_step(&self, lock: CacheKey, context: &StepContext) -> Result<Lock, StepError> {
        let what = format!("step {}", context.step.0);
        let waiting =
            |holder: &Holder| context.waiting(format!("another build that runs this step ({})", holder.0));
        let key = lock.to_string();
        let taken = self.store.lock_step(&key, &what, waiting);
        tokio::select! {
            lock = taken => Ok(lock?),
            () = context.cancelled() => Err(StepError::Stopped),
        }
    }

    async fn execute(
        &self,
        step: &Step,
        parent: Option<&Snapshot>,
        inputs: &[Snapshot],
        context: &StepContext,
    ) -> Result<Execution<Snapshot, StepError>, StepError> {
        let parent = parent_stack(parent);
        let layer = match &step.op {
            Op::Run(op) => {
                let ran = run::run(self, op, step, &parent, inputs, context).await?;
                self.layer_of_run(step, ran).await?
            }
            Op::Copy(op) => {
                unless_stopped(context, copy::copy(self, op, step, &parent, inputs, context)).await?
            }
            Op::Mkdir(op) => unless_stopped(context, copy::mkdir(self, op, step, &parent, context)).await?,
            Op::Image(_) | Op::Local(_) | Op::Git(_) | Op::Http(_) | Op::OciLayout(_) => {
                unreachable!("the solver asks for sources")
            }
        };
        let created = step.source_date_epoch.unwrap_or_else(|| now().seconds);
        let planned = layer.planned_content();
        let settled = Arc::clone(&layer);
        let settled = async move {
            let done = settled.settled().await.unwrap_or(Err(StepError::Stopped))?.result;
            let confirmed = planned.is_none_or(|planned| planned == done.content_id);
            debug_assert!(confirmed, "packing changes no content");
            Ok(done)
        };
        let settled = settled.boxed().shared();
        // Where it is known already, what follows need not wait for the packing.
        let content = match planned {
            Some(content) => std::future::ready(Ok(content)).boxed(),
            None => settled.clone().map(|result| result.map(|result| result.content_id)).boxed(),
        };
        Ok(Execution { snapshot: on_top(&parent, layer), created, content, settled: settled.boxed() })
    }
}

impl BuildWorker {
    /// Makes a layer of what a RUN left.
    async fn layer_of_run(&self, step: &Step, ran: run::Ran) -> Result<Arc<Layer>, StepError> {
        let epoch = step.source_date_epoch;
        let run::Ran { upper, end } = ran;
        let (index, items, upper) = blocking(move || {
            let root = Arc::new(tree::open_root(&upper).map_err(StepError::io("open", &upper))?);
            let options = diff::Options { flavour: Flavour::Root, epoch, stubs: &end.stubs };
            let found = diff::scan(root.as_fd(), options)?;
            found.settle(root.as_fd())?;
            let items: Vec<_> = found.items(&root).collect();
            let beneath = |path: &std::path::Path| tree::Content::Beneath {
                root: Arc::clone(&root),
                path: path.to_owned(),
            };
            let inline = executor::owner::inline(&found.entries, |entry| Some(beneath(&entry.path)))
                .map_err(StepError::io("read the account files of", &upper))?;
            let index = LayerIndex::new(found.entries, inline).map_err(|error| StepError::Layer {
                layer: "the step's layer".to_owned(),
                why: crate::failure::chain(&error),
            })?;
            Ok((index, items, upper))
        })
        .await?;
        Ok(self.layers.pack_upper(index, upper, items))
    }

    /// Returns a fresh directory that lives as long as the build.
    pub fn scratch_directory(&self) -> Result<PathBuf, StepError> {
        self.build.scratch()
    }

    /// Returns a secret's value; `None` where no such secret was given.
    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, StepError> {
        match self.options.steps.secrets.iter().find(|secret| secret.id == id) {
            Some(secret) => read_secret(secret),
            None => Ok(None),
        }
    }

    /// Unpacks the selected files of a context into a directory, for bind mounts: what the ignore file hides is
    /// not in it.
    async fn materialise(&self, local: &Arc<LocalFiles>) -> Result<PathBuf, StepError> {
        let directory = self.scratch_directory()?.join("fs");
        let local = Arc::clone(local);
        blocking(move || {
            std::fs::create_dir(&directory).map_err(StepError::io("make directory", &directory))?;
            let root = tree::open_root(&directory).map_err(StepError::io("open", &directory))?;
            let entries = local.selection.entries.iter().filter(|entry| !entry.path.as_os_str().is_empty());
            let index = LayerIndex::new(entries.cloned().collect(), Default::default()).map_err(|error| {
                StepError::Layer { layer: "the context".to_owned(), why: crate::failure::chain(&error) }
            })?;
            executor::unpack::unpack_index(
                std::os::fd::AsFd::as_fd(&root),
                &index,
                Flavour::Root,
                &mut |entry| Ok(diff::content(&local.root, &entry.path)),
            )?;
            Ok(directory)
        })
        .await
    }

    /// Copies a directory of an input to `to`, as the first content of a cache mount.
    async fn copy_directory(
        &self,
        input: &Snapshot,
        source: &str,
        to: &std::path::Path,
    ) -> Result<(), StepError> {
        copy::directory(self, input, source, to).await
    }
}

fn of_files(files: LocalFiles) -> Snapshot {
    Snapshot::Local(Arc::new(files))
}

/// Does `work`, which may be dropped at any time, unless the step is to stop first: a base may take long to arrive.
async fn unless_stopped<T>(
    context: &StepContext,
    work: impl Future<Output = Result<T, StepError>>,
) -> Result<T, StepError> {
    tokio::select! {
        done = work => done,
        () = context.cancelled() => Err(StepError::Stopped),
    }
}

/// Returns a secret's value; `None` where its variable is not set.
pub fn read_secret(secret: &Secret) -> Result<Option<Vec<u8>>, StepError> {
    let path = match &secret.source {
        SecretSource::Variable(name) => return Ok(variable(name).map(String::into_bytes)),
        SecretSource::File(path) => path,
    };
    let file = std::fs::File::open(path).map_err(StepError::io("open the secret", path))?;
    let mut data = Vec::new();
    file.take(SECRET_LIMIT + 1).read_to_end(&mut data).map_err(StepError::io("read the secret", path))?;
    if data.len() as u64 > SECRET_LIMIT {
        return Err(StepError::Unsupported(format!(
            "the secret {:?} is larger than {} KiB: {}",
            secret.id,
            SECRET_LIMIT >> 10,
            path.display()
        )));
    }
    Ok(Some(data))
}

/// Reads the clock. Only times of new directories and of records come from here.
pub fn now() -> Mtime {
    #[expect(clippy::disallowed_methods, reason = "a record says when its layer was made")]
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Mtime { seconds: since.as_secs().cast_signed(), nanoseconds: since.subsec_nanos() }
}

/// Returns the content id of planned entries, `None` where a file's bytes are not known.
fn planned_content(entries: &[&oci::layer::Entry]) -> Option<ContentHash> {
    let known =
        entries.iter().all(|entry| !matches!(entry.kind, oci::layer::Kind::File { content: None, .. }));
    known.then(|| content_id(entries.iter().copied()))
}
