//! The parser: bytes of a Dockerfile to a [`File`].
//!
//! It never stops at a mistake and never panics, costs time linear in the text, and expands no variable.
//! Logical lines come from [`crate::lines`]. In reading order: syntax (`node`, `words`, `json`), what instructions have in
//! common (`context`, `flags`, `values`, `inline`), and the meaning of each (`typed`; the larger ones `copy`, `run` with
//! `mount`, `healthcheck`).

mod context;
mod copy;
mod flags;
mod healthcheck;
mod inline;
mod json;
pub(crate) mod mount;
pub(crate) mod node;
mod run;
mod typed;
mod values;
mod words;

use crate::diagnostic::{Diagnostic, Severity};
use crate::directives::{self, SyntaxForm};
use crate::file::{Directives, File};
use crate::instruction::{InstructionKind, Span, Spanned};
use crate::source;
pub(crate) use typed::KEYWORDS;

/// Parses a Dockerfile.
pub fn parse(bytes: &[u8]) -> File {
    let (text, mut diagnostics) = source::decode(bytes);
    let decoded = !diagnostics.iter().any(|found| found.severity == Severity::Error) || !text.is_empty();
    let (directives, form) = read_directives(&text, &mut diagnostics);
    if !decoded || form == Some(SyntaxForm::Other) {
        return File { text, directives, instructions: Vec::new(), diagnostics };
    }
    let (mut file, first_from) = body(text, directives, diagnostics);
    check_stages(&mut file, first_from);
    file.diagnostics.sort_by_key(|found| found.span);
    file
}

/// Parses the text of a trigger from an image's `OnBuild`: one instruction, which belongs to no stage yet.
pub fn parse_trigger(text: &str) -> File {
    let (text, diagnostics) = source::decode(text.as_bytes());
    let (mut file, _) = body(text, Directives::default(), diagnostics);
    for extra in file.instructions.iter().skip(1) {
        let message = "an ONBUILD trigger holds more than one instruction";
        file.diagnostics.push(Diagnostic::error(extra.keyword.span, message));
    }
    for instruction in &file.instructions {
        let name = match &instruction.kind {
            InstructionKind::From(_) => "FROM",
            InstructionKind::Maintainer(_) => "MAINTAINER",
            InstructionKind::Onbuild { .. } => "ONBUILD",
            _ => continue,
        };
        let message = format!("{name} isn't allowed as an ONBUILD trigger");
        file.diagnostics.push(Diagnostic::error(instruction.keyword.span, message));
    }
    file
}

/// Reads the instructions, and where the first FROM stands, even if it is a mistaken one.
fn body(text: String, mut directives: Directives, mut diagnostics: Vec<Diagnostic>) -> (File, Option<usize>) {
    let (nodes, escape) = node::nodes(&text, &mut diagnostics);
    directives.escape = escape;
    if nodes.is_empty() {
        let help = "a Dockerfile begins with FROM";
        diagnostics.push(Diagnostic::error(Span::default(), "file with no instructions").with_help(help));
    }
    let mut context = context::Context { diagnostics: &mut diagnostics, escape };
    let first_from = nodes.iter().find(|node| node.keyword.value.eq_ignore_ascii_case("FROM"));
    let first_from = first_from.map(|node| node.span.start);
    let instructions = nodes.into_iter().filter_map(|node| typed::instruction(node, &mut context)).collect();
    (File { text, directives, instructions, diagnostics }, first_from)
}

/// Reads `syntax` and `check`; `escape` is found with the lines.
pub(crate) fn read_directives(
    text: &str,
    diagnostics: &mut Vec<Diagnostic>,
) -> (Directives, Option<SyntaxForm>) {
    let mut read = Directives::default();
    let mut form = None;
    if let Some((syntax, found)) = directives::syntax(text) {
        diagnostics.extend(directives::check_syntax(&syntax));
        form = Some(found);
        read.syntax = Some(syntax);
    }
    if let Some(check) = directives::check(text) {
        match directives::parse_check(&check.value) {
            Ok(value) => read.check = Some(Spanned { value, span: check.span }),
            Err(message) => diagnostics.push(Diagnostic::error(check.span, message)),
        }
    }
    (read, form)
}

/// Only ARG may precede the first FROM, and there must be one.
fn check_stages(file: &mut File, first_from: Option<usize>) {
    let first_from = first_from.unwrap_or(usize::MAX);
    let outside = file.instructions.iter().find(|instruction| {
        instruction.span.start < first_from && !matches!(instruction.kind, InstructionKind::Arg(_))
    });
    if let Some(instruction) = outside {
        let help = "put a FROM before it: only ARG may stand above the first FROM";
        let found = Diagnostic::error(instruction.keyword.span, "no build stage in current context");
        file.diagnostics.push(found.with_help(help));
    } else if first_from == usize::MAX && !file.has_errors() {
        let message = "dockerfile contains no stages to build";
        file.diagnostics.push(Diagnostic::error(Span::default(), message).with_help("add a FROM"));
    }
}
