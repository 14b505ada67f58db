//! Where a registry's words lead: realms, redirects, locations, pages (reliability REG-01 … REG-08). Each place that
//! is refused stands beside one that must be followed.

use oci::media_type::{OCI_LAYER, OCI_MANIFEST, Types};
use oci::registry::{Error, Event, Login, Problem, PushImage, Refusal, Settings, plan_push};

use crate::fixture::{blob, client, image, noise, read_blob, settings};
use crate::frames::H2Server;
use crate::server::{Reply, Request, Server};

fn with_login(registry: &str) -> Settings {
    let mut settings = settings();
    let login = Login { username: "u".to_owned(), password: "secret".to_owned() };
    settings.logins.insert(registry.to_owned(), login);
    settings
}

/// A registry that names `realm` for tokens, and takes the token `t`.
fn guarded(realm: &str) -> Server {
    let realm = realm.to_owned();
    Server::start(move |request| match (request.path(), request.header("authorization")) {
        ("/service/token", _) => Reply::new(200).body(r#"{"token":"t"}"#),
        (_, "Bearer t") => Reply::new(404),
        _ => {
            let realm = realm.replace("HOST", request.header("host"));
            Reply::new(401).header("WWW-Authenticate", format!(r#"Bearer realm="{realm}",service="s""#))
        }
    })
}

async fn ask(registry: &Server) -> Result<(), Error> {
    let (client, _) = client(with_login(&registry.address.to_string()));
    client.digest(&registry.reference("a/b:1")).await.map(|_| ())
}

#[tokio::test]
async fn reg_01_a_realm_inside_is_refused_in_every_spelling() {
    for host in [
        "127.0.0.1:1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "017700000001",
        "0177.0.0.1",
        "localhost",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.100.100.200",
        "169.254.169.254",
        "2852039166",
        "0xa9.0xfe.0xa9.0xfe",
        "0.0.0.0",
        "0",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
    ] {
        for scheme in ["http", "https"] {
            let error = ask(&guarded(&format!("{scheme}://{host}/token"))).await.unwrap_err();
            assert!(
                matches!(*error.problem, Problem::Refused(Refusal::Address { .. })),
                "{scheme}://{host}: {error}"
            );
        }
    }
    for realm in ["file:///etc/passwd", "ftp://h.example/t", "gopher://h.example/t", "javascript:1"] {
        let error = ask(&guarded(realm)).await.unwrap_err();
        assert!(matches!(*error.problem, Problem::Refused(Refusal::Scheme { .. })), "{realm}: {error}");
    }
}

#[tokio::test]
async fn reg_01_a_realm_on_the_registry_itself_is_used() {
    for realm in ["http://HOST/service/token", "/service/token", "//HOST/service/token"] {
        let registry = guarded(realm);
        ask(&registry).await.unwrap();
        let requests = registry.requests();
        let token = requests.iter().find(|request| request.path() == "/service/token").unwrap();
        assert!(token.header("authorization").starts_with("Basic "), "{realm}");
    }
}

#[tokio::test]
async fn reg_01_credentials_of_another_registry_stay_where_they_belong() {
    let registry = Server::start(|request| match request.header("authorization") {
        "" => Reply::new(401).header("WWW-Authenticate", "Basic realm=x"),
        _ => Reply::new(404),
    });
    let host = registry.address.ip().to_string();
    // Those of the same host on another port are another registry's, too.
    for other in ["registry.example", &host, &format!("{host}:1")] {
        let (client, _) = client(with_login(other));
        let error = client.digest(&registry.reference("a/b:1")).await.unwrap_err();
        assert!(error.to_string().contains("needs a login"), "{error}");
    }
    assert!(registry.requests().iter().all(|request| request.header("authorization").is_empty()));
    ask(&registry).await.unwrap();
}

/// A registry that redirects a blob `hops` times before it sends it.
fn hopping(hops: usize, layer: &[u8]) -> Server {
    let layer = layer.to_vec();
    Server::start(move |request| {
        let hop: usize = request.query().get("hop").map_or(0, |text| text.parse().unwrap());
        match hop < hops {
            true => Reply::new(307).header("Location", format!("{}?hop={}", request.path(), hop + 1)),
            false => Reply::new(200).body(layer.clone()),
        }
    })
}

#[tokio::test]
async fn reg_04_five_redirects_are_followed_and_twenty_are_not() {
    let layer = noise(1, 1000);
    let (client, _) = client(settings());
    for hops in [1, 5] {
        let registry = hopping(hops, &layer);
        assert_eq!(read_blob(&client, &registry.reference("a"), &layer).await.unwrap(), layer);
        assert_eq!(registry.requests().len(), hops + 1);
    }
    for hops in [6, 20] {
        let registry = hopping(hops, &layer);
        let error = read_blob(&client, &registry.reference("a"), &layer).await.unwrap_err();
        assert!(error.to_string().contains("more than 5 redirects"), "{error}");
        assert_eq!(registry.requests().len(), 6);
    }
}

#[tokio::test]
async fn reg_04_tls_is_not_left() {
    let Some(server) = H2Server::start(Vec::new(), |connection, _| {
        loop {
            let stream = connection.request()?.stream;
            connection.answer(stream, 307, &[("location", "http://cdn.example/blob")], b"")?;
        }
    }) else {
        return;
    };
    let (client, _) = client(server.settings());
    let error = read_blob(&client, &server.reference("a"), b"x").await.unwrap_err();
    assert!(matches!(*error.problem, Problem::Refused(Refusal::Scheme { .. })), "{error}");
    assert!(error.to_string().contains("http://cdn.example/blob, which is not https"), "{error}");
}

#[tokio::test]
async fn reg_05_an_upload_is_not_led_inside() {
    for location in [
        "http://169.254.169.254/latest",
        "http://10.0.0.1/u",
        "//192.168.0.1/u",
        "https://[fd00:ec2::254]/u",
        "file:///tmp/u",
        "http://localhost:1/u",
    ] {
        let registry = Server::start(move |request| match request.method.as_str() {
            "POST" => Reply::new(202).header("Location", location),
            _ => Reply::new(404),
        });
        let image = PushImage { blobs: vec![blob(b"layer", OCI_LAYER)], documents: Vec::new() };
        let (client, _) = client(with_login(&registry.address.to_string()));
        let error = client.push(&plan_push(&registry.reference("a"), &image)).await.unwrap_err();
        assert!(error.is_refusal(), "{location}: {error}");
    }
}

#[tokio::test]
async fn reg_06_a_challenge_asks_for_nothing_but_what_is_done() {
    let service = "s&scope=repository:victim:push#x y";
    let registry = Server::start(move |request| match (request.path(), request.header("authorization")) {
        ("/token", _) => Reply::new(200).body(r#"{"token":"t"}"#),
        (_, "Bearer t") => Reply::new(404),
        _ => {
            let realm = format!("http://{}/token?own=1", request.header("host"));
            let scope = "repository:victim/app:pull,push";
            Reply::new(401).header(
                "WWW-Authenticate",
                format!(r#"Bearer realm="{realm}",service="{service}",scope="{scope}""#),
            )
        }
    });
    ask(&registry).await.unwrap();
    let requests = registry.requests();
    let token = requests.iter().find(|request| request.path() == "/token").unwrap();
    let pairs = [("own", "1"), ("service", service), ("scope", "repository:a/b:pull"), ("account", "u")];
    assert_eq!(token.pairs(), pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[tokio::test]
async fn reg_07_a_challenge_behind_a_redirect_gets_nothing() {
    let cdn = Server::start(|_| Reply::new(401).header("WWW-Authenticate", "Basic realm=cdn"));
    let target = format!("http://{}/blob", cdn.address);
    let registry = Server::start(move |request| match request.header("authorization") {
        "" => Reply::new(401).header("WWW-Authenticate", "Basic realm=own"),
        _ => Reply::new(307).header("Location", target.clone()),
    });
    let mut settings = with_login(&registry.address.to_string());
    settings.allowed.insert(oci::registry::address::Authority::parse(&cdn.address.to_string()).unwrap());
    let (client, _) = client(settings);
    let error = read_blob(&client, &registry.reference("a"), b"x").await.unwrap_err();
    assert!(matches!(*error.problem, Problem::Unauthorized { .. }), "{error}");
    assert!(cdn.requests().iter().all(|request| request.header("authorization").is_empty()));
    assert_eq!(cdn.requests().len(), 1);
}

#[tokio::test]
async fn reg_07_challenges_without_end_or_sense_are_survived() {
    let hundred = vec![("Www-Authenticate", "Basic realm=x".to_owned()); 90];
    let cases: Vec<Vec<(&str, String)>> = vec![
        vec![("WWW-Authenticate", format!("Basic realm=\"{}\"", "x".repeat(1 << 20)))],
        vec![("WWW-Authenticate", "Bearer realm=\"http://h.example".to_owned())],
        vec![("WWW-Authenticate", "=\",,\"=".to_owned())],
        vec![("WWW-Authenticate", String::new())],
        hundred,
    ];
    for fields in cases {
        let registry = Server::start(move |_| {
            fields.iter().fold(Reply::new(401), |reply, (name, value)| reply.header(name, value.clone()))
        });
        let (client, _) = client(settings());
        let error = client.digest(&registry.reference("a/b:1")).await.unwrap_err();
        assert!(error.to_string().len() < 2000, "{error}");
    }
}

#[tokio::test]
async fn reg_08_pages_of_tags_are_followed_on_their_server_only() {
    let elsewhere = Server::start(|_| Reply::new(200).body(r#"{"tags":["stolen"]}"#));
    let evil = format!("<http://{}/v2/a/tags/list>; rel=\"next\"", elsewhere.address);
    let registry = Server::start(move |request| match (request.path(), request.target.contains("last=b")) {
        ("/v2/evil/tags/list", _) => Reply::new(200).header("Link", evil.clone()).body(r#"{"tags":["a"]}"#),
        (path, false) => Reply::new(200)
            .header("Link", format!("<{path}?n=2&last=b>; rel=\"next\""))
            .body(r#"{"name":"a","tags":["a","b"]}"#),
        (_, true) => Reply::new(200).body(r#"{"name":"a","tags":["c","\u001b[2Jd"]}"#),
    });
    let (client, _) = client(settings());
    assert_eq!(client.tags(&registry.reference("a")).await.unwrap(), ["a", "b", "c", " [2Jd"]);
    let error = client.tags(&registry.reference("evil")).await.unwrap_err();
    assert!(matches!(*error.problem, Problem::Refused(Refusal::Elsewhere { .. })), "{error}");
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn reg_12_odd_answers_of_a_token_server_are_bounded() {
    for (body, works) in [
        (r#"{"token":"t","expires_in":0}"#, true),
        (r#"{"access_token":"t","expires_in":-1,"issued_at":"2999-01-01T00:00:00Z"}"#, true),
        (r#"{"token":"t","access_token":"other","expires_in":1000000000000000000}"#, true),
        (r#"{"token":"t","expires_in":"soon","issued_at":"yesterday"}"#, true),
        (r#"{"token":"t\r\nX-Evil: 1"}"#, false),
        ("[]", false),
        ("", false),
    ] {
        let registry =
            Server::start(move |request: &Request| match (request.path(), request.header("authorization")) {
                ("/token", _) => Reply::new(200).body(body),
                (_, "Bearer t") => Reply::new(404),
                _ => {
                    let realm = format!("http://{}/token", request.header("host"));
                    Reply::new(401).header("WWW-Authenticate", format!(r#"Bearer realm="{realm}""#))
                }
            });
        assert_eq!(ask(&registry).await.is_ok(), works, "{body}");
        assert!(registry.requests().iter().all(|request| !request.headers.contains_key("x-evil")));
        assert!(registry.requests().len() <= 3, "{body}");
    }
}

#[tokio::test]
async fn reg_20_names_and_digests_of_a_server_cannot_command_the_terminal() {
    let raw = image(&[noise(2, 10)], Types::Oci, &[]).documents[0].raw.to_vec();
    let registry = Server::start(move |request| {
        match request.path() {
        path if path.ends_with("/digest") => {
            Reply::new(200).header("Content-Type", OCI_MANIFEST).header("Docker-Content-Digest", "sha256:\u{9b}2J").body(raw.clone())
        }
        path if path.ends_with("/type") => Reply::new(200).header("Content-Type", "x/\u{9b}2J").body(raw.clone()),
        path if path.ends_with("/location") => Reply::new(307).header("Location", "http://\u{9b}2J\u{202e}/x"),
        _ => Reply::new(400).body("{\"errors\":[{\"code\":\"\\u001b]0;x\\u0007\",\"message\":\"a\\u202eb\\nc\",\"detail\":\"\\u009b\"}]}"),
    }
    });
    let (client, events) = client(settings());
    for version in ["digest", "type", "location", "other"] {
        if let Err(error) = client.root(&registry.reference(&format!("a/b:{version}"))).await {
            let line = error.to_string();
            let bad = |c: char| c.is_control() || c == '\u{202e}';
            assert!(!line.chars().any(bad), "{line:?}");
        }
    }
    assert!(!events.lock().unwrap().iter().any(|event| matches!(event, Event::Note(_))));
}
