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

/// A group in which no other process of this machine sweeps.
struct Private(PathBuf);

impl Private {
    fn make(test: &str) -> Option<Private> {
        let made = discover::hierarchies().into_iter().find_map(|hierarchy| {
            let path = hierarchy.base.join(format!("{PREFIX}{test}-{}", std::process::id()));
            std::fs::create_dir(&path).is_ok().then_some(Private(path))
        });
        if made.is_none() {
            println!("SKIP: no control group can be made here");
        }
        made
    }

    /// The directory of a builder.
    fn builder(&self, digit: char) -> PathBuf {
        let path = self.0.join(format!("{PREFIX}{}", String::from(digit).repeat(32)));
        std::fs::create_dir(&path).expect("groups can be made");
        path
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        remove_tree(&self.0);
    }
}

#[test]
fn a_sweep_takes_what_is_not_locked() {
    let Some(base) = Private::make("sweep") else { return };
    let (dead, alive) = (base.builder('d'), base.builder('a'));
    let foreign = base.0.join(format!("{PREFIX}somebody"));
    std::fs::create_dir(&foreign).expect("groups can be made");
    std::fs::create_dir(dead.join("s0")).expect("groups can be made");
    let held = lock(&alive).expect("it can be locked").expect("nobody else has it");
    assert_eq!(sweep_in(&base.0), 1);
    assert!(!dead.exists());
    assert!(alive.exists());
    assert!(foreign.exists(), "a group that only starts like ours is somebody else's");
    drop(held);
    assert_eq!(sweep_in(&base.0), 1);
    assert!(!alive.exists());
}

#[test]
fn a_sweep_holds_the_lock_of_what_it_removes() {
    let Some(base) = Private::make("lock") else { return };
    let path = base.builder('b');
    let held = lock(&path).expect("it can be locked").expect("nobody else has it");
    assert!(!remove_abandoned(&path, |_| panic!("its builder lives")));
    drop(held);
    let mut taken = None;
    let removed = remove_abandoned(&path, |path| taken = lock(path).expect("it can be tried"));
    assert!(taken.is_none(), "a builder has taken it, and its steps are killed");
    assert!(removed);
    assert!(lock(&path).expect("it can be tried").is_none(), "it is gone");
}
