//! A proxy in front of a real registry that does one misdeed at chosen requests, or at chosen bytes.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::fixture::{PATIENCE, listen};
use crate::server::{Request, read_head, reset};

/// What happens instead of the registry's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This status, without asking the registry.
    Status(u16),
    /// The connection is reset before the registry hears of the request.
    Reset,
    /// The request arrives; its answer is lost.
    LostAnswer,
    /// The answer ends in the middle of its body.
    CutBody,
    /// The token ends with this request. Every request needs one, which the proxy gives out itself.
    StaleToken,
}

/// What a proxy that breaks off has done with the bytes until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buffering {
    /// Passed on; the registry sees a body that ends early.
    Off,
    /// Kept until the body is whole, as nginx does by default; the registry hears of nothing.
    On,
}

/// Where uploads are reset.
struct Marks {
    buffering: Buffering,
    /// Numbers of bytes of bodies, in sum, after which the connection is reset; the last entry is the next.
    left: Mutex<Vec<usize>>,
}

struct Shared {
    upstream: u16,
    fault: Fault,
    /// Number of the first request to be hit, from 0, and how many in a row.
    first: usize,
    count: usize,
    marks: Marks,
    seen: AtomicUsize,
    /// Bytes of bodies so far.
    received: AtomicUsize,
    /// Number of the token that is good at the moment.
    token: AtomicUsize,
    stop: AtomicBool,
}

pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    pub fn start(upstream: u16, fault: Fault, first: usize, count: usize) -> Self {
        let marks = Marks { buffering: Buffering::On, left: Mutex::default() };
        Self::launch(upstream, fault, first..first + count, marks)
    }

    /// Resets the connection whenever the bodies of all requests have reached one of `marks`, which rise.
    pub fn start_with_marks(upstream: u16, buffering: Buffering, marks: &[usize]) -> Self {
        let left = Mutex::new(marks.iter().rev().copied().collect());
        Self::launch(upstream, Fault::Reset, 0..0, Marks { buffering, left })
    }

    fn launch(upstream: u16, fault: Fault, hit: std::ops::Range<usize>, marks: Marks) -> Self {
        let listener = listen();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream,
            fault,
            first: hit.start,
            count: hit.len(),
            marks,
            seen: AtomicUsize::new(0),
            received: AtomicUsize::new(0),
            token: AtomicUsize::new(0),
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

    /// Requests so far.
    pub fn seen(&self) -> usize {
        self.shared.seen.load(Ordering::Relaxed)
    }

    /// Bytes of bodies so far.
    pub fn received(&self) -> usize {
        self.shared.received.load(Ordering::Relaxed)
    }

    pub fn reference(&self, name: &str) -> oci::Reference {
        format!("{}/{name}", self.address).parse().unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(shared: &Shared, mut client: TcpStream) {
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(client.try_clone().unwrap());
    while let Some((mut request, length)) = read_head(&mut reader) {
        if request.path() == "/token" {
            let token = format!(r#"{{"token":"t{}"}}"#, shared.token.load(Ordering::SeqCst));
            if reply(&mut client, 200, "", &token).is_err() {
                return;
            }
            continue;
        }
        let number = shared.seen.fetch_add(1, Ordering::Relaxed);
        let fault = (shared.first..shared.first + shared.count).contains(&number).then_some(shared.fault);
        let wanted = if fault == Some(Fault::Reset) { length / 2 } else { length };
        if !shared.read_body(&mut reader, &mut request, wanted) || fault == Some(Fault::Reset) {
            return reset(&client);
        }
        if let Some(Fault::Status(status)) = fault {
            if reply(&mut client, status, "", "").is_err() {
                return;
            }
            continue;
        }
        if shared.fault == Fault::StaleToken && !shared.admits(&request, fault.is_some()) {
            let realm =
                format!("WWW-Authenticate: Bearer realm=\"http://{}/token\"\r\n", request.header("host"));
            if reply(&mut client, 401, &realm, "").is_err() {
                return;
            }
            continue;
        }
        let answer = forward(shared.upstream, &request);
        match fault {
            Some(Fault::LostAnswer) => return reset(&client),
            Some(Fault::CutBody) => {
                let head = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
                // An answer without a body is cut in its head.
                let kept = if answer.len() > head { head + (answer.len() - head) / 2 } else { head / 2 };
                let _ = client.write_all(&answer[..kept]);
                return drop(client.shutdown(Shutdown::Both));
            }
            Some(Fault::Status(_) | Fault::Reset | Fault::StaleToken) | None => {}
        }
        // The registry closes after each answer, and so do we.
        let _ = client.write_all(&answer);
        return drop(client.shutdown(Shutdown::Write));
    }
}

fn reply(client: &mut TcpStream, status: u16, fields: &str, body: &str) -> std::io::Result<()> {
    let text = format!("HTTP/1.1 {status} Proxy\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len());
    client.write_all(text.as_bytes())
}

impl Shared {
    /// Reads `length` bytes into the request; returns whether they came without a mark among them.
    fn read_body(&self, reader: &mut impl BufRead, request: &mut Request, length: usize) -> bool {
        while request.body.len() < length {
            let mut piece = vec![0; (length - request.body.len()).min(64 << 10)];
            let Ok(count @ 1..) = reader.read(&mut piece) else { return false };
            request.body.extend_from_slice(&piece[..count]);
            let received = self.received.fetch_add(count, Ordering::SeqCst) + count;
            let mut left = self.marks.left.lock().unwrap();
            if left.last().is_some_and(|mark| received >= *mark) {
                left.pop();
                if self.marks.buffering == Buffering::Off {
                    send_part(self.upstream, request);
                }
                return false;
            }
        }
        true
    }

    /// Whether the request carries the token of the moment, which a strike ends.
    fn admits(&self, request: &Request, strike: bool) -> bool {
        if strike {
            self.token.fetch_add(1, Ordering::SeqCst);
            return false;
        }
        request.header("authorization") == format!("Bearer t{}", self.token.load(Ordering::SeqCst))
    }
}

/// Sends a request whose body is shorter than it says, and breaks off.
fn send_part(upstream: u16, request: &Request) {
    let mut stream = TcpStream::connect(("127.0.0.1", upstream)).unwrap();
    stream.write_all(head(request).as_bytes()).unwrap();
    let _ = stream.write_all(&request.body);
    // What is reset before it is read never arrives.
    std::thread::sleep(Duration::from_millis(50));
    reset(&stream);
}

fn head(request: &Request) -> String {
    let mut text = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", request.method, request.target);
    let kept = |name: &str| !matches!(name, "connection" | "authorization");
    for (name, value) in request.headers.iter().filter(|(name, _)| kept(name)) {
        text += &format!("{name}: {value}\r\n");
    }
    text + "\r\n"
}

fn forward(upstream: u16, request: &Request) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", upstream)).unwrap();
    stream.write_all(head(request).as_bytes()).unwrap();
    // A registry that refuses early closes before it has read everything.
    let _ = stream.write_all(&request.body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}
