//! Expansion of an instruction's words, with its errors and warnings where they stand.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::command::Command;
use super::state::{State, Work};
use super::variables::Variables;
use super::{Lowering, text};
use crate::instruction::{Command as Line, InstructionKind, Run, Span, Spanned};
use crate::{Diagnostic, expand, suggest};

impl Lowering<'_> {
    /// Expands one word of an instruction; `None` after an error.
    pub(super) fn word(
        &mut self,
        command: &Command<'_>,
        env: &Scope,
        word: &Spanned<String>,
    ) -> Option<String> {
        self.text(command, env, &word.value, word.span)
    }

    /// Expands one text of an instruction; `None` after an error.
    pub(super) fn text(
        &mut self,
        command: &Command<'_>,
        env: &Scope,
        text: &str,
        span: Span,
    ) -> Option<String> {
        // Most texts have nothing to expand, and this is the hot path of large files.
        if !text.contains(['$', '\'', '"', self.file.directives.escape]) {
            return Some(text.to_owned());
        }
        match expand::word(text, self.file.directives.escape, &env.lookup()) {
            Ok(expanded) => {
                self.undefined(command, env, span, &expanded.unmatched);
                Some(expanded.value)
            }
            Err(error) => {
                self.error(Diagnostic::error(command.at(span), error.to_string()));
                None
            }
        }
    }

    /// Expands an optional flag; a value that expands to nothing counts as absent.
    pub(super) fn flag(
        &mut self,
        command: &Command<'_>,
        env: &Scope,
        flag: Option<&Spanned<String>>,
    ) -> Option<Spanned<String>> {
        let flag = flag?;
        let value = self.word(command, env, flag)?;
        (!value.is_empty()).then_some(Spanned { value, span: flag.span })
    }

    /// Returns how a step is shown to people: its line with variables replaced, and secrets masked.
    pub(super) fn step_text(&self, work: &Work, command: &Command<'_>) -> String {
        let instruction = &command.instruction;
        let scope = Scope::of(&work.state);
        let secrets: Vec<&str> = match &instruction.kind {
            InstructionKind::Run(run) => {
                run.mounts.iter().filter_map(|mount| mount.value.env.as_deref()).collect()
            }
            _ => Vec::new(),
        };
        let masked = |name: &str| {
            if secrets.contains(&name) { Some("****".to_owned()) } else { scope.lookup()(name) }
        };
        let line = instruction.original.as_str();
        let shown = if line.contains('$') {
            expand::shown(line, self.file.directives.escape, &masked).unwrap_or_else(|_| line.to_owned())
        } else {
            line.to_owned()
        };
        let rest = shown.get(instruction.keyword.value.len()..).unwrap_or_default();
        let prefix = if command.triggered.is_some() { "ONBUILD " } else { "" };
        let keyword = instruction.keyword.value.to_uppercase();
        text::one_line(&format!("{prefix}{keyword}{rest}{}", script_summary(&instruction.kind)))
    }

    /// Warns of names without a value, as BuildKit's rule UndefinedVar.
    pub(super) fn undefined(
        &mut self,
        command: &Command<'_>,
        env: &Scope,
        span: Span,
        names: &BTreeSet<String>,
    ) {
        if self.base_unknown {
            return;
        }
        for name in names.iter().filter(|name| env.args.get(name).is_none()) {
            let near = suggest::nearest(name, &env.variables.names().collect::<Vec<_>>());
            let suggestion = near.map_or(String::new(), |near| format!(" (did you mean ${near}?)"));
            let message = format!("Usage of undefined variable '${name}'{suggestion}");
            self.warn(command, "UndefinedVar", command.at(span), message);
        }
    }
}

/// Returns the first line of a RUN that is one script.
fn script_summary(kind: &InstructionKind) -> String {
    let InstructionKind::Run(Run { written: Line::Shell(written), heredocs, .. }) = kind else {
        return String::new();
    };
    let ([heredoc], 1) = (heredocs.as_slice(), written.split_whitespace().count()) else {
        return String::new();
    };
    let mut lines = heredoc.content.trim().lines();
    let first = lines.next().unwrap_or_default();
    format!(" ({first}{})", if lines.next().is_some() { "..." } else { "" })
}

/// The variables that an instruction sees: one snapshot for all of its words.
pub(super) struct Scope {
    /// ENV and ARG in force.
    pub(super) variables: Rc<Variables>,
    /// Declared ARGs, which count as defined even without a value.
    pub(super) args: Rc<Variables>,
}

impl Scope {
    /// Returns what an instruction in this state sees.
    pub(super) fn of(state: &State) -> Self {
        Self { variables: Rc::clone(&state.env), args: Rc::clone(&state.args) }
    }

    /// Returns the look-up of [`expand`].
    pub(super) fn lookup(&self) -> impl Fn(&str) -> Option<String> + '_ {
        |name| self.variables.get(name).map(str::to_owned)
    }
}
