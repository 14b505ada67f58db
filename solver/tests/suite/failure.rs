//! Failures, interruptions and crashes: what stops, what stays.

use std::sync::Arc;
use std::time::Duration;

use frontend::graph::StepId;
use solver::{Cancel, Event, SolveError, Wanted};
use tokio::sync::Barrier;

use crate::fake::{Graph, Program, Scene, chain};

fn failing(why: &str) -> Program {
    Program { fails: Some(why.into()), ..Program::default() }
}

#[tokio::test]
async fn a_failure_stops_what_runs_and_starts_nothing_more() {
    let scene = Scene::new();
    let mut graph = Graph::default();
    let base = graph.source("base");
    let done = graph.run("done", Some(base), &[]);
    let bad = graph.run("bad", Some(done), &[]);
    let long = graph.run("long", Some(done), &[]);
    let next = graph.run("next", Some(long), &[]);
    graph.run("join", Some(bad), &[next]);
    let barrier = Some(Arc::new(Barrier::new(2)));
    scene.program("bad", Program { meets: barrier.clone(), ..failing("exit code 1") });
    scene.program("long", Program { meets: barrier, hangs: true, ..Program::default() });
    match scene.try_solve(&graph).await.unwrap_err() {
        SolveError::Step { id, source } => assert_eq!((id, source.0.as_str()), (bad, "exit code 1")),
        other => panic!("{other:?}"),
    }
    assert_eq!(scene.ran(), ["bad", "done", "long"]);
    let told = |what: &dyn Fn(&Event) -> bool| scene.events.0.lock().unwrap().iter().any(what);
    assert!(told(&|event| matches!(event, Event::Failed { step, .. } if *step == bad)));
    assert!(told(&|event| *event == Event::Cancelled(long)));
    scene.program("bad", Program::default());
    scene.program("long", Program::default());
    assert_eq!(scene.solve(&graph).await, ["bad", "join", "long", "next"], "what was done stays cached");
}

#[tokio::test]
async fn what_was_done_before_a_failure_is_still_packed_and_recorded() {
    let scene = Scene::new();
    let gate = Arc::new(tokio::sync::Notify::new());
    scene.program("a", Program { settles_after: Some(Arc::clone(&gate)), ..Program::default() });
    scene.program("b", failing("no"));
    let release = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        gate.notify_one();
    };
    let graph = chain("base", &["a", "b"]);
    let (result, ()) = tokio::join!(scene.try_solve(&graph), release);
    assert!(matches!(result, Err(SolveError::Step { id: StepId(2), .. })));
    scene.ran();
    scene.program("b", Program::default());
    assert_eq!(scene.solve(&graph).await, ["b"]);
}

#[tokio::test]
async fn an_interruption_stops_everything_and_says_so() {
    let scene = Scene::new();
    scene.program("long", Program { hangs: true, ..Program::default() });
    let graph = chain("base", &["a", "long", "b"]);
    let cancel = Cancel::new();
    let interrupt = async {
        while scene.solver.worker.executed.lock().unwrap().len() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        cancel.cancel();
    };
    let targets = [graph.last()];
    let solve = scene.solver.solve(Arc::new(graph.0.clone()), &targets, Wanted::Layers, &cancel);
    let (result, ()) = tokio::join!(solve, interrupt);
    assert!(matches!(result, Err(SolveError::Cancelled)));
    assert_eq!(scene.ran(), ["a", "long"]);
}

#[tokio::test]
async fn a_failure_does_not_wait_for_what_another_step_reads() {
    let scene = Scene::new();
    scene.program("copy", Program { selects_for_ever: true, ..Program::default() });
    scene.program("b", failing("no"));
    let mut graph = chain("base", &["a"]);
    let stage = graph.last();
    let copied = graph.run("copy", None, &[stage]);
    let failed = graph.run("b", Some(stage), &[]);
    graph.run("join", Some(failed), &[copied]);
    let error = tokio::time::timeout(Duration::from_secs(60), scene.try_solve(&graph)).await;
    let error = error.expect("the failure waits").unwrap_err();
    assert_eq!(error.to_string(), "no");
}

#[tokio::test]
async fn a_source_that_cannot_be_had_is_the_error() {
    let scene = Scene::new();
    scene.program("base", failing("no such image"));
    let error = scene.try_solve(&chain("base", &["a"])).await.unwrap_err();
    assert!(matches!(&error, SolveError::Step { id: StepId(0), .. }), "{error:?}");
    assert_eq!(error.to_string(), "no such image");
}

#[tokio::test]
async fn a_layer_that_cannot_be_packed_is_the_error_of_its_step() {
    let scene = Scene::new();
    scene.program("a", Program { fails_to_settle: true, ..Program::default() });
    for _ in 0..20 {
        let error = scene.try_solve(&chain("base", &["a", "b", "c"])).await.unwrap_err();
        assert!(matches!(&error, SolveError::Step { id: StepId(1), .. }), "{error:?}");
    }
    assert!(scene.solver.records.all().is_empty(), "nothing is recorded on top of what is not there");
}

#[tokio::test]
async fn a_crash_between_packing_and_recording_costs_the_step_alone() {
    let scene = Scene::new();
    let graph = chain("base", &["a", "b"]);
    let outcomes = scene.try_solve(&graph).await.unwrap().outcomes;
    let record = outcomes[&StepId(2)].record.clone().unwrap();
    scene.solver.records.remove(record.key).unwrap();
    std::fs::write(scene.path().join("tmp/half-written"), "{\"version\"").unwrap();
    let again = scene.another();
    assert_eq!(again.solve(&graph).await, ["b"]);
    assert!(again.solve(&graph).await.is_empty());
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_an_error_that_names_it() {
    let scene = Scene::new();
    std::fs::remove_dir(scene.path().join("tmp")).unwrap();
    std::fs::write(scene.path().join("tmp"), "").unwrap();
    let error = scene.try_solve(&chain("base", &["a"])).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot write the step record "), "{error}");
}

#[test]
fn a_sweep_removes_what_dead_writers_left_and_nothing_else() {
    let scene = Scene::new();
    let file = |name: &str| scene.path().join("tmp").join(name);
    std::fs::write(file("being-written"), "{").unwrap();
    let stale = std::fs::File::create(file("stale")).unwrap();
    stale.set_modified(std::time::UNIX_EPOCH).unwrap();
    scene.solver.records.sweep();
    assert!(file("being-written").exists());
    assert!(!file("stale").exists());
}
