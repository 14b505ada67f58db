//! Tests of lowering, from text to definition.

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
            known.git.insert(need, KnownGit { commit: "c0ffee".repeat(7), committed: None });
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
    definition.history.iter().filter_map(|entry| entry.history.created_by.clone()).collect()
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
    assert_eq!(definition.target, Some(StepId(6)));
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
    let config = &definition.config.config;
    assert_eq!(config.env, ["PATH=/bin", "A=base", "FLASK_APP=app.py"]);
    assert_eq!(config.working_dir, "/app");
    assert_eq!(config.cmd.as_deref().unwrap(), ["flask", "run"]);
    let step = definition.graph.step(StepId(4));
    assert_eq!((step.label.position, step.label.lines), ((4, 5), (4, 4)));
}

#[test]
fn only_needed_stages_are_lowered_and_the_others_listed() {
    let text = "FROM a AS one\nRUN 1\nFROM b AS two\nRUN 2\nFROM one AS three\nCOPY --from=two /x /y\nFROM c\nRUN 4\n";
    let mut options = options();
    options.target = Some("Three".to_owned());
    let (definition, _) = answered(text, &options, &base(|_| {})).unwrap();
    assert_eq!(
        steps(&definition),
        [
            "0 image docker.io/library/a:latest",
            "1 run /bin/sh -c 1 on 0",
            "2 image docker.io/library/b:latest",
            "3 run /bin/sh -c 2 on 2",
            "4 copy /y on 1 from 3",
        ]
    );
    assert_eq!(definition.skipped, ["3"]);
    assert_eq!(history(&definition), ["RUN /bin/sh -c 1 # buildkit", "COPY /x /y # buildkit"]);
    options.all_stages = true;
    let (definition, _) = answered(text, &options, &base(|_| {})).unwrap();
    assert_eq!((definition.target, definition.also), (Some(StepId(4)), vec![StepId(6)]));
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
        definition.config.config.env[0],
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
    assert_eq!(done("FROM a\nENTRYPOINT [\"x\"]\n").config.config.cmd, None);
    assert!(done("FROM a\nCMD [\"y\"]\nENTRYPOINT [\"x\"]\n").config.config.cmd.is_some());
    let definition = done("FROM a\nSHELL [\"bash\", \"-c\"]\nCMD x y\n");
    assert_eq!(definition.config.config.cmd.unwrap(), ["bash", "-c", "x y"]);
}

#[test]
fn triggers_of_base_images_and_stages_fire_and_go() {
    let image = base(|config| {
        config.config.on_build = Some(vec!["COPY --from=helper /x /y".into(), "RUN b".into()]);
    });
    let text = "FROM scratch AS helper\nFROM b\nONBUILD RUN later\n";
    let (definition, _) = answered(text, &options(), &image).unwrap();
    assert!(steps(&definition).iter().any(|step| step.contains("copy /y")), "{:?}", steps(&definition));
    assert_eq!(definition.config.config.on_build.as_deref().unwrap(), ["RUN later"]);
    let definition = done("FROM a AS base\nONBUILD RUN $x\nONBUILD ENV B=1\nFROM base\nRUN after\n");
    assert_eq!(definition.config.config.on_build, None);
    assert_eq!(history(&definition)[0], "RUN /bin/sh -c $x # buildkit");
    assert_eq!(definition.graph.step(StepId(1)).label.text, "ONBUILD RUN $x");
}

#[test]
fn df_07_triggers_that_are_too_many_or_forbidden_are_refused() {
    let check = |triggers: Vec<String>, fragment: &str| {
        let image = base(|config| config.config.on_build = Some(triggers));
        let errors = answered("FROM a\n", &options(), &image).unwrap_err();
        assert!(errors[0].message.contains(fragment), "{errors:?}");
        errors
    };
    check(vec!["RUN x".to_owned(); 1001], "more than 1000");
    check(vec!["FROM x".to_owned()], "FROM isn't allowed as an ONBUILD trigger");
    check(vec!["ONBUILD RUN x".to_owned()], "ONBUILD");
    let errors =
        check(vec!["RUN --security=insecure x".to_owned()], "entitlement security.insecure is not allowed");
    assert_eq!(errors[0].rule, Some(REFUSED));
}

#[test]
fn df_06_circles_and_late_stages_are_named() {
    refused(
        "FROM a AS stage0\nCOPY --from=stage0 f1 /sub/\n",
        "circular dependency detected on stage: stage0",
    );
    let text = "FROM b AS stage0\nCOPY --from=stage2 f1 /\nFROM b AS stage1\nCOPY --from=stage0 f2 /\n\
                FROM b AS stage2\nCOPY --from=stage1 f2 /\n";
    refused(text, "circular dependency detected on stage: stage0");
    refused(
        "FROM a AS one\nRUN --mount=from=two,target=/x y\nFROM a AS two\nFROM one\n",
        "needs to be defined before",
    );
    refused("FROM a\nCOPY --from=7 a b\n", "invalid stage index 7");
    let mut options = options();
    options.target = Some("biuld".to_owned());
    let errors = answered("FROM a AS build\n", &options, &base(|_| {})).unwrap_err();
    assert_eq!(errors[0].help.as_deref(), Some("did you mean build?"));
}

#[test]
fn df_06_ten_thousand_stages_are_planned_quickly() {
    let mut text = "FROM scratch AS s0\nRUN x\n".to_owned();
    for n in 1..10_000 {
        text.push_str(&format!("FROM s{} AS s{n}\nENV A{}=1\nRUN x\n", n - 1, n % 10));
    }
    let start = std::time::Instant::now();
    assert_eq!(done(&text).graph.len(), 10_000);
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[test]
fn df_10_what_needs_permission_is_refused_before_anything_runs() {
    for text in [
        "FROM a\nRUN --security=insecure x\n",
        "FROM a\nONBUILD RUN --security=insecure x\n",
        "FROM a\nRUN --security=insecure <<EOF\nx\nEOF\n",
        "FROM a AS unused\nRUN --security=insecure x\nFROM a\n",
    ] {
        refused(text, "entitlement security.insecure is not allowed");
    }
    refused("FROM a\nRUN --network=host x\n", "entitlement network.host is not allowed");
    let mut allowed = options();
    allowed.network = Network::Host;
    allowed.allow.insert(Entitlement::SecurityInsecure);
    let text = "FROM a\nRUN --network=host --security=insecure x\nRUN --network=none y\nRUN z\n";
    let (definition, _) = answered(text, &allowed, &base(|_| {})).unwrap();
    let networks = [0, 1, 2].map(|n| run(&definition, n).network);
    assert_eq!(networks, [Network::Host, Network::None, Network::Host]);
}

#[test]
fn sources_of_copy_and_add() {
    let text = "FROM a\nADD http://h/dir/f%20x.tgz local.tgz /d/\nADD https://h/r.git#v1:sub /g\n\
                COPY --from=busybox /bin/busybox /b\nCOPY --chown=1:2 --chmod=644 --link x /y\n";
    let definition = done(text);
    assert_eq!(
        steps(&definition),
        [
            "0 image docker.io/library/a:latest",
            "1 local ",
            "2 http f x.tgz",
            "3 copy /d on 0 from 2,1",
            "4 copy /d on 3 from 2,1",
            "5 git https://h/r.git",
            "6 copy /g on 4 from 5",
            "7 image docker.io/library/busybox:latest",
            "8 copy /b on 6 from 7",
            "9 local ",
            "10 copy /y on 8 from 9",
        ]
    );
    assert!(
        !definition.graph.step(StepId(10)).depends_on_parent()
            || history(&definition)[4].contains("--chmod=644")
    );
    assert_eq!(history(&definition)[4], "COPY --chown=1:2 --chmod=644 x /y # buildkit");
    let Op::Copy(copy) = &definition.graph.step(StepId(8)).op else { panic!("a copy") };
    assert_eq!(copy.chown, None);
    refused("FROM a\nCOPY http://h/x /\n", "source can't be a URL for COPY");
    refused("FROM a\nCOPY https://h/x.git /\n", "source can't be a git ref for COPY");
    refused("FROM a\nCOPY --chmod=64a x /\n", "invalid chmod parameter: '64a'");
    refused("FROM a\nADD --checksum=sha256:00 x /\n", "checksum requires HTTP(S) or Git sources");
    refused("FROM a\nCOPY [\"[a-\", \"/\"]\n", "invalid source");
}

#[test]
fn a_missing_source_is_named_with_what_hides_it() {
    let file = crate::parse(b"FROM scratch\nCOPY a b.txt /x/\n");
    let mut known = Known::default();
    let Ok(Lowered::Needs(needs)) = lower(&file, &options(), &known) else { panic!("needs the files") };
    let error = SelectionError::NotFound {
        path: "b.txt".to_owned(),
        nearest: None,
        ignored_by: Some(IgnoredBy {
            file: ".dockerignore".to_owned(),
            line: 3,
            pattern: "*.txt".to_owned(),
        }),
    };
    for need in needs.into_keys() {
        let Need::Selection(need) = need else { panic!("needs files only") };
        assert_eq!(need.request.patterns, ["a", "b.txt"]);
        known.selections.insert(need, Err(error.clone()));
    }
    let errors = lower(&file, &options(), &known).unwrap_err();
    assert_eq!(file.slice(errors[0].span), "b.txt");
    assert_eq!(errors[0].rule, Some(MISSING_SOURCE));
    let expected = "\"b.txt\" not found in the build context: excluded by .dockerignore line 3: \"*.txt\"";
    assert_eq!(errors[0].message, expected);
}

#[test]
fn named_contexts_come_before_stages_and_images() {
    let mut options = options();
    options.contexts.insert("alpine".to_owned(), Context::Image("mirror/alpine:3".parse().unwrap()));
    options.contexts.insert("stage".to_owned(), Context::Files);
    options.contexts.insert("data".to_owned(), Context::Files);
    let text =
        "FROM other AS stage\nRUN never\nFROM alpine\nCOPY --from=stage /a /b\nCOPY --from=data x /c\n";
    let (definition, _) = answered(text, &options, &base(|_| {})).unwrap();
    assert_eq!(
        steps(&definition),
        [
            "0 local stage",
            "1 copy / from 0",
            "2 image docker.io/mirror/alpine:3",
            "3 copy /b on 2 from 1",
            "4 local data",
            "5 copy /c on 3 from 4",
        ]
    );
}

#[test]
fn mounts_have_defaults() {
    let text = "FROM a\nWORKDIR /w\nARG D=/cc\nRUN --mount=target=/src --mount=type=cache,target=$D \
                --mount=type=secret,id=s --mount=type=ssh --mount=type=tmpfs,target=t,size=1k x\n";
    let definition = done(text);
    let printed = format!("{:?}", run(&definition, 0).mounts);
    for part in [
        "source: \"/\", target: \"/src\", writable: false",
        "id: \"//cc\", target: \"/cc\"",
        "target: Some(\"/run/secrets/s\")",
        "mode: 256",
        "/run/buildkit/ssh_agent.0",
        "target: \"/w/t\", size: Some(1024)",
    ] {
        assert!(printed.contains(part), "{part} in {printed}");
    }
    refused("FROM a\nRUN --mount=target=/ x\n", "invalid mount target \"/\"");
}

#[test]
fn source_date_epoch_reaches_steps_and_their_environment() {
    let mut options = options();
    options.source_date_epoch = Some(1_700_000_000);
    let (definition, _) = answered("FROM a\nRUN x\n", &options, &base(|_| {})).unwrap();
    assert_eq!(definition.graph.step(StepId(1)).source_date_epoch, Some(1_700_000_000));
    assert!(run(&definition, 0).env.contains(&("SOURCE_DATE_EPOCH".to_owned(), "1700000000".to_owned())));
    options.build_args.push(("SOURCE_DATE_EPOCH".to_owned(), "nonsense".to_owned()));
    assert!(answered("FROM a\n", &options, &base(|_| {})).is_err());
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
    assert_eq!((definition.target, definition.graph.len()), (None, 0));
    let definition = done("FROM scratch\nWORKDIR /\n");
    assert_eq!((definition.target, history(&definition)), (None, vec!["WORKDIR /".to_owned()]));
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
    assert_eq!(definition.history.len(), 100_000);
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

/// Returns the digests of all steps, which is all that a cache key rests on.
fn key(text: &str, options: &Options) -> Vec<crate::graph::OpDigest> {
    let (definition, _) = answered(text, options, &base(|_| {})).expect("valid");
    definition.graph.iter().map(|(id, _)| definition.graph.op_digest(id)).collect()
}

#[test]
fn cache_02_relevant_changes_give_new_keys_and_others_do_not() {
    const TEXT: &str = "FROM a\nARG P=1\nENV E=1\nUSER u\nWORKDIR /w\nRUN --mount=type=cache,target=/c x\n\
                        COPY --chmod=644 <<EOF /f\nbody\nEOF\nHEALTHCHECK CMD y\nLABEL l=1\nCMD z\n";
    let original = key(TEXT, &options());
    let relevant = [
        ("FROM a", "FROM b"),
        ("P=1", "P=2"),
        ("E=1", "E=2"),
        ("USER u", "USER v"),
        ("/w", "/v"),
        ("target=/c x", "target=/d x"),
        ("type=cache,", "type=cache,sharing=locked,"),
        ("RUN --mount", "RUN --network=none --mount"),
        ("body", "bodY"),
        ("644", "600"),
        ("USER u", "USER u\nSHELL [\"bash\", \"-c\"]"),
    ];
    for (from, to) in relevant {
        let changed = TEXT.replacen(from, to, 1);
        assert_ne!(changed, TEXT, "{from}");
        assert_ne!(original, key(&changed, &options()), "{from} -> {to}");
    }
    let irrelevant = [
        ("CMD y", "CMD n"),
        ("l=1", "l=2"),
        ("CMD z", "CMD q"),
        ("FROM a\n", "# comment\nFROM a\n"),
        ("FROM a", "FROM a AS named"),
        ("CMD z\n", "CMD z\nEXPOSE 80\nSTOPSIGNAL 9\nONBUILD RUN z\nENV LATE=1\nUSER other\nVOLUME /v\n"),
        ("FROM a\n", "FROM a\nEXPOSE 80\nSTOPSIGNAL 9\nLABEL z=z\nMAINTAINER me\n"),
        ("COPY --chmod", "COPY  --chmod"),
    ];
    for (from, to) in irrelevant {
        let changed = TEXT.replacen(from, to, 1);
        assert_ne!(changed, TEXT, "{from}");
        assert_eq!(original, key(&changed, &options()), "{from} -> {to}");
    }
}

#[test]
fn cache_02_options_are_in_the_key_where_they_should() {
    const TEXT: &str = "FROM a\nARG USED\nRUN x\n";
    let original = key(TEXT, &options());
    let with = |change: fn(&mut Options)| {
        let mut options = options();
        change(&mut options);
        key(TEXT, &options)
    };
    let arg = |options: &mut Options, name: &str| options.build_args.push((name.to_owned(), "v".to_owned()));
    assert_ne!(original, with(|options| options.network = Network::None));
    assert_ne!(original, with(|options| options.source_date_epoch = Some(1)));
    assert_ne!(original, with(|options| options.shm_size = Some(1)));
    assert_ne!(original, with(|options| options.platform = Some("linux/arm64".parse().unwrap())));
    assert_eq!(original, with(|options| options.labels.push(("l".to_owned(), "v".to_owned()))));
    assert_eq!(original, with(|options| options.no_cache = NoCache::All));
    for (name, same) in [("USED", false), ("UNUSED", true), ("HTTP_PROXY", true)] {
        let mut options = options();
        arg(&mut options, name);
        assert_eq!(original == key(TEXT, &options), same, "{name}");
    }
}

#[test]
fn definitions_print_as_json_and_as_a_drawing() {
    use crate::graph::print;
    let definition =
        done("FROM a AS \"x\"\nRUN echo \"hi\"\nFROM a\nCOPY --from=0 /b /c\n".replace('"', "").as_str());
    let json = print::json(&definition);
    assert_eq!(json["steps"][1]["op"]["run"][2], "echo hi");
    assert_eq!(json["steps"][2]["inputs"][0], 1);
    let dot =
        print::dot(&definition, |id| print::Note { text: format!("#{}", id.0), mark: print::Mark::Hit });
    for part in [
        "digraph build {",
        "label=\"x\"",
        "s0 -> s1;",
        "s1 -> s2 [style=dashed];",
        "RUN echo hi\\n#1",
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
    assert_eq!(file.slice(errors[0].span), "error=true");
}

#[test]
fn the_pivot_of_parents_stays_in_the_path() {
    let check = |source: &str, expected: &str| {
        let definition = done(&format!("FROM scratch\nCOPY --parents {source} /d/\n"));
        let Op::Copy(copy) = &definition.graph.step(StepId(1)).op else { panic!("a copy") };
        let crate::graph::CopySource::Input { path, .. } = &copy.sources[0] else { panic!("an input") };
        assert_eq!(path, expected, "{source}");
    };
    check("./a/../b/./c/*.txt", "b/./c/*.txt");
    check("x/./", "x/./**");
    check("/./x", "x");
    check("../x/y", "x/y");
}
