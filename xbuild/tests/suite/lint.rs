//! `xbuild lint` and `build --check`: what is printed where, and the exit code.

use crate::harness::Scratch;

const WARNED: &str = "FROM scratch\nCOPY x /\nCMD x\n";

fn rules(json: &str) -> Vec<String> {
    let value: serde_json::Value = serde_json::from_str(json).expect("JSON on standard output");
    let rule = |found: &serde_json::Value| found["rule"].as_str().unwrap_or_default().to_owned();
    value.as_array().expect("an array").iter().map(rule).collect()
}

#[test]
fn findings_alone_are_no_failure_unless_the_file_says_so() {
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", WARNED)]);
    let context = context.to_str().unwrap();
    let run = scratch.xbuild(&["build", "--check", context]).ok();
    assert!(
        run.stdout.contains("warning[JSONArgsRecommended]") && run.stdout.contains("1 finding"),
        "{}",
        run.stdout
    );
    let run = scratch.xbuild(&["build", "--check", "--format=json", context]).ok();
    assert_eq!(rules(&run.stdout), ["JSONArgsRecommended"]);
    let strict = ["build", "--check", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=error=true", context];
    scratch.xbuild(&strict).fails(3, &["lint violation found for rules: JSONArgsRecommended"]);
    scratch
        .xbuild(&["build", "--check", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=x", context])
        .fails(2, &["CHECK"]);
}

#[test]
fn mistakes_fail_and_do_not_hide_warnings() {
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", "FROM scratch AS Bad\nMAINTAINER x\nBADCMD\n")]);
    let context = context.to_str().unwrap();
    let run = scratch.xbuild(&["lint", context]).fails(3, &["unknown instruction: BADCMD"]);
    assert!(run.stdout.ends_with("Dockerfile: 1 mistake, 2 findings of 2 rules\n"), "{}", run.stdout);
    let run = scratch.xbuild(&["lint", "--format=json", context]).fails(3, &["unknown instruction: BADCMD"]);
    assert_eq!(rules(&run.stdout), ["StageNameCasing", "MaintainerDeprecated"]);
    let run = scratch.xbuild(&["lint", "--format=github", context]);
    assert!(run.stdout.contains("::error file=") && run.stdout.contains(",line=3,"), "{}", run.stdout);
}

#[test]
fn own_rules_are_on_in_lint_and_where_a_file_asks() {
    let scratch = Scratch::new();
    let plain = "FROM scratch\nRUN a | b\n";
    let context = scratch.context("c", &[("Dockerfile", plain)]);
    let context = context.to_str().unwrap();
    let found = |arguments: &[&str]| {
        rules(&scratch.xbuild(&[arguments, &["--format=json", context]].concat()).ok().stdout)
    };
    assert_eq!(found(&["lint"]), ["xbuild/PipeWithoutPipefail"]);
    assert_eq!(found(&["lint", "--lint-rules=buildkit"]), [""; 0]);
    assert_eq!(found(&["build", "--check"]), [""; 0]);
    assert_eq!(found(&["build", "--check", "--lint-rules=all"]), ["xbuild/PipeWithoutPipefail"]);
    scratch.context("c", &[("Dockerfile", &format!("# check=experimental=xbuild\n{plain}"))]);
    assert_eq!(found(&["build", "--check"]), ["xbuild/PipeWithoutPipefail"]);
}

#[test]
fn a_build_tells_of_each_finding_once_and_stops_before_the_first_step() {
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", WARNED), ("x", "")]);
    let run = scratch.build(&context, &[]).ok();
    assert_eq!(run.stderr.matches("JSONArgsRecommended").count(), 1, "{}", run.stderr);
    let own = "# check=error=true;experimental=xbuild\nFROM scratch\nCOPY x /\nARG GIT_SHA\nRUN a\n";
    for (text, rule) in
        [(format!("# check=error=true\n{WARNED}"), "JSONArgs"), (own.to_owned(), "xbuild/VolatileArg")]
    {
        let scratch = Scratch::new();
        let context = scratch.context("c", &[("Dockerfile", &text), ("x", "")]);
        let run = scratch.build(&context, &[]).fails(3, &["lint violation found", rule]);
        assert!(!run.stderr.contains("COPY x"), "a step ran:\n{}", run.stderr);
    }
}

#[test]
fn a_base_that_cannot_be_had_does_not_stop_a_check() {
    let scratch = Scratch::new();
    // Nobody listens there.
    let base = format!("127.0.0.1:{}/a:1", crate::harness::free_port());
    let context = scratch.context("c", &[("Dockerfile", &format!("FROM {base}\nENV A=$B\nCMD x\n"))]);
    let run = scratch.xbuild(&["lint", "--format=json", context.to_str().unwrap()]).ok();
    assert_eq!(rules(&run.stdout), ["JSONArgsRecommended"]);
    assert!(run.stderr.contains("left out"), "{}", run.stderr);
}
