//! What a RUN step sees, what of it lands in the layer, and what a kill leaves.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use crate::harness::{Following, Scratch, listing, tool, wait_until};

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
fn a_workdir_of_an_unknown_user_is_roots_and_told() {
    let scratch = Scratch::new().with_busybox();
    let context = scratch.context("c", &[("Dockerfile", "FROM busybox\nUSER later\nWORKDIR /w/\n")]);
    let tar = scratch.path().join("out.tar");
    let built =
        scratch.build(&context, &["-t", "app", "-o", &format!("type=tar,dest={}", tar.display())]).ok();
    assert!(built.stderr.contains("belongs to root: user \"later\""), "{}", built.stderr);
    assert!(listing(&tar).iter().any(|line| line.starts_with("drwxr-xr-x 0/0") && line.ends_with(" w/")));
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
        lines
            .iter()
            .find(|line| line.contains(&format!(" {path}")))
            .unwrap_or_else(|| panic!("no {path}\n{lines:#?}"))
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
fn system_directories_that_the_image_lacks_stay_and_other_mount_points_do_not() {
    let scratch = Scratch::new().with_busybox();
    let text = "FROM busybox AS tools\nFROM scratch\nCOPY --from=tools /bin/busybox /bin/busybox\n\
        RUN --mount=type=tmpfs,target=/t/mp --mount=type=cache,target=/cache [\"/bin/busybox\", \"true\"]\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    let tar = scratch.path().join("out.tar");
    scratch.build(&context, &["-o", &format!("type=tar,dest={}", tar.display())]).ok();
    let names: Vec<_> =
        listing(&tar).iter().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect();
    assert_eq!(names, ["bin/", "bin/busybox", "dev/", "proc/", "sys/"]);
}

#[test]
fn caches_with_another_owner_are_other_caches() {
    let scratch = Scratch::new().with_busybox();
    let text = "FROM busybox\nRUN --mount=type=cache,target=/c touch /c/root\n\
        RUN --mount=type=cache,target=/c,uid=10 test ! -e /c/root && test \"$(stat -c %u /c)\" = 10 && touch /c/ten\n\
        RUN --mount=type=cache,target=/c test -e /c/root && test ! -e /c/ten\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    scratch.build(&context, &["-t", "app"]).ok();
}

#[test]
fn net_01_network_none_has_only_loopback() {
    let scratch = Scratch::new().with_busybox();
    let text =
        "FROM busybox\nRUN --network=none ls /sys/class/net > /nets; test \"$(ip -o link | wc -l)\" = 1\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    scratch.build(&context, &["-t", "app"]).ok();
}

#[test]
fn independent_stages_run_at_once_and_unused_ones_are_named() {
    let scratch = Scratch::new().with_busybox();
    let mut text = String::new();
    for stage in 0..6 {
        // A step ends only when all six have begun: however few processors there are, none waits for another.
        text += &format!(
            "FROM busybox AS s{stage}\nRUN --mount=type=cache,target=/meet touch /meet/{stage} && n=0 && \\\n\
             until [ $(ls /meet | wc -l) = 6 ]; do n=$((n+1)); [ $n -lt 1200 ] || exit 9; sleep 0.1; done && \\\n\
             echo {stage} > /o{stage}\n"
        );
    }
    text += "FROM busybox AS unused\nRUN exit 7\nFROM scratch\n";
    for stage in 0..6 {
        text += &format!("COPY --from=s{stage} /o{stage} /\n");
    }
    let context = scratch.context("c", &[("Dockerfile", &text)]);
    let tar = scratch.path().join("out.tar");
    let run = scratch.build(&context, &["-o", &format!("type=tar,dest={}", tar.display())]).ok();
    assert!(run.stderr.contains("unused"), "the skipped stage is not named:\n{}", run.stderr);
    assert_eq!(listing(&tar).len(), 6, "{:#?}", listing(&tar));
}

#[test]
fn a_failing_step_shows_its_output_and_the_line_and_exits_5() {
    let scratch = Scratch::new().with_busybox();
    let text = "FROM busybox\nRUN echo before\nRUN echo visible-output && exit 42\nRUN echo after\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    let run = scratch
        .build(&context, &["-t", "app"])
        .fails(5, &["visible-output", "exit code", "42", "Dockerfile:3"]);
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
    for (signal, code) in [("-TERM", 143), ("-INT", 130)] {
        let mut command =
            scratch.command(&["run", "busybox", "sh", "-c", "echo started >&2; exec sleep 10000"]);
        let mut run = Following::start(&mut command);
        run.wait_for("started");
        run.signal(signal);
        let ended = run.end();
        assert_eq!(ended.code, code, "{ended:?}");
    }
}

#[test]
fn what_a_program_makes_of_a_signal_is_its_end() {
    let scratch = Scratch::new().with_busybox();
    let script = "trap 'exit 3' TERM; echo started >&2; while :; do sleep 0.1; done";
    let mut run = Following::start(&mut scratch.command(&["run", "busybox", "sh", "-c", script]));
    run.wait_for("started");
    run.signal("-TERM");
    assert_eq!(run.end().code, 3);
}

#[test]
fn run_takes_what_dockers_users_type() {
    let scratch = Scratch::new().with_busybox();
    let text = "FROM busybox\nENTRYPOINT [\"/no/such\"]\nCMD [\"x\"]\n";
    scratch.build(&scratch.context("c", &[("Dockerfile", text)]), &["-t", "app"]).ok();
    let bare = ["run", "--rm", "-i", "--entrypoint", "", "app", "echo", "hi"];
    assert_eq!(scratch.xbuild(&bare).ok().stdout, "hi\n");
    scratch.xbuild(&["run", "--entrypoint", "", "app"]).fails(2, &["nothing to run"]);
    scratch.xbuild(&["run", "-it", "busybox", "sh"]).fails(2, &["--tty", "no terminal"]);
}

#[test]
fn run_tells_a_missing_program_from_one_that_cannot_be_executed() {
    let scratch = Scratch::new().with_busybox();
    let check = |command: &[&str], code: i32, fragment: &str| {
        scratch.xbuild(&[&["run", "busybox"], command].concat()).fails(code, &[fragment]);
    };
    check(&["nosuch"], 127, "nosuch: no such file in the image");
    check(&["/bin/nosuch"], 127, "/bin/nosuch: no such file in the image");
    check(&["/etc/passwd"], 126, "permission denied");
    check(&["/etc"], 126, "permission denied");
    let text = "FROM busybox\nRUN printf '#!/no/sh\\n' > /s && printf junk > /j && chmod +x /s /j\n";
    scratch.build(&scratch.context("c", &[("Dockerfile", text)]), &["-t", "app"]).ok();
    scratch.xbuild(&["run", "app", "/s"]).fails(127, &["/no/sh does not exist"]);
    scratch.xbuild(&["run", "app", "/j"]).fails(126, &["exec format error"]);
    // The program's own codes are nothing to tell about.
    for code in [5, 126, 127] {
        let run = scratch.xbuild(&["run", "busybox", "sh", "-c", &format!("exit {code}")]);
        assert_eq!((run.code, run.stderr.as_str()), (code, ""));
    }
}

#[test]
fn a_changed_image_of_run_leaves_the_store_alone() {
    let scratch = Scratch::new().with_busybox();
    scratch.xbuild(&["run", "busybox", "sh", "-c", "echo x > /new"]).ok();
    let run = scratch.xbuild(&["run", "busybox", "test", "-e", "/new"]);
    assert_eq!(run.code, 1, "{run:?}");
}

const WAITING: &str = "FROM busybox\nRUN echo done > /done\nRUN echo waiting; sleep 10000\n";

/// Starts a build and returns when a step of it says that it is waiting.
fn start_and_wait(scratch: &Scratch, text: &str) -> Following {
    let context = scratch.context("c", &[("Dockerfile", text)]);
    let arguments = ["build", "--network", "host", "--progress", "plain", context.to_str().unwrap()];
    let mut build = Following::start(&mut scratch.command(&arguments));
    build.wait_for_output("waiting");
    build
}

#[test]
fn an_interrupted_build_ends_its_step_and_keeps_what_is_done() {
    let scratch = Scratch::new().with_busybox();
    let build = start_and_wait(&scratch, WAITING);
    build.signal("-INT");
    build.end().fails(130, &["error: interrupted", "CANCELED"]);
    let fixed = scratch.context("c", &[("Dockerfile", "FROM busybox\nRUN echo done > /done\n")]);
    assert_eq!(scratch.build(&fixed, &[]).ok().cached(), 1);
}

#[test]
fn a_build_whose_context_was_waited_for_can_be_interrupted_too() {
    let scratch = Scratch::new().with_busybox();
    let context = scratch.context("c", &[("Dockerfile", WAITING)]);
    let archive = scratch.path().join("c.tar");
    tool("tar", &["-C", context.to_str().unwrap(), "-cf", archive.to_str().unwrap(), "."]);
    let archive = std::fs::read(&archive).unwrap();
    let mut command = scratch.command(&["build", "--network", "host", "--progress", "plain", "-"]);
    let (reader, mut input) = std::io::pipe().unwrap();
    let mut build = Following::start(command.stdin(reader));
    input.write_all(&archive[..100]).unwrap();
    build.wait_for("reading standard input");
    input.write_all(&archive[100..]).unwrap();
    drop(input);
    build.wait_for_output("waiting");
    build.signal("-INT");
    build.end().fails(130, &["error: interrupted"]);
}

#[test]
fn a_second_signal_does_not_wait_for_a_step_that_ignores_the_first() {
    let scratch = Scratch::new().with_busybox();
    let text = "FROM busybox\nRUN trap '' INT TERM; echo waiting; while :; do sleep 1; done\n";
    let mut build = start_and_wait(&scratch, text);
    build.signal("-INT");
    build.wait_for("interrupted: what is running has 10 s to end; Ctrl-C again");
    // Two that come at once are one.
    while build.lives() {
        build.signal("-INT");
        std::thread::sleep(Duration::from_millis(100));
    }
    let run = build.end().fails(130, &["error: interrupted"]);
    assert!(!run.stderr.contains("CANCELED"), "the step was waited for:\n{}", run.stderr);
}

#[test]
fn an_interrupted_output_ends_soon_and_leaves_nothing() {
    let scratch = Scratch::new().with_busybox();
    let context = scratch.context("c", &[("Dockerfile", "FROM busybox\nRUN echo done > /done\n")]);
    let context = context.to_str().unwrap();
    // Nobody reads the second output.
    let out = scratch.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let (kept, stuck) = (format!("type=oci,dest={}/kept.tar", out.display()), "type=tar,dest=-");
    let arguments = ["build", "--network", "host", "-o", &kept, "-o", stuck, context];
    let mut command = scratch.command(&arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let pipe = child.stdout.take().unwrap();
    let half = rustix::pipe::fcntl_getpipe_size(&pipe).unwrap() as u64 / 2;
    wait_until("one output is done and the other stuck", || {
        out.join("kept.tar").exists() && rustix::io::ioctl_fionread(&pipe).unwrap() > half
    });
    tool("kill", &["-TERM", &child.id().to_string()]);
    wait_until("it ends", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1, "only the finished output is left");
}

#[test]
fn add_unpacks_every_kind_of_archive() {
    if !crate::harness::have(&["xz", "bzip2", "zstd", "gzip"]) {
        return;
    }
    let scratch = Scratch::new();
    let inside = scratch.context("inside", &[("a/b", "content\n")]);
    let context = scratch.context("c", &[("Dockerfile", "")]);
    let mut text = String::from("FROM scratch\n");
    for (name, flag) in
        [("t.tar", "-c"), ("t.gz", "-cz"), ("t.bz2", "-cj"), ("t.xz", "-cJ"), ("t.zst", "--zstd")]
    {
        let archive = context.join(name);
        let mut arguments = vec![flag];
        if flag == "--zstd" {
            arguments.push("-c");
        }
        arguments.extend(["-f", archive.to_str().unwrap(), "-C", inside.to_str().unwrap(), "a"]);
        tool("tar", &arguments);
        text += &format!("ADD {name} /{name}/\n");
    }
    text += "ADD Dockerfile /plain\nCOPY t.tar /kept.tar\n";
    std::fs::write(context.join("Dockerfile"), text).unwrap();
    let out = scratch.path().join("out");
    scratch.build(&context, &["-o", &format!("type=local,dest={}", out.display())]).ok();
    for name in ["t.tar", "t.gz", "t.bz2", "t.xz", "t.zst"] {
        assert_eq!(std::fs::read_to_string(out.join(name).join("a/b")).unwrap(), "content\n", "{name}");
    }
    assert!(out.join("plain").is_file() && out.join("kept.tar").is_file());
}

#[test]
fn host_ca_is_trusted_by_the_step_and_leaves_no_trace() {
    let scratch = Scratch::new().with_busybox();
    let bundle = scratch.path().join("bundle.pem");
    std::fs::write(&bundle, "canary-of-the-host-bundle\n").unwrap();
    let text = "FROM busybox\nRUN mkdir -p /etc/ssl/certs && echo own > /etc/ssl/certs/ca-certificates.crt\n\
        RUN cat $SSL_CERT_FILE | cmp - /etc/ssl/certs/ca-certificates.crt && grep -q canary $REQUESTS_CA_BUNDLE && touch /seen\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    let flag = format!("--host-ca={}", bundle.display());
    let tar = scratch.path().join("out.tar");
    let output = format!("type=tar,dest={}", tar.display());
    scratch.build(&context, &[&flag, "-t", "app", "-o", &output]).ok();
    assert!(listing(&tar).iter().any(|line| line.ends_with(" seen")));
    let own = tool("tar", &["-xOf", tar.to_str().unwrap(), "etc/ssl/certs/ca-certificates.crt"]);
    assert_eq!(own, "own\n", "the bundle of the image is its own again");
    // Not part of the key: without the flag the same steps are cached.
    assert_eq!(scratch.build(&context, &["-t", "app"]).ok().cached(), 2);
    let inspect = scratch.xbuild(&["inspect", "app"]).ok().stdout;
    let image: serde_json::Value = serde_json::from_str(&inspect).unwrap();
    let env = image["config"]["config"]["Env"].to_string();
    assert!(!env.contains("SSL_CERT_FILE") && env.contains("PATH="), "{env}");
}

#[test]
fn mt_11_an_ssh_socket_has_the_mounts_owner_and_leaves_nothing() {
    let scratch = Scratch::new().with_busybox();
    let text = "FROM busybox\nRUN --mount=type=ssh,mode=741,uid=100,gid=102 stat -c '%u %g %f' $SSH_AUTH_SOCK > /out\n\
        RUN test -z \"$SSH_AUTH_SOCK\" && test ! -e /run/buildkit\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    let agent = scratch.path().join("agent");
    let _listener = std::os::unix::net::UnixListener::bind(&agent).unwrap();
    scratch.build(&context, &["-t", "app", "--ssh", &format!("default={}", agent.display())]).ok();
    assert_eq!(scratch.xbuild(&["run", "app", "cat", "/out"]).ok().stdout, "100 102 c1e1\n");
    let changed = scratch.context("c", &[("Dockerfile", &text.replace("/out", "/out2"))]);
    let missing = scratch.path().join("none");
    let run = scratch.build(&changed, &["--ssh", &format!("default={}", missing.display())]);
    assert_ne!(run.code, 0);
    assert!(run.stderr.contains("ssh agent") && run.stderr.contains("none"), "{}", run.stderr);
}
