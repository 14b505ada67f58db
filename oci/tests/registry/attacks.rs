//! Registries that lie, lead astray, flood or stall (reliability §2.H), each beside what must keep working.

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oci::document::descriptor;
use oci::media_type::{OCI_LAYER, OCI_MANIFEST, Types};
use oci::registry::address::Authority;
use oci::registry::{Event, Login, Problem, PushImage, Refusal, Settings, plan_push};
use oci::{Digest, Platform, Reference};

use crate::fixture::{PATIENCE, blob, client, image, noise, read_blob, settings};
use crate::memory::{Habits, Memory};
use crate::server::{Raw, Reply, Request, Server};

/// Settings that trust `server` as the target of another registry's words.
pub fn allowing(server: &Server) -> Settings {
    let mut settings = settings();
    settings.allowed.insert(Authority::parse(&server.address.to_string()).unwrap());
    settings
}

pub fn with_login(mut settings: Settings, registry: &Server) -> Settings {
    let login = Login { username: "u".to_owned(), password: "secret".to_owned() };
    settings.logins.insert(registry.address.to_string(), login);
    settings
}

/// A server that answers everything with a challenge for `realm`.
pub fn challenging(realm: String) -> Server {
    Server::start(move |_| {
        Reply::new(401).header("WWW-Authenticate", format!(r#"Bearer realm="{realm}",service="s""#))
    })
}

pub async fn refusal(settings: Settings, reference: &Reference) -> Refusal {
    let (client, _) = client(settings);
    let error = client.resolve(reference, &Platform::host()).await.unwrap_err();
    assert!(error.is_refusal(), "{error}");
    match *error.problem {
        Problem::Refused(refusal) => refusal,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn reg_01_a_realm_inside_gets_no_request() {
    let inside = Server::start(|_| Reply::new(200).body(r#"{"token":"t"}"#));
    let registry = challenging(format!("http://{}/token", inside.address));
    let found = refusal(with_login(settings(), &registry), &registry.reference("a:1")).await;
    assert!(matches!(found, Refusal::Address { .. }), "{found}");
    assert!(inside.requests().is_empty());
    for realm in ["http://169.254.169.254/t", "http://0177.0.0.1/t", "http://[::1]/t", "http://0.0.0.0/t"] {
        let registry = challenging(realm.to_owned());
        let found = refusal(with_login(settings(), &registry), &registry.reference("a:1")).await;
        assert!(matches!(found, Refusal::Address { .. }), "{realm}: {found}");
    }
    let registry = challenging("file:///etc/passwd".to_owned());
    let found = refusal(settings(), &registry.reference("a:1")).await;
    assert!(matches!(found, Refusal::Scheme { .. }), "{found}");
}

#[tokio::test]
async fn reg_01_a_realm_that_the_user_allows_is_used_and_told() {
    let tokens = Server::start(|_| Reply::new(200).body(r#"{"token":"t"}"#));
    let realm = format!("http://{}/token", tokens.address);
    let registry = Server::start(move |request| match request.header("authorization") {
        "Bearer t" => Reply::new(404),
        _ => Reply::new(401).header("WWW-Authenticate", format!(r#"Bearer realm="{realm}""#)),
    });
    let (client, events) = client(with_login(allowing(&tokens), &registry));
    assert_eq!(client.digest(&registry.reference("a:1")).await.unwrap(), None);
    let host = tokens.address.to_string();
    let told = events.lock().unwrap().clone();
    assert_eq!(told, [Event::TokenServer { registry: registry.address.to_string(), host }]);
}

/// A registry that redirects blobs to `location`, and asks for Basic credentials.
fn redirecting(location: String) -> Server {
    Server::start(move |request| match request.header("authorization") {
        "" => Reply::new(401).header("WWW-Authenticate", "Basic realm=x"),
        _ => Reply::new(307).header("Location", location.clone()),
    })
}

#[tokio::test]
async fn reg_04_a_redirect_to_another_host_carries_no_credentials() {
    let layer = noise(1, 10_000);
    let body = layer.clone();
    let cdn = Server::start(move |_| Reply::new(200).body(body.clone()));
    let registry = redirecting(format!("http://{}/blob?sig=1", cdn.address));
    let (allowed, _) = client(with_login(allowing(&cdn), &registry));
    assert_eq!(read_blob(&allowed, &registry.reference("a"), &layer).await.unwrap(), layer);
    assert!(cdn.requests().iter().all(|request| request.header("authorization").is_empty()));
    assert!(registry.requests().iter().any(|request| !request.header("authorization").is_empty()));

    let (guarded, _) = client(with_login(settings(), &registry));
    let error = read_blob(&guarded, &registry.reference("a"), &layer).await.unwrap_err();
    assert!(error.is_refusal(), "{error}");
    assert!(error.to_string().contains("XBUILD_ALLOW_REGISTRY_ADDRESS"), "{error}");
}

#[tokio::test]
async fn reg_04_loops_and_long_chains_end() {
    let registry = Server::start(|request| {
        let number: usize =
            request.target.rsplit("hop=").next().and_then(|text| text.parse().ok()).unwrap_or(0);
        Reply::new(302).header("Location", format!("/v2/a/blobs/x?hop={}", number + 1))
    });
    let (client, _) = client(settings());
    let error = read_blob(&client, &registry.reference("a"), b"x").await.unwrap_err();
    assert!(matches!(*error.problem, Problem::Refused(Refusal::Redirects { limit: 5, .. })), "{error}");
    assert_eq!(registry.requests().len(), 6);
}

#[tokio::test]
async fn reg_05_an_upload_location_elsewhere_gets_no_credentials() {
    let other = Server::start(|_| Reply::new(201));
    let location = format!("http://{}/upload", other.address);
    let registry =
        Server::start(move |request| match (request.header("authorization"), request.method.as_str()) {
            ("", _) => Reply::new(401).header("WWW-Authenticate", "Basic realm=x"),
            (_, "POST") => Reply::new(202).header("Location", location.clone()),
            _ => Reply::new(404),
        });
    let image = PushImage { blobs: vec![blob(b"layer", OCI_LAYER)], documents: Vec::new() };
    let plan = plan_push(&registry.reference("a"), &image);
    let (guarded, _) = client(with_login(settings(), &registry));
    assert!(guarded.push(&plan).await.unwrap_err().is_refusal());
    assert!(other.requests().is_empty());
    let (allowed, _) = client(with_login(allowing(&other), &registry));
    allowed.push(&plan).await.unwrap();
    assert!(other.requests().iter().all(|request| request.header("authorization").is_empty()));
}

#[tokio::test]
async fn reg_10_bodies_that_end_early_are_resumed_at_the_verified_byte() {
    let layer = noise(2, 300_000);
    for percent in [0, 1, 50, 99] {
        let body = layer.clone();
        let first = AtomicBool::new(true);
        let registry = Server::start(move |request| {
            let from: Option<usize> = request
                .header("range")
                .strip_prefix("bytes=")
                .and_then(|range| range.trim_end_matches('-').parse().ok());
            match from {
                Some(from) => Reply::new(206)
                    .header("Content-Range", format!("bytes {from}-{}/{}", body.len() - 1, body.len()))
                    .body(&body[from..]),
                None if first.swap(false, Ordering::SeqCst) => {
                    Reply::new(200).body(body.clone()).cut(body.len() * percent / 100)
                }
                None => Reply::new(200).body(body.clone()),
            }
        });
        let (client, _) = client(settings());
        assert_eq!(read_blob(&client, &registry.reference("a"), &layer).await.unwrap(), layer);
        let requests = registry.requests();
        assert_eq!(requests.len(), 2);
        let expected = 300_000 * percent / 100;
        let range = if expected == 0 { String::new() } else { format!("bytes={expected}-") };
        assert_eq!(requests[1].header("range"), range);
    }
}

#[tokio::test]
async fn reg_10_a_server_without_ranges_is_read_again_from_the_start() {
    let layer = noise(3, 300_000);
    let body = layer.clone();
    let first = AtomicBool::new(true);
    let registry = Server::start(move |_| {
        let reply = Reply::new(200).body(body.clone());
        if first.swap(false, Ordering::SeqCst) { reply.cut(200_000) } else { reply }
    });
    let (client, _) = client(settings());
    assert_eq!(read_blob(&client, &registry.reference("a"), &layer).await.unwrap(), layer);
}

#[tokio::test]
async fn reg_10_wrong_bytes_and_sizes_are_refused() {
    let layer = noise(4, 100_000);
    let mut flipped = layer.clone();
    flipped[99_999] ^= 1;
    let longer = [layer.clone(), b"!".to_vec()].concat();
    let chunked = |body: &[u8]| {
        let mut text = format!("{:x}\r\n", body.len()).into_bytes();
        text.extend_from_slice(body);
        text.extend_from_slice(b"\r\n0\r\n\r\n");
        Reply::new(200).header("Transfer-Encoding", "chunked").body(text)
    };
    let fixed = |body: &[u8]| Reply::new(200).body(body);
    let cases = [
        (fixed(&flipped), "expected sha256:"),
        (fixed(&longer), "larger than 100000 bytes"),
        (chunked(&longer), "larger than 100000 bytes"),
        (chunked(&flipped), "expected sha256:"),
        (fixed(&layer[..99_999]), "ended after 99999 of 100000"),
        (fixed(&flipped).header("Content-Encoding", "gzip"), "expected sha256:"),
        (fixed(&longer).header("Content-Encoding", "br"), "it is encoded (Content-Encoding: br)"),
        (chunked(&layer[..9]).header("Content-Encoding", "gzip"), "it is encoded (Content-Encoding: gzip)"),
    ];
    for (reply, expected) in cases {
        let encoded = expected.contains("encoded");
        let registry = Server::start(move |_| reply.clone());
        let (client, _) = client(settings());
        let error = read_blob(&client, &registry.reference("a"), &layer).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!encoded || registry.requests().len() == 1, "the server would encode it again");
    }
    // Stores say so of files that are gzips themselves.
    for good in [chunked(&layer), fixed(&layer).header("Content-Encoding", "gzip")] {
        let registry = Server::start(move |_| good.clone());
        let (client, _) = client(settings());
        assert_eq!(read_blob(&client, &registry.reference("a"), &layer).await.unwrap(), layer);
    }
}

#[tokio::test]
async fn reg_10_an_encoded_manifest_is_told() {
    let registry =
        Server::start(|_| Reply::new(200).header("Content-Encoding", "gzip").body(b"\x1f\x8b\x08"));
    let (client, _) = client(settings());
    let error = client.root(&registry.reference("a:1")).await.unwrap_err();
    assert!(error.to_string().contains("it is encoded (Content-Encoding: gzip)"), "{error}");
}

#[tokio::test]
async fn reg_10_a_body_without_a_length_ends_with_the_connection() {
    let layer = noise(8, 50_000);
    for sent in [50_000, 49_999, 20_000] {
        let body = layer.clone();
        let registry = Raw::start(move |mut stream| {
            let mut head = [0; 4096];
            let read = stream.read(&mut head).unwrap_or(0);
            let from = if head[..read].windows(13).any(|text| text.eq_ignore_ascii_case(b"range: bytes=")) {
                let _ =
                    write!(stream, "HTTP/1.1 206 Partial\r\nContent-Range: bytes {sent}-49999/50000\r\n\r\n");
                sent..50_000
            } else {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
                0..sent
            };
            let _ = stream.write_all(&body[from]);
        });
        let (client, _) = client(settings());
        assert_eq!(read_blob(&client, &registry.reference(), &layer).await.unwrap(), layer, "{sent}");
    }
}

#[tokio::test]
async fn reg_11_silence_and_trickles_are_cut_off() {
    let mut impatient = settings();
    impatient.timeouts.answer = Duration::from_millis(300);
    impatient.timeouts.stall = Duration::from_millis(300);
    impatient.retry.attempts = 2;
    let registry = Server::start(|_| {
        // Longer than any bound; the thread ends with the process.
        std::thread::sleep(PATIENCE * 10);
        Reply::new(200)
    });
    let (client, _) = client(impatient);
    let before = Instant::now();
    let error = client.digest(&registry.reference("a:1")).await.unwrap_err();
    assert!(error.to_string().contains("did not answer in time"), "{error}");
    assert!(before.elapsed() < PATIENCE);
}

#[tokio::test]
async fn reg_11_a_trickle_is_cut_off_and_a_slow_reader_is_not() {
    let mut impatient = settings();
    impatient.timeouts.stall = Duration::from_millis(200);
    impatient.timeouts.stall_bytes = 1000;
    impatient.retry.attempts = 2;
    let layer = noise(6, 100_000);
    let body = layer.clone();
    let trickling = Server::start(move |_| Reply {
        trickle: Some(Duration::from_millis(20)),
        ..Reply::new(200).body(body.clone())
    });
    let (client, _) = client(impatient);
    let error = read_blob(&client, &trickling.reference("a"), &layer).await.unwrap_err();
    assert!(error.to_string().contains("stopped sending"), "{error}");

    // Whose own pause is longer than the server's may be.
    let mut patient = settings();
    patient.timeouts.stall = Duration::from_secs(3);
    let (client, _) = crate::fixture::client(patient);
    let body = layer.clone();
    let quick = Server::start(move |_| Reply::new(200).body(body.clone()));
    let mut stream = client.open_blob(&quick.reference("a"), Digest::of(&layer), 100_000).unwrap();
    let mut read = stream.next().await.unwrap().unwrap().len();
    tokio::time::sleep(Duration::from_secs(4)).await;
    while let Some(chunk) = stream.next().await.unwrap() {
        read += chunk.len();
    }
    assert_eq!((read, quick.requests().len()), (100_000, 1));
}

#[tokio::test]
async fn what_was_kept_of_a_blob_is_hashed_and_not_asked_for_again() {
    let layer = noise(7, 100_000);
    let memory = Memory::new(Habits::default());
    memory.state.lock().unwrap().blobs.insert(Digest::of(&layer).to_string(), layer.clone());
    let registry = Server::start(move |request| memory.answer(request));
    let (client, _) = client(settings());
    let read = async |kept: &[u8]| {
        let mut stream = client.open_blob(&registry.reference("a"), Digest::of(&layer), 100_000).unwrap();
        stream.feed(kept);
        let mut rest = Vec::new();
        while let Some(chunk) = stream.next().await? {
            rest.extend_from_slice(&chunk);
        }
        Ok::<_, oci::registry::Error>(rest)
    };
    assert_eq!(read(&layer[..70_000]).await.unwrap(), layer[70_000..]);
    assert_eq!(registry.requests()[0].header("range"), "bytes=70000-");
    assert_eq!(read(&layer).await.unwrap(), b"");
    assert_eq!(registry.requests().len(), 1);
    for wrong in [vec![0; 70_000], vec![0; 100_000]] {
        assert!(matches!(*read(&wrong).await.unwrap_err().problem, Problem::Digest { .. }));
    }
}

#[tokio::test]
async fn reg_14_waits_that_are_asked_for_are_kept_and_told() {
    let first = AtomicUsize::new(0);
    let registry = Server::start(move |_| match first.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(429).header("Retry-After", "1").body("toomanyrequests: pull rate limit"),
        _ => Reply::new(404),
    });
    let (client, events) = client(settings());
    let before = Instant::now();
    assert_eq!(client.digest(&registry.reference("a:1")).await.unwrap(), None);
    assert!(before.elapsed() >= Duration::from_secs(1));
    let told = events.lock().unwrap().clone();
    let [Event::Waiting { reason, attempt: 1, attempts: 6, .. }] = &told[..] else { panic!("{told:?}") };
    assert!(reason.contains("429"), "{reason}");
}

#[tokio::test]
async fn reg_14_a_wait_of_years_is_not_waited_for() {
    let registry = Server::start(|request| {
        let body = if request.method == "HEAD" { "" } else { "slow down" };
        Reply::new(429).header("Retry-After", "1000000000").body(body)
    });
    let (client, _) = client(settings());
    let error = client.root(&registry.reference("a:1")).await.unwrap_err();
    assert!(error.to_string().contains("asks to wait 1000000000 s: slow down"), "{error}");
    assert!(!error.is_refusal(), "it is the registry's limit, not ours");
    assert_eq!(registry.requests().len(), 1);
}

#[tokio::test]
async fn reg_14_six_attempts_and_no_more() {
    let registry = Server::start(|_| Reply::new(503));
    let (client, _) = client(settings());
    let error = client.root(&registry.reference("a:1")).await.unwrap_err();
    assert!(error.to_string().contains("(6 attempts)"), "{error}");
    assert_eq!(registry.requests().len(), 6);
}

#[tokio::test]
async fn reg_16_a_manifest_is_what_its_digest_says() {
    let image = image(&[noise(5, 10)], Types::Oci, &["1"]);
    let raw = image.documents[0].raw.to_vec();
    let registry = Server::start(move |request| {
        let reply = Reply::new(200).header("Content-Type", OCI_MANIFEST).body(raw.clone());
        if request.target.contains("claimed") {
            return reply.header("Docker-Content-Digest", Digest::of(b"other").to_string());
        }
        reply
    });
    let (client, _) = client(settings());
    client.root(&registry.reference("a:1")).await.unwrap();
    let wrong = registry.reference("a").with_digest(Digest::of(b"x"));
    for reference in [wrong, registry.reference("a:claimed")] {
        let error = client.root(&reference).await.unwrap_err();
        assert!(matches!(*error.problem, Problem::Digest { .. }), "{error}");
    }
}

#[tokio::test]
async fn documents_have_limits() {
    let registry = Server::start(|request| {
        if request.target.contains("token") {
            return Reply::new(200).body(vec![b' '; 10 << 20]);
        }
        if request.target.contains("needs-token") && request.header("authorization").is_empty() {
            let realm = format!("Bearer realm=\"http://{}/token\"", request.header("host"));
            return Reply::new(401).header("WWW-Authenticate", realm);
        }
        Reply::new(200).header("Content-Type", OCI_MANIFEST).body(vec![b' '; 5 << 20])
    });
    let (client, _) = client(settings());
    for name in ["a:1", "needs-token:1"] {
        let error = client.root(&registry.reference(name)).await.unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
        assert!(error.is_refusal());
    }
    let large = descriptor(OCI_LAYER, Digest::of(b""), 5 << 20);
    let error = client.blob_bytes(&registry.reference("a"), &large, 4 << 20).await.unwrap_err();
    assert!(error.to_string().contains("larger than 4194304 bytes"), "{error}");
}

#[tokio::test]
async fn reg_20_error_bodies_are_cut_and_cleaned() {
    let registry =
        Server::start(|_| Reply::new(400).body(format!("\x1b]0;owned\x07{}", "x".repeat(1 << 20))));
    let (client, _) = client(settings());
    let line = client.root(&registry.reference("a:1")).await.unwrap_err().to_string();
    assert!(!line.contains('\x1b') && line.len() < 5000);
}

#[tokio::test]
async fn reg_18_https_is_never_silently_http() {
    // A registry that is not on loopback speaks TLS; one on loopback does so where that is asked for.
    let memory = Memory::new(Habits::default());
    let registry = Server::start(move |request| memory.answer(request));
    let mut strict = settings();
    let own = strict.registries.entry(registry.address.to_string()).or_default();
    own.transport = oci::registry::settings::Transport::Https;
    let (client, _) = client(strict);
    let error = client.digest(&registry.reference("a:1")).await.unwrap_err();
    assert!(matches!(*error.problem, Problem::Tls { .. }), "{error}");
    assert!(error.to_string().contains("--insecure-registry"), "{error}");
    assert!(registry.requests().iter().all(|request: &Request| request.method != "HEAD"));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "shows that the function is harmless in our binaries")]
fn names_never_reach_the_name_service_switch() {
    use std::net::ToSocketAddrs as _;
    // Any answer would be glibc's, with NSS behind it.
    assert!(("localhost", 80).to_socket_addrs().is_err());
}

#[tokio::test]
async fn reg_10_mirrors_that_send_wrong_bytes_are_left() {
    let content = noise(12, 300_000);
    let wrong = |change: fn(&mut Vec<u8>)| {
        let mut content = content.clone();
        change(&mut content);
        Server::start(move |_| Reply::new(200).body(content.clone()))
    };
    let mirrors = [
        wrong(|content| content[150_000] ^= 1),
        // The rest comes from the registry and is right, the whole is not.
        wrong(|content| *content = b"<html>Sign in</html>".to_vec()),
        // Its twin.
        wrong(|_| {}),
    ];
    let right = content.clone();
    let registry = Server::start(move |request| {
        let start = request.header("range").strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
        match start.and_then(|start| start.parse::<usize>().ok()) {
            None => Reply::new(200).body(right.clone()),
            Some(start) => Reply::new(206)
                .header("Content-Range", format!("bytes {start}-{}/{}", right.len() - 1, right.len()))
                .body(&right[start..]),
        }
    });
    let reference = registry.reference("team/app");
    for (mirror, lies) in mirrors.iter().zip([true, true, false]) {
        let mut with_mirror = settings();
        let own = with_mirror.registries.entry(registry.address.to_string()).or_default();
        own.mirrors = vec![mirror.address.to_string()];
        let (client, events) = client(with_mirror);
        assert!(client.has_mirrors(&reference));
        assert_eq!(read_blob(&client, &reference, &content).await.unwrap(), content);
        assert_eq!(client.has_mirrors(&reference), !lies);
        let told = events.lock().unwrap().iter().any(|event| matches!(event, Event::MirrorFailed { .. }));
        assert_eq!(told, lies);
        // Whoever knows nothing of it is served, too.
        assert_eq!(read_blob(&client, &reference, &content).await.unwrap(), content);
    }
}

#[tokio::test]
async fn reg_10_a_mirror_that_breaks_every_body_is_left_soon_and_for_good() {
    let content = noise(13, 300_000);
    let (cut, whole) = (content.clone(), content.clone());
    let mirror = Server::start(move |_| Reply::new(200).body(cut.clone()).cut(1000));
    let registry = Server::start(move |_| Reply::new(200).body(whole.clone()));
    let mut with_mirror = settings();
    let own = with_mirror.registries.entry(registry.address.to_string()).or_default();
    own.mirrors = vec![mirror.address.to_string()];
    let (client, events) = client(with_mirror);
    let reference = registry.reference("team/app");
    for _ in 0..3 {
        assert_eq!(read_blob(&client, &reference, &content).await.unwrap(), content);
    }
    assert_eq!(mirror.requests().len(), 2, "one attempt and another");
    let events = events.lock().unwrap();
    let waits = events.iter().filter_map(|event| match event {
        Event::Waiting { host, .. } => Some(host.clone()),
        _ => None,
    });
    assert_eq!(waits.collect::<Vec<_>>(), [mirror.address.to_string()], "who is tried again is named");
}
