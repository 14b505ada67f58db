//! Downloads from a server in this process.

use std::sync::atomic::{AtomicUsize, Ordering};

use oci::digest::Algorithm;

use super::*;
use crate::sources::Secrets;
use crate::sources::testing::{Fixture, Reply, Request, Server};

const BODY: &str = "content1";

fn digest() -> Digest {
    Digest::of(BODY.as_bytes())
}

fn conditional(request: &Request) -> Reply {
    match request.headers.get("if-none-match").map(String::as_str) {
        Some("\"one\"") => Reply::new(304, ""),
        Some(_) | None => Reply::new(200, BODY)
            .with("ETag", "\"one\"")
            .with("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
            .with("Content-Disposition", "attachment; filename=\"../name.txt\""),
    }
}

fn read(fixture: &Fixture, fetched: &Fetched) -> Vec<u8> {
    std::fs::read(fixture.sources.store.layout().blob_path(&fetched.digest)).unwrap()
}

#[tokio::test]
async fn a_second_fetch_asks_whether_the_first_still_holds() {
    let server = Server::start(conditional);
    let fixture = Fixture::new();
    let url = server.url("/foo?a=b");
    let first = fetch(&fixture.sources, &url, None).await.unwrap();
    assert_eq!((first.digest, first.size), (digest(), 8));
    assert_eq!((first.last_modified, first.filename.as_str()), (Some(784_111_777), "name.txt"));
    assert_eq!((first.freshness, read(&fixture, &first)), (Freshness::Downloaded, BODY.as_bytes().to_vec()));
    let second = fetch(&fixture.sources, &url, None).await.unwrap();
    assert_eq!(second, Fetched { freshness: Freshness::Unchanged, ..first.clone() });
    assert_eq!(server.requests()[1].headers["if-none-match"], "\"one\"");
    // Somebody cleaned up.
    fixture.sources.store.layout().remove(&first.digest).unwrap();
    let third = fetch(&fixture.sources, &url, None).await.unwrap();
    assert_eq!(third, first);
    assert!(!server.requests()[2].headers.contains_key("if-none-match"));
}

#[tokio::test]
async fn servers_that_ignore_the_condition_are_not_read_twice() {
    let server = Server::start(|_| Reply::new(200, BODY).with("ETag", "W/\"one\""));
    let fixture = Fixture::new();
    for expected in [Freshness::Downloaded, Freshness::Unchanged] {
        assert_eq!(fetch(&fixture.sources, &server.url("/x"), None).await.unwrap().freshness, expected);
    }
}

#[tokio::test]
async fn a_date_is_asked_for_only_where_it_tells_versions_apart() {
    let check = async |modified: &'static str, asked: bool| {
        let server = Server::start(move |_| {
            let reply = Reply::new(200, BODY).with("Last-Modified", modified);
            reply.with("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
        });
        let fixture = Fixture::new();
        fetch(&fixture.sources, &server.url("/x"), None).await.unwrap();
        fetch(&fixture.sources, &server.url("/x"), None).await.unwrap();
        assert_eq!(server.requests()[1].headers.contains_key("if-modified-since"), asked, "{modified}");
    };
    check("Sun, 06 Nov 1994 08:40:00 GMT", true).await;
    check("Sun, 06 Nov 1994 08:49:30 GMT", false).await;
}

#[tokio::test]
async fn src_08_a_wrong_checksum_leaves_nothing() {
    let server = Server::start(conditional);
    let fixture = Fixture::new();
    let wrong = Digest::of(b"other");
    let error = fetch(&fixture.sources, &server.url("/foo"), Some(wrong)).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("digest mismatch") && text.contains(&wrong.to_string()), "{text}");
    assert!(text.contains(&digest().to_string()) && !error.is_refusal());
    assert_eq!(fixture.blobs(), 0);
    assert_eq!(std::fs::read_dir(fixture.sources.store.root().join("images/blobs")).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(fixture.sources.store.root().join("sources")).unwrap().count(), 0);
    // What is unchanged on the server is wrong all the same.
    fetch(&fixture.sources, &server.url("/foo"), Some(digest())).await.unwrap();
    let error = fetch(&fixture.sources, &server.url("/foo"), Some(wrong)).await.unwrap_err();
    assert!(error.to_string().starts_with("digest mismatch"), "{error}");
}

#[tokio::test]
async fn a_checksum_that_was_met_before_needs_no_server() {
    let server = Server::start(conditional);
    let fixture = Fixture::new();
    let url = server.url("/foo");
    let first = fetch(&fixture.sources, &url, Some(digest())).await.unwrap();
    let second = fetch(&fixture.sources, &url, Some(digest())).await.unwrap();
    assert_eq!(second, Fetched { freshness: Freshness::Known, ..first });
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn img_04_a_checksum_by_sha512_is_verified_and_the_blob_is_the_same() {
    let server = Server::start(conditional);
    let fixture = Fixture::new();
    let url = server.url("/foo");
    let [right, wrong] = [BODY, "other"].map(|text| Algorithm::Sha512.digest(text.as_bytes()));
    let error = fetch(&fixture.sources, &url, Some(wrong)).await.unwrap_err().to_string();
    assert!(error.starts_with("digest mismatch") && error.contains(&right.to_string()), "{error}");
    assert_eq!(fixture.blobs(), 0);
    assert_eq!(std::fs::read_dir(fixture.sources.store.root().join("images/blobs")).unwrap().count(), 1);
    let first = fetch(&fixture.sources, &url, Some(right)).await.unwrap();
    assert_eq!((first.digest, first.freshness), (digest(), Freshness::Downloaded));
    let asked = server.requests().len();
    for checksum in [right, digest()] {
        let again = fetch(&fixture.sources, &url, Some(checksum)).await.unwrap();
        assert_eq!(again, Fetched { freshness: Freshness::Known, ..first.clone() });
    }
    assert_eq!(server.requests().len(), asked);
    // What is unchanged on the server is wrong all the same.
    let error = fetch(&fixture.sources, &url, Some(wrong)).await.unwrap_err();
    assert!(error.to_string().starts_with("digest mismatch"), "{error}");
}

#[tokio::test]
async fn failures_that_pass_are_tried_again() {
    let check = async |bad: Reply, expected: usize| {
        let count = AtomicUsize::new(0);
        let server = Server::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
            0 => bad.clone(),
            _ => Reply::new(200, BODY),
        });
        let fixture = Fixture::new();
        let result = fetch(&fixture.sources, &server.url("/x"), None).await;
        assert_eq!(server.requests().len(), expected, "{result:?}");
        result
    };
    assert_eq!(check(Reply::new(503, "later"), 2).await.unwrap().digest, digest());
    let short = Reply { length: Some(100), ..Reply::new(200, BODY) };
    assert_eq!(check(short, 2).await.unwrap().digest, digest());
    let error = check(Reply::new(404, "no such thing"), 1).await.unwrap_err();
    assert!(error.to_string().contains("404") && !error.is_refusal(), "{error}");
    let error = check(Reply::new(401, ""), 1).await.unwrap_err();
    assert!(error.to_string().contains("--secret id=HTTP_AUTH_TOKEN_127.0.0.1"), "{error}");
    assert!(check(Reply::new(304, ""), 1).await.is_err());
}

#[tokio::test]
async fn a_server_that_stays_broken_is_given_up() {
    let server = Server::start(|_| Reply::new(500, "<b>\x1b[2Joops</b>"));
    let fixture = Fixture::new();
    let error = fetch(&fixture.sources, &server.url("/x"), None).await.unwrap_err().to_string();
    assert!(error.contains("3 attempts") && !error.contains('\x1b'), "{error}");
    assert_eq!((server.requests().len(), fixture.blobs()), (3, 0));
}

#[tokio::test]
async fn src_08_bodies_are_kept_as_they_are_sent() {
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let server = Server::start(move |request| match request.path.as_str() {
        "/gz" => Reply::new(200, gzip).with("Content-Encoding", "gzip"),
        _ => Reply::new(200, ""),
    });
    let fixture = Fixture::new();
    let fetched = fetch(&fixture.sources, &server.url("/gz"), None).await.unwrap();
    assert_eq!(read(&fixture, &fetched), gzip);
    assert!(!server.requests()[0].headers.contains_key("accept-encoding"));
    assert_eq!(fetch(&fixture.sources, &server.url("/empty"), None).await.unwrap().size, 0);
}

#[tokio::test]
async fn src_08_large_bodies_are_refused() {
    let server = Server::start(|request| match request.path.as_str() {
        "/told" => Reply { length: Some(1_000_000), ..Reply::new(200, "") },
        _ => Reply::new(200, vec![b'x'; 1001]),
    });
    let mut fixture = Fixture::new();
    fixture.sources.limits.bytes = 1000;
    for path in ["/told", "/sent"] {
        let error = fetch(&fixture.sources, &server.url(path), None).await.unwrap_err();
        assert!(error.is_refusal(), "{error}");
    }
    assert_eq!((fixture.blobs(), server.requests().len()), (0, 2));
}

#[tokio::test]
async fn redirects_are_followed_without_the_credentials() {
    let target = Server::start(|_| Reply::new(200, BODY));
    let there = target.url("/target/name");
    let server = Server::start(move |request| match request.path.as_str() {
        "/away" => Reply::new(302, "").with("Location", &there),
        "/here" => Reply::new(301, "").with("Location", "other"),
        "/loop" => Reply::new(302, "").with("Location", "/loop"),
        "/file" => Reply::new(302, "").with("Location", "file:///etc/passwd"),
        "/meta" => Reply::new(302, "").with("Location", "http://169.254.169.254/latest"),
        _ => Reply::new(200, BODY),
    });
    let mut fixture = Fixture::new();
    fixture.sources.secrets = Secrets::new([("HTTP_AUTH_TOKEN_127.0.0.1".to_owned(), b"tok\n".to_vec())]);
    let fetched = fetch(&fixture.sources, &server.url("/away"), None).await.unwrap();
    assert_eq!((fetched.digest, fetched.filename.as_str()), (digest(), "away"));
    assert!(!target.requests()[0].headers.contains_key("authorization"));
    fetch(&fixture.sources, &server.url("/here"), None).await.unwrap();
    let sent: Vec<_> =
        server.requests().iter().map(|request| request.headers["authorization"].clone()).collect();
    assert_eq!(sent, ["Bearer tok"; 3]);
    for path in ["/loop", "/file", "/meta"] {
        let error = fetch(&fixture.sources, &server.url(path), None).await.unwrap_err();
        assert!(error.is_refusal(), "{path}: {error}");
    }
    // One request and five redirects.
    assert_eq!(server.requests().iter().filter(|request| request.path == "/loop").count(), 6);
}

#[tokio::test]
async fn src_05_credentials_of_urls_are_sent_and_not_told() {
    let server = Server::start(|request| match request.path.as_str() {
        "/ok" => Reply::new(200, BODY),
        _ => Reply::new(403, ""),
    });
    let fixture = Fixture::new();
    let url = |path: &str| format!("http://user:canary@{}{path}?key=canary", server.address);
    fetch(&fixture.sources, &url("/ok?"), None).await.unwrap_err();
    let error = fetch(&fixture.sources, &url("/no"), None).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    let error = fetch(&fixture.sources, "ftp://user:canary@h/x?canary", None).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    let ok = format!("http://user:canary@{}/ok", server.address);
    fetch(&fixture.sources, &ok, None).await.unwrap();
    assert_eq!(server.requests().last().unwrap().headers["authorization"], "Basic dXNlcjpjYW5hcnk=");
    for entry in std::fs::read_dir(fixture.sources.store.root().join("sources")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(!text.contains("canary"), "{text}");
    }
}

#[tokio::test]
async fn what_is_no_url() {
    let fixture = Fixture::new();
    for text in ["file:///etc/passwd", "ftp://h/x", "x", "", "http://", "http://[::1", "javascript:x"] {
        let error = fetch(&fixture.sources, text, None).await.expect_err(text);
        assert!(matches!(error, SourceError::Url { .. }), "{text}: {error}");
    }
}

#[tokio::test]
async fn secrets_are_headers_or_errors() {
    let server = Server::start(|_| Reply::new(200, BODY));
    let mut fixture = Fixture::new();
    let secret = |id: &str, value: &[u8]| Secrets::new([(format!("{id}_127.0.0.1"), value.to_vec())]);
    fixture.sources.secrets = secret("HTTP_AUTH_HEADER", b"Basic abc");
    fetch(&fixture.sources, &server.url("/x"), None).await.unwrap();
    assert_eq!(server.requests()[0].headers["authorization"], "Basic abc");
    for bad in [&b"a\r\nX: y"[..], &[0xff]] {
        fixture.sources.secrets = secret("HTTP_AUTH_TOKEN", bad);
        let error = fetch(&fixture.sources, &server.url("/y"), None).await.unwrap_err();
        assert!(matches!(error, SourceError::Secret { .. }), "{error}");
    }
    assert!(!format!("{:?}", secret("HTTP_AUTH_TOKEN", b"canary")).contains("canary"));
}

#[tokio::test]
async fn the_file_of_a_step_has_its_mode_and_time() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let server = Server::start(conditional);
    let fixture = Fixture::new();
    let fetched = fetch(&fixture.sources, &server.url("/foo"), None).await.unwrap();
    let op = |filename: &str, last_modified| {
        let filename = filename.to_owned();
        HttpOp { url: String::new(), digest: fetched.digest, filename, last_modified }
    };
    let directory = fixture.scratch("d");
    let store = &fixture.sources.store;
    for (op, name, time) in [(op("f", Some(784_111_777)), "f", 784_111_777), (op("../g", None), "g", 0)] {
        let path = place(store, &op, &directory).unwrap();
        assert_eq!((path.clone(), std::fs::read(&path).unwrap()), (directory.join(name), BODY.into()));
        let metadata = path.metadata().unwrap();
        assert_eq!((metadata.permissions().mode() & 0o7777, metadata.mtime()), (0o600, time));
    }
    assert!(place(store, &op("f", None), &directory).is_err());
    store.layout().remove(&fetched.digest).unwrap();
    assert!(place(store, &op("h", None), &directory).is_err() && !directory.join("h").exists());
}
