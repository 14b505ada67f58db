//! What servers say of their errors, read from bodies and made safe to show. Knows no problem.
//!
//! Texts are cut and cleaned before they are shown (reliability REG-20).

use std::fmt;

use serde_json::{Map, Value};

/// One entry of a registry's `errors` (distribution-spec "Error Codes"), or the text of another body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Code in upper case, empty where there was none.
    pub code: String,
    /// The text, cut and cleaned.
    pub text: String,
}

/// Characters of a server's text that are shown.
const SHOWN: usize = 2048;

/// Reads the messages of an error body.
pub(super) fn messages(body: &[u8]) -> Vec<Message> {
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<Entry>,
        #[serde(default)]
        details: String,
        #[serde(default)]
        message: String,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
        #[serde(default)]
        detail: Value,
    }
    let Ok(parsed) = serde_json::from_slice::<Body>(body) else {
        return plain_text(body);
    };
    let mut found: Vec<Message> = parsed
        .errors
        .into_iter()
        .take(8)
        .map(|entry| Message {
            code: clean(&entry.code),
            text: text_of(&entry.code, &entry.message, &entry.detail),
        })
        .collect();
    // Docker's token servers answer {"details": …}, others {"message": …}.
    for text in [parsed.details, parsed.message].into_iter().filter(|text| !text.is_empty()) {
        found.push(Message { code: String::new(), text: clean(&text) });
    }
    found
}

fn text_of(code: &str, message: &str, detail: &Value) -> String {
    // Other codes say by themselves what is wrong; their details are parts of the request.
    let says_nothing = code == "UNKNOWN" || message.is_empty();
    match detail {
        Value::String(detail) if !detail.is_empty() && detail != message => {
            clean(&format!("{message}: {detail}"))
        }
        Value::Object(detail) if !detail.is_empty() && says_nothing => {
            clean(&format!("{message}: {}", told(detail)))
        }
        _ => clean(message),
    }
}

/// Returns what an object says. The distribution registry answers with Go's errors as they are: `{"DriverName": …,
/// "Enclosed": {"Op": "write", "Path": …, "Err": 28}}`, where a number is Linux'.
fn told(detail: &Map<String, Value>) -> String {
    let field = |name: &str| detail.get(name).or_else(|| detail.get(&name.to_lowercase()));
    if let Some(Value::Object(inner)) = field("Enclosed") {
        return told(inner);
    }
    let errno = field("Err").and_then(Value::as_i64).and_then(|number| i32::try_from(number).ok());
    match (field("Op").and_then(Value::as_str), field("Path").and_then(Value::as_str), errno) {
        (Some(call), Some(path), Some(errno)) => {
            format!("{call} {path}: {}", std::io::Error::from_raw_os_error(errno))
        }
        _ => Value::Object(detail.clone()).to_string(),
    }
}

/// A body that is no JSON is quoted only where it is text: an HTML page helps nobody.
fn plain_text(body: &[u8]) -> Vec<Message> {
    let text = clean(String::from_utf8_lossy(body).trim());
    if text.is_empty() || text.starts_with('<') {
        return Vec::new();
    }
    vec![Message { code: String::new(), text }]
}

/// Cuts `text` to what fits a line and replaces control characters, so that no server writes to the terminal.
pub(super) fn clean(text: &str) -> String {
    let unsafe_ = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut cleaned: String = text.chars().take(SHOWN).map(|c| if unsafe_(c) { ' ' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        cleaned.push('…');
    }
    cleaned
}

/// Messages behind what an error says itself.
pub(super) struct Quoted<'a>(pub(super) &'a [Message]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, message) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { ": " } else { "; " })?;
            match (message.code.as_str(), message.text.as_str()) {
                ("", text) => write!(f, "{text}")?,
                (code, "") => write!(f, "{code}")?,
                (code, text) => write!(f, "{code}: {text}")?,
            }
        }
        Ok(())
    }
}

/// Whether a registry refuses a manifest because of something that it names and that is not there.
pub(super) fn name_unknown_blob(messages: &[Message]) -> bool {
    messages.iter().any(|message| {
        matches!(message.code.as_str(), "BLOB_UNKNOWN" | "MANIFEST_BLOB_UNKNOWN" | "MANIFEST_UNKNOWN")
    })
}

/// Whether a text is HTML or XML; JSON never begins so.
pub(super) fn starts_a_page(text: &[u8]) -> bool {
    text.trim_ascii_start().starts_with(b"<")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: &[(&str, &str)]) {
        let expected: Vec<Message> = expected
            .iter()
            .map(|(code, text)| Message { code: (*code).to_owned(), text: (*text).to_owned() })
            .collect();
        assert_eq!(messages(body.as_bytes()), expected, "{body}");
    }

    #[test]
    fn bodies_of_registries_become_messages() {
        check(
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#,
            &[("MANIFEST_UNKNOWN", "manifest unknown")],
        );
        check(
            r#"{"errors":[{"code":"DENIED","message":"no","detail":"quota"}]}"#,
            &[("DENIED", "no: quota")],
        );
        check(
            r#"{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":{"a":1}}]}"#,
            &[("UNKNOWN", "unknown error: {\"a\":1}")],
        );
        check(r#"{"details":"incorrect username or password"}"#, &[("", "incorrect username or password")]);
        check("<html>502</html>", &[]);
        check("", &[]);
        check("slow down", &[("", "slow down")]);
    }

    #[test]
    fn errors_of_a_registrys_disk_are_told() {
        let full = r#"{"DriverName":"filesystem","Enclosed":{"Op":"write","Path":"/data/x","Err":28}}"#;
        check(
            &format!(r#"{{"errors":[{{"code":"UNKNOWN","message":"unknown error","detail":{full}}}]}}"#),
            &[("UNKNOWN", "unknown error: write /data/x: No space left on device (os error 28)")],
        );
        let full = "write /data/x: no space left on device";
        check(
            &format!(r#"{{"errors":[{{"code":"UNKNOWN","message":"unknown error","detail":"{full}"}}]}}"#),
            &[("UNKNOWN", &format!("unknown error: {full}"))],
        );
    }

    #[test]
    fn reg_20_texts_are_cut_and_cleaned() {
        let text = clean(&format!("\x1b[2Ja\u{202e}b{}", "x".repeat(10_000)));
        assert!(text.starts_with(" [2Ja b"));
        assert!(text.chars().count() <= SHOWN + 1);
    }
}
