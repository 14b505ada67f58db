//! Who we are to a registry: Basic, tokens by GET and POST, tokens that end in the middle.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use oci::Digest;
use oci::media_type::Types;
use oci::registry::settings::Transport;
use oci::registry::{Event, Login, Problem, Settings, plan_push};

use crate::fixture::{DockerRegistry, client, image, noise, read_blob, settings};
use crate::memory::{Habits, Memory};
use crate::server::{Reply, Request, Server};

/// A registry whose tokens are good for `uses` requests each. The token server is part of it, on another path.
fn guarded(uses: usize, credential: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Server {
    let memory = Memory::new(Habits::default());
    let count = Arc::new(AtomicUsize::new(0));
    Server::start(move |request| {
        let host = request.header("host").to_owned();
        if request.path() == "/service/token" {
            if !credential(request) {
                return Reply::new(401).body(r#"{"details":"incorrect username or password"}"#);
            }
            let number = count.fetch_add(uses, Ordering::SeqCst) / uses;
            let padded = (number + 1) * uses;
            count.store(padded, Ordering::SeqCst);
            return Reply::new(200).body(format!(r#"{{"token":"t{padded}","expires_in":300}}"#));
        }
        let left = count.load(Ordering::SeqCst);
        let token = format!("Bearer t{}", left.div_ceil(uses) * uses);
        if left == 0
            || request.header("authorization") != token
            || (left - 1).is_multiple_of(uses) && uses > 1
        {
            let realm = format!(
                r#"Bearer realm="http://{host}/service/token",service="harbor-registry",scope="evil""#
            );
            return Reply::new(401)
                .header("WWW-Authenticate", realm)
                .body(r#"{"errors":[{"code":"UNAUTHORIZED","message":"unauthorized"}]}"#);
        }
        count.fetch_sub(1, Ordering::SeqCst);
        memory.answer(request)
    })
}

fn with_login(server: &Server, username: &str, password: &str) -> Settings {
    let mut settings = settings();
    let login = Login { username: username.to_owned(), password: password.to_owned() };
    settings.logins.insert(server.address.to_string(), login);
    settings
}

fn basic(username: &str, password: &str) -> String {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    format!("Basic {pair}")
}

#[tokio::test]
async fn a_robot_account_gets_a_token_for_what_it_does() {
    let expected = basic("robot$ci", "p:w");
    let server = guarded(1000, move |request| request.header("authorization") == expected);
    let (client, events) = client(with_login(&server, "robot$ci", "p:w"));
    let mut image = image(&[noise(1, 100)], Types::Oci, &["1"]);
    image.blobs[0].found_in = vec![server.reference("base/debian")];
    client.push(&plan_push(&server.reference("team/app"), &image)).await.unwrap();
    let requests = server.requests();
    let tokens: Vec<&Request> =
        requests.iter().filter(|request| request.path() == "/service/token").collect();
    assert_eq!(tokens.len(), 1, "parallel layers share one token");
    let query = tokens[0].target.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
    assert!(query.contains("service=harbor-registry"), "{query}");
    assert!(
        query.contains("scope=repository:base/debian:pull&scope=repository:team/app:pull,push"),
        "{query}"
    );
    assert!(query.contains("account=robot%24ci") && !query.contains("evil"), "{query}");
    // The token server is the registry's own host, so there is nothing to announce.
    assert!(!events.lock().unwrap().iter().any(|event| matches!(event, Event::TokenServer { .. })));
}

#[tokio::test]
async fn reg_13_a_token_that_ends_in_the_middle_is_replaced() {
    for uses in [2, 3, 5] {
        let server = guarded(uses, |_| true);
        let mut sequential = settings();
        sequential.limits.parallel = 1;
        let (client, _) = client(sequential);
        let layers = [noise(2, 50_000), noise(3, 10)];
        let image = image(&layers, Types::Oci, &["1"]);
        let target = server.reference("team/app:1");
        client.push(&plan_push(&target, &image)).await.unwrap();
        assert_eq!(client.digest(&target).await.unwrap(), Some(image.documents[0].digest));
        assert_eq!(read_blob(&client, &target, &layers[0]).await.unwrap(), layers[0]);
        let whole = server.requests().iter().filter(|request| request.body.len() == 50_000).count();
        assert!(whole <= 2, "a finished blob is not sent again");
    }
}

#[tokio::test]
async fn reg_13_a_refusal_in_the_middle_of_a_body_is_answered_with_a_new_token() {
    let memory = Memory::new(Habits::default());
    let registry = memory.clone();
    let refused = AtomicUsize::new(0);
    let challenge = |request: &Request| {
        let realm = format!(r#"Bearer realm="http://{}/token""#, request.header("host"));
        Reply::new(401).header("WWW-Authenticate", realm)
    };
    let server = Server::start_with_early(
        move |request| match request.path() {
            "/token" => Reply::new(200).body(r#"{"token":"t"}"#),
            _ if request.header("authorization").is_empty() => challenge(request),
            _ => registry.answer(request),
        },
        move |request| {
            let first = request.method == "PUT" && refused.fetch_add(1, Ordering::SeqCst) == 0;
            first.then(|| challenge(request))
        },
    );
    let layer = noise(7, 10_000_000);
    let blobs = vec![crate::fixture::blob(&layer, oci::media_type::OCI_LAYER)];
    let image = oci::registry::PushImage { blobs, documents: Vec::new() };
    let (client, _) = client(settings());
    client.push(&plan_push(&server.reference("a"), &image)).await.unwrap();
    assert!(memory.state.lock().unwrap().blobs[&Digest::of(&layer).to_string()] == layer);
    // The refusal may be lost in the reset that follows it; then the question for the state meets it.
}

#[tokio::test]
async fn an_identity_token_is_traded_by_post() {
    let server = guarded(1000, |request| {
        let form = String::from_utf8_lossy(&request.body).into_owned();
        request.method == "POST"
            && form.contains("grant_type=refresh_token")
            && form.contains("refresh_token=r%2Ft")
    });
    let mut settings = settings();
    let auths = serde_json::json!({ "auths": { server.address.to_string(): { "identitytoken": "r/t" } } });
    settings.environment.docker_auth_config = Some(auths.to_string());
    let (client, _) = client(settings);
    assert_eq!(client.digest(&server.reference("a:1")).await.unwrap(), None);
    client.check_login(&server.address.to_string()).await.unwrap();
}

#[tokio::test]
async fn wrong_credentials_are_named_and_final() {
    let server = guarded(1000, |_| false);
    let (client, events) = client(with_login(&server, "me", "no"));
    let error = client.digest(&server.reference("a:1")).await.unwrap_err();
    let line = error.to_string();
    assert!(line.contains("incorrect username or password") && line.contains("xbuild login"), "{line}");
    assert!(line.contains("name and password of me"), "{line}");
    assert!(events.lock().unwrap().is_empty());
    assert!(
        client
            .check_login(&server.address.to_string())
            .await
            .unwrap_err()
            .to_string()
            .starts_with("log in to")
    );
}

#[tokio::test]
async fn the_real_registry_with_htpasswd() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("htpasswd");
    // bcrypt of "s3cret".
    std::fs::write(&path, format!("ci:{HASH}\n")).unwrap();
    let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}", path.display());
    let Some(registry) = DockerRegistry::start(&auth) else { return };
    let image = image(&[noise(5, 100_000)], Types::Oci, &["1"]);
    let target = registry.reference("private/app:1");
    let plan = plan_push(&target, &image);

    let (anonymous, _) = client(settings());
    let error = anonymous.push(&plan).await.unwrap_err();
    assert!(matches!(*error.problem, Problem::Unauthorized { .. }), "{error}");
    assert!(error.to_string().contains("xbuild login 127.0.0.1"), "{error}");

    let mut with_file = settings();
    let config = directory.path().join("config.json");
    let auth = base64::engine::general_purpose::STANDARD.encode("ci:s3cret");
    let auths = serde_json::json!({ "auths": { target.registry.clone(): { "auth": auth } } });
    std::fs::write(&config, auths.to_string()).unwrap();
    with_file.environment.docker_config = Some(directory.path().to_owned());
    let (known, _) = client(with_file);
    known.push(&plan).await.unwrap();
    assert_eq!(known.digest(&target).await.unwrap(), Some(Digest::of(&image.documents[0].raw)));
}

const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK";

#[tokio::test]
async fn proxies_of_the_environment_are_used_except_for_no_proxy_and_loopback() {
    let memory = Memory::new(Habits::default());
    let proxy = Server::start(move |request| {
        let target = request.target.strip_prefix("http://registry.test").unwrap_or("/none").to_owned();
        memory.answer(&Request { target, ..request.clone() })
    });
    let registry = Memory::new(Habits::default());
    let direct = Server::start(move |request| registry.answer(request));
    let mut proxied = settings();
    proxied.environment.http_proxy = Some(format!("http://user:pw@{}", proxy.address));
    proxied.environment.no_proxy = Some("other.test,.inside.test".to_owned());
    for name in ["registry.test", "x.inside.test"] {
        proxied.registries.entry(name.to_owned()).or_default().transport = Transport::Http;
    }
    let (client, _) = client(proxied);
    let plan = plan_push(&"registry.test/a".parse().unwrap(), &image(&[noise(6, 10)], Types::Oci, &["1"]));
    client.push(&plan).await.unwrap();
    let seen = proxy.requests();
    assert!(seen.iter().all(|request| request.header("proxy-authorization") == basic("user", "pw")));
    assert!(client.digest(&"x.inside.test/a:1".parse().unwrap()).await.is_err(), "it is looked up directly");
    assert_eq!(client.digest(&direct.reference("a:1")).await.unwrap(), None);
    assert_eq!(proxy.requests().len(), seen.len());
    assert_eq!(direct.requests().len(), 1);
}
