//! Rules about the order of instructions: what changes often should stand below what takes long.

use super::script::{self, Simple};
use super::stages::{Running, Seen, View};
use crate::Diagnostic;
use crate::instruction::{ArgDefinition, Command, Copy, InstructionKind, Span};

/// Looks at every stage.
pub(super) fn check(view: &View<'_>, found: &mut Vec<Diagnostic>) {
    for stage in &view.stages {
        found.extend(copy_before_install(stage));
        for instruction in stage.stage.instructions {
            let InstructionKind::Arg(arguments) = &instruction.kind else { continue };
            let volatile = arguments.iter().filter(|argument| changes_often(&argument.name.value));
            found.extend(volatile.filter_map(|argument| too_early(argument, stage, instruction.span)));
        }
    }
}

/// Whether a COPY takes the whole build context.
pub(super) fn takes_all(copy: &Copy) -> bool {
    copy.from.is_none() && copy.sources.iter().any(|source| matches!(source.value.as_str(), "." | "./" | "/"))
}

fn copy_before_install(stage: &Seen<'_>) -> Option<Diagnostic> {
    let (copied, source) =
        stage.stage.instructions.iter().find_map(|instruction| match &instruction.kind {
            InstructionKind::Copy(copy) | InstructionKind::Add(copy) if takes_all(copy) => {
                Some((instruction, copy.sources.first()?.span))
            }
            _ => None,
        })?;
    let later = stage.runs.iter().filter(|running| running.instruction.span > copied.span);
    let mut commands = later.flat_map(Running::scripts).flat_map(script::commands);
    let install = commands.find(installs)?;
    let line: Vec<&str> = install.words.iter().take(3).map(String::as_str).collect();
    let message = format!(
        "any change of any file makes `{}` run again: all files are copied before it",
        line.join(" ")
    );
    Some(Diagnostic::warning("xbuild/CopyBeforeInstall", source, message))
}

/// Whether a command installs what a file of dependencies or the command line names.
fn installs(command: &Simple) -> bool {
    let operands: Vec<&str> = command.operands().collect();
    let first = operands.first().copied().unwrap_or_default();
    let has = |word: &str| command.words.iter().any(|found| found == word);
    match command.program() {
        "npm" | "pnpm" => matches!(first, "ci" | "install" | "i" | "clean-install" | "fetch"),
        "yarn" => matches!(first, "" | "install"),
        "bun" | "composer" | "bundle" | "poetry" => first == "install",
        "pip" | "pip3" | "pipenv" => {
            let own = |word: &&str| matches!(*word, "." | "./") || word.starts_with(".[");
            matches!(first, "install" | "sync") && (has("-r") || !operands.iter().any(own))
        }
        "python" | "python3" => has("pip") && has("-r"),
        "uv" => first == "sync" || (first == "pip" && has("-r")),
        "go" => first == "mod" && has("download"),
        "cargo" => first == "fetch",
        "mvn" | "mvnw" => first.starts_with("dependency:"),
        "dotnet" => first == "restore",
        "apt-get" | "apt" | "yum" | "dnf" | "microdnf" | "zypper" => operands.contains(&"install"),
        "apk" => operands.contains(&"add"),
        _ => false,
    }
}

fn too_early(argument: &ArgDefinition, stage: &Seen<'_>, span: Span) -> Option<Diagnostic> {
    let name = argument.name.value.as_str();
    let later = stage.runs.iter().filter(|running| running.instruction.span > span);
    // Up to the first use it could stand lower.
    let unused = later.take_while(|running| !mentions(running, name)).count();
    if unused == 0 {
        return None;
    }
    let steps = if unused == 1 { "a RUN that does" } else { "RUNs that do" };
    let message = format!("every new value of {name} runs {steps} not use it again");
    Some(Diagnostic::warning("xbuild/VolatileArg", argument.name.span, message))
}

/// Names under which CI systems pass commits, times and build numbers.
fn changes_often(name: &str) -> bool {
    const WHOLE: [&str; 12] = [
        "COMMIT",
        "REVISION",
        "SHA",
        "TIMESTAMP",
        "VCS_REF",
        "GIT_REF",
        "GITHUB_SHA",
        "BUILD_ID",
        "BUILDID",
        "CREATED",
        "SOURCE_COMMIT",
        "GIT_DESCRIBE",
    ];
    const PARTS: [(&str, &[&str]); 3] = [
        ("GIT", &["SHA", "COMMIT", "HASH", "REV", "REVISION"]),
        ("COMMIT", &["SHA", "HASH", "ID", "REF", "DATE", "TIME", "TIMESTAMP"]),
        ("BUILD", &["DATE", "TIME", "TIMESTAMP", "NUMBER", "NUM", "SHA", "COMMIT", "REVISION"]),
    ];
    let upper = name.to_ascii_uppercase();
    let words: Vec<&str> = upper.split('_').collect();
    let pair = |(first, second): &(&str, &[&str])| {
        words.contains(first) && words.iter().any(|word| second.contains(word))
    };
    WHOLE.contains(&upper.as_str()) || PARTS.iter().any(pair)
}

fn mentions(running: &Running<'_>, name: &str) -> bool {
    let text = match &running.run.written {
        Command::Shell(line) => line.contains(name),
        Command::Exec(words) => words.iter().any(|word| word.contains(name)),
    };
    text || running.run.heredocs.iter().any(|heredoc| heredoc.content.contains(name))
}
