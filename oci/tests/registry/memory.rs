//! A registry in memory that keeps to the distribution spec, with the peculiarities of Harbor and of proxies.

use std::collections::BTreeMap;
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
    /// Blobs that HEAD says are there although they are not (Harbor after a broken garbage collection).
    pub lies_about: Vec<String>,
    /// Every manifest is refused with this status and body.
    pub refuses_manifests: Option<(u16, &'static str)>,
    /// Sessions are forgotten after a broken request.
    pub forgets_sessions: Option<()>,
    /// Links are refused with this status.
    pub refuses_links: Option<u16>,
}

#[derive(Default)]
pub struct State {
    pub blobs: BTreeMap<String, Vec<u8>>,
    pub manifests: BTreeMap<String, (String, Vec<u8>)>,
    sessions: BTreeMap<String, Vec<u8>>,
    count: usize,
}

#[derive(Clone, Default)]
pub struct Memory {
    pub state: Arc<Mutex<State>>,
    pub habits: Habits,
}

impl Memory {
    pub fn new(habits: Habits) -> Self {
        Self { state: Arc::default(), habits }
    }

    /// Answers one request; `x-broken` marks one whose body stopped in the middle.
    pub fn answer(&self, request: &Request) -> Reply {
        let mut state = self.state.lock().unwrap();
        let path = request.path().to_owned();
        if path == "/v2/" {
            return Reply::new(200);
        }
        let last = path.rsplit('/').next().unwrap_or_default().to_owned();
        if path.contains("/manifests/") {
            return self.manifest(&mut state, request, &last);
        }
        if path.contains("/blobs/uploads/") {
            return self.upload(&mut state, request, &path, &last);
        }
        self.blob(&state, request, &last)
    }

    fn manifest(&self, state: &mut State, request: &Request, version: &str) -> Reply {
        if request.method == "PUT" {
            if let Some((status, body)) = self.habits.refuses_manifests {
                return Reply::new(status).body(body);
            }
            let text = String::from_utf8_lossy(&request.body).into_owned();
            let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
            let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
            for part in layers.iter().chain(manifest.get("config")) {
                if !state.blobs.contains_key(part["digest"].as_str().unwrap()) {
                    return error(404, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry");
                }
            }
            let digest = Digest::of(&request.body).to_string();
            let stored = (request.header("content-type").to_owned(), request.body.clone());
            state.manifests.insert(version.to_owned(), stored.clone());
            state.manifests.insert(digest.clone(), stored);
            return Reply::new(201).header("Docker-Content-Digest", digest);
        }
        match state.manifests.get(version) {
            Some((media_type, raw)) => Reply::new(200)
                .header("Content-Type", media_type.clone())
                .header("Docker-Content-Digest", Digest::of(raw).to_string())
                .body(raw.clone()),
            None => error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        }
    }

    fn blob(&self, state: &State, request: &Request, digest: &str) -> Reply {
        if request.method == "HEAD" && self.habits.lies_about.iter().any(|lie| lie == digest) {
            return Reply::new(200);
        }
        let Some(blob) = state.blobs.get(digest) else { return error(404, "BLOB_UNKNOWN", "blob unknown") };
        let from = request.header("range").strip_prefix("bytes=").and_then(|range| range.split('-').next());
        match from.and_then(|from| from.parse::<usize>().ok()) {
            Some(from) => Reply::new(206)
                .header("Content-Range", format!("bytes {from}-{}/{}", blob.len() - 1, blob.len()))
                .body(&blob[from..]),
            None => Reply::new(200).body(blob.clone()),
        }
    }

    fn upload(&self, state: &mut State, request: &Request, path: &str, id: &str) -> Reply {
        let query: BTreeMap<String, String> = request
            .target
            .split_once('?')
            .map_or("", |(_, query)| query)
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.replace("%3A", ":").replace("%2F", "/")))
            .collect();
        if self.habits.max_body.is_some_and(|most| request.body.len() > most) {
            return Reply::new(413).body("<html>Request Entity Too Large</html>");
        }
        match request.method.as_str() {
            "POST" => self.begin(state, &query, path),
            "GET" => match state.sessions.get(id) {
                Some(bytes) => session(204, path, bytes.len()),
                None => error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload"),
            },
            "PATCH" => self.patch(state, request, path, id),
            "PUT" => self.finish(state, request, id, query.get("digest").map_or("", String::as_str)),
            _ => Reply::new(204),
        }
    }

    fn begin(&self, state: &mut State, query: &BTreeMap<String, String>, path: &str) -> Reply {
        if let Some(digest) = query.get("mount") {
            if let Some(status) = self.habits.refuses_links {
                return error(status, "DENIED", "no access to the source");
            }
            if state.blobs.contains_key(digest) {
                return Reply::new(201).header("Docker-Content-Digest", digest.clone());
            }
        }
        state.count += 1;
        let id = format!("session-{}", state.count);
        state.sessions.insert(id.clone(), Vec::new());
        let mut reply = session(202, &format!("{path}{id}?state=a%2Fb"), 0);
        if let Some(least) = self.habits.min_chunk {
            reply = reply.header("OCI-Chunk-Min-Length", least.to_string());
        }
        reply
    }

    fn patch(&self, state: &mut State, request: &Request, path: &str, id: &str) -> Reply {
        let broken = request.headers.contains_key("x-broken");
        let Some(bytes) = state.sessions.get_mut(id) else {
            return error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload");
        };
        let start = request.header("content-range").split('-').next().and_then(|text| text.parse().ok());
        if start != Some(bytes.len()) {
            return Reply::new(416);
        }
        bytes.extend_from_slice(&request.body);
        let length = bytes.len();
        if broken && self.habits.forgets_sessions.is_some() {
            state.sessions.remove(id);
        }
        session(202, path, length)
    }

    fn finish(&self, state: &mut State, request: &Request, id: &str, digest: &str) -> Reply {
        let broken = request.headers.contains_key("x-broken");
        let Some(bytes) = state.sessions.get_mut(id) else {
            return error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload");
        };
        bytes.extend_from_slice(&request.body);
        if broken {
            if self.habits.forgets_sessions.is_some() {
                state.sessions.remove(id);
            }
            return Reply::new(500);
        }
        let bytes = std::mem::take(bytes);
        state.sessions.remove(id);
        if Digest::of(&bytes).to_string() != digest {
            return error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
        }
        state.blobs.insert(digest.to_owned(), bytes);
        Reply::new(201).header("Docker-Content-Digest", digest)
    }
}

/// An error as the distribution spec writes it.
pub fn error(status: u16, code: &str, message: &str) -> Reply {
    let body = serde_json::json!({ "errors": [{ "code": code, "message": message, "detail": null }] });
    Reply::new(status).header("Content-Type", "application/json").body(body.to_string())
}

fn session(status: u16, location: &str, length: usize) -> Reply {
    Reply::new(status)
        .header("Location", location)
        .header("Range", format!("0-{}", length.saturating_sub(1)))
        .header("Docker-Upload-UUID", "u")
}
