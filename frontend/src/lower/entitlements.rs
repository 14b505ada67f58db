//! Permissions: what asks for more than a sandbox is refused before anything runs.
//!
//! Every instruction of the file is looked at, in stages that are not needed and in ONBUILD too, and every
//! trigger of a base image.

use super::command::Command;
use super::{Entitlement, Lowering, REFUSED};
use crate::Diagnostic;
use crate::graph::{Network, Security};
use crate::instruction::{Instruction, InstructionKind, Span};

impl Lowering<'_> {
    /// Refuses what the file asks for without permission.
    pub(super) fn check_entitlements(&mut self) {
        for command in self.all_instructions() {
            self.check_entitlement(&command);
        }
    }

    /// Refuses what one instruction asks for without permission.
    pub(super) fn check_entitlement(&mut self, command: &Command<'_>) {
        for (entitlement, span) in asked(&command.instruction) {
            if self.options.allows(entitlement) {
                continue;
            }
            let name = entitlement.name();
            let span = command.at(span);
            let mut diagnostic = Diagnostic::error(span, format!("entitlement {name} is not allowed"))
                .with_help(format!("pass --allow {name} if you trust this Dockerfile"));
            diagnostic.rule = Some(REFUSED);
            self.error(diagnostic);
        }
    }
}

fn asked(instruction: &Instruction) -> Vec<(Entitlement, Span)> {
    let run = match &instruction.kind {
        InstructionKind::Run(run) => run,
        InstructionKind::Onbuild { trigger, .. } => return asked(trigger),
        _ => return Vec::new(),
    };
    let network = run.network.as_ref().filter(|network| match network.value {
        Network::Host => true,
        Network::Default | Network::None => false,
    });
    let security = run.security.as_ref().filter(|security| match security.value {
        Security::Insecure => true,
        Security::Sandbox => false,
    });
    let network = network.map(|network| (Entitlement::NetworkHost, network.span));
    network
        .into_iter()
        .chain(security.map(|security| (Entitlement::SecurityInsecure, security.span)))
        .collect()
}
