//! The table `parser`: syntax only, as BuildKit's parser sees it.

use serde_json::{Map, Value, json};

use super::{Answer, known_keys, text};
use crate::diagnostic::{Diagnostic, Severity};
use crate::directives;
use crate::instruction::Heredoc;
use crate::parse::KEYWORDS;
use crate::parse::node::{Form, Node, nodes};
use crate::source;

/// Answers one case.
pub(super) fn answer(input: &Value) -> Answer {
    known_keys(input, &["text", "directives_only"])?;
    let (text, mut diagnostics) = source::decode(text(input, "text")?.as_bytes());
    let (nodes, escape) = nodes(&text, &mut diagnostics);
    let directives_only = input["directives_only"].as_bool().unwrap_or(false);
    if !directives_only {
        if nodes.is_empty() {
            return Err("file with no instructions".to_owned());
        }
        if let Some(error) = diagnostics.iter().find(|found| found.severity == Severity::Error) {
            return Err(error.message.clone());
        }
    }
    Ok(json!({
        "instructions": nodes.iter().map(node).collect::<Vec<_>>(),
        "directives": found_directives(&text, escape),
        "warnings": diagnostics.iter().filter_map(|found| warning(&text, found)).collect::<Vec<_>>(),
    }))
}

fn found_directives(text: &str, escape: char) -> Value {
    let mut found = Map::from_iter([("escape".to_owned(), json!(escape.to_string()))]);
    if let Some((syntax, _)) = directives::syntax(text) {
        found.insert("syntax".to_owned(), json!(syntax.value));
    }
    if let Some(check) = directives::check(text) {
        found.insert("check".to_owned(), json!(check.value));
    }
    Value::Object(found)
}

fn warning(text: &str, found: &Diagnostic) -> Option<Value> {
    let line = crate::file::position(text, found.span.start).line;
    found.rule.map(|rule| json!({ "rule": rule, "line": line }))
}

fn node(node: &Node) -> Value {
    let texts = |list: &[crate::instruction::Spanned<String>]| {
        list.iter().map(|item| json!(item.value)).collect::<Vec<_>>()
    };
    // BuildKit's tree has one empty argument where it knows no instruction.
    let known = KEYWORDS.iter().any(|keyword| node.keyword.value.eq_ignore_ascii_case(keyword));
    let mut object = json!({
        "cmd": node.keyword.value,
        "flags": texts(&node.flags),
        "args": if known { texts(&node.args) } else { vec![json!("")] },
        "json": node.form == Form::Json,
        "start": node.lines.0,
        "end": node.lines.1,
        "heredocs": node.heredocs.iter().map(heredoc).collect::<Vec<_>>(),
    });
    if let Some(trigger) = &node.trigger {
        object["sub"] = self::node(trigger);
        // The table's flags are the outer instruction's; the recorded dumps have none inside ONBUILD.
        object["sub"]["flags"] = json!([]);
    }
    object
}

fn heredoc(heredoc: &Heredoc) -> Value {
    json!({
        "name": heredoc.name,
        "content": heredoc.content,
        "expand": heredoc.expand,
        "chomp": heredoc.chomp,
        "fd": heredoc.fd,
    })
}
