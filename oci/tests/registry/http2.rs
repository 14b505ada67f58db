//! HTTP/2, which the client offers to every registry behind TLS: what a hostile server can do with frames costs
//! bounded memory and time, and what a busy one does is tried again (reliability REG-14, REG-17).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oci::Digest;
use oci::media_type::{OCI_LAYER, OCI_MANIFEST, Types};
use oci::registry::{Event, PushImage, Settings, plan_push};

use crate::counting::Taken;
use crate::fixture::{blob, client, image, noise};
use crate::frames::{
    CONTINUATION, Connection, DATA, END_HEADERS, END_STREAM, GOAWAY, H2Server, HEADERS, Method, RST_STREAM,
    Request, WINDOW_UPDATE, text,
};
use crate::server::wait_for;

/// What one attack may cost.
const MOST_MEMORY: u64 = 64 << 20;
const MOST_TIME: Duration = Duration::from_secs(120);

fn manifest() -> Vec<u8> {
    image(&[noise(1, 100)], Types::Oci, &[]).documents[0].raw.to_vec()
}

fn serve_manifest(connection: &mut Connection, stream: u32) -> io::Result<()> {
    connection.answer(stream, 200, &[("content-type", OCI_MANIFEST)], &manifest())
}

/// Settings that lose patience soon, with fewer attempts: each of them meets the same.
fn impatient(server: &H2Server) -> Settings {
    let mut settings = server.settings();
    settings.timeouts.stall = Duration::from_millis(700);
    settings.timeouts.answer = Duration::from_secs(2);
    settings.timeouts.upload_answer = Duration::from_secs(2);
    settings.retry.attempts = 3;
    settings
}

/// A server that does `evil` to every request is given up within bounds; returns the error's line.
async fn check_bounded(
    evil: impl Fn(&mut Connection, Request) -> io::Result<()> + Send + Sync + 'static,
) -> Option<String> {
    let server = H2Server::start(Vec::new(), move |connection, _| {
        loop {
            let request = connection.request()?;
            evil(connection, request)?;
        }
    })?;
    let (client, _) = client(impatient(&server));
    let (taken, start) = (Taken::since_now(), Instant::now());
    let error = client.root(&server.reference("a/b:1")).await.unwrap_err();
    assert!(taken.peak() < MOST_MEMORY, "{} MiB", taken.peak() >> 20);
    assert!(start.elapsed() < MOST_TIME, "{:?}", start.elapsed());
    Some(error.to_string())
}

#[tokio::test]
async fn http2_is_spoken_where_the_registry_offers_it() {
    let Some(server) = H2Server::start(Vec::new(), |connection, _| {
        loop {
            let stream = connection.request()?.stream;
            serve_manifest(connection, stream)?;
        }
    }) else {
        return;
    };
    let (client, events) = client(server.settings());
    for _ in 0..3 {
        let found = client.root(&server.reference("a/b:1")).await.unwrap();
        assert_eq!(*found.raw(), manifest());
    }
    assert!(events.lock().unwrap().is_empty());
}

#[tokio::test]
async fn reg_17_a_flood_of_empty_data_frames_ends() {
    let line = check_bounded(|connection, request| {
        connection.head(request.stream, 0, 200, &[("content-type", OCI_MANIFEST)])?;
        loop {
            connection.frame(DATA, 0, request.stream, &[])?;
        }
    });
    let Some(line) = line.await else { return };
    assert!(line.starts_with("pull 127.0.0.1:"), "{line}");
}

#[tokio::test]
async fn reg_17_headers_that_never_end_are_cut() {
    let line = check_bounded(|connection, request| {
        let mut field = vec![0];
        text(&mut field, "x-flood");
        text(&mut field, &"f".repeat(8000));
        connection.frame(HEADERS, 0, request.stream, &[&[0x88], &field[..]].concat())?;
        loop {
            connection.frame(CONTINUATION, 0, request.stream, &field)?;
        }
    });
    let Some(line) = line.await else { return };
    assert!(line.starts_with("pull 127.0.0.1:"), "{line}");
}

#[tokio::test]
async fn reg_17_a_header_that_unpacks_to_megabytes_is_refused() {
    let line = check_bounded(|connection, request| {
        // A field of 4000 bytes that enters the dynamic table, and then one byte for each repetition of it.
        let mut block = vec![0x88, 0x40];
        text(&mut block, "x-bomb");
        text(&mut block, &"b".repeat(3900));
        block.extend_from_slice(&[0xbe; 12_000]);
        connection.frame(HEADERS, END_HEADERS, request.stream, &block)?;
        connection.frame(DATA, END_STREAM, request.stream, &manifest())
    });
    let Some(line) = line.await else { return };
    assert!(line.starts_with("pull 127.0.0.1:"), "{line}");
}

#[tokio::test]
async fn reg_17_long_headers_are_read() {
    let Some(server) = H2Server::start(Vec::new(), |connection, _| {
        loop {
            let stream = connection.request()?.stream;
            let long = "s".repeat(8000);
            let fields =
                [("content-type", OCI_MANIFEST), ("content-security-policy", &long), ("x-more", &long)];
            connection.answer(stream, 200, &fields, &manifest())?;
        }
    }) else {
        return;
    };
    let (client, _) = client(server.settings());
    client.root(&server.reference("a/b:1")).await.unwrap();
}

/// SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113 §6.5.2).
fn initial_window(size: u32) -> Vec<u8> {
    [&4_u16.to_be_bytes()[..], &size.to_be_bytes()].concat()
}

/// Answers all that has no body: nothing is there, and uploads may begin.
fn answer_questions(connection: &mut Connection, request: Request) -> io::Result<()> {
    match request.method {
        Method::Post => {
            connection.answer(request.stream, 202, &[("location", "/v2/a/b/blobs/uploads/1")], b"")
        }
        Method::Get | Method::Other => connection.answer(request.stream, 404, &[], b""),
    }
}

fn one_blob(size: usize) -> PushImage {
    PushImage { blobs: vec![blob(&noise(2, size), OCI_LAYER)], documents: Vec::new() }
}

#[tokio::test]
async fn reg_17_a_window_that_never_opens_is_waited_for_in_bounds() {
    let Some(server) = H2Server::start(initial_window(0), |connection, _| {
        loop {
            let request = connection.request()?;
            if !request.body {
                answer_questions(connection, request)?;
            }
        }
    }) else {
        return;
    };
    let (client, _) = client(impatient(&server));
    let (taken, start) = (Taken::since_now(), Instant::now());
    // A larger one would have a connection of its own, of HTTP/1.1.
    let image = one_blob(3 << 20);
    let error = client.push(&plan_push(&server.reference("a/b"), &image)).await.unwrap_err();
    // A piece that is small enough to wait inside the connection counts as sent.
    let expected = ["stopped receiving", "did not answer after an upload"];
    assert!(expected.iter().any(|text| error.to_string().contains(text)), "{error}");
    assert!(taken.peak() < MOST_MEMORY, "{} MiB", taken.peak() >> 20);
    assert!(start.elapsed() < MOST_TIME, "{:?}", start.elapsed());
}

#[tokio::test]
async fn reg_17_a_small_window_that_opens_again_and_again_takes_the_blob() {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    let Some(server) = H2Server::start(initial_window(1000), move |connection, _| {
        loop {
            let request = connection.request()?;
            if !request.body {
                answer_questions(connection, request)?;
                continue;
            }
            loop {
                let (kind, flags, stream, payload) = connection.read()?;
                if kind != DATA || stream != request.stream {
                    continue;
                }
                count.fetch_add(payload.len(), Ordering::SeqCst);
                if flags & END_STREAM != 0 {
                    break;
                }
                let more = u32::try_from(payload.len()).unwrap().to_be_bytes();
                connection.frame(WINDOW_UPDATE, 0, stream, &more)?;
                connection.frame(WINDOW_UPDATE, 0, 0, &more)?;
            }
            connection.answer(request.stream, 201, &[], b"")?;
        }
    }) else {
        return;
    };
    let (client, events) = client(server.settings());
    client.push(&plan_push(&server.reference("a/b"), &one_blob(100_000))).await.unwrap();
    assert_eq!(taken.load(Ordering::SeqCst), 100_000);
    assert_eq!(
        events.lock().unwrap().iter().filter(|event| matches!(event, Event::Pushed { .. })).count(),
        1
    );
}

/// What a busy server does to a request instead of answering it.
#[derive(Debug, Clone, Copy)]
enum Nuisance {
    /// GOAWAY: requests from this stream on were not looked at (RFC 9113 §6.8).
    GoAway,
    /// RST_STREAM with this code (RFC 9113 §7).
    Reset(u32),
}

const NUISANCES: [Nuisance; 5] = [
    Nuisance::GoAway,
    // REFUSED_STREAM, CANCEL, INTERNAL_ERROR, ENHANCE_YOUR_CALM.
    Nuisance::Reset(7),
    Nuisance::Reset(8),
    Nuisance::Reset(2),
    Nuisance::Reset(11),
];

fn annoy(connection: &mut Connection, stream: u32, nuisance: Nuisance) -> io::Result<()> {
    match nuisance {
        Nuisance::GoAway => {
            let last = stream.saturating_sub(2).to_be_bytes();
            connection.frame(GOAWAY, 0, 0, &[last, [0; 4]].concat())?;
            Err(io::ErrorKind::ConnectionAborted.into())
        }
        Nuisance::Reset(code) => connection.frame(RST_STREAM, 0, stream, &code.to_be_bytes()),
    }
}

#[tokio::test]
async fn reg_14_goaway_and_reset_streams_are_tried_again() {
    for nuisance in NUISANCES {
        let seen = AtomicUsize::new(0);
        let Some(server) = H2Server::start(Vec::new(), move |connection, _| {
            loop {
                let stream = connection.request()?.stream;
                match seen.fetch_add(1, Ordering::SeqCst) {
                    0 | 1 => annoy(connection, stream, nuisance)?,
                    _ => serve_manifest(connection, stream)?,
                }
            }
        }) else {
            return;
        };
        let (client, _) = client(server.settings());
        let found = client.root(&server.reference("a/b:1")).await;
        let found = found.unwrap_or_else(|error| panic!("{nuisance:?}: {error}"));
        assert_eq!(*found.raw(), manifest());
    }
}

#[tokio::test]
async fn reg_14_a_blob_that_a_frame_ends_is_resumed() {
    let layer = noise(3, 300_000);
    for nuisance in NUISANCES {
        let (body, seen, taken) = (layer.clone(), AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
        let gate = taken.clone();
        let Some(server) = H2Server::start(Vec::new(), move |connection, _| {
            loop {
                let stream = connection.request()?.stream;
                if seen.fetch_add(1, Ordering::SeqCst) == 0 {
                    connection.head(stream, 0, 200, &[("content-length", "300000")])?;
                    for piece in body[..160_000].chunks(16_000) {
                        connection.frame(DATA, 0, stream, piece)?;
                    }
                    // What the client has not taken yet is lost with the connection.
                    wait_for(&gate);
                    annoy(connection, stream, nuisance)?;
                } else {
                    let range = [("content-range", "bytes 160000-299999/300000")];
                    connection.answer(stream, 206, &range, &body[160_000..])?;
                }
            }
        }) else {
            return;
        };
        let (client, _) = client(server.settings());
        let mut blob = client.open_blob(&server.reference("a/b"), Digest::of(&layer), 300_000).unwrap();
        let mut read = Vec::new();
        while let Some(piece) = blob.next().await.unwrap_or_else(|error| panic!("{nuisance:?}: {error}")) {
            read.extend_from_slice(&piece);
            taken.store(read.len() >= 160_000, Ordering::SeqCst);
        }
        assert!(read == layer, "{nuisance:?}");
    }
}

#[tokio::test]
async fn reg_14_a_server_that_only_goes_away_is_given_up() {
    let Some(line) =
        check_bounded(|connection, request| annoy(connection, request.stream, Nuisance::GoAway)).await
    else {
        return;
    };
    assert!(line.contains("attempts)"), "{line}");
    let refused =
        check_bounded(|connection, request| annoy(connection, request.stream, Nuisance::Reset(7))).await;
    assert!(refused.unwrap().contains("attempts)"));
}
