//! Hostile Dockerfiles (reliability.md §2.F) as far as planning: variables, arguments, stages.

#[path = "../fuzz/targets/world.rs"]
mod world;

use frontend::graph::{Definition, Op};
use frontend::parse;

fn plan(text: &str) -> Result<Definition, Vec<String>> {
    let planned = world::definition(&parse(text.as_bytes()), &world::options());
    planned.map_err(|errors| errors.into_iter().map(|error| error.message).collect())
}

#[track_caller]
fn refused(text: &str, fragment: &str) {
    let errors = plan(text).expect_err("refused");
    assert!(errors.iter().any(|error| error.contains(fragment)), "{errors:?}");
}

/// The arguments and environment of the only RUN.
#[track_caller]
fn env(text: &str) -> Vec<(String, String)> {
    let plan = plan(text).expect("valid");
    let mut runs = plan.graph.iter().filter_map(|(_, step)| match &step.op {
        Op::Run(run) => Some(run.env.clone()),
        _ => None,
    });
    runs.next().expect("one RUN")
}

#[test]
fn df_04_values_that_double_end_in_an_error() {
    let mut chain = "FROM scratch\nENV A0=xxxxxxxx\n".to_owned();
    for n in 1..=40 {
        chain += &format!("ENV A{n}=$A{p}$A{p}\n", p = n - 1);
    }
    refused(&chain, "value exceeds 128 KiB");
    let nested = format!("{}x{}", "${a:-".repeat(10_000), "}".repeat(10_000));
    refused(&format!("FROM scratch\nENV A={nested}\n"), "nested more than 128 deep");
    refused(&format!("ARG b\nFROM {nested}\n"), "nested more than 128 deep");
    refused(&format!("FROM scratch\nCOPY {nested} /\n"), "nested more than 128 deep");
    let large = "x".repeat(60_000);
    refused(&format!("FROM scratch\nENV A={large}\nENV B=${{A//x/aaaa}}\n"), "value exceeds 128 KiB");
    assert!(plan("ARG x\nFROM ${x:-scratch}\nCOPY ${y:-a} ${z:-/b}\n").is_ok());
}

#[test]
fn df_05_arguments_that_name_themselves_or_each_other() {
    let of = |text: &str| {
        let mut env = env(text);
        env.retain(|(name, _)| name != "PATH");
        env.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
    };
    assert_eq!(of("FROM scratch\nARG A=$A\nRUN x\n"), ["A="]);
    assert_eq!(of("FROM scratch\nARG A=1$B\nARG B=2$A\nARG A=3$B\nRUN x\n"), ["A=321", "B=21"]);
    assert_eq!(of("ARG G=g\nFROM scratch\nARG B=$G\nRUN x\n"), ["B="]);
    assert_eq!(of("ARG G=g\nFROM scratch\nARG G\nARG B=$G\nRUN x\n"), ["G=g", "B=g"]);
    refused("ARG A=${A:?self}\nFROM scratch\n", "self");
}

#[test]
fn df_05_a_hundred_thousand_arguments() {
    let mut text = "ARG a0=x\n".to_owned();
    (1..50_000).for_each(|n| text += &format!("ARG a{n}=$a{}\n", n - 1));
    text += "FROM scratch\nARG b0=y\n";
    (1..50_000).for_each(|n| text += &format!("ARG b{n}=$b{}\n", n - 1));
    text += "ARG a49999\nRUN x\n";
    let env = env(&text);
    let value = |wanted: &str| env.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    assert_eq!((value("b49999"), value("a49999"), value("a1")), (Some("y"), Some("x"), None));
}

#[test]
fn df_06_stages_of_one_name() {
    // The last one of those before wins, as in BuildKit.
    let plan = plan("FROM scratch AS a\nRUN 1\nFROM scratch AS A\nRUN 2\nFROM a\nRUN 3\n").expect("valid");
    let runs = plan.graph.iter().filter_map(|(_, step)| match &step.op {
        Op::Run(run) => run.args.last().cloned(),
        _ => None,
    });
    assert_eq!(runs.collect::<Vec<_>>(), ["2", "3"]);
    refused("FROM a AS a\nFROM b AS b\nCOPY --from=b x y\n", "circular dependency");
    for (text, fragment) in [
        ("FROM scratch\nCOPY --from=0 x y\n", "stage"),
        ("FROM scratch AS a\nCOPY --from=1 x y\nFROM a\n", "stage"),
    ] {
        refused(text, fragment);
    }
}

#[test]
fn df_09_the_frontend_of_an_argument_is_never_executed() {
    let file = parse(b"FROM scratch\nLABEL a=b\n");
    let mut options = world::options();
    options.build_args = vec![("BUILDKIT_SYNTAX".to_owned(), "evil/fe".to_owned())];
    let errors = world::definition(&file, &options).expect_err("refused");
    assert_eq!(errors[0].rule, Some(frontend::lower::REFUSED), "{errors:?}");
    options.build_args[0].1 = "docker/dockerfile:1-labs".to_owned();
    assert!(world::definition(&file, &options).is_ok());
}
