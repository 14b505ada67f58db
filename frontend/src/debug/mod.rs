//! The batch interface of `xbuild debug TABLE`: one JSON object in, one out, nothing read or executed.
//!
//! Each file answers one table. Tables about image references and platforms belong to `oci`, not here.

mod chmod;
mod expand;
mod giturl;
mod ignore;
mod instructions;
mod parser;

use serde_json::{Map, Value, json};

/// What a table makes of one input.
type Answer = Result<Value, String>;

/// Answers one object; `None` if this crate has no such table.
pub fn answer(table: &str, input: &Value) -> Option<Value> {
    let answer = match table {
        "chmod" => chmod::answer(input),
        "expand" => expand::answer(input),
        "giturl" => giturl::answer(input),
        "ignore" => ignore::answer(input),
        "instructions" => instructions::answer(input),
        "parser" => parser::answer(input),
        _ => return None,
    };
    let (ok, mut output) = match answer {
        Ok(Value::Object(output)) => (true, output),
        Ok(value) => (true, Map::from_iter([("value".to_owned(), value)])),
        Err(error) => (false, Map::from_iter([("error".to_owned(), json!(error))])),
    };
    output.insert("id".to_owned(), input["id"].clone());
    output.insert("ok".to_owned(), json!(ok));
    Some(Value::Object(output))
}

/// Returns a required text of an input.
fn text<'a>(input: &'a Value, key: &str) -> Result<&'a str, String> {
    input[key].as_str().ok_or_else(|| format!("input {key:?} must be a text"))
}

/// Returns a list of texts of an input.
fn texts<'a>(input: &'a Value, key: &str) -> Result<Vec<&'a str>, String> {
    let list = input[key].as_array().ok_or_else(|| format!("input {key:?} must be a list"))?;
    list.iter().map(|item| item.as_str().ok_or_else(|| format!("{key:?} must hold texts"))).collect()
}

/// Refuses keys that a table does not know.
fn known_keys(input: &Value, known: &[&str]) -> Result<(), String> {
    let object = input.as_object().ok_or("input must be an object")?;
    match object.keys().find(|key| *key != "id" && !known.contains(&key.as_str())) {
        Some(key) => Err(format!("unknown input {key:?}, expected one of {known:?}")),
        None => Ok(()),
    }
}
