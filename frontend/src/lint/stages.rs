//! Stages as the own rules see them: which shell is in force at every RUN, and which stages make the image.

use crate::file::File;
use crate::instruction::{Command, Instruction, InstructionKind, Run};
use crate::lower::Options;
use crate::stage::{Stage, Stages};

/// A file's stages.
pub(super) struct View<'a> {
    /// The file.
    pub(super) file: &'a File,
    /// Its stages by name.
    pub(super) names: &'a Stages<'a>,
    /// In order.
    pub(super) stages: Vec<Seen<'a>>,
}

/// A stage.
pub(super) struct Seen<'a> {
    /// As written.
    pub(super) stage: &'a Stage<'a>,
    /// The stage it is based on.
    pub(super) base: Option<usize>,
    /// Its layers are in the image.
    pub(super) in_image: bool,
    /// Its RUN instructions.
    pub(super) runs: Vec<Running<'a>>,
}

/// A RUN and its shell.
pub(super) struct Running<'a> {
    /// The instruction.
    pub(super) instruction: &'a Instruction,
    /// What is run.
    pub(super) run: &'a Run,
    /// SHELL in force; empty for the default.
    pub(super) shell: &'a [String],
}

/// Looks at the stages of a file.
pub(super) fn view<'a>(file: &'a File, stages: &'a Stages<'a>, options: &Options) -> View<'a> {
    let mut seen: Vec<Seen<'a>> = Vec::with_capacity(stages.stages.len());
    let mut last_shell: Vec<&'a [String]> = Vec::with_capacity(stages.stages.len());
    for stage in &stages.stages {
        let base = stages.earlier(&stage.from.image.value, stage.index);
        let mut shell: &[String] = base.and_then(|base| last_shell.get(base).copied()).unwrap_or_default();
        let mut runs = Vec::new();
        for instruction in stage.instructions {
            match &instruction.kind {
                InstructionKind::Shell(words) => shell = words,
                InstructionKind::Run(run) => runs.push(Running { instruction, run, shell }),
                _ => {}
            }
        }
        last_shell.push(shell);
        seen.push(Seen { stage, base, in_image: false, runs });
    }
    let wanted = options.target.as_deref().unwrap_or_default();
    let by_index = || wanted.parse::<usize>().ok().filter(|index| *index < seen.len());
    let target = stages.last(wanted).or_else(by_index).or_else(|| seen.len().checked_sub(1));
    let mut next = target;
    while let Some(index) = next {
        seen[index].in_image = true;
        next = seen[index].base;
    }
    View { file, names: stages, stages: seen }
}

impl Running<'_> {
    /// Returns the shell text that is run: the line and the bodies of heredocs that a shell reads. Nothing for
    /// the JSON form and for shells that are no POSIX ones.
    pub(super) fn scripts(&self) -> Vec<&str> {
        let Command::Shell(line) = &self.run.written else { return Vec::new() };
        if !self.is_posix() {
            return Vec::new();
        }
        let bodies = self.run.heredocs.iter().filter(|_| self.heredoc_is_script());
        let bodies = bodies.map(|heredoc| heredoc.content.as_str()).filter(|body| is_shell_script(body));
        if self.is_heredoc_alone() {
            bodies.collect()
        } else {
            [line.as_str()].into_iter().chain(bodies).collect()
        }
    }

    /// Whether the shell in force is one that these rules know.
    fn is_posix(&self) -> bool {
        self.shell.first().is_none_or(|program| is_shell(program))
    }

    /// Whether the line is nothing but a heredoc, which is then the script.
    pub(super) fn is_heredoc_alone(&self) -> bool {
        let Command::Shell(line) = &self.run.written else { return false };
        let line = line.trim();
        self.run.heredocs.len() == 1 && line.starts_with("<<") && self.rest_of_line().is_empty()
    }

    /// Whether a shell reads the heredoc: alone, or as input of one, as `<<EOF bash` or `sh <<EOF`.
    pub(super) fn heredoc_is_script(&self) -> bool {
        let rest = self.rest_of_line();
        self.run.heredocs.len() == 1 && rest.first().is_none_or(|program| is_shell(program))
    }

    /// Returns the words of the line that open no heredoc.
    pub(super) fn rest_of_line(&self) -> Vec<&str> {
        let Command::Shell(line) = &self.run.written else { return Vec::new() };
        let mut rest = Vec::new();
        let mut words = line.split_whitespace();
        while let Some(word) = words.next() {
            match word.trim_start_matches(|letter: char| letter.is_ascii_digit()).strip_prefix("<<") {
                // `<< EOF`: the delimiter is the next word.
                Some("" | "-") => drop(words.next()),
                Some(_) => {}
                None => rest.push(word),
            }
        }
        rest
    }
}

/// Whether a program is a POSIX shell.
pub(super) fn is_shell(program: &str) -> bool {
    let name = program.rsplit('/').next().unwrap_or(program);
    matches!(name, "sh" | "bash" | "dash" | "ash" | "ksh" | "mksh" | "zsh")
}

/// Whether a heredoc's first line names no other interpreter.
fn is_shell_script(body: &str) -> bool {
    let Some(line) = body.strip_prefix("#!") else { return true };
    let line = line.lines().next().unwrap_or_default();
    let mut words = line.split_whitespace().filter(|word| !word.ends_with("/env") && !word.starts_with('-'));
    words.next().is_some_and(is_shell)
}
