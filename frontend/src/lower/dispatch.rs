//! Which module lowers an instruction.

use super::command::Command;
use super::copy::Keyword;
use super::state::Work;
use super::{Lowering, Purpose};
use crate::instruction::InstructionKind;

impl Lowering<'_> {
    /// Lowers one instruction.
    pub(super) fn lower_command(&mut self, work: &mut Work, command: &Command<'_>) {
        if work.state.unknown && self.purpose == Purpose::Build {
            return self.foresee(command);
        }
        if command.triggered.is_some() {
            self.check_entitlement(command);
        }
        match &command.instruction.kind {
            InstructionKind::Run(run) => self.run(work, command, run),
            InstructionKind::Copy(copy) => self.copy(work, command, copy, Keyword::Copy),
            InstructionKind::Add(add) => self.copy(work, command, add, Keyword::Add),
            InstructionKind::Workdir(path) => self.workdir(work, command, path),
            InstructionKind::Arg(arguments) => self.arg(work, command, arguments),
            InstructionKind::Env(pairs) => self.env(work, command, pairs),
            InstructionKind::Label(pairs) => self.label(work, command, pairs),
            InstructionKind::User(user) => self.user(work, command, user),
            InstructionKind::Cmd(line) => self.cmd(work, command, line),
            InstructionKind::Entrypoint(line) => self.entrypoint(work, command, line),
            InstructionKind::Expose(words) => self.expose(work, command, words),
            InstructionKind::Volume(words) => self.volume(work, command, words),
            InstructionKind::StopSignal(word) => self.stop_signal(work, command, word),
            InstructionKind::Shell(shell) => self.shell(work, shell),
            InstructionKind::Healthcheck(check) => self.healthcheck(work, command, check),
            InstructionKind::Maintainer(name) => self.maintainer(work, &name.value),
            InstructionKind::Onbuild { text, .. } => self.onbuild(work, text),
            InstructionKind::From(_) => {}
        }
    }
}
