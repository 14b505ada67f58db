//! The system calls that rustix does not wrap safely. The only file of the sandbox with `unsafe`.
//!
//! Every function is the thinnest cover of one call; decisions live with the callers. All of them are called from
//! single-threaded processes (the spawner and its descendants), except `attach_attributes`, which is safe anywhere.

#![expect(unsafe_code, reason = "raw system calls between clone and exec, and calls that rustix lacks")]

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, Result};
use rustix::thread::UnshareFlags;

use super::seccomp::Instruction;
use super::spec::Usage;

/// Which side of a clone we are on.
pub(super) enum Cloned {
    /// The caller, with the child's process id in the caller's namespace.
    Parent(i32),
    /// The new process.
    Child,
}

fn check(result: libc::c_long) -> Result<libc::c_long> {
    if result >= 0 { Ok(result) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

/// Forks with `CLONE_NEW*` flags. The caller must be single-threaded: the child goes on with a copy of its memory.
pub(super) fn clone(flags: u64) -> Result<Cloned> {
    // SAFETY: clone_args is plain data, zero is a valid value of every field.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags;
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: the pointer and size describe a live clone_args; without CLONE_VM and a stack the call behaves as fork.
    let pid = check(unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>())
    })?;
    Ok(if pid == 0 { Cloned::Child } else { Cloned::Parent(pid as i32) })
}

/// Forks into a v2 control group, which costs no migration (Linux 5.7).
pub(super) fn clone_into(group: impl AsFd) -> Result<Cloned> {
    // SAFETY: clone_args is plain data, zero is a valid value of every field.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = 0x2_0000_0000; // CLONE_INTO_CGROUP, which overflows libc's type
    arguments.cgroup = group.as_fd().as_raw_fd() as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: as in `clone`.
    let pid = check(unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>())
    })?;
    Ok(if pid == 0 { Cloned::Child } else { Cloned::Parent(pid as i32) })
}

/// Leaves namespaces.
pub(super) fn unshare(flags: UnshareFlags) -> Result<()> {
    // SAFETY: unshare of CLONE_FILES is what could break other owners of descriptors; callers leave namespaces only.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Ends the process without running anything of the parent's: no destructors, no flushing of copied buffers.
pub(super) fn exit(code: i32) -> ! {
    // SAFETY: _exit takes any value and does not return.
    unsafe { libc::_exit(code) }
}

/// Sets `MOUNT_ATTR_*` bits of a mount and makes it private, so that nothing of the host's propagates into it.
pub(super) fn attach_attributes(mount: impl AsFd, bits: u64) -> Result<()> {
    // SAFETY: mount_attr is plain data, zero is a valid value of every field.
    let mut attributes: libc::mount_attr = unsafe { std::mem::zeroed() };
    attributes.attr_set = bits;
    attributes.propagation = libc::MS_PRIVATE;
    // SAFETY: the descriptor lives, the path is a C string, pointer and size describe a live mount_attr.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Installs a filter for this process and its descendants. Needs CAP_SYS_ADMIN or no_new_privs.
pub(super) fn load_seccomp(program: &[Instruction]) -> Result<()> {
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut().cast::<libc::sock_filter>(),
    };
    // SAFETY: Instruction has the layout of sock_filter (repr(C), same fields); the kernel only reads `len` of them.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) })
        .map(drop)
}

/// Replaces the program. Returns only on failure.
pub(super) fn execve(path: &CStr, arguments: &[CString], environment: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both vectors are null-terminated arrays of pointers to C strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    last_errno()
}

/// Replaces the program by the one behind a handle, with an empty environment. Returns only on failure.
pub(super) fn execveat(program: impl AsFd, arguments: &[CString]) -> Errno {
    let pointers: Vec<*const libc::c_char> =
        arguments.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect();
    let environment = [std::ptr::null::<libc::c_char>()];
    let fd = program.as_fd().as_raw_fd();
    // SAFETY: both arrays are null-terminated arrays of pointers to C strings that outlive the call, the path is one too.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd,
            c"".as_ptr(),
            pointers.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    last_errno()
}

/// Lets execve keep a descriptor.
pub(super) fn keep_on_exec(fd: impl AsFd) -> Result<()> {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())
}

/// Takes over a descriptor that execve kept; `None` where there is none of that number.
pub(super) fn inherited(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl takes any number; F_SETFD changes only the descriptor's flag.
    if fd < 3 || unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return None;
    }
    // SAFETY: the descriptor exists, and at the start of main nothing of this program owns any beyond the standard ones.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Joins a new, empty session keyring, so that the caller's keys are out of reach (keyctl(2)).
pub(super) fn join_empty_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is passed.
    check(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    })
    .map(drop)
}

/// Brings the loopback device of this network namespace up.
pub(super) fn loopback_up(socket: impl AsFd) -> Result<()> {
    // SAFETY: ifreq is plain data, zero is a valid value of every field.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the descriptor lives and SIOCSIFFLAGS reads one ifreq.
    check(
        unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }
            .into(),
    )
    .map(drop)
}

/// Sets one resource limit of this process.
pub(super) fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the pointer describes a live rlimit64; a null old limit is allowed.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, std::ptr::null::<libc::rlimit64>())
    })
    .map(drop)
}

/// Sends a signal to every process of the namespace but the caller, which must be its init.
pub(super) fn kill_all(signal: i32) -> Result<()> {
    // SAFETY: kill takes any values.
    check(unsafe { libc::kill(-1, signal) }.into()).map(drop)
}

/// Blocks all signals and returns a descriptor that tells of SIGCHLD.
pub(super) fn child_signals() -> Result<OwnedFd> {
    // SAFETY: sigset_t is plain data; sigfillset and sigemptyset initialise it; the calls take pointers to live sets.
    let fd = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
        let mut child: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut child);
        libc::sigaddset(&raw mut child, libc::SIGCHLD);
        check(libc::signalfd(-1, &raw const child, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into())?
    };
    // SAFETY: signalfd returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Gives every signal its default action and unblocks all: what a new program expects.
pub(super) fn default_signals() {
    // SAFETY: signal and sigprocmask take constants and a live set; failures (SIGKILL, SIGSTOP) change nothing.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// What waiting found.
pub(super) enum Waited {
    /// A child ended: its process id, raw wait status, and what it and its waited-for descendants used.
    Ended(i32, i32, Usage),
    /// Children live, none has ended.
    Nothing,
    /// There are no children.
    NoChildren,
}

/// Reaps one child without blocking.
pub(super) fn reap() -> Waited {
    let mut status = 0;
    // SAFETY: rusage is plain data, zero is a valid value of every field.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers describe live values.
        match check(unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) }.into()) {
            Ok(0) => return Waited::Nothing,
            Ok(pid) => return Waited::Ended(pid as i32, status, usage_of(&usage)),
            Err(Errno::INTR) => {}
            Err(_) => return Waited::NoChildren,
        }
    }
}

fn usage_of(usage: &libc::rusage) -> Usage {
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    Usage {
        user_micros: micros(usage.ru_utime),
        system_micros: micros(usage.ru_stime),
        max_rss_kib: usage.ru_maxrss as u64,
    }
}

/// Makes the process's terminal unreachable and its memory private: called first in every process that the spawner makes.
pub(super) fn make_undumpable() -> Result<()> {
    // SAFETY: PR_SET_DUMPABLE takes an integer.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }.into()).map(drop)
}

/// Marks every descriptor from `first` on to be closed by execve (Linux 5.11).
pub(super) fn close_on_exec_from(first: u32) -> Result<()> {
    // SAFETY: close_range takes integers; with CLOSE_RANGE_CLOEXEC it closes nothing now.
    check(unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    })
    .map(drop)
}

/// Closes every descriptor from 3 on but these.
pub(super) fn close_all_but(keep: &[RawFd]) -> Result<()> {
    let mut keep: Vec<libc::c_uint> = keep.iter().map(|fd| *fd as libc::c_uint).collect();
    keep.sort_unstable();
    let mut first = 3;
    for kept in keep.into_iter().chain([libc::c_uint::MAX]) {
        if first < kept {
            // SAFETY: close_range takes integers. Nobody in this process uses a descriptor in the range any more: it is
            // called once, right after the fork, with all descriptors that are in use.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, kept - 1, 0) })?;
        }
        first = kept.saturating_add(1);
    }
    Ok(())
}

/// The head of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    program_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The head of `union bpf_attr` for BPF_PROG_ATTACH.
#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// Loads a program that decides on devices (BPF_PROG_TYPE_CGROUP_DEVICE).
pub(super) fn load_device_program(instructions: &[u64]) -> Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    let attributes = LoadAttributes {
        program_type: 15,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..LoadAttributes::default()
    };
    // SAFETY: the attributes live, and so do the instructions and the string they point to; the kernel only reads them.
    let fd = check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<LoadAttributes>())
    })?;
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Attaches it to a v2 group, beside programs of others.
pub(super) fn attach_device_program(group: impl AsFd, program: impl AsFd) -> Result<()> {
    const BPF_PROG_ATTACH: libc::c_long = 8;
    let attributes = AttachAttributes {
        target: group.as_fd().as_raw_fd() as u32,
        program: program.as_fd().as_raw_fd() as u32,
        attach_type: 6, // BPF_CGROUP_DEVICE
        flags: 2,       // BPF_F_ALLOW_MULTI
    };
    // SAFETY: the attributes live; the kernel only reads them.
    check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attributes, size_of::<AttachAttributes>())
    })
    .map(drop)
}
