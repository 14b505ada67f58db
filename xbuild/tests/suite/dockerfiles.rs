//! Hostile Dockerfiles (reliability.md §2.F) through the binary: what runs, what is shown, what is refused.

use std::net::TcpListener;

use crate::harness::{Registry, Scratch, free_port};
use crate::server::{Reply, Server};

/// Whether a text could make a terminal or a CI system do something.
#[track_caller]
fn harmless(text: &str) {
    for line in text.lines() {
        assert!(!line.starts_with("::"), "a command of GitHub's: {line:?}");
        assert!(!line.contains("##vso["), "a command of Azure's: {line:?}");
        assert!(!line.chars().any(|found| found.is_control() && found != '\t'), "a control: {line:?}");
    }
}

#[test]
fn df_10_permissions_are_refused_before_the_first_step() {
    let scratch = Scratch::new();
    // Nothing can run on an empty base: a step that ran would be a failure of the step.
    let cases = [
        ("RUN --security=insecure x\n", "security.insecure"),
        ("ONBUILD RUN --security=insecure x\n", "security.insecure"),
        ("RUN --security=insecure <<EOF\nx\nEOF\n", "security.insecure"),
        ("FROM scratch AS untaken\nRUN --security=insecure x\nFROM scratch\nRUN x\n", "security.insecure"),
        ("RUN --network=host x\n", "network.host"),
    ];
    for (text, entitlement) in cases {
        let text = format!("FROM scratch\nRUN first\n{text}");
        let context = scratch.context("c", &[("Dockerfile", &text)]);
        let run = scratch.xbuild(&["build", "--progress", "plain", context.to_str().unwrap()]);
        let run = run.fails(6, &[entitlement]);
        assert!(!run.stderr.contains("RUN first"), "{text}: a step began:\n{}", run.stderr);
    }
    let base = scratch.context("b", &[("Dockerfile", "FROM scratch\nONBUILD RUN --security=insecure x\n")]);
    scratch.build(&base, &["-t", "trigger", "--allow", "security.insecure"]).ok();
    let child = scratch.context("c", &[("Dockerfile", "FROM trigger\nLABEL a=b\n")]);
    scratch.build(&child, &[]).fails(6, &["security.insecure"]);
}

#[test]
fn df_11_nothing_that_is_shown_commands_a_terminal_or_a_ci_system() {
    let scratch = Scratch::new().with_busybox();
    let text = "FROM busybox\nLABEL a=\"\x1b]52;c;eA==\x07\" b=\"\x1b]0;title\x07\"\n\
        RUN printf '::set-env name=A::b\\n\\r::add-mask::x\\n##vso[task.complete]\\n\\033]0;t\\007\\033[2Jx\\n'\n\
        RUN printf '\\n::error::at the end\\n\\033[31mred'; : '\x1b]0;in the name\x07'; exit 3\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    let run = scratch.build(&context, &[]).fails(5, &["exit code"]);
    assert!(run.stderr.contains("add-mask"), "the output is shown:\n{}", run.stderr);
    harmless(&run.stderr);
    let text = "FROM scratch\nCOPY [\"\\u001b]0;x\\u0007\\n::error::y\", \"/z\"]\n";
    let context = scratch.context("n", &[("Dockerfile", text), ("\x1b]0;x\x07\n::error::z", "")]);
    harmless(&scratch.build(&context, &[]).fails(4, &["Dockerfile:2"]).stderr);
    let text = "FROM scratch\nENV A=${B\x1b]0;x\x07}\nENV \x1b[2J\nSTOPSIGNAL \"\x1b[2J\"\n";
    let context = scratch.context("m", &[("Dockerfile", text)]);
    harmless(&scratch.build(&context, &[]).fails(3, &["Dockerfile"]).stderr);
}

#[test]
fn df_11_what_a_registry_says_is_shown_as_text() {
    const BODY: &str =
        r#"{"errors":[{"code":"DENIED","message":"no\n::set-env name=A::b\n\u001b]0;title\u0007##vso[x]"}]}"#;
    let server = Server::start(|_| Reply::new(403, BODY).header("Content-Type", "application/json"));
    let host = server.host.as_str();
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", &format!("FROM {host}/a:1\n"))]);
    let run = scratch.build(&context, &[]).fails(4, &[host]);
    harmless(&run.stderr);
}

#[test]
fn df_12_the_environment_of_a_dockerfile_is_the_steps_alone() {
    let Some(registry) = Registry::start() else { return };
    let scratch = Scratch::new().with_busybox();
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let text = format!(
        "FROM busybox\nENV PATH=/evil LD_PRELOAD=/evil.so SSL_CERT_FILE=/none SSL_CERT_DIR=/none \
         GIT_DIR=/evil GIT_SSH_COMMAND=/evil HOME=/evil XBUILD_ROOT=/evil SOURCE_DATE_EPOCH=7 TMPDIR=/evil \
         HTTP_PROXY={nowhere} http_proxy={nowhere} https_proxy={nowhere} ALL_PROXY={nowhere}\n\
         COPY f /f\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"echo $HTTP_PROXY $TMPDIR $PATH > /seen\"]\n"
    );
    let context = scratch.context("c", &[("Dockerfile", &text), ("f", "x")]);
    let name = format!("{}/team/app:1", registry.host);
    scratch.build(&context, &["-t", &name, "--push"]).ok();
    let seen = scratch.xbuild(&["run", &name, "/bin/busybox", "cat", "/seen"]).ok().stdout;
    assert_eq!(seen, format!("{nowhere} /evil /evil\n"));
    // As a base, in another store: pulled and built on.
    let fresh = Scratch::new();
    let text = format!("FROM {name}\nRUN [\"/bin/busybox\", \"cp\", \"/seen\", \"/again\"]\n");
    let context = fresh.context("d", &[("Dockerfile", &text)]);
    let proxy = format!("HTTP_PROXY={nowhere}");
    fresh.build(&context, &["-t", "child", "--build-arg", &proxy]).ok();
}

#[test]
fn df_13_names_that_are_none_are_refused_with_their_place() {
    let scratch = Scratch::new();
    let long = format!("a/{}", "b".repeat(4096));
    let names = [
        "a@sha256:short",
        "Upper/Case",
        "user:pw@h/i",
        "h:99999/i",
        "../../x",
        "oci-layout://../..",
        "a@sha256:0000000000000000000000000000000000000000000000000000000000000000x",
        &long,
    ];
    for name in names {
        let context = scratch.context("c", &[("Dockerfile", &format!("FROM scratch\nFROM {name}\n"))]);
        scratch.build(&context, &[]).fails(3, &["Dockerfile:2"]);
    }
}

#[test]
fn df_14_a_config_that_no_registry_takes_is_refused_before_it_is_pushed() {
    let scratch = Scratch::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let name = format!("{}/a/b:1", listener.local_addr().unwrap());
    let large: String = (0..80).map(|n| format!("LABEL l{n}={}\n", "x".repeat(60_000))).collect();
    // Each instruction has an entry in the history.
    let many: String = (0..100_000).map(|n| format!("LABEL label{}=x\n", n % 10)).collect();
    for text in [large, many] {
        let context = scratch.context("c", &[("Dockerfile", &format!("FROM scratch\n{text}"))]);
        let run = scratch.build(&context, &["-t", &name, "--push"]);
        assert_ne!(run.code, 0, "{}", run.stderr);
        let code = run.code;
        run.fails(code, &["config", "4194304"]);
        let waiting = listener.accept().map(|_| ()).unwrap_err();
        assert_eq!(waiting.kind(), std::io::ErrorKind::WouldBlock, "the registry was asked");
        scratch.xbuild(&["inspect", &name]).fails(4, &[&name]);
    }
    let some: String = (0..10_000).map(|n| format!("ENV E{}=x\n", n % 10)).collect();
    let context = scratch.context("c", &[("Dockerfile", &format!("FROM scratch\n{some}"))]);
    scratch.build(&context, &["-t", "some"]).ok();
}
