//! A parsed Dockerfile: its text, directives, instructions and findings.
//!
//! It is a plain value; the parser makes it, lowering and lint read it.

use crate::diagnostic::{Diagnostic, Severity};
use crate::instruction::{Instruction, Span, Spanned};

/// A parsed Dockerfile.
#[derive(Debug, Clone, PartialEq)]
pub struct File {
    /// The text that spans point into: without byte order mark, invalid UTF-8 replaced.
    pub text: String,
    /// Parser directives of its first lines.
    pub directives: Directives,
    /// The instructions that could be read, in order.
    pub instructions: Vec<Instruction>,
    /// Everything that was found, in order of place.
    pub diagnostics: Vec<Diagnostic>,
}

/// The parser directives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// `# escape=`: escape and line continuation character.
    pub escape: char,
    /// `# syntax=`: the first word of its value.
    pub syntax: Option<Spanned<String>>,
    /// `# check=`, read.
    pub check: Option<Spanned<Check>>,
}

impl Default for Directives {
    fn default() -> Directives {
        Directives { escape: '\\', syntax: None, check: None }
    }
}

/// What `# check=` says about lint rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Check {
    /// As written, first word.
    pub text: String,
    /// `skip=`: these rules are off; `all` means every one.
    pub skip: Vec<String>,
    /// `experimental=`: these experimental rules are on; `all` means every one.
    pub experimental: Vec<String>,
    /// `error=true`: a finding fails the build.
    pub error: bool,
}

/// A place as people count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl File {
    /// Whether anything is an error.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Returns line and column of a byte of the text. Costs a scan of the text up to it.
    pub fn position(&self, byte: usize) -> Position {
        position(&self.text, byte)
    }

    /// Returns the text of a place; empty if it lies outside.
    pub fn slice(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or_default()
    }
}

/// Returns line and column of a byte of a text.
pub(crate) fn position(text: &str, byte: usize) -> Position {
    let mut end = byte.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |found| found + 1);
    let column = before[start..].chars().count() + 1;
    Position {
        line: u32::try_from(line).unwrap_or(u32::MAX),
        column: u32::try_from(column).unwrap_or(u32::MAX),
    }
}
