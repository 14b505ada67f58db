//! Findings as a JSON array. `line` is where BuildKit reports, `at` is the exact place. Mistakes are not in it:
//! they go to standard error, with exit code 3.

use frontend::Severity;
use frontend::lint;
use serde_json::{Value, json};

use super::Finding;

/// Renders warnings.
pub fn print(findings: &[Finding]) -> String {
    let warnings = findings.iter().filter(|finding| finding.severity == Severity::Warning);
    format!("{:#}\n", Value::Array(warnings.map(object).collect()))
}

fn object(finding: &Finding) -> Value {
    let rule = lint::rule(finding.rule);
    json!({
        "rule": finding.rule,
        "line": finding.line,
        "message": finding.message,
        "path": finding.path,
        "at": {
            "line": finding.start.line, "column": finding.start.column,
            "end_line": finding.end.line, "end_column": finding.end.column,
        },
        "description": rule.map(|rule| rule.summary),
        "help": finding.help,
        "url": rule.and_then(lint::Rule::url),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::lint::tests::samples;

    #[test]
    fn warnings_are_objects_and_mistakes_are_left_out() {
        let value: Value = serde_json::from_str(&print(&samples())).expect("valid JSON");
        assert_eq!(value.as_array().map(Vec::len), Some(1));
        assert_eq!(
            (&value[0]["rule"], &value[0]["line"], &value[0]["at"]["line"]),
            (&json!("UndefinedVar"), &json!(2), &json!(3))
        );
        assert_eq!(print(&[]), "[]\n");
    }
}
