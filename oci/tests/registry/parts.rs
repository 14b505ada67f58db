//! Large blobs over several connections: what is asked for, what is believed, and what breaking costs.
//!
//! The first connection of each test stops after some bytes until a gate opens, so that others can help.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use oci::layout::Layout;
use oci::media_type::Types;
use oci::registry::address::Authority;
use oci::registry::{Login, Problem, Settings, plan_push};
use oci::{Digest, Reference};

use crate::fixture::{DockerRegistry, client, image, noise, read_blob, settings};
use crate::server::{Reply, Request, Server, wait_for};
use crate::tls::{Certificates, https};

/// Bytes of the blob.
const SIZE: usize = 1_000_000;

/// Bytes of a part.
const PART: usize = 100_000;

/// Bytes that the first connection gets before it is stopped.
const HELD: usize = 50_000;

fn in_parts() -> Settings {
    let mut settings = settings();
    settings.limits.part = PART as u64;
    settings
}

/// Returns what a request asks for; `None` for everything.
fn asked(request: &Request) -> Option<Range<usize>> {
    let (first, last) = request.header("range").strip_prefix("bytes=")?.split_once('-')?;
    let end = last.parse::<usize>().map_or(SIZE, |last| last + 1);
    Some(first.parse().unwrap()..end)
}

fn partial(blob: &[u8], range: Range<usize>) -> Reply {
    let text = format!("bytes {}-{}/{}", range.start, range.end - 1, blob.len());
    Reply::new(206).header("Content-Range", text).body(&blob[range])
}

/// A registry with one blob. What `habit` returns is sent instead of the right part.
fn registry(
    blob: &[u8],
    habit: impl Fn(&Request, &Range<usize>, Reply) -> Reply + Send + Sync + 'static,
) -> Server {
    let (blob, gate) = (blob.to_vec(), Arc::new(AtomicBool::new(false)));
    Server::start(move |request| match asked(request) {
        None => Reply { hold: Some((HELD, gate.clone())), ..Reply::new(200).body(blob.clone()) },
        Some(range) => {
            let reply = habit(request, &range, partial(&blob, range.clone()));
            // The last part has been asked for, or there will be none.
            if range.end == SIZE || reply.status != 206 || range.start < PART {
                gate.store(true, Ordering::SeqCst);
            }
            reply
        }
    })
}

fn ranges(server: &Server) -> Vec<Range<usize>> {
    let mut ranges: Vec<_> = server.requests().iter().filter_map(asked).collect();
    ranges.sort_by_key(|range| range.start);
    ranges
}

async fn read(server: &Server, blob: &[u8]) -> Result<Vec<u8>, oci::registry::Error> {
    let (client, _) = client(in_parts());
    read_blob(&client, &server.reference("a"), blob).await
}

#[tokio::test]
async fn a_large_blob_is_asked_for_in_parts_and_each_byte_once() {
    let blob = noise(1, SIZE);
    let server = registry(&blob, |_, _, right| right);
    assert_eq!(read(&server, &blob).await.unwrap(), blob);
    let ranges = ranges(&server);
    assert_eq!(server.requests().len(), ranges.len() + 1, "the first connection asks for everything");
    assert!(ranges[0].start >= HELD && ranges[0].start <= HELD + PART, "{ranges:?}");
    assert_eq!(ranges.last().unwrap().end, SIZE);
    for pair in ranges.windows(2) {
        assert_eq!((pair[0].end, pair[0].len()), (pair[1].start, PART), "{ranges:?}");
    }
}

#[tokio::test]
async fn small_blobs_and_single_connections_have_no_parts() {
    let blob = noise(2, SIZE);
    let (mut one, mut large) = (in_parts(), in_parts());
    one.limits.parallel = 1;
    large.limits.part = SIZE as u64 / 3;
    for settings in [one, large] {
        let body = blob.clone();
        let server = Server::start(move |_| Reply::new(200).body(body.clone()));
        let (client, _) = client(settings);
        assert_eq!(read_blob(&client, &server.reference("a"), &blob).await.unwrap(), blob);
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_server_without_ranges_is_asked_once() {
    let blob = noise(3, SIZE);
    let body = blob.clone();
    let server = registry(&blob, move |_, _, _| Reply::new(200).body(body.clone()));
    assert_eq!(read(&server, &blob).await.unwrap(), blob);
    assert_eq!(ranges(&server).len(), 1);
}

#[tokio::test]
async fn a_server_that_refuses_more_connections_is_left_alone() {
    let blob = noise(4, SIZE);
    for status in [403, 416, 429, 500, 503] {
        let server = registry(&blob, move |_, _, _| Reply::new(status));
        assert_eq!(read(&server, &blob).await.unwrap(), blob, "{status}");
        assert_eq!(ranges(&server).len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_server_that_stops_having_ranges_sends_the_rest_whole() {
    let blob = noise(5, SIZE);
    let (body, served) = (blob.clone(), AtomicUsize::new(0));
    let server = registry(&blob, move |_, _, right| match served.fetch_add(1, Ordering::SeqCst) {
        0 | 1 => right,
        _ => Reply::new(200).body(body.clone()),
    });
    assert_eq!(read(&server, &blob).await.unwrap(), blob);
}

#[tokio::test]
async fn a_part_that_breaks_goes_on_where_it_broke() {
    let blob = noise(6, SIZE);
    let breaks = AtomicUsize::new(0);
    let server = registry(&blob, move |_, range, right| {
        let broken = range.end == SIZE && breaks.fetch_add(1, Ordering::SeqCst) < 3;
        if broken { right.cut(1000) } else { right }
    });
    assert_eq!(read(&server, &blob).await.unwrap(), blob);
    let last: Vec<_> = ranges(&server).into_iter().filter(|range| range.end == SIZE).collect();
    let start = last[0].start;
    let expected: Vec<_> = (0..4).map(|count| start + count * 1000..SIZE).collect();
    assert_eq!(last, expected);
}

#[tokio::test]
async fn a_server_that_sends_less_than_was_asked_is_asked_for_the_rest() {
    let blob = noise(14, SIZE);
    // Half of what is asked for, and never more than its limit.
    for limit in [PART, 70_000] {
        let body = blob.clone();
        let server = registry(&blob, move |_, range, _| {
            let length = range.len().div_ceil(2).max(range.len().min(limit));
            partial(&body, range.start..range.start + length.min(limit))
        });
        assert_eq!(read(&server, &blob).await.unwrap(), blob, "{limit}");
    }
    let body = blob.clone();
    let halving = registry(&blob, move |_, range, _| {
        partial(&body, range.start..range.start + range.len().div_ceil(2))
    });
    assert_eq!(read(&halving, &blob).await.unwrap(), blob);
}

#[tokio::test]
async fn a_part_that_is_refused_is_taken_from_the_whole() {
    let blob = noise(15, SIZE);
    for status in [400, 403, 416] {
        let (gate, body, wholes) =
            (Arc::new(AtomicBool::new(false)), blob.clone(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&wholes);
        let server = Server::start(move |request| match asked(request) {
            None if count.fetch_add(1, Ordering::SeqCst) == 0 => {
                Reply { hold: Some((HELD, gate.clone())), ..Reply::new(200).body(body.clone()) }
            }
            None => Reply::new(200).body(body.clone()),
            Some(range) if range.start > SIZE / 2 => {
                gate.store(true, Ordering::SeqCst);
                Reply::new(status)
            }
            Some(range) => partial(&body, range),
        });
        assert_eq!(read(&server, &blob).await.unwrap(), blob, "{status}");
        assert!(wholes.load(Ordering::SeqCst) > 1, "{status}");
    }
}

#[tokio::test]
async fn a_part_that_always_breaks_ends_the_pull() {
    let blob = noise(7, SIZE);
    let server = registry(&blob, |_, range, right| if range.end == SIZE { right.cut(0) } else { right });
    let error = read(&server, &blob).await.unwrap_err();
    assert!(matches!(*error.problem, Problem::Exhausted { attempts: 6, .. }), "{error}");
}

#[tokio::test]
async fn a_first_connection_that_breaks_ends_where_the_parts_begin() {
    let blob = noise(8, SIZE);
    let (body, gate, count) = (blob.clone(), Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
    let server = Server::start(move |request| match asked(request) {
        None => {
            assert_eq!(count.fetch_add(1, Ordering::SeqCst), 0, "it is resumed, not begun again");
            Reply { hold: Some((HELD, gate.clone())), ..Reply::new(200).body(body.clone()).cut(HELD + 10) }
        }
        Some(range) => {
            gate.store(gate.load(Ordering::SeqCst) || range.end == SIZE, Ordering::SeqCst);
            partial(&body, range)
        }
    });
    assert_eq!(read(&server, &blob).await.unwrap(), blob);
    let ranges = ranges(&server);
    assert_eq!(ranges[0].start, HELD + 10);
    assert_eq!(ranges[0].end, ranges[1].start);
}

/// Answers that claim to be a part, but not the one that was asked for.
fn lies(blob: &[u8], range: &Range<usize>) -> Vec<Reply> {
    let (first, last) = (range.start, range.end - 1);
    let claims = [
        format!("bytes {}-{last}/{SIZE}", first - 1),
        format!("bytes {}-{last}/{SIZE}", first + 1),
        format!("bytes {first}-{}/{SIZE}", last + 1),
        format!("bytes {first}-{last}/{}", SIZE + 1),
        format!("items {first}-{last}/{SIZE}"),
        format!("bytes */{SIZE}"),
        String::new(),
    ];
    let body = blob[range.clone()].to_vec();
    claims.map(|claim| Reply::new(206).header("Content-Range", claim).body(body.clone())).to_vec()
}

#[tokio::test]
async fn a_part_that_is_another_one_is_refused() {
    let blob = noise(9, SIZE);
    for lie in 0..lies(&blob, &(1..2)).len() {
        // In the middle it ends the pull; a first part that is wrong is not used.
        let body = blob.clone();
        let middle = registry(&blob, move |_, range, right| match range.end >= SIZE - PART {
            true => lies(&body, &(range.start..range.end.min(SIZE - 1))).remove(lie),
            false => right,
        });
        let error = read(&middle, &blob).await.unwrap_err();
        assert!(matches!(*error.problem, Problem::Malformed { .. }), "{lie}: {error}");
        let (body, gate) = (blob.clone(), Arc::new(AtomicBool::new(false)));
        let first = Server::start(move |request| match asked(request) {
            None => Reply { hold: Some((HELD, gate.clone())), ..Reply::new(200).body(body.clone()) },
            Some(range) => {
                gate.store(true, Ordering::SeqCst);
                lies(&body, &range).remove(lie)
            }
        });
        assert_eq!(read(&first, &blob).await.unwrap(), blob, "{lie}");
        assert_eq!(ranges(&first).len(), 1, "{lie}");
    }
}

#[tokio::test]
async fn a_part_longer_than_it_says_is_refused() {
    let blob = noise(10, SIZE);
    let body = blob.clone();
    let server = registry(&blob, move |_, range, right| {
        if range.end != SIZE {
            return right;
        }
        let length = range.len() + 1;
        let mut chunked = format!("{length:x}\r\n").into_bytes();
        chunked.extend_from_slice(&body[range.start - 1..]);
        chunked.extend_from_slice(b"\r\n0\r\n\r\n");
        right.header("Transfer-Encoding", "chunked").body(chunked)
    });
    let error = read(&server, &blob).await.unwrap_err();
    assert!(matches!(*error.problem, Problem::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn wrong_bytes_in_a_part_are_found_and_nothing_is_kept() {
    let blob = noise(11, SIZE);
    let honest = registry(&blob, |_, _, right| right);
    let lying = registry(&blob, |_, range, right| {
        if range.end != SIZE {
            return right;
        }
        let mut wrong = right;
        wrong.body[7] ^= 1;
        wrong
    });
    let directory = tempfile::tempdir().unwrap();
    let layout = Layout::create(directory.path()).unwrap();
    let digest = Digest::of(&blob);
    let store = async |server: &Server| {
        let (client, _) = client(in_parts());
        let incoming = layout.incoming().unwrap();
        let (reference, size) = (server.reference("a"), SIZE as u64);
        client.pull_file(&reference, digest, size, incoming.file().unwrap()).await?;
        incoming.finish_verified(&digest, size).unwrap();
        Ok::<_, oci::registry::Error>(())
    };
    let error = store(&lying).await.unwrap_err();
    assert!(matches!(*error.problem, Problem::Digest { .. }), "{error}");
    let left = || std::fs::read_dir(directory.path().join("blobs")).unwrap().count();
    assert_eq!((layout.has(&digest).unwrap(), left()), (false, 1), "only the directory sha256 is there");
    store(&honest).await.unwrap();
    assert_eq!((layout.has(&digest).unwrap(), left()), (true, 1));
}

#[tokio::test]
async fn every_part_is_redirected_for_itself_and_takes_no_credentials_along() {
    let blob = noise(12, SIZE);
    let storage = registry(&blob, |_, _, right| right);
    let (place, count) = (storage.address, AtomicUsize::new(0));
    let server = Server::start(move |request| match request.header("authorization") {
        "" => Reply::new(401).header("WWW-Authenticate", "Basic realm=x"),
        _ => {
            let signature = count.fetch_add(1, Ordering::SeqCst);
            Reply::new(307).header("Location", format!("http://{place}/blob?signature={signature}"))
        }
    });
    let mut settings = in_parts();
    settings.allowed.insert(Authority::parse(&place.to_string()).unwrap());
    let login = Login { username: "u".to_owned(), password: "secret".to_owned() };
    settings.logins.insert(server.address.to_string(), login);
    let (client, _) = client(settings);
    let reference: Reference = server.reference("a");
    assert_eq!(read_blob(&client, &reference, &blob).await.unwrap(), blob);
    let requests = storage.requests();
    assert!(requests.len() > 3, "{}", requests.len());
    let mut targets: Vec<_> = requests.iter().map(|request| request.target.clone()).collect();
    targets.sort();
    targets.dedup();
    assert_eq!(targets.len(), requests.len(), "each part has a signature of its own");
    assert!(requests.iter().all(|request| request.header("authorization").is_empty()));
}

#[tokio::test]
async fn connections_are_not_more_than_allowed() {
    let blobs: Vec<Vec<u8>> = (20..26).map(|seed| noise(seed, SIZE)).collect();
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let known: Vec<(String, Vec<u8>)> =
        blobs.iter().map(|blob| (Digest::of(blob).to_string(), blob.clone())).collect();
    let (counted, highest) = (open.clone(), most.clone());
    let server = Server::start(move |request| {
        let now = counted.fetch_add(1, Ordering::SeqCst) + 1;
        highest.fetch_max(now, Ordering::SeqCst);
        std::thread::sleep(std::time::Duration::from_millis(30));
        counted.fetch_sub(1, Ordering::SeqCst);
        let blob = &known.iter().find(|(digest, _)| request.target.ends_with(digest)).unwrap().1;
        match asked(request) {
            None => Reply::new(200).body(blob.clone()),
            Some(range) => partial(blob, range),
        }
    });
    let mut settings = in_parts();
    settings.limits.parallel = 2;
    let (client, _) = client(settings);
    let reference = server.reference("a");
    let pulls = blobs.iter().map(|blob| read_blob(&client, &reference, blob));
    let read = futures_util::future::try_join_all(pulls).await.unwrap();
    assert!(read == blobs);
    assert!(most.load(Ordering::SeqCst) <= 2, "{}", most.load(Ordering::SeqCst));
}

#[tokio::test]
async fn the_real_registry_serves_parts_over_tls() {
    let Some(made) = Certificates::make_quickly() else { return };
    let [certificate, key, authority] = ["server.pem", "server.key", "ca.pem"].map(|name| made.path(name));
    let tls = format!("  tls: {{certificate: {}, key: {}}}", certificate.display(), key.display());
    let Some(registry) = DockerRegistry::start(&tls) else { return };
    let target = registry.reference("team/app:1");
    let mut settings = settings();
    settings.limits.part = 1 << 20;
    settings.registries.insert(target.registry.clone(), https(&[authority]));
    let (client, _) = client(settings);
    let layer = noise(13, 40 << 20);
    let image = image(std::slice::from_ref(&layer), Types::Oci, &["1"]);
    client.push(&plan_push(&target, &image)).await.unwrap();
    assert!(read_blob(&client, &target, &layer).await.unwrap() == layer);
}

#[tokio::test]
async fn a_blob_that_waits_comes_before_further_parts_of_a_large_one() {
    let (large, small) = (noise(30, SIZE), noise(31, 1000));
    let (wanted, gate) = (Arc::new(tokio::sync::Notify::new()), Arc::new(AtomicBool::new(false)));
    let (body, little, begun) = (large.clone(), small.clone(), Arc::clone(&wanted));
    let asks = Arc::new(AtomicBool::new(false));
    let asking = Arc::clone(&asks);
    let server = Server::start(move |request| match asked(request) {
        None if request.target.ends_with(&Digest::of(&little).to_string()) => {
            Reply::new(200).body(&little[..])
        }
        None => Reply { hold: Some((HELD, gate.clone())), ..Reply::new(200).body(body.clone()) },
        Some(range) => {
            begun.notify_one();
            // The client asks for the small one before it hears of this part: it does both on one thread.
            wait_for(&asking);
            gate.store(gate.load(Ordering::SeqCst) || range.end == SIZE, Ordering::SeqCst);
            partial(&body, range)
        }
    });
    let mut settings = in_parts();
    settings.limits.parallel = 2;
    let (client, _) = client(settings);
    let reference = server.reference("a");
    let later = async {
        wanted.notified().await;
        asks.store(true, Ordering::SeqCst);
        read_blob(&client, &reference, &small).await
    };
    let (first, second) = tokio::join!(read_blob(&client, &reference, &large), later);
    assert!(first.unwrap() == large && second.unwrap() == small);
    let requests = server.requests();
    let place = |of: &dyn Fn(&Request) -> bool| requests.iter().position(of).unwrap();
    let last = place(&|request| asked(request).is_some_and(|range| range.end == SIZE));
    let waited = place(&|request| request.target.ends_with(&Digest::of(&small).to_string()));
    assert!(waited < last, "the small blob was asked for after all parts of the large one");
}
