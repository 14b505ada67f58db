//! Rules about `# check=` comments: a name that no rule has switches nothing.

use super::rules::{OWN, RULES};
use crate::file::File;
use crate::instruction::Span;
use crate::{Diagnostic, suggest};

/// Looks at the directive and at the comments above instructions.
pub(super) fn check(file: &File, found: &mut Vec<Diagnostic>) {
    if let Some(check) = &file.directives.check {
        let names = check.value.skip.iter().chain(&check.value.experimental);
        found.extend(names.filter_map(|name| unknown(name, check.span)));
    }
    for instruction in &file.instructions {
        let names = instruction.skipped_rules.iter().chain(&instruction.experimental_rules);
        found.extend(names.filter_map(|name| unknown(name, instruction.keyword.span)));
    }
}

fn unknown(name: &str, span: Span) -> Option<Diagnostic> {
    /// A warning of builds alone, since it needs the context's files.
    const OF_BUILDS: &str = "CopyNothingMatched";
    let known: Vec<&str> = RULES.iter().map(|rule| rule.name).chain([OWN, "all", OF_BUILDS]).collect();
    if name.is_empty() || known.iter().any(|rule| rule.eq_ignore_ascii_case(name)) {
        return None;
    }
    let message = format!("no rule has the name {name:?}{}", suggest::did_you_mean(name, &known));
    Some(Diagnostic::warning("xbuild/UnknownRule", span, message))
}
