//! One attempt at a plan: what is known of every step while tasks run, and how snapshots are had from it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use frontend::graph::{StepGraph, StepId, StepKind};
use tokio::sync::{OnceCell, Semaphore};

use crate::cancel::Cancel;
use crate::event::{Event, Finish, Observer};
use crate::key::CacheKey;
use crate::plan::{Overrides, Plan, Stand, Verdict};
use crate::record::{LayerResult, StepRecord};
use crate::records::{RecordError, Records};
use crate::slot::Slot;
use crate::solve::How;
use crate::topology::Topology;
use crate::worker::{StepContext, Worker};

/// Why a task ended without a result.
#[derive(Debug)]
pub(crate) enum Stop<E> {
    /// The worker could not do it.
    Failed(StepId, E),
    /// The record could not be written.
    Record(RecordError),
    /// The layer of a hit was gone when it was needed.
    Gone(StepId),
    /// Something else stopped first.
    Cancelled,
}

/// What is known of one step.
pub(crate) struct Node<S> {
    /// The state after it.
    pub(crate) state: Slot<CacheKey>,
    /// Its record, once it is written.
    pub(crate) written: Slot<()>,
    /// Its record, once its result is settled.
    pub(crate) record: OnceLock<Arc<StepRecord>>,
    /// Its snapshot, once somebody wanted it or it was made.
    pub(crate) snapshot: OnceCell<S>,
    /// How its result came about.
    pub(crate) how: OnceLock<How>,
}

/// One attempt at a plan.
pub(crate) struct Run<W: Worker> {
    pub(crate) worker: Arc<W>,
    pub(crate) records: Arc<Records>,
    pub(crate) graph: Arc<StepGraph>,
    pub(crate) topology: Arc<Topology>,
    pub(crate) nodes: Vec<Option<Node<W::Snapshot>>>,
    pub(crate) overrides: Overrides,
    /// Steps whose records this attempt wrote.
    pub(crate) ran: Mutex<BTreeSet<StepId>>,
    pub(crate) jobs: Semaphore,
    pub(crate) cancel: Cancel,
    pub(crate) report: Report,
}

/// Whom to tell, and what was told already by an earlier attempt.
#[derive(Clone)]
pub(crate) struct Report {
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) clock: Instant,
    cached: Arc<Mutex<BTreeSet<StepId>>>,
}

impl Report {
    pub(crate) fn new(observer: Arc<dyn Observer>) -> Self {
        Self { observer, clock: Instant::now(), cached: Arc::default() }
    }

    pub(crate) fn tell(&self, event: Event) {
        self.observer.event(self.clock.elapsed(), event);
    }

    /// Tells once per solve that a step is cached.
    pub(crate) fn cached(&self, id: StepId, layer: &LayerResult) {
        let new = self.cached.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        if new {
            self.tell(Event::Cached(id));
        }
        self.observer.layer(id, layer);
    }
}

impl<S> Node<S> {
    fn new() -> Self {
        Self {
            state: Slot::new(),
            written: Slot::new(),
            record: OnceLock::new(),
            snapshot: OnceCell::new(),
            how: OnceLock::new(),
        }
    }

    /// Wakes who waits: there will be nothing.
    pub(crate) fn lose(&self) {
        self.state.lose();
        self.written.lose();
    }
}

impl<W: Worker> Run<W> {
    /// Returns empty nodes for what is open, and full ones for sources and hits.
    pub(crate) fn nodes(plan: &Plan) -> Vec<Option<Node<W::Snapshot>>> {
        let node = |planned: &crate::plan::StepPlan| {
            let node = Node::new();
            if let Some(state) = planned.state {
                node.state.set(state);
                node.written.set(());
                match &planned.verdict {
                    Verdict::Source => set(&node.how, How::Source),
                    Verdict::Hit(record) => {
                        set(&node.record, Arc::clone(record));
                        set(&node.how, How::Cached);
                    }
                    Verdict::Miss(_) => {}
                }
            }
            node
        };
        plan.steps.iter().map(|planned| planned.as_ref().map(node)).collect()
    }

    pub(crate) fn node(&self, id: StepId) -> &Node<W::Snapshot> {
        self.nodes[id.0 as usize].as_ref().expect("representatives of needed steps have nodes")
    }

    pub(crate) fn context(&self, step: StepId) -> StepContext {
        StepContext {
            step,
            earlier: None,
            clock: self.report.clock,
            observer: Arc::clone(&self.report.observer),
            cancel: self.cancel.clone(),
        }
    }

    /// Returns what a step stands on, as far as it is known now.
    pub(crate) fn stand(&self, id: StepId) -> Stand {
        Stand::of(&self.graph, &self.topology, id, |need| self.node(need).state.get())
    }

    /// Returns the snapshots of a step's parent and inputs, all sought at once.
    pub(crate) async fn needed(
        &self,
        id: StepId,
    ) -> Result<(Option<W::Snapshot>, Vec<W::Snapshot>), Stop<W::Error>> {
        let parent = async {
            match self.topology.parent(id) {
                Some(parent) => self.snapshot(parent).await.map(Some),
                None => Ok(None),
            }
        };
        let inputs = self.topology.inputs(id).iter().map(|input| self.snapshot(*input));
        futures_util::future::try_join(parent, futures_util::future::try_join_all(inputs)).await
    }

    /// Returns the snapshot of a step that is resolved, restoring what lies below it first. It walks instead of
    /// recursing: a stack may have as many layers as the Dockerfile has lines.
    pub(crate) async fn snapshot(&self, id: StepId) -> Result<W::Snapshot, Stop<W::Error>> {
        let mut missing = Vec::new();
        let mut at = Some(id);
        while let Some(id) = at.filter(|id| self.node(*id).snapshot.get().is_none()) {
            missing.push(id);
            at = self.topology.parent(id);
        }
        for id in missing.into_iter().rev() {
            self.node(id).snapshot.get_or_try_init(|| self.fetch(id)).await?;
        }
        Ok(self.node(id).snapshot.get().expect("it was there or has just been made").clone())
    }

    async fn fetch(&self, id: StepId) -> Result<W::Snapshot, Stop<W::Error>> {
        match self.graph.step(id).kind() {
            StepKind::Source => self.source(id).await,
            StepKind::Layer => self.restore(id).await,
        }
    }

    async fn source(&self, id: StepId) -> Result<W::Snapshot, Stop<W::Error>> {
        let begun = Instant::now();
        self.report.tell(Event::Started(id));
        let result = self.worker.source(self.graph.step(id), &self.context(id)).await;
        let took = begun.elapsed();
        match result {
            Ok(snapshot) => {
                self.report.tell(Event::Done { step: id, finish: Finish::New, took });
                Ok(snapshot)
            }
            Err(error) => Err(self.failed(id, error, begun)),
        }
    }

    async fn restore(&self, id: StepId) -> Result<W::Snapshot, Stop<W::Error>> {
        let parent = self.topology.parent(id).and_then(|parent| self.node(parent).snapshot.get());
        let record = self.node(id).record.get().expect("a resolved step without a snapshot was a hit");
        let restored = self.worker.restore(self.graph.step(id), parent, record).await;
        restored.ok_or(Stop::Gone(id))
    }

    /// Does `work`, which may be dropped at any time, unless something else stops first.
    pub(crate) async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, Stop<W::Error>> {
        tokio::select! {
            done = work => Ok(done),
            () = self.cancel.cancelled() => Err(Stop::Cancelled),
        }
    }

    /// Tells of a failure and returns it. What fails after a stop was asked for was stopped by that.
    pub(crate) fn failed(&self, id: StepId, error: W::Error, begun: Instant) -> Stop<W::Error> {
        if self.cancel.is_cancelled() {
            self.report.tell(Event::Cancelled(id));
            return Stop::Cancelled;
        }
        let event = Event::Failed { step: id, message: error.to_string(), took: begun.elapsed() };
        self.report.tell(event);
        Stop::Failed(id, error)
    }
}

/// Sets what only one task sets.
pub(crate) fn set<T>(lock: &OnceLock<T>, value: T) {
    let first = lock.set(value).is_ok();
    debug_assert!(first, "one task sees to a step");
}
