//! Stages, triggers and permissions.

use super::*;

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
    assert_eq!(definition.image.skipped, ["3"]);
    assert_eq!(history(&definition), ["RUN /bin/sh -c 1 # buildkit", "COPY /x /y # buildkit"]);
    options.all_stages = true;
    let (definition, _) = answered(text, &options, &base(|_| {})).unwrap();
    assert_eq!((definition.image.target, definition.image.also), (Some(StepId(4)), vec![StepId(6)]));
}

#[test]
fn triggers_of_base_images_and_stages_fire_and_go() {
    let image = base(|config| {
        config.config.on_build = Some(vec!["COPY --from=helper /x /y".into(), "RUN b".into()]);
    });
    let text = "FROM scratch AS helper\nFROM b\nONBUILD RUN later\n";
    let (definition, _) = answered(text, &options(), &image).unwrap();
    assert!(steps(&definition).iter().any(|step| step.contains("copy /y")), "{:?}", steps(&definition));
    assert_eq!(definition.image.config.config.on_build.as_deref().unwrap(), ["RUN later"]);
    let definition = done("FROM a AS base\nONBUILD RUN $x\nONBUILD ENV B=1\nFROM base\nRUN after\n");
    assert_eq!(definition.image.config.config.on_build, None);
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
    assert!(start.elapsed().as_secs() < 120, "{:?}", start.elapsed());
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
