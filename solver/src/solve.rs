//! Solving: runs what has to run, as much at once as the graph and the machine allow.
//!
//! The walk is lazy from the targets down: a step whose result is recorded is neither run nor restored, and
//! sources below it are not touched, unless something above it has to run. Every open step is started as soon as
//! what it needs is there; a limit holds for steps that run, not for those that wait. After the first failure no
//! step is started, running ones are asked to stop, and those that are done are still packed and recorded.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use frontend::graph::{StepGraph, StepId, StepKind};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};

use crate::cancel::Cancel;
use crate::event::{Event, Observer};
use crate::key::CacheKey;
use crate::plan::{Lookup, Overrides, Plan, Verdict, plan_with};
use crate::record::{LayerResult, StepRecord};
use crate::records::{RecordError, Records};
use crate::run::{Report, Run, Stop};
use crate::step::{self, Rest};
use crate::topology::Topology;
use crate::worker::Worker;

/// Solves graphs with one worker and one directory of records.
pub struct Solver<W> {
    /// Runs steps.
    pub worker: Arc<W>,
    /// What is known already.
    pub records: Arc<Records>,
    /// Who is told.
    pub observer: Arc<dyn Observer>,
    /// How many steps run at once; at least one does.
    pub jobs: usize,
}

/// What the caller wants of the targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Their layers: records suffice.
    Layers,
    /// Their snapshots too.
    Snapshots,
}

/// How a step's result came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It names content that existed already.
    Source,
    /// It was in the cache.
    Cached,
    /// The step ran.
    Ran,
    /// The step ran and made what an earlier run made.
    Unchanged,
}

/// What became of a step.
#[derive(Debug, Clone)]
pub struct Outcome<S> {
    /// Key of the state after the step.
    pub key: CacheKey,
    /// The state itself, where it was needed.
    pub snapshot: Option<S>,
    /// How it came about.
    pub how: How,
    /// The record of its layer; sources have none.
    pub record: Option<Arc<StepRecord>>,
}

/// What became of all steps that the targets need.
#[derive(Debug, Clone)]
pub struct Solved<S> {
    /// By step.
    pub outcomes: BTreeMap<StepId, Outcome<S>>,
}

/// Why a solve ended early.
#[derive(Debug, thiserror::Error)]
pub enum SolveError<E: std::error::Error + 'static> {
    /// A step could not be done.
    #[error("{source}")]
    Step {
        /// Which.
        id: StepId,
        /// The worker's reason.
        source: E,
    },
    /// A result could not be recorded.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A layer disappeared again after it was rebuilt.
    #[error("the layer of step {} disappears from the store while it is being used", id.0)]
    Vanishing {
        /// Whose layer.
        id: StepId,
    },
    /// The caller said stop.
    #[error("interrupted")]
    Cancelled,
}

impl<S> Outcome<S> {
    /// Whether the step did not have to run.
    pub fn is_hit(&self) -> bool {
        self.how == How::Cached
    }
}

impl<W: Worker> Lookup for Solver<W> {
    fn record(&self, key: CacheKey) -> Option<StepRecord> {
        self.records.get(key)
    }

    fn available(&self, layer: &LayerResult) -> bool {
        self.worker.available(layer)
    }
}

impl<W: Worker> Solver<W> {
    /// Returns what [`Solver::solve`] would do.
    pub fn plan(&self, graph: &StepGraph, targets: &[StepId]) -> Plan {
        crate::plan::plan(graph, targets, self)
    }

    /// Brings `targets` about. Returns when all that ran is packed and recorded.
    ///
    /// # Errors
    /// The first failure, after what runs has stopped; [`SolveError::Cancelled`] if `cancel` came first.
    pub async fn solve(
        &self,
        graph: Arc<StepGraph>,
        targets: &[StepId],
        wanted: Wanted,
        cancel: &Cancel,
    ) -> Result<Solved<W::Snapshot>, SolveError<W::Error>> {
        let topology = Arc::new(Topology::new(&graph, targets));
        let report = Report::new(Arc::clone(&self.observer));
        let mut overrides = Overrides::default();
        loop {
            let plan = plan_with(&graph, &topology, self, &mut overrides);
            announce(&plan, &graph, &topology, &report);
            let run = Arc::new(self.run(&graph, &topology, &plan, overrides.clone(), report.clone()));
            let stop = match attempt(&run, &plan, wanted, cancel).await {
                Ok(()) => return Ok(outcomes(&run)),
                Err(stop) => stop,
            };
            overrides.ran.append(&mut run.ran.lock().unwrap_or_else(PoisonError::into_inner));
            match stop {
                Stop::Failed(id, source) => return Err(SolveError::Step { id, source }),
                Stop::Record(error) => return Err(error.into()),
                Stop::Cancelled => return Err(SolveError::Cancelled),
                Stop::Gone(id) => {
                    if !overrides.gone.insert(id) {
                        return Err(SolveError::Vanishing { id });
                    }
                }
            }
        }
    }

    fn run(
        &self,
        graph: &Arc<StepGraph>,
        topology: &Arc<Topology>,
        plan: &Plan,
        overrides: Overrides,
        report: Report,
    ) -> Run<W> {
        Run {
            worker: Arc::clone(&self.worker),
            records: Arc::clone(&self.records),
            graph: Arc::clone(graph),
            topology: Arc::clone(topology),
            nodes: Run::<W>::nodes(plan),
            overrides,
            ran: Default::default(),
            jobs: Semaphore::new(self.jobs.clamp(1, Semaphore::MAX_PERMITS)),
            cancel: Cancel::new(),
            report,
        }
    }
}

fn announce(plan: &Plan, graph: &StepGraph, topology: &Topology, report: &Report) {
    let layers = topology.steps().filter(|id| graph.step(*id).kind() == StepKind::Layer);
    let (hits, others): (Vec<_>, Vec<_>) = layers.partition(|id| !plan.is_open(*id));
    report.tell(Event::Planned { steps: hits.len() + others.len(), cached: hits.len() });
    for id in hits {
        if let Some(Verdict::Hit(record)) = plan.get(id).map(|planned| &planned.verdict) {
            report.cached(id, &record.layer);
        }
    }
}

/// Runs what is open until nothing is left or something stops it.
async fn attempt<W: Worker>(
    run: &Arc<Run<W>>,
    plan: &Plan,
    wanted: Wanted,
    cancel: &Cancel,
) -> Result<(), Stop<W::Error>> {
    let mut schedule = Schedule::new(run, plan);
    let mut interrupted = false;
    loop {
        schedule.start_ready(run);
        if schedule.is_over() {
            break;
        }
        tokio::select! {
            () = cancel.cancelled(), if !interrupted => {
                interrupted = true;
                schedule.stop(run, Stop::Cancelled);
            }
            Some(started) = schedule.starting.join_next() => schedule.started(run, plan, joined(started)),
            Some(ended) = schedule.ending.join_next() => {
                if let Err(stop) = joined(ended) {
                    schedule.stop(run, stop);
                }
            }
        }
    }
    schedule.first_stop.map_or(Ok(()), Err)?;
    if wanted == Wanted::Snapshots {
        for target in run.topology.targets() {
            tokio::select! {
                snapshot = run.snapshot(*target) => snapshot.map(drop)?,
                () = cancel.cancelled() => return Err(Stop::Cancelled),
            }
        }
    }
    Ok(())
}

/// A step that others may build on, with what is left to do of it.
type Started<E> = (StepId, Result<Rest<E>, Stop<E>>);

/// Which steps wait for how much, which are being brought about, and what ended it.
struct Schedule<E> {
    waits: Vec<usize>,
    ready: Vec<StepId>,
    starting: JoinSet<Started<E>>,
    ending: JoinSet<Result<(), Stop<E>>>,
    first_stop: Option<Stop<E>>,
}

impl<E: std::error::Error + Send + Sync + 'static> Schedule<E> {
    fn new<W: Worker<Error = E>>(run: &Arc<Run<W>>, plan: &Plan) -> Self {
        let mut schedule = Self {
            waits: vec![0; run.nodes.len()],
            ready: Vec::new(),
            starting: JoinSet::new(),
            ending: JoinSet::new(),
            first_stop: None,
        };
        let mut sources = std::collections::BTreeSet::new();
        for id in run.topology.steps().filter(|id| plan.is_open(*id)) {
            let waits = run.topology.distinct_needs(id).filter(|need| plan.is_open(*need)).count();
            schedule.waits[id.0 as usize] = waits;
            if waits == 0 {
                schedule.ready.push(id);
            }
            let planned = |need: &StepId| plan.get(*need).map(|planned| &planned.verdict);
            sources.extend(run.topology.needs(id).filter(|need| planned(need) == Some(&Verdict::Source)));
        }
        for source in sources {
            let run = Arc::clone(run);
            schedule.ending.spawn(async move { run.snapshot(source).await.map(drop) });
        }
        schedule
    }

    fn start_ready<W: Worker<Error = E>>(&mut self, run: &Arc<Run<W>>) {
        if self.first_stop.is_some() {
            self.ready.clear();
        }
        for id in self.ready.drain(..) {
            let run = Arc::clone(run);
            self.starting.spawn(async move { (id, step::start(run, id).await) });
        }
    }

    fn started<W: Worker<Error = E>>(&mut self, run: &Arc<Run<W>>, plan: &Plan, (id, result): Started<E>) {
        match result {
            Ok(rest) => {
                self.ending.spawn(rest);
                for dependent in run.topology.dependents(id).filter(|id| plan.is_open(*id)) {
                    let waits = &mut self.waits[dependent.0 as usize];
                    *waits -= 1;
                    if *waits == 0 {
                        self.ready.push(dependent);
                    }
                }
            }
            Err(stop) => self.stop(run, stop),
        }
    }

    /// Starts nothing more. What runs is asked to stop, unless the attempt will be repeated and can use it.
    fn stop<W: Worker<Error = E>>(&mut self, run: &Arc<Run<W>>, stop: Stop<E>) {
        let rank = |stop: &Stop<E>| match stop {
            Stop::Gone(_) => 1,
            // What waits for a step that failed may end before the failure itself is seen here.
            Stop::Cancelled => 2,
            Stop::Failed(..) | Stop::Record(_) => 3,
        };
        if rank(&stop) > 1 {
            run.cancel.cancel();
        }
        if self.first_stop.as_ref().is_none_or(|first| rank(first) < rank(&stop)) {
            self.first_stop = Some(stop);
        }
    }

    fn is_over(&self) -> bool {
        self.starting.is_empty() && self.ending.is_empty()
    }
}

/// Unwraps a task's result; a panic goes on in the caller, where it is reported as the bug it is.
fn joined<T>(result: Result<T, JoinError>) -> T {
    result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

fn outcomes<W: Worker>(run: &Run<W>) -> Solved<W::Snapshot> {
    let known = run.graph.iter().map(|(id, _)| id).filter(|id| run.topology.contains(*id));
    let outcome = |id: StepId| {
        let node = run.node(run.topology.representative(id));
        let outcome = Outcome {
            key: node.state.get().expect("all steps of a solve that ended well are resolved"),
            snapshot: node.snapshot.get().cloned(),
            how: *node.how.get().expect("all steps of a solve that ended well are resolved"),
            record: node.record.get().cloned(),
        };
        (id, outcome)
    };
    Solved { outcomes: known.map(outcome).collect() }
}
