//! Expansion of an instruction's words, with its errors and warnings where they stand.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::Lowering;
use super::command::Command;
use super::state::State;
use super::variables::Variables;
use crate::instruction::{Span, Spanned};
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

    /// Warns of names without a value, as BuildKit's rule UndefinedVar.
    pub(super) fn undefined(
        &mut self,
        command: &Command<'_>,
        env: &Scope,
        span: Span,
        names: &BTreeSet<String>,
    ) {
        for name in names.iter().filter(|name| env.args.get(name).is_none()) {
            let near = suggest::nearest(name, &env.variables.names().collect::<Vec<_>>());
            let suggestion = near.map_or(String::new(), |near| format!(" (did you mean ${near}?)"));
            let message = format!("Usage of undefined variable '${name}'{suggestion}");
            self.warn(command, "UndefinedVar", command.at(span), message);
        }
    }
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
