//! What hits, what misses, and how little a hit touches.

use solver::{Event, How};

use crate::fake::{Graph, Program, Scene, chain};

#[tokio::test]
async fn a_second_solve_runs_nothing_restores_nothing_and_touches_no_source() {
    let scene = Scene::new();
    let graph = chain("base", &["a", "b", "c"]);
    assert_eq!(scene.solve(&graph).await, ["a", "b", "c"]);
    scene.solver.worker.sourced.lock().unwrap().clear();
    assert!(scene.solve(&graph).await.is_empty());
    assert!(scene.solver.worker.sourced.lock().unwrap().is_empty());
    assert!(scene.solver.worker.restored.lock().unwrap().is_empty());
    let events = scene.events.0.lock().unwrap();
    assert!(events.contains(&Event::Planned { steps: 3, cached: 3 }));
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Cached(_))).count(), 3);
}

#[tokio::test]
async fn outcomes_are_the_same_cold_and_warm() {
    let scene = Scene::new();
    let graph = chain("base", &["a", "b"]);
    let cold = scene.try_solve(&graph).await.unwrap().outcomes;
    let warm = scene.try_solve(&graph).await.unwrap().outcomes;
    assert_eq!(cold.len(), 3);
    for (id, cold) in &cold {
        assert_eq!(cold.key, warm[id].key);
        assert_eq!(cold.record, warm[id].record);
    }
    let hows = |outcomes: &std::collections::BTreeMap<_, solver::Outcome<_>>| -> Vec<How> {
        outcomes.values().map(|outcome: &solver::Outcome<Vec<String>>| outcome.how).collect()
    };
    assert_eq!(hows(&cold), [How::Source, How::Ran, How::Ran]);
    assert_eq!(hows(&warm), [How::Source, How::Cached, How::Cached]);
}

#[tokio::test]
async fn a_changed_step_reruns_from_there_on_and_nothing_before() {
    let scene = Scene::new();
    scene.solve(&chain("base", &["a", "b", "c"])).await;
    assert_eq!(scene.solve(&chain("base", &["a", "B", "c"])).await, ["B", "c"]);
    assert_eq!(*scene.solver.worker.restored.lock().unwrap(), ["a"]);
    assert_eq!(scene.solve(&chain("other base", &["a", "b", "c"])).await, ["a", "b", "c"]);
    assert!(scene.solve(&chain("base", &["a", "b", "c"])).await.is_empty());
}

#[tokio::test]
async fn no_cache_runs_every_step_and_records_it() {
    let scene = Scene::new();
    let graph = chain("base", &["a", "b"]);
    scene.solve(&graph).await;
    let first = scene.stack(&graph).await;
    assert_eq!(scene.solve(&graph.no_cache(&[])).await, ["a", "b"]);
    assert!(scene.solve(&graph).await.is_empty());
    assert_ne!(scene.stack(&graph).await, first, "the newer results are the ones recorded");
}

#[tokio::test]
async fn a_step_that_changed_under_no_cache_never_meets_what_was_built_on_its_earlier_result() {
    let scene = Scene::new();
    let graph = chain("base", &["a", "b"]);
    scene.makes("a", "one");
    scene.solve(&graph).await;
    scene.makes("a", "two");
    scene.program("b", Program { fails: Some("no".into()), ..Program::default() });
    scene.try_solve(&graph.no_cache(&[])).await.unwrap_err();
    scene.program("b", Program::default());
    scene.ran();
    assert_eq!(scene.solve(&graph).await, ["b"], "the record of b belongs to the first a");
}

#[tokio::test]
async fn no_cache_of_one_step_keeps_what_its_equal_result_feeds() {
    let scene = Scene::new();
    let graph = chain("base", &["a", "b"]);
    scene.solve(&graph).await;
    assert_eq!(scene.solve(&graph.no_cache(&["a"])).await, ["a"]);
}

#[tokio::test]
async fn garbage_in_records_is_a_miss() {
    for garbage in [&b""[..], b"{", b"\0\0\0\0", b"{\"version\":1}"] {
        let scene = Scene::new();
        let graph = chain("base", &["a", "b"]);
        scene.solve(&graph).await;
        for file in std::fs::read_dir(scene.path()).unwrap() {
            let path = file.unwrap().path();
            if path.is_file() && path.extension().is_none() {
                std::fs::write(path, garbage).unwrap();
            }
        }
        assert_eq!(scene.solve(&graph).await, ["a", "b"]);
        assert!(scene.solve(&graph).await.is_empty());
    }
}

#[tokio::test]
async fn a_record_under_a_wrong_name_or_of_another_version_is_a_miss() {
    let scene = Scene::new();
    let graph = chain("base", &["a"]);
    let outcomes = scene.try_solve(&graph).await.unwrap().outcomes;
    let record = outcomes[&graph.last()].record.clone().unwrap();
    let path = scene.path().join(record.key.to_string());
    let text = std::fs::read_to_string(&path).unwrap();
    for (old, new) in [("\"version\":1", "\"version\":2"), (&record.key.to_string(), &"0".repeat(64))] {
        std::fs::write(&path, text.replacen(old, new, 1)).unwrap();
        assert!(scene.solver.records.get(record.key).is_none(), "{old}");
    }
    std::fs::write(&path, text).unwrap();
    assert!(scene.solver.records.get(record.key).is_some());
}

#[tokio::test]
async fn a_layer_that_was_removed_is_a_miss_and_what_follows_stays() {
    let scene = Scene::new();
    let graph = chain("base", &["a", "b", "c"]);
    let outcomes = scene.try_solve(&graph).await.unwrap().outcomes;
    scene.remove_layer(outcomes[&solver_id(2)].record.as_ref().unwrap());
    scene.ran();
    assert_eq!(scene.solve(&graph).await, ["b"]);
    assert!(scene.solve(&graph).await.is_empty());
}

#[tokio::test]
async fn a_removed_layer_of_another_stage_is_not_missed() {
    let scene = Scene::new();
    let mut graph = Graph::default();
    let base = graph.source("base");
    let built = graph.run("build", Some(base), &[]);
    graph.run("copy", Some(base), &[built]);
    let outcomes = scene.try_solve(&graph).await.unwrap().outcomes;
    scene.remove_layer(outcomes[&built].record.as_ref().unwrap());
    scene.ran();
    assert!(scene.solve(&graph).await.is_empty());
}

#[tokio::test]
async fn a_layer_that_disappears_between_plan_and_use_is_rebuilt() {
    let scene = Scene::new();
    scene.makes("a", "a");
    let outcomes = scene.try_solve(&chain("base", &["a", "b"])).await.unwrap().outcomes;
    let layer = outcomes[&solver_id(1)].record.as_ref().unwrap().layer.diff_id;
    scene.solver.worker.lost.lock().unwrap().push(layer);
    scene.ran();
    assert_eq!(scene.solve(&chain("base", &["a", "B"])).await, ["B", "a"]);
}

#[tokio::test]
async fn equal_steps_run_once() {
    let scene = Scene::new();
    let mut graph = Graph::default();
    let base = graph.source("base");
    let again = graph.source("base");
    let one = graph.run("same", Some(base), &[]);
    let two = graph.run("same", Some(again), &[]);
    let three = graph.run("top", Some(one), &[two]);
    assert_eq!(scene.solve(&graph).await, ["same", "top"]);
    let outcomes = scene.try_solve(&graph).await.unwrap().outcomes;
    assert_eq!(outcomes[&one].record, outcomes[&two].record);
    assert!(outcomes.contains_key(&three));
}

#[tokio::test]
async fn steps_that_the_target_does_not_need_do_not_run() {
    let scene = Scene::new();
    let mut graph = Graph::default();
    let base = graph.source("base");
    graph.run("unneeded", Some(base), &[]);
    graph.run("wanted", Some(base), &[]);
    assert_eq!(scene.solve(&graph).await, ["wanted"]);
}

#[tokio::test]
async fn a_detached_step_hits_on_another_parent_and_its_state_differs() {
    let scene = Scene::new();
    let graph = |base: &str| {
        let mut graph = Graph::default();
        let base = graph.source(base);
        let files = graph.source("files");
        let linked = graph.detached("link", Some(base), &[files]);
        graph.run("after", Some(linked), &[]);
        graph
    };
    assert_eq!(scene.solve(&graph("one")).await, ["after", "link"]);
    assert_eq!(scene.solve(&graph("two")).await, ["after"]);
    assert!(scene.solve(&graph("one")).await.is_empty());
    assert!(scene.solve(&graph("two")).await.is_empty());
}

#[tokio::test]
async fn a_detached_step_hits_while_its_parent_runs() {
    let scene = Scene::new();
    let graph = |command: &str| {
        let mut graph = Graph::default();
        let base = graph.source("base");
        let files = graph.source("files");
        let run = graph.run(command, Some(base), &[]);
        graph.detached("link", Some(run), &[files]);
        graph
    };
    assert_eq!(scene.solve(&graph("one")).await, ["link", "one"]);
    assert_eq!(scene.solve(&graph("two")).await, ["two"]);
    let stack = scene.stack(&graph("two")).await;
    assert_eq!(stack.len(), 3);
    assert!(stack[1].starts_with("two") && stack[2].starts_with("link"), "{stack:?}");
}

#[tokio::test]
async fn a_graph_without_layers_solves() {
    let scene = Scene::new();
    let mut graph = Graph::default();
    graph.source("base");
    let solved = scene.try_solve(&graph).await.unwrap();
    assert_eq!(solved.outcomes[&graph.last()].how, How::Source);
    assert_eq!(scene.stack(&graph).await, ["base"]);
}

fn solver_id(number: u32) -> frontend::graph::StepId {
    frontend::graph::StepId(number)
}
