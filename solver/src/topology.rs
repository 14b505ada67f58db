//! The part of a step graph that the targets need, with equal steps taken as one. No cache, no running.

use std::collections::{BTreeMap, BTreeSet};

use frontend::graph::{StepGraph, StepId};
use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::Dfs;

use crate::key::{self, Below, CacheKey};

/// What the targets need. Steps that are the same by definition have one representative: the first of them.
#[derive(Debug)]
pub struct Topology {
    /// Representatives only; edges lead from what is needed to who needs it.
    graph: DiGraph<StepId, ()>,
    nodes: Vec<Option<NodeIndex>>,
    representatives: Vec<Option<StepId>>,
    definitions: Vec<CacheKey>,
    parents: Vec<Option<StepId>>,
    inputs: Vec<Vec<StepId>>,
    targets: Vec<StepId>,
}

impl Topology {
    /// Takes the cone of `targets`.
    pub fn new(graph: &StepGraph, targets: &[StepId]) -> Self {
        let needed = cone(graph, targets);
        let mut topology = Self {
            graph: DiGraph::new(),
            nodes: vec![None; graph.len()],
            representatives: vec![None; graph.len()],
            definitions: vec![CacheKey([0; 32]); graph.len()],
            parents: vec![None; graph.len()],
            inputs: vec![Vec::new(); graph.len()],
            targets: Vec::new(),
        };
        let mut seen = BTreeMap::new();
        for (id, step) in graph.iter().filter(|(id, _)| needed[id.0 as usize]) {
            let at = id.0 as usize;
            let parent = step.parent.map(|parent| topology.representative(parent));
            let inputs: Vec<_> = step.inputs.iter().map(|input| topology.representative(*input)).collect();
            let definition = topology.define(graph, id, parent, &inputs);
            let first = *seen.entry((definition, parent, step.no_cache)).or_insert(id);
            topology.representatives[at] = Some(first);
            topology.definitions[at] = definition;
            if first == id {
                topology.add(id, parent, &inputs);
            }
            topology.parents[at] = parent;
            topology.inputs[at] = inputs;
        }
        topology.targets = targets.iter().map(|target| topology.representative(*target)).collect();
        topology
    }

    fn define(&self, graph: &StepGraph, id: StepId, parent: Option<StepId>, inputs: &[StepId]) -> CacheKey {
        let below = match parent {
            _ if !graph.step(id).depends_on_parent() => Below::Ignored,
            None => Below::Nothing,
            Some(parent) => Below::State(self.definition(parent)),
        };
        let inputs: Vec<_> = inputs.iter().map(|input| self.definition(*input)).collect();
        key::step_key(graph.op_digest(id), below, &inputs)
    }

    fn add(&mut self, id: StepId, parent: Option<StepId>, inputs: &[StepId]) {
        let node = self.graph.add_node(id);
        self.nodes[id.0 as usize] = Some(node);
        // Not `update_edge`, which looks through all users of a base that thousands may share.
        for need in parent.iter().chain(inputs).collect::<BTreeSet<_>>() {
            let from = self.nodes[need.0 as usize].expect("representatives precede their users");
            self.graph.add_edge(from, node, ());
        }
    }

    /// Returns whether the targets need a step.
    pub fn contains(&self, id: StepId) -> bool {
        self.representatives[id.0 as usize].is_some()
    }

    /// Returns the step that stands for all that are the same as `id`.
    ///
    /// # Panics
    /// If the targets do not need `id`.
    pub fn representative(&self, id: StepId) -> StepId {
        self.representatives[id.0 as usize].expect("needs of needed steps are needed")
    }

    /// Iterates over the representatives, each after what it needs.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = StepId> {
        self.graph.node_weights().copied().collect::<Vec<_>>().into_iter()
    }

    /// Returns the targets' representatives.
    pub fn targets(&self) -> &[StepId] {
        &self.targets
    }

    /// Returns the representative of a step's parent.
    pub fn parent(&self, id: StepId) -> Option<StepId> {
        self.parents[id.0 as usize]
    }

    /// Returns the representatives of a step's inputs, in their order.
    pub fn inputs(&self, id: StepId) -> &[StepId] {
        &self.inputs[id.0 as usize]
    }

    /// Iterates over a step's parent and inputs.
    pub fn needs(&self, id: StepId) -> impl Iterator<Item = StepId> {
        self.parent(id).into_iter().chain(self.inputs(id).iter().copied())
    }

    /// Iterates over the distinct steps that a step needs.
    pub fn distinct_needs(&self, id: StepId) -> impl Iterator<Item = StepId> {
        self.neighbors(id, Direction::Incoming)
    }

    /// Iterates over the distinct steps that need a step.
    pub fn dependents(&self, id: StepId) -> impl Iterator<Item = StepId> {
        self.neighbors(id, Direction::Outgoing)
    }

    /// Returns the key of a step by definition alone: known before anything ran, the same in all builds that
    /// ask for the same. It names the step's lock.
    pub fn definition(&self, id: StepId) -> CacheKey {
        self.definitions[id.0 as usize]
    }

    fn neighbors(&self, id: StepId, direction: Direction) -> impl Iterator<Item = StepId> {
        let node = self.nodes[id.0 as usize].expect("only representatives have neighbours");
        self.graph.neighbors_directed(node, direction).map(|node| self.graph[node])
    }
}

fn cone(graph: &StepGraph, targets: &[StepId]) -> Vec<bool> {
    let mut users = DiGraph::<(), ()>::with_capacity(graph.len(), graph.len());
    graph.iter().for_each(|_| {
        users.add_node(());
    });
    for (id, step) in graph.iter() {
        for need in step.parent.iter().chain(&step.inputs) {
            users.add_edge(NodeIndex::new(id.0 as usize), NodeIndex::new(need.0 as usize), ());
        }
    }
    let mut needed = vec![false; graph.len()];
    let mut search = Dfs::empty(&users);
    for target in targets {
        search.move_to(NodeIndex::new(target.0 as usize));
        while let Some(node) = search.next(&users) {
            needed[node.index()] = true;
        }
    }
    needed
}
