//! Rules about shells that go on after a failure: heredocs without `set -e`, pipes without `pipefail`.

use super::script::{self, Joint, Simple};
use super::stages::{Running, View};
use crate::Diagnostic;

/// Looks at every RUN.
pub(super) fn check(view: &View<'_>, found: &mut Vec<Diagnostic>) {
    for running in view.stages.iter().flat_map(|stage| &stage.runs) {
        found.extend(errexit(running));
        found.extend(pipefail(running));
    }
}

fn errexit(running: &Running<'_>) -> Option<Diagnostic> {
    // With `sh <<EOF` the line comes first; the body is last in any case.
    let script = running.scripts().pop().filter(|_| running.heredoc_is_script())?;
    errexit_of(running, script)
}

fn errexit_of(running: &Running<'_>, script: &str) -> Option<Diagnostic> {
    let commands = script::commands(script);
    let several = commands.iter().filter(|command| command.joint == Joint::Sequence).count() > 1;
    let line = running.rest_of_line();
    let stops = commands.iter().any(|command| command.program() == "set" && sets(&command.words, 'e', "errexit"))
        || shebang(script).is_some_and(|words| sets(&words, 'e', "errexit"))
        || sets(&line, 'e', "errexit")
        // With a heredoc for another program, SHELL only starts that program.
        || (running.is_heredoc_alone() && !script.starts_with("#!") && sets(running.shell, 'e', "errexit"));
    if !several || stops {
        return None;
    }
    let message = "the heredoc goes on after a command that fails: only the last one decides";
    Some(Diagnostic::warning("xbuild/HeredocWithoutErrexit", running.instruction.span, message))
}

fn pipefail(running: &Running<'_>) -> Option<Diagnostic> {
    let scripts = running.scripts();
    let mut texts = running.shell.iter().map(String::as_str).chain(scripts.iter().copied());
    if texts.any(|text| text.contains("pipefail")) {
        return None;
    }
    let commands: Vec<Simple> = scripts.into_iter().flat_map(script::commands).collect();
    let at = commands.iter().position(|command| command.joint == Joint::Pipe)?;
    let before = commands.get(at.checked_sub(1)?)?.program();
    let message = format!("a failure of {before:?} before the pipe goes unnoticed");
    Some(Diagnostic::warning("xbuild/PipeWithoutPipefail", running.instruction.span, message))
}

/// Whether words of a command line set an option of the shell: `-e`, `-eux`, `-o errexit`.
fn sets(words: &[impl AsRef<str>], letter: char, name: &str) -> bool {
    words.iter().map(AsRef::as_ref).any(|word| {
        let letters = word.strip_prefix('-').filter(|rest| !rest.starts_with('-'));
        word == name || letters.is_some_and(|letters| letters.contains(letter))
    })
}

fn shebang(script: &str) -> Option<Vec<&str>> {
    Some(script.strip_prefix("#!")?.lines().next()?.split_whitespace().collect())
}
