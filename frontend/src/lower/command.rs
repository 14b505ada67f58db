//! One instruction of a stage, its own or triggered by its base.

use std::borrow::Cow;

use crate::instruction::{Instruction, InstructionKind, Span};

/// An instruction to lower.
#[derive(Debug, Clone)]
pub(super) struct Command<'a> {
    /// The instruction.
    pub(super) instruction: Cow<'a, Instruction>,
    /// For triggers of a base: place and lines of the FROM that fires them.
    pub(super) triggered: Option<(Span, (u32, u32))>,
}

impl<'a> Command<'a> {
    /// Returns an instruction of the stage itself.
    pub(super) fn own(instruction: &'a Instruction) -> Self {
        Self { instruction: Cow::Borrowed(instruction), triggered: None }
    }

    /// Returns where errors about `span`, a part of the instruction, are shown.
    pub(super) fn at(&self, span: Span) -> Span {
        self.triggered.map_or(span, |(from, _)| from)
    }

    /// Returns where errors about the whole are shown.
    pub(super) fn span(&self) -> Span {
        self.at(self.instruction.span)
    }

    /// Returns the lines that are shown.
    pub(super) fn lines(&self) -> (u32, u32) {
        self.triggered.map_or(self.instruction.lines, |(_, lines)| lines)
    }

    /// Returns whether it may make a layer.
    pub(super) fn makes_layer(&self) -> bool {
        use InstructionKind as Kind;
        match &self.instruction.kind {
            Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) | Kind::Workdir(_) => true,
            Kind::From(_)
            | Kind::Arg(_)
            | Kind::Env(_)
            | Kind::Label(_)
            | Kind::User(_)
            | Kind::Cmd(_)
            | Kind::Entrypoint(_)
            | Kind::Expose(_)
            | Kind::Volume(_)
            | Kind::StopSignal(_)
            | Kind::Shell(_)
            | Kind::Healthcheck(_)
            | Kind::Maintainer(_)
            | Kind::Onbuild { .. } => false,
        }
    }
}
