//! Places that hold no image, too much of one, or cannot be written to: what is told, and that nothing is fetched twice.

use std::fmt::Write as _;

use crate::harness::{Registry, Scratch, have, tool};
use crate::server::{Reply, Server};

#[test]
fn a_pull_fetches_every_blob_once() {
    let Some(registry) = Registry::start() else { return };
    let (scratch, fresh) = (Scratch::new(), Scratch::new());
    let context = scratch.context("c", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "x")]);
    let name = format!("{}/app:1", registry.host);
    scratch.build(&context, &["-t", &name, "--push"]).ok();
    let run = fresh.xbuild(&["pull", &name]).ok();
    let mut pulled: Vec<_> = run.stderr.lines().filter(|line| line.contains("pulled sha256:")).collect();
    assert_eq!(pulled.len(), 2, "config and layer: {}", run.stderr);
    pulled.dedup();
    assert_eq!(pulled.len(), 2, "one of them twice: {}", run.stderr);
    fresh.xbuild(&["copy", &name, "oci-archive:-"]).ok();
    let other = format!("{}/other", registry.host);
    let pushed = fresh.xbuild(&["push", &format!("docker://{name}"), &other]).ok();
    assert!(pushed.stderr.contains(&format!("pushed {other}:latest")), "{}", pushed.stderr);
    let target = fresh.path().join("l");
    let target = format!("oci-layout://{}:1", target.display());
    fresh.xbuild(&["copy", &format!("docker://{name}"), &target]).ok();
    assert_eq!(fresh.xbuild(&["inspect", &target]).ok().code, 0);
}

#[test]
fn an_image_of_more_layers_than_one_overlay_takes_runs_and_is_built_on() {
    let scratch = Scratch::new().with_busybox();
    // Busybox' own layer makes them 500 and 501.
    for copies in [499, 500] {
        let mut text = "FROM busybox\n".to_owned();
        for number in 0..copies {
            writeln!(text, "COPY f /layers/{number}").unwrap();
        }
        let context = scratch.context("c", &[("Dockerfile", &text), ("f", "x")]);
        scratch.build(&context, &["-t", "many"]).ok();
        let count = ["run", "many", "sh", "-c", "rm /layers/0 && ls /layers | wc -l"];
        assert_eq!(scratch.xbuild(&count).ok().stdout, format!("{}\n", copies - 1));
        let more = "FROM many\nRUN rm /layers/1 && ls /layers | wc -l > /count\n";
        let context = scratch.context("d", &[("Dockerfile", more)]);
        scratch.build(&context, &["-t", "more"]).ok();
        let count = scratch.xbuild(&["run", "more", "cat", "/count"]).ok().stdout;
        assert_eq!(count, format!("{}\n", copies - 1));
    }
}

#[test]
fn an_archive_that_is_none_is_told_so() {
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "x")]);
    scratch.build(&context, &["-t", "app"]).ok();
    let path = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let whole = path("whole.tar");
    scratch.xbuild(&["copy", "app", &format!("oci-archive:{whole}")]).ok();
    let bytes = std::fs::read(&whole).unwrap();
    for (text, why) in [
        (&b"this is no archive".repeat(100)[..], "it is no tar archive"),
        (&[][..], "it is empty"),
        (&bytes[..700], "cut off"),
    ] {
        let broken = path("broken.tar");
        std::fs::write(&broken, text).unwrap();
        for kind in ["oci-archive", "docker-archive"] {
            let run = scratch.xbuild(&["copy", &format!("{kind}:{broken}"), "x"]);
            run.fails(4, &[why, &broken, "docker save"]);
        }
    }
}

#[test]
fn an_archive_where_nobody_can_write_is_a_mistake_of_the_command_line() {
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "x")]);
    scratch.build(&context, &["-t", "app"]).ok();
    for place in ["oci-archive:/proc/l.tar", "docker-archive:/proc/l.tar", "oci-layout:///proc/l"] {
        scratch.xbuild(&["copy", "app", place]).fails(2, &["/proc"]);
    }
}

#[test]
fn an_image_of_another_tools_place_is_told_in_our_words() {
    let scratch = Scratch::new();
    for (place, part) in [
        ("oci:out:1", "oci-layout://out:1"),
        ("oci:out", "oci-layout://out"),
        ("dir:out", "oci-layout://DIR"),
        ("./x.tar", "docker-archive:./x.tar"),
    ] {
        scratch.xbuild(&["copy", place, "x"]).fails(2, &[part]);
        scratch.xbuild(&["copy", "x", place]).fails(2, &[part]);
    }
    for place in ["oci-layout:x", "docker://h.io/x"] {
        scratch.xbuild(&["tag", "x", place]).fails(2, &["it is a place", "xbuild copy"]);
    }
    if have(&["skopeo"]) {
        // What is advised works.
        let context = scratch.context("c", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "x")]);
        scratch.build(&context, &["-t", "app"]).ok();
        let path = scratch.path().join("out");
        scratch.xbuild(&["copy", "app", &format!("oci-layout://{}:1", path.display())]).ok();
        tool("skopeo", &["inspect", &format!("oci:{}:1", path.display())]);
    }
}

/// A server that answers every request with a login page.
fn portal(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Server {
    let page = "<!doctype html><title>Sign in</title>\n";
    Server::start(move |_| reply(page).header("Content-Type", "text/html"))
}

#[test]
fn a_login_page_is_no_registry_and_gets_no_password_kept() {
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "x")]);
    scratch.build(&context, &["-t", "app"]).ok();
    for reply in [|page: &str| Reply::new(200, page), |page: &str| Reply::new(200, page).without_length()] {
        let portal = portal(reply);
        let host = portal.host.as_str();
        let name = format!("{host}/team/app:1");
        let parts = ["web page", "login page", host];
        scratch.xbuild(&["pull", &name]).fails(4, &parts);
        scratch.xbuild(&["push", "app", &name]).fails(8, &parts);
        scratch.build(&context, &["-t", &name, "--push"]).fails(8, &["login page", host]);
        let file = scratch.path().join("auth.json");
        let mut login = scratch.command(&["login", host, "-u", "ci", "--authfile", file.to_str().unwrap()]);
        let run = crate::harness::finish(login.env("XBUILD_PASSWORD", "s3cret")).fails(4, &parts);
        assert!(!file.exists() && run.stdout.is_empty(), "the password is kept: {run:?}");
    }
}

#[test]
fn a_file_without_a_certificate_is_told_before_anything_is_built() {
    let scratch = Scratch::new();
    let file = scratch.path().join("ca.pem");
    std::fs::write(&file, "no certificate").unwrap();
    let flag = format!("h.example={}", file.display());
    let context = scratch.context("c", &[("Dockerfile", "FROM scratch\n")]);
    let run = scratch.build(&context, &["-t", "h.example/a", "--push", "--registry-ca", &flag]);
    let run = run.fails(2, &["--registry-ca", "ca.pem", "BEGIN CERTIFICATE"]);
    assert!(!run.stderr.contains("repeats"), "{}", run.stderr);
}

#[test]
fn a_proxy_that_stands_in_the_way_is_named() {
    let scratch = Scratch::new();
    let pull = |variable: &str, value: &str| {
        let mut command = scratch.command(&["pull", "reg.example/x"]);
        crate::login::isolate(&mut command, scratch.path());
        crate::harness::finish(command.env(variable, value))
    };
    let nobody = format!("127.0.0.1:{}", crate::harness::free_port());
    let named = format!("connection refused by the proxy {nobody} (HTTPS_PROXY) on the way to reg.example");
    pull("HTTPS_PROXY", &nobody).fails(4, &[&named, "NO_PROXY"]);
    // No proxy, but whatever answers 200 to CONNECT and then speaks no TLS, or refuses.
    let page = portal(|page| Reply::new(200, page));
    pull("ALL_PROXY", &format!("http://u:s3cret@{}", page.host)).fails(4, &["reg.example"]);
    for (variable, value) in [("ALL_PROXY", "socks5://p:1080"), ("HTTPS_PROXY", ":::")] {
        pull(variable, value).fails(2, &[variable, "mend it"]);
    }
}
