//! Findings as GitLab's Code Quality report: Code Climate's issue format, as far as GitLab reads it.

use std::collections::BTreeMap;

use frontend::Severity;
use serde_json::{Value, json};

use super::Finding;

/// Renders everything as one JSON array.
pub fn print(findings: &[Finding]) -> String {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let issues = findings.iter().map(|finding| {
        // Lines move with every edit, so the fingerprint has none; equal findings are counted instead.
        let identity = format!("{}\0{}\0{}", finding.path, finding.rule, finding.message);
        let count = seen.entry(identity.clone()).and_modify(|count| *count += 1).or_default();
        issue(finding, &format!("{identity}\0{count}"))
    });
    format!("{:#}\n", Value::Array(issues.collect()))
}

fn issue(finding: &Finding, identity: &str) -> Value {
    let severity = match finding.severity {
        Severity::Error => "blocker",
        Severity::Warning => "minor",
    };
    json!({
        "description": finding.message,
        "check_name": finding.rule,
        "fingerprint": blake3::hash(identity.as_bytes()).to_hex().to_string(),
        "severity": severity,
        "location": { "path": finding.path, "lines": { "begin": finding.start.line, "end": finding.end.line } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::lint::tests::samples;

    #[test]
    fn issues_have_what_gitlab_asks_for_and_fingerprints_of_their_own() {
        let mut findings = samples();
        findings.extend(samples());
        let value: Value = serde_json::from_str(&print(&findings)).expect("valid JSON");
        let issues = value.as_array().expect("an array");
        let mut prints: Vec<_> = issues.iter().map(|issue| issue["fingerprint"].to_string()).collect();
        prints.sort();
        prints.dedup();
        assert_eq!((issues.len(), prints.len()), (4, 4));
        assert_eq!(issues[0]["location"]["lines"]["begin"], json!(3));
        assert_eq!((&issues[0]["severity"], &issues[1]["severity"]), (&json!("minor"), &json!("blocker")));
        let mut moved = samples();
        moved[0].start.line += 10;
        let moved: Value = serde_json::from_str(&print(&moved)).expect("valid JSON");
        assert_eq!(moved[0]["fingerprint"], issues[0]["fingerprint"], "a fingerprint outlives edits above");
    }
}
