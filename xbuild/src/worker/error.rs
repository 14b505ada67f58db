//! Why a step could not be done. The binary's failure is made of it at the door.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use executor::layers::LayerError;
use executor::sandbox::{ExitStatus, OutOfMemory, PidsLimit, SandboxError};

/// Everything that can go wrong while a step is done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StepError {
    /// The command ended otherwise than with 0: an outcome of the step, not an error of xbuild.
    #[error("{}{}", ended(*status, oom, pids_limit), short_of(space))]
    Ended {
        /// How.
        status: ExitStatus,
        /// Whether the step's memory limit killed it.
        oom: OutOfMemory,
        /// Whether a fork was refused.
        pids_limit: PidsLimit,
        /// Where the store is and what it has left, where that is so little that it may be why.
        space: Option<(PathBuf, u64)>,
    },
    /// The sandbox could not be set up, or the command not be started.
    #[error("{}", crate::failure::chain(&**.0))]
    Sandbox(Arc<SandboxError>),
    /// The store, a blob, or a document.
    #[error("{}", crate::failure::chain(&**.0))]
    Oci(Arc<oci::Error>),
    /// A URL, a git repository or a fetched context.
    #[error(transparent)]
    Source(Arc<crate::sources::SourceError>),
    /// A registry.
    #[error(transparent)]
    Registry(Arc<oci::registry::Error>),
    /// A layer could not be packed.
    #[error("pack the step's layer: {}", crate::failure::chain(&**.0))]
    Pack(Arc<oci::pack::PackError>),
    /// A layer's archive could not be read.
    #[error("layer {layer}: {why}")]
    Layer {
        /// Its digest.
        layer: String,
        /// What is wrong.
        why: String,
    },
    /// A user or group.
    #[error("{}", crate::failure::chain(&**.0))]
    Owner(Arc<executor::owner::OwnerError>),
    /// COPY, ADD or WORKDIR could not be planned.
    #[error("{}", crate::failure::chain(&**.0))]
    Copy(Arc<executor::copy::CopyError>),
    /// A layer could not be unpacked.
    #[error("{}", crate::failure::chain(&**.0))]
    Unpack(Arc<executor::unpack::UnpackError>),
    /// What a step left could not be read.
    #[error("{}", crate::failure::chain(&**.0))]
    Diff(Arc<executor::diff::DiffError>),
    /// A required secret or ssh agent was not given.
    #[error("{kind} {id:?} is required by the step and was not given — add {flag}")]
    Missing {
        /// `secret` or `ssh agent`.
        kind: &'static str,
        /// Which.
        id: String,
        /// The flag that gives it.
        flag: String,
    },
    /// A system call of xbuild itself.
    #[error("{action} {}: {source}", .path.display())]
    Io {
        /// The verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: Arc<std::io::Error>,
    },
    /// Something that the step's flags ask for and that is not supported.
    #[error("{0}")]
    Unsupported(String),
    /// How registries are reached is written wrongly.
    #[error("{0}")]
    Configuration(Arc<crate::failure::Failure>),
    /// The step was stopped because something else failed or the build was interrupted.
    #[error("stopped")]
    Stopped,
}

impl StepError {
    /// Returns a closure that wraps an I/O error.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source: Arc::new(source) }
    }
}

fn ended(status: ExitStatus, oom: &OutOfMemory, pids_limit: &PidsLimit) -> String {
    let mut text = match status {
        ExitStatus::Code(code) => format!("did not complete successfully: exit code: {code}"),
        ExitStatus::Signal(signal) => format!("did not complete successfully: killed by signal {signal}"),
    };
    match (status, oom) {
        (_, OutOfMemory::Killed { limit }) => {
            text += &format!(" (out of memory: the limit of {limit} bytes was reached)")
        }
        (ExitStatus::Signal(9) | ExitStatus::Code(137), OutOfMemory::Unwatched) => {
            text += " (perhaps the host ran out of memory)";
        }
        (_, OutOfMemory::Unwatched | OutOfMemory::No) => {}
    }
    if let PidsLimit::Hit { limit } = pids_limit {
        text += &format!(" (the limit of {limit} processes was reached, see --pids-limit)");
    }
    text
}

fn short_of(space: &Option<(PathBuf, u64)>) -> String {
    let Some((store, free)) = space else { return String::new() };
    let (store, free) = (store.display(), oci::store::human(*free));
    format!(" (the store {store} has {free} free — if that is why, free some, or name another with --root)")
}

macro_rules! from {
    ($($variant:ident: $type:ty),* $(,)?) => {
        $(impl From<$type> for StepError {
            fn from(error: $type) -> Self {
                Self::$variant(Arc::new(error))
            }
        })*
    };
}

from! {
    Sandbox: SandboxError,
    Oci: oci::Error,
    Registry: oci::registry::Error,
    Pack: oci::pack::PackError,
    Owner: executor::owner::OwnerError,
    Copy: executor::copy::CopyError,
    Unpack: executor::unpack::UnpackError,
    Diff: executor::diff::DiffError,
    Configuration: crate::failure::Failure,
}

impl StepError {
    /// Wraps an error about layers of the store at `root`.
    pub(super) fn layer(error: LayerError, root: &Path) -> Self {
        match error {
            LayerError::Store(error) => error.into(),
            // Says where there is no space, and what to do.
            LayerError::Pack(oci::pack::PackError::Blob(error)) => {
                oci::Error::io("write a layer's blob in", root)(error).into()
            }
            LayerError::Pack(error) => error.into(),
            LayerError::Diff(error) => error.into(),
            LayerError::Archive { blob, source } => {
                Self::Layer { layer: blob, why: crate::failure::chain(&source) }
            }
            LayerError::Unpack { source, .. } => source.into(),
            LayerError::Io { action, path, source } => Self::io(action, path)(source),
        }
    }
}
