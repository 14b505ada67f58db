//! Control groups of steps, in whichever hierarchy of the host can be written: v1, v2 or both.
//!
//! One directory `xbuild-<random>` per builder and hierarchy, flock'ed while the builder lives, with one directory per step
//! inside. A directory whose lock is free belonged to a builder that was killed: [`sweep`] removes it. Holds no process.

mod devices;
mod discover;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, Result};

use super::error::SandboxError;
use super::mount_call::DeviceControl;
use super::spec::{Limits, OutOfMemory, PidsLimit, Security};
use discover::{Controller, Hierarchy, Version};

/// How the directories of builders are named.
const PREFIX: &str = "xbuild-";

/// How often a directory may be lost to a sweep before it was locked: every command that starts at that moment sweeps.
const MOST_LOSSES: usize = 100;

/// The groups of one builder, made when the first step needs them.
#[derive(Debug)]
pub(super) struct Groups {
    hierarchies: Vec<Hierarchy>,
    own: Mutex<Vec<Own>>,
    next: AtomicU64,
}

/// The builder's directory in one hierarchy.
#[derive(Debug)]
struct Own {
    base: PathBuf,
    path: PathBuf,
    directory: OwnedFd,
    version: Version,
    devices: DeviceControl,
}

/// The groups of one step.
#[derive(Debug)]
pub(super) struct StepGroups {
    directories: Vec<PathBuf>,
    joins: Vec<OwnedFd>,
    into: Option<OwnedFd>,
    devices: DeviceControl,
    memory: Option<(PathBuf, u64)>,
    pids: Option<(PathBuf, u64)>,
}

impl Groups {
    /// Looks at the mounted hierarchies. Never fails: a host without any has none.
    pub(super) fn discover() -> Groups {
        Groups { hierarchies: discover::hierarchies(), own: Mutex::new(Vec::new()), next: AtomicU64::new(0) }
    }

    /// Makes the groups of a step. The limit of processes is kept where it can be; the others are asked for by name, so
    /// their absence is an error.
    pub(super) fn step(
        &self,
        limits: &Limits,
        security: Security,
    ) -> std::result::Result<StepGroups, SandboxError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut step = StepGroups {
            directories: Vec::new(),
            joins: Vec::new(),
            into: None,
            devices: DeviceControl::None,
            memory: None,
            pids: None,
        };
        if security == Security::Sandbox {
            self.restrict_devices(&mut step, number);
        }
        if let Some(limit) = limits.pids
            && let Some(path) = self.enter(&mut step, Controller::Pids, number)
            && write(&path.join("pids.max"), &limit.to_string()).is_ok()
        {
            step.pids = Some((path, limit));
        }
        if let Some(limit) = limits.memory {
            let path = self.required(&mut step, Controller::Memory, number, "--memory")?;
            limit_memory(&path, limit).map_err(|errno| unavailable("--memory", &path, errno))?;
            step.memory = Some((path, limit));
        }
        if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
            let path = self.required(&mut step, Controller::Cpu, number, "--cpu-quota")?;
            limit_cpu(&path, limits.cpu_quota, limits.cpu_period)
                .map_err(|errno| unavailable("--cpu-quota", &path, errno))?;
        }
        if let Some(cpus) = &limits.cpuset {
            let path = self.required(&mut step, Controller::Cpuset, number, "--cpuset-cpus")?;
            limit_cpuset(&path, cpus).map_err(|errno| unavailable("--cpuset-cpus", &path, errno))?;
        }
        Ok(step)
    }

    fn required(
        &self,
        step: &mut StepGroups,
        controller: Controller,
        number: u64,
        flag: &str,
    ) -> std::result::Result<PathBuf, SandboxError> {
        self.enter(step, controller, number).ok_or_else(|| SandboxError::Invalid {
            what: format!("{flag} — no control group with the {} controller can be written here — leave the flag out or run where one can", controller.name()),
        })
    }

    /// Makes the step's directory in the hierarchy of a controller.
    fn enter(&self, step: &mut StepGroups, controller: Controller, number: u64) -> Option<PathBuf> {
        let (own, version, _) = self.own_directory(self.with(controller)?)?;
        make_step_directory(step, &own, version, number).ok()
    }

    fn with(&self, controller: Controller) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.controllers.contains(&controller))
    }

    /// By the v1 controller where there is one, whose rules stand in the builder's directory; else by a program on v2.
    fn restrict_devices(&self, step: &mut StepGroups, number: u64) {
        for hierarchy in
            self.hierarchies.iter().filter(|hierarchy| hierarchy.controllers.contains(&Controller::Devices))
        {
            let Some((own, version, devices)) = self.own_directory(hierarchy) else { continue };
            let restricted = match version {
                Version::One if devices == DeviceControl::Group => {
                    open_tasks(&own).map(|tasks| step.joins.push(tasks)).is_ok()
                }
                Version::One => false,
                Version::Two => {
                    make_step_directory(step, &own, version, number).is_ok()
                        && step
                            .into
                            .as_ref()
                            .is_some_and(|group| devices::attach_program(group) == DeviceControl::Group)
                }
            };
            if restricted {
                step.devices = DeviceControl::Group;
                return;
            }
        }
    }

    /// The builder's directory in a hierarchy, made when it is first needed.
    fn own_directory(&self, hierarchy: &Hierarchy) -> Option<(PathBuf, Version, DeviceControl)> {
        let mut own = self.own.lock().ok()?;
        if let Some(found) = own.iter().find(|own| own.base == hierarchy.base) {
            return Some((found.path.clone(), found.version, found.devices));
        }
        let made = Own::make(hierarchy)?;
        let answer = (made.path.clone(), made.version, made.devices);
        own.push(made);
        Some(answer)
    }
}

impl Own {
    /// Makes and locks a directory. `None` where the host has none for us.
    fn make(hierarchy: &Hierarchy) -> Option<Own> {
        (0..MOST_LOSSES).find_map(|_| Own::try_make(hierarchy).transpose())?.ok()
    }

    /// Returns `None` where a sweep has taken the directory between its making and its locking.
    fn try_make(hierarchy: &Hierarchy) -> Result<Option<Own>> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| Errno::NOSYS)?;
        let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = hierarchy.base.join(format!("{PREFIX}{name}"));
        rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755))?;
        let Some(directory) = lock(&path)? else { return Ok(None) };
        if hierarchy.version == Version::Two {
            for controller in &hierarchy.controllers {
                let _ = write(&path.join("cgroup.subtree_control"), &format!("+{}", controller.name()));
            }
        }
        let devices = match hierarchy.version {
            Version::One if hierarchy.controllers.contains(&Controller::Devices) => {
                devices::write_rules(&path)
            }
            Version::One | Version::Two => DeviceControl::None,
        };
        Ok(Some(Own { base: hierarchy.base.clone(), path, directory, version: hierarchy.version, devices }))
    }
}

/// Locks a builder's directory, which is then there and stays until the lock is dropped; `None` where somebody else has it
/// or it is gone.
fn lock(path: &Path) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(errno) => return Err(errno),
    }
    // Only who holds the lock removes it, so what is there now will be.
    let found = match rustix::fs::statat(CWD, path, AtFlags::empty()) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let same = rustix::fs::fstat(&directory)?.st_ino == found.st_ino;
    Ok(same.then_some(directory))
}

impl Drop for Own {
    fn drop(&mut self) {
        remove_tree(&self.path);
        let _ = rustix::fs::flock(&self.directory, FlockOperation::Unlock);
    }
}

impl StepGroups {
    /// Descriptors of v1 `tasks` files that the step's process writes itself into.
    ///
    /// Not `cgroup.procs`: moving a whole process takes a lock that waits for an RCU grace period, 5 to 20 ms; the calling
    /// thread alone moves in 0.05 ms, and the process has no other.
    pub(super) fn joins(&self) -> &[OwnedFd] {
        &self.joins
    }

    /// The v2 group that the step's process is made in.
    pub(super) fn unified(&self) -> Option<&OwnedFd> {
        self.into.as_ref()
    }

    /// Whether devices are restricted.
    pub(super) fn devices(&self) -> DeviceControl {
        self.devices
    }

    /// What the limits have seen.
    pub(super) fn verdicts(&self) -> (OutOfMemory, PidsLimit) {
        let memory = match &self.memory {
            None => OutOfMemory::Unwatched,
            Some((path, limit)) => {
                match counter(path, &["memory.events", "memory.oom_control"], "oom_kill") {
                    None => OutOfMemory::Unwatched,
                    Some(0) => OutOfMemory::No,
                    Some(_) => OutOfMemory::Killed { limit: *limit },
                }
            }
        };
        let pids = match &self.pids {
            None => PidsLimit::Unwatched,
            Some((path, limit)) => match counter(path, &["pids.events"], "max") {
                None => PidsLimit::Unwatched,
                Some(0) => PidsLimit::No,
                Some(_) => PidsLimit::Hit { limit: *limit },
            },
        };
        (memory, pids)
    }

    /// Removes the directories; the step's processes are gone.
    pub(super) fn remove(&mut self) {
        self.joins.clear();
        self.into = None;
        for directory in self.directories.drain(..) {
            remove_tree(&directory);
        }
    }
}

impl Drop for StepGroups {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Whether a group's name is one that a builder makes: other people's groups may start like ours.
fn is_builders(name: &[u8]) -> bool {
    name.strip_prefix(PREFIX.as_bytes()).is_some_and(|random| {
        random.len() == 32 && random.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Removes the groups of builders that were killed. Returns how many directories went.
pub fn sweep() -> usize {
    discover::hierarchies().iter().map(|hierarchy| sweep_in(&hierarchy.base)).sum()
}

fn sweep_in(base: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(base) else { return 0 };
    let ours = entries.flatten().filter(|entry| is_builders(entry.file_name().as_encoded_bytes()));
    ours.filter(|entry| remove_abandoned(&entry.path(), kill_members)).count()
}

/// Removes a builder's directory unless its builder lives. The lock is held meanwhile: one that was made a moment ago
/// is about to be locked, and steps may run in it then.
fn remove_abandoned(path: &Path, end_members: impl FnOnce(&Path)) -> bool {
    let Ok(Some(_lock)) = lock(path) else { return false };
    end_members(path);
    remove_tree(path)
}

/// Processes of a dead builder's steps die with it; this is for the moment before they have.
fn kill_members(path: &Path) {
    for directory in std::iter::once(path.to_owned()).chain(children(path)) {
        let members = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        for member in
            members.lines().filter_map(|line| line.parse().ok()).filter_map(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(member, rustix::process::Signal::KILL);
        }
    }
}

fn children(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Removes a group and its children. A group is busy until its last process is reaped, so it is tried for a moment.
fn remove_tree(path: &Path) -> bool {
    for child in children(path) {
        remove_tree(&child);
    }
    for _ in 0..50 {
        match rustix::fs::rmdir(path) {
            Ok(()) | Err(Errno::NOENT) => return true,
            Err(Errno::BUSY) => std::thread::sleep(std::time::Duration::from_millis(2)),
            Err(_) => return false,
        }
    }
    false
}

fn open(path: &Path) -> Option<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn make_step_directory(step: &mut StepGroups, own: &Path, version: Version, number: u64) -> Result<PathBuf> {
    let path = own.join(format!("s{number}"));
    if step.directories.contains(&path) {
        return Ok(path);
    }
    rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755))?;
    step.directories.push(path.clone());
    match version {
        Version::One => step.joins.push(open_tasks(&path)?),
        Version::Two => step.into = open(&path),
    }
    Ok(path)
}

fn open_tasks(path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path.join("tasks"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
}

fn write(path: &Path, text: &str) -> Result<()> {
    let fd = rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(fd.as_fd(), text.as_bytes()).map(drop)
}

/// Writes a value to the first of two files that exists: v2's name, then v1's.
fn write_either(path: &Path, two: (&str, String), one: (&str, String)) -> Result<()> {
    match write(&path.join(two.0), &two.1) {
        Err(Errno::NOENT) => write(&path.join(one.0), &one.1),
        other => other,
    }
}

fn limit_memory(path: &Path, limit: u64) -> Result<()> {
    write_either(path, ("memory.max", limit.to_string()), ("memory.limit_in_bytes", limit.to_string()))?;
    // Docker's default: as much swap as memory. Without swap accounting the files are absent.
    match write_either(
        path,
        ("memory.swap.max", limit.to_string()),
        ("memory.memsw.limit_in_bytes", (limit * 2).to_string()),
    ) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn limit_cpu(path: &Path, quota: Option<u64>, period: Option<u64>) -> Result<()> {
    let period = period.unwrap_or(100_000);
    let quota_text = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
    match write(&path.join("cpu.max"), &format!("{quota_text} {period}")) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    write(&path.join("cpu.cfs_period_us"), &period.to_string())?;
    write(&path.join("cpu.cfs_quota_us"), &quota.map_or_else(|| "-1".to_owned(), |quota| quota.to_string()))
}

fn limit_cpuset(path: &Path, cpus: &str) -> Result<()> {
    // v1 starts with empty sets, for every level; v2 inherits and has no need.
    if let Some(parent) = path.parent()
        && let Some(base) = parent.parent()
    {
        for (from, to) in [(base, parent), (parent, path)] {
            for file in ["cpuset.mems", "cpuset.cpus"] {
                let inherited = std::fs::read_to_string(from.join(file)).unwrap_or_default();
                if !inherited.trim().is_empty() {
                    let _ = write(&to.join(file), inherited.trim());
                }
            }
        }
    }
    write(&path.join("cpuset.cpus"), cpus)
}

/// Reads `key value` from the first file that exists.
fn counter(path: &Path, files: &[&str], key: &str) -> Option<u64> {
    let text = files.iter().find_map(|file| std::fs::read_to_string(path.join(file)).ok())?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn unavailable(flag: &str, path: &Path, errno: Errno) -> SandboxError {
    SandboxError::Call { call: format!("{flag} in {}", path.display()), source: errno.into() }
}

#[cfg(test)]
mod tests;
