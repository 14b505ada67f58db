//! The one error of the binary: whose turn it is, the exit code, and one line that says so.
//!
//! The line has the form `error: what — where — why — what to do`. Crate errors become a [`Failure`] in
//! `failure::from`, one conversion per crate.

pub mod from;

use std::fmt;

/// Who must act, and the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The command line is wrong.
    Usage,
    /// The Dockerfile is wrong.
    Dockerfile,
    /// A base, a context, a URL or a repository could not be had.
    Source,
    /// A RUN step failed.
    Step,
    /// Refused: policy, entitlement, attack, limit.
    Refused,
    /// Disk, inodes or memory ran out.
    Resource,
    /// The registry did not take the image.
    Push,
    /// The store is damaged or of another version or owner.
    Store,
    /// The host cannot isolate steps.
    Environment,
    /// A bug.
    Internal,
    /// The program of `xbuild run` cannot be executed.
    NotExecutable,
    /// The program of `xbuild run` is not in the image.
    NotFound,
    /// A signal ended the command.
    Signal(i32),
}

impl Class {
    /// Returns the exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Dockerfile => 3,
            Self::Source => 4,
            Self::Step => 5,
            Self::Refused => 6,
            Self::Resource => 7,
            Self::Push => 8,
            Self::Store => 9,
            Self::Environment => 10,
            Self::Internal => 70,
            // As shells and docker have it (POSIX, Shell Command Language 2.8.2).
            Self::NotExecutable => 126,
            Self::NotFound => 127,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(255),
        }
    }

    /// Returns the name used in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Dockerfile => "dockerfile",
            Self::Source => "source",
            Self::Step => "step",
            Self::Refused => "refused",
            Self::Resource => "resource",
            Self::Push => "push",
            Self::Store => "store",
            Self::Environment => "environment",
            Self::Internal => "internal",
            Self::NotExecutable => "not-executable",
            Self::NotFound => "not-found",
            Self::Signal(_) => "signal",
        }
    }
}

/// What ended a command.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Who must act.
    pub class: Class,
    /// The line without `error: `: what — where — why — what to do.
    pub line: String,
    /// Lines printed before it: an excerpt, the last output of a step.
    pub detail: String,
    /// How it is printed.
    pub form: Form,
}

/// How a failure is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The details, then the line.
    Text,
    /// One JSON object with the same fields, for those who read the progress as JSON.
    Json,
}

impl Failure {
    /// Makes a failure from the parts of its line; empty parts are left out.
    pub fn new(class: Class, parts: &[&str]) -> Self {
        let parts: Vec<_> = parts.iter().filter(|part| !part.is_empty()).map(|part| one_line(part)).collect();
        Self { class, line: parts.join(" — "), detail: String::new(), form: Form::Text }
    }

    /// Adds lines that are printed before the error line.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }
}

/// Makes a usage failure about a flag.
pub fn usage(flag: &str, why: &str, fix: &str) -> Failure {
    Failure::new(Class::Usage, &["unusable option", flag, why, fix])
}

impl Failure {
    /// Returns what is written to standard error, with its newline.
    pub fn report(&self) -> String {
        match self.form {
            Form::Text => {
                let separator = if self.detail.is_empty() || self.detail.ends_with('\n') { "" } else { "\n" };
                format!("{}{separator}error: {self}\n", self.detail)
            }
            Form::Json => {
                let value = serde_json::json!({
                    "event": "error", "class": self.class.name(), "code": self.class.code(),
                    "message": self.line, "detail": self.detail,
                });
                format!("{value}\n")
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

/// An error is one line, and nothing in it may move the terminal's cursor or command a CI system.
fn one_line(text: &str) -> String {
    let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    crate::progress::neutralise(&line)
}

/// Returns an error's causes as `a: b: c`, leaving out causes that their parent's text already ends with.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Returns the class of an I/O error: resource where a limit of the machine was hit, otherwise `class`.
pub fn io_class(error: &std::io::Error, class: Class) -> Class {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::StorageFull
        | ErrorKind::QuotaExceeded
        | ErrorKind::OutOfMemory
        | ErrorKind::FileTooLarge => Class::Resource,
        _ => class,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_clean_line() {
        let failure = Failure::new(Class::Source, &["cannot read", "", "a\nb\x1b[2J", "try again"]);
        assert_eq!(failure.to_string(), "cannot read — a b [2J — try again");
        assert_eq!(failure.class.code(), 4);
        assert_eq!(Class::Signal(15).code(), 143);
        assert_eq!(failure.report(), "error: cannot read — a b [2J — try again\n");
        let json = Failure { form: Form::Json, ..failure.with_detail("excerpt") }.report();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&value["class"], &value["code"]), (&"source".into(), &4.into()));
    }
}
