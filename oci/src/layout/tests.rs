//! What a layout promises: verified blobs, names that other tools find, nothing followed out of it.

use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::digest::Algorithm;
use crate::document::{self, Document, Root};
use crate::media_type::{OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST};
use crate::{Descriptor, DiffId, ImageConfig, Reference};

fn layout() -> (tempfile::TempDir, Layout) {
    let directory = tempfile::tempdir().unwrap();
    let layout = Layout::create(&directory.path().join("images")).unwrap();
    (directory, layout)
}

/// An image of one empty layer in `layout`.
fn image(layout: &Layout, author: &str) -> Descriptor {
    let tar = [0; 1024];
    let mut gzip = flate2::write::GzEncoder::new(layout.writer().unwrap(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let layer = gzip.finish().unwrap().finish().unwrap();
    let mut config = ImageConfig { author: Some(author.to_owned()), ..ImageConfig::default() };
    (config.os, config.architecture) = ("linux".to_owned(), "amd64".to_owned());
    config.rootfs.diff_ids = vec![DiffId(Digest::of(&tar))];
    let config = Document::new(config);
    layout.put(&config.raw).unwrap();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor(OCI_CONFIG),
        "layers": [layer.descriptor(OCI_LAYER_GZIP)],
    });
    let raw = serde_json::to_vec(&manifest).unwrap();
    let digest = layout.put(&raw).unwrap();
    document::descriptor(OCI_MANIFEST, digest, raw.len() as u64)
}

/// Whether the machine has `program`; a strict run insists.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    #[expect(clippy::disallowed_methods, reason = "the switch for strict test runs")]
    let strict = std::env::var("XBUILD_TEST_STRICT").is_ok_and(|value| value == "1");
    assert!(found || !strict, "{program} is missing");
    if !found {
        println!("SKIP: {program} is missing");
    }
    found
}

fn succeeds(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn blobs_are_stored_by_digest_and_read_back() {
    let (_directory, layout) = layout();
    let mut writer = layout.writer().unwrap();
    writer.write_all(b"ab").unwrap();
    writer.write_all(b"c").unwrap();
    let written = writer.finish().unwrap();
    assert_eq!((written.digest, written.size), (Digest::of(b"abc"), 3));
    assert_eq!(layout.size(&written.digest).unwrap(), Some(3));
    assert_eq!(layout.read_verified(&written.descriptor("a/b"), 3).unwrap(), &b"abc"[..]);
    assert!(matches!(layout.read_verified(&written.descriptor("a/b"), 2), Err(Error::BlobTooLarge { .. })));
    assert_eq!(layout.put(b"abc").unwrap(), written.digest);
    assert_eq!(layout.blobs_in_store().unwrap(), [(written.digest, 3)]);
    layout.remove(&written.digest).unwrap();
    assert!(matches!(layout.open_blob(&written.digest), Err(Error::MissingBlob { .. })));
    drop(layout.writer().unwrap());
    assert_eq!(
        std::fs::read_dir(layout.root().join("blobs")).unwrap().count(),
        1,
        "no temporary file is left"
    );
}

#[test]
fn img_01_wrong_bytes_are_refused_and_leave_nothing() {
    let (_directory, layout) = layout();
    let good = Digest::of(b"abc");
    for (bytes, digest, size) in
        [(&b"abd"[..], good, 3), (b"ab", good, 3), (b"abcd", good, 3), (b"", good, 0)]
    {
        let mut writer = layout.writer().unwrap();
        writer.write_all(bytes).unwrap();
        assert!(matches!(writer.finish_expecting(&digest, size), Err(Error::Damaged { .. })), "{bytes:?}");
    }
    assert_eq!(layout.blobs_in_store().unwrap(), []);
    assert_eq!(std::fs::read_dir(layout.root().join("blobs")).unwrap().count(), 1);
}

#[test]
fn img_04_sha512_blobs_have_a_directory_of_their_own() {
    let (_directory, layout) = layout();
    let (short, long) = (Digest::of(b"abc"), Algorithm::Sha512.digest(b"abc"));
    assert!(!layout.has(&long).unwrap());
    // Whichever algorithm the writer counted by, the promise is what is verified.
    for algorithm in Algorithm::ALL {
        for digest in [short, long] {
            let mut writer = layout.writer_by(algorithm).unwrap();
            writer.write_all(b"abc").unwrap();
            let written = writer.finish_expecting(&digest, 3).unwrap();
            assert_eq!(written, Written { digest, size: 3 });
        }
    }
    let place = format!("blobs/sha512/{}", long.hex());
    assert_eq!(std::fs::read(layout.root().join(place)).unwrap(), b"abc");
    assert_eq!(layout.blobs_in_store().unwrap(), [(short, 3), (long, 3)]);
    layout.remove(&short).unwrap();
    assert!(!layout.has(&short).unwrap() && layout.has(&long).unwrap(), "they are two blobs");
    let descriptor = document::descriptor("a/b", long, 3);
    assert_eq!(layout.read_verified(&descriptor, 3).unwrap(), &b"abc"[..]);
    std::fs::write(layout.blob_path(&long), b"abd").unwrap();
    assert!(matches!(layout.read_verified(&descriptor, 3), Err(Error::Damaged { .. })));
    layout.remove(&long).unwrap();
    assert!(matches!(layout.open_blob(&long), Err(Error::MissingBlob { .. })));
    // A name that is none of its directory's digests is no blob.
    std::fs::write(layout.root().join("blobs/sha512").join(short.hex()), b"abc").unwrap();
    std::fs::write(layout.root().join("blobs/sha256").join(long.hex()), b"abc").unwrap();
    assert_eq!(layout.blobs_in_store().unwrap(), []);
}

#[test]
fn img_04_wrong_sha512_bytes_leave_nothing() {
    let (_directory, layout) = layout();
    let good = Algorithm::Sha512.digest(b"abc");
    for algorithm in Algorithm::ALL {
        for (bytes, size) in [(&b"abd"[..], 3), (b"ab", 3), (b"ab", 2), (b"", 0)] {
            let mut writer = layout.writer_by(algorithm).unwrap();
            writer.write_all(bytes).unwrap();
            let finished = writer.finish_expecting(&good, size);
            assert!(matches!(finished, Err(Error::Damaged { .. })), "{bytes:?}");
        }
    }
    assert_eq!(layout.blobs_in_store().unwrap(), []);
    assert_eq!(std::fs::read_dir(layout.root().join("blobs")).unwrap().count(), 1);
}

#[test]
fn documents_are_known_by_the_digest_that_names_them() {
    let (_directory, layout) = layout();
    let image = image(&layout, "a");
    let manifest = match layout.read_root(&image).unwrap() {
        Root::Manifest(manifest) => manifest.digested_by(Algorithm::Sha512),
        Root::Index(_) => panic!("it is a manifest"),
    };
    let digest = layout.put_document(&manifest).unwrap();
    assert_eq!((digest, digest.algorithm()), (manifest.digest, Algorithm::Sha512));
    let descriptor = manifest.descriptor(OCI_MANIFEST);
    assert_eq!(layout.read_root(&descriptor).unwrap().digest(), digest);
    layout.tag(&"a:1".parse().unwrap(), &descriptor).unwrap();
    assert_eq!(layout.resolve("a:1").unwrap().unwrap().digest().to_string(), digest.to_string());
}

#[test]
fn cache_05_a_flipped_bit_is_noticed_by_every_reader() {
    let (_directory, layout) = layout();
    let digest = layout.put(&[7; 100_000]).unwrap();
    let descriptor = document::descriptor("a/b", digest, 100_000);
    let path = layout.blob_path(&digest);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(layout.read_verified(&descriptor, 1 << 20), Err(Error::Damaged { .. })));
    let mut out = Vec::new();
    assert!(layout.open_verified(&descriptor).unwrap().read_to_end(&mut out).is_err());
    std::fs::write(&path, &bytes[..99_999]).unwrap();
    assert!(matches!(layout.open_verified(&descriptor), Err(Error::Damaged { .. })));
    let mut longer = VerifiedReader::new(&b"abc"[..], Digest::of(b"ab"), 2);
    assert!(longer.read_to_end(&mut out).is_err());
}

#[test]
fn cache_05_a_damaged_document_that_is_stored_again_is_whole_again() {
    let (_directory, layout) = layout();
    let digest = layout.put(b"{}").unwrap();
    for damaged in [&b"{ "[..], b"", b"{}{}"] {
        std::fs::write(layout.blob_path(&digest), damaged).unwrap();
        layout.put(b"{}").unwrap();
        assert_eq!(std::fs::read(layout.blob_path(&digest)).unwrap(), b"{}", "{damaged:?}");
    }
}

#[test]
fn cache_05_a_damaged_blob_is_taken_out_and_a_whole_one_stays() {
    let (_directory, layout) = layout();
    let digest = layout.put(&[7; 100_000]).unwrap();
    assert!(layout.take_out_damaged(&digest).unwrap().is_none());
    assert!(layout.has(&digest).unwrap());
    std::fs::write(layout.blob_path(&digest), [8; 100_000]).unwrap();
    let found = layout.take_out_damaged(&digest).unwrap();
    assert!(matches!(found, Some(Error::Damaged { .. })), "{found:?}");
    assert!(!layout.has(&digest).unwrap());
    let found = layout.take_out_damaged(&digest).unwrap();
    assert!(matches!(found, Some(Error::MissingBlob { .. })), "{found:?}");
}

#[test]
fn a_damaged_list_of_names_is_set_aside() {
    let (_directory, layout) = layout();
    let index = layout.root().join("index.json");
    let image = image(&layout, "x");
    layout.tag(&"kept".parse().unwrap(), &image).unwrap();
    assert_eq!(layout.mend_names().unwrap(), None);
    assert_eq!(layout.names().unwrap().len(), 1);
    let whole = std::fs::read(&index).unwrap();
    for length in (0..whole.len()).step_by(7) {
        std::fs::write(&index, &whole[..length]).unwrap();
        let aside = layout.mend_names().unwrap().expect("it was cut short");
        assert_eq!(std::fs::read(&aside.path).unwrap(), &whole[..length], "{}", aside.why);
        assert_eq!(layout.names().unwrap(), []);
        layout.tag(&"again".parse().unwrap(), &image).unwrap();
    }
    for bad in [&b"{}"[..], br#"{"manifests":3}"#, &[0; 100]] {
        std::fs::write(&index, bad).unwrap();
        assert!(layout.mend_names().unwrap().is_some());
    }
    std::fs::remove_file(&index).unwrap();
    assert_eq!(layout.mend_names().unwrap().unwrap().why, "index.json: the file is missing");
    assert_eq!(layout.names().unwrap(), []);
}

#[test]
fn copies_are_verified_and_errors_name_their_side() {
    let ((_one, from), (_two, to)) = (layout(), layout());
    let bytes = vec![7; 300_000];
    let digest = from.put(&bytes).unwrap();
    let descriptor = document::descriptor("a/b", digest, 300_000);
    to.copy_from(&from, &descriptor).unwrap();
    assert_eq!(to.read_verified(&descriptor, 300_000).unwrap(), bytes);
    to.remove(&digest).unwrap();
    // As much on disk as was promised, but other bytes.
    std::fs::write(from.blob_path(&digest), vec![8; 300_000]).unwrap();
    match to.copy_from(&from, &descriptor) {
        Err(Error::Damaged { path, .. }) => assert_eq!(path, from.blob_path(&digest)),
        other => panic!("{other:?}"),
    }
    assert_eq!(to.blobs_in_store().unwrap(), []);
    from.put(b"abc").unwrap();
    std::fs::remove_dir_all(to.root().join("blobs")).unwrap();
    let other = document::descriptor("a/b", Digest::of(b"abc"), 3);
    let error = to.copy_from(&from, &other).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path.starts_with(to.root())), "{error:?}");
}

#[test]
fn img_11_nothing_is_followed_out_of_a_layout() {
    let (directory, layout) = layout();
    let outside = directory.path().join("outside");
    std::fs::write(&outside, "abc").unwrap();
    let digest = Digest::of(b"abc");
    symlink(&outside, layout.blob_path(&digest)).unwrap();
    assert!(layout.open_blob(&digest).is_err(), "a symbolic link is no blob");
    assert_eq!(layout.size(&digest).unwrap(), None);
    std::fs::remove_file(layout.blob_path(&digest)).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        layout.blob_path(&digest),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert!(layout.open_blob(&digest).is_err(), "a pipe is no blob, and opening it does not hang");
    std::fs::remove_file(layout.root().join("index.json")).unwrap();
    symlink(&outside, layout.root().join("index.json")).unwrap();
    assert!(layout.names().is_err());
    std::fs::remove_dir_all(layout.root().join("blobs")).unwrap();
    std::fs::create_dir_all(directory.path().join("blobs/sha256")).unwrap();
    std::fs::write(directory.path().join("blobs/sha256").join(digest.hex()), "abc").unwrap();
    symlink("../blobs", layout.root().join("blobs")).unwrap();
    assert!(layout.open_blob(&digest).is_err(), "blobs leads out of the layout");
}

#[test]
fn names_are_normalised_moved_and_removed() {
    let (_directory, layout) = layout();
    let (first, second) = (image(&layout, "a"), image(&layout, "b"));
    let demo: Reference = "flaskdemo".parse().unwrap();
    layout.tag(&demo, &first).unwrap();
    layout.tag(&"localhost:5000/x:1".parse().unwrap(), &first).unwrap();
    layout.tag(&demo, &second).unwrap();
    for name in
        ["flaskdemo", "flaskdemo:latest", "docker.io/library/flaskdemo", "docker.io/library/flaskdemo:latest"]
    {
        let found = layout.resolve(name).unwrap().unwrap_or_else(|| panic!("{name}"));
        assert_eq!(found.digest(), second.digest(), "{name}");
    }
    assert_eq!(layout.resolve("flaskdemo:2").unwrap(), None);
    assert_eq!(layout.resolve("").unwrap(), None);
    let names: Vec<String> = layout.names().unwrap().into_iter().map(|named| named.name).collect();
    assert_eq!(names, ["localhost:5000/x:1", "docker.io/library/flaskdemo:latest"]);
    assert_eq!(layout.untag("flaskdemo").unwrap().digest(), second.digest());
    assert!(matches!(layout.untag("flaskdemo"), Err(Error::UnknownName { .. })));
}

#[test]
fn no_text_means_an_image_without_a_name() {
    let (_directory, layout) = layout();
    let nameless = image(&layout, "a");
    let digest = document::digest_of(&nameless).unwrap();
    layout.list(&nameless).unwrap();
    let texts = ["", "MyApp", "nosuch:", "x@", "x@sha256:abc", "a b", "/tmp/x", ":", "@", "app"];
    let check = || {
        for text in texts {
            assert_eq!(layout.resolve(text).unwrap(), None, "{text:?}");
            assert!(matches!(layout.untag(text), Err(Error::UnknownName { .. })), "{text:?}");
        }
        assert_eq!(layout.names().unwrap().len(), 1);
    };
    check();
    // Others write an empty name.
    layout.unlist(&digest).unwrap();
    layout.tag_ref("", &nameless).unwrap();
    check();
    layout.unlist(&digest).unwrap();
    assert_eq!(layout.names().unwrap(), []);
    layout.tag(&"app".parse().unwrap(), &nameless).unwrap();
    layout.unlist(&digest).unwrap();
    assert_eq!(layout.names().unwrap().len(), 1, "one that has a name keeps it");
}

#[test]
fn of_two_entries_that_a_text_fits_one_is_meant() {
    let (_directory, layout) = layout();
    let (full, text) = (image(&layout, "a"), image(&layout, "b"));
    layout.tag_ref("app:1", &text).unwrap();
    layout.tag(&"app:1".parse().unwrap(), &full).unwrap();
    for expect in [&full, &text] {
        assert_eq!(layout.resolve("app:1").unwrap().unwrap().digest(), expect.digest());
        assert_eq!(layout.untag("app:1").unwrap().digest(), expect.digest());
    }
    assert_eq!(layout.names().unwrap(), []);
}

#[test]
fn what_other_tools_wrote_in_the_index_survives() {
    let (_directory, layout) = layout();
    let image = image(&layout, "a");
    let foreign = serde_json::json!({
        "schemaVersion": 2,
        "x.unknown": [1],
        "manifests": [{
            "mediaType": OCI_MANIFEST, "size": image.size(), "digest": image.digest(), "x.extra": true,
            "annotations": {"org.opencontainers.image.ref.name": "theirs"},
            "platform": {"os": "windows", "architecture": "amd64", "os.version": "10.0.1"}
        }]
    });
    std::fs::write(layout.root().join("index.json"), foreign.to_string()).unwrap();
    layout.tag(&"ours".parse().unwrap(), &image).unwrap();
    let text = std::fs::read_to_string(layout.root().join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(index["manifests"][0], foreign["manifests"][0]);
    assert_eq!(index["x.unknown"], foreign["x.unknown"]);
    assert!(layout.resolve("theirs").unwrap().is_some());
    assert!(layout.untag("theirs").is_ok());
    let before = std::fs::metadata(layout.root().join("index.json")).unwrap().modified().unwrap();
    layout.tag(&"ours".parse().unwrap(), &image).unwrap();
    let after = std::fs::metadata(layout.root().join("index.json")).unwrap().modified().unwrap();
    assert_eq!(before, after, "an unchanged index is not written");
}

#[test]
fn concurrent_tags_lose_none() {
    let (_directory, layout) = layout();
    let image = image(&layout, "a");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (layout, image) = (&layout, &image);
            scope.spawn(move || {
                for number in 0..10 {
                    layout.tag(&format!("a{thread}:{number}").parse().unwrap(), image).unwrap();
                }
            });
        }
    });
    assert_eq!(layout.names().unwrap().len(), 40);
}

#[test]
fn damaged_layouts_are_named() {
    let (_directory, layout) = layout();
    for bad in ["", "{", r#"{"manifests":3}"#, r#"{"manifests":[],"manifests":[]}"#] {
        std::fs::write(layout.root().join("index.json"), bad).unwrap();
        let tagged = layout.tag(&"a".parse().unwrap(), &document::descriptor("a/b", Digest::of(b""), 0));
        assert!(matches!(tagged, Err(Error::NoLayout { .. })), "{bad}");
    }
    let bad =
        format!(r#"{{"manifests":[{{"mediaType":"a/b","size":1,"digest":"sha256:{}"}}]}}"#, "../".repeat(20));
    std::fs::write(layout.root().join("index.json"), bad).unwrap();
    assert!(layout.names().is_err());
    std::fs::write(layout.root().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    assert!(matches!(Layout::open(layout.root()), Err(Error::NoLayout { .. })));
    assert!(matches!(Layout::open(Path::new("/proc")), Err(Error::NoLayout { .. })));
}

#[test]
fn skopeo_and_umoci_find_images_by_their_full_names() {
    let (directory, layout) = layout();
    let image = image(&layout, "a");
    layout.tag(&"flaskdemo".parse().unwrap(), &image).unwrap();
    layout.tag(&"localhost:5000/team/app:1.2".parse().unwrap(), &image).unwrap();
    for (number, name) in
        ["docker.io/library/flaskdemo:latest", "localhost:5000/team/app:1.2"].iter().enumerate()
    {
        let source = format!("oci:{}:{name}", layout.root().display());
        if has("skopeo") {
            succeeds("skopeo", &["inspect", &source]);
            let target = format!("oci:{}:x", directory.path().join(format!("copy{number}")).display());
            succeeds("skopeo", &["copy", &source, &target]);
        }
    }
    if has("umoci") {
        succeeds(
            "umoci",
            &["stat", "--image", &format!("{}:docker.io/library/flaskdemo:latest", layout.root().display())],
        );
    }
    if has("skopeo") {
        let copy = Layout::open(&directory.path().join("copy0")).unwrap();
        assert_eq!(copy.resolve("x").unwrap().unwrap().digest(), image.digest());
        copy.read_root(&copy.resolve("x").unwrap().unwrap()).unwrap();
    }
}
