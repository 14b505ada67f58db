//! Diagnostics as text: file, line and column, the source line with a caret, how to mend it.
//!
//! It judges nothing and orders nothing. Only the first line of a place is shown, so that rendering costs
//! what it prints, whatever the size of the file.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::diagnostic::{Diagnostic, Severity};
use crate::file::File;

/// How the text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Without escape sequences.
    Plain,
    /// With colours for a terminal.
    Colours,
}

/// Renders one finding over several lines; `path` names the file for people.
pub fn snippet(file: &File, path: &str, found: &Diagnostic, style: Style) -> String {
    let place = Place::of(file, found);
    let level = match found.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(found.message.as_str());
    let title = match found.rule {
        Some(rule) => title.id(rule),
        None => title,
    };
    let source = Snippet::source(place.line)
        .line_start(place.number)
        .path(path)
        .annotation(AnnotationKind::Primary.span(place.start..place.end));
    let mut group: Group = title.element(source);
    if let Some(help) = &found.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    let renderer = match style {
        Style::Plain => Renderer::plain(),
        Style::Colours => Renderer::styled(),
    };
    renderer.render(&[group])
}

/// Renders all findings of a file, an empty line between two.
pub fn all(file: &File, path: &str, style: Style) -> String {
    let snippets: Vec<String> =
        file.diagnostics.iter().map(|found| snippet(file, path, found, style)).collect();
    snippets.join("\n\n")
}

/// Renders one finding as one line: `path:line:column: message — help`.
pub fn line(file: &File, path: &str, found: &Diagnostic) -> String {
    let position = file.position(found.span.start);
    let help = found.help.as_ref().map(|help| format!(" — {help}")).unwrap_or_default();
    format!("{path}:{}:{}: {}{help}", position.line, position.column, found.message)
}

/// The line a finding stands in, and the bytes of it that are marked.
struct Place<'a> {
    line: &'a str,
    number: usize,
    start: usize,
    end: usize,
}

impl<'a> Place<'a> {
    fn of(file: &'a File, found: &Diagnostic) -> Place<'a> {
        let text = file.text.as_str();
        let boundary = |byte: usize| (0..=byte.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
        let at = boundary(found.span.start).unwrap_or(0);
        let first = text[..at].rfind('\n').map_or(0, |found| found + 1);
        let last = text[at..].find('\n').map_or(text.len(), |found| at + found);
        let line = text[first..last].trim_end_matches('\r');
        let number = file.position(first).line as usize;
        let start = (at - first).min(line.len());
        let end = boundary(found.span.end).unwrap_or(0).saturating_sub(first).clamp(start, line.len());
        Place { line, number, start, end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_line_a_caret_and_help() {
        let file = crate::parse(b"FROM a\nRUN --mont=x y\nCOPPY a b\n");
        let text = all(&file, "Dockerfile", Style::Plain);
        for part in [
            "error: unknown flag: --mont",
            "--> Dockerfile:2:5",
            "2 | RUN --mont=x y",
            "    ^^^^^^^^",
            "help: did you mean --mount?",
            "--> Dockerfile:3:1",
            "did you mean COPY?",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert_eq!(
            line(&file, "Dockerfile", &file.diagnostics[1]),
            "Dockerfile:3:1: unknown instruction: COPPY — did you mean COPY?"
        );
    }

    #[test]
    fn places_outside_the_text_are_harmless() {
        let file = crate::parse("é".as_bytes());
        let mut found = file.diagnostics[0].clone();
        for (start, end) in [(0, 0), (1, 1), (1, 9), (9, 1), (7, 7)] {
            found.span = crate::instruction::Span { start, end };
            assert!(snippet(&file, "x", &found, Style::Colours).contains("unknown instruction"));
        }
    }
}
