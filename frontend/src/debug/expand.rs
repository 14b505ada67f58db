//! The table `expand`: variable expansion and word splitting.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Answer, known_keys, text, texts};
use crate::expand;

/// Answers one case.
pub(super) fn answer(input: &Value) -> Answer {
    known_keys(input, &["text", "env", "escape", "words"])?;
    let env: BTreeMap<&str, &str> = match &input["env"] {
        Value::Null => BTreeMap::new(),
        _ => {
            texts(input, "env")?.into_iter().map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect()
        }
    };
    let escape = match &input["escape"] {
        Value::Null => '\\',
        _ => text(input, "escape")?.chars().next().ok_or("input \"escape\" must be one character")?,
    };
    let lookup = |name: &str| env.get(name).map(|value| (*value).to_owned());
    let text = text(input, "text")?;
    if input["words"].as_bool().unwrap_or(false) {
        let words = expand::words(text, escape, &lookup).map_err(|error| error.to_string())?;
        return Ok(json!({ "words": words.words, "unmatched": words.unmatched }));
    }
    let word = expand::word(text, escape, &lookup).map_err(|error| error.to_string())?;
    Ok(json!({ "value": word.value, "unmatched": word.unmatched }))
}
