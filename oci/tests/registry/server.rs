//! A scripted HTTP/1.1 server: each request is a value, each answer is a value or a misdeed.

use std::collections::BTreeMap;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::fixture::{PATIENCE, listen};

/// What a client sent.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path with query.
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The query's pairs, decoded; of several with one name the last.
    pub fn query(&self) -> BTreeMap<String, String> {
        self.pairs().into_iter().collect()
    }

    /// The query's pairs, decoded, in their order.
    pub fn pairs(&self) -> Vec<(String, String)> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        let url = reqwest::Url::parse(&format!("http://h/?{query}")).unwrap();
        url.query_pairs().into_owned().collect()
    }
}

/// What the server does then.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Bytes of the body after which the connection is cut; all of them where absent.
    pub cut: Option<usize>,
    /// The announced length; the body's own where absent.
    pub length: Option<usize>,
    /// Pause between single bytes of the body.
    pub trickle: Option<Duration>,
    /// Bytes of the body after which nothing is sent until the gate is open.
    pub hold: Option<(usize, Arc<AtomicBool>)>,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            cut: None,
            length: None,
            trickle: None,
            hold: None,
        }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }
}

type Script = Box<dyn Fn(&Request) -> Reply + Send + Sync>;

/// Looks at the head of a request; what it returns is answered before the body is read, and the connection closed.
type Early = Box<dyn Fn(&Request) -> Option<Reply> + Send + Sync>;

/// Bytes of a request's body after which the connection is reset instead of answered.
pub type Resets = Arc<Mutex<Vec<usize>>>;

struct Shared {
    script: Script,
    early: Early,
    requests: Mutex<Vec<Request>>,
    resets: Resets,
    stop: AtomicBool,
}

/// A running server; ends with the value.
pub struct Server {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    pub fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with_resets(script, Resets::default())
    }

    /// Requests to which `early` has an answer get it before their body is read.
    pub fn start_with_early(
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
        early: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        Self::launch(Box::new(script), Box::new(early), Resets::default())
    }

    /// Each entry of `resets` ends one connection while it uploads, the last entry first.
    pub fn start_with_resets(
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
        resets: Resets,
    ) -> Self {
        Self::launch(Box::new(script), Box::new(|_| None), resets)
    }

    fn launch(script: Script, early: Early, resets: Resets) -> Self {
        let listener = listen();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script,
            early,
            requests: Mutex::default(),
            resets,
            stop: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.stop.load(Ordering::Relaxed) {
                    return;
                }
                let shared = accepting.clone();
                std::thread::spawn(move || serve(&shared, stream.expect("accepted")));
            }
        });
        Self { address, shared }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub fn reference(&self, name: &str) -> oci::Reference {
        format!("{}/{name}", self.address).parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// Does `act` with every connection; ends with the value.
pub struct Raw {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Raw {
    pub fn start(act: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = listen();
        let address = listener.local_addr().unwrap();
        let (stop, act) = (Arc::new(AtomicBool::new(false)), Arc::new(act));
        let stopped = stop.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let act = act.clone();
                std::thread::spawn(move || act(stream.expect("accepted")));
            }
        });
        Self { address, stop }
    }

    pub fn reference(&self) -> oci::Reference {
        format!("{}/a/b:1", self.address).parse().unwrap()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(shared: &Shared, stream: TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let Some((mut request, length)) = read_head(&mut reader) else {
            // What is no HTTP, such as a TLS greeting, gets what web servers answer then.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            return;
        };
        if let Some(reply) = (shared.early)(&request) {
            shared.requests.lock().unwrap().push(request);
            answer(&mut stream, &reply, false);
            return;
        }
        let uploading = matches!(request.method.as_str(), "PUT" | "PATCH") && length > 0;
        if uploading && let Some(after) = shared.resets.lock().unwrap().pop() {
            request.body = vec![0; after.min(length)];
            let _ = reader.read_exact(&mut request.body);
            request.headers.insert("x-broken".to_owned(), "yes".to_owned());
            (shared.script)(&request);
            shared.requests.lock().unwrap().push(request);
            return reset(&stream);
        }
        request.body = vec![0; length];
        if reader.read_exact(&mut request.body).is_err() {
            return;
        }
        let reply = (shared.script)(&request);
        let head = request.method == "HEAD";
        shared.requests.lock().unwrap().push(request);
        if !answer(&mut stream, &reply, head) {
            return;
        }
    }
}

/// Closes so that the peer sees a reset: unread bytes are dropped (SO_LINGER of zero).
pub fn reset(stream: &TcpStream) {
    let _ = rustix_linger(stream);
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

fn rustix_linger(stream: &TcpStream) -> std::io::Result<()> {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
    Ok(())
}

/// Reads up to the empty line; returns the length of the body that follows.
pub fn read_head(reader: &mut impl std::io::BufRead) -> Option<(Request, usize)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    Some((Request { method, target, headers, body: Vec::new() }, length))
}

fn answer(stream: &mut TcpStream, reply: &Reply, head: bool) -> bool {
    let mut text = format!("HTTP/1.1 {} Scripted\r\n", reply.status);
    for (name, value) in &reply.headers {
        text += &format!("{name}: {value}\r\n");
    }
    let named = reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let chunked = reply.headers.iter().any(|(name, _)| name == "Transfer-Encoding");
    if !named && !chunked && reply.status != 204 {
        text += &format!("Content-Length: {}\r\n", reply.length.unwrap_or(reply.body.len()));
    }
    text += "\r\n";
    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())];
    let mut sent = stream.write_all(text.as_bytes());
    match reply.trickle {
        _ if head => {}
        None => sent = sent.and_then(|()| write(stream, body, reply.hold.as_ref())),
        Some(pause) => {
            for byte in body {
                sent = sent.and_then(|()| stream.write_all(std::slice::from_ref(byte)));
                std::thread::sleep(pause);
            }
        }
    }
    if reply.cut.is_some() {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
    sent.is_ok() && reply.cut.is_none()
}

fn write(
    stream: &mut TcpStream,
    body: &[u8],
    hold: Option<&(usize, Arc<AtomicBool>)>,
) -> std::io::Result<()> {
    let (before, after) = body.split_at(hold.map_or(0, |(length, _)| (*length).min(body.len())));
    stream.write_all(before)?;
    // A gate that is never opened fails the test by itself, not by hanging.
    if let Some((_, gate)) = hold {
        wait_for(gate);
    }
    stream.write_all(after)
}

/// Waits until a gate is opened, or until that is in vain.
pub fn wait_for(gate: &AtomicBool) {
    let end = Instant::now() + PATIENCE;
    while !gate.load(Ordering::SeqCst) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
}
