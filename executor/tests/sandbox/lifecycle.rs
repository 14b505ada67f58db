//! Start, end and death of steps.

use std::path::Path;
use std::time::{Duration, Instant};

use executor::sandbox::*;

use crate::cases;
use crate::fixture::{Image, bind, handle, read_all, run, shell, start};

cases! {
    output_and_exit_codes_are_told,
    signals_are_told,
    rt_18_a_step_cannot_kill_its_init,
    daemons_that_hold_the_output_do_not_hang_the_step,
    terminate_grants_a_grace_and_then_kills,
    kill_ends_a_step_at_once,
    dropping_a_step_kills_it,
    steps_run_at_once_from_many_threads,
    exec_failures_are_distinct,
    try_wait_does_not_block,
    a_process_that_cannot_die_is_told_of,
    kill_9_of_the_builder_leaves_nothing,
    rt_02_descriptors_of_the_caller_reach_no_step,
    the_death_of_the_spawner_is_told_and_takes_its_steps_along,
}

/// How long something that happens at once may take on a slow and busy machine. What it is told from lasts longer.
const PATIENCE: Duration = Duration::from_secs(120);

fn output_and_exit_codes_are_told(spawner: &Spawner) {
    for code in [0, 1, 42, 255] {
        let outcome = shell(spawner, &format!("echo out; echo err >&2; exit {code}"));
        assert_eq!(outcome.ended().status, ExitStatus::Code(code));
        assert_eq!(outcome.output, "out\nerr\n");
    }
}

fn signals_are_told(spawner: &Spawner) {
    for signal in [9, 11, 15] {
        assert_eq!(shell(spawner, &format!("kill -{signal} $$")).ended().status, ExitStatus::Signal(signal));
    }
}

fn rt_18_a_step_cannot_kill_its_init(spawner: &Spawner) {
    assert_eq!(
        shell(spawner, "sleep 100 & kill -9 -1; kill -9 1; kill -15 1; echo alive").success(),
        "alive\n"
    );
    let processes = shell(spawner, "ls -d /proc/[0-9]* | wc -l");
    assert!(
        processes.success().trim().parse::<u32>().expect("wc prints a number") <= 5,
        "{}",
        processes.output
    );
}

fn daemons_that_hold_the_output_do_not_hang_the_step(spawner: &Spawner) {
    let began = Instant::now();
    let outcome = shell(spawner, "setsid sleep 1000 & setsid sh -c 'sleep 1000 & sleep 1000' & echo done");
    assert_eq!(outcome.success(), "done\n");
    assert!(began.elapsed() < PATIENCE, "took {:?}", began.elapsed());
}

fn terminate_grants_a_grace_and_then_kills(spawner: &Spawner) {
    let image = Image::new();
    for (script, grace, expected) in [
        ("trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done", 120_000, ExitStatus::Code(3)),
        ("trap '' TERM; echo up; while :; do sleep 0.05; done", 100, ExitStatus::Signal(9)),
    ] {
        let (step, mut reader) = start(spawner, &image.shell(script));
        let step = step.expect("the step starts");
        std::io::Read::read_exact(&mut reader, &mut [0; 3]).expect("the step says up");
        step.killer().terminate(Duration::from_millis(grace));
        assert_eq!(step.wait().expect("it was started").status, expected, "{script}");
    }
}

fn kill_ends_a_step_at_once(spawner: &Spawner) {
    let image = Image::new();
    let (step, _reader) = start(spawner, &image.shell("trap '' TERM; sleep 1000; sleep 1000"));
    let step = step.expect("the step starts");
    let began = Instant::now();
    step.killer().kill();
    assert_eq!(step.wait().expect("it was started").status, ExitStatus::Signal(9));
    assert!(began.elapsed() < PATIENCE, "took {:?}", began.elapsed());
}

fn dropping_a_step_kills_it(spawner: &Spawner) {
    let image = Image::new();
    let (step, reader) = start(spawner, &image.shell("echo up; sleep 1000"));
    drop(step);
    read_all(reader); // ends only when every process of the step is gone
}

/// Each step ends only when all six have begun: however few processors there are, none waits for another.
fn steps_run_at_once_from_many_threads(spawner: &Spawner) {
    let images: Vec<Image> = (0..6).map(|_| Image::new()).collect();
    let meet = tempfile::tempdir().expect("a scratch directory can be made");
    std::thread::scope(|scope| {
        for (number, image) in images.iter().enumerate() {
            let script = format!(
                "touch /meet/{number}; n=0; until [ $(ls /meet | wc -l) = 6 ]; do n=$((n+1)); [ $n -lt 1200 ] || exit 9; sleep 0.1; done"
            );
            let mut spec = image.shell(&script);
            spec.mounts.push(bind("/meet", handle(meet.path()), Access::ReadWrite));
            scope.spawn(move || run(spawner, spec).success().to_owned());
        }
    });
}

fn exec_failures_are_distinct(spawner: &Spawner) {
    use std::os::unix::fs::PermissionsExt;
    let image = Image::new();
    let file = |name: &str, content: &[u8], mode| {
        let path = image.lower.join(name);
        std::fs::write(&path, content).expect("the image can be made");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
            .expect("the image can be made");
    };
    let mut arm = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0\x01\0\0\0".to_vec();
    arm.resize(4096, 0);
    file("script", b"#!/bin/nosuch -x\necho\n", 0o755);
    file("dos", b"#!/bin/sh\r\necho\n", 0o755);
    file("text", b"echo hello\n", 0o755);
    file("arm", &arm, 0o755);
    file("plain", b"#!/bin/sh\n", 0o644);
    for (args, expected) in [
        (vec!["/nosuch"], "/nosuch: no such file in the image"),
        (vec!["nosuch"], "nosuch: no such file in the image — searched /bin"),
        (vec!["/script"], "interpreter /bin/nosuch does not exist"),
        (vec!["/dos"], "interpreter /bin/sh\\r does not exist"),
        (vec!["/text"], "neither an ELF file nor a script"),
        (vec!["/arm"], "built for arm64"),
        (vec!["/plain"], "permission denied"),
        (vec!["/etc"], "permission denied"),
        (vec![""], "no such file"),
    ] {
        let refusal = run(spawner, image.program(&args)).refusal();
        assert!(refusal.contains(expected), "{args:?}: {refusal}");
    }
    assert_eq!(run(spawner, image.program(&["echo", "found"])).success(), "found\n");
}

fn try_wait_does_not_block(spawner: &Spawner) {
    let image = Image::new();
    let gate = image.scratch.path().join("gate");
    std::fs::create_dir(&gate).expect("it can be made");
    let mut spec = image.shell("until [ -e /gate/open ]; do sleep 0.05; done; exit 7");
    spec.mounts.push(bind("/gate", handle(&gate), Access::ReadOnly));
    let (step, _reader) = start(spawner, &spec);
    let mut step = step.expect("the step starts");
    assert!(step.try_wait().expect("nothing is wrong").is_none());
    std::fs::write(gate.join("open"), "").expect("it can be written");
    let end = loop {
        match step.try_wait().expect("nothing is wrong") {
            Some(end) => break end,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    assert_eq!(end.status, ExitStatus::Code(7));
}

/// A process in a frozen v1 group takes no SIGKILL until it is thawed: as good as one on a hung file system.
fn a_process_that_cannot_die_is_told_of(spawner: &Spawner) {
    let group = Path::new("/sys/fs/cgroup/freezer").join(format!("test-{}", std::process::id()));
    if std::fs::create_dir(&group).is_err() {
        return crate::skip(&"no freezer group of cgroup v1 can be made here");
    }
    let image = Image::new();
    let (step, mut reader) = start(spawner, &image.shell("sleep 1000 & echo up; wait"));
    std::io::Read::read_exact(&mut reader, &mut [0; 3]).expect("the step says up");
    let named = |line: &[u8]| {
        descendants(std::process::id()).into_iter().find(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|found| found.starts_with(line))
        })
    };
    let sleeper = loop {
        // It says up before the sleep is executed.
        match named(b"sleep\x001000\0") {
            Some(sleeper) => break sleeper,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let write =
        |file: &str, text: &str| std::fs::write(group.join(file), text).expect("the group can be written");
    write("tasks", &sleeper.to_string());
    write("freezer.state", "FROZEN");
    let main = named(b"/bin/sh\0");
    let main = rustix::process::Pid::from_raw(main.expect("it runs") as i32).expect("it is positive");
    rustix::process::kill_process(main, rustix::process::Signal::TERM).expect("it runs");
    let told = step.expect("the step starts").wait().expect_err("it cannot end").to_string();
    write("freezer.state", "THAWED");
    assert!(told.contains("(sleep) does not die"), "{told}");
    read_all(reader);
    while std::fs::remove_dir(&group).is_err() {
        assert!(group.exists()); // busy until the spawner has reaped
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Times a RUN of `true`: `sandbox --bench`, by hand.
pub fn bench() {
    let spawner = Spawner::start().expect("it runs as root");
    let image = Image::new();
    let skeleton = image.skeleton();
    let with_skeleton = || {
        let mut spec = image.program(&["/bin/true"]);
        spec.rootfs.lowers.push(skeleton.clone());
        spec
    };
    time(&spawner, "one `true`", (0..40).map(|_| image.program(&["/bin/true"])).collect());
    time(&spawner, "one `true` over a skeleton", (0..40).map(|_| with_skeleton()).collect());
}

fn time(spawner: &Spawner, what: &str, steps: Vec<StepSpec>) {
    let mut times = Vec::new();
    for step in steps {
        let began = Instant::now();
        assert_eq!(run(spawner, step).success(), "");
        times.push(began.elapsed());
    }
    times.sort();
    println!("{what}: fastest {:?}, median {:?}", times[0], times[20]);
}

/// Processes that the cases below start, because each needs one that has no thread yet.
pub fn child(case: &str) {
    match case {
        "killed" => killed(),
        "descriptors" => descriptors(),
        "spawner" => spawner_dies(),
        other => panic!("no child case {other}"),
    }
}

fn in_child(case: &str) -> std::process::Command {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.args(["--child", case]).stdout(std::process::Stdio::piped());
    command
}

fn output_of(case: &str) -> String {
    let output = in_child(case).output().expect("the test program runs");
    assert!(output.status.success(), "{case}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Leaves directories of the host open for its children, then runs a step.
fn descriptors() {
    let root = std::fs::File::open("/").expect("it can be opened");
    for number in 0..20 {
        let open = rustix::io::dup(&root).expect("descriptors are left");
        assert!(
            number < 20
                && !rustix::io::fcntl_getfd(&open)
                    .expect("it is open")
                    .contains(rustix::io::FdFlags::CLOEXEC)
        );
        std::mem::forget(open);
    }
    let spawner = Spawner::start().expect("the parent could");
    print!("{}", shell(&spawner, "ls /proc/self/fd | tr '\\n' ' '").success());
}

fn rt_02_descriptors_of_the_caller_reach_no_step(_: &Spawner) {
    assert_eq!(output_of("descriptors"), "0 1 2 3 ");
}

fn spawner_dies() {
    let spawner = Spawner::start().expect("the parent could");
    let image = Image::new();
    let (step, mut reader) = start(&spawner, &image.shell("echo up; sleep 1000"));
    std::io::Read::read_exact(&mut reader, &mut [0; 3]).expect("the step says up");
    for child in children(std::process::id()) {
        let child = rustix::process::Pid::from_raw(child as i32).expect("it is positive");
        rustix::process::kill_process(child, rustix::process::Signal::KILL).expect("it lives");
    }
    println!("{}", step.expect("the step starts").wait().expect_err("nobody can tell how it ended"));
    read_all(reader); // ends only when every process of the step is gone
    let (again, _) = start(&spawner, &image.shell("true"));
    println!("{}", again.expect_err("nobody is there to start it"));
}

fn the_death_of_the_spawner_is_told_and_takes_its_steps_along(_: &Spawner) {
    let told = output_of("spawner");
    assert_eq!(told.matches("the process that starts steps has died").count(), 2, "{told}");
}

fn killed() {
    let spawner = Spawner::start().expect("the parent could");
    let image = Image::new();
    println!("{}", image.scratch.path().display());
    let script = "setsid sh -c 'sleep 1000 & sleep 1000' & sleep 1000 & echo up; exec sleep 1000";
    let (step, mut reader) = start(&spawner, &image.shell(script));
    std::io::Read::read_exact(&mut reader, &mut [0; 3]).expect("the step says up");
    println!("up");
    drop(step.expect("the step starts").wait());
}

fn kill_9_of_the_builder_leaves_nothing(_: &Spawner) {
    let mut builder = in_child("killed").spawn().expect("the test program runs");
    let mut lines =
        std::io::BufRead::lines(std::io::BufReader::new(builder.stdout.take().expect("it is piped")));
    let scratch = lines.next().expect("a line").expect("text");
    assert_eq!(lines.next().expect("a line").expect("text"), "up");
    let groups_before = groups();
    let family = descendants(builder.id());
    assert!(family.len() >= 4, "spawner, init, program, daemon: {family:?}");
    builder.kill().expect("it lives");
    builder.wait().expect("it is our child");
    none_left(|| family.iter().filter_map(|pid| living(*pid)).collect());
    let mounts = std::fs::read_to_string("/proc/1/mountinfo").expect("init's mounts can be read");
    assert!(!mounts.contains(&scratch), "a mount of the step is left");
    // A group is busy until its last process is reaped; and others' builders may be ending at this moment.
    none_left(|| {
        sweep();
        groups().into_iter().filter(|group| groups_before.contains(group) && !is_locked(group)).collect()
    });
    std::fs::remove_dir_all(scratch).expect("the killed builder's scratch can be removed");
}

/// Waits until nothing is found any more.
fn none_left<T: std::fmt::Debug>(find: impl Fn() -> Vec<T>) {
    let began = Instant::now();
    loop {
        let left = find();
        if left.is_empty() {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "left after {:?}: {left:?}", began.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The stat line of a process that is no zombie: those wait for this machine's init.
fn living(pid: u32) -> Option<String> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let state = line.rsplit(')').next()?.split_whitespace().next()?.to_owned();
    (state != "Z").then_some(line)
}

fn children(parent: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn descendants(parent: u32) -> Vec<u32> {
    children(parent).into_iter().flat_map(|child| std::iter::once(child).chain(descendants(child))).collect()
}

/// Directories of builders in every hierarchy.
fn groups() -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![(std::path::PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((directory, depth)) = todo.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("xbuild-") {
                found.push(entry.path());
            } else if depth < 4 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                todo.push((entry.path(), depth + 1));
            }
        }
    }
    found
}

fn is_locked(path: &Path) -> bool {
    let Ok(directory) = std::fs::File::open(path) else { return false };
    rustix::fs::flock(&directory, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
}
