//! The spawner runs this program again, from a mount that cannot be written.
//!
//! A step can execute `/proc/self/exe`, or a script whose interpreter that is, and would then hold a handle on the builder's
//! program on the host: to change its mode, or to write it where the kernel allows writing to running programs (RT-03,
//! CVE-2019-5736). So the processes that steps are forked from run a read-only clone of the program's mount, or a sealed
//! copy in memory where its mount cannot be cloned.

use std::ffi::{CString, OsString};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::process::Pid;

use super::error::{Named, SandboxError};
use super::mount_call::Attributes;
use super::overlayfs;
use super::spawner;
use super::sys;

/// argv[0] of the spawner. A program called so by accident finds no socket and ends.
const NAME: &str = "xbuild-spawner";

/// Turns into the spawner where that is what this process was started for; otherwise returns.
///
/// Every program that calls [`super::Spawner::start`] calls this first in `main`.
pub fn reenter() {
    let arguments: Vec<OsString> = std::env::args_os().take(4).collect();
    let [name, socket, builder] = arguments.as_slice() else { return };
    if name != NAME {
        return;
    }
    let number = |text: &OsString| text.to_str().and_then(|text| text.parse::<i32>().ok());
    let code = match (number(socket).and_then(sys::inherited), number(builder).and_then(Pid::from_raw)) {
        (Some(socket), Some(builder)) if spawner::serve(&socket, builder).is_ok() => 0,
        _ => 1,
    };
    sys::exit(code)
}

/// Returns a handle on this program that grants no way to change it. Called in the mount namespace it was started in.
pub(super) fn program() -> Result<OwnedFd, SandboxError> {
    const PATH: &str = "/proc/self/exe";
    let exe = rustix::fs::openat(CWD, PATH, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .named(|| format!("open({PATH})"))?;
    match overlayfs::clone_tree(
        &exe,
        Attributes::READ_ONLY.and(Attributes::NO_SUID).and(Attributes::NO_DEVICES),
    ) {
        Ok(program) => Ok(program),
        // Its mount belongs to another namespace, or there is none: a program in memory.
        Err(_) => sealed_copy(PATH),
    }
}

fn sealed_copy(path: &str) -> Result<OwnedFd, SandboxError> {
    let call = || format!("copying {path} into memory");
    let copy =
        rustix::fs::memfd_create("xbuild", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).named(call)?;
    let mut source = std::fs::File::open(path).named(call)?;
    let mut target = std::fs::File::from(copy);
    std::io::copy(&mut source, &mut target).named(call)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&target, seals).named(call)?;
    Ok(target.into())
}

/// Becomes the spawner. Returns only on failure.
pub(super) fn become_spawner(program: &OwnedFd, socket: &OwnedFd, builder: Pid) -> Errno {
    let arguments = [NAME.to_owned(), socket.as_raw_fd().to_string(), builder.as_raw_nonzero().to_string()];
    let arguments = arguments.map(|argument| CString::new(argument).expect("names and numbers hold no NUL"));
    match sys::keep_on_exec(socket) {
        Ok(()) => sys::execveat(program, &arguments),
        Err(errno) => errno,
    }
}
