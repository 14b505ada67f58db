//! `xbuild debug TABLE`: answers test suites, one JSON object per line in and out. Reads nothing but standard
//! input.

use std::io::BufRead as _;

use serde_json::{Value, json};

use super::print;
use crate::failure::{Class, Failure};

/// Answers every line of standard input.
///
/// # Errors
/// An unknown table, or input that is not JSON.
pub fn run(table: &str) -> Result<(), Failure> {
    if answer(table, &json!({})).is_none() {
        let tables =
            "the tables are parser, expand, ignore, giturl, chmod, instructions, reference and platform";
        return Err(Failure::new(Class::Usage, &["unknown table", table, "", tables]));
    }
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| failure(table, &error.to_string()))?;
        if line.trim().is_empty() {
            continue;
        }
        let question: Value =
            serde_json::from_str(&line).map_err(|error| failure(table, &error.to_string()))?;
        if let Some(reply) = answer(table, &question) {
            print(&format!("{reply}\n"))?;
        }
    }
    Ok(())
}

fn answer(table: &str, question: &Value) -> Option<Value> {
    let with_id = |mut reply: Value| {
        if let Some(object) = reply.as_object_mut() {
            object.insert("id".to_owned(), question["id"].clone());
        }
        reply
    };
    match table {
        "reference" => Some(with_id(oci::debug::reference(question))),
        "platform" => Some(with_id(oci::debug::platform(question))),
        other => frontend::debug::answer(other, question),
    }
}

fn failure(table: &str, why: &str) -> Failure {
    Failure::new(Class::Usage, &["unreadable question", table, why, "give one JSON object per line"])
}
