//! What runs at once, and that cost grows with the graph and not with its square.

use std::sync::Arc;
use std::time::Duration;

use frontend::graph::StepId;
use solver::{Event, Finish};
use tokio::sync::{Barrier, Notify};

use crate::fake::{Graph, Program, Scene, chain};

/// Steps that do not need each other, and one that needs them all.
fn fan(width: usize) -> Graph {
    let mut graph = Graph::default();
    let base = graph.source("base");
    let stages: Vec<_> = (0..width).map(|n| graph.run(&format!("stage {n}"), Some(base), &[])).collect();
    graph.run("join", Some(base), &stages);
    graph
}

#[tokio::test]
async fn six_independent_steps_run_at_once() {
    let scene = Scene::new();
    let barrier = Arc::new(Barrier::new(6));
    for n in 0..6 {
        let meets = Some(Arc::clone(&barrier));
        scene.program(&format!("stage {n}"), Program { meets, ..Program::default() });
    }
    assert_eq!(scene.solve(&fan(6)).await.len(), 7);
    assert_eq!(scene.solver.worker.peak(), 6);
}

#[tokio::test]
async fn the_job_limit_holds() {
    let mut scene = Scene::new();
    scene.solver.jobs = 2;
    let barrier = Arc::new(Barrier::new(2));
    for n in 0..6 {
        let meets = Some(Arc::clone(&barrier));
        scene.program(&format!("stage {n}"), Program { meets, ..Program::default() });
    }
    assert_eq!(scene.solve(&fan(6)).await.len(), 7);
    assert_eq!(scene.solver.worker.peak(), 2);
    scene.solver.jobs = 0;
    assert_eq!(scene.solve(&chain("base", &["one"])).await, ["one"], "at least one step runs");
}

#[tokio::test]
async fn a_diamond_runs_each_step_once() {
    let scene = Scene::new();
    let mut graph = Graph::default();
    let base = graph.source("base");
    let top = graph.run("top", Some(base), &[]);
    let left = graph.run("left", Some(top), &[]);
    let right = graph.run("right", Some(top), &[]);
    graph.run("bottom", Some(left), &[right]);
    assert_eq!(scene.solve(&graph).await, ["bottom", "left", "right", "top"]);
}

#[tokio::test]
async fn what_follows_starts_while_a_layer_is_still_being_packed() {
    let scene = Scene::new();
    let gate = Arc::new(Notify::new());
    scene.program("a", Program { settles_after: Some(Arc::clone(&gate)), ..Program::default() });
    let graph = chain("base", &["a", "b"]);
    let watch = async {
        let done = Event::Done { step: StepId(2), finish: Finish::New, took: Duration::ZERO };
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let events = scene.events.0.lock().unwrap();
            let is_done = |event: &Event| matches!((event, &done), (Event::Done { step: a, .. }, Event::Done { step: b, .. }) if a == b);
            if events.iter().any(is_done) {
                assert!(!events.iter().any(|event| matches!(event, Event::Settled { .. })));
                break;
            }
        }
        assert!(scene.solver.records.all().is_empty(), "b's record waits for a's");
        gate.notify_one();
    };
    let (ran, ()) = tokio::join!(scene.solve(&graph), watch);
    assert_eq!(ran, ["a", "b"]);
    assert_eq!(scene.solver.records.all().len(), 2);
}

#[tokio::test]
async fn a_hundred_thousand_steps_plan_in_linear_time_and_without_recursion() {
    let build = |count: u32| {
        let mut graph = Graph::default();
        let mut parent = graph.source("base");
        for n in 0..count {
            parent = graph.run(&format!("step {n}"), Some(parent), &[]);
        }
        graph
    };
    let scene = Scene::new();
    let plan = |graph: &Graph| {
        // Of processors: how busy the machine is counts for nothing.
        let now =
            || Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime)).unwrap();
        let begun = now();
        let plan = scene.solver.plan(&graph.0, &[graph.last()]);
        assert_eq!(plan.iter().count(), graph.0.len());
        now() - begun
    };
    let (small, large) = (build(10_000), build(100_000));
    let unit = plan(&small).max(Duration::from_millis(5));
    assert!(plan(&large) < unit * 60, "ten times the steps took over 60 times the time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_of_a_thousand_layers_is_built_and_restored() {
    let scene = Scene::new();
    let mut graph = Graph::default();
    let mut parent = graph.source("base");
    for n in 0..1_000 {
        parent = graph.run(&format!("step {n}"), Some(parent), &[]);
        scene.makes(&format!("step {n}"), "x");
    }
    assert_eq!(scene.solve(&graph).await.len(), 1_000);
    graph.run("one more", Some(parent), &[]);
    assert_eq!(scene.solve(&graph).await, ["one more"]);
    assert_eq!(scene.solver.worker.restored.lock().unwrap().len(), 1_000);
}
