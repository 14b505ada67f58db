//! Lowering: a parsed Dockerfile and the user's options become a [`Definition`].
//!
//! [`lower`] is a pure function. What it must know of the world it returns as needs; the caller finds them
//! out, all at once, and calls again until the answer is done. Semantics are those of BuildKit's frontend
//! (dockerfile2llb); where BuildKit is silently wrong, this is an error or a warning.
//!
//! In reading order: what is asked for and known (`options`, `known`); the file before its stages (`check`, `arguments`,
//! `lint`, `epoch`); which stages, on what (`plan`, `base`, `sources`); what is known while a stage is walked (`state`,
//! `variables`, `words`); its instructions (`command`, `dispatch`, `metadata` with `ports` and `signal`, `copy` with
//! `remote`, `run` with `mounts` and `entitlements`); the end (`finish`, `text`).

mod arguments;
mod base;
mod check;
mod command;
mod copy;
mod dispatch;
mod entitlements;
mod epoch;
mod finish;
mod known;
mod lint;
mod metadata;
mod mounts;
mod options;
mod plan;
mod ports;
mod remote;
mod run;
mod signal;
mod sources;
mod state;
mod text;
mod variables;
mod words;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::rc::Rc;

use oci::{Digest, Platform};

use crate::graph::{Definition, Label, Op, Step, StepGraph, StepId};
use crate::instruction::Span;
use crate::stage::Stages;
use crate::{Diagnostic, File, Severity};
use base::Base;
use command::Command;
pub use known::{
    Asked, GitNeed, IgnoredBy, ImageNeed, Known, KnownGit, KnownImage, KnownUrl, LayoutNeed, Need,
    SelectionError, SelectionNeed, SourceTime, UrlNeed,
};
pub(crate) use lint::settings;
pub use options::{Context, Entitlement, NoCache, Options};
use plan::Needed;
use state::{State, Work};
use variables::Variables;

/// The rule of errors that are refusals: an entitlement is missing, or a frontend is external.
pub const REFUSED: &str = "refused";

/// The rule of errors about sources that are not there.
pub const MISSING_SOURCE: &str = "missing-source";

/// The answer of lowering.
#[derive(Debug)]
pub enum Lowered {
    /// These must be found out first.
    Needs(BTreeMap<Need, Asked>),
    /// Everything is known.
    Done {
        /// What to build.
        definition: Box<Definition>,
        /// What could be better, in order of place.
        warnings: Vec<Diagnostic>,
    },
}

/// Lowers a Dockerfile.
///
/// # Errors
/// All mistakes that were found, in order of place; where the file says that warnings are errors, they come
/// before the mistake that says so. Those of rule [`REFUSED`] are refusals, those of rule
/// [`MISSING_SOURCE`] are about the context.
pub fn lower(file: &File, options: &Options, known: &Known) -> Result<Lowered, Vec<Diagnostic>> {
    if file.has_errors() {
        let is_error = |found: &&Diagnostic| found.severity == Severity::Error;
        return Err(file.diagnostics.iter().filter(is_error).cloned().collect());
    }
    check::frontend(file, options)?;
    let stages = Stages::of(&file.instructions)?;
    let mut lowering = Lowering::new(file, options, known, stages);
    let Some((target, needed)) = lowering.everything() else { return Err(lowering.into_errors()) };
    if !lowering.needs.is_empty() {
        return Ok(Lowered::Needs(lowering.needs));
    }
    let warnings = lowering.take_warnings();
    match lowering.violation(&warnings) {
        Some(violation) => Err(warnings.into_iter().chain([violation]).collect()),
        None => Ok(Lowered::Done { definition: lowering.finish(target, &needed), warnings }),
    }
}

/// What a check without a build found.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// Bases that must be found out first, for a complete answer.
    pub needs: BTreeMap<Need, Asked>,
    /// What could be better, in order of place.
    pub warnings: Vec<Diagnostic>,
    /// Mistakes, in order of place.
    pub errors: Vec<Diagnostic>,
}

/// Looks for mistakes and for what could be better, in all stages unless a target is given. Files of contexts,
/// URLs and git repositories are not needed for that.
pub fn check(file: &File, options: &Options, known: &Known) -> Checked {
    let options = Options { all_stages: options.all_stages || options.target.is_none(), ..options.clone() };
    let errors = |found: &&Diagnostic| found.severity == Severity::Error;
    let broken = file.diagnostics.iter().filter(errors).cloned().collect::<Vec<_>>();
    let stages = match Stages::of(&file.instructions) {
        Ok(stages) => stages,
        Err(found) => return Checked { errors: [broken, found].concat(), ..Checked::default() },
    };
    let mut lowering = Lowering::new(file, &options, known, stages);
    lowering.purpose = Purpose::Check;
    if broken.is_empty() {
        lowering.everything();
    } else {
        lowering.lint();
        lowering.errors.extend(broken);
    }
    let warnings = lowering.take_warnings();
    lowering.errors.extend(lowering.violation(&warnings));
    let mut needs = std::mem::take(&mut lowering.needs);
    needs.retain(|need, _| matches!(need, Need::Image(_) | Need::Layout(_)));
    Checked { needs, warnings, errors: lowering.into_errors() }
}

/// What lowering is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A definition.
    Build,
    /// Warnings and errors: a stage of an unknown base is looked at as far as that goes.
    Check,
}

/// Everything while it is lowered.
struct Lowering<'a> {
    file: &'a File,
    options: &'a Options,
    known: &'a Known,
    purpose: Purpose,
    /// The base of the stage at hand is not known, so any variable may have a value.
    base_unknown: bool,
    stages: Stages<'a>,
    /// Arguments before the first FROM, and platform arguments.
    globals: Rc<Variables>,
    epoch: Option<i64>,
    bases: BTreeMap<usize, Base>,
    commands: BTreeMap<usize, Vec<Command<'a>>>,
    states: BTreeMap<usize, State>,
    graph: StepGraph,
    images: BTreeMap<(Digest, Platform), StepId>,
    needs: BTreeMap<Need, Asked>,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl<'a> Lowering<'a> {
    fn new(file: &'a File, options: &'a Options, known: &'a Known, stages: Stages<'a>) -> Self {
        Self {
            file,
            options,
            known,
            purpose: Purpose::Build,
            base_unknown: false,
            stages,
            globals: Rc::default(),
            epoch: None,
            bases: BTreeMap::new(),
            commands: BTreeMap::new(),
            states: BTreeMap::new(),
            graph: StepGraph::default(),
            images: BTreeMap::new(),
            needs: BTreeMap::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Lowers what the target needs; `None` after errors.
    fn everything(&mut self) -> Option<(usize, Needed)> {
        self.read_globals();
        self.lint();
        let target = self.target();
        self.check_cycles();
        self.check_entitlements();
        let target = target.filter(|_| self.errors.is_empty())?;
        let needed = self.reachable(target);
        for index in needed.order.iter().copied() {
            self.lower_stage(index);
        }
        self.errors.is_empty().then_some((target, needed))
    }

    fn error(&mut self, diagnostic: Diagnostic) {
        self.errors.push(diagnostic);
    }

    /// Adds a warning, unless a comment above the instruction switches its rule off.
    fn warn(&mut self, command: &Command<'_>, rule: &'static str, span: Span, message: String) {
        let skipped = &command.instruction.skipped_rules;
        if !skipped.iter().any(|name| name.eq_ignore_ascii_case(rule) || name.eq_ignore_ascii_case("all")) {
            self.warnings.push(Diagnostic::warning(rule, span, message));
        }
    }

    fn need(&mut self, need: Need, span: Span, hint: Option<String>) {
        self.needs.entry(need).or_insert(Asked { span, hint });
    }

    fn into_errors(mut self) -> Vec<Diagnostic> {
        self.errors.sort_by_key(|error| error.span);
        self.errors.dedup();
        self.errors
    }

    /// Adds a source step, which belongs to no stage.
    fn source_step(&mut self, op: Op, platform: &Platform, text: String) -> StepId {
        self.graph.push(Step {
            op,
            parent: None,
            inputs: Vec::new(),
            platform: platform.clone(),
            source_date_epoch: None,
            no_cache: false,
            label: Label { text, ..Label::default() },
        })
    }

    /// Adds a step that makes a layer on top of the stage.
    fn layer_step(&mut self, work: &mut Work, command: &Command<'_>, op: Op, inputs: Vec<StepId>) -> StepId {
        work.position += 1;
        let text = text::without_credentials(&self.step_text(work, command));
        self.graph.push(Step {
            op,
            parent: work.state.step,
            inputs,
            platform: work.state.platform.clone(),
            source_date_epoch: self.epoch,
            no_cache: work.no_cache,
            label: Label {
                stage: work.title.clone(),
                position: (work.position, work.total),
                text,
                lines: command.lines(),
            },
        })
    }

    /// Lowers one stage: its base, then its instructions.
    fn lower_stage(&mut self, index: usize) {
        let Some(state) = self.begin(index) else { return };
        let commands = self.commands.remove(&index).unwrap_or_default();
        self.base_unknown = state.unknown;
        let mut work = self.work(index, state, &commands);
        for command in &commands {
            self.lower_command(&mut work, command);
        }
        self.states.insert(index, work.state);
    }

    fn work(&self, index: usize, state: State, commands: &[Command<'a>]) -> Work {
        let stage = &self.stages.stages[index];
        let layers = commands.iter().filter(|command| command.makes_layer()).count();
        let from = u32::from(!matches!(self.bases.get(&index), Some(Base::Scratch | Base::Stage(_))));
        let no_cache = match &self.options.no_cache {
            NoCache::Off => false,
            NoCache::All => true,
            NoCache::Stages(names) => names
                .iter()
                .any(|name| name.eq_ignore_ascii_case(&stage.name()) || *name == index.to_string()),
        };
        let total = from.saturating_add(u32::try_from(layers).unwrap_or(u32::MAX));
        // As in BuildKit's progress: the only stage of a file needs no name.
        let title = if self.stages.stages.len() == 1 { String::new() } else { stage.name() };
        Work { index, title, state, position: from, total, no_cache, seen: [None; 3] }
    }
}
