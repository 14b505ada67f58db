//! Reasons of misses.

use frontend::graph::StepId;
use solver::{MissReason, Verdict, explain};

use crate::fake::{Graph, Scene, chain};

fn reasons(scene: &Scene, graph: &Graph) -> Vec<Option<MissReason>> {
    let targets = [graph.last()];
    let mut plan = scene.solver.plan(&graph.0, &targets);
    explain(&mut plan, &graph.0, &targets, &scene.solver.records);
    plan.iter()
        .map(|(_, planned)| match &planned.verdict {
            Verdict::Source | Verdict::Hit(_) => None,
            Verdict::Miss(reason) => Some(reason.clone()),
        })
        .collect()
}

fn component(name: &str, old: &str, new: &str) -> Option<MissReason> {
    Some(MissReason::Component { name: name.into(), old: Some(old.into()), new: Some(new.into()) })
}

#[tokio::test]
async fn each_miss_has_its_reason() {
    let scene = Scene::new();
    let graph = chain("base", &["a", "b"]);
    let parent = |step| Some(MissReason::Parent(StepId(step)));
    assert_eq!(reasons(&scene, &graph), [None, Some(MissReason::NeverBuilt), parent(1)]);
    let outcomes = scene.try_solve(&graph).await.unwrap().outcomes;
    assert_eq!(reasons(&scene, &graph), [None, None, None]);
    let no_cache = Some(MissReason::NoCache);
    assert_eq!(reasons(&scene, &graph.no_cache(&["a"])), [None, no_cache, parent(1)]);
    assert_eq!(reasons(&scene, &chain("base", &["a", "B"])), [None, None, component("command", "b", "B")]);
    scene.remove_layer(outcomes[&StepId(1)].record.as_ref().unwrap());
    assert_eq!(reasons(&scene, &graph), [None, Some(MissReason::LayerGone), parent(1)]);
}

#[tokio::test]
async fn a_changed_source_is_named() {
    let scene = Scene::new();
    let graph = |base: &str, files: &str| {
        let mut graph = Graph::default();
        let base = graph.source(base);
        let files = graph.source(files);
        graph.run("copy", Some(base), &[files]);
        graph
    };
    scene.solve(&graph("base 1", "files 1")).await;
    let digest = |text: &str| oci::Digest::of(text.as_bytes()).to_string();
    let changed = component("url content", &digest("files 1"), &digest("files 2"));
    assert_eq!(reasons(&scene, &graph("base 1", "files 2")), [None, None, changed]);
    let changed = component("base url content", &digest("base 1"), &digest("base 2"));
    assert_eq!(reasons(&scene, &graph("base 2", "files 1")), [None, None, changed]);
}

#[tokio::test]
async fn an_input_that_runs_is_named() {
    let scene = Scene::new();
    let mut graph = Graph::default();
    let base = graph.source("base");
    let built = graph.run("build", Some(base), &[]);
    graph.run("copy", Some(base), &[built]);
    assert_eq!(reasons(&scene, &graph)[2], Some(MissReason::Input(built)));
}
