//! What can go wrong with a registry. Decides no exit code: [`Action`] says whether it was a source or a push.
//!
//! Texts of servers are cut and cleaned before they are shown (reliability REG-20).

use std::fmt;
use std::io;
use std::path::PathBuf;

use reqwest::StatusCode;

use super::address::Kind;
use super::hint::Hint;
use crate::Digest;
use crate::document::DocumentError;

/// What the client was asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Reading from a registry.
    Pull,
    /// Writing to a registry.
    Push,
    /// Trying credentials.
    Login,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Login => "log in to",
        })
    }
}

/// One line: what — where and why — what to do.
#[derive(Debug, thiserror::Error)]
#[error("{action} {object} — {problem}{}", Hint(*action, object, problem))]
pub struct Error {
    /// What was to be done.
    pub action: Action,
    /// Image or registry it was to be done with.
    pub object: String,
    /// What stood in the way.
    pub problem: Box<Problem>,
}

impl Error {
    /// Returns whether xbuild itself refused to go on (policy, attack, limit) rather than being unable to.
    pub fn is_refusal(&self) -> bool {
        match &*self.problem {
            Problem::Refused(_) | Problem::TooLarge { .. } => true,
            Problem::Exhausted { last, .. } => matches!(**last, Problem::Refused(_)),
            _ => false,
        }
    }

    /// Returns whether what came is not what its digest says.
    pub fn is_wrong_content(&self) -> bool {
        matches!(*self.problem, Problem::Digest { .. })
    }

    /// Returns whether a file with settings or credentials is what is wrong.
    pub fn is_in_file(&self) -> bool {
        matches!(*self.problem, Problem::File { .. })
    }

    /// Returns whether the registry does not let us do this: there or with these credentials it never will. What is
    /// only full is not meant.
    pub fn is_denied(&self) -> bool {
        match &*self.problem {
            Problem::Unauthorized { messages, .. } => !super::hint::is_quota(messages),
            _ => false,
        }
    }

    /// Returns whether the registry says that there is no such image.
    pub fn is_unknown_image(&self) -> bool {
        matches!(*self.problem, Problem::ManifestUnknown { .. })
    }
}

/// What stood in the way.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No connection came about, or it broke.
    #[error("{what} by {host}")]
    Connection {
        /// `host:port`.
        host: String,
        /// What happened, such as `connection refused`.
        what: String,
        /// Whether another attempt may help.
        transient: Transient,
    },
    /// The host has no address.
    #[error("cannot resolve {host}: {detail}")]
    Name {
        /// The name.
        host: String,
        /// What the resolver said.
        detail: String,
        /// Whether another attempt may help: not where the name is known not to exist.
        transient: Transient,
    },
    /// The certificate does not prove who the host is, or TLS failed otherwise.
    #[error("TLS with {host}: {detail}")]
    Tls {
        /// `host:port`.
        host: String,
        /// What rustls said.
        detail: String,
    },
    /// The host is silent or too slow.
    #[error("{host} {what}")]
    Timeout {
        /// `host:port`.
        host: String,
        /// What did not come in time.
        what: String,
    },
    /// xbuild does not do what the registry's words would lead to.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The server answered with an error.
    #[error("{host} answered {status}{}", Quoted(messages))]
    Status {
        /// `host:port`.
        host: String,
        /// The status line.
        status: StatusCode,
        /// The server's own words.
        messages: Vec<Message>,
        /// What the server wants us to wait.
        retry_after: Option<std::time::Duration>,
    },
    /// Every attempt failed.
    #[error("{last} ({attempts} attempts)")]
    Exhausted {
        /// How many there were.
        attempts: u32,
        /// How the last one failed.
        last: Box<Problem>,
    },
    /// There is no such image.
    #[error("manifest unknown: {host} has no {name}")]
    ManifestUnknown {
        /// `host:port`.
        host: String,
        /// Repository with tag or digest.
        name: String,
    },
    /// The registry wants a login.
    #[error("{host} answered {status}{}", Quoted(messages))]
    Unauthorized {
        /// `host:port`.
        host: String,
        /// 401 or 403.
        status: StatusCode,
        /// The server's own words.
        messages: Vec<Message>,
        /// What was offered.
        offered: Offered,
        /// Registry to log in to.
        registry: String,
    },
    /// A manifest, index or config that cannot be used, or has nothing for the platform.
    #[error("{}", chain(source))]
    Document {
        /// What is wrong with it.
        source: DocumentError,
    },
    /// Bytes are not what their digest says.
    #[error("{what} from {host} is {}, expected {}", digests.actual, digests.expected)]
    Digest {
        /// `host:port`.
        host: String,
        /// What was read.
        what: String,
        /// The two that differ.
        digests: Box<Mismatch>,
    },
    /// A body is longer than its descriptor or than a limit.
    #[error("{what} from {host} is larger than {limit} bytes")]
    TooLarge {
        /// `host:port`.
        host: String,
        /// What was read.
        what: String,
        /// What was allowed.
        limit: u64,
    },
    /// A body ended before its size.
    #[error("{what} from {host} ended after {received} of {size} bytes")]
    Truncated {
        /// `host:port`.
        host: String,
        /// What was read.
        what: String,
        /// Bytes that came.
        received: u64,
        /// Bytes that were announced.
        size: u64,
    },
    /// An answer does not follow the specification.
    #[error("{host} sent {what}: {detail}")]
    Malformed {
        /// `host:port`.
        host: String,
        /// Which part of the answer.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// What answers is no registry.
    #[error("{host} answered with a web page, as no registry does")]
    WebPage {
        /// `host:port`.
        host: String,
    },
    /// A file with settings or credentials cannot be used.
    #[error("{}: {detail}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The bytes could not be handed on.
    #[error("write of {what}: {source}")]
    Sink {
        /// What was received.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The bytes to be sent could not be read.
    #[error("read of {what}: {source}")]
    Source {
        /// What was to be sent.
        what: String,
        /// Why.
        source: io::Error,
    },
}

impl Problem {
    /// Says that `what` of `host` is not what its digest says.
    pub(super) fn digest(host: String, what: &str, expected: Digest, actual: Digest) -> Self {
        Self::Digest { host, what: what.to_owned(), digests: Box::new(Mismatch { expected, actual }) }
    }
}

/// Digests that should be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    /// What the name says.
    pub expected: Digest,
    /// What was computed or claimed.
    pub actual: Digest,
}

/// Whether another attempt may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transient {
    /// It may.
    Yes,
    /// Once or twice: nobody listens there, but a server may be starting.
    Briefly,
    /// It cannot.
    No,
}

/// Which credentials were offered to a registry that wanted others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offered {
    /// None: there are none for this registry.
    Nothing,
    /// Those of this user.
    User(String),
    /// A stored identity token.
    IdentityToken,
}

/// What xbuild does not do, whoever asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A word of the registry leads to an address inside.
    #[error("refused: {registry} sent us to {url}, whose address {address} is {}", kind.word())]
    Address {
        /// Who said it.
        registry: String,
        /// Where it leads.
        url: String,
        /// What that resolves to.
        address: std::net::IpAddr,
        /// What is wrong with the address.
        kind: Kind,
    },
    /// A word of the registry leads from HTTPS to HTTP or to another scheme.
    #[error("refused: {registry} sent us to {url}, which is not https")]
    Scheme {
        /// Who said it.
        registry: String,
        /// Where it leads.
        url: String,
    },
    /// A next page on another server.
    #[error("refused: {registry} continues a list at {url}, which is not itself")]
    Elsewhere {
        /// Who said it.
        registry: String,
        /// Where it leads.
        url: String,
    },
    /// Too many redirects.
    #[error("refused: more than {limit} redirects, the last to {url}")]
    Redirects {
        /// How many are followed.
        limit: u32,
        /// Where the last one leads.
        url: String,
    },
    /// A configuration file forbids the name.
    #[error("refused: {file} blocks {prefix}")]
    Blocked {
        /// The prefix of names that is blocked.
        prefix: String,
        /// The file that says so.
        file: String,
    },
    /// A credential helper's name could be a path.
    #[error("refused: credential helper {0:?} is no name of letters, digits, '.', '_' and '-'")]
    Helper(String),
    /// The server wants a longer wait than a build can stand.
    #[error("{host} asks to wait {seconds} s{}", Quoted(messages))]
    Wait {
        /// `host:port`.
        host: String,
        /// How long.
        seconds: u64,
        /// The server's own words.
        messages: Vec<Message>,
    },
}

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
        detail: serde_json::Value,
    }
    let Ok(parsed) = serde_json::from_slice::<Body>(body) else {
        return plain_text(body);
    };
    let mut found: Vec<Message> = parsed
        .errors
        .into_iter()
        .take(8)
        .map(|entry| Message { code: clean(&entry.code), text: text_of(&entry.message, &entry.detail) })
        .collect();
    // Docker's token servers answer {"details": …}, others {"message": …}.
    for text in [parsed.details, parsed.message].into_iter().filter(|text| !text.is_empty()) {
        found.push(Message { code: String::new(), text: clean(&text) });
    }
    found
}

fn text_of(message: &str, detail: &serde_json::Value) -> String {
    match detail {
        serde_json::Value::String(detail) if !detail.is_empty() && detail != message => {
            clean(&format!("{message}: {detail}"))
        }
        _ => clean(message),
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

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    clean(&text)
}

struct Quoted<'a>(&'a [Message]);

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
        check(r#"{"details":"incorrect username or password"}"#, &[("", "incorrect username or password")]);
        check("<html>502</html>", &[]);
        check("", &[]);
        check("slow down", &[("", "slow down")]);
    }

    #[test]
    fn reg_20_texts_are_cut_and_cleaned() {
        let text = clean(&format!("\x1b[2Ja\u{202e}b{}", "x".repeat(10_000)));
        assert!(text.starts_with(" [2Ja b"));
        assert!(text.chars().count() <= SHOWN + 1);
    }

    #[test]
    fn an_error_is_one_line_of_what_where_why_and_what_to_do() {
        let error = Error {
            action: Action::Pull,
            object: "docker.io/library/x:1".to_owned(),
            problem: Box::new(Problem::Connection {
                host: "127.0.0.1:5000".to_owned(),
                what: "connection refused".to_owned(),
                transient: Transient::Briefly,
            }),
        };
        assert_eq!(
            error.to_string(),
            "pull docker.io/library/x:1 — connection refused by 127.0.0.1:5000 — is the registry running?"
        );
    }
}
