//! Groups on the hierarchies of the machine that runs the tests.

use super::*;
use crate::sandbox::sys::{self, Cloned};

/// Groups in the v2 hierarchy alone, as on a host without v1.
fn unified() -> Option<Groups> {
    let hierarchies: Vec<_> =
        discover::hierarchies().into_iter().filter(|hierarchy| hierarchy.version == Version::Two).collect();
    let groups = Groups { hierarchies, own: Mutex::new(Vec::new()), next: AtomicU64::new(0) };
    groups.own_directory(groups.hierarchies.first()?)?;
    Some(groups)
}

#[test]
fn on_version_two_a_step_is_made_in_its_group_with_a_device_program() {
    let Some(groups) = unified() else {
        return println!("SKIP: no cgroup2 hierarchy can be written here");
    };
    let mut step = groups.step(&Limits::default(), Security::Sandbox).expect("nothing is asked for by name");
    assert_eq!(step.devices(), DeviceControl::Group);
    assert!(step.joins().is_empty(), "v2 groups are not joined");
    let path = step.directories[0].clone();
    match sys::clone_into(step.unified().expect("the group was made")).expect("it can be cloned into") {
        Cloned::Child => loop {
            rustix::event::pause();
        },
        Cloned::Parent(pid) => {
            let members = std::fs::read_to_string(path.join("cgroup.procs")).expect("it can be read");
            let child = rustix::process::Pid::from_raw(pid).expect("it is positive");
            rustix::process::kill_process(child, rustix::process::Signal::KILL).expect("it is ours");
            rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty()).expect("it is ours");
            assert_eq!(members, format!("{pid}\n"));
        }
    }
    step.remove();
    assert!(!path.exists());
    let own = path.parent().expect("it has one").to_owned();
    drop(groups);
    assert!(!own.exists(), "the builder's directory goes with the builder");
}

#[test]
fn insecure_steps_keep_their_devices() {
    let Some(groups) = unified() else {
        return println!("SKIP: no cgroup2 hierarchy can be written here");
    };
    let step = groups.step(&Limits::default(), Security::Insecure).expect("nothing is asked for by name");
    assert_eq!(step.devices(), DeviceControl::None);
}

#[test]
fn a_limit_that_cannot_be_kept_is_an_error() {
    let groups = Groups { hierarchies: Vec::new(), own: Mutex::new(Vec::new()), next: AtomicU64::new(0) };
    for (limits, flag) in [
        (Limits { memory: Some(1 << 20), ..Limits::default() }, "--memory"),
        (Limits { cpu_quota: Some(1000), ..Limits::default() }, "--cpu-quota"),
        (Limits { cpuset: Some("0".to_owned()), ..Limits::default() }, "--cpuset-cpus"),
    ] {
        let error = groups.step(&limits, Security::Sandbox).expect_err("there are no groups").to_string();
        assert!(error.starts_with(flag), "{error}");
    }
    let step =
        groups.step(&Limits::default(), Security::Sandbox).expect("the default is kept where it can be");
    assert_eq!(step.verdicts(), (OutOfMemory::Unwatched, PidsLimit::Unwatched));
}

#[test]
fn a_sweep_takes_what_is_not_locked() {
    let base = discover::hierarchies().into_iter().map(|hierarchy| hierarchy.base).find(|base| {
        let probe = base.join(format!("{PREFIX}probe-{}", std::process::id()));
        rustix::fs::mkdir(&probe, Mode::from_raw_mode(0o755)).is_ok() && rustix::fs::rmdir(&probe).is_ok()
    });
    let Some(base) = base else { return println!("SKIP: no control group can be made here") };
    let path = |digit: char| {
        let random: String =
            std::iter::repeat_n(digit, 24).chain(format!("{:08x}", std::process::id()).chars()).collect();
        base.join(format!("{PREFIX}{random}"))
    };
    let (dead, alive) = (path('d'), path('a'));
    let foreign = base.join(format!("{PREFIX}somebody-{}", std::process::id()));
    std::fs::create_dir(&foreign).expect("groups can be made");
    std::fs::create_dir(&alive).expect("groups can be made");
    let lock = open(&alive).expect("it was just made");
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("nobody else has it");
    std::fs::create_dir(&dead).expect("groups can be made");
    std::fs::create_dir(dead.join("s0")).expect("groups can be made");
    sweep();
    assert!(!dead.exists());
    assert!(alive.exists());
    assert!(foreign.exists(), "a group that only starts like ours is somebody else's");
    std::fs::remove_dir(&foreign).expect("it is empty");
    drop(lock);
    sweep();
    assert!(!alive.exists());
}

#[test]
fn a_directory_that_was_just_made_is_its_builders_or_swept_whole() {
    let hierarchy = discover::hierarchies().into_iter().find(|hierarchy| Own::make(hierarchy).is_some());
    let Some(hierarchy) = hierarchy else { return println!("SKIP: no control group can be made here") };
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    sweep();
                }
            });
        }
        let lost: Vec<_> = (0..300)
            .filter(|_| {
                let own = Own::make(&hierarchy).expect("groups can be made");
                // What a sweep may still be about to do to it, it does by now.
                std::thread::yield_now();
                std::fs::create_dir(own.path.join("s0")).is_err() || !own.path.is_dir()
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(lost, [0; 0], "directories were removed under a living builder");
    });
}

#[test]
fn a_sweep_holds_the_lock_of_what_it_removes() {
    let Some(base) = discover::hierarchies().into_iter().find_map(|hierarchy| {
        let own = Own::make(&hierarchy)?;
        Some(own.base.clone())
    }) else {
        return println!("SKIP: no control group can be made here");
    };
    let random: String = format!("{:0>32x}", std::process::id());
    let path = base.join(format!("{PREFIX}{random}"));
    std::fs::create_dir(&path).expect("groups can be made");
    let held = lock(&path).expect("it can be locked").expect("nobody else has it");
    assert!(!remove_abandoned(&path), "its builder lives");
    assert!(lock(&path).expect("it can be tried").is_none());
    drop(held);
    assert!(remove_abandoned(&path));
    assert!(lock(&path).expect("it can be tried").is_none(), "it is gone");
}
