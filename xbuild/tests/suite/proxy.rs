//! A proxy in front of a registry: it keeps a log of what was asked, and does what a test's rule says.

use std::io::{BufReader, Read, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::server::{Reply, Request, Server, read_head};

/// What a client asked, and what came of it.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub method: String,
    /// Path with query.
    pub target: String,
    /// Bytes of the request's body.
    pub sent: u64,
    /// Status of the answer; 0 where there was none.
    pub status: u16,
    /// Bytes of the answer's body.
    pub answered: u64,
}

impl Exchange {
    pub fn is_blob(&self) -> bool {
        self.target.contains("/blobs/")
    }

    pub fn is_manifest(&self) -> bool {
        self.target.contains("/manifests/")
    }
}

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Rule {
    /// The registry gets it.
    Pass,
    /// This status and body, after the request was read.
    Answer(u16, String),
    /// Nothing: the connection stays open until the proxy ends.
    Hold,
}

type Decide = dyn Fn(&Exchange, &[Exchange]) -> Rule + Send + Sync;

struct Shared {
    upstream: String,
    decide: Box<Decide>,
    log: Mutex<Vec<Exchange>>,
    /// Lets those go that are held.
    ended: AtomicBool,
}

/// A running proxy; ends with the value.
pub struct Proxy {
    pub host: String,
    shared: Arc<Shared>,
    _server: Server,
}

impl Proxy {
    /// Passes everything on.
    pub fn start(upstream: &str) -> Self {
        Self::with(upstream, |_, _| Rule::Pass)
    }

    /// `decide` gets the request, and all exchanges that are over.
    pub fn with(
        upstream: &str,
        decide: impl Fn(&Exchange, &[Exchange]) -> Rule + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            decide: Box::new(decide),
            log: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        let server = Server::of_connections(move |client| serve(&serving, client));
        Self { host: server.host.clone(), shared, _server: server }
    }

    /// Exchanges that are over or held, in the order in which they became so.
    pub fn log(&self) -> Vec<Exchange> {
        self.shared.log.lock().unwrap().clone()
    }

    /// Forgets the exchanges so far.
    pub fn clear(&self) {
        self.shared.log.lock().unwrap().clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

/// Serves one request: the connection is closed after it.
fn serve(shared: &Shared, mut client: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let request = read_head(&mut reader)?;
    let mut exchange = Exchange {
        method: request.method.clone(),
        target: request.target.clone(),
        sent: request.length(),
        status: 0,
        answered: 0,
    };
    let rule = (shared.decide)(&exchange, &shared.log.lock().unwrap().clone());
    let answer = match rule {
        Rule::Pass => forward(&shared.upstream, &request, &mut reader)?,
        Rule::Answer(status, body) => {
            std::io::copy(&mut reader.take(request.length()), &mut std::io::sink()).ok()?;
            Reply::new(status, body).bytes("GET")
        }
        Rule::Hold => {
            shared.log.lock().unwrap().push(exchange);
            while !shared.ended.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
            }
            return None;
        }
    };
    let text = String::from_utf8_lossy(&answer[..answer.len().min(20)]).into_owned();
    exchange.status = text.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    exchange.answered = (answer.len() - head) as u64;
    // Noted before it is answered: what the client does next comes after it in the log.
    shared.log.lock().unwrap().push(exchange);
    client.write_all(&answer).ok()?;
    client.shutdown(Shutdown::Write).ok()
}

/// Sends a request on, with a body that is read meanwhile; returns the answer's bytes.
pub fn forward(upstream: &str, request: &Request, body: &mut impl Read) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).ok()?;
    let mut text = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", request.method, request.target);
    for (name, value) in request.headers.iter().filter(|(name, _)| *name != "connection") {
        text += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{text}\r\n").as_bytes()).ok()?;
    let copied = std::io::copy(&mut body.take(request.length()), &mut stream).ok()?;
    if copied < request.length() {
        return None;
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(answer)
}
