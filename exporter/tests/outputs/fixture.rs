//! An image in a layout, and the foreign tools.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use exporter::{Addition, Assembly, Image, Layer, assemble};
use oci::compress::Encoding;
use oci::digest::Algorithm;
use oci::document::{self, Descriptor, Manifest};
use oci::layer::{Entry, Kind};
use oci::media_type::Types;
use oci::pack::{Content, Item, PackError, pack};
use oci::{History, ImageConfig, Layout, Reference};

pub struct Fixture {
    pub directory: tempfile::TempDir,
    pub layout: Layout,
}

impl Fixture {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let layout = Layout::create(&directory.path().join("images")).expect("a layout");
        Self { directory, layout }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn layer(&self, name: &str, content: &[u8], encoding: Encoding) -> Layer {
        let entry = Entry::plain(name, Kind::File { size: content.len() as u64, content: None }, 0o644);
        let items = [Ok::<_, PackError>(Item { entry, content: Content::Bytes(content.to_vec()) })];
        let packed = pack(items, encoding, self.layout.writer().expect("a writer")).expect("a layer");
        let written = packed.output.finish().expect("a blob");
        let media_type = Types::Oci.layer(encoding.compression());
        Layer { diff_id: packed.diff_id, descriptor: written.descriptor(media_type) }
    }

    pub fn image(&self, types: Types, encoding: Encoding) -> Image {
        let big: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let layers = [self.layer("hello", b"world", encoding), self.layer("big", &big, encoding)];
        let addition = |layer| Addition {
            history: History {
                created_by: Some("COPY".into()),
                created: Some("2024-01-01T00:00:00Z".into()),
                ..History::default()
            },
            layer: Some(layer),
        };
        let mut config =
            ImageConfig { os: "linux".into(), architecture: "amd64".into(), ..ImageConfig::default() };
        config.config.cmd = Some(vec!["/hello".into()]);
        let image = assemble(Assembly {
            config,
            base: Vec::new(),
            additions: layers.into_iter().map(addition).collect(),
            created: None,
            annotations: BTreeMap::from([("a.b".to_owned(), "c".to_owned())]),
            types,
        });
        let image = image.expect("an image");
        image.store(&self.layout).expect("documents are stored");
        image
    }

    /// The image with all of its blobs, and the manifest itself, addressed by sha512.
    pub fn by_sha512(&self, image: &Image) -> Descriptor {
        let keep = |descriptor: &Descriptor| {
            let mut writer = self.layout.writer_by(Algorithm::Sha512).expect("a writer");
            let mut reader = self.layout.open_verified(descriptor).expect("a blob");
            std::io::copy(&mut reader, &mut writer).expect("a copy");
            writer.finish().expect("a blob").descriptor(descriptor.media_type().as_ref())
        };
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": Types::Oci.manifest(),
            "config": keep(image.manifest.parsed.config()),
            "layers": image.manifest.parsed.layers().iter().map(keep).collect::<Vec<_>>(),
        });
        let manifest = Manifest::parse(manifest.to_string().into(), None).expect("a manifest");
        let manifest = manifest.digested_by(Algorithm::Sha512);
        self.layout.put_document(&manifest).expect("a blob");
        manifest.descriptor(Types::Oci.manifest())
    }

    /// An index of two platforms.
    pub fn index(&self) -> Descriptor {
        let image = self.image(Types::Oci, Encoding::GZIP).descriptor();
        let mut other = image.clone();
        other.set_platform(serde_json::from_str(r#"{"os":"linux","architecture":"arm64"}"#).ok());
        let text = serde_json::json!({ "schemaVersion": 2, "mediaType": Types::Oci.index(), "manifests": [image, other] });
        let raw = text.to_string();
        let digest = self.layout.put(raw.as_bytes()).expect("an index");
        document::descriptor(Types::Oci.index(), digest, raw.len() as u64)
    }
}

pub fn name(text: &str) -> Reference {
    text.parse().expect("a name")
}

pub fn file(path: &Path) -> File {
    File::create(path).expect("a file")
}

/// Whether the machine has `program`; a strict run insists.
pub fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    #[expect(clippy::disallowed_methods, reason = "the switch for strict test runs")]
    let strict = std::env::var("XBUILD_TEST_STRICT").is_ok_and(|value| value == "1");
    assert!(found || !strict, "{program} is missing");
    if !found {
        println!("SKIP: {program} is missing");
    }
    found
}

pub fn succeeds(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("the program starts");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
