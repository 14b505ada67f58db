//! Everything that can go wrong between a spec and its process.

use std::io;
use std::path::PathBuf;

/// Errors of the sandbox. A step that exits non-zero is not one: it is a [`super::StepEnd`].
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// This process may not make namespaces.
    #[error(
        "making a mount namespace — {call} — {source} — run as root with CAP_SYS_ADMIN, outside of containers that take it away"
    )]
    Namespace {
        /// The system call.
        call: &'static str,
        /// Its errno.
        source: io::Error,
    },
    /// The spec cannot be run by anybody.
    #[error("mount target {} — it lies on {on} — choose another target", target.display())]
    ForbiddenTarget {
        /// The target as written.
        target: PathBuf,
        /// The file system or directory that it lies on.
        on: String,
    },
    /// The spec breaks a rule of its own.
    #[error("{what}")]
    Invalid {
        /// What is wrong.
        what: String,
    },
    /// A system call of the machinery.
    #[error("{call} — {source}")]
    Call {
        /// The call with its arguments.
        call: String,
        /// Its errno.
        source: io::Error,
    },
    /// The spawner is gone.
    #[error("the process that starts steps has died — it was probably killed — start the build again")]
    SpawnerGone,
    /// The step's main process has ended, but another one cannot be killed.
    #[error(
        "ending the step — process {process} does not die (uninterruptible, such as on a hung network file system) — it is left behind; see dmesg or free its file system"
    )]
    Stuck {
        /// Its number in the step and its name.
        process: String,
    },
    /// The step could not be set up or started.
    #[error(transparent)]
    Step(#[from] StepFailure),
}

/// Why a step did not start: told by its init.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepFailure {
    /// A system call while the sandbox was built.
    #[error("{call} — {}", kernel_text(.errno))]
    Setup {
        /// The call with its arguments.
        call: String,
        /// errno.
        errno: i32,
    },
    /// `/proc`, `/sys` or `/dev` of the image is a link or a file.
    #[error(
        "{path} of the image must be a directory — it is a symbolic link or a file — the sandbox mounts its own there"
    )]
    NotADirectory {
        /// The path.
        path: String,
    },
    /// A mount target turned out to lie on a file system of the sandbox.
    #[error("mount target {target} — it leads to {on} — choose another target")]
    ForbiddenTarget {
        /// As written.
        target: String,
        /// What it leads to.
        on: String,
    },
    /// A directory cannot be mounted on a file, nor a file on a directory.
    #[error("mount target {target} — {what}")]
    MountKind {
        /// As written.
        target: String,
        /// What is mounted on what.
        what: String,
    },
    /// A mount's source does not exist.
    #[error("mount source {path} — {} — target {target}", kernel_text(.errno))]
    MountSource {
        /// Path in the stage or context.
        path: String,
        /// The target.
        target: String,
        /// errno.
        errno: i32,
    },
    /// The working directory cannot be used.
    #[error("working directory {path} — {why}")]
    WorkingDirectory {
        /// As written.
        path: String,
        /// Why.
        why: String,
    },
    /// No such program.
    #[error("{program}: no such file in the image{}", searched(.path))]
    ProgramNotFound {
        /// As written.
        program: String,
        /// The PATH that was searched; empty where the program was given by path.
        path: String,
    },
    /// The program cannot be executed by this user.
    #[error(
        "{program}: permission denied — it is a directory, has no execute bit for this user, or lies on a noexec mount"
    )]
    ProgramDenied {
        /// Where it was found.
        program: String,
    },
    /// The kernel knows no way to run the file.
    #[error("{program}: exec format error — {hint}")]
    ProgramFormat {
        /// Where it was found.
        program: String,
        /// What the file is and what helps.
        hint: String,
    },
    /// The program exists, its interpreter does not.
    #[error("{program}: its interpreter {interpreter} does not exist in the image")]
    InterpreterNotFound {
        /// Where it was found.
        program: String,
        /// The interpreter of `#!` or of the ELF file.
        interpreter: String,
    },
    /// execve failed otherwise.
    #[error("execve({program}) — {}", kernel_text(.errno))]
    Exec {
        /// Where it was found.
        program: String,
        /// errno.
        errno: i32,
    },
}

fn kernel_text(errno: &i32) -> io::Error {
    io::Error::from_raw_os_error(*errno)
}

fn searched(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" — searched {path}") }
}

/// Names the call of a failed system call.
pub(super) trait Named<T> {
    /// Attaches the call's text, made only on failure.
    fn named(self, call: impl FnOnce() -> String) -> Result<T, SandboxError>;
}

impl<T> Named<T> for rustix::io::Result<T> {
    fn named(self, call: impl FnOnce() -> String) -> Result<T, SandboxError> {
        self.map_err(|errno| SandboxError::Call { call: call(), source: errno.into() })
    }
}

impl<T> Named<T> for io::Result<T> {
    fn named(self, call: impl FnOnce() -> String) -> Result<T, SandboxError> {
        self.map_err(|source| SandboxError::Call { call: call(), source })
    }
}

/// As [`Named`], inside the step's init.
pub(super) trait Setup<T> {
    /// Attaches the call's text, made only on failure.
    fn setup(self, call: impl FnOnce() -> String) -> Result<T, StepFailure>;
}

impl<T> Setup<T> for rustix::io::Result<T> {
    fn setup(self, call: impl FnOnce() -> String) -> Result<T, StepFailure> {
        self.map_err(|errno| StepFailure::Setup { call: call(), errno: errno.raw_os_error() })
    }
}
