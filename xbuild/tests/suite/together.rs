//! Several processes on one store: what they make is the same as what each makes alone, and a killed one harms no other.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::harness::{Registry, Scratch, finish};

/// Stages that run at once, a COPY of files, caches of every kind, and a last step that reads all of it.
fn dockerfile(base: &str) -> String {
    let mut text = format!("FROM {base} AS base\n");
    for stage in 0..4 {
        text += &format!(
            "FROM base AS s{stage}\n\
             RUN --mount=type=cache,target=/c --mount=type=cache,id=in,target=/c/in \
             --mount=type=cache,id=own,target=/own,sharing=private --mount=type=cache,id=one,target=/one,sharing=locked \
             mkdir /one/held && touch /c/{stage} /c/in/{stage} && rmdir /one/held && echo {stage} > /out\n"
        );
    }
    text += "FROM base\nCOPY files /files\n";
    for stage in 0..4 {
        text += &format!("COPY --from=s{stage} /out /outs/{stage}\n");
    }
    text + "RUN cat /base /outs/* /files/* > /all\n"
}

const ALL: &str = "base\n0\n1\n2\n3\na\nb\n";

fn context(scratch: &Scratch, base: &str) -> PathBuf {
    let files = [("Dockerfile", &*dockerfile(base)), ("files/a", "a\n"), ("files/b", "b\n")];
    scratch.context("c", &files)
}

fn base(registry: &Registry) -> String {
    let scratch = Scratch::new().with_busybox();
    let name = format!("{}/team/base:1", registry.host);
    let text = "FROM busybox\nRUN echo base > /base\nRUN mkdir /dir && echo 1 > /dir/one\n";
    scratch.digest(&scratch.context("c", &[("Dockerfile", text)]), &["-t", &name, "--push"]);
    name
}

#[test]
fn builds_that_make_a_store_together_make_the_same_image() {
    let Some(registry) = Registry::start() else { return };
    let base = base(&registry);
    let scratch = Scratch::new();
    let context = context(&scratch, &base).display().to_string();
    let digests: Vec<String> = std::thread::scope(|scope| {
        let builds: Vec<_> = (0..6)
            .map(|number| {
                let name = format!("made:{number}");
                let arguments = ["build", "-q", "--network", "host", "-t", &name, &context];
                let mut command = scratch.command(&arguments);
                scope.spawn(move || finish(&mut command).ok().digest())
            })
            .collect();
        builds.into_iter().map(|build| build.join().unwrap()).collect()
    });
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    for number in [0, 5] {
        let run = scratch.xbuild(&["run", "--network", "host", &format!("made:{number}"), "cat", "/all"]);
        assert_eq!(run.ok().stdout, ALL);
    }
}

#[test]
fn builds_that_are_killed_harm_no_other() {
    let Some(registry) = Registry::start() else { return };
    let base = base(&registry);
    let scratch = Scratch::new();
    // A killed step leaves what it holds in the cache.
    let text = dockerfile(&base).replace("mkdir /one/held", "mkdir -p /one/held");
    let context = context(&scratch, &base);
    std::fs::write(context.join("Dockerfile"), text.replace("rmdir /one/held", "true")).unwrap();
    let context = context.display().to_string();
    let arguments = ["build", "-q", "--network", "host", "--no-cache", &context];
    let start = || -> Child {
        let mut command = scratch.command(&arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    std::thread::scope(|scope| {
        let killers = scope.spawn(|| {
            for pause in [5, 20, 40, 80, 120, 200, 300] {
                let mut build = start();
                std::thread::sleep(Duration::from_millis(pause));
                // It may have ended.
                let _ = build.kill();
                build.wait().unwrap();
            }
        });
        while !killers.is_finished() {
            finish(&mut scratch.command(&arguments)).ok();
        }
    });
    let name = ["build", "-q", "--network", "host", "-t", "made", &context];
    finish(&mut scratch.command(&name)).ok();
    assert_eq!(scratch.xbuild(&["run", "--network", "host", "made", "cat", "/all"]).ok().stdout, ALL);
    let left = std::fs::read_dir(scratch.store().join("tmp")).unwrap().count();
    assert_eq!(left, 0, "what the killed left is removed by the next");
}
