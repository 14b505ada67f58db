//! Why a step has to run: its parts compared with those of what was built before.

use std::collections::BTreeMap;

use frontend::graph::{StepGraph, StepId, StepKind};

use crate::key::CacheKey;
use crate::plan::{MissReason, Plan, Stand, Verdict};
use crate::record::Why;
use crate::records::Records;
use crate::topology::Topology;

/// How many earlier results on the same state are compared.
const CANDIDATES: usize = 64;

/// Returns the parts of a step's key: its own, those of sources that it stands on, and the states of the rest.
pub(crate) fn components(
    graph: &StepGraph,
    topology: &Topology,
    id: StepId,
    state: impl Fn(StepId) -> Option<CacheKey>,
) -> Why {
    let step = graph.step(id);
    let mut components = step.components();
    let mut add = |need: StepId, prefix: &str, name: &str| match graph.step(need).kind() {
        StepKind::Source => {
            let parts = graph.step(need).components().into_iter();
            components.extend(parts.map(|(part, value)| (format!("{prefix}{part}"), value)));
        }
        StepKind::Layer => {
            let state = state(need).map_or_else(|| "unknown".to_owned(), |state| state.to_string());
            components.push((name.to_owned(), state));
        }
    };
    if let Some(parent) = topology.parent(id).filter(|_| step.depends_on_parent()) {
        add(parent, "base ", "state before the step");
    }
    let inputs = topology.inputs(id);
    for (position, input) in inputs.iter().enumerate() {
        let number = position + 1;
        let prefix = if inputs.len() == 1 { String::new() } else { format!("input {number} ") };
        add(*input, &prefix, &format!("state of input {number}"));
    }
    Why { components }
}

/// Names for every step that was never built before the first part that differs from what was.
///
/// The earlier result is the last one of the same op, else the most similar one on the same state.
pub fn explain(plan: &mut Plan, graph: &StepGraph, targets: &[StepId], records: &Records) {
    let topology = Topology::new(graph, targets);
    for id in topology.steps() {
        let never_built =
            plan.get(id).is_some_and(|planned| planned.verdict == Verdict::Miss(MissReason::NeverBuilt));
        if never_built && let Some(reason) = difference(plan, graph, &topology, id, records) {
            let planned = plan.steps[id.0 as usize].as_mut().expect("it was there a line ago");
            planned.verdict = Verdict::Miss(reason);
        }
    }
    for (id, _) in graph.iter().filter(|(id, _)| topology.contains(*id)) {
        plan.steps[id.0 as usize] = plan.steps[topology.representative(id).0 as usize].clone();
    }
}

fn difference(
    plan: &Plan,
    graph: &StepGraph,
    topology: &Topology,
    id: StepId,
    records: &Records,
) -> Option<MissReason> {
    let now = components(graph, topology, id, |need| plan.state(need));
    let same_op = records.of_op(graph.op_digest(id)).and_then(|key| records.why(key));
    if let Some(earlier) = same_op {
        return first_difference(&earlier, &now);
    }
    let below = Stand::of(graph, topology, id, |need| plan.state(need)).below?;
    let candidates = records.on_state(below, CANDIDATES).into_iter();
    let (_, closest) = candidates
        .filter_map(|key| records.why(key))
        .map(|why| (likeness(&why, &now), why))
        .filter(|(likeness, _)| *likeness > 0)
        .max_by_key(|(likeness, _)| *likeness)?;
    first_difference(&closest, &now)
}

/// Returns how many parts two keys share; none if they are of different kinds of steps, which shows in their
/// having different sets of leading parts.
fn likeness(earlier: &Why, now: &Why) -> usize {
    let kind = |why: &Why| why.components.get(1).map(|(name, _)| name.clone());
    if kind(earlier) != kind(now) {
        return 0;
    }
    let earlier: BTreeMap<_, _> = earlier.components.iter().map(|(name, value)| (name, value)).collect();
    now.components.iter().filter(|(name, value)| earlier.get(name) == Some(&value)).count()
}

fn first_difference(earlier: &Why, now: &Why) -> Option<MissReason> {
    let old: BTreeMap<_, _> = earlier.components.iter().map(|(name, value)| (name, value)).collect();
    let new: BTreeMap<_, _> = now.components.iter().map(|(name, value)| (name, value)).collect();
    let component = |name: &String, old: Option<&String>, new: Option<&String>| {
        Some(MissReason::Component { name: name.clone(), old: old.cloned(), new: new.cloned() })
    };
    for (name, value) in &now.components {
        let before = old.get(name).copied();
        if before != Some(value) {
            return component(name, before, Some(value));
        }
    }
    let (name, value) = earlier.components.iter().find(|(name, _)| !new.contains_key(name))?;
    component(name, Some(value), None)
}
