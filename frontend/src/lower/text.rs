//! Texts of the image history, as Go prints values: BuildKit's entries are compared byte by byte.

use std::fmt::Write as _;

use oci::config::Healthcheck;

/// Returns a text in which the URLs have no passwords, those of HTTP no user either: what is shown, logged or kept
/// in an image is for everybody.
pub(super) fn without_credentials(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        shown.push_str(head);
        let end = |char: char| "/?#'\"\\".contains(char) || char.is_whitespace();
        let authority = &tail[..tail.find(end).unwrap_or(tail.len())];
        rest = tail;
        if let Some((login, _)) = authority.rsplit_once('@') {
            rest = &tail[login.len() + 1..];
            let user = login.split(':').next().unwrap_or_default();
            if !head.ends_with("http://") && !head.ends_with("https://") && !user.is_empty() {
                shown.extend([user, "@"]);
            }
        }
    }
    shown + rest
}

/// Returns a list as Go's `%v` prints it.
pub(super) fn list(items: &[String]) -> String {
    format!("[{}]", items.join(" "))
}

/// Returns a list as Go's `%q` prints it.
pub(super) fn quoted_list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| quote(item)).collect();
    format!("[{}]", quoted.join(" "))
}

/// Quotes as Go's `strconv.Quote` does.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => out.extend(['\\', char]),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            char if (char as u32) < 0x20 || char as u32 == 0x7f => {
                write!(out, "\\x{:02x}", char as u32).expect("a String takes all text");
            }
            char => out.push(char),
        }
    }
    out.push('"');
    out
}

/// Returns a probe as Go's `%+v` prints it.
pub(super) fn healthcheck(check: &Healthcheck) -> String {
    format!(
        "{{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        list(&check.test),
        duration(check.interval),
        duration(check.timeout),
        duration(check.start_period),
        duration(check.start_interval),
        check.retries
    )
}

/// Returns nanoseconds as Go's `time.Duration` prints them.
fn duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let all = nanoseconds.unsigned_abs();
    let (unit, name) = match all {
        0 => return "0s".to_owned(),
        1..1_000 => (1, "ns"),
        1_000..1_000_000 => (1_000, "µs"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => return format!("{sign}{}", seconds(all)),
    };
    format!("{sign}{}{name}", decimal(all, unit))
}

fn seconds(nanoseconds: u64) -> String {
    const SECOND: u64 = 1_000_000_000;
    let minutes = nanoseconds / (60 * SECOND);
    let rest = decimal(nanoseconds % (60 * SECOND), SECOND);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{rest}s"),
        (0, minutes) => format!("{minutes}m{rest}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
    }
}

/// Returns `value / unit` without trailing zeros.
fn decimal(value: u64, unit: u64) -> String {
    let whole = value / unit;
    let width = unit.ilog10() as usize;
    let fraction = format!("{:0width$}", value % unit);
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { whole.to_string() } else { format!("{whole}.{fraction}") }
}

/// Shortens an instruction to one line for people.
pub(super) fn one_line(text: &str) -> String {
    const LIMIT: usize = 200;
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn src_05_urls_are_shown_without_credentials() {
        for (text, shown) in [
            ("ADD https://user:tok@host/r.git /", "ADD https://host/r.git /"),
            ("https://tok@host", "https://host"),
            ("http://u:p@w@h:1/x@y http://h/@", "http://h:1/x@y http://h/@"),
            ("ssh://git:pw@h/r ssh://git@h/r", "ssh://git@h/r ssh://git@h/r"),
            ("git@h:r", "git@h:r"),
            ("https://h?a=b@c", "https://h?a=b@c"),
            ("a://", "a://"),
        ] {
            assert_eq!(without_credentials(text), shown);
        }
    }

    #[test]
    fn values_print_as_in_go() {
        let check = Healthcheck {
            test: vec!["bin".into(), "-c".into(), "exit 0".into()],
            interval: 1_000_000_000,
            timeout: 10_000_000_000,
            start_period: 3_000_000_000,
            start_interval: 100_000_000,
            retries: 5,
        };
        let expected =
            "{Test:[bin -c exit 0] Interval:1s Timeout:10s StartPeriod:3s StartInterval:100ms Retries:5}";
        assert_eq!(healthcheck(&check), expected);
        for (nanoseconds, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (1_500_000_000, "1.5s"),
        ] {
            assert_eq!(duration(nanoseconds), text);
        }
        assert_eq!(quoted_list(&["a \"b\"\n".into(), "é".into()]), r#"["a \"b\"\n" "é"]"#);
    }
}
