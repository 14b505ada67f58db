//! A proxy in front of a registry: it keeps a log of what was asked, and does what a test's rule says.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
    stop: AtomicBool,
}

/// A running proxy; ends with the value.
pub struct Proxy {
    pub host: String,
    shared: Arc<Shared>,
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
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            decide: Box::new(decide),
            log: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.stop.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                // A client that went away ends its connection only.
                std::thread::spawn(move || serve(&shared, stream.ok()?));
            }
        });
        Self { host, shared }
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
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.host);
    }
}

/// Serves one request: the connection is closed after it.
fn serve(shared: &Shared, mut client: TcpStream) -> Option<()> {
    client.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let (line, headers) = read_head(&mut reader)?;
    let mut words = line.split_whitespace();
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut exchange = Exchange {
        method: words.next()?.to_owned(),
        target: words.next()?.to_owned(),
        sent: length,
        status: 0,
        answered: 0,
    };
    let rule = (shared.decide)(&exchange, &shared.log.lock().unwrap().clone());
    let answer = match rule {
        Rule::Pass => forward(shared, &exchange, &headers, &mut reader)?,
        Rule::Answer(status, body) => {
            std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?;
            let length = body.len();
            format!("HTTP/1.1 {status} Ruled\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
                .into_bytes()
        }
        Rule::Hold => {
            shared.log.lock().unwrap().push(exchange);
            while !shared.stop.load(Ordering::Relaxed) {
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

fn read_head(reader: &mut impl BufRead) -> Option<(String, BTreeMap<String, String>)> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.split_once(':') else { return Some((first, headers)) };
        headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
    }
}

fn forward(
    shared: &Shared,
    exchange: &Exchange,
    headers: &BTreeMap<String, String>,
    reader: &mut impl Read,
) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(&shared.upstream).ok()?;
    let mut text = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", exchange.method, exchange.target);
    for (name, value) in headers.iter().filter(|(name, _)| *name != "connection") {
        text += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{text}\r\n").as_bytes()).ok()?;
    let copied = std::io::copy(&mut reader.take(exchange.sent), &mut stream).ok()?;
    if copied < exchange.sent {
        return None;
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(answer)
}
