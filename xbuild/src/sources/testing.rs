//! What the tests of sources share: a server on a free loopback port, archives, and repositories.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use oci::registry::{Client, Events, RetryPolicy, Settings};

use super::{Limits, Secrets, Sources, git};

/// A request as the server read it.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

/// What the server answers.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// What Content-Length says, where it lies.
    pub length: Option<usize>,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), length: None }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A server that lives until it is dropped.
pub struct Server {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers each request by `answer`.
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (answer, log) = (Arc::new(answer), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), answer, log) = (stream, Arc::clone(&answer), Arc::clone(&log)) else {
                    continue;
                };
                if Arc::strong_count(&log) <= 2 {
                    return;
                }
                std::thread::spawn(move || serve(stream, &*answer, &log));
            }
        });
        Self { address, requests }
    }

    /// Serves the files of a directory, as any web server does.
    pub fn files(root: &Path) -> Self {
        let root = root.to_owned();
        Self::start(move |request| {
            let path = request.path.split('?').next().unwrap().trim_start_matches('/');
            match std::fs::read(root.join(path)) {
                Ok(body) => Reply::new(200, body),
                Err(_) => Reply::new(404, ""),
            }
        })
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.requests = Arc::default();
        // Wakes the listener, which then sees that nobody is interested any more.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&Request) -> Reply, log: &Mutex<Vec<Request>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(first)) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty());
    let pair =
        |line: String| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let request = Request { path, headers: headers.filter_map(pair).collect() };
    log.lock().unwrap().push(request.clone());
    let reply = answer(&request);
    let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if reply.status != 304 {
        head += &format!("Content-Length: {}\r\n", reply.length.unwrap_or(reply.body.len()));
    }
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    let _ = stream.write_all(&reply.body);
}

/// A store and a client for tests.
pub struct Fixture {
    pub sources: Sources,
    pub directory: tempfile::TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(oci::Store::open(&directory.path().join("store")).unwrap());
        let retry =
            RetryPolicy { attempts: 3, base: std::time::Duration::from_millis(1), ..RetryPolicy::default() };
        let client = Client::new(Settings { retry, ..Settings::default() }, Events::none());
        let git = git::Environment { path: path_variable(), ..git::Environment::default() };
        let (secrets, limits) = (Secrets::default(), Limits::default());
        Self { sources: Sources { store, client, secrets, git, limits }, directory }
    }

    /// Makes an empty directory.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }

    /// Returns the names of all blobs.
    pub fn blobs(&self) -> usize {
        std::fs::read_dir(self.sources.store.root().join("images/blobs/sha256")).unwrap().count()
    }
}

#[expect(clippy::disallowed_methods, reason = "tests find git where the tester has it")]
fn path_variable() -> String {
    std::env::var("PATH").unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "strictness of tests is the tester's environment")]
pub fn skip(why: &str) {
    println!("SKIP: {why}");
    assert!(std::env::var_os("XBUILD_TEST_STRICT").is_none(), "{why}");
}

/// A member of a test archive; all have mode 0640 (directories 0750), owner 1234:1234, and one time.
pub enum TarEntry<'a> {
    File(&'a str, &'a str),
    Symlink(&'a str, &'a str),
    HardLink(&'a str, &'a str),
    CharDevice(&'a str),
}

/// Makes a plain ustar archive, whatever its names are.
pub fn tar(entries: &[TarEntry<'_>]) -> Vec<u8> {
    let mut archive = Vec::new();
    for entry in entries {
        let (name, kind, link, body) = match entry {
            TarEntry::File(name, body) => (name, b'0', "", *body),
            TarEntry::Symlink(name, target) => (name, b'2', *target, ""),
            TarEntry::HardLink(name, target) => (name, b'1', *target, ""),
            TarEntry::CharDevice(name) => (name, b'3', "", ""),
        };
        let mut header = [0_u8; 512];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, "0000640\0");
        put(108, "0002322\0");
        put(116, "0002322\0");
        put(124, &format!("{:011o}\0", body.len()));
        put(136, &format!("{:011o}\0", 1_000_000_000));
        put(148, "        ");
        put(157, link);
        put(257, "ustar\x0000");
        if kind == b'3' {
            put(329, "0000001\0");
            put(337, "0000003\0");
        }
        header[156] = kind;
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(body.as_bytes());
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// Compresses with the host's gzip.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip")
        .arg("-c")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes));
    let mut output = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut output).unwrap();
    writer.join().unwrap().unwrap();
    child.wait().unwrap();
    output
}
