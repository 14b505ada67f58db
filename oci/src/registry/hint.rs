//! What a user can do about a problem: the last part of an error's line. Knows no more than the problem does.

use std::fmt;

use reqwest::StatusCode;

use super::answer::NO_HTTP;
use super::error::{Action, Message, Offered, Problem, Refusal};
use super::tls::NO_TLS;
use crate::Reference;
use crate::document::DocumentError;
use crate::reference::DOCKER_HUB;

/// The environment variable from which the binary fills [`super::Settings::allowed`].
const ALLOW_VARIABLE: &str = "XBUILD_ALLOW_REGISTRY_ADDRESS";

const NO_REGISTRY: &str = "is it the registry's name? A proxy or a login page may be in between";

const WRONG_REALM: &str =
    "the registry names that address: does its administrator know it (Harbor: external_url)?";

/// Shows what the user can do, with a dash before it; nothing where that is not known.
pub(super) struct Hint<'a>(pub Action, pub &'a str, pub &'a Problem);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match place_hint(self.0, self.1, self.2).or_else(|| hint(self.0, self.2)) {
            Some(hint) => write!(f, " — {hint}"),
            None => Ok(()),
        }
    }
}

/// Returns what is wrong with where an image is to go: Harbor and its like have projects, which must exist, and
/// answer a name without one with 400, 401 or 404.
fn place_hint(action: Action, object: &str, problem: &Problem) -> Option<String> {
    let (status, messages) = match problem {
        Problem::Status { status, messages, .. } | Problem::Unauthorized { status, messages, .. } => {
            (status, messages)
        }
        _ => return None,
    };
    // Amazon's registry answers 400 to what Harbor answers 412.
    if action == Action::Push && status.is_client_error() && says(messages, &["immutable"]) {
        return Some("the tag is immutable, choose another".to_owned());
    }
    if action == Action::Login || is_quota(messages) || !matches!(status.as_u16(), 400 | 401 | 403 | 404) {
        return None;
    }
    if says(messages, &["project", "not found"]) {
        return Some("create the project in the registry, or check its name".to_owned());
    }
    let about_place = |code: &str| {
        matches!(
            code,
            "" | "BAD_REQUEST"
                | "UNAUTHORIZED"
                | "DENIED"
                | "FORBIDDEN"
                | "NOT_FOUND"
                | "NAME_UNKNOWN"
                | "NAME_INVALID"
        )
    };
    if !messages.iter().all(|message| about_place(&message.code)) {
        return None;
    }
    let reference: Reference = object.parse().ok()?;
    let bare = !reference.repository.contains('/') && reference.registry != DOCKER_HUB;
    let nothing_offered = matches!(problem, Problem::Unauthorized { offered: Offered::Nothing, .. });
    if action == Action::Push && !bare && messages.iter().any(|message| message.code == "NAME_UNKNOWN") {
        return Some("create the repository in the registry, or check its name".to_owned());
    }
    (action == Action::Push && bare && !nothing_offered).then(|| {
        let (registry, name) = (reference.registry, reference.repository);
        format!("may you push there? Registries with projects want {registry}/PROJECT/{name}")
    })
}

/// Whether one message has all of the words.
fn says(messages: &[Message], words: &[&str]) -> bool {
    messages.iter().any(|message| {
        let text = message.text.to_ascii_lowercase();
        words.iter().all(|word| text.contains(word))
    })
}

/// Returns what the user can do, where that is known.
fn hint(action: Action, problem: &Problem) -> Option<String> {
    match problem {
        Problem::Connection { host, .. } if host.starts_with("the proxy ") => {
            Some("is it right and running? NO_PROXY lists hosts that need none".to_owned())
        }
        Problem::Connection { what, .. } if what.contains("refused") => {
            Some("is the registry running?".to_owned())
        }
        Problem::Connection { .. } | Problem::Timeout { .. } => {
            Some("check the network and try again".to_owned())
        }
        Problem::Name { .. } => Some("check the name and this machine's DNS".to_owned()),
        Problem::Tls { host, detail } => Some(tls_hint(host, detail)),
        Problem::Refused(refusal) => refusal_hint(refusal),
        Problem::Wait { .. } => Some("try later, or log in for a higher limit".to_owned()),
        Problem::Exhausted { last, .. } => hint(action, last),
        Problem::NoToken { problem, .. } => hint(action, problem).or_else(|| Some(WRONG_REALM.to_owned())),
        Problem::Restricted { .. } => Some(
            "a registry must allow the layer's URLs (distribution: validation.manifests.urls.allow)"
                .to_owned(),
        ),
        Problem::ManifestUnknown { .. } => Some("check the name and the tag".to_owned()),
        Problem::Unauthorized { offered, registry, messages, .. } => {
            Some(login_hint(action, offered, registry, messages))
        }
        Problem::Status { status, messages, host, .. } => status_hint(*status, messages, host),
        Problem::Document { source: DocumentError::NoPlatform { .. } } => {
            Some("choose one with --platform".to_owned())
        }
        Problem::Document { .. } => None,
        Problem::WebPage { .. } => Some(NO_REGISTRY.to_owned()),
        Problem::Malformed { what, .. } if what == NO_HTTP => Some(NO_REGISTRY.to_owned()),
        Problem::File { .. } => Some("mend it, or leave it out".to_owned()),
        Problem::Digest { .. } => Some("the registry or something on the way changes content".to_owned()),
        Problem::TooLarge { .. }
        | Problem::Truncated { .. }
        | Problem::Malformed { .. }
        | Problem::Sink { .. }
        | Problem::Damaged { .. }
        | Problem::Source { .. } => None,
    }
}

fn tls_hint(host: &str, detail: &str) -> String {
    if detail == NO_TLS {
        return format!("does it speak plain HTTP? Then allow it: --insecure-registry {host}");
    }
    if detail.contains("received fatal alert") && !detail.contains("ProtocolVersion") {
        return format!("does it want a client certificate? --registry-cert {host}=CERT,KEY");
    }
    // rustls writes `Expired` or `certificate expired: …`, depending on what it knows.
    let lower = detail.to_ascii_lowercase();
    if ["expired", "not valid yet", "notvalidyet"].iter().any(|word| lower.contains(word)) {
        return "check this machine's clock and the certificate".to_owned();
    }
    if lower.contains("not valid for") {
        return format!("the certificate is another host's: check the name {host}");
    }
    format!("name its authority with --registry-ca {host}=FILE, or add that to the host's CA bundle")
}

fn refusal_hint(refusal: &Refusal) -> Option<String> {
    match refusal {
        Refusal::Address { url, .. } => {
            let host = reqwest::Url::parse(url).ok().and_then(|url| super::address::Authority::of(&url));
            host.map(|host| format!("if that is meant, set {ALLOW_VARIABLE}={host}"))
        }
        Refusal::Scheme { .. } => {
            Some("a registry behind a proxy needs its external https address configured".to_owned())
        }
        Refusal::Blocked { .. }
        | Refusal::Redirects { .. }
        | Refusal::TokenRedirect { .. }
        | Refusal::Elsewhere { .. }
        | Refusal::Helper(_) => None,
    }
}

const QUOTA: &str = "delete what is not needed there, or ask the registry's administrator for a larger quota";

const FULL: &str = "the registry's disk is full: make room there, or tell its administrator";

const READ_ONLY: &str = "nothing can be pushed there for now: ask the registry's administrator";

/// Harbor says "adding … of storage resource, which when updated … will exceed the configured upper limit" without
/// the word quota.
pub(super) fn is_quota(messages: &[Message]) -> bool {
    says(messages, &["quota"]) || says(messages, &["exceed the configured upper limit"])
}

fn login_hint(action: Action, offered: &Offered, registry: &str, messages: &[Message]) -> String {
    if is_quota(messages) {
        return QUOTA.to_owned();
    }
    if says(messages, &["read only"]) || says(messages, &["read-only"]) {
        return READ_ONLY.to_owned();
    }
    if says(messages, &["expired"]) {
        return format!("log in again: xbuild login {registry}");
    }
    match (action, offered) {
        (Action::Push, Offered::User(user)) => format!("may {user} push there? Else xbuild login {registry}"),
        (Action::Login, Offered::User(user)) => format!("are name and password of {user} right?"),
        (Action::Pull, Offered::User(user)) => {
            format!("are name and password of {user} right? xbuild login {registry}")
        }
        (_, Offered::IdentityToken) => format!("the stored token is refused: xbuild login {registry}"),
        (Action::Pull, Offered::Nothing) => {
            format!("it does not exist or needs a login: xbuild login {registry}")
        }
        (_, Offered::Nothing) => format!("log in first: xbuild login {registry}"),
    }
}

fn status_hint(status: StatusCode, messages: &[Message], host: &str) -> Option<String> {
    let says = |word: &str| says(messages, &[word]);
    match status.as_u16() {
        429 if host.contains("docker.io") => Some("xbuild login gives a higher limit".to_owned()),
        429 => Some("try later".to_owned()),
        // Go's server and nginx each have their own words.
        400 if says("http request to an https server") || says("http request was sent to https port") => {
            Some(format!("it speaks HTTPS: name its authority with --registry-ca {host}=FILE"))
        }
        413 => Some("a proxy before the registry limits request bodies".to_owned()),
        403 | 412 | 507 if is_quota(messages) => Some(QUOTA.to_owned()),
        507 => Some(FULL.to_owned()),
        500..=599 if says("no space left") => Some(FULL.to_owned()),
        200..=399 => Some(NO_REGISTRY.to_owned()),
        500..=599 => Some("the registry is in trouble, try later".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(action: Action, object: &str, problem: &Problem, expected: &str) {
        let shown = Hint(action, object, problem).to_string();
        assert_eq!(shown, if expected.is_empty() { String::new() } else { format!(" — {expected}") });
    }

    fn status(host: &str, status: u16, code: &str, text: &str) -> Problem {
        Problem::Status {
            host: host.to_owned(),
            status: StatusCode::from_u16(status).unwrap(),
            messages: vec![Message { code: code.to_owned(), text: text.to_owned() }],
            retry_after: None,
        }
    }

    #[test]
    fn reg_14_docker_hubs_limit_is_lifted_by_a_login() {
        let text = "You have reached your unauthenticated pull rate limit.";
        let hub = status("registry-1.docker.io", 429, "TOOMANYREQUESTS", text);
        check(Action::Pull, "docker.io/library/x:1", &hub, "xbuild login gives a higher limit");
        let last = Box::new(status("registry-1.docker.io", 429, "TOOMANYREQUESTS", text));
        let exhausted = Problem::Exhausted { attempts: 6, last };
        check(Action::Pull, "docker.io/library/x:1", &exhausted, "xbuild login gives a higher limit");
        check(Action::Pull, "h.example/x:1", &status("h.example", 429, "", ""), "try later");
    }

    #[test]
    fn a_full_registry_is_told_from_one_in_trouble() {
        let full = |text: &str| status("h.example", 500, "UNKNOWN", text);
        for text in ["write /d: no space left on device", "write /d: No space left on device (os error 28)"] {
            let last = Box::new(full(text));
            check(Action::Push, "h.example/a/b:1", &Problem::Exhausted { attempts: 6, last }, FULL);
        }
        let trouble = "the registry is in trouble, try later";
        check(Action::Push, "h.example/a/b:1", &full("read /d: input/output error"), trouble);
        check(Action::Push, "h.example/a/b:1", &status("h.example", 507, "", ""), FULL);
    }

    #[test]
    fn what_is_no_registry_or_no_file_of_ours_is_told() {
        check(Action::Push, "h.example/x:1", &status("h.example", 200, "", ""), NO_REGISTRY);
        check(Action::Pull, "h.example/x:1", &Problem::WebPage { host: String::new() }, NO_REGISTRY);
        let file = Problem::File { path: "/c".into(), detail: String::new() };
        check(Action::Pull, "h.example/x:1", &file, "mend it, or leave it out");
    }

    #[test]
    fn reg_15_what_a_registry_refuses_for_good_has_a_way_out() {
        let quota = "adding 5.0 MiB of storage resource, which when updated to current usage of 8.0 MiB will exceed \
                     the configured upper limit of 10.0 MiB.";
        check(Action::Push, "h.example/team/app:1", &status("h.example", 403, "DENIED", quota), QUOTA);
        let immutable = "Failed to process request due to 'app:1' configured as immutable.";
        let refused = status("h.example", 412, "PRECONDITION", immutable);
        check(Action::Push, "h.example/team/app:1", &refused, "the tag is immutable, choose another");
        let absent = status("h.example", 404, "NOT_FOUND", "project team not found");
        let create = "create the project in the registry, or check its name";
        check(Action::Push, "h.example/team/app:1", &absent, create);
        let bare = status("h.example", 404, "NAME_UNKNOWN", "");
        let place = "may you push there? Registries with projects want h.example/PROJECT/app";
        check(Action::Push, "h.example/app:1", &bare, place);
        let make = "create the repository in the registry, or check its name";
        check(Action::Push, "h.example/team/app:1", &bare, make);
        let amazon = "The image tag '1' already exists in the 'app' repository and cannot be overwritten because the \
                      repository is immutable.";
        let refused = status("1.dkr.ecr.example", 400, "TAG_INVALID", amazon);
        check(Action::Push, "1.dkr.ecr.example/app:1", &refused, "the tag is immutable, choose another");
        let expired = Problem::Unauthorized {
            host: "h.example".to_owned(),
            status: StatusCode::FORBIDDEN,
            messages: vec![Message {
                code: "DENIED".to_owned(),
                text: "Your authorization token has expired. Reauthenticate and try again.".to_owned(),
            }],
            offered: Offered::User("AWS".to_owned()),
            registry: "h.example".to_owned(),
        };
        check(Action::Push, "h.example/a/b:1", &expired, "log in again: xbuild login h.example");
        let read_only = Problem::Unauthorized {
            host: "h.example".to_owned(),
            status: StatusCode::FORBIDDEN,
            messages: vec![Message {
                code: "DENIED".to_owned(),
                text: "The system is in read only mode.".to_owned(),
            }],
            offered: Offered::Nothing,
            registry: "h.example".to_owned(),
        };
        check(Action::Push, "h.example/a/b:1", &read_only, READ_ONLY);
        check(Action::Push, "h.example/app:1", &status("h.example", 400, "DIGEST_INVALID", ""), "");
        check(Action::Pull, "h.example/app:1", &bare, "");
    }
}
