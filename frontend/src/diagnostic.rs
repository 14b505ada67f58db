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
        Diagnostic {
            severity: Severity::Error,
            rule: None,
            span,
            message: one_line(message.into()),
            help: None,
        }
    }

    /// Makes a warning of a lint rule.
    pub fn warning(rule: &'static str, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Warning,
            rule: Some(rule),
            span,
            message: one_line(message.into()),
            help: None,
        }
    }

    /// Adds how to mend it.
    pub fn with_help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(one_line(help.into()));
        self
    }

    /// Adds how to mend it, if known.
    pub fn with_optional_help(mut self, help: Option<String>) -> Diagnostic {
        self.help = help.map(one_line);
        self
    }
}

/// Escapes control characters except tabs: a message quotes the Dockerfile, and must neither begin a line of
/// its own nor reach a terminal as a command.
fn one_line(text: String) -> String {
    let is_unsafe = |character: char| character.is_control() && character != '\t';
    if !text.contains(is_unsafe) {
        return text;
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_unsafe(character) { safe.extend(character.escape_default()) } else { safe.push(character) }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn df_11_messages_are_one_line_without_controls() {
        let found = Diagnostic::error(Span::default(), "a\n::error::b\u{1b}[2J\tc").with_help("x\r\u{9b}y");
        assert_eq!(found.message, "a\\n::error::b\\u{1b}[2J\tc");
        assert_eq!(found.help.as_deref(), Some("x\\r\\u{9b}y"));
    }
}
