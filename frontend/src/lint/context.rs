//! Rules about the build context: what is copied along and should not be.

use super::GitDirectory;
use super::cache::takes_all;
use super::stages::View;
use crate::Diagnostic;
use crate::instruction::InstructionKind;
use crate::lower::Options;

/// Looks at every COPY and ADD of the whole context.
pub(super) fn check(view: &View<'_>, options: &Options, git: GitDirectory, found: &mut Vec<Diagnostic>) {
    let hidden = options.ignore.as_ref().is_some_and(|rules| rules.ignores(".git"));
    if git == GitDirectory::Absent || hidden {
        return;
    }
    for instruction in view.stages.iter().flat_map(|seen| seen.stage.instructions) {
        let (InstructionKind::Copy(copy) | InstructionKind::Add(copy)) = &instruction.kind else { continue };
        let excluded = copy
            .excludes
            .iter()
            .any(|exclude| matches!(exclude.value.as_str(), ".git" | ".git/" | "**/.git"));
        let Some(source) = copy.sources.first().filter(|_| takes_all(copy) && !excluded) else { continue };
        let message = "the repository's history is copied along: no line of the ignore file hides .git, and \
                       every commit changes this layer";
        found.push(Diagnostic::warning("xbuild/GitInContext", source.span, message));
    }
}
