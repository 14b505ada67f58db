//! A proxy in front of a real registry that does one misdeed at chosen requests.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

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
}

struct Shared {
    upstream: u16,
    fault: Fault,
    /// Number of the first request to be hit, from 0, and how many in a row.
    first: usize,
    count: usize,
    seen: AtomicUsize,
    stop: AtomicBool,
}

pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    pub fn start(upstream: u16, fault: Fault, first: usize, count: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream,
            fault,
            first,
            count,
            seen: AtomicUsize::new(0),
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
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut reader = BufReader::new(client.try_clone().unwrap());
    while let Some((mut request, length)) = read_head(&mut reader) {
        let number = shared.seen.fetch_add(1, Ordering::Relaxed);
        let fault = (shared.first..shared.first + shared.count).contains(&number).then_some(shared.fault);
        request.body = vec![0; if fault == Some(Fault::Reset) { length / 2 } else { length }];
        if reader.read_exact(&mut request.body).is_err() || fault == Some(Fault::Reset) {
            return reset(&client);
        }
        if let Some(Fault::Status(status)) = fault {
            let text = format!("HTTP/1.1 {status} Fault\r\nContent-Length: 0\r\n\r\n");
            if client.write_all(text.as_bytes()).is_err() {
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
            Some(Fault::Status(_) | Fault::Reset) | None => {}
        }
        // The registry closes after each answer, and so do we.
        let _ = client.write_all(&answer);
        return drop(client.shutdown(Shutdown::Write));
    }
}

fn forward(upstream: u16, request: &Request) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", upstream)).unwrap();
    let mut text = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", request.method, request.target);
    for (name, value) in request.headers.iter().filter(|(name, _)| *name != "connection") {
        text += &format!("{name}: {value}\r\n");
    }
    text += "\r\n";
    stream.write_all(text.as_bytes()).unwrap();
    // A registry that refuses early closes before it has read everything.
    let _ = stream.write_all(&request.body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}
