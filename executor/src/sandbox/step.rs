//! The builder's side of one step: sends the request, listens to the conversation, ends it.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::thread::CapabilitySet;

use super::cgroup::StepGroups;
use super::error::{Named, SandboxError, StepFailure};
use super::init::exit_status;
use super::mount_call::{Attributes, DeviceControl};
use super::overlayfs;
use super::plan::{self, CA_FILE, CA_VARIABLES};
use super::process::DEFAULT_CAPABILITIES;
use super::request::{Confinement, Event, Growth, Layout, Namespace, Process, Request, TERMINATE};
use super::spawner::Spawner;
use super::spec::{MountSource, Privileges, Resource, Security, Stdio, StepEnd, StepNetwork, StepSpec};
use super::wire::Wire;

/// A step that was started. Dropping it kills the step.
#[derive(Debug)]
pub struct RunningStep {
    conversation: Arc<OwnedFd>,
    groups: StepGroups,
    failure: Option<StepFailure>,
    ended: Option<StepEnd>,
}

/// Ends a step from elsewhere than where it is waited for. Holds the step's lifeline like [`RunningStep`] does.
#[derive(Debug, Clone)]
pub struct StepKiller {
    conversation: Arc<OwnedFd>,
}

impl StepKiller {
    /// Sends SIGTERM to every process of the step, and SIGKILL after the grace.
    pub fn terminate(&self, grace: Duration) {
        let mut message = vec![TERMINATE];
        (grace.as_millis() as u64).put(&mut message);
        // EPIPE: it has ended already.
        let _ = rustix::net::send(&*self.conversation, &message, SendFlags::NOSIGNAL);
    }

    /// Kills every process of the step.
    pub fn kill(&self) {
        let _ = rustix::net::shutdown(&*self.conversation, rustix::net::Shutdown::Write);
    }
}

impl AsFd for RunningStep {
    /// Readable when [`RunningStep::try_wait`] has something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.conversation.as_fd()
    }
}

impl RunningStep {
    /// Returns a handle that can end the step.
    pub fn killer(&self) -> StepKiller {
        StepKiller { conversation: Arc::clone(&self.conversation) }
    }

    /// Blocks until every process and mount of the step is gone.
    pub fn wait(mut self) -> Result<StepEnd, SandboxError> {
        loop {
            if let Some(end) = self.listen(RecvFlags::empty())? {
                return Ok(end);
            }
        }
    }

    /// Returns how the step ended, or `None` while it runs. Call it when the descriptor is readable.
    pub fn try_wait(&mut self) -> Result<Option<StepEnd>, SandboxError> {
        loop {
            match self.listen(RecvFlags::DONTWAIT) {
                Err(SandboxError::Call { source, .. }) if source.kind() == std::io::ErrorKind::WouldBlock => {
                    return Ok(None);
                }
                Ok(None) => {}
                other => return other,
            }
        }
    }

    /// Handles one event.
    fn listen(&mut self, flags: RecvFlags) -> Result<Option<StepEnd>, SandboxError> {
        let mut buffer = vec![0; 64 << 10];
        let count = loop {
            match rustix::net::recv(&*self.conversation, &mut buffer, flags) {
                Ok((count, _)) => break count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).named(|| "recv(step)".to_owned()),
            }
        };
        if count == 0 {
            return Err(SandboxError::SpawnerGone);
        }
        let event = Event::decode(&buffer[..count]).ok_or_else(|| SandboxError::Invalid {
            what: "an event of a step could not be decoded".to_owned(),
        })?;
        match event {
            Event::Failed { failure } => {
                self.failure = self.failure.take().or(Some(failure));
                Ok(None)
            }
            Event::Ended { status, usage, stubs, parents } => {
                let (oom, pids_limit) = self.groups.verdicts();
                let status = exit_status(status);
                self.ended = Some(StepEnd { status, oom, pids_limit, usage, stubs, stub_parents: parents });
                Ok(None)
            }
            Event::Stuck { process } => Err(SandboxError::Stuck { process }),
            Event::Reaped { status } => self.reaped(status).map(Some),
        }
    }

    fn reaped(&mut self, status: i32) -> Result<StepEnd, SandboxError> {
        let (oom, pids_limit) = self.groups.verdicts();
        self.groups.remove();
        if let Some(failure) = self.failure.take() {
            return Err(failure.into());
        }
        // Without a word from init it was killed: by the builder, or by the host's lack of memory.
        Ok(self.ended.take().unwrap_or_else(|| StepEnd {
            status: match exit_status(status) {
                super::spec::ExitStatus::Code(_) => super::spec::ExitStatus::Signal(libc::SIGKILL),
                signal @ super::spec::ExitStatus::Signal(_) => signal,
            },
            oom,
            pids_limit,
            usage: super::spec::Usage::default(),
            stubs: Vec::new(),
            stub_parents: Vec::new(),
        }))
    }
}

pub(super) fn start(spawner: &Spawner, spec: &StepSpec, stdio: Stdio) -> Result<RunningStep, SandboxError> {
    let groups = spawner.groups().step(&spec.limits, spec.security)?;
    let calls = plan::plan_mounts(spec, groups.devices())?;
    let mounts = mount_handles(spec)?;
    let process = process(spec, groups.devices());
    let layout = Layout {
        stdin: u32::from(stdio.stdin.is_some()),
        groups: groups.joins().len() as u32,
        into: u32::from(groups.unified().is_some()),
        mounts: mounts.len() as u32,
    };
    let flags = namespaces(process.network);
    let request = memory_file(&Request { calls, process, layout }.encode())?;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .named(|| "socketpair(AF_UNIX, SOCK_SEQPACKET)".to_owned())?;
    let mut fds = vec![theirs.as_fd(), request.as_fd(), stdio.stdout.as_fd(), stdio.stderr.as_fd()];
    fds.extend(stdio.stdin.iter().map(AsFd::as_fd));
    fds.extend(groups.joins().iter().map(AsFd::as_fd));
    fds.extend(groups.unified().map(AsFd::as_fd));
    fds.extend(mounts.iter().map(AsFd::as_fd));
    spawner.send(flags, &fds)?;
    Ok(RunningStep { conversation: Arc::new(ours), groups, failure: None, ended: None })
}

fn namespaces(network: Namespace) -> u64 {
    let network = match network {
        Namespace::Own => libc::CLONE_NEWNET,
        Namespace::Host => 0,
    };
    (libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | network) as u64
}

/// Copies of the mounts behind handles: a mount can only be copied in its own namespace, which a step's init has left.
fn mount_handles(spec: &StepSpec) -> Result<Vec<OwnedFd>, SandboxError> {
    let mut mounts = Vec::new();
    for mount in &spec.mounts {
        if let MountSource::Handle(handle) = &mount.source {
            mounts.push(overlayfs::clone_tree(handle, Attributes::NONE)?);
        }
    }
    Ok(mounts)
}

fn process(spec: &StepSpec, devices: DeviceControl) -> Process {
    let mut capabilities = DEFAULT_CAPABILITIES;
    if devices == DeviceControl::None {
        capabilities.remove(CapabilitySet::MKNOD);
    }
    Process {
        args: spec.args.clone(),
        env: environment(spec),
        cwd: spec.cwd.clone(),
        uid: spec.user.uid,
        gid: spec.user.gid,
        groups: spec.user.groups.clone(),
        hostname: spec.hostname.clone(),
        network: match spec.network {
            StepNetwork::None => Namespace::Own,
            StepNetwork::Host => Namespace::Host,
        },
        confinement: match spec.security {
            Security::Sandbox => Confinement::Capabilities { mask: capabilities.bits() },
            Security::Insecure => Confinement::Unconfined,
        },
        privileges: match spec.privileges {
            Privileges::MayGrow => Growth::Allowed,
            Privileges::Fixed => Growth::Refused,
        },
        rlimits: rlimits(spec),
    }
}

/// The step's environment; the host's CA bundle is offered where the step names none of its own.
fn environment(spec: &StepSpec) -> Vec<(OsString, OsString)> {
    let mut env = spec.env.clone();
    if spec.host_ca.is_some() {
        for name in CA_VARIABLES {
            if !env.iter().any(|(present, _)| present == name) {
                env.push((OsString::from(name), OsString::from(CA_FILE)));
            }
        }
    }
    env
}

fn rlimits(spec: &StepSpec) -> Vec<(u32, u64, u64)> {
    // No core of a step, which may hold a secret, is ever written (RT-32).
    let core = (Resource::Core.number(), 0, 0);
    let given = spec.ulimits.iter().map(|limit| (limit.resource.number(), limit.soft, limit.hard));
    std::iter::once(core)
        .filter(|_| !spec.ulimits.iter().any(|limit| limit.resource == Resource::Core))
        .chain(given)
        .collect()
}

fn memory_file(bytes: &[u8]) -> Result<OwnedFd, SandboxError> {
    let fd = rustix::fs::memfd_create("request", MemfdFlags::CLOEXEC)
        .named(|| "memfd_create(request)".to_owned())?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let count = rustix::io::write(&fd, rest).named(|| format!("write(request, {} bytes)", rest.len()))?;
        rest = &rest[count..];
    }
    rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(0)).named(|| "lseek(request)".to_owned())?;
    Ok(fd)
}
