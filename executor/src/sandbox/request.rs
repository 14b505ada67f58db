//! What crosses the boundary between builder, spawner and init: the request, the events, the order of descriptors.

use std::ffi::OsString;
use std::path::PathBuf;

use super::error::StepFailure;
use super::mount_call::MountCall;
use super::spec::Usage;
use super::wire::{wire_enum, wire_struct};

/// Everything that init needs, descriptors apart.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) calls: Vec<MountCall>,
    pub(super) process: Process,
    pub(super) layout: Layout,
}

/// The process to run.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) cwd: PathBuf,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) hostname: String,
    pub(super) network: Namespace,
    pub(super) confinement: Confinement,
    pub(super) privileges: Growth,
    /// Resource number, soft, hard.
    pub(super) rlimits: Vec<(u32, u64, u64)>,
}

/// Whether a namespace is the step's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Namespace {
    Own,
    Host,
}

/// What the process may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confinement {
    /// These capabilities at most, and the seccomp filter.
    Capabilities { mask: u64 },
    /// Whatever the builder may do.
    Unconfined,
}

/// Whether execve may raise privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Growth {
    Allowed,
    Refused,
}

/// How many descriptors of each kind follow the conversation and the request, in this order: stdout and stderr, stdin where
/// there is one, v1 groups to join, the v2 group to be made in where there is one, mounts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) stdin: u32,
    pub(super) groups: u32,
    pub(super) into: u32,
    pub(super) mounts: u32,
}

/// What a step tells its builder.
#[derive(Debug)]
pub(super) enum Event {
    /// It did not start.
    Failed { failure: StepFailure },
    /// The main process ended and the file system is clean again.
    Ended { status: i32, usage: Usage, stubs: Vec<PathBuf>, parents: Vec<PathBuf> },
    /// The main process ended, but this one survives SIGKILL.
    Stuck { process: String },
    /// Init is gone, and with it every process and mount. Told by the spawner.
    Reaped { status: i32 },
}

/// What a builder tells a step: first byte of a message.
pub(super) const TERMINATE: u8 = b'T';

wire_struct!(Layout { stdin, groups, into, mounts });
wire_struct!(Request { calls, process, layout });
wire_struct!(Process {
    args,
    env,
    cwd,
    uid,
    gid,
    groups,
    hostname,
    network,
    confinement,
    privileges,
    rlimits
});
wire_struct!(Usage { user_micros, system_micros, max_rss_kib });
wire_enum!(Namespace { 0 Own {}, 1 Host {} });
wire_enum!(Confinement { 0 Capabilities { mask: mask }, 1 Unconfined {} });
wire_enum!(Growth { 0 Allowed {}, 1 Refused {} });
wire_enum!(Event {
    0 Failed { failure: failure },
    1 Ended { status: status, usage: usage, stubs: stubs, parents: parents },
    2 Reaped { status: status },
    3 Stuck { process: process },
});
wire_enum!(StepFailure {
    0 Setup { call: call, errno: errno },
    1 NotADirectory { path: path },
    2 ForbiddenTarget { target: target, on: on },
    3 MountKind { target: target, what: what },
    4 MountSource { path: path, target: target, errno: errno },
    5 WorkingDirectory { path: path, why: why },
    6 ProgramNotFound { program: program, path: path },
    7 ProgramDenied { program: program },
    8 ProgramFormat { program: program, hint: hint },
    9 InterpreterNotFound { program: program, interpreter: interpreter },
    10 Exec { program: program, errno: errno },
});
