//! What stands in the picture: boxes, words, lines, and nothing that a Dockerfile smuggles in.

use std::collections::BTreeMap;
use std::time::Duration;

use oci::{Digest, ImageConfig, Platform};

use super::*;
use crate::graph::{ImageDefinition, ImageOp, Label, MkdirOp, StepGraph};

fn platform() -> Platform {
    Platform {
        os: "linux".to_owned(),
        architecture: "amd64".to_owned(),
        variant: String::new(),
        os_version: String::new(),
    }
}

/// Steps as `(stage, text, parent, inputs)`; those without parent name an image.
fn definition(steps: &[(&str, &str, Option<u32>, &[u32])]) -> Definition {
    let mut graph = StepGraph::default();
    for (stage, text, parent, inputs) in steps {
        let digest = Digest::of(text.as_bytes());
        let op = match parent {
            None => {
                Op::Image(ImageOp { reference: (*text).to_owned(), manifest: digest, platform: platform() })
            }
            Some(_) => Op::Mkdir(MkdirOp { path: (*text).to_owned(), user: String::new() }),
        };
        graph.push(Step {
            op,
            parent: parent.map(StepId),
            inputs: inputs.iter().copied().map(StepId).collect(),
            platform: platform(),
            source_date_epoch: None,
            no_cache: false,
            label: Label {
                stage: (*stage).to_owned(),
                position: (1, 2),
                text: (*text).to_owned(),
                lines: (3, 4),
            },
        });
    }
    let image = ImageDefinition {
        target: graph.iter().last().map(|(id, _)| id),
        also: Vec::new(),
        config: ImageConfig::default(),
        history: Vec::new(),
        platform: platform(),
        source_date_epoch: None,
        stage: "final".to_owned(),
        skipped: Vec::new(),
    };
    Definition { graph, image }
}

const TWO_STAGES: &[(&str, &str, Option<u32>, &[u32])] = &[
    ("build", "FROM a", None, &[]),
    ("build", "RUN make", Some(0), &[]),
    ("final", "FROM b", None, &[]),
    ("final", "COPY --from=build /x /", Some(2), &[1]),
];

/// An element and its attributes.
type Element = (String, BTreeMap<String, String>);

/// Elements in order with their attributes, and all text; panics where the document is no XML.
fn read(svg: &str) -> (Vec<Element>, String) {
    let (mut open, mut elements, mut text) = (Vec::new(), Vec::new(), String::new());
    let mut rest = svg;
    while let Some((before, after)) = rest.split_once('<') {
        assert!(!open.is_empty() || before.trim().is_empty(), "text outside the root: {before:?}");
        text.push_str(&unescaped(before));
        let (tag, after) = after.split_once('>').expect("a tag ends");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "in {svg}");
            continue;
        }
        let (tag, closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        assert!(name.bytes().all(|byte| byte.is_ascii_alphabetic()), "{name:?} is no name");
        let mut read = BTreeMap::new();
        while let Some((key, after)) = attributes.split_once("=\"") {
            let (value, after) = after.split_once('"').expect("a value ends");
            let earlier = read.insert(key.trim().to_owned(), unescaped(value));
            assert_eq!(earlier, None, "{key} twice");
            attributes = after;
        }
        assert_eq!(attributes.trim(), "", "in {tag}");
        elements.push((name.to_owned(), read));
        if !closed {
            open.push(name.to_owned());
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest:?}");
    (elements, text)
}

fn unescaped(text: &str) -> String {
    let legal = |char: char| char == '\n' || !char.is_control() && !matches!(char, '\u{fffe}' | '\u{ffff}');
    assert!(text.chars().all(|char| legal(char) && char != '<'), "{text:?}");
    let mut out = text.to_owned();
    for (entity, char) in [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'")] {
        out = out.replace(entity, char);
    }
    assert_eq!(out.matches('&').count(), text.matches("&amp;").count(), "a lone & in {text:?}");
    out.replace("&amp;", "&")
}

fn count(elements: &[Element], key: &str, value: &str) -> usize {
    elements.iter().filter(|(_, attributes)| attributes.get(key).is_some_and(|found| found == value)).count()
}

fn noted(id: StepId) -> Note {
    match id.0 {
        0 | 2 => Note { mark: Mark::Source, ..Note::default() },
        1 => Note { mark: Mark::Hit, duration: Some(Duration::from_millis(3_250)), reason: None },
        _ => Note {
            mark: Mark::Miss,
            duration: Some(Duration::from_millis(40)),
            reason: Some("the state of input 1 <changed>".to_owned()),
        },
    }
}

#[test]
fn each_step_is_a_box_with_its_words() {
    let (elements, text) = read(&svg(&definition(TWO_STAGES), noted));
    assert_eq!(count(&elements, "class", "box"), 4);
    assert_eq!(count(&elements, "class", "source"), 2);
    assert_eq!(count(&elements, "class", "hit"), 1);
    assert_eq!(count(&elements, "class", "miss target"), 1, "the target is marked");
    assert_eq!(count(&elements, "class", "line"), 2, "parents");
    assert_eq!(count(&elements, "class", "line input"), 1, "inputs");
    for part in [
        "stage final for linux/amd64",
        "4 steps · 1 hit · 1 miss · 2 sources · 3.2 s in recorded runs",
        "build 1/2",
        "RUN make",
        "hit · 3.2 s",
        "miss · last 40 ms",
        "the state of input 1 <changed>",
        "lines 3 to 4",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn a_graph_of_nothing_is_a_picture() {
    let (elements, text) = read(&svg(&definition(&[]), noted));
    assert_eq!(count(&elements, "class", "box"), 0);
    assert!(text.contains("0 steps"), "{text}");
}

#[test]
fn instructions_inject_nothing() {
    let evil = "RUN echo '</text></title><script>alert(1)</script>' \" & &lt; ]]> \u{1b}[31m\u{0}\u{202e}\u{ffff} --";
    let stage = "a\"><script>";
    let mut definition = definition(&[(stage, evil, None, &[]), (stage, evil, Some(0), &[0])]);
    definition.image.stage = "</title><script>".to_owned();
    let reason = || Note { mark: Mark::Miss, reason: Some(evil.to_owned()), duration: None };
    let svg = svg(&definition, |_| reason());
    let (elements, text) = read(&svg);
    let names = ["svg", "title", "style", "defs", "marker", "path", "rect", "text", "g"];
    assert!(elements.iter().all(|(name, _)| names.contains(&name.as_str())), "{elements:?}");
    assert!(text.contains("</text></title><script>alert(1)</script>' \" & &lt; ]]>  [31m"), "{text}");
    assert!(!svg.contains(['\u{202e}', '\u{1b}']));
    let dot = super::super::dot(&definition, |_| reason());
    assert!(!dot.contains(['\u{202e}', '\u{1b}']) && dot.contains("label=\"a\\\"><script>\""), "{dot}");
}

#[test]
fn text_fits_its_box() {
    let check = |text: &str, expect: &[&str]| assert_eq!(wrapped(text), expect, "{text}");
    check("RUN x", &["RUN x"]);
    check(&"a".repeat(42), &["a".repeat(42).as_str()]);
    check(&"a".repeat(43), &["a".repeat(42).as_str(), "a"]);
    check(&"a".repeat(99), &["a".repeat(42).as_str(), &("a".repeat(40) + "…")]);
    let words = "RUN apt-get update && apt-get install -y --no-install-recommends curl";
    check(words, &["RUN apt-get update && apt-get install -y", "--no-install-recommends curl"]);
    let exact = "RUN --mount=type=bind,source=/src/a/b/c/de --network=none x";
    check(exact, &["RUN --mount=type=bind,source=/src/a/b/c/de", "--network=none x"]);
    let mount = "RUN --mount=type=cache,target=/root/.npm,sharing=locked npm ci";
    check(mount, &["RUN --mount=type=cache,target=/root/.npm,", "sharing=locked npm ci"]);
    check(
        "FROM docker.io/library/python:3.7@sha256:d14537cb",
        &["FROM docker.io/library/python:3.7", "@sha256:d14537cb"],
    );
    check(&"字".repeat(22), &["字".repeat(21).as_str(), "字"]);
}

#[test]
fn a_thousand_steps_are_drawn_soon_and_the_same_each_time() {
    let mut steps: Vec<(String, Option<u32>, Vec<u32>)> = Vec::new();
    for n in 0..20_000_u32 {
        let parent = (n % 10 > 0).then(|| n - 1);
        let inputs = if n % 10 == 5 { vec![n / 3, 0] } else { Vec::new() };
        steps.push((format!("RUN step {n}"), parent, inputs));
    }
    let steps: Vec<_> =
        steps.iter().map(|(text, parent, inputs)| ("s", text.as_str(), *parent, inputs.as_slice())).collect();
    let thousand = definition(&steps[..1_000]);
    assert_eq!(svg(&thousand, noted), svg(&thousand, noted));
    assert!(svg(&thousand, noted).len() < 1_500_000);
    let many = definition(&steps);
    let start = std::time::Instant::now();
    assert_eq!(svg(&many, noted).matches("class=\"box\"").count(), 20_000);
    assert!(start.elapsed().as_secs() < 120, "{:?}", start.elapsed());
}
