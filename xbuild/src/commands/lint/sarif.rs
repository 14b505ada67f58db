//! Findings as SARIF 2.1.0 (OASIS), with the rules that found something.

use std::collections::BTreeSet;

use frontend::Severity;
use frontend::lint;
use serde_json::{Value, json};

use super::Finding;

/// Renders everything as one log of one run.
pub fn print(findings: &[Finding]) -> String {
    let names: BTreeSet<&str> = findings.iter().map(|finding| finding.rule).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let results = findings.iter().map(|finding| result(finding, &names));
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "xbuild",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": names.iter().map(|name| rule(name)).collect::<Vec<_>>(),
            }},
            // Columns of positions count characters, not UTF-16 units.
            "columnKind": "unicodeCodePoints",
            "results": results.collect::<Vec<_>>(),
        }],
    });
    format!("{log:#}\n")
}

fn rule(name: &str) -> Value {
    let mut object = json!({ "id": name });
    let Some(rule) = lint::rule(name) else { return object };
    object["shortDescription"] = json!({ "text": rule.summary });
    object["help"] = json!({ "text": rule.help });
    if let Some(url) = rule.url() {
        object["helpUri"] = json!(url);
    }
    object
}

fn result(finding: &Finding, names: &[&str]) -> Value {
    let level = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let help = finding.help.as_ref().map(|help| format!("\n{help}")).unwrap_or_default();
    json!({
        "ruleId": finding.rule,
        "ruleIndex": names.iter().position(|name| *name == finding.rule),
        "level": level,
        "message": { "text": format!("{}{help}", finding.message) },
        "locations": [{ "physicalLocation": {
            "artifactLocation": { "uri": uri(&finding.path) },
            "region": {
                "startLine": finding.start.line, "startColumn": finding.start.column,
                "endLine": finding.end.line, "endColumn": finding.end.column,
            },
        }}],
    })
}

/// A path as a relative reference (RFC 3986): what is neither unreserved nor a slash is escaped.
fn uri(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let letter = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    path.bytes().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::lint::tests::samples;

    #[test]
    fn logs_have_what_the_schema_asks_for() {
        let log: Value = serde_json::from_str(&print(&samples())).expect("valid JSON");
        assert_eq!(log["version"], "2.1.0");
        let run = &log["runs"][0];
        for result in run["results"].as_array().expect("results") {
            let index = result["ruleIndex"].as_u64().expect("an index") as usize;
            assert_eq!(run["tool"]["driver"]["rules"][index]["id"], result["ruleId"]);
            let region = &result["locations"][0]["physicalLocation"]["region"];
            assert!(region["startLine"].as_u64() >= Some(1) && region["startColumn"].as_u64() >= Some(1));
        }
        assert_eq!(run["results"].as_array().map(Vec::len), Some(2));
        assert_eq!(uri("a b/ä"), "a%20b/%C3%A4");
    }
}
