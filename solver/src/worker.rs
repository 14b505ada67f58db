//! What a solve needs from outside: somebody who has snapshots and runs steps.
//!
//! The solver is generic over this one trait, so that it is tested without privileges, namespaces or network.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use frontend::graph::{Step, StepId};
use futures_util::future::BoxFuture;
use oci::layer::ContentHash;

use crate::cancel::Cancel;
use crate::event::{Event, Observer, Stream};
use crate::key::CacheKey;
use crate::record::{LayerResult, StepRecord};

/// Makes snapshots: file system states, or for sources what they hold.
pub trait Worker: Send + Sync + 'static {
    /// A handle of a state. Cheap to clone; it keeps alive what it needs (leases, directories).
    type Snapshot: Clone + Send + Sync + 'static;
    /// Why something could not be done.
    type Error: std::error::Error + Send + Sync + 'static;
    /// Keeps other processes from running the same step.
    type Guard: Send + 'static;

    /// Returns whether a layer can still be had in any form. Called for every hit that will be needed, so it
    /// must be cheap (a `stat`).
    fn available(&self, layer: &LayerResult) -> bool;

    /// Returns a handle of a source step's content. Called early for all sources of steps that will probably
    /// run, so it should start what takes long and return.
    fn source(
        &self,
        step: &Step,
        context: &StepContext,
    ) -> impl Future<Output = Result<Self::Snapshot, Self::Error>> + Send;

    /// Returns the snapshot of a recorded layer on top of `parent`; `None` where a piece of it is gone.
    fn restore(
        &self,
        step: &Step,
        parent: Option<&Self::Snapshot>,
        record: &StepRecord,
    ) -> impl Future<Output = Option<Self::Snapshot>> + Send;

    /// Returns a digest of everything that the step reads from its inputs, `None` if that cannot be told or
    /// is no cheaper than running the step. What is left out of it must not influence the result. The future is
    /// dropped when the solve is stopped.
    fn content_digest(
        &self,
        step: &Step,
        parent: Option<&Self::Snapshot>,
        inputs: &[Self::Snapshot],
    ) -> impl Future<Output = Result<Option<ContentHash>, Self::Error>> + Send;

    /// Takes the lock of a step among all builds that share the store. Where another build has it, it calls
    /// [`StepContext::waiting`] and waits. The future is dropped when the solve is stopped.
    fn lock_step(
        &self,
        lock: CacheKey,
        context: &StepContext,
    ) -> impl Future<Output = Result<Self::Guard, Self::Error>> + Send;

    /// Runs a layer step. On [`StepContext::cancelled`] it stops what it started and returns an error.
    fn execute(
        &self,
        step: &Step,
        parent: Option<&Self::Snapshot>,
        inputs: &[Self::Snapshot],
        context: &StepContext,
    ) -> impl Future<Output = Result<Execution<Self::Snapshot, Self::Error>, Self::Error>> + Send;
}

/// A step that has run.
///
/// Both futures are driven by the worker in the background, whether or not they are polled. Dropping `settled`
/// says that nobody wants the layer: an earlier one of equal content is used instead.
pub struct Execution<S, E> {
    /// The new state, usable at once.
    pub snapshot: S,
    /// When it was made, in seconds since the epoch.
    pub created: i64,
    /// The layer's content id, as soon as it is known.
    pub content: BoxFuture<'static, Result<ContentHash, E>>,
    /// The packed layer.
    pub settled: BoxFuture<'static, Result<LayerResult, E>>,
}

/// What a running step may tell and ask.
#[derive(Clone)]
pub struct StepContext {
    /// Which step it is.
    pub step: StepId,
    /// What the same op made when it ran last, on whatever inputs, for a worker to make something similar from. A
    /// result may not depend on it; it is absent where the step may not use the cache.
    pub earlier: Option<LayerResult>,
    pub(crate) clock: Instant,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) cancel: Cancel,
}

impl StepContext {
    /// Makes a context; the solver does it for every step, tests of workers for themselves.
    pub fn new(step: StepId, observer: Arc<dyn Observer>, cancel: Cancel) -> Self {
        Self { step, earlier: None, clock: Instant::now(), observer, cancel }
    }

    /// Passes on what the step wrote.
    pub fn log(&self, stream: Stream, bytes: &[u8]) {
        self.tell(Event::Log { step: self.step, stream, bytes: bytes.to_vec() });
    }

    /// Says whom the step waits for.
    pub fn waiting(&self, on: impl Into<String>) {
        self.tell(Event::Waiting { step: self.step, on: on.into() });
    }

    /// Says how far a transfer is.
    pub fn transfer(&self, name: impl Into<String>, done: u64, total: Option<u64>) {
        self.tell(Event::Transfer { step: self.step, name: name.into(), done, total });
    }

    /// Returns whether the step should stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Returns once the step should stop.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    pub(crate) fn tell(&self, event: Event) {
        self.observer.event(self.elapsed(), event);
    }

    fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }
}
