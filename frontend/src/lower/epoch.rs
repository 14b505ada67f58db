//! SOURCE_DATE_EPOCH: seconds, or the name of what has a time: `context`, a named context, a source stage.

use std::rc::Rc;

use super::command::Command;
use super::words::Scope;
use super::{GitNeed, Lowering, SourceTime, UrlNeed, Variables};
use crate::instruction::{InstructionKind, Span};
use crate::{Diagnostic, giturl};

/// The variable.
pub(super) const NAME: &str = "SOURCE_DATE_EPOCH";

impl Lowering<'_> {
    /// Finds the time in force: of a build argument, else of a global ARG, else the option. What is given by
    /// name is replaced by its seconds, so that stages see those.
    pub(super) fn read_epoch(&mut self) {
        let given = self.options.build_arg(NAME).or(self.globals.get(NAME)).map(str::to_owned);
        self.epoch = match given.as_deref() {
            None => self.options.source_date_epoch,
            Some("") => None,
            Some(text) => match text.parse() {
                Ok(seconds) => Some(seconds),
                Err(_) => self.time_of(text),
            },
        };
        if given.is_some() && self.globals.get(NAME).is_some() {
            let text = self.epoch.map_or(String::new(), |seconds| seconds.to_string());
            Rc::make_mut(&mut self.globals).set(NAME, &text);
        }
    }

    /// Returns a build argument, with the seconds that SOURCE_DATE_EPOCH stands for.
    pub(super) fn build_arg(&self, name: &str) -> Option<String> {
        let given = self.options.build_arg(name)?;
        if name == NAME { self.epoch.map(|seconds| seconds.to_string()) } else { Some(given.to_owned()) }
    }

    fn time_of(&mut self, name: &str) -> Option<i64> {
        let context = if name == "context" { "" } else { name };
        if let Some(time) = self.options.context_times.get(context) {
            return *time;
        }
        // A local directory has no time.
        if context.is_empty() || self.options.context(name, self.options.target_platform()).is_some() {
            return None;
        }
        match self.stages.last(name) {
            Some(stage) => self.time_of_stage(stage),
            None => {
                let message = format!("invalid SOURCE_DATE_EPOCH: {name}");
                let help = "give seconds since 1970-01-01 00:00 UTC, such as 1700000000";
                self.error(Diagnostic::error(self.epoch_span(), message).with_help(help));
                None
            }
        }
    }

    /// Returns where a global ARG sets the variable.
    fn epoch_span(&self) -> Span {
        let arguments = self.stages.globals.iter().filter_map(|instruction| match &instruction.kind {
            InstructionKind::Arg(arguments) => Some(arguments),
            _ => None,
        });
        let found = arguments.flatten().find(|argument| argument.name.value == NAME);
        found.map_or(Span::default(), |argument| argument.name.span)
    }

    /// Returns the time of a stage that is `FROM scratch` with one remote ADD.
    fn time_of_stage(&mut self, index: usize) -> Option<i64> {
        let stage = &self.stages.stages[index];
        let (instructions, span) = (stage.instructions, stage.from.image.span);
        if stage.from.image.value != "scratch" {
            self.error(Diagnostic::error(span, "SOURCE_DATE_EPOCH stage must use FROM scratch"));
            return None;
        }
        let mut env = Variables::clone(&self.globals);
        let mut source = None;
        for instruction in instructions {
            let command = Command::own(instruction);
            let scope = Scope { variables: Rc::new(env.clone()), args: Rc::default() };
            match &instruction.kind {
                InstructionKind::Arg(arguments) => {
                    for argument in arguments {
                        let given = self.options.build_arg(&argument.name.value).map(str::to_owned);
                        let default = argument.default.as_ref();
                        let value = given.or_else(|| self.word(&command, &scope, default?));
                        if let Some(value) = value {
                            env.set(&argument.name.value, &value);
                        }
                    }
                }
                InstructionKind::Add(add)
                    if add.sources.len() == 1 && add.inline.is_empty() && source.is_none() =>
                {
                    source = Some((self.word(&command, &scope, &add.sources[0])?, add.sources[0].span));
                }
                _ => {
                    let message = format!(
                        "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported {} instruction",
                        instruction.keyword.value.to_uppercase()
                    );
                    self.error(Diagnostic::error(instruction.keyword.span, message));
                    return None;
                }
            }
        }
        match source {
            Some((source, span)) => self.time_of_source(&source, span),
            None => {
                let message = "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD";
                self.error(Diagnostic::error(span, message));
                None
            }
        }
    }

    fn time_of_source(&mut self, source: &str, span: Span) -> Option<i64> {
        match giturl::parse(source) {
            Ok(Some(git)) if !git.could_be_local => {
                let time = SourceTime::Wanted;
                let need = GitNeed { remote: git.remote, reference: git.reference, time };
                self.git(need, span)?.committed
            }
            _ if giturl::is_http(source) => {
                let need = UrlNeed { url: source.to_owned(), checksum: None, time: SourceTime::Wanted };
                let known = self.url(need, span)?;
                known.last_modified.or(known.newest_entry)
            }
            _ => {
                let message = "SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD";
                self.error(Diagnostic::error(span, message));
                None
            }
        }
    }
}
