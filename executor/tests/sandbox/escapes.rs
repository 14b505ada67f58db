//! Images and steps that try to reach the host through paths, and their legitimate twins.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use executor::sandbox::*;

use crate::cases;
use crate::fixture::{Image, bind, handle, leaves_nothing, run, shell, tree, write};

cases! {
    nothing_of_the_host_is_mounted,
    rt_01_a_working_directory_cannot_lead_out,
    rt_05_a_device_link_of_the_image_masks_nothing,
    rt_07_mounts_on_the_sandboxs_file_systems_are_refused,
    rt_08_and_10_links_instead_of_standard_directories_are_refused,
    rt_10_links_of_etc_stay_inside,
    rt_11_a_racing_cache_leads_no_mount_out,
    rt_23_and_28_masked_and_read_only_paths,
    rt_24_handles_cannot_be_opened,
}

fn nothing_of_the_host_is_mounted(spawner: &Spawner) {
    let outcome = shell(spawner, "cut -d' ' -f5 /proc/self/mountinfo; cd /..; cd ..; ls | tr '\\n' ' '");
    let expected = ["/", "/proc", "/sys", "/dev", "/etc"];
    for line in outcome.success().lines().filter(|line| line.starts_with('/')) {
        assert!(
            expected
                .iter()
                .any(|path| line == *path || line.starts_with(&format!("{path}/")) && *path != "/"),
            "{line} is mounted"
        );
    }
    assert!(outcome.output.ends_with("bin dev etc home proc root run sys tmp var "), "{}", outcome.output);
    assert_eq!(outcome.output.lines().filter(|line| *line == "/").count(), 1, "{}", outcome.output);
}

fn rt_01_a_working_directory_cannot_lead_out(spawner: &Spawner) {
    let image = Image::new();
    symlink("/proc/self/fd/8", image.lower.join("link")).expect("the image can be made");
    let canary = image.scratch.path().join("canary");
    write(&canary, "canary");
    let targets = (3..64).map(|number| format!("/proc/self/fd/{number}")).chain(
        [
            "/proc/self/cwd",
            "/proc/1/cwd/../..",
            "/proc/1/root",
            "/proc/self/fd/8/../../..",
            "/link",
            "/link/..",
            "/../../..",
        ]
        .map(str::to_owned),
    );
    for target in targets {
        let mut spec = image
            .shell(&format!("pwd; cat ../../../../../..{} 2>/dev/null; ls ../../..; true", canary.display()));
        spec.cwd = target.clone().into();
        let outcome = run(spawner, spec);
        match &outcome.end {
            Ok(_) => assert!(
                !outcome.output.contains("canary") && outcome.output.contains("bin\n"),
                "{target}: {}",
                outcome.output
            ),
            Err(error) => assert!(error.to_string().starts_with("working directory"), "{target}: {error}"),
        }
    }
}

fn rt_05_a_device_link_of_the_image_masks_nothing(spawner: &Spawner) {
    let image = Image::new();
    symlink("/proc/sys/kernel/core_pattern", image.lower.join("dev/null")).expect("the image can be made");
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("it can be read");
    let outcome = run(
        spawner,
        image.shell(
            "stat -c '%t %T' /dev/null /proc/keys; echo x > /proc/sys/kernel/core_pattern || echo refused",
        ),
    );
    assert!(outcome.success().starts_with("1 3\n1 3\n"), "{}", outcome.output);
    assert!(outcome.output.ends_with("refused\n"), "{}", outcome.output);
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").expect("it can be read"), before);
}

fn rt_07_mounts_on_the_sandboxs_file_systems_are_refused(spawner: &Spawner) {
    let image = Image::new();
    symlink("/proc/sys", image.lower.join("innocent")).expect("the image can be made");
    symlink("/dev", image.lower.join("devices")).expect("the image can be made");
    for target in [
        "/proc",
        "/proc/self/attr",
        "/sys/x",
        "/dev",
        "/dev/null",
        "/a/../proc/sys",
        "/innocent",
        "/innocent/new",
        "/devices/null",
        "/devices/new",
        "/",
    ] {
        let mut spec = image.shell("true");
        spec.mounts.push(bind(target, MountSource::Tmpfs { size: None, mode: 0o755 }, Access::ReadWrite));
        let refusal = run(spawner, spec).refusal();
        assert!(refusal.starts_with("mount target"), "{target}: {refusal}");
    }
    let mut spec =
        image.shell("touch /dev/shm/sub/x && df -k /dev/shm/sub | tail -1 | tr -s ' ' | cut -d' ' -f2");
    spec.mounts.push(bind(
        "/dev/shm/sub",
        MountSource::Tmpfs { size: Some(4096), mode: 0o777 },
        Access::ReadWrite,
    ));
    assert_eq!(run(spawner, spec).success(), "4\n");
}

fn rt_08_and_10_links_instead_of_standard_directories_are_refused(spawner: &Spawner) {
    for name in ["dev", "proc", "sys"] {
        for to in ["/canary", "canary", "../../../../tmp"] {
            let image = Image::new();
            fs::remove_dir(image.lower.join(name)).expect("the image can be made");
            fs::create_dir(image.lower.join("canary")).expect("the image can be made");
            symlink(to, image.lower.join(name)).expect("the image can be made");
            let outcome = run(spawner, image.shell("true"));
            assert!(outcome.refusal().contains("must be a directory"), "{}", outcome.refusal());
            assert_eq!(tree(&image.lower.join("canary")), Vec::<String>::new());
        }
    }
}

fn rt_10_links_of_etc_stay_inside(spawner: &Spawner) {
    let image = Image::new();
    let canary = image.scratch.path().join("canary");
    write(&canary, "canary");
    symlink(&canary, image.lower.join("etc/hosts")).expect("the image can be made");
    symlink("../../../../../../../../../../../../tmp/other-canary", image.lower.join("etc/resolv.conf"))
        .expect("the image can be made");
    let outcome = run(spawner, image.shell("cat /etc/hosts; cat /tmp/other-canary"));
    assert_eq!(outcome.success(), "127.0.0.1 localhost\nnameserver 192.0.2.1\n");
    assert_eq!(fs::read_to_string(&canary).expect("it is there"), "canary");
    assert!(!Path::new("/tmp/other-canary").exists());
    leaves_nothing(&outcome);
}

fn rt_11_a_racing_cache_leads_no_mount_out(spawner: &Spawner) {
    use rustix::fs::{CWD, RenameFlags};
    let image = Image::new();
    let canary = image.scratch.path().join("canary");
    fs::create_dir(&canary).expect("it can be made");
    let before = fs::metadata(&canary).expect("it exists").mtime_nsec();
    let cache = image.scratch.path().join("cache");
    fs::create_dir_all(cache.join("dir")).expect("it can be made");
    symlink(&canary, cache.join("link")).expect("it can be made");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (from, to) = (cache.join("dir"), cache.join("link"));
        scope.spawn({
            let stop = &stop;
            move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::EXCHANGE);
                }
            }
        });
        let started = (0..100).filter(|_| {
            let mut spec = image.shell("touch /cache/dir/mount/x");
            spec.mounts = vec![
                bind("/cache", handle(&cache), Access::ReadWrite),
                bind("/cache/dir/mount", MountSource::Tmpfs { size: None, mode: 0o777 }, Access::ReadWrite),
            ];
            run(spawner, spec).end.is_ok()
        });
        assert!(started.count() > 0, "the race is sometimes lost by the attacker");
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(tree(&canary), Vec::<String>::new());
    assert_eq!(fs::metadata(&canary).expect("it exists").mtime_nsec(), before);
}

fn rt_23_and_28_masked_and_read_only_paths(spawner: &Spawner) {
    let script = "
        for p in /proc/acpi /proc/asound /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do [ -e $p ] && ls -A $p; done
        for p in /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/timer_list; do [ -e $p ] && cat $p; done
        for p in /proc/bus /proc/fs /proc/irq /proc/sys; do touch $p/x 2>/dev/null && echo written $p; done
        echo b > /proc/sysrq-trigger && echo rebooted
        echo 1 > /proc/sys/kernel/sysrq && echo sysctl
        touch /sys/x && echo sys
        mkdir /sys/fs/cgroup/x && echo cgroup
        true";
    let outcome = shell(spawner, script);
    let loud: Vec<&str> = outcome
        .success()
        .lines()
        .filter(|line| {
            !line.starts_with("/bin/sh:") && !line.starts_with("touch:") && !line.starts_with("mkdir:")
        })
        .collect();
    assert!(loud.is_empty(), "{loud:?}");
    assert!(outcome.output.contains("Read-only file system"), "{}", outcome.output);
    assert_eq!(shell(spawner, "cat /proc/sys/kernel/ostype; cat /proc/self/comm").success(), "Linux\ncat\n");
}

fn rt_24_handles_cannot_be_opened(spawner: &Spawner) {
    // busybox has no open_by_handle_at; the filter's answer is tested with the others, the capability here.
    let outcome = shell(spawner, "grep CapEff /proc/self/status");
    let bits =
        u64::from_str_radix(outcome.success().trim_start_matches("CapEff:").trim(), 16).expect("hexadecimal");
    assert_eq!(bits & (1 << 2), 0, "CAP_DAC_READ_SEARCH");
}
