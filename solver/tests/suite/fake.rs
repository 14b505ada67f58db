//! A worker whose layers are texts, and graphs for it. What a step makes is told by its program.
//!
//! Where the program says nothing, a layer tells what it was made on: `name|parent|inputs|salt`, where parent and
//! inputs are digests of what was in them. So a layer that ends up on what it was not made on can be found out.
//! Steps named `x~1` and `x~2` make the same; those whose names begin with `random` never make the same twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use frontend::graph::{CopyOp, HttpOp, Label, Op, RunOp, Step, StepGraph, StepId, Unpack};
use futures_util::FutureExt as _;
use oci::layer::ContentHash;
use oci::{DiffId, Digest, Platform};
use solver::{
    CacheKey, Cancel, Event, Execution, LayerResult, Observer, Records, SolveError, Solved, Solver,
    StepContext, StepRecord, Wanted, Worker,
};
use tokio::sync::{Barrier, Notify, OwnedMutexGuard};

/// What a step does instead of the usual.
#[derive(Clone, Default)]
pub struct Program {
    /// What the layer holds; by default a text made of the step's name and all that it stands on.
    pub makes: Option<String>,
    /// What the step reads of its inputs; by default that cannot be told.
    pub selects: Option<String>,
    /// The error it dies of.
    pub fails: Option<String>,
    /// Runs until it is told to stop.
    pub hangs: bool,
    /// What it reads of its inputs is never known.
    pub selects_for_ever: bool,
    /// All steps with this barrier have to run at once.
    pub meets: Option<Arc<Barrier>>,
    /// The layer is not packed before this is notified.
    pub settles_after: Option<Arc<Notify>>,
    /// The layer cannot be packed.
    pub fails_to_settle: bool,
}

/// What several workers share, as builds share a store.
#[derive(Default)]
pub struct Shared {
    layers: Mutex<BTreeMap<DiffId, String>>,
    locks: Mutex<BTreeMap<CacheKey, Arc<tokio::sync::Mutex<()>>>>,
    runs: Mutex<u64>,
}

/// A state: what its layers hold, lowest first.
pub type Snapshot = Vec<String>;

/// Why a fake step failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub String);

/// The worker.
#[derive(Default)]
pub struct Fake {
    pub shared: Arc<Shared>,
    pub programs: Mutex<BTreeMap<String, Program>>,
    pub executed: Mutex<Vec<String>>,
    pub restored: Mutex<Vec<String>>,
    pub sourced: Mutex<Vec<String>>,
    /// Layers that `available` says are there and `restore` does not find.
    pub lost: Mutex<Vec<DiffId>>,
    running: Mutex<(usize, usize)>,
}

impl Fake {
    fn program(&self, name: &str) -> Program {
        self.programs.lock().unwrap().get(name).cloned().unwrap_or_default()
    }

    /// The most steps that ran at once.
    pub fn peak(&self) -> usize {
        self.running.lock().unwrap().1
    }

    fn enter(&self) {
        let mut running = self.running.lock().unwrap();
        running.0 += 1;
        running.1 = running.1.max(running.0);
    }

    fn leave(&self) {
        self.running.lock().unwrap().0 -= 1;
    }
}

impl Worker for Fake {
    type Snapshot = Snapshot;
    type Error = Broken;
    type Guard = OwnedMutexGuard<()>;

    fn available(&self, layer: &LayerResult) -> bool {
        self.shared.layers.lock().unwrap().contains_key(&layer.diff_id)
    }

    async fn source(&self, step: &Step, _context: &StepContext) -> Result<Snapshot, Broken> {
        let name = step.label.text.clone();
        self.sourced.lock().unwrap().push(name.clone());
        match self.program(&name).fails {
            Some(why) => Err(Broken(why)),
            None => Ok(vec![name]),
        }
    }

    async fn restore(&self, step: &Step, parent: Option<&Snapshot>, record: &StepRecord) -> Option<Snapshot> {
        if self.lost.lock().unwrap().contains(&record.layer.diff_id) {
            return None;
        }
        let layer = self.shared.layers.lock().unwrap().get(&record.layer.diff_id).cloned()?;
        self.restored.lock().unwrap().push(step.label.text.clone());
        Some(parent.into_iter().flatten().cloned().chain([layer]).collect())
    }

    async fn content_digest(
        &self,
        step: &Step,
        _parent: Option<&Snapshot>,
        _inputs: &[Snapshot],
    ) -> Result<Option<ContentHash>, Broken> {
        let Program { selects, selects_for_ever, .. } = self.program(&step.label.text);
        if selects_for_ever {
            std::future::pending::<()>().await;
        }
        Ok(selects.map(|text| ContentHash(blake3::hash(text.as_bytes()).into())))
    }

    async fn lock_step(&self, lock: CacheKey, context: &StepContext) -> Result<OwnedMutexGuard<()>, Broken> {
        let mutex = Arc::clone(self.shared.locks.lock().unwrap().entry(lock).or_default());
        if let Ok(guard) = Arc::clone(&mutex).try_lock_owned() {
            return Ok(guard);
        }
        context.waiting("another build");
        Ok(mutex.lock_owned().await)
    }

    async fn execute(
        &self,
        step: &Step,
        parent: Option<&Snapshot>,
        inputs: &[Snapshot],
        context: &StepContext,
    ) -> Result<Execution<Snapshot, Broken>, Broken> {
        let name = step.label.text.clone();
        let program = self.program(&name);
        self.executed.lock().unwrap().push(name.clone());
        self.enter();
        context.log(solver::Stream::Stdout, format!("{name} runs\n").as_bytes());
        if let Some(barrier) = &program.meets {
            barrier.wait().await;
        }
        if program.hangs {
            context.cancelled().await;
        }
        self.leave();
        if let Some(why) = program.fails.clone().or(program.hangs.then(|| "stopped".to_owned())) {
            return Err(Broken(why));
        }
        let run = {
            let mut runs = self.shared.runs.lock().unwrap();
            *runs += 1;
            *runs
        };
        let usual = || usual_content(step, parent.map_or(&[], Vec::as_slice), inputs, &program, run);
        let content = program.makes.clone().unwrap_or_else(usual);
        for _ in 0..run % 3 {
            tokio::task::yield_now().await;
        }
        let layer = LayerResult {
            diff_id: DiffId(Digest::of(format!("{content} run {run}").as_bytes())),
            content_id: ContentHash(blake3::hash(content.as_bytes()).into()),
            size: content.len() as u64,
            entries: 1,
        };
        let text = format!("{content}#{run}");
        let snapshot = parent.into_iter().flatten().cloned().chain([text.clone()]).collect();
        let content_id = layer.content_id;
        let shared = Arc::clone(&self.shared);
        let settled = async move {
            for _ in 0..run % 5 {
                tokio::task::yield_now().await;
            }
            if let Some(gate) = program.settles_after {
                gate.notified().await;
            }
            if program.fails_to_settle {
                return Err(Broken("no space left".into()));
            }
            shared.layers.lock().unwrap().insert(layer.diff_id, text);
            Ok(layer)
        };
        Ok(Execution {
            snapshot,
            created: i64::try_from(run).unwrap(),
            content: tokio::task::yield_now().map(move |()| Ok(content_id)).boxed(),
            settled: settled.boxed(),
        })
    }
}

fn usual_content(step: &Step, parent: &[String], inputs: &[Snapshot], program: &Program, run: u64) -> String {
    let name = step.label.text.split('~').next().unwrap();
    let parent = if step.depends_on_parent() { digest(parent) } else { "-".into() };
    let inputs: Vec<_> = match &program.selects {
        Some(selected) => vec![selected.clone()],
        None => inputs.iter().map(|input| digest(input)).collect(),
    };
    let salt = if name.starts_with("random") { run } else { 0 };
    format!("{name}|{parent}|{}|{salt}", inputs.join(","))
}

/// Returns a digest of what is in a state, whichever runs made it.
pub fn digest(snapshot: &[String]) -> String {
    let contents: Vec<_> = snapshot.iter().map(|layer| layer.split('#').next().unwrap()).collect();
    Digest::of(contents.join("\n").as_bytes()).hex()[..12].to_owned()
}

/// Remembers all events, and which layers were told.
#[derive(Default)]
pub struct Memory(pub Mutex<Vec<Event>>, pub Mutex<Vec<(StepId, LayerResult)>>);

impl Observer for Memory {
    fn event(&self, _at: Duration, event: Event) {
        self.0.lock().unwrap().push(event);
    }

    fn layer(&self, step: StepId, layer: &LayerResult) {
        self.1.lock().unwrap().push((step, layer.clone()));
    }
}

/// A store with one worker.
pub struct Scene {
    pub solver: Solver<Fake>,
    pub events: Arc<Memory>,
    directory: Arc<tempfile::TempDir>,
}

impl Scene {
    pub fn new() -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        Self::on(directory, Arc::default())
    }

    fn on(directory: Arc<tempfile::TempDir>, shared: Arc<Shared>) -> Self {
        let events = Arc::new(Memory::default());
        let solver = Solver {
            worker: Arc::new(Fake { shared, ..Fake::default() }),
            records: Arc::new(Records::open(directory.path()).unwrap()),
            observer: Arc::clone(&events) as Arc<dyn Observer>,
            jobs: 64,
        };
        Self { solver, events, directory }
    }

    /// Another build on the same store.
    pub fn another(&self) -> Self {
        Self::on(Arc::clone(&self.directory), Arc::clone(&self.solver.worker.shared))
    }

    pub fn path(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub fn program(&self, name: &str, program: Program) {
        self.solver.worker.programs.lock().unwrap().insert(name.into(), program);
    }

    /// Makes a step give the same content whatever it stands on.
    pub fn makes(&self, name: &str, content: &str) {
        self.program(name, Program { makes: Some(content.into()), ..Program::default() });
    }

    /// What ran since the last call, sorted.
    pub fn ran(&self) -> Vec<String> {
        let mut names = std::mem::take(&mut *self.solver.worker.executed.lock().unwrap());
        names.sort();
        names
    }

    pub async fn try_solve(&self, graph: &Graph) -> Result<Solved<Snapshot>, SolveError<Broken>> {
        let target = graph.last();
        let (targets, cancel) = ([target], Cancel::new());
        let solve = self.solver.solve(Arc::new(graph.0.clone()), &targets, Wanted::Layers, &cancel);
        tokio::time::timeout(Duration::from_secs(60), solve).await.expect("a solve does not hang")
    }

    /// Solves for the last step and returns what ran, sorted.
    pub async fn solve(&self, graph: &Graph) -> Vec<String> {
        self.try_solve(graph).await.unwrap();
        self.ran()
    }

    /// What the layers of the last step's stack hold, lowest first.
    pub async fn stack(&self, graph: &Graph) -> Snapshot {
        let target = graph.last();
        let (targets, cancel) = ([target], Cancel::new());
        let solve = self.solver.solve(Arc::new(graph.0.clone()), &targets, Wanted::Snapshots, &cancel);
        solve.await.unwrap().outcomes[&target].snapshot.clone().unwrap()
    }

    /// Returns what a recorded layer holds.
    pub fn layer(&self, record: &StepRecord) -> Option<String> {
        self.solver.worker.shared.layers.lock().unwrap().get(&record.layer.diff_id).cloned()
    }

    /// Removes the layer of a step as a clean-up would.
    pub fn remove_layer(&self, record: &StepRecord) {
        assert!(self.solver.worker.shared.layers.lock().unwrap().remove(&record.layer.diff_id).is_some());
    }
}

/// A step graph under construction.
#[derive(Clone, Default)]
pub struct Graph(pub StepGraph);

impl Graph {
    pub fn last(&self) -> StepId {
        StepId(u32::try_from(self.0.len()).unwrap() - 1)
    }

    fn push(&mut self, name: &str, op: Op, parent: Option<StepId>, inputs: &[StepId]) -> StepId {
        self.0.push(Step {
            op,
            parent,
            inputs: inputs.to_vec(),
            platform: Platform::host(),
            source_date_epoch: None,
            no_cache: false,
            label: Label { text: name.into(), ..Label::default() },
        })
    }

    /// A source; equal names are equal content.
    pub fn source(&mut self, name: &str) -> StepId {
        let digest = Digest::of(name.as_bytes());
        let http = HttpOp { url: name.into(), digest, filename: "f".into(), last_modified: None };
        self.push(name, Op::Http(http), None, &[])
    }

    /// A step whose command is its name.
    pub fn run(&mut self, name: &str, parent: Option<StepId>, inputs: &[StepId]) -> StepId {
        self.run_as(name, name, parent, inputs)
    }

    /// A step of the given name and command.
    pub fn run_as(&mut self, name: &str, command: &str, parent: Option<StepId>, inputs: &[StepId]) -> StepId {
        let run = RunOp { args: vec![command.into()], ..RunOp::default() };
        self.push(name, Op::Run(run), parent, inputs)
    }

    /// A step whose layer is the same on any parent.
    pub fn detached(&mut self, name: &str, parent: Option<StepId>, inputs: &[StepId]) -> StepId {
        let copy = CopyOp {
            sources: Vec::new(),
            dest: format!("/{name}"),
            dest_is_dir: false,
            chown: None,
            chmod: None,
            link: true,
            parents: false,
            excludes: Vec::new(),
            unpack: Unpack::Never,
        };
        self.push(name, Op::Copy(copy), parent, inputs)
    }

    /// The same graph with every step, or those named, not to be taken from the cache.
    pub fn no_cache(&self, only: &[&str]) -> Self {
        let mut graph = StepGraph::default();
        for (_, step) in self.0.iter() {
            let mut step = step.clone();
            step.no_cache = only.is_empty() || only.contains(&step.label.text.as_str());
            graph.push(step);
        }
        Self(graph)
    }

    /// The same graph with the times of its layers given.
    pub fn source_date_epoch(&self, epoch: Option<i64>) -> Self {
        let mut graph = StepGraph::default();
        for (_, step) in self.0.iter() {
            graph.push(Step { source_date_epoch: epoch, ..step.clone() });
        }
        Self(graph)
    }
}

/// A source and a chain of steps on it.
pub fn chain(source: &str, names: &[&str]) -> Graph {
    let mut graph = Graph::default();
    let mut parent = graph.source(source);
    for name in names {
        parent = graph.run(name, Some(parent), &[]);
    }
    graph
}
