//! What a problem says of the way to a server, which decides whether that server or another one is asked again.
//! Every problem is sorted here, once; tries nothing again itself.

use reqwest::StatusCode;

use super::error::{Problem, Transient};
use super::message;
use super::retry::is_transient;

/// How far an exchange got that failed.
enum Nature<'a> {
    /// To nobody: the name is unknown.
    Nameless(Transient),
    /// To a host, not to a connection, or the connection broke.
    Unconnected(Transient),
    /// To a server that is not to be believed.
    Untrusted,
    /// It began, and stood still or was cut off.
    Stopped,
    /// To an answer that says no.
    Answered(StatusCode),
    /// Through several attempts, of which this was the last.
    Repeated(&'a Problem),
    /// To its end: the same would happen again.
    Final,
}

fn nature(problem: &Problem) -> Nature<'_> {
    match problem {
        Problem::Name { transient, .. } => Nature::Nameless(*transient),
        Problem::Connection { transient, .. } => Nature::Unconnected(*transient),
        Problem::Tls { .. } => Nature::Untrusted,
        Problem::Timeout { .. } | Problem::Truncated { .. } => Nature::Stopped,
        // The distribution registry answers 500 where it has more than one thing to say of a manifest.
        Problem::Status { messages, .. } if message::name_unknown_blob(messages) => Nature::Final,
        Problem::Status { status, .. } => Nature::Answered(*status),
        Problem::Exhausted { last: tried, .. } | Problem::NoToken { problem: tried, .. } => {
            Nature::Repeated(tried)
        }
        Problem::Refused(_)
        | Problem::ManifestUnknown { .. }
        | Problem::Restricted { .. }
        | Problem::Wait { .. }
        | Problem::Unauthorized { .. }
        | Problem::Document { .. }
        | Problem::Digest { .. }
        | Problem::TooLarge { .. }
        | Problem::Malformed { .. }
        | Problem::WebPage { .. }
        | Problem::File { .. }
        | Problem::Sink { .. }
        | Problem::Damaged { .. }
        | Problem::Source { .. } => Nature::Final,
    }
}

/// Returns whether another attempt may help.
pub(super) fn transience(problem: &Problem) -> Transient {
    match nature(problem) {
        Nature::Nameless(transient) | Nature::Unconnected(transient) => transient,
        Nature::Stopped => Transient::Yes,
        Nature::Answered(status) if is_transient(status) => Transient::Yes,
        Nature::Answered(_) | Nature::Untrusted | Nature::Repeated(_) | Nature::Final => Transient::No,
    }
}

/// Returns whether no connection could be made, or none to a server that is to be believed.
pub(super) fn is_nobody_there(problem: &Problem) -> bool {
    match nature(problem) {
        Nature::Unconnected(transient) => transient == Transient::Briefly,
        Nature::Nameless(_) | Nature::Untrusted => true,
        Nature::Repeated(last) => is_nobody_there(last),
        Nature::Stopped | Nature::Answered(_) | Nature::Final => false,
    }
}

/// Returns whether connections break or stand still, rather than a blob not being there.
pub(super) fn is_break(problem: &Problem) -> bool {
    match nature(problem) {
        Nature::Unconnected(_) | Nature::Stopped => true,
        Nature::Repeated(last) => is_break(last),
        Nature::Nameless(_) | Nature::Untrusted | Nature::Answered(_) | Nature::Final => false,
    }
}
