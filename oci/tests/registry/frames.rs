//! An HTTP/2 server behind TLS that writes its frames by hand (RFC 9113), so that it can write those which no library
//! would. It reads of a request only what tells requests apart; header blocks are not decoded.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use oci::registry::{RegistrySettings, Settings};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::fixture::{PATIENCE, listen, settings};
use crate::tls::{Certificates, https};

/// Kinds of frames (RFC 9113 §6).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags: the last frame of a stream, the last of a header block; an answer to SETTINGS.
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// A request, as far as it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub stream: u32,
    pub method: Method,
    /// It has a body.
    pub body: bool,
}

/// What the first byte of a header block shows: GET and POST have entries in HPACK's static table (RFC 7541 A).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Other,
}

/// One connection, with the client's preface read and SETTINGS sent.
pub struct Connection {
    stream: StreamOwned<ServerConnection, TcpStream>,
}

impl Connection {
    /// Writes one frame.
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags];
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        self.stream.write_all(&bytes)?;
        self.stream.flush()
    }

    /// Reads one frame: kind, flags, stream, payload.
    pub fn read(&mut self) -> io::Result<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload)?;
        Ok((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }

    /// Waits for the next request.
    pub fn request(&mut self) -> io::Result<Request> {
        loop {
            let (kind, flags, stream, payload) = self.read()?;
            match kind {
                SETTINGS if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[])?,
                HEADERS => {
                    let method = match payload.first() {
                        Some(0x82) => Method::Get,
                        Some(0x83) => Method::Post,
                        _ => Method::Other,
                    };
                    return Ok(Request { stream, method, body: flags & END_STREAM == 0 });
                }
                _ => {}
            }
        }
    }

    /// Sends the head of an answer.
    pub fn head(&mut self, stream: u32, flags: u8, status: u16, fields: &[(&str, &str)]) -> io::Result<()> {
        self.frame(HEADERS, flags | END_HEADERS, stream, &block(status, fields))
    }

    /// Sends a whole answer.
    pub fn answer(
        &mut self,
        stream: u32,
        status: u16,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<()> {
        if body.is_empty() {
            return self.head(stream, END_STREAM, status, fields);
        }
        self.head(stream, 0, status, fields)?;
        let mut pieces = body.chunks(16 << 10).peekable();
        while let Some(piece) = pieces.next() {
            let flags = if pieces.peek().is_none() { END_STREAM } else { 0 };
            self.frame(DATA, flags, stream, piece)?;
        }
        Ok(())
    }
}

/// A header block of literals that enter no table (RFC 7541 §6.2.2).
pub fn block(status: u16, fields: &[(&str, &str)]) -> Vec<u8> {
    // Entry 8 of the static table is named `:status`.
    let mut block = vec![0x08];
    text(&mut block, &status.to_string());
    for (name, value) in fields {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

/// A string without Huffman coding, its length in a prefix of seven bits (RFC 7541 §5).
pub fn text(block: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    if length < 127 {
        block.push(u8::try_from(length).unwrap());
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push(u8::try_from(length % 128).unwrap() | 128);
            length /= 128;
        }
        block.push(u8::try_from(length).unwrap());
    }
    block.extend_from_slice(text.as_bytes());
}

type Script = Box<dyn Fn(&mut Connection, usize) -> io::Result<()> + Send + Sync>;

/// A running server; ends with the value.
pub struct H2Server {
    pub address: SocketAddr,
    certificates: Certificates,
    stop: Arc<AtomicBool>,
}

impl H2Server {
    /// Starts one whose SETTINGS are `initial` and that plays `script` on each connection; its argument counts them.
    pub fn start(
        initial: Vec<u8>,
        script: impl Fn(&mut Connection, usize) -> io::Result<()> + Send + Sync + 'static,
    ) -> Option<Self> {
        let certificates = Certificates::make_quickly()?;
        let config = Arc::new(server_config(&certificates));
        let listener = listen();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, count) = (stop.clone(), AtomicUsize::new(0));
        let (script, initial): (Arc<Script>, _) = (Arc::new(Box::new(script)), Arc::new(initial));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let number = count.fetch_add(1, Ordering::SeqCst);
                let (config, script, initial) = (config.clone(), script.clone(), initial.clone());
                std::thread::spawn(move || {
                    // A client that goes away ends the script.
                    let _ = serve(stream.expect("accepted"), config, &initial, |connection| {
                        script(connection, number)
                    });
                });
            }
        });
        Some(Self { address, certificates, stop })
    }

    pub fn reference(&self, name: &str) -> oci::Reference {
        format!("{}/{name}", self.address).parse().unwrap()
    }

    /// Settings that trust the server.
    pub fn settings(&self) -> Settings {
        let mut settings = settings();
        let own: RegistrySettings = https(&[self.certificates.path("ca.pem")]);
        settings.registries.insert(self.address.to_string(), own);
        settings
    }
}

impl Drop for H2Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn server_config(certificates: &Certificates) -> ServerConfig {
    let chain = vec![CertificateDer::from_pem_file(certificates.path("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(certificates.path("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    initial: &[u8],
    script: impl Fn(&mut Connection) -> io::Result<()>,
) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let session = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut connection = Connection { stream: StreamOwned::new(session, stream) };
    let mut preface = [0; 24];
    connection.stream.read_exact(&mut preface)?;
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "the client speaks HTTP/2");
    connection.frame(SETTINGS, 0, 0, initial)?;
    script(&mut connection)
}
