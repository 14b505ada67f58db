//! Bytes of a Dockerfile to text: encoding, size limits, physical lines.
//!
//! It knows no continuation, comment or instruction.

use crate::diagnostic::{Diagnostic, Severity};
use crate::instruction::Span;

/// Longest physical line outside heredocs in bytes, as BuildKit's scanner (bufio.MaxScanTokenSize - 1).
pub const LINE_LIMIT: usize = 64 * 1024 - 1;

/// Longest line of a heredoc body.
pub const BODY_LINE_LIMIT: usize = 1024 * 1024;

/// Largest Dockerfile in bytes.
pub const FILE_LIMIT: usize = 16 * 1024 * 1024;

/// Decodes a Dockerfile: drops the byte order mark, replaces what is not UTF-8, refuses NUL and UTF-16.
pub(crate) fn decode(bytes: &[u8]) -> (String, Vec<Diagnostic>) {
    if bytes.len() > FILE_LIMIT {
        let message =
            format!("the Dockerfile has {} bytes, more than the limit of {FILE_LIMIT}", bytes.len());
        return (String::new(), vec![Diagnostic::error(Span::default(), message)]);
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        let message = "the Dockerfile is UTF-16, expected UTF-8";
        let help = "save it as UTF-8, or convert it with `iconv -f UTF-16 -t UTF-8`";
        return (String::new(), vec![Diagnostic::error(Span::default(), message).with_help(help)]);
    }
    let bytes = bytes.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(bytes);
    let mut diagnostics = Vec::new();
    if let Err(error) = std::str::from_utf8(bytes) {
        let at = error.valid_up_to();
        diagnostics.push(Diagnostic {
            severity: Severity::Warning,
            rule: None,
            span: Span { start: at, end: at },
            message: format!("byte 0x{:02x} is not UTF-8, it becomes U+FFFD", bytes[at]),
            help: Some("save the file as UTF-8".to_owned()),
        });
    }
    let text = String::from_utf8_lossy(bytes).into_owned();
    if let Some(at) = text.find('\0') {
        let span = Span { start: at, end: at + 1 };
        diagnostics.push(Diagnostic::error(span, "the Dockerfile contains a NUL byte, no instruction can"));
    }
    (text, diagnostics)
}

/// One physical line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Physical<'a> {
    /// With its line ending.
    pub raw: &'a str,
    /// Byte of the text at which it starts.
    pub start: usize,
    /// Number, from 1.
    pub number: u32,
}

impl<'a> Physical<'a> {
    /// Returns the line without its ending: all trailing CR and LF.
    pub(crate) fn text(&self) -> &'a str {
        self.raw.trim_end_matches(['\r', '\n'])
    }

    /// Returns where the line without its ending stands.
    pub(crate) fn span(&self) -> Span {
        Span { start: self.start, end: self.start + self.text().len() }
    }
}

/// Hands out physical lines.
#[derive(Debug, Clone)]
pub(crate) struct Lines<'a> {
    text: &'a str,
    at: usize,
    number: u32,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str) -> Lines<'a> {
        Lines { text, at: 0, number: 0 }
    }

    /// The byte at which the next line starts.
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    /// The number of the last line handed out.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Physical<'a>;

    fn next(&mut self) -> Option<Physical<'a>> {
        let rest = &self.text[self.at..];
        if rest.is_empty() {
            return None;
        }
        let length = rest.find('\n').map_or(rest.len(), |found| found + 1);
        let start = self.at;
        self.at += length;
        self.number += 1;
        Some(Physical { raw: &rest[..length], start, number: self.number })
    }
}

/// Reports a line over `limit`.
pub(crate) fn check_length(line: Physical, limit: usize, diagnostics: &mut Vec<Diagnostic>) {
    if line.text().len() > limit {
        let message = format!("dockerfile line greater than max allowed size of {limit} bytes");
        let span = Span { start: line.start, end: line.start + 1 };
        let help = "break it with continuations, or put the data into a file of the context";
        diagnostics.push(Diagnostic::error(span, message).with_help(help));
    }
}
