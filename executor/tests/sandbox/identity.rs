//! Who a step is and what the kernel refuses it.

use executor::sandbox::*;

use crate::cases;
use crate::fixture::{Image, run, shell};

cases! {
    rt_02_only_the_standard_streams_are_open,
    rt_03_the_program_of_init_is_out_of_reach,
    rt_13_capabilities_are_dockers_with_nothing_inheritable,
    rt_14_groups_are_those_asked_for,
    rt_17_su_works_unless_privileges_are_fixed,
    rt_19_no_foreign_process_is_seen,
    rt_20_host_keys_are_out_of_reach,
    rt_21_the_kernel_log_is_out_of_reach,
    rt_22_devices_can_be_made_but_not_opened,
    rt_25_chroot_does_not_lead_out,
    rt_26_namespaces_cannot_be_made,
    rt_29_host_name_and_clock_cannot_be_set,
    rt_30_standard_input_is_empty_and_there_is_no_terminal,
    rt_32_no_core_is_dumped,
    net_01_without_network_there_is_only_loopback,
    host_network_is_the_hosts,
    insecure_steps_may_mount,
    limits_and_environment_are_set,
    res_01_a_fork_bomb_meets_its_limit,
    res_02_a_memory_hog_is_told,
    other_users_can_open_dev_stdout,
}

fn status(text: &str, key: &str) -> u64 {
    let line =
        text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key} in {text}"));
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).expect("hexadecimal")
}

fn as_user(image: &Image, script: &str) -> StepSpec {
    let mut spec = image.shell(script);
    spec.user = User { uid: 1000, gid: 1000, groups: Vec::new() };
    spec
}

fn rt_02_only_the_standard_streams_are_open(spawner: &Spawner) {
    // ls itself opens the directory as 3.
    assert_eq!(shell(spawner, "ls /proc/self/fd | tr '\\n' ' '").success(), "0 1 2 3 ");
}

fn rt_03_the_program_of_init_is_out_of_reach(spawner: &Spawner) {
    for attempt in [
        "readlink /proc/1/exe",
        "cat /proc/1/exe",
        "cat /proc/1/fd/4",
        "readlink /proc/1/fd/3",
        "cat /proc/1/environ",
        "cat /proc/1/mem",
        "ls /proc/1/root/",
    ] {
        let outcome = shell(spawner, attempt);
        assert_ne!(outcome.ended().status, ExitStatus::Code(0), "{attempt}: {}", outcome.output);
    }
    let twin = shell(spawner, "readlink /proc/self/exe");
    assert_eq!(twin.success(), "/bin/busybox\n");
}

fn rt_13_capabilities_are_dockers_with_nothing_inheritable(spawner: &Spawner) {
    const DOCKER: u64 = 0xA804_25FB;
    let image = Image::new();
    let root = shell(spawner, "cat /proc/self/status");
    let root = root.success();
    for (set, expected) in
        [("CapInh", 0), ("CapPrm", DOCKER), ("CapEff", DOCKER), ("CapBnd", DOCKER), ("CapAmb", 0)]
    {
        assert_eq!(status(root, set) & !(1 << 27), expected & !(1 << 27), "{set} of root");
    }
    assert_eq!(status(root, "Seccomp"), 2);
    assert_eq!(status(root, "NoNewPrivs"), 0);
    let user = run(spawner, as_user(&image, "cat /proc/self/status"));
    for (set, expected) in [("CapInh", 0), ("CapPrm", 0), ("CapEff", 0), ("CapAmb", 0)] {
        assert_eq!(status(user.success(), set), expected, "{set} of a user");
    }
    assert_eq!(status(user.success(), "CapBnd") & !DOCKER, 0);
}

fn rt_14_groups_are_those_asked_for(spawner: &Spawner) {
    let image = Image::new();
    let mut spec = as_user(&image, "id -u; id -G");
    assert_eq!(run(spawner, spec).success(), "1000\n1000\n");
    spec = as_user(&image, "id -G");
    spec.user.groups = vec![4, 27];
    assert_eq!(run(spawner, spec).success(), "1000 4 27\n");
    assert_eq!(shell(spawner, "id -G").success(), "0\n");
}

fn rt_17_su_works_unless_privileges_are_fixed(spawner: &Spawner) {
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(shell(spawner, "su user -c 'id -u'").success(), "1000\n");
    let image = Image::new();
    std::fs::copy("/bin/busybox", image.lower.join("bin/id-setuid")).expect("the image can be made");
    std::fs::set_permissions(image.lower.join("bin/id-setuid"), std::fs::Permissions::from_mode(0o4755))
        .expect("mode can be set");
    // busybox drops setuid for applets that need none, so the kernel's view is asked for through the auxiliary vector's twin.
    let probe = "grep NoNewPrivs /proc/self/status | tr -d '\\t'";
    assert_eq!(run(spawner, as_user(&image, probe)).success(), "NoNewPrivs:0\n");
    let mut spec = as_user(&image, probe);
    spec.privileges = Privileges::Fixed;
    assert_eq!(run(spawner, spec).success(), "NoNewPrivs:1\n");
}

fn rt_19_no_foreign_process_is_seen(spawner: &Spawner) {
    let outcome =
        shell(spawner, "for p in /proc/[0-9]*; do echo ${p#/proc/} $(cat $p/comm 2>/dev/null); done");
    let names: Vec<&str> = outcome.success().lines().collect();
    assert!(names.len() <= 4 && names[0].starts_with("1 "), "{names:?}");
}

fn rt_20_host_keys_are_out_of_reach(spawner: &Spawner) {
    let outcome = shell(spawner, "cat /proc/keys | wc -c; cat /proc/key-users > /dev/null; echo $?");
    assert!(outcome.success().starts_with("0\n"), "{}", outcome.output);
}

fn rt_21_the_kernel_log_is_out_of_reach(spawner: &Spawner) {
    for attempt in [
        "dmesg",
        "cat /dev/kmsg",
        "cat /dev/mem",
        "dd if=/proc/kcore of=/dev/null bs=1 count=1 2>/dev/null | wc -c; test -s /proc/kcore",
    ] {
        let outcome = shell(spawner, attempt);
        assert_ne!(outcome.ended().status, ExitStatus::Code(0), "{attempt}: {}", outcome.output);
    }
}

fn rt_22_devices_can_be_made_but_not_opened(spawner: &Spawner) {
    let outcome = shell(
        spawner,
        "mknod /b b 8 0 2>&1; mknod /m c 1 1 2>&1; dd if=/b of=/dev/null count=1; dd if=/m of=/dev/null count=1; true",
    );
    let denied = outcome.success().matches("Operation not permitted").count()
        + outcome.output.matches("ermission denied").count()
        + outcome.output.matches("No such file").count();
    assert!(denied >= 2, "{}", outcome.output);
    assert!(!outcome.output.contains("records in"), "{}", outcome.output);
    assert_eq!(
        shell(
            spawner,
            "head -c 3 /dev/zero | od -An -tx1; echo x > /dev/null; head -c 1 /dev/urandom | wc -c"
        )
        .success(),
        " 00 00 00\n1\n"
    );
}

fn rt_25_chroot_does_not_lead_out(spawner: &Spawner) {
    let script = "mkdir /jail; cp /bin/busybox /jail/; cd /; chroot /jail /busybox sh -c 'cd ../../../..; /busybox ls -d bin etc jail 2>&1'; cd /../../..; ls -d bin jail";
    let outcome = shell(spawner, script);
    assert!(outcome.success().ends_with("bin\njail\n"), "{}", outcome.output);
    let host = shell(spawner, "ls -d /work /boot /srv /usr 2>/dev/null; ls / | tr '\\n' ' '");
    assert_eq!(host.success(), "bin dev etc home proc root run sys tmp var ", "{}", host.output);
}

fn rt_26_namespaces_cannot_be_made(spawner: &Spawner) {
    for attempt in [
        "unshare -U true",
        "unshare -m true",
        "unshare -n true",
        "mount -t tmpfs none /tmp",
        "mount -o remount,rw /proc/sys",
        "umount /proc/sys",
        "umount /proc/kcore",
        "mount --bind /proc/sys /tmp",
        "nsenter -t 1 -m true",
    ] {
        let outcome = shell(spawner, attempt);
        assert_ne!(outcome.ended().status, ExitStatus::Code(0), "{attempt}: {}", outcome.output);
        assert!(
            outcome.output.contains("ermitted") || outcome.output.contains("ermission denied"),
            "{attempt}: {}",
            outcome.output
        );
    }
}

fn rt_29_host_name_and_clock_cannot_be_set(spawner: &Spawner) {
    for attempt in ["hostname evil", "date -s 2001-01-01 > /dev/null; test $(date +%Y) = 2001", "hwclock -w"]
    {
        let outcome = shell(spawner, attempt);
        assert_ne!(outcome.ended().status, ExitStatus::Code(0), "{attempt}: {}", outcome.output);
    }
    assert_eq!(shell(spawner, "hostname").success(), "step\n");
}

fn rt_30_standard_input_is_empty_and_there_is_no_terminal(spawner: &Spawner) {
    let outcome = shell(
        spawner,
        "cat; readlink /proc/self/fd/0; cat /dev/tty 2>&1; test -e /dev/console && echo console; true",
    );
    assert!(outcome.success().starts_with("/dev/null\n"), "{}", outcome.output);
    assert!(outcome.output.contains("No such device or address"), "{}", outcome.output);
    assert!(!outcome.output.contains("console"), "{}", outcome.output);
}

fn rt_32_no_core_is_dumped(spawner: &Spawner) {
    let outcome =
        shell(spawner, "grep core /proc/self/limits | tr -s ' '; cd /tmp; sh -c 'kill -SEGV $$'; ls -A /tmp");
    assert!(outcome.success().starts_with("Max core file size 0 0 bytes"), "{}", outcome.output);
    assert!(!outcome.output.contains("\ncore"), "{}", outcome.output);
}

fn net_01_without_network_there_is_only_loopback(spawner: &Spawner) {
    let listener = {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("xbuild-test-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
        (std::os::unix::net::UnixListener::bind_addr(&address).expect("a free name"), name)
    };
    let outcome = shell(
        spawner,
        "ls /sys/class/net; wc -l < /proc/net/route; cat /proc/net/unix; ping -c 1 -W 1 127.0.0.1 > /dev/null && echo up; ping -c 1 -W 1 192.0.2.1 2>&1",
    );
    assert!(outcome.output.starts_with("lo\n"), "{}", outcome.output);
    assert!(outcome.output.contains("up\n"), "{}", outcome.output);
    assert!(
        outcome.output.contains("etwork is unreachable") || outcome.output.contains("Network unreachable"),
        "{}",
        outcome.output
    );
    assert!(!outcome.output.contains(&listener.1), "{}", outcome.output);
}

fn host_network_is_the_hosts(spawner: &Spawner) {
    let image = Image::new();
    let mut spec = image.shell("readlink /proc/self/ns/net");
    spec.network = StepNetwork::Host;
    let host = std::fs::read_link("/proc/self/ns/net").expect("it can be read");
    assert_eq!(run(spawner, spec).success().trim(), host.to_string_lossy());
}

fn insecure_steps_may_mount(spawner: &Spawner) {
    let image = Image::new();
    let mut spec = image.shell("mount -t tmpfs none /tmp && grep Seccomp: /proc/self/status | tr -d '\\t'");
    spec.security = Security::Insecure;
    assert_eq!(run(spawner, spec).success(), "Seccomp:0\n");
}

fn limits_and_environment_are_set(spawner: &Spawner) {
    let image = Image::new();
    let mut spec = image.shell("ulimit -n; umask; pwd; echo $A; cat /proc/self/oom_score_adj; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2");
    spec.env.push(("A".into(), "b c".into()));
    spec.cwd = "/home/user".into();
    spec.limits.shm_size = 1 << 20;
    spec.ulimits =
        vec![Rlimit { resource: Resource::parse("nofile").expect("it exists"), soft: 77, hard: 99 }];
    let outcome = run(spawner, spec);
    let lines: Vec<&str> = outcome.success().lines().collect();
    assert_eq!(lines[..4], ["77", "0022", "/home/user", "b c"]);
    assert!(lines[4].parse::<i32>().expect("a number") >= 200, "{lines:?}");
    assert_eq!(lines[5], "1024");
}

fn res_01_a_fork_bomb_meets_its_limit(spawner: &Spawner) {
    let image = Image::new();
    let mut spec = image.shell("i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done; echo survived");
    spec.limits.pids = Some(20);
    let outcome = run(spawner, spec);
    match outcome.ended().pids_limit {
        PidsLimit::Unwatched => println!("SKIP: no control group with the pids controller can be written"),
        limit => assert_eq!(limit, PidsLimit::Hit { limit: 20 }, "{}", outcome.output),
    }
    assert_ne!(outcome.ended().status, ExitStatus::Code(0), "{}", outcome.output);
    assert_ne!(shell(spawner, "true").ended().pids_limit, PidsLimit::Hit { limit: 4096 });
}

fn res_02_a_memory_hog_is_told(spawner: &Spawner) {
    let image = Image::new();
    let mut spec = image.shell("head -c 200000000 /dev/zero | tail -c 190000000 | wc -c");
    spec.limits.memory = Some(32 << 20);
    let outcome = run(spawner, spec);
    match &outcome.end {
        Err(error) if error.to_string().contains("--memory") => println!("SKIP: {error}"),
        _ => assert_eq!(outcome.ended().oom, OutOfMemory::Killed { limit: 32 << 20 }, "{}", outcome.output),
    }
}

fn other_users_can_open_dev_stdout(spawner: &Spawner) {
    let image = Image::new();
    assert_eq!(
        run(spawner, as_user(&image, "echo out > /dev/stdout; echo err > /dev/stderr")).success(),
        "out\nerr\n"
    );
}
