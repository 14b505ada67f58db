//! Stages: a FROM and the instructions up to the next one.
//!
//! Names are compared without case. What a stage's base is, is for lowering.

use std::collections::BTreeMap;

use crate::Diagnostic;
use crate::instruction::{From, Instruction, InstructionKind, Span};

/// A Dockerfile as stages.
#[derive(Debug, Default)]
pub struct Stages<'a> {
    /// ARG instructions before the first FROM.
    pub globals: Vec<&'a Instruction>,
    /// The stages in order.
    pub stages: Vec<Stage<'a>>,
    names: BTreeMap<String, Vec<usize>>,
}

/// One stage.
#[derive(Debug)]
pub struct Stage<'a> {
    /// Its FROM.
    pub from: &'a From,
    /// The FROM instruction.
    pub instruction: &'a Instruction,
    /// What follows it.
    pub instructions: &'a [Instruction],
    /// Position, from 0.
    pub index: usize,
}

impl<'a> Stages<'a> {
    /// Cuts a file's instructions into stages.
    ///
    /// # Errors
    /// If there is no stage, or an instruction other than ARG stands before the first.
    pub fn of(instructions: &'a [Instruction]) -> Result<Self, Vec<Diagnostic>> {
        let is_from = |instruction: &Instruction| matches!(instruction.kind, InstructionKind::From(_));
        let first = instructions.iter().position(is_from).unwrap_or(instructions.len());
        let (head, mut rest) = instructions.split_at(first);
        let mut stages = Self { globals: head.iter().collect(), ..Self::default() };
        let early: Vec<_> = head.iter().filter(|instruction| !is_arg(instruction)).map(before_from).collect();
        if !early.is_empty() {
            return Err(early);
        }
        while let Some((instruction, after)) = rest.split_first() {
            let InstructionKind::From(from) = &instruction.kind else { break };
            let end = after.iter().position(is_from).unwrap_or(after.len());
            let (own, next) = after.split_at(end);
            stages.push(Stage { from, instruction, instructions: own, index: stages.stages.len() });
            rest = next;
        }
        if stages.stages.is_empty() {
            let message = "dockerfile contains no stages to build";
            return Err(vec![
                Diagnostic::error(Span::default(), message)
                    .with_help("begin with FROM, such as FROM scratch"),
            ]);
        }
        Ok(stages)
    }

    fn push(&mut self, stage: Stage<'a>) {
        if let Some(name) = &stage.from.name {
            self.names.entry(name.value.to_lowercase()).or_default().push(stage.index);
        }
        self.stages.push(stage);
    }

    /// Returns the last stage of this name before position `before`.
    pub fn earlier(&self, name: &str, before: usize) -> Option<usize> {
        self.named(name).iter().rev().find(|index| **index < before).copied()
    }

    /// Returns the last stage of this name.
    pub fn last(&self, name: &str) -> Option<usize> {
        self.named(name).last().copied()
    }

    fn named(&self, name: &str) -> &[usize] {
        self.names.get(&name.to_lowercase()).map_or(&[], Vec::as_slice)
    }

    /// Iterates over all names, lower-cased.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }
}

impl Stage<'_> {
    /// Returns the name as people know it: as written, else the index.
    pub fn title(&self) -> String {
        match &self.from.name {
            Some(name) if self.from.name_as_written.is_empty() => name.value.clone(),
            Some(_) => self.from.name_as_written.clone(),
            None => self.index.to_string(),
        }
    }

    /// Returns BuildKit's name of it: lower-cased, else `stage-N`.
    pub fn name(&self) -> String {
        self.from.name.as_ref().map_or_else(|| format!("stage-{}", self.index), |name| name.value.clone())
    }
}

fn is_arg(instruction: &Instruction) -> bool {
    matches!(instruction.kind, InstructionKind::Arg(_))
}

fn before_from(instruction: &Instruction) -> Diagnostic {
    let message = format!(
        "no build stage in current context: {} stands before the first FROM",
        instruction.keyword.value.to_uppercase()
    );
    Diagnostic::error(instruction.keyword.span, message)
        .with_help("only ARG may stand before FROM; move the instruction below a FROM")
}
