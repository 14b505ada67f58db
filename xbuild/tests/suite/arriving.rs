//! Bases that are unpacked while they arrive: what is begun early, and what is left when it was in vain.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{Registry, Scratch};

/// Answers of this many bytes are layers with programs in them.
const LARGE: usize = 200_000;

/// Changes an answer before its second half is sent, which is told apart by its start.
type Between = dyn Fn(&mut [u8]) + Send + Sync;

/// Passes requests on to a registry; between the halves of large blobs, something happens. Returns its address.
fn between_halves(upstream: &str, between: impl Fn(&mut [u8]) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let (upstream, between): (_, Arc<Between>) = (upstream.to_owned(), Arc::new(between));
    // The thread ends with the process: it has nothing to give back.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (upstream, between) = (upstream.clone(), Arc::clone(&between));
            std::thread::spawn(move || serve(&upstream, stream.ok()?, &*between));
        }
    });
    host
}

/// Serves one request without a body; the connection is closed after it.
fn serve(upstream: &str, mut client: TcpStream, between: &Between) -> Option<()> {
    let mut head = String::new();
    let mut reader = BufReader::new(client.try_clone().ok()?);
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head).ok().filter(|read| *read > 0)?;
    }
    let mut server = TcpStream::connect(upstream).ok()?;
    server.write_all(head.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes()).ok()?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).ok()?;
    let half = answer.len() / 2;
    client.write_all(&answer[..half]).ok()?;
    if head.contains("/blobs/") && answer.len() > LARGE {
        between(&mut answer[half..]);
    }
    client.write_all(&answer[half..]).ok()
}

/// Returns whether a file of a layer is in the store that is not in its place yet.
fn is_unpacking(store: &Path) -> bool {
    let entries = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    entries(store.join("tmp")).any(|staging| entries(staging.path().join("files")).next().is_some())
}

/// A base of several layers in a registry, the first a large one.
fn base(registry: &Registry) -> String {
    let scratch = Scratch::new().with_busybox();
    let steps = "FROM busybox\nRUN echo 1 > /one\nRUN rm /one && echo 2 > /two\nRUN ln /two /three && mkdir /d\n\
                 RUN echo 4 >> /two\nRUN echo 5 > /d/five\n";
    let context = scratch.context("c", &[("Dockerfile", steps)]);
    scratch.digest(&context, &["-t", &format!("{}/team/base:1", registry.host), "--push"]);
    "team/base:1".to_owned()
}

fn on(scratch: &Scratch, base: &str) -> PathBuf {
    let step = "RUN cat /two /three /d/five > /all && ! [ -e /one ]";
    scratch.context("c", &[("Dockerfile", &format!("FROM {base}\n{step}\n"))])
}

#[test]
fn a_base_is_unpacked_while_it_arrives() {
    let Some(registry) = Registry::start() else { return };
    let base = base(&registry);
    let scratch = Scratch::new();
    let (store, begun) = (scratch.store(), Arc::new(AtomicBool::new(false)));
    let seen = Arc::clone(&begun);
    let host = between_halves(&registry.host, move |_| {
        for _ in 0..2000 {
            if is_unpacking(&store) {
                return seen.store(true, Ordering::SeqCst);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    scratch.digest(&on(&scratch, &format!("{host}/{base}")), &["-t", "child"]);
    assert!(begun.load(Ordering::SeqCst), "nothing was unpacked before all of the layer was there");
    assert_eq!(scratch.xbuild(&["run", "child", "cat", "/all"]).ok().stdout, "2\n4\n2\n5\n");
}

#[test]
fn what_was_unpacked_of_a_layer_with_wrong_bytes_is_thrown_away() {
    let Some(registry) = Registry::start() else { return };
    let base = base(&registry);
    let scratch = Scratch::new();
    // The tail of a gzip member: all of the archive has been read when this is noticed.
    let host = between_halves(&registry.host, |half| {
        if let Some(byte) = half.iter_mut().rev().nth(2) {
            *byte ^= 1;
        }
    });
    let failed = scratch.build(&on(&scratch, &format!("{host}/{base}")), &["-t", "child"]);
    failed.fails(4, &["expected sha256:"]);
    let count = |path: &str| std::fs::read_dir(scratch.store().join(path)).map_or(0, Iterator::count);
    assert_eq!(count("tmp"), 0, "staging directories are gone");
    let digests = std::fs::read_dir(scratch.layout().join("blobs/sha256")).unwrap().flatten();
    let sizes = digests.map(|blob| blob.metadata().unwrap().len());
    assert!(sizes.max().unwrap_or(0) < LARGE as u64, "the wrong blob was kept");
    // The layers that came right may be there; the wrong one is fetched again.
    scratch.digest(&on(&scratch, &format!("{}/{base}", registry.host)), &["-t", "child"]);
    assert_eq!(scratch.xbuild(&["run", "child", "cat", "/all"]).ok().stdout, "2\n4\n2\n5\n");
}

#[test]
fn a_copy_on_a_base_that_breaks_off_is_told_by_the_download() {
    let Some(registry) = Registry::start() else { return };
    let base = base(&registry);
    let scratch = Scratch::new();
    let host = between_halves(&registry.host, |half| half.fill(0));
    let dockerfile = format!("FROM {host}/{base}\nCOPY f /bin/f\n");
    let context = scratch.context("c", &[("Dockerfile", &dockerfile), ("f", "x")]);
    scratch.build(&context, &[]).fails(4, &["pull", "expected sha256:"]);
}
