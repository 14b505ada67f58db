//! What a solve would do: hit or miss of every step that the targets need, without doing anything.

use std::collections::BTreeSet;
use std::sync::Arc;

use frontend::graph::{Step, StepGraph, StepId, StepKind};

use crate::key::{self, Below, CacheKey};
use crate::record::{LayerResult, StepRecord};
use crate::topology::Topology;

/// Where a plan looks.
pub trait Lookup {
    /// Returns the record of a key.
    fn record(&self, key: CacheKey) -> Option<StepRecord>;
    /// Returns whether a layer can still be had.
    fn available(&self, layer: &LayerResult) -> bool;
}

/// Why a step has to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MissReason {
    /// Nothing like it was built before.
    NeverBuilt,
    /// `--no-cache`.
    NoCache,
    /// A part of the step differs from what was built before.
    Component {
        /// Which part.
        name: String,
        /// Its earlier value; absent where the part is new.
        old: Option<String>,
        /// Its value now; absent where the part is gone.
        new: Option<String>,
    },
    /// What it stands on has to run, and may turn out different.
    Parent(StepId),
    /// An input has to run, and may turn out different.
    Input(StepId),
    /// It was built, but its layer was removed from the store.
    LayerGone,
}

/// What is to be done about a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Names content that exists already.
    Source,
    /// The cache has its result.
    Hit(Arc<StepRecord>),
    /// It has to run, unless what it waits for turns out as it was.
    Miss(MissReason),
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepPlan {
    /// What is to be done.
    pub verdict: Verdict,
    /// The key it is looked up under, where all that it stands on is known.
    pub key: Option<CacheKey>,
    /// The state after it, where it is known.
    pub state: Option<CacheKey>,
}

/// Hit or miss of every step that the targets need.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub(crate) steps: Vec<Option<StepPlan>>,
}

/// Steps that are to be treated unlike the graph says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    /// Their layers turned out to be gone.
    pub(crate) gone: BTreeSet<StepId>,
    /// They ran during this solve, so their records may be used whatever `no_cache` says.
    pub(crate) ran: BTreeSet<StepId>,
}

impl Overrides {
    /// Returns why a step may not be looked up, if it may not.
    pub(crate) fn forbids(&self, id: StepId, step: &Step) -> Option<MissReason> {
        match () {
            () if self.ran.contains(&id) => None,
            () if step.no_cache => Some(MissReason::NoCache),
            () if self.gone.contains(&id) => Some(MissReason::LayerGone),
            () => None,
        }
    }
}

/// Returns what a solve of `targets` would do. Reads records, changes nothing.
pub fn plan(graph: &StepGraph, targets: &[StepId], lookup: &impl Lookup) -> Plan {
    let topology = Topology::new(graph, targets);
    let mut plan = plan_with(graph, &topology, lookup, &mut Overrides::default());
    plan.spread(graph, &topology);
    plan
}

/// Plans, and notes in `overrides` which layers are needed but gone.
pub(crate) fn plan_with(
    graph: &StepGraph,
    topology: &Topology,
    lookup: &impl Lookup,
    overrides: &mut Overrides,
) -> Plan {
    loop {
        let plan = pass(graph, topology, lookup, overrides);
        let gone = plan.gone_layers(topology, lookup);
        if gone.is_empty() {
            return plan;
        }
        overrides.ran.retain(|id| !gone.contains(id));
        overrides.gone.extend(gone);
    }
}

fn pass(graph: &StepGraph, topology: &Topology, lookup: &impl Lookup, overrides: &Overrides) -> Plan {
    let mut plan = Plan { steps: vec![None; graph.len()] };
    for id in topology.steps() {
        let step = graph.step(id);
        let planned = match step.kind() {
            StepKind::Source => {
                let key = key::step_key(graph.op_digest(id), Below::Nothing, &[]);
                StepPlan { verdict: Verdict::Source, key: Some(key), state: Some(key) }
            }
            StepKind::Layer => plan_layer(graph, topology, lookup, overrides, &plan, id),
        };
        plan.steps[id.0 as usize] = Some(planned);
    }
    plan
}

fn plan_layer(
    graph: &StepGraph,
    topology: &Topology,
    lookup: &impl Lookup,
    overrides: &Overrides,
    plan: &Plan,
    id: StepId,
) -> StepPlan {
    let stand = Stand::of(graph, topology, id, |need| plan.state(need));
    let miss = |reason, key| StepPlan { verdict: Verdict::Miss(reason), key, state: None };
    let Some(key) = stand.key else { return miss(unknown_need(topology, plan, id), None) };
    if let Some(reason) = overrides.forbids(id, graph.step(id)) {
        return miss(reason, Some(key));
    }
    let Some(record) = lookup.record(key) else { return miss(MissReason::NeverBuilt, Some(key)) };
    let state = stand.state(record.effective);
    StepPlan { verdict: Verdict::Hit(Arc::new(record)), key: Some(key), state }
}

fn unknown_need(topology: &Topology, plan: &Plan, id: StepId) -> MissReason {
    let unknown = |need: &StepId| plan.state(*need).is_none();
    match (topology.parent(id).filter(unknown), topology.inputs(id).iter().copied().find(unknown)) {
        (Some(parent), _) => MissReason::Parent(parent),
        (None, Some(input)) => MissReason::Input(input),
        (None, None) => MissReason::NeverBuilt,
    }
}

/// What a step stands on, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stand {
    /// The parent as it enters the step's key.
    pub(crate) below: Option<Below>,
    /// The parent as it is.
    pub(crate) stack: Option<Below>,
    /// The key to look up.
    pub(crate) key: Option<CacheKey>,
}

impl Stand {
    pub(crate) fn of(
        graph: &StepGraph,
        topology: &Topology,
        id: StepId,
        state: impl Fn(StepId) -> Option<CacheKey>,
    ) -> Self {
        let stack = match topology.parent(id) {
            None => Some(Below::Nothing),
            Some(parent) => state(parent).map(Below::State),
        };
        let below = if graph.step(id).depends_on_parent() { stack } else { Some(Below::Ignored) };
        let inputs: Option<Vec<_>> = topology.inputs(id).iter().map(|input| state(*input)).collect();
        let key = below.zip(inputs).map(|(below, inputs)| key::step_key(graph.op_digest(id), below, &inputs));
        Self { below, stack, key }
    }

    /// Returns the state that a result makes here, where it can be told.
    pub(crate) fn state(&self, effective: CacheKey) -> Option<CacheKey> {
        match self.below? {
            Below::Nothing | Below::State(_) => Some(effective),
            Below::Ignored => Some(key::detached_state_key(self.stack?, effective)),
        }
    }
}

impl Plan {
    /// Returns what is planned for a step; `None` if the targets do not need it.
    pub fn get(&self, id: StepId) -> Option<&StepPlan> {
        self.steps.get(id.0 as usize)?.as_ref()
    }

    /// Iterates over the planned steps in order.
    pub fn iter(&self) -> impl Iterator<Item = (StepId, &StepPlan)> {
        let numbered = self.steps.iter().enumerate();
        numbered.filter_map(|(id, planned)| Some((StepId(id as u32), planned.as_ref()?)))
    }

    pub(crate) fn state(&self, id: StepId) -> Option<CacheKey> {
        self.get(id)?.state
    }

    /// Returns whether the scheduler has to see to a step.
    pub(crate) fn is_open(&self, id: StepId) -> bool {
        self.get(id).is_some_and(|planned| planned.state.is_none())
    }

    /// Gives steps that are the same as others what was planned for those.
    pub(crate) fn spread(&mut self, graph: &StepGraph, topology: &Topology) {
        for (id, _) in graph.iter().filter(|(id, _)| topology.contains(*id)) {
            if self.steps[id.0 as usize].is_none() {
                self.steps[id.0 as usize] = self.steps[topology.representative(id).0 as usize].clone();
            }
        }
    }

    /// Returns hits whose layers are needed and gone: those of the targets' stacks, and those that steps which
    /// have to run stand on. Layers of other stages are not needed while all that is taken from them is there.
    fn gone_layers(&self, topology: &Topology, lookup: &impl Lookup) -> BTreeSet<StepId> {
        let mut visited = vec![false; self.steps.len()];
        let mut gone = BTreeSet::new();
        let open = topology.steps().filter(|id| self.is_open(*id));
        let roots = topology.targets().iter().copied().chain(open.flat_map(|id| topology.needs(id)));
        for root in roots {
            let mut at = Some(root);
            while let Some(id) = at.filter(|id| !std::mem::replace(&mut visited[id.0 as usize], true)) {
                if let Some(StepPlan { verdict: Verdict::Hit(record), .. }) = self.get(id)
                    && !lookup.available(&record.layer)
                {
                    gone.insert(id);
                }
                at = topology.parent(id);
            }
        }
        gone
    }
}

impl MissReason {
    /// Returns the reason for people, naming other steps by their text; long values are shortened.
    pub fn describe(&self, graph: &StepGraph) -> String {
        let text = |step: &StepId| short(&graph.step(*step).label.text);
        match self {
            Self::NeverBuilt => "never built before".to_owned(),
            Self::NoCache => "the cache is switched off".to_owned(),
            Self::Component { name, old: Some(old), new: Some(new) } => {
                let (old, new) = difference(old, new);
                format!("{name} changed from {old} to {new}")
            }
            Self::Component { name, old: None, new: Some(new) } => format!("{name} is new: {}", short(new)),
            Self::Component { name, old: Some(old), new: None } => {
                format!("{name} is gone, it was {}", short(old))
            }
            Self::Component { name, old: None, new: None } => format!("{name} changed"),
            Self::Parent(step) => format!("what it stands on runs: {}", text(step)),
            Self::Input(step) => format!("what it reads from runs: {}", text(step)),
            Self::LayerGone => "its layer was removed from the store".to_owned(),
        }
    }
}

/// Characters of a value that are shown.
const SHOWN: usize = 80;

fn short(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Shortens two values so that what differs is in sight.
fn difference(old: &str, new: &str) -> (String, String) {
    let same = old.chars().zip(new.chars()).take_while(|(old, new)| old == new).count();
    let skipped =
        if old.chars().count().max(new.chars().count()) > SHOWN { same.saturating_sub(10) } else { 0 };
    let from = |text: &str| {
        let rest: String = text.chars().skip(skipped).collect();
        if skipped == 0 { short(&rest) } else { format!("…{}", short(&rest)) }
    };
    (from(old), from(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_show_what_differs_of_long_values() {
        let check = |old: &str, new: &str, expected: &str| {
            let (old, new) = (Some(old.to_owned()), Some(new.to_owned()));
            let reason = MissReason::Component { name: "command".into(), old, new };
            assert_eq!(reason.describe(&StepGraph::default()), expected);
        };
        check("a", "b", "command changed from \"a\" to \"b\"");
        let long = "x".repeat(200);
        let expected = format!("command changed from …\"{0}1\" to …\"{0}2\"", "x".repeat(10));
        check(&format!("{long}1"), &format!("{long}2"), &expected);
    }
}
