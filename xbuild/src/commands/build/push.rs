//! Pushing while the build goes on: layers of the targets are sent as soon as they are certain, so that at the end
//! the rest is the config and the manifests.
//!
//! What runs here is only ahead of its time. A layer that cannot be sent is tried again by the push at the end, a
//! build that ends early takes its uploads with it, and nothing here sets a tag. One thing does end a build: a
//! registry that says at the beginning that we may not push there. Who is told so in the first second need not wait
//! for the end of the build to hear it.
//!
//! Layers of a base that the target lacks are linked from the base's repository, else sent from the store, where the
//! steps bring them anyway; where no step needs them they go from registry to registry.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use frontend::graph::{Op, StepGraph, StepId, StepKind};
use futures_util::future::join_all;
use oci::Digest;
use oci::document::{self, Descriptor};
use oci::reference::Reference;
use oci::registry::{BlobSource, Client, PushBlob, PushImage, Upload, plan_push};
use solver::{Event, LayerResult, Observer, Topology};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::Session;
use crate::commands::send::{self, Repository, There, by_registry};
use crate::failure::{Class, Failure};
use crate::images::{self, Places};
use crate::registries::Registries;
use crate::whereabouts;
use crate::worker::BuildWorker;
use crate::worker::layer::{Blob, Layer};

/// The uploads of a build that are ahead of its push. They end with this value.
pub struct Ahead {
    shared: Arc<Shared>,
}

/// What tasks are given.
struct Work {
    worker: Arc<BuildWorker>,
    registries: Arc<Registries>,
    client: Client,
    /// Repositories of one registry stand together: what is in one of them can be linked into the next.
    targets: Vec<Vec<Target>>,
    there: Mutex<There>,
    /// Blobs that somebody sees to.
    begun: Mutex<BTreeSet<Digest>>,
    denied: watch::Sender<Option<Failure>>,
    chain: Chain,
}

/// What starts tasks.
struct Shared {
    work: Arc<Work>,
    tasks: Mutex<JoinSet<()>>,
    /// The task that asks for permission: nobody waits for it at the end.
    asking: Mutex<JoinSet<()>>,
    runtime: tokio::runtime::Handle,
    begun: AtomicBool,
}

/// One repository.
struct Target {
    place: Reference,
    slots: Semaphore,
    /// Something went wrong there: the push at the end will say what.
    given_up: AtomicBool,
}

/// The steps whose layers make the images.
struct Chain {
    graph: Arc<StepGraph>,
    steps: BTreeSet<StepId>,
    /// Those whose layers are certain.
    settled: Mutex<BTreeSet<StepId>>,
}

impl Chain {
    /// `targets` of all that are solved become images.
    fn new(graph: &Arc<StepGraph>, solved: &[StepId], targets: &[StepId]) -> Self {
        let topology = Topology::new(graph, solved);
        let mut steps = BTreeSet::new();
        for target in targets {
            let mut at = Some(topology.representative(*target));
            // Below a step that was seen all others were.
            while let Some(id) = at.filter(|id| steps.insert(*id)) {
                at = topology.parent(id);
            }
        }
        Self { graph: Arc::clone(graph), steps, settled: Mutex::default() }
    }

    fn bases(&self) -> Vec<StepId> {
        let sources = self.steps.iter().filter(|id| self.graph.step(**id).kind() == StepKind::Source);
        sources.copied().collect()
    }

    /// Whether a step will read what its base holds. COPY --link does not look at what is below it.
    fn reads_base(&self) -> bool {
        let settled = lock(&self.settled);
        self.steps.iter().filter(|id| !settled.contains(id)).any(|id| match &self.graph.step(*id).op {
            Op::Run(_) | Op::Mkdir(_) => true,
            Op::Copy(copy) => !copy.link,
            Op::Image(_) | Op::OciLayout(_) | Op::Local(_) | Op::Git(_) | Op::Http(_) => false,
        })
    }
}

impl Ahead {
    /// Prepares to push what `targets` of the graph become under `names`. Nothing is asked of a registry before a
    /// solve has something to run: what is cached whole is pushed at once anyway.
    ///
    /// # Errors
    /// Where what the user says about registries is wrong.
    pub fn new(
        worker: &Arc<BuildWorker>,
        registries: &Arc<Registries>,
        names: &[Reference],
        (graph, solved, targets): (&Arc<StepGraph>, &[StepId], &[StepId]),
    ) -> Result<Self, Failure> {
        let client = registries.client()?.clone();
        let parallel = client.settings().limits.parallel.max(1);
        let target =
            |place| Target { place, slots: Semaphore::new(parallel), given_up: AtomicBool::new(false) };
        let targets_of = |repositories: Vec<Repository>| {
            repositories.into_iter().map(|repository| target(repository.place)).collect()
        };
        let work = Work {
            worker: Arc::clone(worker),
            registries: Arc::clone(registries),
            client,
            targets: by_registry(names).into_iter().map(targets_of).collect(),
            there: Mutex::default(),
            begun: Mutex::default(),
            denied: watch::Sender::new(None),
            chain: Chain::new(graph, solved, targets),
        };
        let shared = Shared {
            work: Arc::new(work),
            tasks: Mutex::default(),
            asking: Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
            begun: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Returns who is to be told of the solve, which passes on to `observer`.
    pub fn watch(&self, observer: Arc<dyn Observer>) -> Arc<dyn Observer> {
        Arc::new(Watch { observer, shared: Arc::clone(&self.shared) })
    }

    /// Returns once a registry has said that we may not push there.
    pub async fn denied(&self) -> Failure {
        let mut denied = self.shared.work.denied.subscribe();
        match denied.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
            Ok(Some(failure)) => failure,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Waits for the uploads that are on their way, and returns what is in the repositories.
    pub async fn finish(self) -> There {
        lock(&self.shared.asking).abort_all();
        let mut tasks = std::mem::take(&mut *lock(&self.shared.tasks));
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        std::mem::take(&mut *lock(&self.shared.work.there))
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        lock(&self.shared.asking).abort_all();
        lock(&self.shared.tasks).abort_all();
    }
}

/// Returns once a registry has said that we may not push there; never where nothing is to be pushed.
pub async fn denied(ahead: Option<&Ahead>) -> Failure {
    match ahead {
        Some(ahead) => ahead.denied().await,
        None => std::future::pending().await,
    }
}

/// Pushes what the build made under its names.
///
/// # Errors
/// Push failures, which name the command that repeats only the push.
pub async fn finish(
    session: &Session,
    registries: &Arc<Registries>,
    root: &Descriptor,
    ahead: Ahead,
) -> Result<(), Failure> {
    let there = ahead.finish().await;
    let places = Places::of_store(Arc::clone(&session.store), Arc::clone(registries));
    let image = images::stored(&places, root).await?;
    let digest = document::digest_of(root).map_err(oci::Error::from)?;
    // A name without a tag is one that gets none: the digest stands in its place.
    let named = |name: Reference| if name.tag.is_some() { name } else { name.with_digest(digest) };
    let names: Vec<_> = session.options.pushed().into_iter().map(named).collect();
    send::send(&session.store, registries, &image, &names, &there).await.map(drop)
}

/// Hears of a solve.
struct Watch {
    observer: Arc<dyn Observer>,
    shared: Arc<Shared>,
}

impl Observer for Watch {
    fn event(&self, at: Duration, event: Event) {
        if let Event::Planned { steps, cached } = event
            && cached < steps
        {
            self.shared.begin();
        }
        self.observer.event(at, event);
    }

    fn layer(&self, step: StepId, layer: &LayerResult) {
        self.observer.layer(step, layer);
        let chain = &self.shared.work.chain;
        if chain.steps.contains(&step) && self.shared.begun.load(Ordering::Relaxed) {
            lock(&chain.settled).insert(step);
            let (work, layer) = (Arc::clone(&self.shared.work), layer.clone());
            self.shared.spawn(async move { work.send_layer(layer).await });
        }
    }
}

impl Shared {
    /// Asks for permission and sees to the bases, once.
    fn begin(&self) {
        if self.begun.swap(true, Ordering::Relaxed) {
            return;
        }
        let work = Arc::clone(&self.work);
        lock(&self.asking).spawn_on(async move { work.ask_permission().await }, &self.runtime);
        for base in self.work.chain.bases() {
            let work = Arc::clone(&self.work);
            self.spawn(async move { work.send_base(base).await });
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        lock(&self.tasks).spawn_on(task, &self.runtime);
    }
}

impl Work {
    /// Asks every repository whether we may push there.
    async fn ask_permission(&self) {
        let ask = async |target: &Target| match self.client.check_push(&target.place).await {
            Ok(()) => {}
            Err(error) if error.is_denied() => {
                let failure = Failure::from(error);
                let parts = [failure.line.as_str(), "the build was ended, its finished steps stay cached"];
                self.denied.send_replace(Some(Failure::new(Class::Push, &parts)));
            }
            Err(error) => self.give_up(target, &error),
        };
        join_all(self.targets.iter().flatten().map(ask)).await;
    }

    /// Leaves a repository to the push at the end. Who is told once of what stands in the way can act before.
    fn give_up(&self, target: &Target, error: &oci::registry::Error) {
        if !target.given_up.swap(true, Ordering::Relaxed) {
            self.registries.tell(format!("warning: {error}; it is tried again when the image is built"));
        }
    }

    /// Sends the layers of a base.
    async fn send_base(&self, step: StepId) {
        let bases = &self.worker.bases;
        let stack = match &self.chain.graph.step(step).op {
            Op::Image(image) => bases.stack(&image.manifest, &image.reference),
            Op::OciLayout(layout) => bases.stack(&layout.manifest, ""),
            Op::Local(_) | Op::Git(_) | Op::Http(_) | Op::Run(_) | Op::Copy(_) | Op::Mkdir(_) => return,
        };
        // What is wrong with a base is told by the step that needs it, or by the push.
        let Ok(stack) = stack else { return };
        join_all(stack.iter().map(|layer| async move {
            if let Ok(blob) = self.worker.layers.blob(layer).await {
                self.send(&blob).await;
            }
        }))
        .await;
    }

    /// Sends a layer of this build or of an earlier one.
    async fn send_layer(&self, layer: LayerResult) {
        if let Ok(blob) = self.worker.layers.blob(&Layer::recorded(layer)).await {
            self.send(&blob).await;
        }
    }

    /// Brings a blob into all repositories.
    async fn send(&self, blob: &Blob) {
        let Ok(digest) = document::digest_of(&blob.descriptor) else { return };
        if !lock(&self.begun).insert(digest) {
            return;
        }
        join_all(self.targets.iter().map(|registry| async move {
            let store = &self.worker.store;
            let pushed = registry
                .first()
                .and_then(|target| whereabouts::pushed(store, &target.place.registry, &digest));
            let mut found_in: Vec<_> = whereabouts::place(store, &digest).into_iter().chain(pushed).collect();
            for target in registry {
                if self.send_to(target, blob, digest, &found_in).await {
                    found_in.insert(0, target.place.clone());
                }
            }
        }))
        .await;
    }

    /// Brings a blob into one repository; returns whether it is there.
    async fn send_to(&self, target: &Target, blob: &Blob, digest: Digest, found_in: &[Reference]) -> bool {
        let _slot = target.slots.acquire().await.expect("the semaphore is never closed");
        if target.given_up.load(Ordering::Relaxed) {
            return false;
        }
        match self.bring(target, blob, digest, found_in).await {
            Ok(there) => {
                if there {
                    lock(&self.there).entry(target.place.place()).or_default().insert(digest);
                }
                there
            }
            Err(error) => {
                // A denial is what the question of permission ends the build for.
                if !error.is_denied() {
                    self.give_up(target, &error);
                }
                false
            }
        }
    }

    async fn bring(
        &self,
        target: &Target,
        blob: &Blob,
        digest: Digest,
        found_in: &[Reference],
    ) -> Result<bool, oci::registry::Error> {
        let layout = self.worker.store.layout();
        let here =
            || layout.has(&digest).unwrap_or(false).then(|| BlobSource::File(layout.blob_path(&digest)));
        let wait = blob.remote.is_some() && here().is_none() && self.chain.reads_base();
        if wait {
            let remote = blob.remote.clone().map(BlobSource::Remote);
            let Some(upload) = remote.and_then(|source| upload(target, blob, digest, source, found_in))
            else {
                return Ok(false);
            };
            if self.client.find_blob(&target.place, &upload).await?.is_some() {
                return Ok(true);
            }
            if self.worker.layers.download(blob).await.is_err() {
                return Ok(false);
            }
        }
        let source = here().or_else(|| blob.remote.clone().map(BlobSource::Remote));
        match source.and_then(|source| upload(target, blob, digest, source, found_in)) {
            Some(upload) => self.client.push_blob(&target.place, &upload).await.map(|_| true),
            None => Ok(false),
        }
    }
}

/// Plans one blob's way; nothing for layers that must not be distributed and are elsewhere.
fn upload(
    target: &Target,
    blob: &Blob,
    digest: Digest,
    source: BlobSource,
    found_in: &[Reference],
) -> Option<Upload> {
    let blob = PushBlob {
        digest,
        size: blob.descriptor.size(),
        media_type: blob.descriptor.media_type().to_string(),
        urls: blob.descriptor.urls().clone().unwrap_or_default(),
        source,
        found_in: found_in.to_vec(),
    };
    let image = PushImage { blobs: vec![blob], documents: Vec::new() };
    plan_push(&target.place, &image).uploads.pop()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
