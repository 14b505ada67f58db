//! From a forked child of init to the step's program: identity, capabilities, filter, execve.
//!
//! Returns only to say why it failed. Order matters and each position has its reason beside it.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid, UnshareFlags};

use super::error::{Setup, StepFailure};
use super::request::{Confinement, Growth, Process};
use super::rootfs::Rootfs;
use super::seccomp::Instruction;
use super::sys;

/// The 14 of moby daemon/pkg/oci/caps/defaults.go.
pub(super) const DEFAULT_CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// Where programs are looked for when the step has no PATH, as in Docker.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Steps are killed before the builder when the host's memory runs out.
const OOM_SCORE: i32 = 200;

/// Standard streams.
pub(super) struct Streams {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Becomes the step's program.
pub(super) fn exec(
    process: &Process,
    filter: &[Instruction],
    rootfs: &Rootfs,
    cwd: &OwnedFd,
    groups: &[OwnedFd],
    streams: &Streams,
) -> StepFailure {
    match prepare(process, filter, rootfs, cwd, groups, streams) {
        Ok(()) => launch(process),
        Err(failure) => failure,
    }
}

fn prepare(
    process: &Process,
    filter: &[Instruction],
    rootfs: &Rootfs,
    cwd: &OwnedFd,
    groups: &[OwnedFd],
    streams: &Streams,
) -> Result<(), StepFailure> {
    // Its own session: no controlling terminal to inject input into (RT-30).
    rustix::process::setsid().setup(|| "setsid()".to_owned())?;
    for group in groups {
        rustix::io::write(group, b"0").setup(|| "write(tasks, 0)".to_owned())?;
    }
    // After joining, so that the step's group is the root of what it sees.
    sys::unshare(UnshareFlags::NEWCGROUP).setup(|| "unshare(CLONE_NEWCGROUP)".to_owned())?;
    raise_oom_score(rootfs)?;
    match sys::join_empty_keyring() {
        // Without keyrings, or with an outer filter that refuses keyctl for the step as well, there is nothing to hide.
        Ok(()) | Err(Errno::NOSYS | Errno::PERM) => {}
        Err(errno) => return Err(errno).setup(|| "keyctl(KEYCTL_JOIN_SESSION_KEYRING)".to_owned()),
    }
    connect(streams, process.uid)?;
    for (resource, soft, hard) in &process.rlimits {
        sys::set_rlimit(*resource, *soft, *hard)
            .setup(|| format!("setrlimit({resource}, {soft}, {hard})"))?;
    }
    rustix::process::fchdir(cwd).setup(|| "fchdir(working directory)".to_owned())?;
    refuse_outside(&process.cwd)?;
    sys::default_signals();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    identify(process, filter)?;
    close_on_exec()?;
    // Again, as late as possible (CVE-2024-21626).
    refuse_outside(&process.cwd)
}

fn raise_oom_score(rootfs: &Rootfs) -> Result<(), StepFailure> {
    let Some(proc) = &rootfs.proc else { return Ok(()) };
    let call = || "oom_score_adj of the step".to_owned();
    let fd = rustix::fs::openat(proc, "self/oom_score_adj", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .setup(call)?;
    let mut text = [0; 16];
    let count = rustix::io::read(&fd, &mut text).setup(call)?;
    let current = std::str::from_utf8(&text[..count])
        .ok()
        .and_then(|text| text.trim().parse::<i32>().ok())
        .unwrap_or(0);
    if current < OOM_SCORE {
        rustix::io::pwrite(&fd, OOM_SCORE.to_string().as_bytes(), 0).setup(call)?;
    }
    Ok(())
}

fn connect(streams: &Streams, uid: u32) -> Result<(), StepFailure> {
    let call = || "dup2(standard streams)".to_owned();
    match &streams.stdin {
        Some(stdin) => rustix::stdio::dup2_stdin(stdin).setup(call)?,
        None => {
            let null = rustix::fs::openat(CWD, "/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .setup(|| "open(/dev/null)".to_owned())?;
            rustix::stdio::dup2_stdin(&null).setup(call)?;
        }
    }
    rustix::stdio::dup2_stdout(&streams.stdout).setup(call)?;
    rustix::stdio::dup2_stderr(&streams.stderr).setup(call)?;
    for stream in [&streams.stdout, &streams.stderr] {
        let mode = rustix::fs::fstat(stream).setup(|| "fstat(standard stream)".to_owned())?.st_mode;
        // So that `> /dev/stdout` works for other users: the pipe belongs to who opens it (runc's fixStdioPermissions).
        if FileType::from_raw_mode(mode) == FileType::Fifo && uid != 0 {
            rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), None)
                .setup(|| format!("fchown(standard stream, {uid})"))?;
        }
    }
    Ok(())
}

/// The kernel answers "(unreachable)…" for a directory outside the root.
fn refuse_outside(cwd: &Path) -> Result<(), StepFailure> {
    let refused = |why: String| StepFailure::WorkingDirectory { path: cwd.display().to_string(), why };
    match rustix::process::getcwd(Vec::new()) {
        Ok(path) if path.as_bytes().starts_with(b"/") => Ok(()),
        Ok(_) => Err(refused("it lies outside the root of the step".to_owned())),
        Err(errno) => Err(refused(std::io::Error::from(errno).to_string())),
    }
}

fn identify(process: &Process, filter: &[Instruction]) -> Result<(), StepFailure> {
    // While CAP_SYS_ADMIN is there: without it a filter needs no_new_privs, which would break su and sudo.
    if process.confinement != Confinement::Unconfined && !filter.is_empty() {
        sys::load_seccomp(filter).setup(|| format!("seccomp({} instructions)", filter.len()))?;
    }
    if let Confinement::Capabilities { mask } = process.confinement {
        reduce_bounding_set(mask)?;
    }
    let groups: Vec<Gid> = process.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    rustix::thread::set_thread_groups(&groups).setup(|| format!("setgroups({:?})", process.groups))?;
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).setup(|| format!("setresgid({})", process.gid))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).setup(|| format!("setresuid({})", process.uid))?;
    if let Confinement::Capabilities { mask } = process.confinement {
        // Inheritable stays empty (CVE-2022-29162), and with it ambient, which is a subset of it.
        let held =
            if process.uid == 0 { CapabilitySet::from_bits_retain(mask) } else { CapabilitySet::empty() };
        let sets = CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() };
        rustix::thread::set_capabilities(None, sets).setup(|| format!("capset({mask:#x})"))?;
    }
    match process.privileges {
        Growth::Allowed => Ok(()),
        Growth::Refused => {
            rustix::thread::set_no_new_privs(true).setup(|| "prctl(PR_SET_NO_NEW_PRIVS)".to_owned())
        }
    }
}

fn reduce_bounding_set(mask: u64) -> Result<(), StepFailure> {
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if mask & (1 << bit) != 0 {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(Errno::INVAL) => return Ok(()), // beyond the kernel's last capability
            Err(errno) => return Err(errno).setup(|| format!("prctl(PR_CAPBSET_DROP, {bit})")),
        }
    }
    Ok(())
}

fn close_on_exec() -> Result<(), StepFailure> {
    sys::close_on_exec_from(3).setup(|| "close_range(3, ~0, CLOSE_RANGE_CLOEXEC)".to_owned())
}

fn launch(process: &Process) -> StepFailure {
    let Some(program) = process.args.first() else {
        return StepFailure::ProgramNotFound { program: String::new(), path: String::new() };
    };
    let (Some(args), Some(env)) =
        (c_strings(process.args.iter().cloned()), c_strings(process.env.iter().map(assignment)))
    else {
        return StepFailure::Exec { program: program.display().to_string(), errno: libc::EINVAL };
    };
    if program.as_bytes().contains(&b'/') {
        return attempt(Path::new(program), &args, &env).unwrap_or_else(|| StepFailure::ProgramNotFound {
            program: program.display().to_string(),
            path: String::new(),
        });
    }
    search(program, process, &args, &env)
}

fn search(program: &OsStr, process: &Process, args: &[CString], env: &[CString]) -> StepFailure {
    let path = process.env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    let path = path.unwrap_or_else(|| OsString::from(DEFAULT_PATH));
    let mut denied = None;
    if !program.is_empty() {
        for directory in path.as_bytes().split(|byte| *byte == b':') {
            let directory = if directory.is_empty() { b"." } else { directory };
            let candidate = Path::new(OsStr::from_bytes(directory)).join(program);
            match attempt(&candidate, args, env) {
                None => {}
                // As execvp(3): a file that may not be executed hides nothing later in the PATH.
                Some(failure @ StepFailure::ProgramDenied { .. }) => denied = denied.or(Some(failure)),
                Some(failure) => return failure,
            }
        }
    }
    denied.unwrap_or_else(|| StepFailure::ProgramNotFound {
        program: program.display().to_string(),
        path: path.display().to_string(),
    })
}

/// Executes a path; returns why not, or `None` where there is no such file.
fn attempt(path: &Path, args: &[CString], env: &[CString]) -> Option<StepFailure> {
    let text = CString::new(path.as_os_str().as_bytes()).ok()?;
    let errno = sys::execve(&text, args, env);
    let program = path.display().to_string();
    match errno {
        Errno::NOENT => match interpreter(path) {
            Some(interpreter) => Some(StepFailure::InterpreterNotFound { program, interpreter }),
            None if rustix::fs::stat(path).is_ok() => {
                Some(StepFailure::Exec { program, errno: errno.raw_os_error() })
            }
            None => None,
        },
        Errno::NOTDIR => None,
        Errno::ACCESS => Some(StepFailure::ProgramDenied { program }),
        Errno::NOEXEC => Some(StepFailure::ProgramFormat { hint: format_hint(path), program }),
        _ => Some(StepFailure::Exec { program, errno: errno.raw_os_error() }),
    }
}

fn assignment((name, value): &(OsString, OsString)) -> OsString {
    let mut text = name.clone();
    text.push("=");
    text.push(value);
    text
}

fn c_strings(strings: impl Iterator<Item = OsString>) -> Option<Vec<CString>> {
    strings.map(|string| CString::new(string.into_vec()).ok()).collect()
}

/// The first bytes of a file, or nothing.
fn head(path: &Path) -> Vec<u8> {
    use std::io::Read;
    let mut head = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        // Whatever cannot be read gives no hint, which is all this is for.
        let _ = file.take(64 << 10).read_to_end(&mut head);
    }
    head
}

/// The interpreter that a script or an ELF file names.
fn interpreter(path: &Path) -> Option<String> {
    let head = head(path);
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?;
        let text = String::from_utf8_lossy(line);
        // The carriage return of a DOS line end belongs to the name, which is why it is not found: show it.
        return text
            .trim_matches([' ', '\t'])
            .split([' ', '\t'])
            .next()
            .map(|name| name.escape_debug().to_string());
    }
    elf_interpreter(&head)
}

/// PT_INTERP of a 64-bit little-endian ELF file.
fn elf_interpreter(head: &[u8]) -> Option<String> {
    const PT_INTERP: u64 = 3;
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let number = |offset: usize, size: usize| -> Option<u64> {
        let bytes = head.get(offset..offset.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    let (table, entry, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    (0..count).find_map(|index| {
        let at = usize::try_from(table.checked_add(index.checked_mul(entry)?)?).ok()?;
        if number(at, 4)? != PT_INTERP {
            return None;
        }
        let (offset, size) = (number(at + 8, 8)? as usize, number(at + 32, 8)? as usize);
        let text = head.get(offset..offset.checked_add(size)?)?;
        Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
    })
}

fn format_hint(path: &Path) -> String {
    let head = head(path);
    if head.is_empty() {
        return "the file is empty".to_owned();
    }
    let Some(machine) = head.starts_with(b"\x7fELF").then(|| head.get(18..20)).flatten() else {
        return "it is neither an ELF file nor a script that starts with #!".to_owned();
    };
    let name = match u16::from_le_bytes([machine[0], machine[1]]) {
        3 => "386",
        40 => "arm",
        62 => "amd64",
        183 => "arm64",
        243 => "riscv64",
        258 => "loong64",
        _ => "another machine",
    };
    format!(
        "it is built for {name}, this machine is {} — build for this machine's platform or install qemu-user-static (binfmt_misc)",
        std::env::consts::ARCH
    )
}
