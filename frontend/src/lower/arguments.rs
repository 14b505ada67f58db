//! Arguments of the file: those before the first FROM, those of the platforms, and the target.

use std::rc::Rc;

use super::command::Command;
use super::words::Scope;
use super::{Lowering, Variables};
use crate::instruction::{InstructionKind, Span};
use crate::{Diagnostic, suggest};

impl Lowering<'_> {
    /// Reads platform arguments and the ARGs before the first FROM; they are in force in FROM lines only.
    pub(super) fn read_globals(&mut self) {
        self.globals = Rc::new(self.platform_arguments());
        for instruction in self.stages.globals.clone() {
            let command = Command::own(instruction);
            let InstructionKind::Arg(arguments) = &instruction.kind else { continue };
            for argument in arguments {
                let name = &argument.name.value;
                let value = match (self.options.build_arg(name), &argument.default) {
                    (Some(given), _) => Some(given.to_owned()),
                    (None, Some(default)) => self.word(&command, &self.global_scope(), default),
                    (None, None) => None,
                };
                if let Some(value) = value {
                    Rc::make_mut(&mut self.globals).set(name, &value);
                }
            }
        }
        self.read_epoch();
    }

    /// Returns what FROM lines see.
    pub(super) fn global_scope(&self) -> Scope {
        Scope { variables: Rc::clone(&self.globals), args: Rc::default() }
    }

    /// Returns the arguments that describe the platforms.
    pub(super) fn platform_arguments(&self) -> Variables {
        let (build, target) = (&self.options.build_platform, self.options.target_platform());
        let last = self.stages.stages.last().and_then(|stage| stage.from.name.as_ref());
        let stage = self.options.target.as_deref().or(last.map(|name| name.value.as_str()));
        let with_version = if target.os_version.is_empty() {
            target.to_string()
        } else {
            target.to_string().replacen(&target.os, &format!("{}({})", target.os, target.os_version), 1)
        };
        let mut variables = Variables::default();
        for (name, value) in [
            ("BUILDPLATFORM", build.to_string().as_str()),
            ("BUILDOS", &build.os),
            ("BUILDOSVERSION", &build.os_version),
            ("BUILDARCH", &build.architecture),
            ("BUILDVARIANT", &build.variant),
            ("TARGETPLATFORM", &with_version),
            ("TARGETOS", &target.os),
            ("TARGETOSVERSION", &target.os_version),
            ("TARGETARCH", &target.architecture),
            ("TARGETVARIANT", &target.variant),
            ("TARGETSTAGE", stage.filter(|stage| !stage.is_empty()).unwrap_or("default")),
        ] {
            variables.set(name, self.options.build_arg(name).unwrap_or(value));
        }
        variables
    }

    /// Returns the target stage: the last one, or the one asked for by name or index.
    pub(super) fn target(&mut self) -> Option<usize> {
        let count = self.stages.stages.len();
        let Some(wanted) = self.options.target.as_deref().filter(|target| !target.is_empty()) else {
            return Some(count - 1);
        };
        let by_index = || wanted.parse::<usize>().ok().filter(|index| *index < count);
        let found = self.stages.last(wanted).or_else(by_index);
        if found.is_none() {
            let names: Vec<&str> = self.stages.names().collect();
            let near = suggest::nearest(wanted, &names);
            let help = match near {
                Some(near) => format!("did you mean {near}?"),
                None if names.is_empty() => format!("no stage has a name; give an index below {count}"),
                None => format!("stages are {}", names.join(", ")),
            };
            let message = format!("target stage {wanted:?} could not be found");
            self.error(Diagnostic::error(Span::default(), message).with_help(help));
        }
        found
    }
}
