//! Flags of instructions: which exist, with which values.
//!
//! Every flag is judged, so that one run shows all mistakes; what a value means is the caller's business.

use std::collections::BTreeMap;

use super::node::Node;
use crate::boolean;
use crate::diagnostic::{Diagnostic, Severity};
use crate::instruction::Spanned;
use crate::suggest::nearest;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing, `true` or `false`.
    Boolean,
    /// One value, once.
    Text,
    /// One value, any number of times.
    Texts,
}

/// The flags of one instruction.
#[derive(Debug, Default)]
pub(super) struct Flags {
    given: BTreeMap<&'static str, Vec<Spanned<String>>>,
}

impl Flags {
    /// Returns the value of a flag; an empty one counts as not given.
    pub(super) fn text(&self, name: &str) -> Option<Spanned<String>> {
        self.given_text(name).filter(|text| !text.value.is_empty())
    }

    /// Returns the value of a flag, also an empty one.
    pub(super) fn given_text(&self, name: &str) -> Option<Spanned<String>> {
        self.given.get(name).and_then(|values| values.first()).cloned()
    }

    /// Returns all values of a flag.
    pub(super) fn texts(&self, name: &str) -> Vec<Spanned<String>> {
        self.given.get(name).cloned().unwrap_or_default()
    }

    /// Returns the value of a boolean flag.
    pub(super) fn boolean(&self, name: &str) -> Option<bool> {
        self.given_text(name).map(|text| text.value == "true")
    }
}

/// Reads the flags of a node.
pub(super) fn read(node: &Node, known: &[(&'static str, Takes)], diagnostics: &mut Vec<Diagnostic>) -> Flags {
    let mut flags = Flags::default();
    for flag in &node.flags {
        match one(&flag.value, known, &flags) {
            Ok((name, value)) => {
                flags.given.entry(name).or_default().push(Spanned { value, span: flag.span });
            }
            Err((message, help)) => {
                diagnostics.push(Diagnostic::error(flag.span, message).with_optional_help(help));
            }
        }
    }
    flags
}

/// A message and how to mend it.
type Refusal = (String, Option<String>);

fn one(
    flag: &str,
    known: &[(&'static str, Takes)],
    before: &Flags,
) -> Result<(&'static str, String), Refusal> {
    let (dashed, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
    let name = dashed.strip_prefix("--").unwrap_or(dashed);
    let Some((name, takes)) = known.iter().find(|(known, _)| *known == name).copied() else {
        return Err((format!("unknown flag: {dashed}"), unknown_help(name, known)));
    };
    if takes != Takes::Texts && before.given.contains_key(name) {
        return Err((format!("duplicate flag specified: {dashed}"), Some("remove one of them".to_owned())));
    }
    match (takes, value) {
        (Takes::Boolean, None) => Ok((name, "true".to_owned())),
        (Takes::Boolean, Some("")) | (Takes::Text | Takes::Texts, None) => {
            Err((format!("missing a value on flag: {dashed}"), Some(format!("write {dashed}=VALUE"))))
        }
        (Takes::Boolean, Some(value)) => match value.to_ascii_lowercase().as_str() {
            value @ ("true" | "false") => Ok((name, value.to_owned())),
            _ => {
                let hint = boolean::parse(value).map(|meant| format!("write {dashed}={meant}"));
                Err((format!("expecting boolean value for flag {dashed}, not: {value}"), hint))
            }
        },
        (Takes::Text | Takes::Texts, Some(value)) => Ok((name, value.to_owned())),
    }
}

fn unknown_help(name: &str, known: &[(&'static str, Takes)]) -> Option<String> {
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    if let Some(nearest) = nearest(name, &names) {
        return Some(format!("did you mean --{nearest}?"));
    }
    if names.is_empty() {
        return Some("this instruction has no flags".to_owned());
    }
    Some(format!(
        "its flags are {}",
        names.iter().map(|name| format!("--{name}")).collect::<Vec<_>>().join(" ")
    ))
}

/// Warns of flags that BuildKit drops without a word.
pub(super) fn ignored(node: &Node, diagnostics: &mut Vec<Diagnostic>) {
    diagnostics.extend(node.flags.iter().map(|flag| Diagnostic {
        severity: Severity::Warning,
        rule: None,
        span: flag.span,
        message: format!("{} has no effect on {}", flag.value, node.keyword.value.to_ascii_uppercase()),
        help: Some("remove it".to_owned()),
    }));
}
