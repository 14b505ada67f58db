//! Physical lines to logical ones: continuations joined, comments and blank lines inside them dropped.
//!
//! It knows no instruction; heredoc bodies are read by the caller from the same [`Lines`]. Rules as in
//! BuildKit's parser.go: white space before the first line goes, before continuation lines it stays; the
//! escape character continues a line if nothing but blanks follow and no other one precedes it.

use crate::diagnostic::Diagnostic;
use crate::directives::Machine;
use crate::instruction::Span;
use crate::source::{LINE_LIMIT, Lines, Physical, check_length};

/// A logical line.
#[derive(Debug, Default)]
pub(crate) struct Logical {
    /// The joined text.
    pub text: String,
    /// Where its pieces come from.
    pub map: Map,
    /// First physical line.
    pub first: u32,
    /// Last physical line.
    pub last: u32,
    /// From the first to the last character.
    pub span: Span,
    /// Comment lines above it.
    pub comments: Vec<String>,
    /// Whether blank lines were inside.
    pub empty_continuation: bool,
    /// The last physical line.
    pub last_span: Span,
}

/// Which byte of the file a byte of a logical line comes from.
#[derive(Debug, Default, Clone)]
pub(crate) struct Map {
    /// Byte of the logical line, byte of the file; both are below [`crate::source::FILE_LIMIT`].
    pieces: Vec<(u32, u32)>,
}

impl Map {
    fn push(&mut self, logical: usize, source: usize) {
        let narrow = |byte| u32::try_from(byte).expect("no Dockerfile has more than 16 MiB");
        self.pieces.push((narrow(logical), narrow(source)));
    }

    /// Returns the place of a range of the logical line.
    pub(crate) fn span(&self, start: usize, end: usize) -> Span {
        let from = self.byte(start);
        if end <= start {
            return Span { start: from, end: from };
        }
        Span { start: from, end: self.byte(end - 1) + 1 }
    }

    fn byte(&self, at: usize) -> usize {
        let next = self.pieces.partition_point(|(logical, _)| *logical as usize <= at);
        match next.checked_sub(1).and_then(|found| self.pieces.get(found)) {
            Some((logical, source)) => *source as usize + (at - *logical as usize),
            None => at,
        }
    }
}

/// Reads logical lines and the directives before them.
pub(crate) struct Reader<'a> {
    /// The physical lines; heredoc bodies are taken from here.
    pub lines: Lines<'a>,
    /// The directives so far; the escape character.
    pub machine: Machine,
    comments: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str) -> Reader<'a> {
        Reader { lines: Lines::new(text), machine: Machine::default(), comments: Vec::new() }
    }

    /// Returns the next logical line that is not empty.
    pub(crate) fn next(&mut self, diagnostics: &mut Vec<Diagnostic>) -> Option<Logical> {
        loop {
            let line = self.lines.next()?;
            check_length(line, LINE_LIMIT, diagnostics);
            let text = line.text().trim_start();
            if let Some(comment) = text.strip_prefix('#') {
                self.comment(line, text, comment, diagnostics);
                continue;
            }
            self.machine.finish();
            let (kept, continues) = strip_continuation(text, self.machine.escape);
            if kept.is_empty() && !continues {
                continue;
            }
            let logical = self.join(line, kept, continues, diagnostics);
            if !logical.text.trim().is_empty() {
                return Some(logical);
            }
        }
    }

    fn comment(&mut self, line: Physical, text: &str, comment: &str, diagnostics: &mut Vec<Diagnostic>) {
        let start = line.start + (line.text().len() - text.len());
        if self.machine.line(text, start, diagnostics) {
            return;
        }
        match comment.trim() {
            "" => self.comments.clear(),
            comment => self.comments.push(comment.to_owned()),
        }
    }

    fn join(
        &mut self,
        line: Physical,
        kept: &str,
        mut continues: bool,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Logical {
        let text = line.text();
        let start = line.start + (text.len() - text.trim_start().len());
        let mut logical = Logical {
            text: kept.to_owned(),
            map: Map::default(),
            first: line.number,
            last: line.number,
            span: Span { start, end: start + kept.len() },
            comments: std::mem::take(&mut self.comments),
            empty_continuation: false,
            last_span: line.span(),
        };
        logical.map.push(0, start);
        while continues {
            let Some(line) = self.lines.next() else { break };
            check_length(line, LINE_LIMIT, diagnostics);
            logical.last = line.number;
            logical.last_span = line.span();
            let text = line.text();
            let trimmed = text.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                logical.empty_continuation = true;
                continue;
            }
            let (kept, more) = strip_continuation(text, self.machine.escape);
            logical.map.push(logical.text.len(), line.start);
            logical.text.push_str(kept);
            logical.span.end = line.start + kept.len();
            continues = more;
        }
        logical
    }
}

/// Splits off a continuation character with the blanks behind it.
fn strip_continuation(line: &str, escape: char) -> (&str, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(kept) if !kept.ends_with(escape) => (kept, true),
        _ => (line, false),
    }
}
