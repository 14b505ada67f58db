//! Which stages the target needs, and which stages refer to each other in a circle.

use std::collections::BTreeSet;

use super::base::Base;
use super::sources::Origin;
use super::{Command, Lowering};
use crate::Diagnostic;
use crate::instruction::{FileWork, Instruction, Span};

/// The stages to lower.
#[derive(Debug, Default)]
pub(super) struct Needed {
    /// In order of the file, so that every stage comes after what it needs.
    pub(super) order: Vec<usize>,
    /// Those that the target needs; the others are lowered for `--all-stages` only.
    pub(super) by_target: BTreeSet<usize>,
}

impl<'a> Lowering<'a> {
    /// Refuses files whose stages need each other.
    pub(super) fn check_cycles(&mut self) {
        let edges: Vec<Vec<(usize, Span)>> =
            (0..self.stages.stages.len()).map(|index| self.references(index)).collect();
        let Some(circle) = find_circle(&edges) else { return };
        let title = |index: usize| self.stages.stages[index].name();
        let (first, span) = circle[0];
        let path: Vec<String> = circle.iter().map(|(index, _)| title(*index)).chain([title(first)]).collect();
        let message = format!("circular dependency detected on stage: {}", title(first));
        let help = format!("stages may use only earlier stages; the circle is {}", path.join(" -> "));
        self.error(Diagnostic::error(span, message).with_help(help));
    }

    /// Returns the stages that a stage's own text refers to, each with the place.
    fn references(&self, index: usize) -> Vec<(usize, Span)> {
        let stage = &self.stages.stages[index];
        let base =
            self.stages.earlier(&stage.from.image.value, index).map(|base| (base, stage.from.image.span));
        let named = stage.instructions.iter().flat_map(references).filter_map(|(name, span)| {
            let find = || self.stages.earlier(name, index).or_else(|| self.stages.last(name));
            let by_index = || name.parse::<usize>().ok().filter(|at| *at < self.stages.stages.len());
            Some((find().or_else(by_index)?, span))
        });
        base.into_iter().chain(named).collect()
    }

    /// Finds out what the target needs, with the triggers of all bases that are known so far.
    pub(super) fn reachable(&mut self, target: usize) -> Needed {
        let mut needed = Needed { by_target: self.closure(vec![target]), ..Needed::default() };
        needed.order = if self.options.all_stages {
            self.closure((0..self.stages.stages.len()).collect()).into_iter().collect()
        } else {
            needed.by_target.iter().copied().collect()
        };
        needed
    }

    fn closure(&mut self, mut todo: Vec<usize>) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        while let Some(index) = todo.pop() {
            if !found.insert(index) {
                continue;
            }
            if !self.bases.contains_key(&index) {
                self.resolve(index);
            }
            if let Some(Base::Stage(base)) = self.bases.get(&index) {
                todo.push(*base);
            }
            todo.extend(self.used_stages(index));
        }
        found
    }

    /// Returns the stages that a stage's instructions, triggers included, take files from.
    fn used_stages(&mut self, index: usize) -> Vec<usize> {
        let commands = self.commands.remove(&index).unwrap_or_default();
        let platform = self.options.target_platform().clone();
        let mut used = Vec::new();
        for command in &commands {
            for (name, span) in references(&command.instruction) {
                let span = command.at(span);
                if let Some(Origin::Stage(stage)) = self.origin(name, index, &platform, span) {
                    used.push(stage);
                }
            }
        }
        self.commands.insert(index, commands);
        used
    }

    /// Returns the commands of a stage, for checks of the whole file.
    pub(super) fn all_instructions(&self) -> Vec<Command<'a>> {
        self.stages.stages.iter().flat_map(|stage| stage.instructions.iter().map(Command::own)).collect()
    }
}

/// Returns the names that an instruction takes files from.
fn references(instruction: &Instruction) -> Vec<(&str, Span)> {
    match instruction.kind.file_work() {
        FileWork::Copies(copy) => copy.from.iter().map(|from| (from.value.as_str(), from.span)).collect(),
        FileWork::Runs(run) => run
            .mounts
            .iter()
            .filter_map(|mount| Some((mount.value.from.as_deref()?, mount.span)))
            .filter(|(name, _)| !name.is_empty())
            .collect(),
        FileWork::Nothing => Vec::new(),
    }
}

/// Finds a circle: its stages in order, each with the place that refers to the next. Without recursion, since
/// a file may have many stages.
fn find_circle(edges: &[Vec<(usize, Span)>]) -> Option<Vec<(usize, Span)>> {
    let mut done = vec![false; edges.len()];
    for start in 0..edges.len() {
        let mut path: Vec<(usize, usize)> = vec![(start, 0)];
        let mut on_path = BTreeSet::from([start]);
        while let Some((stage, next)) = path.last_mut() {
            let (stage, edge) = (*stage, edges[*stage].get(*next).filter(|_| !done[*stage]));
            *next += 1;
            match edge {
                Some((target, _)) if on_path.contains(target) => {
                    let from = path.iter().position(|(stage, _)| stage == target)?;
                    let place = |(stage, next): &(usize, usize)| (*stage, edges[*stage][next - 1].1);
                    return Some(path[from..].iter().map(place).collect());
                }
                Some((target, _)) if !done[*target] => {
                    path.push((*target, 0));
                    on_path.insert(*target);
                }
                Some(_) => {}
                None => {
                    done[stage] = true;
                    on_path.remove(&stage);
                    path.pop();
                }
            }
        }
    }
    None
}
