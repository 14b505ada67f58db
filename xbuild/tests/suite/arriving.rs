//! Bases that are unpacked while they arrive: what is begun early, and what is left when it was in vain.

use std::io::{BufReader, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oci::document::{self, Config, Root};
use oci::{DiffId, Digest, Layout, media_type};

use crate::harness::{Following, PATIENCE, Registry, Scratch, have, tool, wait_until};
use crate::proxy::forward;
use crate::server::{Reply, Server, read_head};

/// Answers of this many bytes are layers with programs in them.
const LARGE: usize = 200_000;

/// Changes an answer before its second half is sent, which is told apart by its start.
type Between = dyn Fn(&mut [u8]);

/// Passes requests on to a registry; between the halves of large blobs, something happens.
fn between_halves(upstream: &str, between: impl Fn(&mut [u8]) + Send + Sync + 'static) -> Server {
    let upstream = upstream.to_owned();
    Server::of_connections(move |client| serve(&upstream, client, &between))
}

/// Serves one request without a body; the connection is closed after it.
fn serve(upstream: &str, mut client: TcpStream, between: &Between) -> Option<()> {
    let request = read_head(&mut BufReader::new(client.try_clone().ok()?))?;
    let answer = forward(upstream, &request, &mut std::io::empty())?;
    let (first, second) = answer.split_at(answer.len() / 2);
    let mut second = second.to_owned();
    client.write_all(first).ok()?;
    if request.target.contains("/blobs/") && answer.len() > LARGE {
        between(&mut second);
    }
    client.write_all(&second).ok()
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
    let server = between_halves(&registry.host, move |_| {
        let end = Instant::now() + PATIENCE;
        while !seen.load(Ordering::SeqCst) && Instant::now() < end {
            seen.store(is_unpacking(&store), Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    scratch.digest(&on(&scratch, &format!("{}/{base}", server.host)), &["-t", "child"]);
    assert!(begun.load(Ordering::SeqCst), "nothing was unpacked before all of the layer was there");
    assert_eq!(scratch.xbuild(&["run", "child", "cat", "/all"]).ok().stdout, "2\n4\n2\n5\n");
}

#[test]
fn what_was_unpacked_of_a_layer_with_wrong_bytes_is_thrown_away() {
    let Some(registry) = Registry::start() else { return };
    let base = base(&registry);
    let scratch = Scratch::new();
    // The tail of a gzip member: all of the archive has been read when this is noticed.
    let server = between_halves(&registry.host, |half| {
        if let Some(byte) = half.iter_mut().rev().nth(2) {
            *byte ^= 1;
        }
    });
    let failed = scratch.build(&on(&scratch, &format!("{}/{base}", server.host)), &["-t", "child"]);
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

/// A registry whose large blobs stop in the middle until this value is dropped.
struct Stuck {
    server: Server,
    reached: Arc<AtomicBool>,
    release: Arc<AtomicBool>,
    /// Somebody has waited for all that a test waits.
    waited: Arc<AtomicBool>,
}

impl Stuck {
    fn before(registry: &Registry) -> Self {
        let [reached, release, waited] = [(); 3].map(|()| Arc::new(AtomicBool::new(false)));
        let (here, go, late) = (Arc::clone(&reached), Arc::clone(&release), Arc::clone(&waited));
        let server = between_halves(&registry.host, move |_| {
            here.store(true, Ordering::SeqCst);
            let end = Instant::now() + PATIENCE;
            while !go.load(Ordering::SeqCst) {
                if Instant::now() > end {
                    return late.store(true, Ordering::SeqCst);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Self { server, reached, release, waited }
    }

    fn is_reached(&self) -> bool {
        self.reached.load(Ordering::SeqCst)
    }

    /// To be called after what must not have waited.
    #[track_caller]
    fn check(&self) {
        assert!(self.is_reached() && !self.waited.load(Ordering::SeqCst), "the base was waited for");
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.release.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_build_is_interrupted_while_its_base_arrives() {
    let Some(registry) = Registry::start() else { return };
    let base = base(&registry);
    for step in ["RUN true", "COPY Dockerfile /bin/", "WORKDIR /bin/deep"] {
        let stuck = Stuck::before(&registry);
        let scratch = Scratch::new();
        let dockerfile = format!("FROM {}/{base}\n{step}\n", stuck.server.host);
        let context = scratch.context("c", &[("Dockerfile", &dockerfile)]);
        let arguments = ["build", "--network", "host", "--progress", "plain", context.to_str().unwrap()];
        let build = Following::start(&mut scratch.command(&arguments));
        wait_until("half of the base is there", || stuck.is_reached());
        build.signal("-INT");
        build.end().fails(130, &["error: interrupted"]);
        stuck.check();
    }
}

#[test]
fn a_step_that_fails_does_not_wait_for_the_base_of_another() {
    let Some(registry) = Registry::start() else { return };
    let scratch = Scratch::new().with_busybox();
    let context = scratch.context("large", &[("Dockerfile", "FROM busybox\nCOPY large /\n")]);
    // Nothing that could be compressed.
    let noise = std::iter::successors(Some(1_u32), |last| Some(last.wrapping_mul(1_664_525).wrapping_add(1)));
    let noise: Vec<u8> = noise.take(2 * LARGE).map(|word| word.to_be_bytes()[0]).collect();
    std::fs::write(context.join("large"), noise).unwrap();
    let other = Scratch::new().with_busybox();
    other.digest(&context, &["-t", &format!("{}/team/large:1", registry.host), "--push"]);
    let stuck = Stuck::before(&registry);
    let reached = Arc::clone(&stuck.reached);
    let signal =
        Server::start(move |_| Reply::new(if reached.load(Ordering::SeqCst) { 200 } else { 404 }, ""));
    let dockerfile = format!(
        "FROM {}/team/large:1 AS slow\nRUN true\nFROM busybox\n\
         RUN for n in $(seq 600); do wget -q -O /dev/null http://{}/ && exit 3; sleep 0.1; done\nCOPY --from=slow /large /\n",
        stuck.server.host, signal.host
    );
    let context = scratch.context("c", &[("Dockerfile", &dockerfile)]);
    scratch.build(&context, &[]).fails(5, &["exit code: 3"]);
    stuck.check();
}

#[test]
fn a_copy_on_a_base_that_breaks_off_is_told_by_the_download() {
    let Some(registry) = Registry::start() else { return };
    let base = base(&registry);
    let scratch = Scratch::new();
    let server = between_halves(&registry.host, |half| half.fill(0));
    let dockerfile = format!("FROM {}/{base}\nCOPY f /bin/f\n", server.host);
    let context = scratch.context("c", &[("Dockerfile", &dockerfile), ("f", "x")]);
    scratch.build(&context, &[]).fails(4, &["pull", "expected sha256:"]);
}

/// The image `busybox` of the scratch store with one more layer: a hard link to a file of the layer below, and a file
/// whose directories it does not hold.
fn leaning(scratch: &Scratch) -> PathBuf {
    let from = Layout::open(&scratch.layout()).unwrap();
    let found = from.resolve("busybox").unwrap().unwrap();
    let Root::Manifest(old) = from.read_root(&found).unwrap() else { panic!("busybox is one image") };
    let directory = scratch.path().join("more");
    std::fs::create_dir_all(directory.join("bin")).unwrap();
    std::fs::create_dir_all(directory.join("deep/er")).unwrap();
    std::fs::write(directory.join("bin/busybox"), "only its name counts").unwrap();
    std::fs::hard_link(directory.join("bin/busybox"), directory.join("linked")).unwrap();
    std::fs::write(directory.join("deep/er/file"), "leans\n").unwrap();
    let archive = scratch.path().join("more.tar").display().to_string();
    let place = directory.display().to_string();
    tool("tar", &["-C", &place, "-cf", &archive, "bin/busybox", "linked", "deep/er/file"]);
    tool("tar", &["--delete", "-f", &archive, "bin/busybox"]);
    let tar = std::fs::read(&archive).unwrap();
    let path = scratch.path().join("leaning");
    let layout = Layout::create(&path).unwrap();
    let put = |media_type: &str, bytes: &[u8]| {
        document::descriptor(media_type, layout.put(bytes).unwrap(), bytes.len() as u64)
    };
    let config = from.read_verified(old.parsed.config(), 1 << 22).unwrap();
    let mut config = Config::parse(config, &old.parsed).unwrap().parsed;
    config.rootfs.diff_ids.push(DiffId(Digest::of(&tar)));
    let mut layers = old.parsed.layers().clone();
    for layer in &layers {
        layout.copy_from(&from, layer).unwrap();
    }
    layers.push(put(media_type::OCI_LAYER, &tar));
    let config = put(media_type::OCI_CONFIG, &serde_json::to_vec(&config).unwrap());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": layers,
    });
    let manifest = put(media_type::OCI_MANIFEST, &serde_json::to_vec(&manifest).unwrap());
    layout.tag(&"base:1".parse().unwrap(), &manifest).unwrap();
    path
}

#[test]
fn a_layer_that_leans_on_those_below_waits_for_them() {
    let (Some(registry), true) = (Registry::start(), have(&["skopeo", "tar"])) else { return };
    let scratch = Scratch::new().with_busybox();
    let source = format!("oci:{}:docker.io/library/base:1", leaning(&scratch).display());
    let name = format!("{}/team/leaning:1", registry.host);
    tool("skopeo", &["copy", "--dest-tls-verify=false", "-q", &source, &format!("docker://{name}")]);
    for step in ["RUN cat /deep/er/file && cmp /linked /bin/busybox", "COPY deep /deep"] {
        let fresh = Scratch::new();
        let dockerfile =
            format!("FROM {name}\n{step}\nRUN cmp /linked /bin/busybox && cat /deep/er/file > /seen\n");
        let context = fresh.context("c", &[("Dockerfile", &dockerfile), ("deep/other", "x")]);
        fresh.digest(&context, &["-t", "child"]);
        assert_eq!(fresh.xbuild(&["run", "child", "cat", "/seen"]).ok().stdout, "leans\n", "{step}");
    }
}
