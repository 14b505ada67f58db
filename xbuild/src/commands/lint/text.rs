//! Findings for people: source lines with carets, how to mend them, and a count.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;

use frontend::render::{self, Style};
use frontend::{Diagnostic, File};

/// Renders warnings and counts them; mistakes, which are told of elsewhere, are counted with them.
pub fn print(file: &File, name: &str, warnings: &[Diagnostic], mistakes: usize) -> String {
    let plain = crate::options::variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    let style = if std::io::stdout().is_terminal() && !plain { Style::Colours } else { Style::Plain };
    render(file, name, warnings, style) + &count(name, warnings, mistakes)
}

fn render(file: &File, name: &str, warnings: &[Diagnostic], style: Style) -> String {
    let mut text = String::new();
    for warning in warnings {
        let help = warning.help.clone().or_else(|| super::rule_help(warning));
        text += &render::snippet(file, name, &warning.clone().with_optional_help(help), style);
        text += "\n\n";
    }
    text
}

fn count(name: &str, warnings: &[Diagnostic], mistakes: usize) -> String {
    let rules: BTreeSet<_> = warnings.iter().filter_map(|warning| warning.rule).collect();
    let mistakes = match mistakes {
        0 => None,
        1 => Some("1 mistake".to_owned()),
        count => Some(format!("{count} mistakes")),
    };
    let findings = match (warnings.len(), rules.len()) {
        (0, _) => None,
        (1, _) => Some("1 finding".to_owned()),
        (count, 1) => Some(format!("{count} findings of one rule")),
        (count, rules) => Some(format!("{count} findings of {rules} rules")),
    };
    let all: Vec<_> = mistakes.into_iter().chain(findings).collect();
    let all = if all.is_empty() { "nothing found".to_owned() } else { all.join(", ") };
    format!("{name}: {all}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_rule_a_caret_and_help() {
        let file = frontend::parse(b"FROM scratch\nCMD x\n");
        let span = file.instructions[1].span;
        let warnings = [Diagnostic::warning("JSONArgsRecommended", span, "JSON arguments recommended")];
        let text = render(&file, "Dockerfile", &warnings, Style::Plain);
        for part in ["warning[JSONArgsRecommended]", "--> Dockerfile:2:1", "^^^^^", "help: write it as"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn everything_is_counted() {
        let span = frontend::parse(b"FROM scratch\n").instructions[0].span;
        let check = |rules: &[&'static str], mistakes: usize, expect: &str| {
            let warnings: Vec<_> = rules.iter().map(|rule| Diagnostic::warning(rule, span, "m")).collect();
            assert_eq!(count("D", &warnings, mistakes), format!("D: {expect}\n"));
        };
        check(&[], 0, "nothing found");
        check(&["a"], 0, "1 finding");
        check(&["a", "a"], 0, "2 findings of one rule");
        check(&["a", "b", "b"], 0, "3 findings of 2 rules");
        check(&[], 1, "1 mistake");
        check(&["a"], 2, "2 mistakes, 1 finding");
    }
}
