//! What a step is to the sandbox: plain values that name a root file system, a process and its limits.
//!
//! Holds no decision: [`super::plan`] turns a spec into mount calls, [`super::spawner`] runs it.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// A stack of layers with an optional place for writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overlay {
    /// Unpacked layers, topmost first; empty for an empty root; 999 at most, two of the kernel's overlays.
    pub lowers: Vec<PathBuf>,
    /// Where writes go; `None` makes the tree read-only.
    pub writes: Option<Writes>,
}

/// Two fresh directories of one file system. A work directory is never used twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writes {
    /// Receives what is written.
    pub upper: PathBuf,
    /// The kernel's scratch space.
    pub work: PathBuf,
}

/// Everything needed to run one process in a sandbox of its own.
#[derive(Debug)]
pub struct StepSpec {
    /// The root file system.
    pub rootfs: Overlay,
    /// Program and arguments; a program without slash is looked up in the PATH of `env`.
    pub args: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Absolute working directory inside the root; made (root:root 0755) where it is missing, as runc does.
    pub cwd: PathBuf,
    /// Who runs it.
    pub user: User,
    /// Host name of the UTS namespace.
    pub hostname: String,
    /// Mounts in order.
    pub mounts: Vec<StepMount>,
    /// Read-only files under `/dev/pipes`: heredoc scripts.
    pub pipes: Vec<PipeFile>,
    /// Content of `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname`.
    pub etc: EtcFiles,
    /// A CA bundle of the host that the step shall trust.
    pub host_ca: Option<PathBuf>,
    /// Network.
    pub network: StepNetwork,
    /// Confinement.
    pub security: Security,
    /// Whether programs may gain privileges (setuid) at execve.
    pub privileges: Privileges,
    /// Resource limits of the whole step.
    pub limits: Limits,
    /// Resource limits of its processes; the core size is 0 unless it is set here.
    pub ulimits: Vec<Rlimit>,
}

/// Numeric identity of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups; those of the caller are never inherited.
    pub groups: Vec<u32>,
}

/// A mount of the step.
#[derive(Debug)]
pub struct StepMount {
    /// Absolute path inside the root; resolved there, made where it is missing, removed again afterwards.
    pub target: PathBuf,
    /// What is mounted.
    pub source: MountSource,
    /// Whether writes are allowed. They reach the source, except with [`MountSource::Layers`].
    pub access: Access,
}

/// Whether a mount can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Writes fail with EROFS.
    ReadOnly,
    /// Writes are allowed.
    ReadWrite,
}

/// What a mount shows.
#[derive(Debug)]
pub enum MountSource {
    /// A directory, file or socket of the host, already opened (O_PATH suffices): cache directories, ssh sockets.
    Handle(OwnedFd),
    /// A path inside a stack of layers; with `writes`, what is written can be thrown away with the upper directory.
    Layers {
        /// The stack. A host directory is a stack of one.
        overlay: Overlay,
        /// Path inside it, resolved there.
        subpath: PathBuf,
    },
    /// Memory.
    Tmpfs {
        /// Limit in bytes; half of the memory where absent.
        size: Option<u64>,
        /// Mode of its root.
        mode: u32,
    },
    /// A file in memory: secrets.
    File(MemoryFile),
}

/// A file that exists in memory only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryFile {
    /// Content.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A file under `/dev/pipes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipeFile {
    /// One path component.
    pub name: String,
    /// Content.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// Files of `/etc` that belong to the run and never to a layer; `None` leaves the image's file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcFiles {
    /// `/etc/hosts`.
    pub hosts: Option<String>,
    /// `/etc/resolv.conf`.
    pub resolv_conf: Option<String>,
    /// `/etc/hostname`.
    pub hostname: Option<String>,
}

/// Network of a step. Others are entered through a handle of their namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StepNetwork {
    /// Only a loopback device, in a namespace of its own.
    #[default]
    None,
    /// The host's namespace.
    Host,
}

/// Confinement of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Security {
    /// Docker's capabilities and seccomp profile, masked and read-only paths.
    #[default]
    Sandbox,
    /// All capabilities, no seccomp filter, nothing masked. The caller checks the entitlement.
    Insecure,
}

/// Whether execve may raise privileges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Privileges {
    /// su and sudo work, as in Docker.
    #[default]
    MayGrow,
    /// PR_SET_NO_NEW_PRIVS.
    Fixed,
}

/// Limits that a control group enforces, where one can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// CPU time in microseconds per period.
    pub cpu_quota: Option<u64>,
    /// The period in microseconds; 100,000 where absent.
    pub cpu_period: Option<u64>,
    /// CPUs such as `0-3`.
    pub cpuset: Option<String>,
    /// Bytes of /dev/shm.
    pub shm_size: u64,
}

impl Default for Limits {
    /// 4096 processes, 64 MiB of shared memory, nothing else.
    fn default() -> Self {
        Limits {
            pids: Some(4096),
            memory: None,
            cpu_quota: None,
            cpu_period: None,
            cpuset: None,
            shm_size: 64 << 20,
        }
    }
}

/// One resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// Which.
    pub resource: Resource,
    /// Soft limit; `u64::MAX` is unlimited.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is unlimited.
    pub hard: u64,
}

macro_rules! resources {
    ($($variant:ident $name:literal $constant:ident),* $(,)?) => {
        /// The kinds of resource limits, named as `--ulimit` names them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Resource {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        impl Resource {
            /// Every kind.
            pub const ALL: &[Resource] = &[$(Resource::$variant),*];

            /// The name that `--ulimit` takes.
            pub fn name(self) -> &'static str {
                match self { $(Resource::$variant => $name,)* }
            }

            /// The kernel's number.
            pub fn number(self) -> u32 {
                match self { $(Resource::$variant => libc::$constant as u32,)* }
            }

            /// Returns the kind of that name.
            pub fn parse(name: &str) -> Option<Resource> {
                match name { $($name => Some(Resource::$variant),)* _ => None }
            }
        }
    };
}

resources! {
    Core "core" RLIMIT_CORE,
    Cpu "cpu" RLIMIT_CPU,
    Data "data" RLIMIT_DATA,
    FileSize "fsize" RLIMIT_FSIZE,
    Locks "locks" RLIMIT_LOCKS,
    LockedMemory "memlock" RLIMIT_MEMLOCK,
    MessageQueues "msgqueue" RLIMIT_MSGQUEUE,
    Nice "nice" RLIMIT_NICE,
    OpenFiles "nofile" RLIMIT_NOFILE,
    Processes "nproc" RLIMIT_NPROC,
    ResidentSet "rss" RLIMIT_RSS,
    RealtimePriority "rtprio" RLIMIT_RTPRIO,
    RealtimeTime "rttime" RLIMIT_RTTIME,
    PendingSignals "sigpending" RLIMIT_SIGPENDING,
    Stack "stack" RLIMIT_STACK,
}

/// Standard streams of a step.
#[derive(Debug)]
pub struct Stdio {
    /// Standard input; the step's own /dev/null where absent.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepEnd {
    /// Exit code or signal of the main process.
    pub status: ExitStatus,
    /// The step's own memory limit killed a process.
    pub oom: OutOfMemory,
    /// A fork was refused by the step's limit of processes.
    pub pids_limit: PidsLimit,
    /// What it used.
    pub usage: Usage,
    /// Mount points that were made for the run and are gone again, inside the root.
    pub stubs: Vec<PathBuf>,
    /// Directories of the image that were copied up only because a stub was made in them; their times are restored.
    pub stub_parents: Vec<PathBuf>,
}

/// Exit code or signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

/// Whether memory ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutOfMemory {
    /// No group with a memory limit watched the step: a SIGKILL may be the host's doing.
    Unwatched,
    /// The limit killed nothing.
    No,
    /// The limit killed a process.
    Killed {
        /// The limit in bytes.
        limit: u64,
    },
}

/// Whether the limit of processes was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PidsLimit {
    /// No group counted.
    Unwatched,
    /// Never hit.
    No,
    /// Hit at least once.
    Hit {
        /// The limit.
        limit: u64,
    },
}

/// Resources that the step's processes used, as getrusage(2) tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in user mode, microseconds.
    pub user_micros: u64,
    /// CPU time in the kernel, microseconds.
    pub system_micros: u64,
    /// Largest resident set of one process, KiB.
    pub max_rss_kib: u64,
}
