//! Images to push, a client whose delays are short, and the docker-registry package's server.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use oci::document::{Descriptor, Root, descriptor, digest_of};
use oci::registry::{
    BlobSource, Client, Event, Events, PushBlob, PushDocument, PushImage, RetryPolicy, Settings, Way,
};
use oci::{Digest, Reference, media_type};
use serde_json::json;

/// How long something that must happen may take on a slow and busy machine; a bound against hanging.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Settings that never read the files of whoever runs the tests, and wait little.
pub fn settings() -> Settings {
    Settings {
        retry: RetryPolicy {
            base: Duration::from_millis(5),
            cap: Duration::from_millis(50),
            ..RetryPolicy::default()
        },
        ..Settings::default()
    }
}

/// A client and the events that it told.
pub fn client(settings: Settings) -> (Client, Arc<Mutex<Vec<Event>>>) {
    let told: Arc<Mutex<Vec<Event>>> = Arc::default();
    let sink = told.clone();
    (Client::new(settings, Events::new(move |event| sink.lock().unwrap().push(event))), told)
}

/// All of `source`, to be pushed elsewhere under `tags`. Its blobs stay where they are until a push wants them.
pub async fn elsewhere(client: &Client, source: &Reference, tags: &[&str]) -> PushImage {
    let mut image = PushImage::default();
    let mut pending = vec![(client.root(source).await.unwrap(), tags)];
    while let Some((root, tags)) = pending.pop() {
        match &root {
            Root::Manifest(manifest) => {
                let parts = manifest.parsed.layers().iter().chain([manifest.parsed.config()]);
                image.blobs.extend(parts.map(|part| PushBlob {
                    digest: digest_of(part).unwrap(),
                    size: part.size(),
                    media_type: part.media_type().to_string(),
                    urls: part.urls().clone().unwrap_or_default(),
                    source: BlobSource::Remote(source.clone()),
                    found_in: Vec::new(),
                }));
            }
            Root::Index(index) => {
                for child in index.parsed.manifests() {
                    let name = source.with_digest(digest_of(child).unwrap());
                    pending.push((client.root(&name).await.unwrap(), &[]));
                }
            }
        }
        let named = document(root.raw(), root.media_type(), tags);
        image.documents.push(PushDocument { digest: root.digest(), ..named });
    }
    // Each after those that it names.
    image.documents.reverse();
    image
}

/// How a blob got where it was pushed to, each time that it was.
pub fn ways(told: &[Event], blob: Digest) -> Vec<Way> {
    let ways = told.iter().filter_map(|event| match event {
        Event::Pushed { digest, way, .. } if *digest == blob => Some(way.clone()),
        _ => None,
    });
    ways.collect()
}

/// Bytes that no compression makes smaller, the same for the same seed.
pub fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// An image of one platform with opaque layers. The registry does not look into them.
pub fn image(layers: &[Vec<u8>], types: media_type::Types, tags: &[&str]) -> PushImage {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = serde_json::to_vec(&config).unwrap();
    let gzip = types.layer(media_type::LayerCompression::Gzip);
    let entries: Vec<Descriptor> =
        layers.iter().map(|layer| descriptor(gzip, Digest::of(layer), layer.len() as u64)).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": types.manifest(),
        "config": descriptor(types.config(), Digest::of(&config), config.len() as u64),
        "layers": entries,
    });
    let blobs = layers.iter().map(|layer| blob(layer, gzip)).chain([blob(&config, types.config())]);
    PushImage {
        blobs: blobs.collect(),
        documents: vec![document(&serde_json::to_vec(&manifest).unwrap(), types.manifest(), tags)],
    }
}

pub fn blob(bytes: &[u8], media_type: &str) -> PushBlob {
    PushBlob {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        media_type: media_type.to_owned(),
        urls: Vec::new(),
        source: BlobSource::Bytes(bytes.to_vec().into()),
        found_in: Vec::new(),
    }
}

pub fn document(raw: &[u8], media_type: &str, tags: &[&str]) -> PushDocument {
    PushDocument {
        raw: raw.to_vec().into(),
        digest: Digest::of(raw),
        media_type: media_type.to_owned(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
    }
}

/// The whole of a blob, as it comes into a file.
pub async fn read_blob(
    client: &Client,
    reference: &Reference,
    bytes: &[u8],
) -> Result<Vec<u8>, oci::registry::Error> {
    pull_blob(client, reference, Digest::of(bytes), bytes.len() as u64).await
}

/// The whole of a blob by any digest.
pub async fn pull_blob(
    client: &Client,
    reference: &Reference,
    digest: Digest,
    size: u64,
) -> Result<Vec<u8>, oci::registry::Error> {
    let mut file = tempfile::tempfile().unwrap();
    client.pull_file(reference, digest, size, file.try_clone().unwrap()).await?;
    let mut read = Vec::new();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut read)).unwrap();
    Ok(read)
}

/// A loopback port that nobody listens on, and that nobody is given while this process lives.
///
/// A socket stays bound to it without listening: connections are refused, and the kernel gives the port to nobody who
/// asks for any. A server that is told to take it can, since it sets SO_REUSEADDR as we do (socket(7)).
pub fn free_port() -> u16 {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .unwrap();
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    rustix::net::bind(&socket, &any).unwrap();
    let socket = std::mem::ManuallyDrop::new(TcpStream::from(socket));
    socket.local_addr().unwrap().port()
}

/// A listener on a port that nobody else has afterwards either.
pub fn listen() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).unwrap()
}

/// A running docker-registry; ends with the value.
pub struct DockerRegistry {
    process: Child,
    /// Holds the registry's files.
    pub directory: tempfile::TempDir,
    pub port: u16,
}

impl DockerRegistry {
    /// Starts one, or says why that is not possible here. `extra` is added to its configuration.
    pub fn start(extra: &str) -> Option<Self> {
        if Command::new("docker-registry").arg("--version").stdout(Stdio::null()).status().is_err() {
            return skip("docker-registry is not installed");
        }
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let config: PathBuf = directory.path().join("config.yml");
        let data = directory.path().join("data");
        let mut file = std::fs::File::create(&config).unwrap();
        writeln!(file, "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}").unwrap();
        writeln!(
            file,
            "storage: {{delete: {{enabled: true}}, filesystem: {{rootdirectory: {}}}}}",
            data.display()
        )
        .unwrap();
        writeln!(file, "http:\n  addr: 127.0.0.1:{port}\n{extra}").unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut registry = Self { process, directory, port };
        registry.wait_until_it_listens();
        Some(registry)
    }

    fn wait_until_it_listens(&mut self) {
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let log = || std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            assert!(self.process.try_wait().unwrap().is_none(), "docker-registry has ended: {}", log());
            assert!(Instant::now() < end, "docker-registry does not listen: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn reference(&self, name: &str) -> Reference {
        format!("127.0.0.1:{}/{name}", self.port).parse().unwrap()
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Tells that a test cannot run here; fails where that is not allowed.
pub fn skip<T>(why: &str) -> Option<T> {
    println!("SKIP: {why}");
    #[expect(clippy::disallowed_methods, reason = "a test asks how strict it shall be")]
    let strict = std::env::var("XBUILD_TEST_STRICT").is_ok_and(|value| value == "1");
    assert!(!strict, "SKIP is not allowed: {why}");
    None
}
