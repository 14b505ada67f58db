//! What has been heard of every step so far, whatever shows it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use frontend::graph::{Label, StepGraph, StepId};
use solver::Event;

use super::text::{Lines, neutralise};

/// Lines of a step that are kept for the report of its failure.
const TAIL: usize = 20;
/// Bytes of each of them.
const TAIL_LINE: usize = 2048;

/// A step of one of the graphs that are being solved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) graph: usize,
    pub(super) step: StepId,
}

/// One step.
#[derive(Debug)]
pub(super) struct Seen {
    /// Its number in the output, from 1, in order of appearance.
    pub(super) number: usize,
    /// Its name: stage, position and instruction.
    pub(super) name: String,
    /// When it began.
    pub(super) begun: Duration,
    lines: Lines,
    tail: VecDeque<String>,
    left_out: usize,
}

/// Everything heard.
#[derive(Debug, Default)]
pub(super) struct Steps {
    graphs: BTreeMap<usize, Arc<StepGraph>>,
    seen: BTreeMap<Key, Seen>,
    planned: BTreeMap<usize, usize>,
    failed: Vec<Key>,
    /// Steps that were in the cache.
    pub(super) cached: usize,
    /// Layer steps that ran to their end.
    pub(super) ran: usize,
}

/// The last lines of a step that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// Which of the graphs, in the order in which observers were asked for.
    pub graph: usize,
    /// Which step.
    pub step: StepId,
    /// Lines before these that are not kept.
    pub left_out: usize,
    /// The lines, safe to print.
    pub lines: Vec<String>,
}

impl Steps {
    /// Adds a graph, of which events will follow.
    pub(super) fn add_graph(&mut self, number: usize, graph: Arc<StepGraph>) {
        self.graphs.insert(number, graph);
    }

    /// Takes an event and returns the lines of output that it completes.
    pub(super) fn hear(&mut self, graph: usize, at: Duration, event: &Event) -> Vec<String> {
        let Some(step) = step_of(event) else {
            if let Event::Planned { steps, .. } = event {
                self.planned.insert(graph, *steps);
            }
            return Vec::new();
        };
        let key = Key { graph, step };
        self.note(key, at);
        match event {
            Event::Planned { .. }
            | Event::Waiting { .. }
            | Event::Transfer { .. }
            | Event::Settled { .. } => Vec::new(),
            Event::Started(_) => {
                self.get_mut(key).begun = at;
                Vec::new()
            }
            Event::Cached(_) => {
                self.cached += 1;
                Vec::new()
            }
            Event::Done { .. } => {
                self.ran += usize::from(self.is_layer(key));
                let seen = self.get_mut(key);
                seen.tail.clear();
                seen.lines.finish().into_iter().collect()
            }
            Event::Failed { .. } => {
                self.failed.push(key);
                let rest = self.get_mut(key).lines.finish();
                self.keep(key, rest.into_iter().collect())
            }
            Event::Cancelled(_) => self.get_mut(key).lines.finish().into_iter().collect(),
            Event::Log { bytes, .. } => {
                let lines = self.get_mut(key).lines.push(bytes);
                self.keep(key, lines)
            }
        }
    }

    fn note(&mut self, key: Key, at: Duration) {
        let number = self.seen.len() + 1;
        let graph = Arc::clone(self.graph(key));
        self.seen.entry(key).or_insert_with(|| Seen {
            number,
            name: name(&graph.step(key.step).label),
            begun: at,
            lines: Lines::default(),
            tail: VecDeque::new(),
            left_out: 0,
        });
    }

    fn keep(&mut self, key: Key, lines: Vec<String>) -> Vec<String> {
        let seen = self.get_mut(key);
        for line in &lines {
            if seen.tail.len() == TAIL {
                seen.tail.pop_front();
                seen.left_out += 1;
            }
            seen.tail.push_back(super::text::shorten(line, TAIL_LINE));
        }
        lines
    }

    fn graph(&self, key: Key) -> &Arc<StepGraph> {
        self.graphs.get(&key.graph).expect("a graph is sent before its observer is given out")
    }

    fn is_layer(&self, key: Key) -> bool {
        self.graph(key).step(key.step).kind() == frontend::graph::StepKind::Layer
    }

    fn get_mut(&mut self, key: Key) -> &mut Seen {
        self.seen.get_mut(&key).expect("noted before it is used")
    }

    /// Returns what is known of a step.
    pub(super) fn get(&self, key: Key) -> &Seen {
        self.seen.get(&key).expect("renderers ask for steps that were heard of")
    }

    /// Returns the label of a step.
    pub(super) fn label(&self, key: Key) -> &Label {
        &self.graph(key).step(key.step).label
    }

    /// Returns how many layer steps there are.
    pub(super) fn planned(&self) -> usize {
        self.planned.values().sum()
    }

    /// Returns the last lines of the steps that failed.
    pub(super) fn tails(&self) -> Vec<Tail> {
        let tail = |key: &Key| {
            let seen = self.get(*key);
            let lines = seen.tail.iter().cloned().collect();
            Tail { graph: key.graph, step: key.step, left_out: seen.left_out, lines }
        };
        self.failed.iter().map(tail).collect()
    }
}

/// Returns the step that an event is about.
pub(super) fn step_of(event: &Event) -> Option<StepId> {
    match event {
        Event::Planned { .. } => None,
        Event::Started(step) | Event::Cached(step) | Event::Cancelled(step) => Some(*step),
        Event::Done { step, .. }
        | Event::Settled { step, .. }
        | Event::Failed { step, .. }
        | Event::Log { step, .. }
        | Event::Waiting { step, .. }
        | Event::Transfer { step, .. } => Some(*step),
    }
}

fn name(label: &Label) -> String {
    let text = neutralise(&label.text);
    match (label.stage.as_str(), label.position) {
        ("", (0, _)) => text,
        (stage, (0, _)) => format!("[{}] {text}", neutralise(stage)),
        ("", (position, count)) => format!("[{position}/{count}] {text}"),
        (stage, (position, count)) => format!("[{} {position}/{count}] {text}", neutralise(stage)),
    }
}
