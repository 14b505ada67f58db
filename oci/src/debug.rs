//! The batch interface to references and platforms: one JSON object in, one out, nothing read.
//!
//! It serves `xbuild debug TABLE`, which holds the parsers to other projects' tables.

use serde_json::{Value, json};

use crate::{Platform, Reference};

/// Answers `{"text"}` with `domain`, `path`, `tag` and `digest` of the reference, or with its error.
pub fn reference(input: &Value) -> Value {
    match text(input, "text").parse::<Reference>() {
        Ok(reference) => json!({
            "ok": true,
            "domain": reference.registry,
            "path": reference.repository,
            "tag": reference.tag.unwrap_or_default(),
            "digest": reference.digest.map(|digest| digest.to_string()).unwrap_or_default(),
        }),
        Err(error) => failure(&error),
    }
}

/// Answers `{"text", "host"}` with the parts of the platform; with a `candidate` whether an image of it may be
/// used for `text`.
pub fn platform(input: &Value) -> Value {
    match platform_or_error(input) {
        Ok(answer) => answer,
        Err(error) => failure(&error),
    }
}

fn platform_or_error(input: &Value) -> Result<Value, crate::platform::PlatformError> {
    let host = match input.get("host").and_then(Value::as_str) {
        Some(host) => host.parse()?,
        None => Platform::host(),
    };
    let wanted = Platform::parse(text(input, "text"), &host)?;
    if let Some(candidate) = input.get("candidate").and_then(Value::as_str) {
        let candidate = Platform::parse(candidate, &host)?;
        return Ok(json!({ "ok": true, "match": wanted.accepts(&candidate) }));
    }
    Ok(json!({
        "ok": true,
        "os": wanted.os,
        "architecture": wanted.architecture,
        "variant": wanted.variant,
        "os_version": wanted.os_version,
    }))
}

fn text<'a>(input: &'a Value, key: &str) -> &'a str {
    input.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn failure(error: &dyn std::error::Error) -> Value {
    json!({ "ok": false, "error": error.to_string() })
}
