//! Process 1 of a step: builds the sandbox, starts the main process, reaps, cleans up, reports.
//!
//! It keeps its credentials and is not dumpable, so the step can neither trace it nor open its descriptors or executable
//! (RT-03, RT-04). The conversation with the builder is its lifeline: when that closes, it exits, and the kernel kills
//! everything in its pid namespace.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};
use rustix::process::Signal;
use rustix::thread::LinkNameSpaceType;
use rustix::time::ClockId;

use super::error::{Setup, StepFailure};
use super::overlayfs::XattrClass;
use super::process::{self, Streams};
use super::request::{Event, Namespace, Request, TERMINATE};
use super::resolve::Stub;
use super::rootfs::{self, Rootfs};
use super::seccomp;
use super::spec::{ExitStatus, Usage};
use super::sys::{self, Cloned, Waited};
use super::wire::Wire;

/// Milliseconds after which a process that survives SIGKILL is told of.
const STUCK_AFTER: u64 = 10_000;

/// What an init inherits from the spawner.
pub(super) struct Inherited<'a> {
    /// The builder's mount namespace, where stubs are removed.
    pub(super) host_mounts: BorrowedFd<'a>,
    /// The compiled filter.
    pub(super) filter: &'a [seccomp::Instruction],
    /// Where overlay attributes live.
    pub(super) class: XattrClass,
}

/// Runs a step from its descriptors. Never returns.
pub(super) fn run(inherited: &Inherited<'_>, fds: Vec<OwnedFd>) -> ! {
    let mut fds = fds.into_iter();
    let Some(conversation) = fds.next() else { sys::exit(1) };
    let result = start(inherited, &conversation, fds);
    let code = match result {
        Ok(event) => tell(&conversation, &event),
        Err(failure) => tell(&conversation, &Event::Failed { failure }),
    };
    sys::exit(code)
}

fn tell(conversation: &OwnedFd, event: &Event) -> i32 {
    match rustix::net::send(conversation, &event.encode(), SendFlags::NOSIGNAL) {
        Ok(_) => 0,
        Err(_) => 1,
    }
}

fn start(
    inherited: &Inherited<'_>,
    conversation: &OwnedFd,
    mut fds: impl Iterator<Item = OwnedFd>,
) -> Result<Event, StepFailure> {
    // Before anything can change credentials: setuid clears it (prctl(2)).
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .setup(|| "prctl(PR_SET_PDEATHSIG)".to_owned())?;
    sys::make_undumpable().setup(|| "prctl(PR_SET_DUMPABLE, 0)".to_owned())?;
    let signals = sys::child_signals().setup(|| "signalfd(SIGCHLD)".to_owned())?;
    rustix::process::setsid().setup(|| "setsid()".to_owned())?;
    rustix::process::umask(Mode::empty());
    let request = read_request(fds.next())?;
    let layout = request.layout;
    let mut next = || {
        fds.next().ok_or_else(|| StepFailure::Setup {
            call: "descriptors of the request".to_owned(),
            errno: libc::EBADF,
        })
    };
    let (stdout, stderr) = (next()?, next()?);
    let stdin = (0..layout.stdin).map(|_| next()).collect::<Result<Vec<_>, _>>()?.pop();
    let groups = (0..layout.groups).map(|_| next()).collect::<Result<Vec<_>, _>>()?;
    let into = (0..layout.into).map(|_| next()).collect::<Result<Vec<_>, _>>()?.pop();
    let mounts = (0..layout.mounts).map(|_| next()).collect::<Result<Vec<_>, _>>()?;

    rustix::system::sethostname(request.process.hostname.as_bytes())
        .setup(|| format!("sethostname({})", request.process.hostname))?;
    if request.process.network == Namespace::Own {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)
            .setup(|| "socket(AF_INET)".to_owned())?;
        sys::loopback_up(&socket).setup(|| "ioctl(SIOCSIFFLAGS, lo, up)".to_owned())?;
    }
    let mut rootfs = rootfs::build(&request.calls, mounts, inherited.class)?;
    rootfs.enter()?;
    let cwd = rootfs.working_directory(&request.process.cwd)?;
    let streams = Streams { stdin, stdout, stderr };
    let cloned = match &into {
        Some(group) => sys::clone_into(group),
        None => sys::clone(0),
    };
    let main = match cloned.setup(|| "clone3(main process)".to_owned())? {
        Cloned::Child => {
            let failure = process::exec(&request.process, inherited.filter, &rootfs, &cwd, &groups, &streams);
            tell(conversation, &Event::Failed { failure });
            sys::exit(127)
        }
        Cloned::Parent(pid) => pid,
    };
    drop((streams, groups, into, cwd));
    let stubs = std::mem::take(&mut rootfs.stubs);
    let proc = rootfs.proc.take();
    drop::<Rootfs>(rootfs);
    let (status, usage) = attend(conversation, &signals, main, proc.as_ref())?;
    drop(proc);
    finish(inherited, &stubs, status, usage)
}

fn read_request(fd: Option<OwnedFd>) -> Result<Request, StepFailure> {
    let broken = |errno| StepFailure::Setup { call: "reading the request".to_owned(), errno };
    let mut bytes = Vec::new();
    let mut file = std::fs::File::from(fd.ok_or_else(|| broken(libc::EBADF))?);
    file.read_to_end(&mut bytes).map_err(|error| broken(error.raw_os_error().unwrap_or(libc::EIO)))?;
    Request::decode(&bytes).ok_or_else(|| broken(libc::EBADMSG))
}

/// Reaps until the main process has ended, obeying the builder meanwhile; then kills and reaps the rest.
fn attend(
    conversation: &OwnedFd,
    signals: &OwnedFd,
    main: i32,
    proc: Option<&OwnedFd>,
) -> Result<(i32, Usage), StepFailure> {
    let mut deadline = None;
    loop {
        match sys::reap() {
            Waited::Ended(pid, status, usage) if pid == main => {
                // Daemons of the step may hold its output open: they go now (reliability: no hang on them).
                reap_rest(conversation, signals, proc);
                return Ok((status, usage));
            }
            Waited::Ended(..) => continue,
            Waited::Nothing | Waited::NoChildren => {}
        }
        let timeout = deadline.map(remaining);
        let mut polled = [PollFd::new(conversation, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(0) => sys::exit(1), // the grace is over; the kernel kills the namespace
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).setup(|| "poll(step)".to_owned()),
        }
        let (told, child) = (polled[0].revents(), polled[1].revents());
        if !child.is_empty() {
            drain(signals);
        }
        if !told.is_empty() {
            match listen(conversation) {
                Some(grace) => {
                    let _ = sys::kill_all(libc::SIGTERM); // ESRCH: everybody has just ended
                    deadline = Some(now_millis() + grace);
                }
                None => sys::exit(1),
            }
        }
    }
}

/// Reads an order: the grace in milliseconds, or `None` where the builder is gone.
fn listen(conversation: &OwnedFd) -> Option<u64> {
    let mut buffer = [0; 16];
    let (count, _) = rustix::net::recv(conversation, &mut buffer, RecvFlags::DONTWAIT).ok()?;
    match buffer.get(..count)? {
        [TERMINATE, grace @ ..] => u64::decode(grace),
        _ => None,
    }
}

fn drain(signals: &OwnedFd) {
    let mut buffer = [0; 1024];
    while rustix::io::read(signals, &mut buffer).is_ok_and(|count| count > 0) {}
}

fn reap_rest(conversation: &OwnedFd, signals: &OwnedFd, proc: Option<&OwnedFd>) {
    let _ = sys::kill_all(libc::SIGKILL); // ESRCH: nobody is left
    let mut deadline = Some(now_millis() + STUCK_AFTER);
    loop {
        match sys::reap() {
            Waited::NoChildren => return,
            Waited::Ended(..) => continue,
            Waited::Nothing => {}
        }
        let timeout = deadline.map(remaining);
        let mut polled = [PollFd::new(conversation, PollFlags::empty()), PollFd::new(signals, PollFlags::IN)];
        let ready = rustix::event::poll(&mut polled, timeout.as_ref());
        if !polled[0].revents().is_empty() {
            sys::exit(1);
        }
        if ready == Ok(0) {
            // Told once; whether to go on waiting is the builder's decision.
            deadline = None;
            tell(conversation, &Event::Stuck { process: proc.map(survivor).unwrap_or_default() });
        }
        drain(signals);
    }
}

/// Number and name of a process of the step that is still there.
fn survivor(proc: &OwnedFd) -> String {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(proc, ".", flags, Mode::empty()).and_then(rustix::fs::Dir::new);
    let Ok(directory) = directory else { return String::new() };
    let numbers =
        directory.flatten().filter_map(|entry| entry.file_name().to_str().ok()?.parse::<u32>().ok());
    let Some(number) = numbers.filter(|number| *number != 1).min() else { return String::new() };
    let name =
        rustix::fs::openat(proc, format!("{number}/comm"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .ok()
            .and_then(|fd| std::io::read_to_string(std::fs::File::from(fd)).ok())
            .unwrap_or_default();
    format!("{number} ({})", name.trim())
}

fn now_millis() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

fn remaining(deadline: u64) -> Timespec {
    let left = deadline.saturating_sub(now_millis());
    Timespec { tv_sec: (left / 1000) as i64, tv_nsec: (left % 1000 * 1_000_000) as _ }
}

/// Removes the mount points that were made. From the builder's namespace, because a mount point of the own namespace cannot
/// be removed (EBUSY in vfs_unlink); no process of the step lives any more.
fn finish(
    inherited: &Inherited<'_>,
    stubs: &[Stub],
    status: i32,
    usage: Usage,
) -> Result<Event, StepFailure> {
    let (mut removed, mut parents) = (Vec::new(), Vec::new());
    if !stubs.is_empty() {
        rustix::thread::move_into_link_name_space(
            inherited.host_mounts.as_fd(),
            Some(LinkNameSpaceType::Mount),
        )
        .setup(|| "setns(builder's mount namespace)".to_owned())?;
    }
    for stub in stubs.iter().rev() {
        if stub.remove().setup(|| format!("removing mount point {}", stub.path.display()))? {
            removed.push(stub.path.clone());
        }
        let parent = stub.path.parent().map(std::path::Path::to_owned);
        parents.extend(parent.filter(|parent| stub.parent_is_of_image && !parents.contains(parent)));
    }
    Ok(Event::Ended { status, usage, stubs: removed, parents })
}

/// Reads a raw wait status (wait(2)); a child that is neither exited nor killed is never reaped here.
pub(super) fn exit_status(status: i32) -> ExitStatus {
    match libc::WIFEXITED(status) {
        true => ExitStatus::Code(libc::WEXITSTATUS(status)),
        false => ExitStatus::Signal(libc::WTERMSIG(status)),
    }
}
