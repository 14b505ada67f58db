//! `build --push`: what goes to the registry when, what does not go at all, and what a failure leaves.

use std::path::PathBuf;

use crate::harness::{Registry, Run, Scratch, have, tool, wait_until};
use crate::proxy::{Exchange, Proxy, Rule};
use crate::server;

/// A step that ends when the proxy says yes at `/ready`.
fn wait_for(host: &str) -> String {
    format!("RUN {}", server::wait_for(host))
}

/// A proxy that answers 200 at `/ready` once `ready` holds for the exchanges that are over.
fn gate(upstream: &str, ready: impl Fn(&[Exchange]) -> bool + Send + Sync + 'static) -> Proxy {
    Proxy::with(upstream, move |exchange, log| match exchange.target.as_str() {
        "/ready" if ready(log) => Rule::Answer(200, String::new()),
        "/ready" => Rule::Answer(404, String::new()),
        _ => Rule::Pass,
    })
}

/// Whether the large layer has arrived.
fn large_blob(log: &[Exchange]) -> bool {
    log.iter().any(|exchange| exchange.method == "PUT" && exchange.sent > LARGE && exchange.status == 201)
}

/// Bytes that no other blob of these tests has.
const LARGE: u64 = 2_900_000;

pub const BIG: &str = "RUN head -c 3000000 /dev/urandom > /big";

pub fn dockerfile(scratch: &Scratch, lines: &[&str]) -> PathBuf {
    scratch.context("c", &[("Dockerfile", &lines.join("\n")), ("f", "file")])
}

pub fn puts(log: &[Exchange], kind: impl Fn(&Exchange) -> bool) -> Vec<&str> {
    let puts = log.iter().filter(|exchange| exchange.method == "PUT" && exchange.status == 201);
    puts.filter(|exchange| kind(exchange)).map(|exchange| exchange.target.as_str()).collect()
}

#[test]
fn layers_are_sent_while_later_steps_run_and_the_manifest_last() {
    let Some(registry) = Registry::start() else { return };
    let proxy = gate(&registry.host, large_blob);
    let scratch = Scratch::new().with_busybox();
    // The last step ends only when the registry has the layer of the one before.
    let context = dockerfile(&scratch, &["FROM busybox", BIG, &wait_for(&proxy.host)]);
    let name = format!("{}/team/app:1", proxy.host);
    let run = scratch.build(&context, &["-t", &name, "--push"]).ok();
    let log = proxy.log();
    let ready =
        log.iter().position(|exchange| exchange.target == "/ready" && exchange.status == 200).unwrap();
    let manifests =
        log.iter().enumerate().filter(|(_, exchange)| exchange.is_manifest() && exchange.method == "PUT");
    assert_eq!(manifests.map(|(at, _)| at > ready).collect::<Vec<_>>(), [true]);
    // Each blob goes once, and what went ahead is not asked for again.
    let blobs = puts(&log, Exchange::is_blob);
    assert_eq!(blobs.len(), 4, "base, two layers and config: {log:#?}");
    let heads =
        log[ready..].iter().filter(|exchange| exchange.method == "HEAD" && exchange.is_blob()).count();
    assert!(heads <= 2, "the last layer and the config: {log:#?}");
    for text in ["pushed sha256:", "to 127.0.0.1:", "/team/app, 3.0 MB", &format!("# pushed {name}")] {
        assert!(run.stderr.contains(text), "{text:?} is not in {}", run.stderr);
    }
    if have(&["skopeo"]) {
        let direct = format!("docker://{}/team/app:1", registry.host);
        tool("skopeo", &["inspect", "--tls-verify=false", &direct]);
    }
    let other = Scratch::new();
    other.xbuild(&["pull", &name]).ok();
    assert_eq!(other.xbuild(&["run", &name, "stat", "-c", "%s", "/big"]).ok().stdout.trim(), "3000000");
}

#[test]
fn cached_layers_are_sent_at_once_and_those_of_other_stages_never() {
    let Some(registry) = Registry::start() else { return };
    let proxy = gate(&registry.host, large_blob);
    let scratch = Scratch::new().with_busybox();
    scratch.build(&dockerfile(&scratch, &["FROM busybox", BIG]), &["-t", "x"]).ok();
    let other = "RUN head -c 5000000 /dev/urandom > /other && echo x > /small";
    let context = dockerfile(
        &scratch,
        &[
            "FROM busybox AS tools",
            other,
            "FROM busybox",
            BIG,
            "COPY --from=tools /small /",
            &wait_for(&proxy.host),
        ],
    );
    let run = scratch.build(&context, &["-t", &format!("{}/app", proxy.host), "--push"]).ok();
    assert_eq!(run.cached(), 1, "{}", run.stderr);
    let log = proxy.log();
    let largest = log.iter().map(|exchange| exchange.sent).max().unwrap();
    assert!((3_000_000..5_000_000).contains(&largest), "a layer that only feeds COPY was sent: {largest}");
}

#[test]
fn a_build_that_fails_or_is_interrupted_leaves_no_tag() {
    let Some(registry) = Registry::start() else { return };
    let proxy = gate(&registry.host, large_blob);
    let scratch = Scratch::new().with_busybox();
    let name = format!("{}/app:1", proxy.host);
    let context = dockerfile(&scratch, &["FROM busybox", BIG, &wait_for(&proxy.host), "RUN false"]);
    scratch.build(&context, &["-t", &name, "--push"]).fails(5, &["RUN false"]);
    assert!(large_blob(&proxy.log()));
    let manifests =
        |proxy: &Proxy| proxy.log().iter().any(|exchange| exchange.method == "PUT" && exchange.is_manifest());
    assert!(!manifests(&proxy));
    // An upload that goes nowhere keeps no failed build waiting, nor an interrupted one.
    let stuck =
        Proxy::with(&registry.host, |exchange, log| match (exchange.method.as_str(), exchange.sent) {
            ("PUT", _) if exchange.is_blob() => Rule::Hold,
            ("GET", _) if exchange.target == "/ready" => {
                match log.iter().any(|exchange| exchange.is_blob()) {
                    true => Rule::Answer(200, String::new()),
                    false => Rule::Answer(404, String::new()),
                }
            }
            _ => Rule::Pass,
        });
    let name = format!("{}/app:1", stuck.host);
    let context = dockerfile(&scratch, &["FROM busybox", BIG, &wait_for(&stuck.host), "RUN false"]);
    scratch.build(&context, &["-t", &name, "--push"]).fails(5, &["RUN false"]);
    let context = dockerfile(&scratch, &["FROM busybox", BIG, "RUN echo after"]);
    stuck.clear();
    let ended = interrupt_when(&scratch, &context, &name, || stuck.log().iter().any(|held| held.status == 0));
    assert_eq!(ended.code, 130, "{}", ended.stderr);
    assert!(!manifests(&stuck));
}

/// Builds with --push and sends SIGINT as soon as `ready` holds.
fn interrupt_when(scratch: &Scratch, context: &std::path::Path, name: &str, ready: impl Fn() -> bool) -> Run {
    let context = context.to_str().unwrap();
    let arguments = ["build", "--network", "host", "--progress", "plain", "-t", name, "--push", context];
    let mut command = scratch.command(&arguments);
    let child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_until("something is pushed", ready);
    tool("kill", &["-INT", &child.id().to_string()]);
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn a_push_that_was_interrupted_goes_on_with_what_is_there() {
    let Some(registry) = Registry::start() else { return };
    let scratch = Scratch::new().with_busybox();
    let context = dockerfile(&scratch, &["FROM busybox", BIG]);
    scratch.build(&context, &["-t", "x"]).ok();
    // Everything is cached, so all is sent at the end; the large layer gets stuck.
    let stuck = Proxy::with(&registry.host, |exchange, _| match exchange.method.as_str() {
        "PUT" if exchange.sent > LARGE => Rule::Hold,
        _ => Rule::Pass,
    });
    let name = format!("{}/app:1", stuck.host);
    let ended =
        interrupt_when(&scratch, &context, &name, || puts(&stuck.log(), Exchange::is_blob).len() == 2);
    assert_eq!(ended.code, 130, "{}", ended.stderr);
    assert!(puts(&stuck.log(), Exchange::is_manifest).is_empty());
    let proxy = Proxy::start(&registry.host);
    let run = scratch.xbuild(&["push", &name, &format!("{}/app:1", proxy.host)]).ok();
    assert_eq!(puts(&proxy.log(), Exchange::is_blob).len(), 1, "{}", run.stderr);
    assert_eq!(puts(&proxy.log(), Exchange::is_manifest).len(), 1);
}

#[test]
fn several_names_are_one_upload_and_a_second_push_is_a_few_questions() {
    let Some(registry) = Registry::start() else { return };
    let Some(second) = Registry::start() else { return };
    let (one, two) = (Proxy::start(&registry.host), Proxy::start(&second.host));
    let scratch = Scratch::new().with_busybox();
    let context = dockerfile(&scratch, &["FROM busybox", BIG, "RUN echo x > /x"]);
    let names = [
        format!("{}/team/app:1", one.host),
        format!("{}/team/app:2", one.host),
        format!("{}/team/copy:1", one.host),
        format!("{}/app", two.host),
    ];
    let mut arguments = vec!["--push"];
    names.iter().for_each(|name| arguments.extend(["-t", name]));
    let digest = scratch.digest(&context, &arguments);
    for (proxy, tags) in [(&one, 3), (&two, 1)] {
        let log = proxy.log();
        assert_eq!(puts(&log, Exchange::is_blob).len(), 4, "base, two layers, config: {log:#?}");
        assert_eq!(puts(&log, Exchange::is_manifest).len(), tags);
        assert_eq!(log.iter().filter(|exchange| exchange.sent > LARGE).count(), 1, "{log:#?}");
    }
    let linked = one
        .log()
        .iter()
        .filter(|exchange| exchange.target.contains("mount=") && exchange.status == 201)
        .count();
    assert_eq!(linked, 4, "all blobs are linked into the second repository: {:#?}", one.log());
    for name in &names {
        let other = Scratch::new();
        assert_eq!(other.xbuild(&["pull", name]).ok().stdout.trim(), digest);
    }
    // Another repository of the registry takes everything from the first, whenever it is pushed.
    one.clear();
    scratch.xbuild(&["push", &digest, &format!("{}/later:1", one.host)]).ok();
    assert_eq!(
        one.log().iter().filter(|exchange| exchange.sent > 0).count(),
        1,
        "the manifest: {:#?}",
        one.log()
    );
    one.clear();
    two.clear();
    scratch.digest(&context, &arguments);
    let asked = one.log().len() + two.log().len();
    assert!(asked <= 10, "{asked} requests for an unchanged image: {:#?}", one.log());
    let sent: u64 = one.log().iter().chain(&two.log()).map(|exchange| exchange.sent).sum();
    assert_eq!(sent, 0);
}

#[test]
fn a_base_is_linked_where_it_can_be_and_streamed_where_not() {
    let Some(registry) = Registry::start() else { return };
    let Some(foreign) = Registry::start() else { return };
    let home = Proxy::start(&registry.host);
    let abroad = Proxy::start(&foreign.host);
    let base = format!("{}/base/busybox:1", home.host);
    let seed = Scratch::new().with_busybox();
    seed.xbuild(&["push", "busybox", &base]).ok();
    let from = format!("FROM {base}");
    let down = |proxy: &Proxy| {
        proxy
            .log()
            .iter()
            .filter(|exchange| exchange.method == "GET" && exchange.is_blob())
            .map(|exchange| exchange.answered)
            .sum::<u64>()
    };
    let up = |proxy: &Proxy| {
        proxy.log().iter().filter(|exchange| exchange.is_blob()).map(|exchange| exchange.sent).sum::<u64>()
    };
    let size = up(&home);
    assert!(size > 500_000, "{size}");
    // No step reads what the base holds; one runs. It is neither downloaded nor sent, or goes through.
    for (target, linked) in [(&home, true), (&abroad, false)] {
        home.clear();
        abroad.clear();
        let scratch = Scratch::new();
        let context = dockerfile(&scratch, &[&from, "COPY --link f /f", "LABEL a=b"]);
        scratch.digest(&context, &["-t", &format!("{}/team/app:1", target.host), "--push"]);
        let blobs = std::fs::read_dir(scratch.layout().join("blobs/sha256")).unwrap();
        let largest = blobs.map(|blob| blob.unwrap().metadata().unwrap().len()).max().unwrap();
        assert!(largest < 100_000, "the base's layer is in the store: {largest}");
        match linked {
            true => assert!(down(&home) < 10_000 && up(&home) < 10_000, "{:#?}", home.log()),
            false => {
                assert!((size - 10_000..size + 10_000).contains(&down(&home)), "{:#?}", home.log());
                assert!((size - 10_000..size + 10_000).contains(&up(&abroad)), "{:#?}", abroad.log());
            }
        }
        let (pulled, name) = (Scratch::new(), format!("{}/team/app:1", target.host));
        pulled.xbuild(&["pull", &name]).ok();
        assert_eq!(pulled.xbuild(&["run", &name, "cat", "/f"]).ok().stdout, "file");
    }
    // A step reads it: it comes once, whoever wants it, and goes on from the store.
    for target in [&home, &abroad] {
        home.clear();
        abroad.clear();
        let scratch = Scratch::new();
        let context = dockerfile(&scratch, &[&from, "RUN echo x > /x"]);
        scratch.digest(&context, &["-t", &format!("{}/other:1", target.host), "--push"]);
        assert!((size - 10_000..size + 10_000).contains(&down(&home)), "{:#?}", home.log());
        let sent = up(target);
        let once = if target.host == home.host { 0..10_000 } else { size - 10_000..size + 10_000 };
        assert!(once.contains(&sent), "{sent} bytes sent: {:#?}", target.log());
    }
}

#[test]
fn a_base_whose_registry_is_gone_is_had_where_it_was_pushed_to() {
    let Some(registry) = Registry::start() else { return };
    let Some(gone) = Registry::start() else { return };
    let base = format!("{}/base/busybox:1", gone.host);
    Scratch::new().with_busybox().xbuild(&["push", "busybox", &base]).ok();
    let name = format!("{}/team/app:1", registry.host);
    let stores: Vec<Scratch> = std::iter::repeat_with(Scratch::new).take(3).collect();
    for scratch in &stores {
        let context = dockerfile(scratch, &[&format!("FROM {base}"), "COPY --link f /f", "LABEL a=b"]);
        scratch.digest(&context, &["-t", &name, "--push"]);
    }
    drop(gone);
    let asked = format!("it is asked for at {}/team/app", registry.host);
    let [run, file, piped] = &stores[..] else { panic!("three") };
    let ran = run.xbuild(&["run", &name, "cat", "/f"]).ok();
    assert_eq!(ran.stdout, "file");
    assert!(ran.stderr.contains("connection refused") && ran.stderr.contains(&asked), "{}", ran.stderr);
    let archive = file.path().join("app.tar");
    file.xbuild(&["save", &name, "-o", &format!("type=oci,dest={}", archive.display())]).ok();
    let load = |archive: &std::path::Path| {
        let loaded = Scratch::new();
        loaded.xbuild(&["load", "-i", archive.to_str().unwrap()]).ok();
        assert_eq!(loaded.xbuild(&["run", &name, "cat", "/f"]).ok().stdout, "file");
    };
    load(&archive);
    let archive = piped.path().join("piped.tar");
    let mut command = piped.command(&["save", &name, "-o", "type=oci,dest=-"]);
    let saved = command.output().unwrap();
    assert!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
    std::fs::write(&archive, saved.stdout).unwrap();
    load(&archive);
}

#[test]
fn programs_read_of_transfers_as_json() {
    let Some(registry) = Registry::start() else { return };
    let scratch = Scratch::new().with_busybox();
    let context = dockerfile(&scratch, &["FROM busybox", BIG, "RUN echo x > /x"]);
    let place = format!("{}/team/app", registry.host);
    let context = context.to_str().unwrap();
    let arguments = ["build", "--network", "host", "--progress", "json", "--push", "-t", &place, context];
    let run = scratch.xbuild(&arguments).ok();
    let events: Vec<serde_json::Value> =
        run.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let pushed: Vec<_> = events.iter().filter(|event| event["event"] == "pushed").collect();
    assert_eq!(pushed.len(), 4, "{}", run.stderr);
    for event in pushed {
        assert_eq!((&event["repository"], &event["how"]), (&place.as_str().into(), &"uploaded".into()));
        assert!(event["digest"].as_str().unwrap().starts_with("sha256:") && event["size"].as_u64().is_some());
    }
}

#[test]
fn pull_says_when_a_registry_is_asked_for_a_base() {
    let Some(registry) = Registry::start() else { return };
    let proxy = Proxy::start(&registry.host);
    let seed = Scratch::new().with_busybox();
    let base = format!("{}/base:1", proxy.host);
    let pinned = format!("{base}@{}", seed.xbuild(&["push", "busybox", &base]).ok().stdout.trim());
    let scratch = Scratch::new();
    let build = |from: &str, flags: &[&str]| {
        proxy.clear();
        let run = scratch.build(&dockerfile(&scratch, &[&format!("FROM {from}"), "RUN true"]), flags);
        (run, proxy.log().len())
    };
    // What is not there is an error that names the line, and nobody was asked.
    for from in [&base, &pinned] {
        let (run, asked) = build(from, &["--pull=never"]);
        run.fails(4, &[from, "Dockerfile:1", "--pull=never", "xbuild pull"]);
        assert_eq!(asked, 0);
    }
    // Known by name, but for its layers.
    let context = dockerfile(&scratch, &[&format!("FROM {base}"), "LABEL a=b"]);
    scratch.build(&context, &["--push", "-t", &format!("{}/x", proxy.host)]).ok();
    let (run, asked) = build(&base, &["--pull=never"]);
    run.fails(4, &[&base, "does not have its layer sha256:"]);
    assert_eq!(asked, 0);
    let questions: &[(&str, &[&str], bool)] = &[
        (&base, &[], true),
        (&base, &["--pull=missing"], false),
        (&base, &["--pull=false"], false),
        (&base, &["--pull=never"], false),
        (&pinned, &["--pull"], false),
        (&pinned, &["--pull=never"], false),
        (&base, &["--pull"], true),
        (&base, &["--pull=always"], true),
        (&base, &["--pull=true"], true),
    ];
    for (from, flags, expected) in questions {
        let (run, asked) = build(from, flags);
        run.ok();
        assert_eq!(asked > 0, *expected, "{from} {flags:?}: {asked}");
    }
    build(&base, &["--pull=sometimes"]).0.fails(2, &["--pull", "never"]);
}

#[test]
fn layers_of_several_platforms_are_sent_while_steps_run() {
    let Some(registry) = Registry::start() else { return };
    let proxy = gate(&registry.host, large_blob);
    let scratch = Scratch::new().with_busybox();
    // The image of one platform waits until the registry has the layer that both share.
    let lines = [
        "FROM --platform=$BUILDPLATFORM busybox AS tools",
        "ARG TARGETARCH",
        &wait_for(&proxy.host),
        "RUN echo $TARGETARCH > /arch",
        "FROM scratch",
        "COPY big /",
        "COPY --from=tools /arch /",
    ];
    let context = scratch.context("p", &[("Dockerfile", &lines.join("\n"))]);
    tool("sh", &["-c", &format!("head -c 3000000 /dev/urandom > {}/big", context.display())]);
    let name = format!("{}/team/multi:1", proxy.host);
    let run = scratch.build(&context, &["--platform", "linux/amd64,linux/arm64", "-t", &name, "--push"]).ok();
    let log = proxy.log();
    let blobs = puts(&log, Exchange::is_blob);
    assert_eq!(blobs.len(), 5, "a layer of both, one of each, two configs: {}", run.stderr);
    let manifests = puts(&log, Exchange::is_manifest);
    assert_eq!(manifests.len(), 3, "{manifests:?}");
    assert!(manifests[2].ends_with("/1"), "the index comes last: {manifests:?}");
    for platform in ["linux/amd64", "linux/arm64"] {
        let other = Scratch::new();
        other.xbuild(&["pull", "--platform", platform, &name]).ok();
    }
}

#[test]
fn a_push_without_a_tag_goes_ahead_and_is_repeated_like_any_other() {
    let Some(registry) = Registry::start() else { return };
    let scratch = Scratch::new().with_busybox();
    let proxy = gate(&registry.host, large_blob);
    let context = dockerfile(&scratch, &["FROM busybox", BIG, &wait_for(&proxy.host)]);
    let output = format!("type=image,name={}/app,push-by-digest=true,push=true", proxy.host);
    let digest = scratch.digest(&context, &["-o", &output]);
    assert!(puts(&proxy.log(), Exchange::is_manifest)[0].ends_with(&digest), "{:#?}", proxy.log());
    proxy.clear();
    let run = scratch.build(&context, &["-o", &output]).ok();
    assert!(run.stderr.contains(&format!("# pushed {}/app@{digest}", proxy.host)), "{}", run.stderr);
    assert_eq!(proxy.log().len(), 1, "is it there? {:#?}", proxy.log());
    let port = crate::harness::free_port();
    let output = format!("type=image,name=127.0.0.1:{port}/app,push-by-digest=true,push=true");
    let lost = scratch.build(&context, &["-o", &output]).fails(8, &["is kept in the store"]);
    let Some(_late) = Registry::start_at(port) else { return };
    for again in crate::push_failures::run_as_told(&lost) {
        assert_eq!(again.ok().stdout.trim(), digest);
    }
    let name = format!("127.0.0.1:{port}/app@{digest}");
    Scratch::new().xbuild(&["pull", &name]).ok();
}
