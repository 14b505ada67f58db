//! `build --print`: what is printed, that the plan of a build is on it, and that nothing is built.

use serde_json::Value;

use crate::harness::Scratch;

const DOCKERFILE: &str = "FROM scratch AS one\nCOPY a /a\nFROM scratch\nCOPY --from=one /a /b\nCOPY c /c\n";

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON alone on standard output")
}

fn verdicts(plan: &str) -> Vec<String> {
    let plan = json(plan);
    let steps = plan.as_array().expect("a list").iter().filter(|step| step["verdict"] != "source");
    steps
        .map(|step| format!("{} {}", step["verdict"].as_str().unwrap(), step["text"].as_str().unwrap()))
        .collect()
}

#[test]
fn plans_and_pictures_show_hits_and_misses() {
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", DOCKERFILE), ("a", "1"), ("c", "1")]);
    let print = |what: &str| scratch.build(&context, &["--print", what]).ok().stdout;
    let fresh = verdicts(&print("plan"));
    assert!(fresh.len() == 3 && fresh.iter().all(|step| step.starts_with("miss ")), "{fresh:?}");
    assert!(scratch.xbuild(&["images"]).ok().stdout.lines().count() <= 1, "--print built something");
    scratch.digest(&context, &[]);
    std::fs::write(context.join("c"), "2").unwrap();
    assert_eq!(verdicts(&print("plan")), ["hit COPY a /a", "hit COPY --from=one /a /b", "miss COPY c /c"]);
    let plan = json(&print("plan"));
    let hit = plan.as_array().unwrap().iter().find(|step| step["verdict"] == "hit").expect("a hit");
    assert!(hit["duration_ms"].is_u64() && hit["reason"].is_null(), "{hit}");
    let svg = print("svg");
    let count = |part: &str| svg.matches(part).count();
    assert_eq!(
        (count("class=\"hit\""), count("class=\"miss target\""), count("class=\"source\"")),
        (2, 1, 2)
    );
    assert!(svg.starts_with("<svg ") && svg.contains("hit · ") && svg.ends_with("</svg>\n"), "{svg}");
    assert_eq!(svg, print("svg"), "the same each time");
    let dot = print("dot");
    assert!(dot.starts_with("digraph ") && dot.contains("\\nmiss"), "{dot}");
}

#[test]
fn graphs_and_instructions_are_json() {
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", DOCKERFILE), ("a", "1"), ("c", "1")]);
    let print = |what: &str| json(&scratch.build(&context, &["--print", what]).ok().stdout);
    let graph = print("graph");
    let kinds = graph["steps"].as_array().unwrap().iter().map(|step| step["kind"].as_str().unwrap());
    assert_eq!(kinds.filter(|kind| *kind == "layer").count(), 3, "{graph:#}");
    let instructions = print("instructions");
    assert_eq!(instructions["instructions"][3]["flags"]["from"], "one");
    assert_eq!(instructions["instructions"][3]["arguments"]["destination"], "/b");
    assert_eq!(instructions["instructions"][3]["stage"], 1);
}

#[test]
fn mistakes_fail_after_the_instructions_that_could_be_read() {
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", "FROM scratch\nCOPPY a /\nUSER x\n")]);
    let run = scratch.build(&context, &["--print", "instructions"]).fails(3, &["COPPY"]);
    let printed = json(&run.stdout);
    assert_eq!(printed["findings"][0]["line"], 2);
    assert_eq!(printed["instructions"][1]["keyword"], "USER");
}
