//! What is wrong with a Dockerfile, or could be better, and where.
//!
//! It holds no rendering and no rules.

use crate::instruction::Span;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file cannot be built.
    Error,
    /// The file can be built.
    Warning,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The lint rule that found it, such as `NoEmptyContinuation`.
    pub rule: Option<&'static str>,
    /// Where: bytes of [`crate::File::text`].
    pub span: Span,
    /// What, in BuildKit's words where it has some.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Makes an error without help.
    pub fn error(span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Error, rule: None, span, message: message.into(), help: None }
    }

    /// Makes a warning of a lint rule.
    pub fn warning(rule: &'static str, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Warning,
            rule: Some(rule),
            span,
            message: message.into(),
            help: None,
        }
    }

    /// Adds how to mend it.
    pub fn with_help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    /// Adds how to mend it, if known.
    pub fn with_optional_help(mut self, help: Option<String>) -> Diagnostic {
        self.help = help;
        self
    }
}
