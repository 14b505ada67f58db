//! Findings as workflow commands, of which GitHub Actions makes annotations.

use frontend::Severity;

use super::Finding;

/// Renders everything, a line each.
pub fn print(findings: &[Finding]) -> String {
    findings.iter().map(line).collect()
}

fn line(finding: &Finding) -> String {
    let level = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let help = finding.help.as_ref().map(|help| format!("\n{help}")).unwrap_or_default();
    // Columns count only where the place is within one line.
    let columns = if finding.start.line == finding.end.line {
        format!(",col={},endColumn={}", finding.start.column, finding.end.column)
    } else {
        String::new()
    };
    format!(
        "::{level} file={},line={},endLine={}{columns},title={}::{}\n",
        property(&finding.path),
        finding.start.line,
        finding.end.line,
        property(finding.rule),
        data(&format!("{}{help}", finding.message)),
    )
}

/// Escapes as the toolkit's `escapeData` does: nothing in a message may begin a command of its own.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Escapes as the toolkit's `escapeProperty` does.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::lint::tests::samples;

    #[test]
    fn annotations_are_one_escaped_line_each() {
        let mut findings = samples();
        findings[0].message = "50%\n::error::x".to_owned();
        findings[0].path = "a:b,c".to_owned();
        findings[0].help = None;
        assert_eq!(
            print(&findings),
            "::warning file=a%3Ab%2Cc,line=3,endLine=3,col=5,endColumn=7,title=UndefinedVar::50%25%0A::error::x\n\
             ::error file=Dockerfile,line=4,endLine=5,title=dockerfile::bad%0Amend it\n"
        );
    }
}
