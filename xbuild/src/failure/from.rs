//! What every crate's errors mean to the user: the catalogue of what can go wrong.

use std::io;
use std::path::Path;

use executor::copy::CopyError;
use executor::sandbox::{SandboxError, StepFailure};
use oci::pack::PackError;
use oci::registry::{Action, Error as RegistryError};
use solver::{RecordError, SolveError};

use super::{Class, Failure, chain, io_class};
use crate::sources::SourceError;
use crate::worker::error::StepError;

impl From<oci::Error> for Failure {
    fn from(error: oci::Error) -> Self {
        Self::new(oci_class(&error), &[&chain(&error)])
    }
}

fn oci_class(error: &oci::Error) -> Class {
    match error {
        oci::Error::Reference(_) | oci::Error::Platform(_) => Class::Usage,
        oci::Error::Digest(_) | oci::Error::Document { .. } => Class::Source,
        oci::Error::Io { source, .. } => io_class(source, Class::Store),
        oci::Error::NoSpace { .. } => Class::Resource,
        oci::Error::MissingBlob { .. } | oci::Error::Damaged { .. } => Class::Store,
        oci::Error::BlobTooLarge { .. } => Class::Refused,
        oci::Error::UnknownName { .. } => Class::Source,
        oci::Error::NoLayout { .. } | oci::Error::NoStore { .. } => Class::Store,
        oci::Error::Owner { .. } | oci::Error::Version { .. } | oci::Error::ReadOnly { .. } => Class::Store,
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        let class = match error.action {
            Action::Pull | Action::Login => Class::Source,
            Action::Push => Class::Push,
        };
        // A push of what is no longer what it was is not the registry's failure.
        let class = if error.damaged().is_some() { Class::Store } else { class };
        let class = match (error.is_refusal(), error.is_in_file()) {
            (true, _) => Class::Refused,
            (false, true) => Class::Usage,
            (false, false) => class,
        };
        Self::new(class, &[&error.to_string()])
    }
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        Self::new(io_class(&error.source, Class::Store), &[&chain(&error)])
    }
}

impl From<SandboxError> for Failure {
    fn from(error: SandboxError) -> Self {
        Self::new(sandbox_class(&error), &[&chain(&error)])
    }
}

impl From<exporter::Error> for Failure {
    fn from(error: exporter::Error) -> Self {
        Self::new(exporter_class(&error), &["cannot write the image", "", &chain(&error)])
    }
}

fn exporter_class(error: &exporter::Error) -> Class {
    match error {
        exporter::Error::Oci(error) => oci_class(error),
        exporter::Error::ConfigTooLarge { .. }
        | exporter::Error::Unsupported { .. }
        | exporter::Error::InTheWay(_) => Class::Refused,
        exporter::Error::Inconsistent(_) => Class::Internal,
        // A place that the command line names.
        exporter::Error::Io { source, .. } => io_class(source, Class::Usage),
        exporter::Error::Rootfs { .. } | exporter::Error::Pack(_) => space_or(error, Class::Store),
        exporter::Error::Load { .. } => Class::Environment,
    }
}

/// Makes the failure of an output to `dest`.
pub fn output(error: exporter::Error, dest: &Path) -> Failure {
    if is_reader_gone(&error) {
        return reader_gone(&dest.display().to_string());
    }
    match exporter_class(&error) {
        // Whatever was copied, it is the destination that is full.
        Class::Resource => {
            let parts = ["cannot write the image", &dest.display().to_string(), "no space left there"];
            Failure::new(Class::Resource, &[&parts[..], &["free some, or name another dest"]].concat())
        }
        _ => error.into(),
    }
}

/// Returns whether what was written to is a pipe that nobody reads any more.
pub fn is_reader_gone(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = sources(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Makes the failure of an image of which `place` did not take all. It is no wrong command line: as with a disk that
/// is full, what was to take the image does not.
pub fn reader_gone(place: &str) -> Failure {
    let why = "whoever read it ended before all of it was written";
    Failure::new(Class::Resource, &["cannot write the image", place, why, "see why the reader ended"])
}

fn sources<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

fn sandbox_class(error: &SandboxError) -> Class {
    match error {
        SandboxError::Namespace { .. } => Class::Environment,
        SandboxError::ForbiddenTarget { .. } | SandboxError::Invalid { .. } => Class::Refused,
        SandboxError::Call { source, .. } => io_class(source, Class::Environment),
        SandboxError::SpawnerGone => Class::Internal,
        SandboxError::Stuck { .. } => Class::Step,
        SandboxError::Step(failure) => step_class(failure),
    }
}

fn step_class(failure: &StepFailure) -> Class {
    match failure {
        StepFailure::Setup { errno, .. } => {
            io_class(&io::Error::from_raw_os_error(*errno), Class::Environment)
        }
        StepFailure::NotADirectory { .. } | StepFailure::ForbiddenTarget { .. } => Class::Refused,
        StepFailure::MountKind { .. } | StepFailure::MountSource { .. } => Class::Dockerfile,
        StepFailure::WorkingDirectory { .. }
        | StepFailure::ProgramNotFound { .. }
        | StepFailure::ProgramDenied { .. }
        | StepFailure::ProgramFormat { .. }
        | StepFailure::InterpreterNotFound { .. }
        | StepFailure::Exec { .. } => Class::Step,
    }
}

/// Makes the failure of a program that `xbuild run` was to start: its exit codes are those of shells.
pub fn program(error: SandboxError) -> Failure {
    let class = match &error {
        SandboxError::Step(StepFailure::ProgramNotFound { .. } | StepFailure::InterpreterNotFound { .. }) => {
            Class::NotFound
        }
        SandboxError::Step(
            StepFailure::ProgramDenied { .. } | StepFailure::ProgramFormat { .. } | StepFailure::Exec { .. },
        ) => Class::NotExecutable,
        SandboxError::Step(
            StepFailure::Setup { .. }
            | StepFailure::NotADirectory { .. }
            | StepFailure::ForbiddenTarget { .. }
            | StepFailure::MountKind { .. }
            | StepFailure::MountSource { .. }
            | StepFailure::WorkingDirectory { .. },
        )
        | SandboxError::Namespace { .. }
        | SandboxError::ForbiddenTarget { .. }
        | SandboxError::Invalid { .. }
        | SandboxError::Call { .. }
        | SandboxError::SpawnerGone
        | SandboxError::Stuck { .. } => sandbox_class(&error),
    };
    Failure::new(class, &[&chain(&error)])
}

/// The class of a step's error, and its line without the step's name.
impl From<&StepError> for Failure {
    fn from(error: &StepError) -> Self {
        let line = error.to_string();
        let class = match error {
            StepError::Ended { .. } => Class::Step,
            StepError::Sandbox(error) => sandbox_class(error),
            StepError::Oci(error) => oci_class(error),
            StepError::Registry(error) if error.is_refusal() => Class::Refused,
            StepError::Registry(error) if error.is_in_file() => Class::Usage,
            StepError::Registry(_) => Class::Source,
            StepError::Pack(error) => match &**error {
                PackError::Blob(cause) => io_class(cause, Class::Store),
                PackError::Entry(_) => Class::Refused,
                PackError::Source { source, .. } => io_class(source, Class::Source),
                PackError::Changed { .. } => Class::Source,
            },
            StepError::Layer { .. } => Class::Source,
            StepError::Source(error) => source_class(error),
            StepError::Owner(_) => Class::Dockerfile,
            StepError::Copy(error) => space_or(&**error, copy_class(error)),
            StepError::Unpack(error) => space_or(&**error, Class::Source),
            StepError::Diff(error) => space_or(&**error, Class::Refused),
            StepError::Missing { .. } => Class::Usage,
            StepError::Io { source, .. } => io_class(source, Class::Store),
            StepError::Unsupported(_) => Class::Refused,
            StepError::Configuration(failure) => failure.class,
            StepError::Stopped => Class::Signal(2),
        };
        let hint = match (class, line.contains("--root")) {
            (Class::Resource, false) => "free some space, or put the store elsewhere with --root",
            _ => "",
        };
        Self::new(class, &[&line, hint])
    }
}

fn copy_class(error: &CopyError) -> Class {
    match error {
        // Whoever wrote the Dockerfile must act.
        CopyError::NotDirectory(_)
        | CopyError::Workdir { .. }
        | CopyError::IsDirectory(_)
        | CopyError::Owner(_)
        | CopyError::Pattern { .. }
        | CopyError::Exclude(_) => Class::Dockerfile,
        CopyError::NotFound { .. }
        | CopyError::Archive { .. }
        | CopyError::Tree { .. }
        | CopyError::Parent { .. }
        | CopyError::Read { .. } => Class::Source,
        CopyError::Member { .. } => Class::Refused,
        CopyError::Spool { .. } => Class::Store,
    }
}

impl From<&SourceError> for Failure {
    fn from(error: &SourceError) -> Self {
        Self::new(source_class(error), &[&error.to_string()])
    }
}

fn source_class(error: &SourceError) -> Class {
    match error {
        SourceError::Store(error) => oci_class(error),
        SourceError::Stopped => Class::Signal(2),
        error if error.is_refusal() => Class::Refused,
        error => space_or(error, Class::Source),
    }
}

/// Resource where a full disk is among the causes.
fn space_or(error: &(dyn std::error::Error + 'static), class: Class) -> Class {
    let full = sources(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
    full.map(|error| io_class(error, class)).find(|found| *found == Class::Resource).unwrap_or(class)
}

/// Makes the failure of a solve; `describe` names a step.
pub fn solve(error: &SolveError<StepError>, describe: impl Fn(frontend::graph::StepId) -> String) -> Failure {
    match error {
        SolveError::Step { id, source } => {
            let failure = Failure::from(source);
            Failure { line: super::one_line(&format!("{} — {}", describe(*id), failure.line)), ..failure }
        }
        SolveError::Record(error) => Failure::new(
            io_class(&error.source, Class::Store),
            &["cannot record a result", "", &chain(error)],
        ),
        SolveError::Vanishing { id } => Failure::new(
            Class::Store,
            &[
                &describe(*id),
                "its layer disappears from the store while it is used",
                "",
                "is somebody deleting it?",
            ],
        ),
        SolveError::Cancelled => Failure::new(Class::Signal(2), &["interrupted"]),
    }
}
