//! `xbuild build`: a Dockerfile through all of it.
//!
//! Text → instructions → definition (asking for what it needs) → solve → image → store, archives, registry.

mod binfmt;
pub mod dockerfile;
mod finish;
mod foreign;
pub mod inputs;
mod output;
mod print;
mod push;
pub mod report;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use executor::sandbox::Spawner;
use frontend::graph::{Definition, Joint, Network, Op, StepGraph, StepId};
use frontend::lower::{self, Entitlement, Known, Lowered, NoCache};
use frontend::{Diagnostic, File, lint};
use oci::{Platform, Store};
use solver::{Cancel, Records, Solver, Wanted};

use self::inputs::{Input, Inputs, Owner};
use crate::args::{Print, Progress as Show};
use crate::bases::Bases;
use crate::failure::{Class, Failure};
use crate::fetch::Fetcher;
use crate::needs::{Answers, ContextDirectory, named};
use crate::options::BuildOptions;
use crate::progress::{Ending, Progress, Style, Terminal};
use crate::registries::Registries;
use crate::worker::BuildWorker;
use crate::worker::build::Build;
use crate::worker::layer::Layers;

/// Builds; returns the exit code.
///
/// # Errors
/// Whatever went wrong, as one failure.
pub fn run(options: BuildOptions, root: &Path) -> Result<u8, Failure> {
    if options.check.is_some() {
        return super::lint::run(&options, root);
    }
    if options.print.is_none() {
        super::writable::of_build(&options)?;
    }
    let spawner = crate::spawner()?;
    let store = Arc::new(crate::open_to_write(root)?);
    let options = Arc::new(options);
    let build = Arc::new(Build::new(Arc::clone(&store)));
    let inputs = match Inputs::at_hand(&options) {
        Some(inputs) => inputs,
        None => fetch_inputs(&options, &store, &build)?,
    };
    let source = dockerfile::read(&options, &inputs)?;
    let file = frontend::parse(&source.text);
    if options.print == Some(Print::Instructions) {
        crate::commands::print(&print::instructions(&file))?;
        return match file.has_errors() {
            true => Err(report::mistakes(&file, &source.name, &file.diagnostics)),
            false => Ok(0),
        };
    }
    let terminal =
        if std::io::IsTerminal::is_terminal(&std::io::stderr()) { Terminal::Yes } else { Terminal::No };
    let progress = Arc::new(Progress::start(Style::of(options.progress, terminal)));
    let session = Session { options, store, spawner, progress, build, inputs, file, source };
    let ended = crate::runtime()?.block_on(session.build());
    let report = |ending| Arc::try_unwrap(session.progress).map(|progress| progress.finish(ending));
    match ended {
        Ok(()) => {
            let _ = report(Ending::Done);
            Ok(0)
        }
        Err(failure) => {
            let tails = report(Ending::Failed).map(|report| report.tails).unwrap_or_default();
            Err(report::with_tails(failure, &tails))
        }
    }
}

/// Fetches the contexts that must be, before there is a Dockerfile to show progress of.
///
/// # Errors
/// A source failure, or the signal that came first.
pub fn fetch_inputs(
    options: &BuildOptions,
    store: &Arc<Store>,
    build: &Arc<Build>,
) -> Result<Inputs, Failure> {
    let shows_text = match options.progress {
        Show::Auto | Show::Plain | Show::Tty => true,
        Show::Json | Show::Quiet => false,
    };
    let note = move |text: String| {
        let text: String = text.chars().filter(|char| !char.is_control()).collect();
        if shows_text {
            // Nobody may be reading any more.
            let _ = std::io::Write::write_all(&mut std::io::stderr().lock(), format!("{text}\n").as_bytes());
        }
    };
    let registries = Arc::new(Registries::new(options.registry.clone(), note));
    let fetcher = Fetcher::new(Arc::clone(store), Arc::clone(build), registries, options);
    let runtime = crate::runtime()?;
    let fetched = runtime.block_on(super::interruptible(Inputs::fetch(options, &fetcher)));
    // After an interrupt somebody may still wait for standard input.
    runtime.shutdown_background();
    fetched
}

/// One build.
struct Session {
    options: Arc<BuildOptions>,
    store: Arc<Store>,
    spawner: Spawner,
    progress: Arc<Progress>,
    build: Arc<Build>,
    inputs: Inputs,
    file: File,
    source: dockerfile::Dockerfile,
}

impl Session {
    async fn build(&self) -> Result<(), Failure> {
        let registries = self.registries();
        let bases = Bases::new(Arc::clone(&self.store), Arc::clone(&registries), self.options.pull);
        let bases = Arc::new(bases);
        let (store, build) = (Arc::clone(&self.store), Arc::clone(&self.build));
        let fetcher = Fetcher::new(store, build, Arc::clone(&registries), &self.options);
        let fetcher = Arc::new(fetcher);
        let answers = self.answers(Arc::clone(&bases), Arc::clone(&fetcher))?;
        let (definitions, machines) = super::interruptible(self.lower(&answers)).await?;
        let contexts =
            answers.directories.iter().map(|(name, context)| (name.clone(), Arc::clone(&context.root)));
        let contexts: BTreeMap<_, _> = contexts.collect();
        answers.save();
        self.note_skipped(&definitions);
        if let Some(print) = self.options.print {
            return self.print(print, definitions);
        }
        let mut joint = Joint::new(definitions);
        finish::check_annotations(&self.options.annotations, &joint)?;
        let build = Arc::clone(&self.build);
        let worker = Arc::new(BuildWorker {
            store: Arc::clone(&self.store),
            layers: Layers::new(Arc::clone(&self.store), Arc::clone(&build), Arc::clone(&registries)),
            build,
            bases,
            spawner: self.spawner.clone(),
            options: Arc::clone(&self.options),
            contexts,
            fetcher,
        });
        let graph = Arc::new(std::mem::take(&mut joint.graph));
        let ahead = self.ahead(&worker, &registries, &graph, &joint)?;
        let solved = self.solve(&worker, &graph, &joint.targets(), &machines, ahead.as_ref()).await?;
        let finish = finish::finish(self, &worker, &registries, &joint, &solved, ahead);
        super::interruptible(finish).await
    }

    fn registries(&self) -> Arc<Registries> {
        let progress = Arc::downgrade(&self.progress);
        let sink = move |event| {
            if let Some(progress) = progress.upgrade() {
                progress.registry(event);
            }
        };
        Arc::new(Registries::watched(self.options.registry.clone(), sink))
    }

    /// Returns who pushes while the build goes on, where the images are to be pushed.
    fn ahead(
        &self,
        worker: &Arc<BuildWorker>,
        registries: &Arc<Registries>,
        graph: &Arc<StepGraph>,
        joint: &Joint,
    ) -> Result<Option<push::Ahead>, Failure> {
        let images: Vec<StepId> = joint.images.iter().filter_map(|image| image.target).collect();
        let steps = (graph, &joint.targets()[..], &images[..]);
        let names = self.options.pushed();
        let ahead = || push::Ahead::new(worker, registries, &names, steps);
        (!names.is_empty()).then(ahead).transpose()
    }

    fn answers(&self, bases: Arc<Bases>, fetcher: Arc<Fetcher>) -> Result<Answers, Failure> {
        let (_, layouts) = named(&self.options.contexts);
        let contexts = self.store.root().join("contexts");
        let names: Vec<_> = self.source.ignore_names.iter().map(std::path::PathBuf::as_path).collect();
        let mut directories = BTreeMap::new();
        let open = |input: &Input, names: &[&Path]| match input.owner {
            Owner::User => ContextDirectory::open(&input.path, names, &contexts),
            Owner::Fetched => ContextDirectory::fetched(&input.path),
        };
        directories.insert(String::new(), open(&self.inputs.main, &names)?);
        for (name, input) in &self.inputs.named {
            directories.insert(name.clone(), open(input, &[Path::new(".dockerignore")])?);
        }
        Ok(Answers { directories, layouts, bases, fetcher })
    }

    /// Lowers for every platform; what all of them need is found out at once.
    async fn lower(&self, answers: &Answers) -> Result<(Vec<Definition>, foreign::Machines), Failure> {
        let ignore = answers.directories.get("").and_then(|context| context.ignore.as_ref());
        let ignore = ignore.map(|file| &file.rules);
        let all: Vec<_> = self.options.each_platform().collect();
        let all: Vec<_> = all
            .into_iter()
            .map(|platform| lower_options(&self.options, &self.inputs, ignore.cloned(), platform))
            .collect();
        lint::check_argument(&all[0])
            .map_err(|why| crate::options::usage("--build-arg BUILDKIT_DOCKERFILE_CHECK", &why, ""))?;
        let mut known = Known::default();
        let mut done: Vec<Option<Definition>> = vec![None; all.len()];
        let mut warnings: Vec<Diagnostic> = Vec::new();
        loop {
            let mut needs = BTreeMap::new();
            for (options, done) in all.iter().zip(&mut done).filter(|(_, done)| done.is_none()) {
                match lower::lower(&self.file, options, &known) {
                    Ok(Lowered::Needs(more)) => more.into_iter().for_each(|(need, asked)| {
                        needs.entry(need).or_insert(asked);
                    }),
                    Ok(Lowered::Done { definition, warnings: more }) => {
                        *done = Some(*definition);
                        report::merge(&mut warnings, more);
                    }
                    Err(diagnostics) => return Err(self.mistakes(options, &diagnostics)),
                }
            }
            if needs.is_empty() {
                self.warn(&all[0], warnings)?;
                return Ok((done.into_iter().flatten().collect(), foreign::Machines::of(&known)));
            }
            answers
                .answer(&needs, &mut known)
                .await
                .map_err(|failure| report::at_first_need(failure, &self.file, &self.source.name, &needs))?;
        }
    }

    fn mistakes(&self, options: &lower::Options, diagnostics: &[Diagnostic]) -> Failure {
        let failure = report::mistakes(&self.file, &self.source.name, diagnostics);
        match (&self.options.platforms[..], &options.platform) {
            ([_, _, ..], Some(platform)) => {
                Failure { line: format!("{} — building for {}", failure.line, platform.full()), ..failure }
            }
            _ => failure,
        }
    }

    /// Tells of findings, each once; fails where the file says that they are errors.
    fn warn(&self, options: &lower::Options, mut warnings: Vec<Diagnostic>) -> Result<(), Failure> {
        let context = &self.inputs.main.path;
        let request =
            lint::Request { rules: self.options.lint_rules, git: super::lint::git_directory(context) };
        warnings.extend(lint::own(&self.file, options, request));
        for warning in &warnings {
            self.progress.note(report::warning(&self.file, &self.source.name, warning));
        }
        super::lint::violation(&self.file, options, &self.source.name, &warnings)
    }

    fn note_skipped(&self, definitions: &[Definition]) {
        if let Some(unused) = report::unused_arguments(&self.file, &self.options.build_args) {
            self.progress.note(unused);
        }
        // What one platform skips, another may need.
        let Some((first, others)) = definitions.split_first() else { return };
        let mut skipped = first.image.skipped.clone();
        skipped.retain(|stage| others.iter().all(|other| other.image.skipped.contains(stage)));
        if !skipped.is_empty() {
            self.progress.note(format!("stages the target does not need: {}", skipped.join(", ")));
        }
        let steps = definitions.iter().flat_map(|definition| definition.graph.iter());
        let default_network = steps.into_iter().any(|(_, step)| match &step.op {
            Op::Run(run) => run.network == Network::Default,
            _ => false,
        });
        if default_network {
            self.progress.note("RUN steps use the host's network (--network host|none says it explicitly)");
        }
    }

    async fn solve(
        &self,
        worker: &Arc<BuildWorker>,
        graph: &Arc<StepGraph>,
        targets: &[StepId],
        machines: &foreign::Machines,
        ahead: Option<&push::Ahead>,
    ) -> Result<solver::Solved<crate::worker::Snapshot>, Failure> {
        let observer = self.progress.observer(Arc::clone(graph));
        let solver = Solver {
            worker: Arc::clone(worker),
            records: Arc::new(Records::open(self.store.steps())?),
            observer: ahead.map_or(Arc::clone(&observer), |ahead| ahead.watch(observer)),
            jobs: self.options.jobs,
        };
        let foreign = machines.foreign(graph);
        if !foreign.is_empty() {
            let plan = solver.plan(graph, targets);
            foreign::check(&foreign, &plan, graph, &self.source.name)?;
        }
        if self.options.explain {
            self.explain(&solver, graph, targets);
        }
        let cancel = Cancel::new();
        let solving = solver.solve(Arc::clone(graph), targets, Wanted::Snapshots, &cancel);
        tokio::pin!(solving);
        let solved = tokio::select! {
            solved = &mut solving => solved,
            signal = super::signalled() => {
                super::steps_end();
                cancel.cancel();
                let tell = |text| self.progress.note(text);
                let _ = super::until_ended("what is running", solving, tell).await;
                return Err(Failure::new(Class::Signal(signal), &["interrupted", "", "finished steps stay cached"]));
            }
            denied = push::denied(ahead) => {
                cancel.cancel();
                let _ = solving.await;
                return Err(denied);
            }
        };
        solved.map_err(|error| report::solve(&error, graph, &worker.bases, &self.source.name, &self.file))
    }

    fn explain(&self, solver: &Solver<BuildWorker>, graph: &StepGraph, targets: &[StepId]) {
        let mut plan = solver.plan(graph, targets);
        solver::explain(&mut plan, graph, targets, &solver.records);
        for (id, step) in plan.iter() {
            if let solver::Verdict::Miss(reason) = &step.verdict {
                self.progress.note(format!("{}: {}", graph.step(id).label.text, reason.describe(graph)));
            }
        }
    }

    fn print(&self, what: Print, definitions: Vec<Definition>) -> Result<(), Failure> {
        if what == Print::Graph {
            return crate::commands::print(&print::graph(&definitions));
        }
        let joint = Joint::new(definitions);
        let definition = &joint.definition().expect("a build has at least one image");
        let build = Arc::new(Build::new(Arc::clone(&self.store)));
        let layers = Layers::new(Arc::clone(&self.store), build, self.registries());
        let records = Records::open(self.store.steps())?;
        let lookup = print::PlanLookup { records: &records, layers: &layers };
        let text = match what {
            Print::Instructions => unreachable!("instructions are printed before lowering"),
            Print::Graph => unreachable!("the graphs of all platforms are printed before they are one"),
            Print::Dot => lookup.dot(definition),
            Print::Svg => lookup.svg(definition),
            Print::Plan => lookup.json(definition),
        };
        crate::commands::print(&text)
    }
}

/// Returns what the options mean to lowering for one of the platforms.
pub fn lower_options(
    options: &BuildOptions,
    inputs: &Inputs,
    ignore: Option<frontend::graph::pattern::ignore::Rules>,
    platform: Option<&Platform>,
) -> lower::Options {
    let (contexts, _) = named(&options.contexts);
    lower::Options {
        target: options.target.clone(),
        build_args: options.build_args.clone(),
        labels: options.labels.clone(),
        platform: platform.cloned(),
        network: options.steps.network,
        no_cache: match (options.no_cache, options.no_cache_filter.is_empty()) {
            (true, _) => NoCache::All,
            (false, false) => NoCache::Stages(options.no_cache_filter.clone()),
            (false, true) => NoCache::Off,
        },
        source_date_epoch: options.source_date_epoch,
        extra_hosts: options.steps.extra_hosts.clone(),
        ulimits: options.steps.ulimits.clone(),
        shm_size: options.steps.shm_size,
        contexts,
        context_times: inputs.times.clone(),
        all_stages: options.all_stages,
        allow: options.steps.allow.iter().filter_map(|name| Entitlement::of_name(name)).collect(),
        ignore,
        ..lower::Options::default()
    }
}
