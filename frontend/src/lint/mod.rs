//! Lint: the table of all rules, and xbuild's own ones beside BuildKit's.
//!
//! BuildKit's 22 rules need the state of a stage and are found while it is lowered ([`crate::lower`]). The own
//! rules stand here, one file per theme; their names begin with `xbuild/`. They are on in [`RuleSet::All`], or
//! where a file asks for them with `# check=experimental=xbuild` (all of them) or
//! `# check=experimental=xbuild/NAME`, which BuildKit passes over; `skip=` takes the same names. No rule here
//! reads a file or makes an error.

mod apt;
mod bases;
mod cache;
mod context;
mod names;
mod rules;
mod script;
mod shell;
mod stages;

#[cfg(test)]
mod tests;

use crate::file::Check;
use crate::instruction::Instruction;
use crate::lower::{self, Checked, Known, Options};
use crate::stage::Stages;
use crate::{Diagnostic, File};
pub use rules::{Group, RULES, Rule, rule};

/// Which rules are on when the file says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RuleSet {
    /// BuildKit's.
    #[default]
    BuildKit,
    /// BuildKit's and xbuild's.
    All,
}

/// What lint must know of the context directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GitDirectory {
    /// There is no `.git`, or nobody looked.
    #[default]
    Absent,
    /// The directory holds `.git`.
    Present,
}

/// What a check is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request {
    /// Rules.
    pub rules: RuleSet,
    /// The context.
    pub git: GitDirectory,
}

/// Checks a whole file without building, with all rules that are on.
pub fn check(file: &File, options: &Options, known: &Known, request: Request) -> Checked {
    let mut checked = lower::check(file, options, known);
    checked.warnings.extend(own(file, options, request));
    sort(&mut checked.warnings);
    checked
}

/// Returns the findings of xbuild's own rules that are on, in order of place.
pub fn own(file: &File, options: &Options, request: Request) -> Vec<Diagnostic> {
    let check = lower::settings(file, options);
    if !may_be_on(&check, file, request.rules) {
        return Vec::new();
    }
    let Ok(stages) = Stages::of(&file.instructions) else { return Vec::new() };
    let view = stages::view(file, &stages, options);
    let mut found = Vec::new();
    shell::check(&view, &mut found);
    apt::check(&view, &mut found);
    cache::check(&view, &mut found);
    bases::check(&view, options, &mut found);
    context::check(&view, options, request.git, &mut found);
    names::check(file, &mut found);
    found.retain(|finding| is_on(&check, file, request.rules, finding));
    sort(&mut found);
    found
}

/// Reads the build argument that takes the place of `# check=`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_argument(options: &Options) -> Result<(), String> {
    let text = options.build_arg("BUILDKIT_DOCKERFILE_CHECK").unwrap_or_default();
    crate::directives::parse_check(text).map(drop)
}

/// Whether the file says `error=true`, so that findings fail the build.
pub fn findings_fail(file: &File, options: &Options) -> bool {
    lower::settings(file, options).error
}

fn sort(findings: &mut Vec<Diagnostic>) {
    findings.sort_by(|a, b| (a.span, a.rule, &a.message).cmp(&(b.span, b.rule, &b.message)));
    findings.dedup();
}

/// Says whether any own rule could be on, so that builds that ask for none do not pay for them.
fn may_be_on(check: &Check, file: &File, rules: RuleSet) -> bool {
    let own = |names: &[String]| names.iter().any(|name| name.to_lowercase().starts_with(rules::OWN));
    let at_instruction = || file.instructions.iter().any(|instruction| own(&instruction.experimental_rules));
    rules == RuleSet::All || own(&check.experimental) || at_instruction()
}

/// Says whether an own rule is on at a place.
fn is_on(check: &Check, file: &File, rules: RuleSet, finding: &Diagnostic) -> bool {
    let Some(name) = finding.rule else { return true };
    let none = Vec::new();
    let (skipped, wanted) = instruction_at(file, finding.span.start)
        .map_or((&none, &none), |instruction| (&instruction.skipped_rules, &instruction.experimental_rules));
    let named = |names: &[String]| {
        names.iter().any(|entry| entry.eq_ignore_ascii_case(name) || entry.eq_ignore_ascii_case(rules::OWN))
    };
    let all = |names: &[String]| names.iter().any(|entry| entry == "all");
    if named(skipped) || all(skipped) || named(&check.skip) {
        return false;
    }
    // `experimental=all` means BuildKit's alone, so that a file finds the same with both tools.
    named(wanted) || named(&check.experimental) || (rules == RuleSet::All && !all(&check.skip))
}

/// Returns the instruction in which a byte of the text stands, or the last one before it.
pub fn instruction_at(file: &File, byte: usize) -> Option<&Instruction> {
    let after = file.instructions.partition_point(|instruction| instruction.span.start <= byte);
    file.instructions.get(after.checked_sub(1)?)
}

/// Returns the line under which BuildKit reports a finding: the first one of its instruction, but for an empty
/// continuation the line where that ends.
pub fn line(file: &File, finding: &Diagnostic) -> u32 {
    let inside =
        instruction_at(file, finding.span.start).filter(|found| finding.span.start <= found.span.end);
    match inside {
        Some(instruction) if finding.rule != Some("NoEmptyContinuation") => instruction.lines.0,
        Some(_) | None => file.position(finding.span.start).line,
    }
}
