//! Whatever was built before, failed, was forced or removed: an image never holds a layer that was made on
//! something else.

use std::collections::BTreeMap;

use frontend::graph::{StepId, StepKind};
use proptest::prelude::*;
use solver::{Outcome, SolveError};

use crate::fake::{Graph, Program, Scene, Snapshot, digest};

/// One step of a random graph.
#[derive(Debug, Clone)]
struct Drawn {
    kind: u8,
    name: u8,
    variant: u8,
    parent: u8,
    input: Option<u8>,
    no_cache: bool,
}

/// What happens between builds.
#[derive(Debug, Clone)]
enum Happening {
    /// A build of a graph with some steps changed.
    Build { changes: Vec<(u8, u8)>, no_cache: bool, fails: Option<u8> },
    /// The layer of a record is removed.
    RemoveLayer(u8),
    /// A record is removed.
    RemoveRecord(u8),
}

fn step() -> impl Strategy<Value = Drawn> {
    (0..10_u8, 0..6_u8, 0..2_u8, any::<u8>(), prop::option::of(any::<u8>()), prop::bool::weighted(0.1))
        .prop_map(|(kind, name, variant, parent, input, no_cache)| Drawn {
            kind,
            name,
            variant,
            parent,
            input,
            no_cache,
        })
}

fn happening() -> impl Strategy<Value = Happening> {
    let changes = prop::collection::vec((any::<u8>(), 0..2_u8), 0..3);
    let build = (changes, prop::bool::weighted(0.15), prop::option::weighted(0.3, any::<u8>()))
        .prop_map(|(changes, no_cache, fails)| Happening::Build { changes, no_cache, fails });
    prop_oneof![
        4 => build,
        1 => any::<u8>().prop_map(Happening::RemoveLayer),
        1 => any::<u8>().prop_map(Happening::RemoveRecord),
    ]
}

fn graph(steps: &[Drawn], no_cache: bool) -> Graph {
    let mut graph = Graph::default();
    let mut forced = Vec::new();
    let base = graph.source("base");
    let other = graph.source("other");
    let mut made = vec![base, other];
    for drawn in steps {
        let at = |number: u8| made[usize::from(number) % made.len()];
        let stem = if drawn.kind == 0 { "random" } else { "step" };
        let (name, command) = (drawn.name, format!("{stem}{}~{}", drawn.name, drawn.variant));
        let inputs: Vec<_> = drawn.input.map(at).into_iter().collect();
        let id = match drawn.kind {
            1 => graph.detached(&format!("link{name}"), Some(at(drawn.parent)), &inputs),
            _ => graph.run(&command, Some(at(drawn.parent)), &inputs),
        };
        if drawn.no_cache || no_cache {
            forced.push(graph.0.step(id).label.text.clone());
        }
        made.push(id);
    }
    let inputs: Vec<_> = made.iter().rev().take(3).copied().collect();
    graph.run("join", made.last().copied(), &inputs);
    if forced.is_empty() {
        return graph;
    }
    let names: Vec<_> = forced.iter().map(String::as_str).collect();
    graph.no_cache(&names)
}

/// Asserts that every layer was made on what lies below it and of what its inputs are.
fn check_honest(scene: &Scene, graph: &Graph, outcomes: &BTreeMap<StepId, Outcome<Snapshot>>) {
    let mut stacks: BTreeMap<StepId, Option<Snapshot>> = BTreeMap::new();
    for (id, outcome) in outcomes {
        let step = graph.0.step(*id);
        if step.kind() == StepKind::Source {
            stacks.insert(*id, Some(vec![step.label.text.clone()]));
            continue;
        }
        let parent = step.parent.map_or(Some(Vec::new()), |parent| stacks[&parent].clone());
        let record = outcome.record.as_ref().expect("layer steps have records");
        let layer = scene.layer(record);
        if let (Some(layer), Some(parent)) = (&layer, &parent) {
            let parts: Vec<_> = layer.split('#').next().unwrap().split('|').collect();
            let name = step.label.text.split('~').next().unwrap();
            assert_eq!(parts[0], name, "step {id:?}");
            if step.depends_on_parent() {
                assert_eq!(parts[1], digest(parent), "step {id:?} stands on what it was not made on");
            }
            let inputs: Option<Vec<_>> =
                step.inputs.iter().map(|input| stacks[input].as_ref().map(|stack| digest(stack))).collect();
            if let Some(inputs) = inputs {
                assert_eq!(parts[2], inputs.join(","), "step {id:?} was made of other inputs");
            }
        }
        // A stage of which all that is used is cached may have lost its layers; its state is not known then.
        let stack = parent.zip(layer).map(|(parent, layer)| parent.into_iter().chain([layer]).collect());
        stacks.insert(*id, stack);
    }
    let target = graph.last();
    let mut at = Some(target);
    while let Some(id) = at {
        assert!(stacks[&id].is_some(), "a layer of the image is missing");
        at = graph.0.step(id).parent;
    }
}

async fn play(mut steps: Vec<Drawn>, happenings: Vec<Happening>) {
    let scene = Scene::new();
    for happening in happenings {
        match happening {
            Happening::Build { changes, no_cache, fails } => {
                for (at, variant) in changes {
                    let at = usize::from(at) % steps.len();
                    steps[at].variant = variant;
                    steps[at].kind = steps[at].kind.wrapping_add(variant) % 10;
                }
                let graph = graph(&steps, no_cache);
                let victim = fails
                    .map(|at| graph.0.step(StepId(u32::from(at) % (graph.last().0 + 1))).label.text.clone());
                if let Some(victim) = &victim {
                    scene.program(victim, Program { fails: Some("drawn".into()), ..Program::default() });
                }
                match scene.try_solve(&graph).await {
                    Ok(solved) => {
                        check_honest(&scene, &graph, &solved.outcomes);
                        scene.ran();
                        if !no_cache && !steps.iter().any(|step| step.no_cache) {
                            assert!(scene.solve(&graph).await.is_empty(), "a second build runs something");
                        }
                    }
                    Err(SolveError::Step { source, .. }) => assert!(victim.is_some(), "{source}"),
                    Err(error) => panic!("{error}"),
                }
                if let Some(victim) = victim {
                    scene.program(&victim, Program::default());
                }
            }
            Happening::RemoveLayer(at) => {
                let records = scene.solver.records.all();
                if let Some(record) = records.get(usize::from(at) % records.len().max(1))
                    && scene.layer(record).is_some()
                {
                    scene.remove_layer(record);
                }
            }
            Happening::RemoveRecord(at) => {
                let records = scene.solver.records.all();
                if let Some(record) = records.get(usize::from(at) % records.len().max(1)) {
                    scene.solver.records.remove(record.key).unwrap();
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_layer_stands_on_what_it_was_not_made_on(
        steps in prop::collection::vec(step(), 1..9),
        happenings in prop::collection::vec(happening(), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(steps, happenings));
    }
}
