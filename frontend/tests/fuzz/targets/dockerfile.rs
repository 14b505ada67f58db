//! The target of whole Dockerfiles: parsed, checked, planned, and every finding shown.

use frontend::instruction::Span;
use frontend::lint::{self, GitDirectory, Request, RuleSet};
use frontend::lower::Known;
use frontend::render::{self, Style};
use frontend::{Diagnostic, File, parse, parse_trigger};

use super::world;

/// Findings of one file that are rendered, so that all files cost about the same.
const SHOWN: usize = 1;

/// Parses a Dockerfile, and its text as a trigger; checks and plans what has no mistake.
pub fn dockerfile(data: &[u8]) {
    let file = parse(data);
    check_places(&file);
    if let Ok(text) = std::str::from_utf8(data)
        && data.len() < 200
    {
        check_places(&parse_trigger(text));
    }
    if file.has_errors() {
        return;
    }
    let options = world::options();
    let request = Request { rules: RuleSet::All, git: GitDirectory::Present };
    let checked = lint::check(&file, &options, &Known::default(), request);
    check_findings(&file, checked.warnings.iter().chain(&checked.errors));
    match world::definition(&file, &options) {
        Ok(definition) => {
            let parent_first =
                |(id, step): (_, &frontend::graph::Step)| step.parent.is_none_or(|parent| parent < id);
            assert!(definition.graph.iter().all(parent_first), "a step precedes its parent");
        }
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without a word");
            check_findings(&file, &errors);
        }
    }
}

/// Every place lies inside the text, between characters.
fn check_places(file: &File) {
    for instruction in &file.instructions {
        check_span(file, instruction.span);
        check_span(file, instruction.keyword.span);
        assert!(instruction.lines.0 <= instruction.lines.1);
    }
    check_findings(file, &file.diagnostics);
}

fn check_findings<'a>(file: &File, findings: impl IntoIterator<Item = &'a Diagnostic>) {
    for (n, found) in findings.into_iter().enumerate() {
        check_span(file, found.span);
        if n < SHOWN {
            assert!(!render::snippet(file, "D", found, Style::Plain).is_empty());
            let line = render::line(file, "D", found);
            assert!(line.starts_with("D:") && !line.contains(['\n', '\r', '\u{1b}']), "{line:?}");
        }
    }
}

fn check_span(file: &File, span: Span) {
    assert!(span.start <= span.end && span.end <= file.text.len(), "{span:?} in {}", file.text.len());
    assert!(file.text.is_char_boundary(span.start) && file.text.is_char_boundary(span.end), "{span:?}");
}
