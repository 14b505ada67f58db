//! The single-threaded process that starts steps.
//!
//! It is forked before the builder has threads, because PR_SET_PDEATHSIG follows the thread that forked, and because forking
//! a small process is cheap. It runs this program again from a mount that cannot be written (`reexec`). It parses nothing: a message is a word of namespace flags with descriptors, the first of which
//! is the conversation. It dies with the builder (death signal and closed socket), and every step dies with it.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::mount::MountPropagationFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::UnshareFlags;

use super::cgroup::Groups;
use super::error::{Named, SandboxError};
use super::init::{self, Inherited};
use super::overlayfs::XattrClass;
use super::reexec;
use super::request::Event;
use super::seccomp;
use super::spec::{Stdio, StepSpec};
use super::step::{self, RunningStep};
use super::sys::{self, Cloned, Waited};
use super::wire::Wire;

/// SCM_MAX_FD of the kernel.
pub(super) const MAX_DESCRIPTORS: usize = 253;

/// The builder's end. Steps can be started from any number of threads; dropping the last clone ends them all.
#[derive(Debug, Clone)]
pub struct Spawner {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    socket: Option<OwnedFd>,
    process: Pid,
    groups: OnceLock<Groups>,
}

impl Spawner {
    /// Moves this process into a mount namespace of its own and starts the spawner.
    ///
    /// Must be called while the process has one thread: both acts concern the calling thread only. `main` must have called
    /// [`super::reenter`] before.
    pub fn start() -> Result<Spawner, SandboxError> {
        refuse_threads()?;
        let program = reexec::program();
        let refused = |call| move |errno: Errno| SandboxError::Namespace { call, source: errno.into() };
        sys::unshare(UnshareFlags::NEWNS).map_err(refused("unshare(CLONE_NEWNS)"))?;
        // Slave rather than private: private copies would pin the host's mounts.
        let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", flags).map_err(refused("mount(/, MS_SLAVE|MS_REC)"))?;
        let program = program?;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .named(|| "socketpair(AF_UNIX, SOCK_SEQPACKET)".to_owned())?;
        let builder = rustix::process::getpid();
        match sys::clone(0).named(|| "clone(spawner)".to_owned())? {
            Cloned::Child => {
                drop(ours);
                let errno = reexec::become_spawner(&program, &theirs, builder);
                sys::exit(errno.raw_os_error())
            }
            Cloned::Parent(pid) => {
                let process = Pid::from_raw(pid).expect("a child's process id is positive");
                let inner = Inner { socket: Some(ours), process, groups: OnceLock::new() };
                Ok(Spawner { inner: Arc::new(inner) })
            }
        }
    }

    /// Starts a step. Returns as soon as the request is sent; what goes wrong later is told by [`RunningStep::wait`].
    pub fn run(&self, spec: &StepSpec, stdio: Stdio) -> Result<RunningStep, SandboxError> {
        step::start(self, spec, stdio)
    }

    pub(super) fn groups(&self) -> &Groups {
        self.inner.groups.get_or_init(Groups::discover)
    }

    pub(super) fn send(&self, flags: u64, descriptors: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
        let socket = self.inner.socket.as_ref().expect("the socket lives as long as the spawner's handle");
        if descriptors.len() > MAX_DESCRIPTORS {
            let what = format!(
                "a step with {} mounts and groups — at most {MAX_DESCRIPTORS} fit one request",
                descriptors.len()
            );
            return Err(SandboxError::Invalid { what });
        }
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(
            control.push(SendAncillaryMessage::ScmRights(descriptors)),
            "the space is for the most that is allowed"
        );
        match rustix::net::sendmsg(
            socket,
            &[IoSlice::new(&flags.to_le_bytes())],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Ok(_) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(SandboxError::SpawnerGone),
            Err(errno) => Err(errno).named(|| "sendmsg(spawner)".to_owned()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.socket.take());
        // ECHILD: somebody else has reaped it.
        let _ = rustix::process::waitpid(Some(self.process), WaitOptions::empty());
    }
}

fn refuse_threads() -> Result<(), SandboxError> {
    let tasks = std::fs::read_dir("/proc/self/task").named(|| "readdir(/proc/self/task)".to_owned())?.count();
    if tasks == 1 {
        return Ok(());
    }
    Err(SandboxError::Invalid {
        what: format!("the spawner must start before any thread, this process has {tasks}"),
    })
}

pub(super) fn serve(socket: &OwnedFd, builder: Pid) -> Result<(), SandboxError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .named(|| "prctl(PR_SET_PDEATHSIG)".to_owned())?;
    if rustix::process::getppid() != Some(builder) {
        return Ok(()); // it died before the death signal was set
    }
    rustix::thread::set_name(c"xbuild-spawner").named(|| "prctl(PR_SET_NAME)".to_owned())?;
    // Signals of the terminal are the builder's business.
    rustix::process::setsid().named(|| "setsid()".to_owned())?;
    let host_mounts = open("/proc/self/ns/mnt", OFlags::RDONLY)?;
    // Whatever the caller left open must not reach a step (RT-02).
    sys::close_all_but(&[socket.as_raw_fd(), host_mounts.as_raw_fd()])
        .named(|| "close_range()".to_owned())?;
    let null = open("/dev/null", OFlags::RDWR)?;
    rustix::stdio::dup2_stdin(&null).named(|| "dup2(/dev/null, 0)".to_owned())?;
    rustix::stdio::dup2_stdout(&null).named(|| "dup2(/dev/null, 1)".to_owned())?;
    drop(null);
    let filter = seccomp::Machine::native().map(seccomp::program).unwrap_or_default();
    let inherited =
        Inherited { host_mounts: host_mounts.as_fd(), filter: &filter, class: XattrClass::of_this_process() };
    let signals = sys::child_signals().named(|| "signalfd(SIGCHLD)".to_owned())?;
    let mut steps = BTreeMap::new();
    loop {
        let mut polled = [PollFd::new(socket, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).named(|| "poll(spawner)".to_owned()),
        }
        let (asked, child) = (polled[0].revents(), polled[1].revents());
        if !child.is_empty() {
            let mut buffer = [0; 1024];
            while rustix::io::read(&signals, &mut buffer).is_ok_and(|count| count > 0) {}
            bury(&mut steps);
        }
        if !asked.is_empty() {
            let Some((flags, fds)) = receive(socket)? else { return Ok(()) };
            steps = spawn(&inherited, flags, fds, steps);
        }
    }
}

fn open(path: &str, flags: OFlags) -> Result<OwnedFd, SandboxError> {
    rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty()).named(|| format!("open({path})"))
}

/// Takes one request off the socket; `None` where the builder is gone.
fn receive(socket: &OwnedFd) -> Result<Option<(u64, Vec<OwnedFd>)>, SandboxError> {
    let mut word = [0; 8];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut word)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .named(|| "recvmsg(builder)".to_owned())?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let fds = control
        .drain()
        .flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
            _ => Vec::new(),
        })
        .collect();
    Ok(Some((u64::from_le_bytes(word), fds)))
}

/// Conversations of the living steps by process id.
type Steps = BTreeMap<i32, OwnedFd>;

fn spawn(inherited: &Inherited<'_>, flags: u64, fds: Vec<OwnedFd>, mut steps: Steps) -> Steps {
    match sys::clone(flags) {
        Ok(Cloned::Child) => {
            drop(steps);
            init::run(inherited, fds)
        }
        Ok(Cloned::Parent(pid)) => {
            steps.extend(fds.into_iter().next().map(|conversation| (pid, conversation)));
        }
        Err(errno) => {
            let call = format!("clone3({flags:#x})");
            let failure = super::error::StepFailure::Setup { call, errno: errno.raw_os_error() };
            if let Some(conversation) = fds.first() {
                tell(conversation, &Event::Failed { failure });
                tell(conversation, &Event::Reaped { status: 0 });
            }
        }
    }
    steps
}

fn bury(steps: &mut Steps) {
    while let Waited::Ended(pid, status, _) = sys::reap() {
        if let Some(conversation) = steps.remove(&pid) {
            tell(&conversation, &Event::Reaped { status });
        }
    }
}

fn tell(conversation: &OwnedFd, event: &Event) {
    // A builder that has dropped the step does not listen.
    let _ = rustix::net::send(conversation, &event.encode(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}
