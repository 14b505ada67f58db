//! A server that answers as Harbor does: projects, robot accounts, a token service on another path of the same host,
//! quotas and immutable tags. Its texts and codes are those of Harbor's `src/server/middleware`; it keeps blobs in the
//! server of `memory`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use oci::Reference;

use crate::memory::{Habits, Memory, error};
use crate::server::{Reply, Request, Server};

/// How one differs from a plain Harbor.
#[derive(Debug, Clone)]
pub struct Custom {
    pub habits: Habits,
    /// Requests that a token is good for.
    pub uses: usize,
    /// Bytes that project `team` may hold.
    pub quota: usize,
    /// Tags of project `team` that cannot be moved.
    pub immutable: &'static [&'static str],
    /// Uploads at a time; one more is answered 500.
    pub uploads: usize,
    /// The status for a project that is not there: 401 today, 403 and 404 in other releases.
    pub unknown_project: u16,
    /// A proxy in front answers larger bodies 413 before it has read them.
    pub max_body: Option<usize>,
}

impl Default for Custom {
    fn default() -> Self {
        Self {
            habits: Habits { separates: Some(()), ..Habits::default() },
            uses: usize::MAX,
            quota: usize::MAX,
            immutable: &[],
            uploads: usize::MAX,
            unknown_project: 401,
            max_body: None,
        }
    }
}

/// Somebody who has an account. `base` can be read by all.
struct Account {
    name: &'static str,
    password: &'static str,
    /// Projects with what may be done there.
    rights: &'static [(&'static str, &'static str)],
}

const ACCOUNTS: [Account; 3] = [
    Account {
        name: "robot$ci",
        password: "p:w",
        rights: &[("team", "pull,push"), ("secret", "pull,push"), ("full", "pull,push")],
    },
    Account { name: "robot$team+ci", password: "s3cret", rights: &[("team", "pull,push")] },
    Account { name: "reader", password: "r", rights: &[("team", "pull"), ("secret", "pull")] },
];

const PROJECTS: [&str; 4] = ["team", "secret", "base", "full"];

struct Token {
    /// `repository` with the actions that it was asked and granted for.
    grants: BTreeMap<String, String>,
    left: usize,
}

struct Inside {
    memory: Memory,
    custom: Custom,
    tokens: Mutex<BTreeMap<String, Token>>,
    uploading: AtomicUsize,
}

pub struct Harbor {
    pub server: Server,
    pub memory: Memory,
}

/// Who sends a request.
enum Caller {
    Nobody,
    /// By name and password.
    Account(String),
    Bearer(String),
}

impl Harbor {
    pub fn start(custom: Custom) -> Self {
        let memory = Memory::new(custom.habits.clone());
        let max_body = custom.max_body;
        let inside = Arc::new(Inside {
            memory: memory.clone(),
            custom,
            tokens: Mutex::default(),
            uploading: AtomicUsize::new(0),
        });
        let server = Server::start_with_early(
            move |request| inside.answer(request),
            move |request| {
                let length: usize = request.header("content-length").parse().unwrap_or(0);
                max_body.is_some_and(|most| length > most).then(nginx_413)
            },
        );
        Self { server, memory }
    }

    pub fn reference(&self, name: &str) -> Reference {
        self.server.reference(name)
    }

    pub fn has_blob(&self, repository: &str, digest: &str) -> bool {
        self.memory.state.lock().unwrap().links.contains(&(repository.to_owned(), digest.to_owned()))
    }

    /// Requests for tokens.
    pub fn tokens(&self) -> Vec<Request> {
        self.server.requests().into_iter().filter(|request| request.path() == "/service/token").collect()
    }
}

fn nginx_413() -> Reply {
    Reply::new(413).header("Content-Type", "text/html").body(
        "<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>nginx</body></html>",
    )
}

impl Inside {
    fn answer(&self, request: &Request) -> Reply {
        if request.path() == "/service/token" {
            return self.token(request);
        }
        let caller = self.caller(request);
        let Some(path) = request.path().strip_prefix("/v2/") else {
            return error(404, "NOT_FOUND", "page not found");
        };
        if path.is_empty() {
            return match caller {
                Caller::Account(_) | Caller::Bearer(_) => Reply::new(200),
                Caller::Nobody => refusal(request, "unauthorized", &challenge(request, "")),
            };
        }
        if let Some(refusal) = self.check(request, path, &caller) {
            return refusal;
        }
        self.serve(request, path)
    }

    fn caller(&self, request: &Request) -> Caller {
        let authorization = request.header("authorization");
        if let Some(account) = account(authorization) {
            return Caller::Account(account);
        }
        let Some(value) = authorization.strip_prefix("Bearer ") else { return Caller::Nobody };
        match self.tokens.lock().unwrap().get_mut(value) {
            Some(token) if token.left > 0 => {
                token.left -= 1;
                Caller::Bearer(value.to_owned())
            }
            _ => Caller::Nobody,
        }
    }

    /// Checks every repository that the request touches.
    fn check(&self, request: &Request, path: &str, caller: &Caller) -> Option<Reply> {
        let repository = repository(path);
        let action = if matches!(request.method.as_str(), "GET" | "HEAD") { "pull" } else { "push" };
        let query = request.query();
        let source = query.get("from").map(|from| (from.as_str(), "pull"));
        let scope = format!("repository:{repository}:{action}");
        if request.method == "HEAD" && request.header("authorization").is_empty() {
            let text = "authorize header needed to send HEAD to repository";
            return Some(refusal(request, text, &challenge(request, &scope)));
        }
        for (name, action) in [(repository, action)].into_iter().chain(source) {
            let project = name.split('/').next().unwrap_or_default();
            if !PROJECTS.contains(&project) {
                return Some(self.no_project(project));
            }
            if !self.may(caller, name, action) {
                let text = format!("unauthorized to access repository: {name}, action: {action}");
                return Some(refusal(request, &format!("{text}: {text}"), &challenge(request, &scope)));
            }
        }
        None
    }

    fn no_project(&self, project: &str) -> Reply {
        let text = format!("project {project} not found: project {project} not found");
        match self.custom.unknown_project {
            // Harbor sets the header and leaves it empty.
            401 => error(401, "UNAUTHORIZED", &text).header("Www-Authenticate", ""),
            403 => error(403, "FORBIDDEN", &text),
            status => error(status, "NOT_FOUND", &text),
        }
    }

    fn may(&self, caller: &Caller, name: &str, action: &str) -> bool {
        let includes = |actions: &str| actions.split(',').any(|one| one == action);
        match caller {
            Caller::Nobody => includes(rights("", name)),
            Caller::Account(account) => includes(rights(account, name)),
            Caller::Bearer(value) => {
                let tokens = self.tokens.lock().unwrap();
                tokens[value].grants.get(name).is_some_and(|actions| includes(actions))
            }
        }
    }

    fn token(&self, request: &Request) -> Reply {
        let account = account(request.header("authorization")).unwrap_or_default();
        let scopes: Vec<String> = request
            .pairs()
            .into_iter()
            .filter(|(name, _)| name == "scope")
            .flat_map(|(_, value)| value.split(' ').map(str::to_owned).collect::<Vec<_>>())
            .collect();
        if request.query().get("service").map(String::as_str) != Some("harbor-registry") {
            return error(400, "BAD_REQUEST", "Unable to handle service");
        }
        if account.is_empty() && scopes.is_empty() {
            return Reply::new(401).body("Unauthorized");
        }
        let mut grants = BTreeMap::new();
        for scope in scopes {
            let Some((name, _)) = scope.strip_prefix("repository:").and_then(|rest| rest.split_once(':'))
            else {
                return error(400, "BAD_REQUEST", "unknown scope");
            };
            if !name.contains('/') {
                return error(400, "BAD_REQUEST", &format!("Unable to parse image from string: {name}"));
            }
            grants.insert(name.to_owned(), rights(&account, name).to_owned());
        }
        let mut tokens = self.tokens.lock().unwrap();
        let value = format!("token.{}", tokens.len());
        tokens.insert(value.clone(), Token { grants, left: self.custom.uses });
        let body = serde_json::json!({ "token": value, "access_token": "", "expires_in": 1800,
            "issued_at": "2026-01-01T00:00:00Z" });
        Reply::new(200).body(body.to_string())
    }

    /// Answers what is allowed.
    fn serve(&self, request: &Request, path: &str) -> Reply {
        let writes = request.method == "PUT";
        let team = path.starts_with("team/");
        let tag = path.split_once("/manifests/").map(|(_, tag)| tag);
        if writes && tag.is_some_and(|tag| team && self.custom.immutable.contains(&tag)) {
            let (repository, tag) = (repository(path).trim_start_matches("team/"), tag.unwrap_or_default());
            let there =
                self.memory.state.lock().unwrap().manifests.contains_key(&format!("team/{repository}:{tag}"));
            if there {
                let text =
                    format!("Failed to process request due to '{repository}:{tag}' configured as immutable.");
                return error(412, "PRECONDITION", &text);
            }
        }
        if let Some(refusal) = self.over_quota(request, writes && team) {
            return refusal;
        }
        let uploads = writes && tag.is_none();
        if uploads && self.uploading.fetch_add(1, Ordering::SeqCst) >= self.custom.uploads {
            self.uploading.fetch_sub(1, Ordering::SeqCst);
            return error(500, "UNKNOWN", "internal server error");
        }
        if uploads && self.custom.uploads < usize::MAX {
            std::thread::sleep(Duration::from_millis(20));
        }
        let reply = self.memory.answer(request);
        if uploads {
            self.uploading.fetch_sub(1, Ordering::SeqCst);
        }
        reply
    }

    fn over_quota(&self, request: &Request, counts: bool) -> Option<Reply> {
        let state = self.memory.state.lock().unwrap();
        let used: usize = state
            .links
            .iter()
            .filter(|(repository, _)| repository.starts_with("team/"))
            .filter_map(|(_, digest)| state.blobs.get(digest))
            .map(Vec::len)
            .sum();
        if !counts || used + request.body.len() <= self.custom.quota {
            return None;
        }
        let text = format!(
            "adding {} Byte of storage resource, which when updated to current usage of {used} Byte will exceed the \
             configured upper limit of {} Byte.",
            request.body.len(),
            self.custom.quota
        );
        Some(error(403, "DENIED", &text))
    }
}

/// The account that Basic credentials belong to.
fn account(authorization: &str) -> Option<String> {
    let decoded =
        base64::engine::general_purpose::STANDARD.decode(authorization.strip_prefix("Basic ")?).ok()?;
    let pair = String::from_utf8(decoded).ok()?;
    let (name, password) = pair.split_once(':')?;
    ACCOUNTS.iter().any(|known| (known.name, known.password) == (name, password)).then(|| name.to_owned())
}

/// What `account` may do in the project of `name`.
fn rights(account: &str, name: &str) -> &'static str {
    let project = name.split('/').next().unwrap_or_default();
    let own = ACCOUNTS.iter().find(|known| known.name == account).map_or(&[][..], |known| known.rights);
    let found = own.iter().find(|right| right.0 == project).map(|right| right.1);
    found.unwrap_or(if project == "base" { "pull" } else { "" })
}

fn repository(path: &str) -> &str {
    ["/manifests/", "/blobs/", "/tags/"]
        .iter()
        .find_map(|kind| path.split_once(kind))
        .map_or(path, |(name, _)| name)
}

/// What Harbor asks for: a token, but name and password where a token came already.
fn challenge(request: &Request, scope: &str) -> String {
    if !request.header("authorization").is_empty() {
        return r#"Basic realm="harbor""#.to_owned();
    }
    let host = request.header("host");
    let scope = if scope.is_empty() { String::new() } else { format!(r#",scope="{scope}""#) };
    format!(r#"Bearer realm="http://{host}/service/token",service="harbor-registry"{scope}"#)
}

fn refusal(request: &Request, text: &str, challenge: &str) -> Reply {
    let reply = error(401, "UNAUTHORIZED", text).header("Www-Authenticate", challenge);
    if request.method == "HEAD" {
        reply
    } else {
        reply.header("Docker-Distribution-Api-Version", "registry/2.0")
    }
}
