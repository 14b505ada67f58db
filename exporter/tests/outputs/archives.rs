//! Layout directories and archives.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use exporter::{archive, layout, write_file};
use oci::compress::Encoding;
use oci::document::Root;
use oci::media_type::Types;
use oci::{Digest, Layout};

use crate::fixture::{Fixture, file, has, name, succeeds};

fn members(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(fs::File::open(path).unwrap());
    let mut members = BTreeMap::new();
    let mut last = String::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        assert!(name > last, "members are sorted and unique: {last} {name}");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if let Some(path) =
            name.strip_prefix("blobs/").filter(|path| !path.is_empty() && !path.ends_with('/'))
        {
            let digest: Digest = path.replace('/', ":").parse().unwrap();
            assert!(digest.is_of(&bytes), "{name}");
        }
        last.clone_from(&name);
        members.insert(name, bytes);
    }
    members
}

/// Unpacks the archive and reads the image through our own reader.
fn read_back(archive: &Path, into: &Path) -> Layout {
    tar::Archive::new(fs::File::open(archive).unwrap()).unpack(into).unwrap();
    let layout = Layout::open(into).unwrap();
    for named in layout.names().unwrap() {
        layout.read_root(&named.descriptor).unwrap();
    }
    layout
}

#[test]
fn a_layout_directory_is_read_by_skopeo_and_umoci() {
    let fixture = Fixture::new();
    let image = fixture.image(Types::Oci, Encoding::GZIP).descriptor();
    let out = fixture.path("out");
    for _ in 0..2 {
        layout::write(&fixture.layout, &image, &[name("demo"), name("r.io:5/x:1")], &out).unwrap();
    }
    let written = Layout::open(&out).unwrap();
    assert_eq!(written.names().unwrap().len(), 2);
    assert_eq!(written.resolve("demo").unwrap().unwrap().digest(), image.digest());
    assert_eq!(fs::read_dir(out.join("blobs")).unwrap().count(), 1, "no temporary file is left");
    if has("skopeo") {
        succeeds(
            "skopeo",
            &[
                "copy",
                &format!("oci:{}:latest", out.display()),
                &format!("dir:{}", fixture.path("dir").display()),
            ],
        );
    }
    if has("umoci") {
        let bundle = fixture.path("bundle").display().to_string();
        let flags: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--rootless"] };
        let image = format!("{}:1", out.display());
        succeeds("umoci", &[&["unpack"], flags, &["--image", &image, &bundle]].concat());
        assert_eq!(fs::read_to_string(fixture.path("bundle/rootfs/hello")).unwrap(), "world");
    }
}

#[test]
fn an_oci_archive_is_deterministic_and_read_by_skopeo() {
    let fixture = Fixture::new();
    for (number, encoding) in [Encoding::GZIP, Encoding::ZSTD, Encoding::None].into_iter().enumerate() {
        let image = fixture.image(Types::Oci, encoding).descriptor();
        let names = [name("a/b:tag1"), name("a/b:tag2")];
        let (path, again) = (fixture.path("out.tar"), fixture.path("again.tar"));
        write_file(&path, |out| archive::oci(&fixture.layout, &image, &names, out)).unwrap();
        archive::oci(&fixture.layout, &image, &names, &mut file(&again)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), fs::read(&again).unwrap());
        let index: serde_json::Value = serde_json::from_slice(&members(&path)["index.json"]).unwrap();
        for (entry, tag) in [(0, "tag1"), (1, "tag2")] {
            let annotations = &index["manifests"][entry]["annotations"];
            assert_eq!(annotations["org.opencontainers.image.ref.name"], tag);
            assert_eq!(annotations["io.containerd.image.name"], format!("docker.io/a/b:{tag}"));
        }
        read_back(&path, &fixture.path(&format!("back{number}")));
        if has("skopeo") {
            let source = format!("oci-archive:{}:tag2", path.display());
            let digest = succeeds("skopeo", &["inspect", "--format", "{{.Digest}}", &source]);
            assert_eq!(digest.trim(), image.digest().as_ref());
        }
    }
}

#[test]
fn an_index_of_platforms_goes_into_one_archive() {
    let fixture = Fixture::new();
    let index = fixture.index();
    let path = fixture.path("out.tar");
    archive::oci(&fixture.layout, &index, &[], &mut file(&path)).unwrap();
    assert_eq!(read_back(&path, &fixture.path("back")).names().unwrap().len(), 1);
    let error = archive::docker(&fixture.layout, &index, &[], &mut file(&path)).unwrap_err().to_string();
    assert!(error.contains("2 images") && error.contains("type=oci"), "{error}");
}

#[test]
fn a_docker_archive_is_read_by_skopeo() {
    let fixture = Fixture::new();
    for types in [Types::Oci, Types::Docker] {
        let image = fixture.image(types, Encoding::GZIP);
        let path = fixture.path("out.tar");
        let names = [name("demo"), name("r.io:5/x:1")];
        archive::docker(&fixture.layout, &image.descriptor(), &names, &mut file(&path)).unwrap();
        let members = members(&path);
        let manifest: serde_json::Value = serde_json::from_slice(&members["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"], serde_json::json!(["demo:latest", "r.io:5/x:1"]));
        let config = manifest[0]["Config"].as_str().unwrap();
        assert_eq!(members[config], image.config.raw);
        assert!(
            manifest[0]["Layers"]
                .as_array()
                .unwrap()
                .iter()
                .all(|layer| members.contains_key(layer.as_str().unwrap()))
        );
        if has("skopeo") {
            let out = fixture.path("copied");
            let source = format!("docker-archive:{}:demo:latest", path.display());
            succeeds("skopeo", &["copy", &source, &format!("dir:{}", out.display())]);
            assert!(out.join(image.config.digest.hex()).exists(), "the image id stays");
            fs::remove_dir_all(out).unwrap();
        }
    }
}

#[test]
fn img_04_blobs_by_sha512_go_into_every_form() {
    let fixture = Fixture::new();
    let image = fixture.by_sha512(&fixture.image(Types::Oci, Encoding::GZIP));
    let blob = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));
    let check = |written: &Layout| {
        let found = written.resolve("demo").unwrap().unwrap();
        assert_eq!(found.digest(), image.digest());
        let Root::Manifest(manifest) = written.read_root(&found).unwrap() else { panic!("it is a manifest") };
        for descriptor in manifest.parsed.layers().iter().chain([manifest.parsed.config()]) {
            written.read_verified(descriptor, 1 << 24).unwrap();
        }
        assert!(written.blobs_in_store().unwrap().iter().all(|(digest, _)| digest.hex().len() == 128));
    };
    let (out, path) = (fixture.path("out"), fixture.path("out.tar"));
    let names = [name("demo")];
    layout::write(&fixture.layout, &image, &names, &out).unwrap();
    check(&Layout::open(&out).unwrap());
    archive::oci(&fixture.layout, &image, &names, &mut file(&path)).unwrap();
    check(&read_back(&path, &fixture.path("back")));
    assert!(members(&path).contains_key(&blob(image.digest().as_ref())));
    archive::docker(&fixture.layout, &image, &names, &mut file(&path)).unwrap();
    let members = members(&path);
    let manifest: serde_json::Value = serde_json::from_slice(&members["manifest.json"]).unwrap();
    let layers = manifest[0]["Layers"].as_array().unwrap().iter();
    for member in layers.chain([&manifest[0]["Config"]]) {
        let member = member.as_str().unwrap();
        assert!(member.starts_with("blobs/sha512/") && members.contains_key(member), "{member}");
    }
    if has("skopeo") {
        // Of configs, skopeo 1.9 knows sha256 only.
        let source = format!("oci:{}:latest", out.display());
        let raw = succeeds("skopeo", &["inspect", "--raw", &source]);
        assert!(image.digest().as_ref().parse::<Digest>().unwrap().is_of(raw.as_bytes()), "{raw}");
    }
    if has("tar") {
        let listed = succeeds("tar", &["-tf", path.to_str().unwrap()]);
        assert_eq!(listed.lines().count(), members.len(), "GNU tar reads the long names");
        assert!(listed.lines().all(|name| members.contains_key(name)), "{listed}");
    }
}

#[test]
fn cache_05_a_damaged_blob_is_never_exported() {
    let fixture = Fixture::new();
    let image = fixture.image(Types::Oci, Encoding::GZIP);
    let layer = image.manifest.parsed.layers()[1].digest().as_ref().parse().unwrap();
    let path = fixture.layout.blob_path(&layer);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let descriptor = image.descriptor();
    let out = fixture.path("out.tar");
    let errors = [
        write_file(&out, |out| archive::oci(&fixture.layout, &descriptor, &[], out)).unwrap_err(),
        write_file(&out, |out| archive::docker(&fixture.layout, &descriptor, &[], out)).unwrap_err(),
        layout::write(&fixture.layout, &descriptor, &[], &fixture.path("out")).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, exporter::Error::Oci(oci::Error::Damaged { .. })), "{error}");
    }
    assert!(!out.exists(), "nothing half-written is left");
    fs::remove_file(&path).unwrap();
    let error = write_file(&out, |out| archive::oci(&fixture.layout, &descriptor, &[], out)).unwrap_err();
    assert!(matches!(error, exporter::Error::Oci(oci::Error::MissingBlob { .. })), "{error}");
}
