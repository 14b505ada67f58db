//! Small HTTP servers on loopback: a request is a value, an answer is one. They know nothing of registries.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a client sent.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path with query, or whatever stands in its place.
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Request {
    /// The value of a header; nothing where it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Bytes of the body.
    pub fn length(&self) -> u64 {
        self.header("content-length").parse().unwrap_or(0)
    }
}

/// Reads a request up to the empty line before its body.
pub fn read_head(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let mut request = Request { method: words.next()?, target: words.next()?, headers: BTreeMap::new() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.split_once(':') else { return Some(request) };
        request.headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
    }
}

/// What a client is answered.
pub struct Reply {
    status: u16,
    headers: String,
    body: Vec<u8>,
    length: Length,
}

enum Length {
    Told,
    EndsWithTheConnection,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: String::new(), body: body.into(), length: Length::Told }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers += &format!("{name}: {value}\r\n");
        self
    }

    /// Does not say how long the body is.
    pub fn without_length(self) -> Self {
        Self { length: Length::EndsWithTheConnection, ..self }
    }

    /// The answer's bytes, after which the connection is closed.
    pub fn bytes(&self, method: &str) -> Vec<u8> {
        let length = match self.length {
            Length::Told => format!("Content-Length: {}\r\n", self.body.len()),
            Length::EndsWithTheConnection => String::new(),
        };
        let head =
            format!("HTTP/1.1 {} Test\r\n{}{length}Connection: close\r\n\r\n", self.status, self.headers);
        let body = if method == "HEAD" { &[][..] } else { &self.body };
        [head.as_bytes(), body].concat()
    }
}

/// A running server; ends with the value.
pub struct Server {
    /// Address with port.
    pub host: String,
    stop: Arc<AtomicBool>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers each request with what `answer` makes of it.
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let log = Arc::clone(&requests);
        let mut server = Self::of_connections(move |stream| {
            let mut reader = BufReader::new(stream.try_clone().ok()?);
            let request = read_head(&mut reader)?;
            // What is left unread when a connection is closed resets it, and the answer with it.
            std::io::copy(&mut reader.take(request.length()), &mut std::io::sink()).ok()?;
            log.lock().unwrap().push(request.clone());
            (&stream).write_all(&answer(&request).bytes(&request.method)).ok()?;
            stream.shutdown(Shutdown::Write).ok()
        });
        server.requests = requests;
        server
    }

    /// Does `serve` with every connection, in a thread of its own; what it returns counts for nothing.
    pub fn of_connections(serve: impl Fn(TcpStream) -> Option<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (stop, serve) = (Arc::new(AtomicBool::new(false)), Arc::new(serve));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // Against a client that says nothing and stays; all of ours say something or go.
                let _ = stream.set_read_timeout(Some(Duration::from_secs(120)));
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(stream));
            }
        });
        Self { host, stop, requests: Arc::default() }
    }

    /// Requests so far, in their order.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(&self.host);
    }
}

/// What steps wait for: a server that says no until it is opened. They need the host's network.
pub struct Gate {
    server: Server,
    open: Arc<AtomicBool>,
}

impl Gate {
    pub fn closed() -> Self {
        let open = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&open);
        let server = Server::start(move |_| match asked.load(Ordering::SeqCst) {
            true => Reply::new(200, ""),
            false => Reply::new(404, ""),
        });
        Self { server, open }
    }

    pub fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    /// A command that ends when the gate is open.
    pub fn wait(&self) -> String {
        wait_for(&self.server.host)
    }
}

/// A command that ends when a server answers 200 at `/ready`; fails after two minutes.
pub fn wait_for(host: &str) -> String {
    let ask = format!("wget -q -O /dev/null http://{host}/ready");
    format!("n=0; until {ask}; do n=$((n+1)); [ $n -lt 1200 ] || exit 9; sleep 0.1; done")
}
