//! Findings for people: source lines with carets, how to mend them, and a count.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;

use frontend::render::{self, Style};
use frontend::{Diagnostic, File};

/// Renders warnings; mistakes are told of elsewhere.
pub fn print(file: &File, name: &str, warnings: &[Diagnostic]) -> String {
    let plain = crate::options::variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    let style = if std::io::stdout().is_terminal() && !plain { Style::Colours } else { Style::Plain };
    render(file, name, warnings, style)
}

fn render(file: &File, name: &str, warnings: &[Diagnostic], style: Style) -> String {
    let mut text = String::new();
    for warning in warnings {
        let help = warning.help.clone().or_else(|| super::rule_help(warning));
        text += &render::snippet(file, name, &warning.clone().with_optional_help(help), style);
        text += "\n\n";
    }
    let rules: BTreeSet<_> = warnings.iter().filter_map(|warning| warning.rule).collect();
    text += &match (warnings.len(), rules.len()) {
        (0, _) => format!("{name}: nothing found\n"),
        (1, _) => format!("{name}: 1 finding\n"),
        (count, 1) => format!("{name}: {count} findings of one rule\n"),
        (count, rules) => format!("{name}: {count} findings of {rules} rules\n"),
    };
    text
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
        for part in
            ["warning[JSONArgsRecommended]", "--> Dockerfile:2:1", "^^^^^", "help: write it as", "1 finding"]
        {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert_eq!(render(&file, "Dockerfile", &[], Style::Plain), "Dockerfile: nothing found\n");
    }
}
