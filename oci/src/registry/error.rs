//! What can go wrong with a registry. Decides no exit code: [`Action`] says whether it was a source or a push.

use std::fmt;
use std::io;
use std::path::PathBuf;

use reqwest::StatusCode;

use super::address::Kind;
use super::hint::Hint;
pub use super::message::Message;
use super::message::Quoted;
pub(super) use super::message::{clean, messages};
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

    /// Returns whether the bytes could not be written here: another registry would not help.
    pub fn is_sink(&self) -> bool {
        matches!(*self.problem, Problem::Sink { .. })
    }

    /// Returns whether a file with settings or credentials is what is wrong.
    pub fn is_in_file(&self) -> bool {
        matches!(*self.problem, Problem::File { .. })
    }

    /// Returns the blob that was to be sent and is damaged here, where that is what is wrong.
    pub fn damaged(&self) -> Option<Digest> {
        match &*self.problem {
            Problem::Damaged { digest, .. } => Some(*digest),
            _ => None,
        }
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
    /// Every attempt failed.
    #[error("{last} ({attempts} attempts)")]
    Exhausted {
        /// How many there were.
        attempts: u32,
        /// How the last one failed.
        last: Box<Problem>,
    },
    /// A token server gives none; what it says of name and password is [`Problem::Unauthorized`].
    #[error("no token from {server}: {problem}")]
    NoToken {
        /// Its address.
        server: String,
        /// Why.
        problem: Box<Problem>,
    },
    /// There is no such image.
    #[error("manifest unknown: {host} has no {name}")]
    ManifestUnknown {
        /// `host:port`.
        host: String,
        /// Repository with tag or digest.
        name: String,
    },
    /// A manifest is refused for a layer that is not to be distributed.
    #[error("{refused}; the layer {layer} is marked as not to be distributed, and not taken so")]
    Restricted {
        /// The layer.
        layer: Digest,
        /// The registry's answer.
        refused: Box<Problem>,
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
    /// The bytes to be sent are not what their digest says.
    #[error("blob {digest} is damaged: {} {what}", path.display())]
    Damaged {
        /// What was to be sent.
        digest: Digest,
        /// The file that it is in.
        path: PathBuf,
        /// What is wrong with the file.
        what: String,
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
    /// A token server that leads elsewhere, to which name and password would be sent.
    #[error("refused: the token server {server} redirects us to {url}, which none may")]
    TokenRedirect {
        /// Its address.
        server: String,
        /// Where it leads.
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

#[cfg(test)]
mod tests {
    use super::*;

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
