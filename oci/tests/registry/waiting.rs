//! Servers that are slow, busy or silent: what is waited for, how long, and what is said (reliability REG-11, REG-14).

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use oci::media_type::{OCI_LAYER, Types};
use oci::registry::settings::Transport;
use oci::registry::{Client, Event, Events, PushImage, Settings, plan_push};

use crate::fixture::{PATIENCE, blob, client, image, noise, read_blob, settings};
use crate::memory::{Habits, Memory};
use crate::server::{Raw, Reply, Server, reset, wait_for};

fn impatient() -> Settings {
    let mut settings = settings();
    settings.timeouts.connect = Duration::from_millis(300);
    // As outside tests, connections have clearly less time than answers: which of the two ran out is said.
    settings.timeouts.answer = Duration::from_millis(1500);
    settings.timeouts.stall = Duration::from_millis(300);
    settings.retry.attempts = 2;
    settings
}

/// The client gives the server up soon, and says what did not come.
async fn check_given_up(
    transport: Transport,
    expected: &str,
    act: impl Fn(TcpStream) + Send + Sync + 'static,
) {
    let server = Raw::start(act);
    let mut settings = impatient();
    settings.registries.entry(server.address.to_string()).or_default().transport = transport;
    let (client, _) = client(settings);
    let start = Instant::now();
    let error = client.root(&server.reference()).await.unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

#[tokio::test]
async fn reg_11_a_server_that_accepts_and_is_silent_is_given_up() {
    check_given_up(Transport::Http, "did not answer in time", |mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    })
    .await;
}

#[tokio::test]
async fn reg_11_a_handshake_that_stalls_is_given_up() {
    check_given_up(Transport::Https, "did not accept a connection", |mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    })
    .await;
}

#[tokio::test]
async fn reg_11_headers_that_never_end_are_given_up() {
    check_given_up(Transport::Http, "", |mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"X-More: and more\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    })
    .await;
    // As fast as they can be written: the size is bounded then.
    check_given_up(Transport::Http, "", |mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(&b"X-More: and more\r\n".repeat(1000)).is_ok() {}
    })
    .await;
}

#[tokio::test]
async fn reg_11_an_answer_that_is_no_http_is_asked_for_once() {
    let head = |text: &str| format!("HTTP/1.1 200 OK\r\n{text}\r\n\r\n").into_bytes();
    for answer in [
        head(&format!("X-Long: {}", "x".repeat(1 << 20))),
        head("no header"),
        head("Content-Length: many"),
        b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(),
    ] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let server = Raw::start(move |mut stream| {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&answer);
            // What is not read is not lost with a reset.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let (client, events) = client(settings());
        let error = client.root(&server.reference()).await.unwrap_err();
        assert!(error.to_string().contains("sent an answer that is no HTTP: "), "{error}");
        assert_eq!((asked.load(Ordering::SeqCst), events.lock().unwrap().len()), (1, 0), "{error}");
    }
}

#[tokio::test]
async fn a_registry_that_stores_for_long_is_told_of_once() {
    let memory = Memory::new(Habits::default());
    let told = Arc::new(AtomicBool::new(false));
    let heard = Arc::clone(&told);
    let server = Server::start(move |request| {
        // The blob is stored when the user knows what he waits for.
        if request.method == "PUT" && request.path().contains("/blobs/") {
            wait_for(&heard);
        }
        memory.answer(request)
    });
    let mut settings = settings();
    settings.timeouts.answer = Duration::from_secs(3);
    let notes = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&notes);
    let events = Events::new(move |event| {
        if matches!(&event, Event::Note(text) if text.contains("is still storing it; it may take 600 s")) {
            count.fetch_add(1, Ordering::SeqCst);
            told.store(true, Ordering::SeqCst);
        }
    });
    let image = PushImage { blobs: vec![blob(&noise(1, 10_000), OCI_LAYER)], documents: Vec::new() };
    let plan = plan_push(&server.reference("a/b"), &image);
    Client::new(settings, events).push(&plan).await.unwrap();
    assert_eq!(notes.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn reg_11_a_server_that_takes_its_time_is_waited_for() {
    let memory = Memory::new(Habits::default());
    let server = Server::start(move |request| {
        std::thread::sleep(Duration::from_millis(100));
        memory.answer(request)
    });
    let mut patient = settings();
    patient.timeouts.answer = PATIENCE;
    let (client, events) = client(patient);
    let layer = noise(1, 10_000);
    let image = image(std::slice::from_ref(&layer), Types::Oci, &["1"]);
    client.push(&plan_push(&server.reference("a/b"), &image)).await.unwrap();
    assert_eq!(read_blob(&client, &server.reference("a/b"), &layer).await.unwrap(), layer);
    assert!(!events.lock().unwrap().iter().any(|event| matches!(event, Event::Waiting { .. })));
}

/// A server that answers the first request with `first` and all others 404.
fn busy_once(first: Reply) -> Server {
    let count = AtomicUsize::new(0);
    Server::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => first.clone(),
        _ => Reply::new(404),
    })
}

/// Returns how long the client waited before it tried again.
async fn waited(first: Reply) -> Duration {
    let server = busy_once(first);
    let (client, events) = client(settings());
    let start = Instant::now();
    assert_eq!(client.digest(&server.reference("a/b:1")).await.unwrap(), None);
    assert_eq!(server.requests().len(), 2);
    let told = events.lock().unwrap().clone();
    let [Event::Waiting { delay, attempt: 1, attempts: 6, .. }] = &told[..] else { panic!("{told:?}") };
    assert!(start.elapsed() >= *delay);
    *delay
}

#[tokio::test]
async fn reg_14_what_may_pass_is_tried_again() {
    for status in [408, 425, 429, 500, 502, 503, 504] {
        assert!(waited(Reply::new(status)).await <= Duration::from_millis(50), "{status}");
    }
}

#[tokio::test]
async fn reg_14_what_will_not_pass_is_not_tried_again() {
    for status in [400, 403, 405, 409, 410, 412, 416, 451, 501, 505] {
        let server = Server::start(move |_| Reply::new(status));
        let (client, events) = client(settings());
        assert!(client.root(&server.reference("a/b:1")).await.is_err());
        assert_eq!(server.requests().len(), 1, "{status}");
        assert!(events.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn reg_14_retry_after_is_kept_in_seconds_and_as_a_date() {
    let second = Duration::from_secs(1)..Duration::from_secs(3);
    let date = |text: &str| {
        Reply::new(503).header("Date", "Wed, 21 Oct 2015 07:28:00 GMT").header("Retry-After", text)
    };
    assert!(second.contains(&waited(Reply::new(429).header("Retry-After", "1")).await));
    assert!(second.contains(&waited(date("Wed, 21 Oct 2015 07:28:01 GMT")).await));
    // In the past or nonsense: our own delay.
    let own = Duration::from_millis(50);
    assert!(waited(date("Wed, 21 Oct 2015 07:27:00 GMT")).await <= own);
    assert!(waited(Reply::new(429).header("Retry-After", "Wed, 21 Oct 2015 07:28:01 GMT")).await <= own);
    assert!(waited(Reply::new(429).header("Retry-After", "later")).await <= own);
}

#[tokio::test]
async fn reg_14_a_date_without_the_servers_own_is_held_against_our_clock() {
    let until = Arc::new(Mutex::new(None));
    let promised = Arc::clone(&until);
    let server = Server::start(move |_| {
        let mut until = promised.lock().unwrap();
        let now = jiff::Timestamp::now();
        match *until {
            None => {
                let later = jiff::Timestamp::from_second(now.as_second() + 3).unwrap();
                *until = Some(later);
                let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
                let later = printer.timestamp_to_rfc9110_string(&later).unwrap();
                Reply::new(429).header("Retry-After", later)
            }
            Some(later) if now < later => Reply::new(400),
            Some(_) => Reply::new(404),
        }
    });
    let (client, _) = client(settings());
    assert_eq!(client.digest(&server.reference("a/b:1")).await.unwrap(), None);
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn reg_14_a_wait_of_ages_ends_at_once_in_the_servers_words() {
    for (wait, seconds) in
        [("1000000000", "1000000000"), ("301", "301"), ("Thu, 22 Oct 2015 07:28:00 GMT", "86400")]
    {
        let body =
            r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#;
        let server = Server::start(move |_| {
            Reply::new(429)
                .header("Date", "Wed, 21 Oct 2015 07:28:00 GMT")
                .header("Retry-After", wait)
                .body(body)
        });
        let (client, _) = client(settings());
        let line = client.root(&server.reference("a/b:1")).await.unwrap_err().to_string();
        assert!(
            line.contains(&format!("asks to wait {seconds} s: TOOMANYREQUESTS: You have reached")),
            "{line}"
        );
        assert!(line.ends_with("try later, or log in for a higher limit"), "{line}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn reg_14_connections_that_are_reset_are_made_again() {
    let count = AtomicUsize::new(0);
    let server = Raw::start(move |mut stream| {
        // At once, after the request, and in the middle of the answer's head.
        let number = count.fetch_add(1, Ordering::SeqCst);
        if number > 0 {
            let _ = stream.read(&mut [0; 4096]);
        }
        let _ = match number {
            0 | 1 => Ok(()),
            2 => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le"),
            _ => stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        };
        if number < 3 {
            reset(&stream);
        }
    });
    let (client, events) = client(settings());
    assert_eq!(client.digest(&server.reference()).await.unwrap(), None);
    let waits = events.lock().unwrap().iter().filter(|event| matches!(event, Event::Waiting { .. })).count();
    assert!((1..=3).contains(&waits), "{waits}");
}

#[tokio::test]
async fn reg_14_a_registry_that_is_restarted_is_waited_for_longer_than_one_that_never_answered() {
    let server = Server::start(|_| Reply::new(404).header("Connection", "close"));
    let (address, reference) = (server.address, server.reference("a/b:1"));
    let (known, _) = client(settings());
    assert_eq!(known.digest(&reference).await.unwrap(), None);
    drop(server);
    while TcpStream::connect(address).is_ok() {
        tokio::task::yield_now().await;
    }
    for (client, attempts) in [(known, "(6 attempts)"), (client(settings()).0, "(3 attempts)")] {
        let error = client.digest(&reference).await.unwrap_err();
        assert!(error.to_string().contains(attempts), "{error}");
    }
}
