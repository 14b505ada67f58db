//! `build --push` at registries that refuse, are down or stumble: what is told, what is kept, how to go on.

use std::process::Command;

use crate::harness::{Following, Registry, Run, Scratch, finish, free_port};
use crate::proxy::{Exchange, Proxy, Rule};
use crate::push::{BIG, dockerfile, puts};
use crate::server::Gate;

/// The command between backticks of an error line, without the program.
fn repeat(run: &Run) -> Vec<Vec<String>> {
    let commands = run.stderr.split('`').nth(1).expect("there is a command in the error");
    let commands = commands.split(" && ").map(|command| {
        let mut words = command.split(' ').map(str::to_owned);
        assert_eq!(words.next().as_deref(), Some("xbuild"), "{command}");
        words.collect()
    });
    commands.collect()
}

/// Runs the commands of an error line.
pub fn run_as_told(run: &Run) -> Vec<Run> {
    let commands = repeat(run).into_iter();
    commands.map(|words| finish(Command::new(env!("CARGO_BIN_EXE_xbuild")).args(words))).collect()
}

#[test]
fn a_registry_that_denies_the_push_says_so_before_the_steps_have_run() {
    let Some(registry) = Registry::start() else { return };
    let denied = r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
    for status in [401, 403] {
        let proxy = Proxy::with(&registry.host, move |exchange, _| match exchange.method.as_str() {
            "POST" => Rule::Answer(status, denied.to_owned()),
            _ => Rule::Pass,
        });
        let scratch = Scratch::new().with_busybox();
        let context = dockerfile(&scratch, &["FROM busybox", "RUN sleep 300"]);
        let name = format!("{}/team/app:1", proxy.host);
        let run = scratch.build(&context, &["-t", &name, "--push"]);
        let what = format!("push {}/team/app", proxy.host);
        let expected = [&what, "requested access to the resource is denied", "xbuild login", "stay cached"];
        let run = run.fails(8, &expected);
        assert!(!run.stderr.contains("is kept in the store"), "{}", run.stderr);
        // What is cached needs no steps: the image is there, and the error says how to go on.
        let context = dockerfile(&scratch, &["FROM busybox", "LABEL a=b"]);
        let run = scratch.build(&context, &["-t", &name, "--push"]).fails(8, &["is kept in the store"]);
        scratch.xbuild(&["inspect", &name]).ok();
        assert_eq!(run_as_told(&run)[0].code, 8);
    }
}

#[test]
fn a_push_that_fails_for_good_keeps_the_image_and_says_how_to_repeat_it() {
    let Some(registry) = Registry::start() else { return };
    let quota = r#"{"errors":[{"code":"DENIED","message":"adding 3.0 MiB of storage resource, which when updated to current usage of 9.5 MiB will exceed the configured upper limit of 10.0 MiB."}]}"#;
    type Refuses = fn(&Exchange) -> bool;
    let manifests: Refuses = |exchange| exchange.method == "PUT" && exchange.is_manifest();
    let bodies: Refuses = |exchange| exchange.sent > 0;
    let opening: Refuses = |exchange| exchange.method == "POST";
    let cases = [
        (403, quota, manifests, ["will exceed the configured upper limit", "larger quota"]),
        (403, quota, opening, ["will exceed the configured upper limit", "larger quota"]),
        (413, "<html>", bodies, ["413", "limits request bodies"]),
        (412, "immutable", manifests, ["412", "immutable"]),
    ];
    for (status, body, refuses, fragments) in cases {
        let mended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let works = std::sync::Arc::clone(&mended);
        let proxy = Proxy::with(&registry.host, move |exchange, _| {
            match refuses(exchange) && !works.load(std::sync::atomic::Ordering::Relaxed) {
                true => Rule::Answer(status, body.to_owned()),
                false => Rule::Pass,
            }
        });
        let scratch = Scratch::new().with_busybox();
        let context = dockerfile(&scratch, &["FROM busybox", "RUN echo x > /x", "RUN echo y > /y"]);
        let [one, two] = ["1", "2"].map(|tag| format!("{}/team/app:{tag}", proxy.host));
        let arguments = ["-t", &one, "-t", &two, "--push", "--insecure-registry", "none.example"];
        let run =
            scratch.build(&context, &arguments).fails(8, &fragments).fails(8, &["is kept in the store"]);
        let digest = run.stderr.lines().find_map(|line| line.strip_prefix("# image ")).unwrap().to_owned();
        assert_eq!(scratch.digest(&context, &[]), digest);
        assert!(
            repeat(&run)
                .iter()
                .all(|words| words.ends_with(&["--insecure-registry".into(), "none.example".into()]))
        );
        // The commands work as they are, once the registry does.
        mended.store(true, std::sync::atomic::Ordering::Relaxed);
        let again = run_as_told(&run);
        assert_eq!(again.len(), 2, "one for each name: {}", run.stderr);
        for again in again {
            assert!(again.ok().stdout.contains(&digest));
        }
        assert_eq!(puts(&proxy.log(), Exchange::is_manifest).len(), 2);
    }
}

#[test]
fn a_registry_that_is_down_is_a_warning_while_steps_run_and_an_error_at_the_end() {
    let scratch = Scratch::new().with_busybox();
    let port = free_port();
    let name = format!("127.0.0.1:{port}/app:1");
    // The step ends when the warning was read.
    let gate = Gate::closed();
    let wait = format!("RUN {}", gate.wait());
    let context = dockerfile(&scratch, &["FROM busybox", &wait, "RUN echo x > /x"]);
    let context = context.to_str().unwrap();
    let arguments = ["build", "--network", "host", "--progress", "plain", "-t", &name, "--push", context];
    let mut build = Following::start(&mut scratch.command(&arguments));
    build.wait_for("# warning: push");
    gate.open();
    let run =
        build.end().fails(8, &["connection refused", "is the registry running?", "is kept in the store"]);
    assert!(run.stderr.contains("# image sha256:"), "{}", run.stderr);
    let Some(_registry) = Registry::start_at(port) else { return };
    run_as_told(&run).into_iter().for_each(|run| drop(run.ok()));
}

#[test]
fn a_push_survives_that_every_request_fails_once() {
    let Some(registry) = Registry::start() else { return };
    let proxy = Proxy::with(&registry.host, |exchange, log| {
        let same = |other: &&Exchange| (&other.method, &other.target) == (&exchange.method, &exchange.target);
        match log.iter().any(|other| same(&other)) {
            true => Rule::Pass,
            false => Rule::Answer(503, String::new()),
        }
    });
    let scratch = Scratch::new().with_busybox();
    let context = dockerfile(&scratch, &["FROM busybox", BIG, "RUN echo x > /x"]);
    let name = format!("{}/app:1", proxy.host);
    let run = scratch.build(&context, &["-t", &name, "--push"]).ok();
    assert!(run.stderr.contains("503 Service Unavailable; attempt 1 of 6, trying"), "{}", run.stderr);
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);
    Scratch::new().xbuild(&["pull", &format!("{}/app:1", registry.host)]).ok();
}

#[test]
fn a_registry_that_fails_keeps_no_other_from_its_image() {
    let Some(registry) = Registry::start() else { return };
    let scratch = Scratch::new().with_busybox();
    let context = dockerfile(&scratch, &["FROM busybox", "LABEL a=b"]);
    let (good, bad) = (format!("{}/app:1", registry.host), format!("127.0.0.1:{}/app:1", free_port()));
    let run = scratch.build(&context, &["-t", &bad, "-t", &good, "--push"]).fails(8, &["connection refused"]);
    let commands = repeat(&run);
    assert_eq!((commands.len(), commands[0].last()), (1, Some(&bad)), "{}", run.stderr);
    Scratch::new().xbuild(&["pull", &good]).ok();
}
