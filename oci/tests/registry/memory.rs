//! A registry in memory that keeps to the distribution spec, with the peculiarities of Harbor and of proxies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use oci::Digest;

use crate::server::{Reply, Request};

/// How it differs from a plain one.
#[derive(Debug, Clone, Default)]
pub struct Habits {
    /// Larger request bodies are answered 413, as by a proxy in front of Harbor.
    pub max_body: Option<usize>,
    /// `OCI-Chunk-Min-Length`.
    pub min_chunk: Option<usize>,
    /// Blobs that HEAD says are there although they are not (Harbor after a broken garbage collection), with the
    /// size that it says.
    pub lies_about: BTreeMap<String, usize>,
    /// Every manifest is refused with this status and body.
    pub refuses_manifests: Option<(u16, &'static str)>,
    /// Sessions are forgotten after a broken request.
    pub forgets_sessions: Option<()>,
    /// PATCH is refused with this status.
    pub refuses_pieces: Option<u16>,
    /// Links are refused with this status.
    pub refuses_links: Option<u16>,
    /// Where uploads go on.
    pub locations: Locations,
    /// A blob is there only for the repositories that it was uploaded to or linked into.
    pub separates: Option<()>,
    /// Manifests with a subject are answered with `OCI-Subject`.
    pub keeps_referrers: Option<()>,
}

/// What the `Location` of an upload looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Locations {
    /// A path with a query.
    #[default]
    Relative,
    /// A path without one.
    Bare,
    /// With scheme and host.
    Absolute,
    /// Without the scheme: `//host/path`.
    Schemeless,
    /// Another one after each request; the ones before are forgotten.
    Moving,
}

#[derive(Default)]
pub struct State {
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// Type and bytes by `repository:tag` and `repository:digest`.
    pub manifests: BTreeMap<String, (String, Vec<u8>)>,
    /// Repositories with the digests that are in them.
    pub links: BTreeSet<(String, String)>,
    sessions: BTreeMap<String, Vec<u8>>,
    count: usize,
}

#[derive(Clone, Default)]
pub struct Memory {
    pub state: Arc<Mutex<State>>,
    pub habits: Habits,
}

/// A path below `/v2/`.
struct Place<'a> {
    repository: &'a str,
    /// Tag, digest or session.
    last: &'a str,
}

impl Memory {
    pub fn new(habits: Habits) -> Self {
        Self { state: Arc::default(), habits }
    }

    /// Answers one request; `x-broken` marks one whose body stopped in the middle.
    pub fn answer(&self, request: &Request) -> Reply {
        let mut state = self.state.lock().unwrap();
        let Some(path) = request.path().strip_prefix("/v2/").filter(|path| !path.is_empty()) else {
            return Reply::new(200);
        };
        let place = |kind: &str| {
            let (repository, last) = path.split_once(kind)?;
            Some(Place { repository, last })
        };
        if let Some(place) = place("/manifests/") {
            return self.manifest(&mut state, request, &place);
        }
        if let Some(place) = place("/blobs/uploads/") {
            return self.upload(&mut state, request, &place);
        }
        match place("/blobs/") {
            Some(place) => self.blob(&state, request, &place),
            None => error(404, "NAME_UNKNOWN", "repository name not known to registry"),
        }
    }

    fn manifest(&self, state: &mut State, request: &Request, place: &Place<'_>) -> Reply {
        if request.method == "PUT" {
            if let Some((status, body)) = self.habits.refuses_manifests {
                return Reply::new(status).body(body);
            }
            return self.put_manifest(state, request, place);
        }
        match state.manifests.get(&format!("{}:{}", place.repository, place.last)) {
            Some((media_type, raw)) => Reply::new(200)
                .header("Content-Type", media_type.clone())
                .header("Docker-Content-Digest", named(place.last, raw))
                .header("ETag", format!("\"{}\"", Digest::of(raw)))
                .body(raw.clone()),
            None => error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        }
    }

    fn put_manifest(&self, state: &mut State, request: &Request, place: &Place<'_>) -> Reply {
        let manifest: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        if manifest.get("mediaType").is_some_and(|kind| kind != request.header("content-type")) {
            return error(400, "MANIFEST_INVALID", "manifest invalid: media type and header differ");
        }
        let list = |key: &str| manifest[key].as_array().cloned().unwrap_or_default();
        for part in list("layers").iter().chain(manifest.get("config")) {
            let foreign = part["mediaType"].as_str().is_some_and(|kind| kind.contains(".nondistributable."));
            if !foreign && !self.has(state, place.repository, part["digest"].as_str().unwrap()) {
                return error(404, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry");
            }
        }
        for child in list("manifests") {
            let child = format!("{}:{}", place.repository, child["digest"].as_str().unwrap());
            if !state.manifests.contains_key(&child) {
                return error(404, "MANIFEST_UNKNOWN", "manifest unknown to registry");
            }
        }
        let digest = named(place.last, &request.body);
        if place.last.contains(':') && place.last != digest {
            return error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
        }
        let current = state.manifests.get(&format!("{}:{}", place.repository, place.last));
        let current = current.map(|(_, raw)| format!("\"{}\"", Digest::of(raw)));
        let wanted = request.headers.get("if-match");
        if wanted.is_some() && wanted != current.as_ref()
            || request.header("if-none-match") == "*" && current.is_some()
        {
            return error(412, "PRECONDITION_FAILED", "it has changed");
        }
        let stored = (request.header("content-type").to_owned(), request.body.clone());
        state.manifests.insert(format!("{}:{}", place.repository, place.last), stored.clone());
        state.manifests.insert(format!("{}:{digest}", place.repository), stored);
        let reply = Reply::new(201).header("Docker-Content-Digest", digest);
        match manifest.pointer("/subject/digest").filter(|_| self.habits.keeps_referrers.is_some()) {
            Some(subject) => reply.header("OCI-Subject", subject.as_str().unwrap()),
            None => reply,
        }
    }

    fn has(&self, state: &State, repository: &str, digest: &str) -> bool {
        let linked = || state.links.contains(&(repository.to_owned(), digest.to_owned()));
        state.blobs.contains_key(digest) && (self.habits.separates.is_none() || linked())
    }

    fn blob(&self, state: &State, request: &Request, place: &Place<'_>) -> Reply {
        let digest = place.last;
        if let Some(size) = self.habits.lies_about.get(digest).filter(|_| request.method == "HEAD") {
            return Reply { length: Some(*size), ..Reply::new(200) };
        }
        let Some(blob) = state.blobs.get(digest).filter(|_| self.has(state, place.repository, digest)) else {
            return error(404, "BLOB_UNKNOWN", "blob unknown");
        };
        let from = request.header("range").strip_prefix("bytes=").and_then(|range| range.split('-').next());
        match from.and_then(|from| from.parse::<usize>().ok()) {
            Some(from) => Reply::new(206)
                .header("Content-Range", format!("bytes {from}-{}/{}", blob.len() - 1, blob.len()))
                .body(&blob[from..]),
            None => Reply::new(200).body(blob.clone()),
        }
    }

    fn upload(&self, state: &mut State, request: &Request, place: &Place<'_>) -> Reply {
        let query = request.query();
        if self.habits.max_body.is_some_and(|most| request.body.len() > most) {
            return Reply::new(413).body("<html>Request Entity Too Large</html>");
        }
        let id = place.last.to_owned();
        if self.habits.locations == Locations::Moving && request.method != "POST" {
            let current = state.sessions.get(&id).map_or(0, Vec::len);
            if query.get("at") != Some(&current.to_string()) {
                return error(404, "BLOB_UPLOAD_UNKNOWN", "the upload goes on elsewhere");
            }
        }
        match request.method.as_str() {
            "POST" => self.begin(state, request, place, &query),
            "GET" => match state.sessions.get(&id).map(Vec::len) {
                Some(length) => self.session(204, request, place, &id, length),
                None => error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload"),
            },
            "PATCH" => self.patch(state, request, place),
            "PUT" => self.finish(state, request, place, query.get("digest").map_or("", String::as_str)),
            _ => Reply::new(204),
        }
    }

    fn begin(
        &self,
        state: &mut State,
        request: &Request,
        place: &Place<'_>,
        query: &BTreeMap<String, String>,
    ) -> Reply {
        if let Some(digest) = query.get("mount") {
            if let Some(status) = self.habits.refuses_links {
                return error(status, "DENIED", "no access to the source");
            }
            if self.has(state, query.get("from").map_or("", String::as_str), digest) {
                state.links.insert((place.repository.to_owned(), digest.clone()));
                return Reply::new(201).header("Docker-Content-Digest", digest.clone());
            }
        }
        state.count += 1;
        let id = format!("session-{}", state.count);
        state.sessions.insert(id.clone(), Vec::new());
        let reply = self.session(202, request, place, &id, 0);
        match self.habits.min_chunk {
            Some(least) => reply.header("OCI-Chunk-Min-Length", least.to_string()),
            None => reply,
        }
    }

    fn patch(&self, state: &mut State, request: &Request, place: &Place<'_>) -> Reply {
        if let Some(status) = self.habits.refuses_pieces {
            return error(status, "UNSUPPORTED", "The operation is unsupported.");
        }
        let broken = request.headers.contains_key("x-broken");
        let Some(bytes) = state.sessions.get_mut(place.last) else {
            return error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload");
        };
        let start = request.header("content-range").split('-').next().and_then(|text| text.parse().ok());
        if start != Some(bytes.len()) {
            return Reply::new(416);
        }
        bytes.extend_from_slice(&request.body);
        let length = bytes.len();
        if broken && self.habits.forgets_sessions.is_some() {
            state.sessions.remove(place.last);
        }
        self.session(202, request, place, place.last, length)
    }

    fn finish(&self, state: &mut State, request: &Request, place: &Place<'_>, digest: &str) -> Reply {
        let broken = request.headers.contains_key("x-broken");
        let Some(bytes) = state.sessions.get_mut(place.last) else {
            return error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload");
        };
        bytes.extend_from_slice(&request.body);
        if broken {
            if self.habits.forgets_sessions.is_some() {
                state.sessions.remove(place.last);
            }
            return Reply::new(500);
        }
        let bytes = std::mem::take(bytes);
        state.sessions.remove(place.last);
        if named(digest, &bytes) != digest {
            return error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
        }
        state.blobs.insert(digest.to_owned(), bytes);
        state.links.insert((place.repository.to_owned(), digest.to_owned()));
        Reply::new(201).header("Docker-Content-Digest", digest)
    }

    fn session(&self, status: u16, request: &Request, place: &Place<'_>, id: &str, length: usize) -> Reply {
        let path = format!("/v2/{}/blobs/uploads/{id}", place.repository);
        let host = request.header("host");
        let location = match self.habits.locations {
            Locations::Relative => format!("{path}?state=a%2Fb"),
            Locations::Bare => path,
            Locations::Absolute => format!("http://{host}{path}?state=a%2Fb"),
            Locations::Schemeless => format!("//{host}{path}?state=a%2Fb"),
            Locations::Moving => format!("{path}?at={length}"),
        };
        Reply::new(status)
            .header("Location", location)
            .header("Range", format!("0-{}", length.saturating_sub(1)))
            .header("Docker-Upload-UUID", "u")
    }
}

/// The digest of `bytes` in the algorithm of `name`; sha256 where that is no digest.
fn named(name: &str, bytes: &[u8]) -> String {
    match name.parse::<Digest>() {
        Ok(digest) => digest.algorithm().digest(bytes).to_string(),
        Err(_) => Digest::of(bytes).to_string(),
    }
}

/// An error as the distribution spec writes it.
pub fn error(status: u16, code: &str, message: &str) -> Reply {
    let body = serde_json::json!({ "errors": [{ "code": code, "message": message, "detail": null }] });
    Reply::new(status).header("Content-Type", "application/json").body(body.to_string())
}
