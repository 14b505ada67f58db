//! What the distribution specification asks of a client, one test for each point of the list of client checks; where
//! the real registry can take part it does. Here is how things are sent; `documents` has what is in them.

use oci::media_type::{OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Types};
use oci::registry::{Error, Login, Problem, PushImage, Settings, Way, plan_push};
use oci::{Digest, Reference};
use serde_json::{Value, json};

use crate::fixture::{DockerRegistry, blob, client, document, image, noise, read_blob, settings, ways};
use crate::memory::{Habits, Locations, Memory};
use crate::server::{Reply, Request, Server};

mod documents;

/// A registry in memory, or the real one.
enum Registry {
    Memory(Server),
    Docker(DockerRegistry),
}

impl Registry {
    fn memory(habits: Habits) -> Self {
        let memory = Memory::new(habits);
        Self::Memory(Server::start(move |request| memory.answer(request)))
    }

    fn both() -> Vec<Self> {
        let real = DockerRegistry::start("").map(Self::Docker);
        [Some(Self::memory(Habits::default())), real].into_iter().flatten().collect()
    }

    fn reference(&self, name: &str) -> Reference {
        match self {
            Self::Memory(server) => server.reference(name),
            Self::Docker(registry) => registry.reference(name),
        }
    }

    async fn push(&self, name: &str, image: &PushImage) -> Result<(), Error> {
        let (client, _) = client(settings());
        client.push(&plan_push(&self.reference(name), image)).await.map(|_| ())
    }
}

/// Pushes to a registry with `habits`; returns what that saw.
async fn seen(habits: Habits, settings: Settings, image: &PushImage) -> Vec<Request> {
    let memory = Memory::new(habits);
    let server = Server::start(move |request| memory.answer(request));
    let (client, _) = client(settings);
    client.push(&plan_push(&server.reference("team/app"), image)).await.unwrap();
    server.requests()
}

fn one_blob(bytes: &[u8]) -> PushImage {
    PushImage { blobs: vec![blob(bytes, OCI_LAYER)], documents: Vec::new() }
}

fn methods(requests: &[Request]) -> Vec<&str> {
    requests.iter().map(|request| request.method.as_str()).collect()
}

/// A manifest whose JSON `change` has edited, with its blobs.
fn edited(layer: &[u8], tags: &[&str], change: impl Fn(&mut Value)) -> PushImage {
    let mut image = image(&[layer.to_vec()], Types::Oci, tags);
    let mut manifest: Value = serde_json::from_slice(&image.documents[0].raw).unwrap();
    change(&mut manifest);
    image.documents = vec![document(&serde_json::to_vec(&manifest).unwrap(), OCI_MANIFEST, tags)];
    image
}

fn index_of(children: &[Value], tags: &[&str]) -> oci::registry::PushDocument {
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children });
    document(&serde_json::to_vec(&index).unwrap(), OCI_INDEX, tags)
}

fn entry(child: &oci::registry::PushDocument) -> Value {
    json!({ "mediaType": child.media_type, "digest": child.digest.to_string(), "size": child.raw.len() })
}

#[tokio::test]
async fn check_ping() {
    for (challenge, expected) in [("", ""), ("Basic realm=\"r\"", "Basic "), ("Bearer", "Bearer t")] {
        let server = Server::start(move |request| {
            if request.path() == "/token" {
                return Reply::new(200).body(r#"{"token":"t"}"#);
            }
            assert_eq!(request.target, "/v2/");
            if challenge.is_empty() || !request.header("authorization").is_empty() {
                return Reply::new(200);
            }
            let bearer = format!(r#"Bearer realm="http://{}/token",service="s""#, request.header("host"));
            Reply::new(401)
                .header("WWW-Authenticate", if challenge == "Bearer" { &bearer } else { challenge })
        });
        let registry = server.address.to_string();
        let mut settings = settings();
        let login = Login { username: "u".to_owned(), password: "p".to_owned() };
        settings.logins.insert(registry.clone(), login);
        let (client, _) = client(settings);
        client.check_login(&registry).await.unwrap();
        let requests = server.requests();
        assert!(requests.last().unwrap().header("authorization").starts_with(expected), "{challenge}");
    }
}

#[tokio::test]
async fn check_blob_head_skip() {
    let layer = noise(1, 1000);
    let memory = Memory::new(Habits::default());
    memory.state.lock().unwrap().blobs.insert(Digest::of(&layer).to_string(), layer.clone());
    let server = Server::start(move |request| memory.answer(request));
    let (client, events) = client(settings());
    client.push(&plan_push(&server.reference("a/b"), &one_blob(&layer))).await.unwrap();
    assert_eq!(methods(&server.requests()), ["HEAD"]);
    let events = events.lock().unwrap();
    assert_eq!((events.len(), ways(&events, Digest::of(&layer))), (1, vec![Way::Existed]));
}

#[tokio::test]
async fn check_blob_post_put() {
    let layer = noise(2, 1000);
    for (locations, query) in [
        (Locations::Bare, "?digest=sha256%3A"),
        (Locations::Relative, "?state=a%2Fb&digest=sha256%3A"),
        (Locations::Absolute, "?state=a%2Fb&digest=sha256%3A"),
        (Locations::Schemeless, "?state=a%2Fb&digest=sha256%3A"),
    ] {
        let requests = seen(Habits { locations, ..Habits::default() }, settings(), &one_blob(&layer)).await;
        assert_eq!(methods(&requests), ["HEAD", "POST", "PUT"], "{locations:?}");
        assert!(requests[2].target.contains(query), "{}", requests[2].target);
        assert_eq!(requests[2].header("content-length"), "1000");
        assert_eq!(requests[2].header("content-type"), "application/octet-stream");
    }
}

#[tokio::test]
async fn check_blob_post_only() {
    // Few registries take a blob in the POST; ours carries none, so 202 is what is always gone on from.
    let requests = seen(Habits::default(), settings(), &one_blob(&noise(3, 1000))).await;
    let post = &requests[1];
    assert_eq!((post.method.as_str(), post.header("content-length"), post.body.len()), ("POST", "0", 0));
    assert!(post.query().is_empty());
    assert_eq!(requests[2].body.len(), 1000);
}

#[tokio::test]
async fn check_blob_stream() {
    let layer = noise(4, 500_000);
    let habits = Habits { locations: Locations::Moving, max_body: Some(200_000), ..Habits::default() };
    let mut pieces = settings();
    pieces.limits.chunk = 150_000;
    let requests = seen(habits, pieces, &one_blob(&layer)).await;
    let places: Vec<String> = requests
        .iter()
        .filter(|request| request.method == "PATCH" || request.method == "PUT" && request.body.is_empty())
        .map(|request| request.query()["at"].clone())
        .collect();
    assert_eq!(places, ["0", "150000", "300000", "450000", "500000"]);
}

#[tokio::test]
async fn check_blob_chunked() {
    // The registry keeps half of the first chunk and says so only when it is asked.
    let layer = noise(5, 400_000);
    let memory =
        Memory::new(Habits { max_body: Some(200_000), min_chunk: Some(65_536), ..Habits::default() });
    let registry = memory.clone();
    let cut = std::sync::atomic::AtomicBool::new(false);
    let server = Server::start(move |request| {
        if request.method == "PATCH" && !cut.swap(true, std::sync::atomic::Ordering::SeqCst) {
            let half = Request { body: request.body[..request.body.len() / 2].to_vec(), ..request.clone() };
            registry.answer(&half);
            return Reply::new(416);
        }
        registry.answer(request)
    });
    let mut pieces = settings();
    pieces.limits.chunk = 100_000;
    let (client, _) = client(pieces);
    client.push(&plan_push(&server.reference("a/b"), &one_blob(&layer))).await.unwrap();
    assert!(memory.state.lock().unwrap().blobs[&Digest::of(&layer).to_string()] == layer);
    let requests = server.requests();
    let expected = ["HEAD", "POST", "PUT", "PATCH", "GET", "PATCH", "PATCH", "PATCH", "PATCH", "PUT"];
    assert_eq!(methods(&requests), expected);
    let ranges: Vec<&str> = requests
        .iter()
        .filter(|request| request.method == "PATCH")
        .map(|request| request.header("content-range"))
        .collect();
    assert_eq!(ranges, ["0-99999", "50000-149999", "150000-249999", "250000-349999", "350000-399999"]);
}

#[tokio::test]
async fn check_blob_mount() {
    for (linked, expected) in [(true, vec!["HEAD", "POST"]), (false, vec!["HEAD", "POST", "PUT"])] {
        let layer = noise(6, 1000);
        let memory = Memory::new(Habits { separates: Some(()), ..Habits::default() });
        if linked {
            let mut state = memory.state.lock().unwrap();
            state.blobs.insert(Digest::of(&layer).to_string(), layer.clone());
            state.links.insert(("base/debian".to_owned(), Digest::of(&layer).to_string()));
        }
        let server = Server::start(move |request| memory.answer(request));
        let mut image = one_blob(&layer);
        image.blobs[0].found_in = vec![server.reference("base/debian")];
        let (client, _) = client(settings());
        client.push(&plan_push(&server.reference("team/app"), &image)).await.unwrap();
        let requests = server.requests();
        assert_eq!(methods(&requests), expected);
        assert_eq!(requests[1].query()["mount"], Digest::of(&layer).to_string());
        assert_eq!(requests[1].query()["from"], "base/debian");
    }
}

#[tokio::test]
async fn check_manifest_tag() {
    for types in [Types::Oci, Types::Docker] {
        let image = image(&[noise(7, 1000)], types, &["v1"]);
        let requests = seen(Habits::default(), settings(), &image).await;
        let last = requests.last().unwrap();
        assert_eq!((last.method.as_str(), last.path()), ("PUT", "/v2/team/app/manifests/v1"));
        assert_eq!(last.header("content-type"), types.manifest());
        assert_eq!(last.body, image.documents[0].raw);
        let uploads =
            requests.iter().filter(|request| request.method == "PUT" && request.path().contains("/blobs/"));
        assert_eq!(uploads.count(), 2);
    }
}

#[tokio::test]
async fn check_manifest_digest() {
    let children = [image(&[noise(8, 10)], Types::Oci, &[]), image(&[noise(9, 10)], Types::Oci, &[])];
    let mut whole = PushImage::default();
    let entries: Vec<Value> = children.iter().map(|child| entry(&child.documents[0])).collect();
    for child in &children {
        whole.blobs.extend(child.blobs.clone());
        whole.documents.extend(child.documents.clone());
    }
    whole.documents.push(index_of(&entries, &["v1"]));
    let requests = seen(Habits::default(), settings(), &whole).await;
    let manifests: Vec<&str> = requests
        .iter()
        .filter(|request| request.method == "PUT" && request.path().contains("/manifests/"))
        .map(|request| request.path().rsplit('/').next().unwrap())
        .collect();
    let digests = children.map(|child| child.documents[0].digest.to_string());
    assert_eq!(manifests, [digests[0].as_str(), digests[1].as_str(), "v1"]);
}

#[tokio::test]
async fn check_pull_digest() {
    let image = image(&[noise(11, 1000)], Types::Oci, &["1"]);
    let memory = Memory::new(Habits::default());
    let registry = memory.clone();
    let server = Server::start(move |request| registry.answer(request));
    let (client, _) = client(settings());
    client.push(&plan_push(&server.reference("a/b"), &image)).await.unwrap();
    let by_digest = server.reference("a/b").with_digest(image.documents[0].digest);
    client.root(&by_digest).await.unwrap();
    read_blob(&client, &by_digest, &noise(11, 1000)).await.unwrap();
    {
        let mut state = memory.state.lock().unwrap();
        let digest = image.documents[0].digest;
        state.manifests.get_mut(&format!("a/b:{digest}")).unwrap().1.push(b' ');
        state.blobs.get_mut(&Digest::of(&noise(11, 1000)).to_string()).unwrap()[0] ^= 1;
    }
    let problems = [
        client.root(&by_digest).await.unwrap_err(),
        read_blob(&client, &by_digest, &noise(11, 1000)).await.unwrap_err(),
    ];
    assert!(problems.iter().all(|error| matches!(*error.problem, Problem::Digest { .. })), "{problems:?}");
}

#[tokio::test]
async fn check_empty_blob() {
    for registry in Registry::both() {
        registry.push("a/b", &image(&[Vec::new()], Types::Oci, &["1"])).await.unwrap();
        let (client, _) = client(settings());
        assert_eq!(read_blob(&client, &registry.reference("a/b:1"), b"").await.unwrap(), b"");
    }
    let requests = seen(Habits::default(), settings(), &one_blob(b"")).await;
    assert_eq!(requests[2].header("content-length"), "0");
}

#[tokio::test]
async fn check_bad_digest() {
    for registry in Registry::both() {
        let mut wrong = one_blob(b"what it is");
        wrong.blobs[0].digest = Digest::of(b"what it says it is");
        let line = registry.push("a/b", &wrong).await.unwrap_err().to_string();
        assert!(
            line.contains("400") && line.contains("DIGEST_INVALID: provided digest did not match"),
            "{line}"
        );
    }
}
