//! Tests of lowering, from text to definition.

mod keys;
mod sources;
mod stages;

use std::sync::Arc;

use oci::{DiffId, Digest, ImageConfig, Platform};

use super::*;
use crate::graph::{Network, Op, Selection};

fn platform() -> Platform {
    Platform {
        os: "linux".to_owned(),
        architecture: "amd64".to_owned(),
        variant: String::new(),
        os_version: String::new(),
    }
}

fn options() -> Options {
    Options { build_platform: platform(), ..Options::default() }
}

/// Returns a base image's config as JSON, with changes.
fn base(change: impl FnOnce(&mut ImageConfig)) -> Arc<[u8]> {
    let mut config =
        ImageConfig { os: "linux".into(), architecture: "amd64".into(), ..ImageConfig::default() };
    config.rootfs.diff_ids.push(DiffId(Digest::of(b"layer")));
    config.config.env = vec!["PATH=/bin".into(), "A=base".into()];
    config.config.cmd = Some(vec!["sh".into()]);
    change(&mut config);
    serde_json::to_vec(&config).unwrap().into()
}

/// Answers needs until lowering is done; every image is `image`, every selection is empty.
fn answered(
    text: &str,
    options: &Options,
    image: &Arc<[u8]>,
) -> Result<(Definition, Vec<Diagnostic>), Vec<Diagnostic>> {
    let file = crate::parse(text.as_bytes());
    let mut known = Known::default();
    for _ in 0..8 {
        match lower(&file, options, &known)? {
            Lowered::Done { definition, warnings } => return Ok((*definition, warnings)),
            Lowered::Needs(needs) => needs.into_keys().for_each(|need| answer(&mut known, need, image)),
        }
    }
    panic!("lowering never ends: {text}");
}

fn answer(known: &mut Known, need: Need, image: &Arc<[u8]>) {
    match need {
        Need::Image(need) => {
            let name = need.reference.to_string();
            let manifest = Digest::of(name.as_bytes());
            known.images.insert(need, KnownImage { name, manifest, config: Arc::clone(image) });
        }
        Need::Layout(need) => {
            let manifest = Digest::of(need.context.as_bytes());
            let image = KnownImage { name: need.context.clone(), manifest, config: Arc::clone(image) };
            known.layouts.insert(need, image);
        }
        Need::Selection(need) => {
            known.selections.insert(need, Ok(Arc::new(Selection::new(Vec::new()))));
        }
        Need::Url(need) => {
            known.urls.insert(
                need,
                KnownUrl { digest: Digest::of(b"url"), last_modified: Some(7), newest_entry: None },
            );
        }
        Need::Git(need) => {
            let commit = "c0ffee".repeat(7);
            let (remote, object) = (need.remote.clone(), commit.clone());
            known.git.insert(need, KnownGit { remote, commit, object, committed: None });
        }
    }
}

fn done(text: &str) -> Definition {
    match answered(text, &options(), &base(|_| {})) {
        Ok((definition, _)) => definition,
        Err(errors) => panic!("{text}: {errors:?}"),
    }
}

fn errors(text: &str) -> Vec<String> {
    match answered(text, &options(), &base(|_| {})) {
        Ok(_) => panic!("accepted: {text}"),
        Err(errors) => errors.into_iter().map(|error| error.message).collect(),
    }
}

#[track_caller]
fn refused(text: &str, fragment: &str) {
    let errors = errors(text);
    assert!(errors.iter().any(|error| error.contains(fragment)), "{text}: {errors:?}");
}

/// Returns the history texts.
fn history(definition: &Definition) -> Vec<String> {
    definition.image.history.iter().filter_map(|entry| entry.history.created_by.clone()).collect()
}

/// Returns each step as one line.
fn steps(definition: &Definition) -> Vec<String> {
    definition
        .graph
        .iter()
        .map(|(id, step)| {
            let what = match &step.op {
                Op::Image(image) => format!("image {}", image.reference),
                Op::Local(local) => format!("local {}", local.context),
                Op::Git(git) => format!("git {}", git.remote),
                Op::Http(http) => format!("http {}", http.filename),
                Op::OciLayout(layout) => format!("layout {}", layout.path),
                Op::Run(run) => format!("run {}", run.args.join(" ")),
                Op::Copy(copy) => format!("copy {}", copy.dest),
                Op::Mkdir(mkdir) => format!("mkdir {}", mkdir.path),
            };
            let on = step.parent.map_or(String::new(), |parent| format!(" on {}", parent.0));
            let inputs: Vec<String> = step.inputs.iter().map(|input| input.0.to_string()).collect();
            let from = if inputs.is_empty() { String::new() } else { format!(" from {}", inputs.join(",")) };
            format!("{} {what}{on}{from}", id.0)
        })
        .collect()
}

fn run(definition: &Definition, n: usize) -> &crate::graph::RunOp {
    let runs = definition.graph.iter().filter_map(|(_, step)| match &step.op {
        Op::Run(run) => Some(run),
        _ => None,
    });
    runs.into_iter().nth(n).expect("there are that many RUNs")
}

#[test]
fn the_demo_is_a_chain_of_steps() {
    let text = "FROM python:3.7.12-slim\nWORKDIR /app\nCOPY requirements.txt .\nRUN pip install -r requirements.txt\n\
                COPY . .\nENV FLASK_APP=app.py\nEXPOSE 5000\nCMD [\"flask\", \"run\"]\n";
    let definition = done(text);
    assert_eq!(
        steps(&definition),
        [
            "0 image docker.io/library/python:3.7.12-slim",
            "1 mkdir /app on 0",
            "2 local ",
            "3 copy /app on 1 from 2",
            "4 run /bin/sh -c pip install -r requirements.txt on 3",
            "5 local ",
            "6 copy /app on 4 from 5",
        ]
    );
    assert_eq!(definition.image.target, Some(StepId(6)));
    assert_eq!(
        history(&definition),
        [
            "WORKDIR /app",
            "COPY requirements.txt . # buildkit",
            "RUN /bin/sh -c pip install -r requirements.txt # buildkit",
            "COPY . . # buildkit",
            "ENV FLASK_APP=app.py",
            "EXPOSE [5000/tcp]",
            "CMD [\"flask\" \"run\"]",
        ]
    );
    let config = &definition.image.config.config;
    assert_eq!(config.env, ["PATH=/bin", "A=base", "FLASK_APP=app.py"]);
    assert_eq!(config.working_dir, "/app");
    assert_eq!(config.cmd.as_deref().unwrap(), ["flask", "run"]);
    let step = definition.graph.step(StepId(4));
    assert_eq!((step.label.position, step.label.lines), ((4, 5), (4, 4)));
}

#[test]
fn env_and_arg_are_in_force_by_order_of_declaration() {
    let text = "ARG G=global\nFROM scratch AS one\nARG G\nARG X=arg\nENV X=env\nENV Y=env\nARG Y=arg\nRUN a\n\
                FROM one\nRUN b\nENV abc=hello\nENV abc=bye def=$abc\n";
    let definition = done(text);
    let env = |n: usize| {
        let mut pairs: Vec<String> =
            run(&definition, n).env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.remove(0);
        pairs
    };
    assert_eq!(env(0), ["G=global", "X=env", "Y=arg"]);
    assert_eq!(env(1), ["G=global", "X=env", "Y=env"]);
    let texts = history(&definition);
    assert!(texts.contains(&"RUN |3 G=global X=env Y=arg /bin/sh -c a # buildkit".to_owned()), "{texts:?}");
    assert_eq!(texts[0], "ARG G=global");
    assert!(texts.contains(&"ENV abc=bye def=hello".to_owned()), "{texts:?}");
    assert_eq!(
        definition.image.config.config.env[0],
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    );
}

#[test]
fn predefined_arguments_are_usable_without_arg_only_where_they_should() {
    let mut options = options();
    options.build_args = vec![("HTTP_PROXY".to_owned(), "http://p".to_owned())];
    let text = "FROM --platform=$BUILDPLATFORM a\nARG TARGETARCH\nRUN echo $TARGETARCH\n";
    let (definition, _) = answered(text, &options, &base(|_| {})).unwrap();
    let run = run(&definition, 0);
    assert!(run.env.contains(&("TARGETARCH".to_owned(), "amd64".to_owned())));
    assert_eq!(run.proxy_env.len(), 2);
    assert_eq!(history(&definition)[1], "RUN |1 TARGETARCH=amd64 /bin/sh -c echo $TARGETARCH # buildkit");
}

#[test]
fn entrypoint_clears_an_inherited_cmd_only() {
    assert_eq!(done("FROM a\nENTRYPOINT [\"x\"]\n").image.config.config.cmd, None);
    assert!(done("FROM a\nCMD [\"y\"]\nENTRYPOINT [\"x\"]\n").image.config.config.cmd.is_some());
    let definition = done("FROM a\nSHELL [\"bash\", \"-c\"]\nCMD x y\n");
    assert_eq!(definition.image.config.config.cmd.unwrap(), ["bash", "-c", "x y"]);
}

#[test]
fn all_mistakes_are_found_in_one_run() {
    let text = "FROM a\nSTOPSIGNAL nope\nEXPOSE x\nCOPY --chmod=9 a b\nENV A=${B:?missing}\nVOLUME \"\"\n";
    assert_eq!(errors(text).len(), 5, "{:?}", errors(text));
}

#[test]
fn empty_bases_make_no_step() {
    let empty = base(|config| config.rootfs.diff_ids.clear());
    let (definition, _) = answered("FROM a\nLABEL x=1\n", &options(), &empty).unwrap();
    assert_eq!((definition.image.target, definition.graph.len()), (None, 0));
    let definition = done("FROM scratch\nWORKDIR /\n");
    assert_eq!((definition.image.target, history(&definition)), (None, vec!["WORKDIR /".to_owned()]));
}

#[test]
fn a_hundred_thousand_instructions_take_linear_time() {
    let mut text = "FROM a\n".to_owned();
    for n in 0..50_000 {
        text.push_str(&format!("LABEL l{n}=x\nENV E{}=$A\n", n % 100));
    }
    let file = crate::parse(text.as_bytes());
    let mut known = Known::default();
    let Ok(Lowered::Needs(needs)) = lower(&file, &options(), &known) else { panic!("needs the base") };
    needs.into_keys().for_each(|need| answer(&mut known, need, &base(|_| {})));
    let start = std::time::Instant::now();
    let Ok(Lowered::Done { definition, .. }) = lower(&file, &options(), &known) else { panic!("done") };
    assert_eq!(definition.image.history.len(), 100_000);
    assert!(start.elapsed().as_secs() < 120, "{:?}", start.elapsed());
}

/// Returns the digests of all steps, which is all that a cache key rests on.
fn key(text: &str, options: &Options) -> Vec<crate::graph::OpDigest> {
    let (definition, _) = answered(text, options, &base(|_| {})).expect("valid");
    definition.graph.iter().map(|(id, _)| definition.graph.op_digest(id)).collect()
}

#[test]
fn definitions_print_as_json_and_as_a_drawing() {
    use crate::graph::print;
    let definition =
        done("FROM a AS \"x\"\nRUN echo \"hi\"\nFROM a\nCOPY --from=0 /b /c\n".replace('"', "").as_str());
    let json = print::json(&definition);
    assert_eq!(json["steps"][1]["op"]["run"][2], "echo hi");
    assert_eq!(json["steps"][2]["inputs"][0], 1);
    let note = |_| print::Note {
        mark: print::Mark::Miss,
        duration: Some(std::time::Duration::from_millis(1_250)),
        reason: Some("\"why\"".to_owned()),
    };
    let dot = print::dot(&definition, note);
    for part in [
        "digraph build {",
        "label=\"x\"",
        "s0 -> s1;",
        "s1 -> s2 [style=dashed];",
        "RUN echo hi\\nmiss · last 1.2 s",
        "tooltip=\"\\\"why\\\"\"",
        "penwidth=2",
    ] {
        assert!(dot.contains(part), "{part} in {dot}");
    }
}

#[test]
fn lint_rules_fire_and_can_be_switched_off() {
    let text = "FROM --platform=linux/amd64 a as B\nenv A 1\n# check=skip=WorkdirRelativePath\nWORKDIR x\n\
                COPY --from=other $UNDEFINED /\nMAINTAINER me\nCMD x\nCMD y\n";
    let rules = |text: &str| -> Vec<&str> {
        let file = crate::parse(text.as_bytes());
        let mut known = Known::default();
        loop {
            let checked = check(&file, &options(), &known);
            assert_eq!(checked.errors, []);
            if checked.needs.is_empty() {
                let mut rules: Vec<_> = checked.warnings.iter().filter_map(|warning| warning.rule).collect();
                rules.sort_unstable();
                rules.dedup();
                return rules;
            }
            checked.needs.into_keys().for_each(|need| answer(&mut known, need, &base(|_| {})));
        }
    };
    assert_eq!(
        rules(text),
        [
            "ConsistentInstructionCasing",
            "FromAsCasing",
            "FromPlatformFlagConstDisallowed",
            "JSONArgsRecommended",
            "LegacyKeyValueFormat",
            "MaintainerDeprecated",
            "MultipleInstructionsDisallowed",
            "StageNameCasing",
            "UndefinedVar",
        ]
    );
    assert_eq!(rules(&format!("# check=skip=all\n{text}")), [""; 0]);
    let violated = format!("# check=error=true\n{text}");
    let file = crate::parse(violated.as_bytes());
    let errors = answered(&violated, &options(), &base(|_| {})).unwrap_err();
    let last = errors.last().expect("a violation");
    assert_eq!(file.slice(last.span), "error=true");
}
