//! What a build tells of mistakes and failed steps.

use std::collections::BTreeMap;

use frontend::graph::{Op, StepGraph, StepId, StepKind};
use frontend::instruction::InstructionKind;
use frontend::lower::{Asked, MISSING_SOURCE, Need, REFUSED};
use frontend::{Diagnostic, File, Severity, render};
use oci::Digest;
use oci::reference::Reference;
use solver::SolveError;

use crate::bases::Bases;
use crate::failure::{Class, Failure, from};
use crate::needs::UNREADABLE_CONTEXT;
use crate::progress::{Tail, neutralise, shorten};
use crate::worker::error::StepError;

/// Lines of an instruction that an excerpt shows, with those around it.
const EXCERPT_LINES: usize = 20;

/// Characters of a line that an excerpt shows.
const EXCERPT_WIDTH: usize = 400;

/// All mistakes of a Dockerfile: excerpts first, then one line.
pub fn mistakes(file: &File, name: &str, diagnostics: &[Diagnostic]) -> Failure {
    let errors: Vec<_> = diagnostics.iter().filter(|found| found.severity == Severity::Error).collect();
    // The excerpts are details of the one error line below them.
    // Warnings are among them only where the file makes errors of them.
    let excerpt = |found: &Diagnostic| {
        let text = render::snippet(file, name, found, render::Style::Plain);
        let mistake = text.strip_prefix("error").map(|rest| format!("mistake{rest}"));
        mistake.unwrap_or(text) + "\n\n"
    };
    let detail: String = diagnostics.iter().map(excerpt).collect();
    let class =
        |rule: &str, class: Class| errors.iter().all(|found| found.rule == Some(rule)).then_some(class);
    let class = class(REFUSED, Class::Refused)
        .or_else(|| class(MISSING_SOURCE, Class::Source))
        .unwrap_or(Class::Dockerfile);
    let Some(first) = errors.first() else {
        return Failure::new(Class::Internal, &["lowering failed without a reason", name]);
    };
    let more = match errors.len() {
        1 => String::new(),
        count => format!(" (and {} more, see above)", count - 1),
    };
    let place = place(file, name, first);
    let failure = Failure::new(
        class,
        &[&format!("{}{more}", first.message), &place, "", first.help.as_deref().unwrap_or("")],
    );
    failure.with_detail(detail)
}

/// Adds what is not among `warnings` yet: most findings are those of every platform.
pub fn merge(warnings: &mut Vec<Diagnostic>, more: Vec<Diagnostic>) {
    for found in more {
        if !warnings.contains(&found) {
            warnings.push(found);
        }
    }
}

/// A warning as one line.
pub fn warning(file: &File, name: &str, warning: &Diagnostic) -> String {
    let rule = warning.rule.map(|rule| format!("{rule}: ")).unwrap_or_default();
    format!("warning: {rule}{} — {}", warning.message, place(file, name, warning))
}

fn place(file: &File, name: &str, diagnostic: &Diagnostic) -> String {
    let position = file.position(diagnostic.span.start);
    format!("{name}:{}:{}", position.line, position.column)
}

/// Names the build arguments that no ARG of the file takes and that mean nothing to xbuild: usually misspelt ones.
pub fn unused_arguments(file: &File, given: &[(String, String)]) -> Option<String> {
    let kinds = file.instructions.iter().map(|instruction| match &instruction.kind {
        InstructionKind::Onbuild { trigger, .. } => &trigger.kind,
        kind => kind,
    });
    let is_known = |name: &str| {
        let platform = ["BUILD", "TARGET"]
            .iter()
            .filter_map(|prefix| name.strip_prefix(prefix))
            .any(|rest| matches!(rest, "PLATFORM" | "OS" | "OSVERSION" | "ARCH" | "VARIANT" | "STAGE"));
        let upper = name.to_ascii_uppercase();
        let proxy = matches!(upper.strip_suffix("_PROXY"), Some("HTTP" | "HTTPS" | "FTP" | "NO" | "ALL"));
        platform || proxy || name.starts_with("BUILDKIT_") || name == "SOURCE_DATE_EPOCH"
    };
    let is_declared = |name: &str| {
        kinds.clone().any(|kind| match kind {
            InstructionKind::Arg(definitions) => definitions.iter().any(|arg| arg.name.value == name),
            _ => false,
        })
    };
    let mut unused: Vec<_> = given.iter().map(|(name, _)| name.as_str()).collect();
    unused.retain(|name| !is_known(name) && !is_declared(name));
    unused.dedup();
    (!unused.is_empty())
        .then(|| format!("warning: one or more build-args were not consumed: {}", unused.join(", ")))
}

/// Says where in the Dockerfile the need arose that could not be answered.
pub fn at_first_need(failure: Failure, file: &File, name: &str, needs: &BTreeMap<Need, Asked>) -> Failure {
    // Selections of a context are made for all instructions at once.
    if failure.line.starts_with(UNREADABLE_CONTEXT) {
        return failure;
    }
    let fetched =
        needs.iter().filter(|(need, _)| matches!(need, Need::Image(_) | Need::Url(_) | Need::Git(_)));
    let place = |asked: &Asked| format!("{name}:{}", file.position(asked.span.start).line);
    let places: Vec<_> = fetched.map(|(_, asked)| place(asked)).collect();
    match places.as_slice() {
        [one] => Failure { line: format!("{} — {one}", failure.line), ..failure },
        _ => failure,
    }
}

/// The failure of a solve, with the excerpt of the instruction whose failure it is.
pub fn solve(
    error: &SolveError<StepError>,
    graph: &StepGraph,
    bases: &Bases,
    name: &str,
    file: &File,
) -> Failure {
    // Whichever step reads a base first meets what is wrong with it.
    let base = match error {
        SolveError::Step { source: StepError::Layer { layer, .. }, .. } => base_of(graph, bases, layer),
        SolveError::Step { .. }
        | SolveError::Record(_)
        | SolveError::Vanishing { .. }
        | SolveError::Cancelled => None,
    };
    let lines = base.map(|id| from_of(file, &graph.step(id).op));
    let failure = from::solve(error, |id| match (base, lines) {
        (Some(base), Some((line @ 1.., _))) => format!("{} — {name}:{line}", graph.step(base).label.text),
        (Some(base), _) => graph.step(base).label.text.clone(),
        (None, _) => describe(graph, id, name),
    });
    match error {
        SolveError::Step { id, .. } => {
            let lines = lines.unwrap_or(graph.step(*id).label.lines);
            failure.with_detail(excerpt(file, lines))
        }
        SolveError::Record(_) | SolveError::Vanishing { .. } | SolveError::Cancelled => failure,
    }
}

/// Returns the base image that a layer belongs to.
fn base_of(graph: &StepGraph, bases: &Bases, layer: &str) -> Option<StepId> {
    let has = |manifest: &Digest| {
        let blobs = bases.blobs(manifest).unwrap_or_default();
        blobs.iter().any(|blob| blob.digest().as_ref() == layer)
    };
    let found = graph.iter().find(|(_, step)| match &step.op {
        Op::Image(image) => has(&image.manifest),
        Op::OciLayout(layout) => has(&layout.manifest),
        Op::Local(_) | Op::Git(_) | Op::Http(_) | Op::Run(_) | Op::Copy(_) | Op::Mkdir(_) => false,
    });
    found.map(|(id, _)| id)
}

/// Returns the lines of the FROM that names a base, 0 where that is not clear: bases belong to no single instruction.
fn from_of(file: &File, base: &Op) -> (u32, u32) {
    let froms = file.instructions.iter().filter_map(|instruction| match &instruction.kind {
        InstructionKind::From(from) => Some((&from.image.value, instruction.lines)),
        _ => None,
    });
    let place = |name: &str| name.parse::<Reference>().map(|reference| reference.place()).ok();
    let wanted = match base {
        Op::Image(image) => place(&image.reference),
        Op::OciLayout(_) | Op::Local(_) | Op::Git(_) | Op::Http(_) => None,
        Op::Run(_) | Op::Copy(_) | Op::Mkdir(_) => None,
    };
    let named = froms.clone().find(|(name, _)| wanted.is_some() && place(name) == wanted);
    let only = froms.clone().next().filter(|_| froms.count() == 1);
    named.or(only).map_or((0, 0), |(_, lines)| lines)
}

/// A step as failures name it: its instruction, its line, and its platform where the graph has several.
pub fn describe(graph: &StepGraph, id: StepId, name: &str) -> String {
    let step = graph.step(id);
    let mut layers =
        graph.iter().filter(|(_, step)| step.kind() == StepKind::Layer).map(|(_, step)| &step.platform);
    let several = layers.any(|platform| *platform != step.platform);
    let platform = if several { format!(" — for {}", step.platform.full()) } else { String::new() };
    match step.label.lines.0 {
        0 => format!("{}{platform}", step.label.text),
        line => format!("{}{platform} — {name}:{line}", step.label.text),
    }
}

/// The instruction's lines with one line around them, the instruction marked.
fn excerpt(file: &File, (first, last): (u32, u32)) -> String {
    if first == 0 {
        return String::new();
    }
    let shown = |line: u32| line + 1 >= first && line <= last + 1;
    let mark = |line: u32| if (first..=last).contains(&line) { ">>>" } else { "   " };
    let lines = file.text.lines().zip(1_u32..).filter(|(_, line)| shown(*line));
    // Nothing in a Dockerfile may move the terminal's cursor, and a long script is not the error.
    let mut numbered = lines.map(|(text, line)| {
        format!("{line:4} | {} {}\n", mark(line), neutralise(&shorten(text.trim_end(), EXCERPT_WIDTH)))
    });
    let shown: String = numbered.by_ref().take(EXCERPT_LINES).collect();
    match numbered.count() {
        0 => shown,
        left_out => format!("{shown}     | … {left_out} more lines\n"),
    }
}

/// Puts the last output of failed steps before the excerpt.
pub fn with_tails(failure: Failure, tails: &[Tail]) -> Failure {
    if failure.class != Class::Step {
        return failure;
    }
    let mut detail = String::new();
    for tail in tails {
        if tail.left_out > 0 {
            detail += &format!("… {} earlier lines\n", tail.left_out);
        }
        for line in &tail.lines {
            detail += &format!("  {line}\n");
        }
    }
    let detail = detail + &failure.detail;
    failure.with_detail(detail)
}
