//! The sandbox that runs one step: namespaces, overlay, mounts, capabilities, seccomp, control groups.
//!
//! Builder → spawner → init → program. [`Spawner::start`] is called by main before any thread exists and forks the spawner;
//! [`Spawner::run`] turns a [`StepSpec`] into a plan (pure, `plan`) and a request; the spawner clones an init into new
//! namespaces (`init`), which loops over the plan (`rootfs`) and forks the program (`process`). Knows no layer store, image
//! or cache: directories in, exit status out.

mod cgroup;
mod error;
mod init;
mod mount_call;
mod overlayfs;
mod plan;
mod process;
mod reexec;
mod request;
mod resolve;
mod rootfs;
mod seccomp;
mod skeleton;
mod spawner;
mod spec;
mod step;
mod sys;
mod view;
mod wire;

pub use cgroup::sweep;
pub use error::{SandboxError, StepFailure};
pub use mount_call::{Attributes, DeviceControl, MountCall, Source, Target};
pub use plan::{CA_FILE, CA_VARIABLES, plan_mounts};
pub use reexec::reenter;
pub use skeleton::make_skeleton;
pub use spawner::Spawner;
pub use spec::{
    Access, EtcFiles, ExitStatus, Limits, MemoryFile, MountSource, OutOfMemory, Overlay, PidsLimit, PipeFile,
    Privileges, Resource, Rlimit, Security, Stdio, StepEnd, StepMount, StepNetwork, StepSpec, Usage, User,
    Writes,
};
pub use step::{RunningStep, StepKiller};
pub use view::{MountedView, mount_readonly};
