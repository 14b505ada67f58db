//! What a RUN step sees, what of it lands in the layer, and what a kill leaves.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::harness::{Scratch, listing, tool};

#[test]
fn the_environment_user_and_directory_are_those_of_the_dockerfile() {
    let scratch = Scratch::new().with_busybox();
    let text = "FROM busybox\nARG X=arg\nENV Y=env\nWORKDIR /w\nUSER app\nRUN echo $X $Y $(pwd) $(id -u):$(id -g) $HOME > /tmp/out\nRUN hostname >> /tmp/out\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    scratch.build(&context, &["-t", "app"]).ok();
    let out = scratch.xbuild(&["run", "app", "cat", "/tmp/out"]).ok().stdout;
    assert!(out.starts_with("arg env /w 1000:1000 /home/app\n"), "{out}");
}

#[test]
fn whiteouts_links_modes_owners_and_devices_survive_into_the_image() {
    let scratch = Scratch::new().with_busybox();
    let text = "FROM busybox\nRUN mkdir -p /d/sub && echo x > /d/a && echo y > /d/sub/b && echo z > /gone\n\
        RUN rm /gone && rm -r /d/sub && mkdir /d/sub && ln /d/a /d/hard && ln -s a /d/soft && chmod 4711 /d/a && chown 7:8 /d/sub \
        && mkfifo /d/pipe && mknod /d/null c 1 3\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    let tar = scratch.path().join("out.tar");
    scratch.build(&context, &["-o", &format!("type=tar,dest={}", tar.display())]).ok();
    let lines = listing(&tar);
    let find = |path: &str| {
        lines.iter().find(|line| line.contains(&format!(" {path}"))).unwrap_or_else(|| panic!("no {path}\n{lines:#?}"))
    };
    assert!(lines.iter().all(|line| !line.ends_with(" gone") && !line.ends_with("d/sub/b")), "{lines:#?}");
    assert!(find("d/a").starts_with("-rws--x--x"), "{}", find("d/a"));
    assert!(find("d/hard").contains("link to d/a"), "{}", find("d/hard"));
    assert!(find("d/soft").ends_with("d/soft -> a"));
    assert!(find("d/sub").contains(" 7/8 "), "{}", find("d/sub"));
    assert!(find("d/pipe").starts_with('p'));
    assert!(find("d/null").starts_with('c'));
}

#[test]
fn net_06_hosts_and_resolv_conf_never_reach_a_layer() {
    let scratch = Scratch::new().with_busybox();
    let text = "FROM busybox\nRUN cat /etc/hosts /etc/resolv.conf /etc/hostname > /seen && test -s /seen && test ! -s /etc/hosts.x\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    let tar = scratch.path().join("out.tar");
    scratch.build(&context, &["-o", &format!("type=tar,dest={}", tar.display())]).ok();
    let lines = listing(&tar);
    assert!(lines.iter().any(|line| line.ends_with(" seen")));
    for name in ["etc/hosts", "etc/resolv.conf", "etc/hostname"] {
        assert!(lines.iter().all(|line| !line.ends_with(&format!(" {name}"))), "{name}: {lines:#?}");
    }
    let devices = lines.iter().filter(|line| line.contains(" dev/") && !line.ends_with("dev/")).count();
    assert_eq!(devices, 0, "{lines:#?}");
}

#[test]
fn net_01_network_none_has_only_loopback() {
    let scratch = Scratch::new().with_busybox();
    let text = "FROM busybox\nRUN --network=none ls /sys/class/net > /nets; test \"$(ip -o link | wc -l)\" = 1\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    scratch.build(&context, &["-t", "app"]).ok();
}

#[test]
fn independent_stages_run_at_once_and_unused_ones_are_named() {
    let scratch = Scratch::new().with_busybox();
    let mut text = String::new();
    for stage in 0..6 {
        text += &format!("FROM busybox AS s{stage}\nRUN sleep 1 && echo {stage} > /o{stage}\n");
    }
    text += "FROM busybox AS unused\nRUN exit 7\nFROM scratch\n";
    for stage in 0..6 {
        text += &format!("COPY --from=s{stage} /o{stage} /\n");
    }
    let context = scratch.context("c", &[("Dockerfile", &text)]);
    let tar = scratch.path().join("out.tar");
    let start = Instant::now();
    let run = scratch.build(&context, &["--jobs", "6", "-o", &format!("type=tar,dest={}", tar.display())]).ok();
    let took = start.elapsed();
    assert!(run.stderr.contains("unused"), "the skipped stage is not named:\n{}", run.stderr);
    assert_eq!(listing(&tar).len(), 6, "{:#?}", listing(&tar));
    // Six seconds of sleep one after the other would be no parallelism at all.
    assert!(took < Duration::from_secs(4), "took {took:?}");
}

#[test]
fn a_failing_step_shows_its_output_and_the_line_and_exits_5() {
    let scratch = Scratch::new().with_busybox();
    let text = "FROM busybox\nRUN echo before\nRUN echo visible-output && exit 42\nRUN echo after\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    let run = scratch.build(&context, &["-t", "app"]).fails(5, &["visible-output", "exit code", "42", "Dockerfile:3"]);
    assert!(!run.stderr.contains("] RUN echo after"), "{}", run.stderr);
    scratch.xbuild(&["inspect", "app"]).fails(4, &["app"]);
    // What was done stays cached.
    let fixed = scratch.context("c", &[("Dockerfile", "FROM busybox\nRUN echo before\nRUN echo other\n")]);
    assert_eq!(scratch.build(&fixed, &[]).ok().cached(), 1);
}

#[test]
fn run_passes_on_exit_codes_and_signals() {
    let scratch = Scratch::new().with_busybox();
    assert_eq!(scratch.xbuild(&["run", "busybox", "sh", "-c", "exit 7"]).code, 7);
    assert_eq!(scratch.xbuild(&["run", "-e", "A=b", "busybox", "sh", "-c", "echo $A"]).ok().stdout, "b\n");
    let child = scratch.command(&["run", "busybox", "sleep", "60"]).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    tool("kill", &["-TERM", &child.id().to_string()]);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{output:?}");
    assert!(start.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_changed_image_of_run_leaves_the_store_alone() {
    let scratch = Scratch::new().with_busybox();
    scratch.xbuild(&["run", "busybox", "sh", "-c", "echo x > /new"]).ok();
    let run = scratch.xbuild(&["run", "busybox", "test", "-e", "/new"]);
    assert_eq!(run.code, 1, "{run:?}");
}

/// Everything that a build could leave behind outside its store.
fn leftovers(store: &Path) -> Vec<String> {
    let store = store.to_str().unwrap();
    let mut found = Vec::new();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(store)).map(|line| format!("mount {line}")));
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.parse::<u32>().is_err() {
            continue;
        }
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let root = std::fs::read_link(entry.path().join("root")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        if command.contains("xbuild-kill-marker") || root.starts_with(store) {
            found.push(format!("process {name} {command}"));
        }
    }
    found
}

#[test]
fn kill_9_at_random_moments_leaves_nothing_and_the_next_build_succeeds() {
    let scratch = Scratch::new().with_busybox();
    let mut state = 0x2545_f491_4f6c_dd1d_u64 ^ u64::from(std::process::id());
    for round in 0..10 {
        let text = format!(
            "FROM busybox\nCOPY src /src\nRUN echo {round} xbuild-kill-marker && mkdir /d && for i in $(seq 200); do echo $i > /d/$i; done\nRUN sleep 0.2; echo xbuild-kill-marker {round}\n"
        );
        let context = scratch.context("c", &[("Dockerfile", &text), ("src/a", &round.to_string())]);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let delay = Duration::from_millis(state % 350);
        let mut child = scratch
            .command(&["build", "--network", "host", "-t", "app", context.to_str().unwrap()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(delay);
        let _ = child.kill();
        child.wait().unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        while leftovers(&scratch.store()).iter().any(|left| left.starts_with("process")) {
            assert!(Instant::now() < end, "after {delay:?}: {:#?}", leftovers(&scratch.store()));
            std::thread::sleep(Duration::from_millis(10));
        }
        scratch.build(&context, &["-t", "app"]).ok();
        assert_eq!(leftovers(&scratch.store()), Vec::<String>::new(), "after {delay:?}");
        let staging = std::fs::read_dir(scratch.store().join("tmp")).unwrap().count();
        assert_eq!(staging, 0, "staging directories are left after {delay:?}");
        assert_eq!(scratch.xbuild(&["run", "app", "cat", "/src/a"]).ok().stdout, round.to_string());
    }
    let cgroups = tool("find", &["/sys/fs/cgroup", "-maxdepth", "3", "-type", "d", "-name", "*xbuild*"]);
    let mine: Vec<_> = cgroups.lines().filter(|line| !std::fs::read_to_string(format!("{line}/cgroup.procs")).is_ok_and(|text| !text.is_empty())).collect();
    assert!(mine.len() <= 4, "cgroups pile up: {mine:#?}");
}
