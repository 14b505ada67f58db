//! Early cut-off and the second chance by selected content.

use frontend::graph::StepId;
use solver::How;

use crate::fake::{Graph, Program, Scene, chain};

#[tokio::test]
async fn a_rerun_that_makes_the_same_is_discarded_and_what_follows_stays() {
    let scene = Scene::new();
    for name in ["a", "A"] {
        scene.makes(name, "the same");
    }
    let first = scene.try_solve(&chain("base", &["a", "b"])).await.unwrap().outcomes;
    scene.ran();
    let second = scene.try_solve(&chain("base", &["A", "b"])).await.unwrap().outcomes;
    assert_eq!(scene.ran(), ["A"]);
    let (one, two) = (StepId(1), StepId(2));
    assert_eq!((second[&one].how, second[&two].how), (How::Unchanged, How::Cached));
    assert_eq!(second[&one].record.as_ref().unwrap().layer, first[&one].record.as_ref().unwrap().layer);
    assert_eq!(second[&one].record.as_ref().unwrap().created, first[&one].record.as_ref().unwrap().created);
    assert_eq!(second[&two].record, first[&two].record);
    assert!(scene.solve(&chain("base", &["A", "b"])).await.is_empty(), "the new key is recorded too");
}

#[tokio::test]
async fn a_rerun_that_makes_something_else_reruns_what_follows() {
    let scene = Scene::new();
    scene.solve(&chain("base", &["a", "b"])).await;
    assert_eq!(scene.solve(&chain("base", &["A", "b"])).await, ["A", "b"]);
}

#[tokio::test]
async fn equal_content_on_another_state_is_not_adopted() {
    let scene = Scene::new();
    scene.makes("b", "the same");
    scene.solve(&chain("base", &["a", "b"])).await;
    let other = chain("base", &["A", "b"]);
    assert_eq!(scene.solve(&other).await, ["A", "b"]);
    let outcomes = scene.try_solve(&other).await.unwrap().outcomes;
    let first = scene.try_solve(&chain("base", &["a", "b"])).await.unwrap().outcomes;
    assert_ne!(outcomes[&StepId(2)].record, first[&StepId(2)].record);
}

#[tokio::test]
async fn nothing_is_adopted_under_no_cache() {
    let scene = Scene::new();
    let graph = chain("base", &["a"]);
    let first = scene.try_solve(&graph).await.unwrap().outcomes;
    let second = scene.try_solve(&graph.no_cache(&[])).await.unwrap().outcomes;
    assert_eq!(second[&StepId(1)].how, How::Ran);
    let layer = |outcomes: &std::collections::BTreeMap<StepId, solver::Outcome<Vec<String>>>| {
        outcomes[&StepId(1)].record.as_ref().unwrap().layer.clone()
    };
    assert_ne!(layer(&first).diff_id, layer(&second).diff_id);
    assert_eq!(layer(&first).content_id, layer(&second).content_id);
}

#[tokio::test]
async fn an_equal_result_whose_layer_is_gone_is_not_adopted() {
    let scene = Scene::new();
    scene.makes("a", "the same");
    scene.makes("A", "the same");
    let first = scene.try_solve(&chain("base", &["a"])).await.unwrap().outcomes;
    scene.remove_layer(first[&StepId(1)].record.as_ref().unwrap());
    let second = scene.try_solve(&chain("base", &["A"])).await.unwrap().outcomes;
    assert_eq!(second[&StepId(1)].how, How::Ran);
    assert!(scene.stack(&chain("base", &["A"])).await[1].starts_with("the same"));
}

#[tokio::test]
async fn the_stack_of_an_adopted_layer_is_the_earlier_one() {
    let scene = Scene::new();
    scene.makes("a", "the same");
    scene.makes("A", "the same");
    let before = scene.stack(&chain("base", &["a", "b"])).await;
    assert_eq!(scene.stack(&chain("base", &["A", "b"])).await, before);
    let longer = scene.stack(&chain("base", &["A", "b", "c"])).await;
    assert_eq!(longer[..3], before);
}

/// A stage, and a step that copies something out of it.
fn copy_from(stage: &str) -> Graph {
    let mut graph = Graph::default();
    let base = graph.source("base");
    let built = graph.run(stage, Some(base), &[]);
    graph.run("copy", Some(base), &[built]);
    graph
}

fn select(scene: &Scene, what: Option<&str>) {
    scene.program("copy", Program { selects: what.map(str::to_owned), ..Program::default() });
}

#[tokio::test]
async fn a_copy_of_the_same_file_from_a_changed_stage_is_a_hit() {
    let scene = Scene::new();
    select(&scene, Some("file 1"));
    assert_eq!(scene.solve(&copy_from("build")).await, ["build", "copy"]);
    assert_eq!(scene.solve(&copy_from("build differently")).await, ["build differently"]);
    assert!(scene.solve(&copy_from("build differently")).await.is_empty());
    select(&scene, Some("file 2"));
    assert_eq!(scene.solve(&copy_from("build again")).await, ["build again", "copy"]);
}

#[tokio::test]
async fn a_step_whose_selection_cannot_be_told_runs() {
    let scene = Scene::new();
    select(&scene, None);
    scene.solve(&copy_from("build")).await;
    assert_eq!(scene.solve(&copy_from("build differently")).await, ["build differently", "copy"]);
}

#[tokio::test]
async fn the_selection_is_not_looked_up_under_no_cache() {
    let scene = Scene::new();
    select(&scene, Some("file"));
    scene.solve(&copy_from("build")).await;
    assert_eq!(scene.solve(&copy_from("build").no_cache(&[])).await, ["build", "copy"]);
}

#[tokio::test]
async fn equal_selections_on_other_parents_are_not_confused() {
    let scene = Scene::new();
    select(&scene, Some("file"));
    let graph = |base: &str| {
        let mut graph = Graph::default();
        let parent = graph.source(base);
        let input = graph.source("files");
        graph.run("copy", Some(parent), &[input]);
        graph
    };
    assert_eq!(scene.solve(&graph("one")).await, ["copy"]);
    assert_eq!(scene.solve(&graph("two")).await, ["copy"]);
}

#[tokio::test]
async fn results_of_another_source_date_epoch_are_not_adopted() {
    let scene = Scene::new();
    scene.makes("a", "the same");
    let graph = chain("base", &["a"]);
    for epoch in [None, Some(1), Some(2)] {
        let outcomes = scene.try_solve(&graph.source_date_epoch(epoch)).await.unwrap().outcomes;
        assert_eq!(outcomes[&StepId(1)].how, How::Ran, "its layer has other times: {epoch:?}");
    }
    assert_eq!(scene.ran(), ["a", "a", "a"]);
    for epoch in [None, Some(1), Some(2)] {
        assert!(scene.solve(&graph.source_date_epoch(epoch)).await.is_empty(), "{epoch:?}");
    }
}

#[tokio::test]
async fn layers_are_told_once_they_are_certain_and_before_the_end() {
    let scene = Scene::new();
    let told = |scene: &Scene| std::mem::take(&mut *scene.events.1.lock().unwrap());
    for name in ["a", "A"] {
        scene.makes(name, "the same");
    }
    for (names, hows) in [
        (["a", "b", "c"], [How::Ran, How::Ran, How::Ran]),
        (["a", "b", "c"], [How::Cached, How::Cached, How::Cached]),
        (["A", "b", "d"], [How::Unchanged, How::Cached, How::Ran]),
    ] {
        let outcomes = scene.try_solve(&chain("base", &names)).await.unwrap().outcomes;
        let mut told = told(&scene);
        told.sort_by_key(|(step, _)| *step);
        let steps = outcomes.iter().filter_map(|(id, outcome)| {
            let record = outcome.record.as_ref()?;
            Some((*id, record.layer.clone()))
        });
        assert_eq!(told, steps.collect::<Vec<_>>(), "{names:?}");
        let found: Vec<_> = outcomes.values().skip(1).map(|outcome| outcome.how).collect();
        assert_eq!(found, hows, "{names:?}");
    }
    // What fails later does not take back what is certain.
    scene.program("e", Program { fails: Some("no".into()), ..Program::default() });
    scene.try_solve(&chain("base", &["a", "b", "e"])).await.unwrap_err();
    assert_eq!(told(&scene).len(), 2);
}
