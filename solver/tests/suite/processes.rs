//! Two solvers on one directory of records, as two builds on one store.

use std::sync::Arc;

use solver::Event;
use tokio::sync::Notify;

use crate::fake::{Program, Scene, chain};

#[tokio::test]
async fn two_builds_at_once_run_a_step_once() {
    let one = Scene::new();
    let two = one.another();
    let gate = Arc::new(Notify::new());
    let program = Program { settles_after: Some(Arc::clone(&gate)), ..Program::default() };
    one.program("a", program.clone());
    two.program("a", program);
    let graph = chain("base", &["a", "b"]);
    let release = async {
        let waits = |scene: &Scene| {
            scene.events.0.lock().unwrap().iter().any(|event| matches!(event, Event::Waiting { .. }))
        };
        while !waits(&one) && !waits(&two) {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
    };
    let (first, second, ()) = tokio::join!(one.solve(&graph), two.solve(&graph), release);
    let mut all = [first, second].concat();
    all.sort();
    assert_eq!(all, ["a", "b"]);
}

#[tokio::test]
async fn a_waiter_holds_no_slot() {
    let mut one = Scene::new();
    one.solver.jobs = 1;
    let two = one.another();
    let gate = Arc::new(Notify::new());
    two.program("a", Program { settles_after: Some(Arc::clone(&gate)), ..Program::default() });
    let mut graph = chain("base", &["a"]);
    let parent = graph.last();
    let other = graph.run("other", None, &[]);
    graph.run("join", Some(parent), &[other]);
    let both = async {
        // The other build holds the lock of `a` while this one runs `other` in its only slot.
        let holder = chain("base", &["a"]);
        let hold = two.solve(&holder);
        let run = async {
            while two.solver.worker.executed.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            let release = async {
                while !one.solver.worker.executed.lock().unwrap().contains(&"other".to_owned()) {
                    tokio::task::yield_now().await;
                }
                gate.notify_one();
            };
            tokio::join!(one.solve(&graph), release).0
        };
        tokio::join!(hold, run)
    };
    let (first, second) = both.await;
    assert_eq!(first, ["a"]);
    assert_eq!(second, ["join", "other"]);
}

#[tokio::test]
async fn builds_one_after_the_other_share_everything() {
    let one = Scene::new();
    let graph = chain("base", &["a", "b"]);
    one.solve(&graph).await;
    assert!(one.another().solve(&graph).await.is_empty());
}
