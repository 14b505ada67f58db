//! `xbuild load`: archives of `docker save` and its like, and hostile ones.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::copy::{app, json, multi};
use crate::harness::{Scratch, finish, have, tool};

/// A member of an archive.
enum Member<'a> {
    File(&'a str, Vec<u8>),
    Link(&'a str, &'a str),
    Pipe(&'a str),
}

fn archive(path: &Path, members: Vec<Member<'_>>) {
    let mut builder = tar::Builder::new(File::create(path).unwrap());
    for member in members {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        let (name, bytes, link) = match &member {
            Member::File(name, bytes) => (*name, &bytes[..], None),
            Member::Link(name, target) => (*name, &b""[..], Some(*target)),
            Member::Pipe(name) => (*name, &b""[..], None),
        };
        header.set_entry_type(match member {
            Member::File(..) => tar::EntryType::Regular,
            Member::Link(..) => tar::EntryType::Symlink,
            Member::Pipe(_) => tar::EntryType::Fifo,
        });
        // Names that lead out of the archive are what these tests are about: set_path refuses them.
        let field = &mut header.as_gnu_mut().unwrap().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        if let Some(link) = link {
            let field = &mut header.as_gnu_mut().unwrap().linkname;
            field[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    }
    builder.finish().unwrap();
}

/// A layer that holds one file.
fn layer(name: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append_data(&mut header, name, &b"bytes"[..]).unwrap();
    builder.into_inner().unwrap()
}

fn digest(bytes: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    std::fs::write(&path, bytes).unwrap();
    format!("sha256:{}", &tool("sha256sum", &[path.to_str().unwrap()])[..64])
}

fn config(diff_ids: &[String]) -> Vec<u8> {
    let value = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/f"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    value.to_string().into_bytes()
}

/// The list of an archive with one image.
fn list(layers: &[&str]) -> Vec<u8> {
    let value = serde_json::json!([{ "Config": "c.json", "RepoTags": ["old/app:1"], "Layers": layers }]);
    value.to_string().into_bytes()
}

#[test]
fn archives_of_docker_save_are_loaded_under_their_names() {
    let scratch = Scratch::new();
    let (one, two) = (layer("one"), layer("two"));
    let path = scratch.path().join("old.tar");
    let id = config(&[digest(&one), digest(&two), digest(&one)]);
    let members = vec![
        Member::File("a/layer.tar", one),
        Member::File("b/layer.tar", two),
        // Docker wrote a layer that is there already as a link.
        Member::Link("c/layer.tar", "../a/layer.tar"),
        Member::File("c.json", id.clone()),
        Member::File("manifest.json", list(&["a/layer.tar", "b/layer.tar", "c/layer.tar"])),
    ];
    archive(&path, members);
    let loaded = scratch.xbuild(&["load", "-i", path.to_str().unwrap()]).ok();
    assert!(loaded.stderr.contains("loaded docker.io/old/app:1"), "{loaded:?}");
    let inspected = json(&scratch.xbuild(&["inspect", "old/app:1"]).ok().stdout);
    assert_eq!(inspected["digest"], loaded.digest());
    assert_eq!(inspected["manifest"]["config"]["digest"], digest(&id));
    assert_eq!(inspected["manifest"]["layers"].as_array().unwrap().len(), 3);
    // Compressed, and through a pipe, it is the same image.
    tool("gzip", &["-k", path.to_str().unwrap()]);
    let pipe = File::open(scratch.path().join("old.tar.gz")).unwrap();
    let piped = finish(scratch.command(&["load", "-t", "piped:2", "-t", "again"]).stdin(pipe)).ok();
    assert_eq!(piped.digest(), loaded.digest());
    for name in ["piped:2", "again:latest"] {
        assert_eq!(json(&scratch.xbuild(&["inspect", name]).ok().stdout)["digest"], loaded.digest());
    }
}

#[test]
fn what_our_own_commands_and_skopeo_save_is_loaded() {
    let scratch = Scratch::new();
    let (app, multi) = (app(&scratch), multi(&scratch));
    let path = |name: &str| scratch.path().join(name).display().to_string();
    for (image, kind, expect) in
        [("app:1", "oci", &app), ("app:1", "docker", &app), ("multi:1", "oci", &multi)]
    {
        let file = path(&format!("{kind}.tar"));
        scratch.xbuild(&["save", image, "-o", &format!("type={kind},dest={file}")]).ok();
        let fresh = Scratch::new();
        assert_eq!(fresh.xbuild(&["load", "-i", &file]).ok().digest(), *expect, "{image} {kind}");
        assert_eq!(json(&fresh.xbuild(&["inspect", image]).ok().stdout)["digest"], expect.as_str());
    }
    let fresh = Scratch::new();
    let one = fresh.xbuild(&["load", "-i", &path("oci.tar"), "--platform", "linux/arm/v7"]).ok().digest();
    assert_eq!(json(&fresh.xbuild(&["inspect", &one]).ok().stdout)["config"]["architecture"], "arm");
    if have(&["skopeo"]) {
        let from = format!("oci:{}:docker.io/library/app:1", scratch.layout().display());
        tool("skopeo", &["copy", "-q", &from, &format!("docker-archive:{}:x/y:3", path("s.tar"))]);
        let fresh = Scratch::new();
        assert_eq!(fresh.xbuild(&["load", "-i", &path("s.tar")]).ok().digest(), app);
        fresh.xbuild(&["inspect", "x/y:3"]).ok();
    }
}

#[test]
fn archives_go_through_pipes() {
    let scratch = Scratch::new();
    let digest = app(&scratch);
    for scheme in ["oci-archive:-", "docker-archive:-"] {
        let output = scratch.command(&["copy", "app:1", scheme]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let path = scratch.path().join("piped.tar");
        std::fs::write(&path, &output.stdout).unwrap();
        let fresh = Scratch::new();
        let pipe = File::open(&path).unwrap();
        let copied = finish(fresh.command(&["copy", scheme, "got"]).stdin(pipe)).ok();
        assert_eq!(copied.digest(), digest, "{scheme}");
    }
}

#[test]
fn several_images_of_one_archive_are_loaded_or_chosen() {
    let scratch = Scratch::new();
    let (one, two) = (layer("one"), layer("two"));
    let list = serde_json::json!([
        { "Config": "1.json", "RepoTags": ["a:1", "b:1"], "Layers": ["1.tar"] },
        { "Config": "2.json", "RepoTags": null, "Layers": ["2.tar"] },
    ]);
    let path = scratch.path().join("two.tar");
    let members = vec![
        Member::File("1.json", config(&[digest(&one)])),
        Member::File("2.json", config(&[digest(&two)])),
        Member::File("1.tar", one),
        Member::File("2.tar", two),
        Member::File("manifest.json", list.to_string().into_bytes()),
    ];
    archive(&path, members);
    let file = path.to_str().unwrap();
    let loaded = scratch.xbuild(&["load", "-i", file]).ok();
    assert_eq!(loaded.stdout.lines().count(), 2, "{loaded:?}");
    assert!(loaded.stderr.contains("which has no name"), "{loaded:?}");
    let images = scratch.xbuild(&["images"]).ok().stdout;
    assert!(images.contains("\na ") && images.contains("\nb ") && images.contains("<none>"), "{images}");
    scratch.xbuild(&["load", "-i", file, "-t", "c"]).fails(2, &["-t", "2 images"]);
    scratch.xbuild(&["copy", &format!("docker-archive:{file}:b:1"), "chosen"]).ok();
    scratch.xbuild(&["copy", &format!("docker-archive:{file}"), "x"]).fails(2, &["a:1, b:1"]);
    scratch.xbuild(&["copy", &format!("docker-archive:{file}:z"), "x"]).fails(4, &["z:latest", "a:1, b:1"]);
}

/// The members of an archive, by name.
fn members(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(File::open(path).unwrap());
    let files = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().display().to_string(), bytes)
    });
    files.filter(|(name, _)| !name.ends_with('/')).collect()
}

fn write(path: &Path, members: &BTreeMap<String, Vec<u8>>) {
    let mut builder = tar::Builder::new(File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    builder.finish().unwrap();
}

fn blob(digest: &serde_json::Value) -> String {
    format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"))
}

#[test]
fn an_index_beside_the_blobs_of_one_platform_is_loaded_as_that_platform() {
    let scratch = Scratch::new();
    multi(&scratch);
    let (whole, sparse) = (scratch.path().join("whole.tar"), scratch.path().join("sparse.tar"));
    scratch.xbuild(&["save", "multi:1", "-o", &format!("type=oci,dest={}", whole.display())]).ok();
    let index = json(&scratch.xbuild(&["inspect", "multi:1"]).ok().stdout)["index"].clone();
    let mut kept = members(&whole);
    for entry in &index["manifests"].as_array().unwrap()[1..] {
        kept.remove(&blob(&entry["digest"]));
    }
    write(&sparse, &kept);
    // As podman and nerdctl save one platform of an index.
    let fresh = Scratch::new();
    let loaded = fresh.xbuild(&["load", "-i", sparse.to_str().unwrap()]).ok();
    assert_eq!(loaded.digest(), index["manifests"][0]["digest"].as_str().unwrap());
    assert!(loaded.stderr.contains("only linux/amd64 of the index"), "{loaded:?}");
    fresh.xbuild(&["inspect", "multi:1"]).ok();
    // A copy is whole or none.
    let archive = format!("oci-archive:{}", sparse.display());
    fresh.xbuild(&["copy", &archive, "x"]).fails(4, &["incomplete image", "is missing"]);
    fresh.xbuild(&["copy", "--platform", "linux/amd64", &archive, "x"]).ok();
    // Docker with containerd's image store adds its list to the same; the manifest keeps its digest.
    let manifest = json(&String::from_utf8_lossy(&kept[&blob(&index["manifests"][0]["digest"])]));
    let layers: Vec<_> =
        manifest["layers"].as_array().unwrap().iter().map(|layer| blob(&layer["digest"])).collect();
    let list = serde_json::json!([{
        "Config": blob(&manifest["config"]["digest"]), "RepoTags": ["from-docker:1"], "Layers": layers,
    }]);
    kept.insert("manifest.json".to_owned(), list.to_string().into_bytes());
    write(&sparse, &kept);
    let fresh = Scratch::new();
    let loaded = fresh.xbuild(&["load", "-i", sparse.to_str().unwrap()]).ok();
    assert_eq!(loaded.digest(), index["manifests"][0]["digest"].as_str().unwrap());
    fresh.xbuild(&["inspect", "from-docker:1"]).ok();
}

#[test]
fn a_layout_of_uncompressed_layers_beside_dockers_list_is_packed() {
    let scratch = Scratch::new();
    let one = layer("one");
    let id = config(&[digest(&one)]);
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&id), "size": id.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(&one), "size": one.len() }],
    });
    let manifest = manifest.to_string().into_bytes();
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(&manifest), "size": manifest.len(),
            "annotations": { "io.containerd.image.name": "docker.io/library/new:1", "org.opencontainers.image.ref.name": "1" },
        }],
    });
    let path = |bytes: &[u8]| format!("blobs/{}", digest(bytes).replace(':', "/"));
    let list = serde_json::json!([{ "Config": path(&id), "RepoTags": ["new:1"], "Layers": [path(&one)] }]);
    // As Docker 25 and newer save, without containerd's image store.
    let members = BTreeMap::from([
        (path(&id), id.clone()),
        (path(&one), one.clone()),
        (path(&manifest), manifest.clone()),
        ("index.json".to_owned(), index.to_string().into_bytes()),
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("manifest.json".to_owned(), list.to_string().into_bytes()),
    ]);
    let file = scratch.path().join("new.tar");
    write(&file, &members);
    let loaded = scratch.xbuild(&["load", "-i", file.to_str().unwrap()]).ok();
    let value = json(&scratch.xbuild(&["inspect", "new:1"]).ok().stdout);
    assert_eq!(value["manifest"]["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    assert_eq!(value["manifest"]["config"]["digest"], digest(&id));
    assert!(loaded.stderr.contains("1 layer"), "{loaded:?}");
    // Who names it an OCI archive wants it as it is.
    let as_is = scratch.xbuild(&["copy", &format!("oci-archive:{}", file.display()), "as-is"]).ok();
    assert_eq!(as_is.digest(), digest(&manifest));
}

#[test]
fn hostile_archives_are_refused() {
    let scratch = Scratch::new();
    let path = scratch.path().join("hostile.tar");
    let file = path.to_str().unwrap().to_owned();
    let one = layer("one");
    let id = || config(&[digest(&one)]);
    let check = |what: &str, code: i32, fragment: &str, members: Vec<Member<'_>>| {
        archive(&path, members);
        let run = scratch.xbuild(&["load", "-i", &file]);
        assert_eq!(run.code, code, "{what}: {run:?}");
        run.fails(code, &[fragment]);
        assert_eq!(scratch.xbuild(&["images", "-q"]).ok().stdout, "", "{what}");
    };
    let with = |layer: Member<'static>, list: Vec<u8>| {
        vec![Member::File("c.json", id()), layer, Member::File("manifest.json", list)]
    };
    let outside = Member::File("../../x", one.clone());
    check("IMG-11 a layer outside", 6, "../../x", with(outside, list(&["../../x"])));
    check("IMG-11 an absolute one", 6, "/etc/passwd", with(Member::Pipe("p"), list(&["/etc/passwd"])));
    let link = Member::Link("l.tar", "/etc/passwd");
    check("IMG-11 a link to the host", 6, "/etc/passwd", with(link, list(&["l.tar"])));
    let link = Member::Link("d/l.tar", "../../../etc/passwd");
    check("IMG-11 a link upwards", 6, "etc/passwd", with(link, list(&["d/l.tar"])));
    let link = Member::Link("l.tar", "l.tar");
    check("IMG-11 a link to itself", 4, "link to a link", with(link, list(&["l.tar"])));
    check("IMG-11 a pipe", 4, "no file p", with(Member::Pipe("p"), list(&["p"])));
    check("a missing layer", 4, "no file m.tar", with(Member::Pipe("p"), list(&["m.tar"])));
    let other = Member::File("l.tar", layer("other"));
    check("IMG-02 another layer", 6, "layer 1: diff_id mismatch", with(other, list(&["l.tar"])));
    let own = || Member::File("l.tar", one.clone());
    check(
        "IMG-02 too many layers",
        4,
        "2 layers, but 1 diff_ids",
        vec![Member::File("c.json", id()), own(), Member::File("manifest.json", list(&["l.tar", "l.tar"]))],
    );
    let name = format!("{}.json", "0".repeat(64));
    let text = String::from_utf8(list(&["l.tar"])).unwrap().replace("c.json", &name);
    check(
        "a config that is not what its name says",
        4,
        "is damaged",
        vec![Member::File(&name, id()), own(), Member::File("manifest.json", text.into_bytes())],
    );
    check("two members of one name", 6, "two files l.tar", vec![own(), own()]);
    check("no image", 4, "neither index.json nor manifest.json", vec![own()]);
    check("an empty list", 4, "lists no image", vec![Member::File("manifest.json", b"[]".to_vec())]);
    check("no JSON", 4, "manifest.json", vec![Member::File("manifest.json", b"[{".to_vec())]);
    let huge = vec![b' '; (4 << 20) + 1];
    check("IMG-06 a large list", 6, "limit", vec![Member::File("manifest.json", huge)]);
    // The legitimate twin.
    archive(
        &path,
        vec![Member::File("./c.json", id()), own(), Member::File("manifest.json", list(&["./l.tar"]))],
    );
    scratch.xbuild(&["load", "-i", &file]).ok();
}

#[test]
fn tar_53_cut_off_and_nonsense_archives_are_told() {
    let scratch = Scratch::new();
    app(&scratch);
    let path = scratch.path().join("whole.tar");
    scratch.xbuild(&["save", "app:1", "-o", &format!("type=docker,dest={}", path.display())]).ok();
    let whole = std::fs::read(&path).unwrap();
    let bad = scratch.path().join("bad.tar");
    for cut in [0, 100, 1000, whole.len() / 2] {
        std::fs::write(&bad, &whole[..cut]).unwrap();
        scratch.xbuild(&["load", "-i", bad.to_str().unwrap()]).fails(4, &["bad.tar"]);
    }
    std::fs::write(&bad, "no tar at all".repeat(100)).unwrap();
    scratch.xbuild(&["load", "-i", bad.to_str().unwrap()]).fails(4, &["bad.tar"]);
    scratch.xbuild(&["load", "-i", "/nonexistent/x.tar"]).fails(4, &["/nonexistent/x.tar"]);
    tool("gzip", &["-k", path.to_str().unwrap()]);
    let zipped = std::fs::read(scratch.path().join("whole.tar.gz")).unwrap();
    std::fs::write(&bad, &zipped[..zipped.len() - 20]).unwrap();
    scratch.xbuild(&["load", "-i", bad.to_str().unwrap()]).fails(4, &["bad.tar"]);
    let left: Vec<_> = std::fs::read_dir(scratch.store().join("tmp")).unwrap().collect();
    assert!(left.is_empty(), "spooled archives are left: {left:?}");
}

#[test]
fn tar_47_an_archive_with_wrong_bytes_is_refused_or_the_same_image() {
    let scratch = Scratch::new();
    let digest = app(&scratch);
    let path = scratch.path().join("whole.tar");
    scratch.xbuild(&["save", "app:1", "-o", &format!("type=docker,dest={}", path.display())]).ok();
    let whole = std::fs::read(&path).unwrap();
    let bad = scratch.path().join("bad.tar");
    // A linear congruential generator: the same bytes in every run.
    let mut state = 7_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    for round in 0..60 {
        let mut bytes = whole.clone();
        let at = random(bytes.len());
        bytes[at] ^= 1 << random(8);
        std::fs::write(&bad, &bytes).unwrap();
        let fresh = Scratch::new();
        let run = fresh.xbuild(&["load", "-i", bad.to_str().unwrap()]);
        match run.code {
            0 => assert_eq!(run.digest(), digest, "round {round}, byte {at}"),
            code @ (4 | 6) => drop(run.fails(code, &["bad.tar"])),
            code => panic!("round {round}, byte {at}: exit {code}: {run:?}"),
        }
    }
}

#[test]
fn tar_50_an_archive_that_grows_past_the_disk_stops_there() {
    let scratch = Scratch::new();
    let store = scratch.store();
    std::fs::create_dir(&store).unwrap();
    let options = ["-t", "tmpfs", "-o", "size=40m", "tmpfs", store.to_str().unwrap()];
    if !std::process::Command::new("mount").args(options).status().is_ok_and(|status| status.success()) {
        crate::skip("mounting a tmpfs is not allowed");
        return;
    }
    let bomb = scratch.path().join("bomb.tar.gz");
    let script = format!("head -c 400000000 /dev/zero | gzip -9 > {}", bomb.display());
    tool("sh", &["-c", &script]);
    let run = scratch.xbuild(&["load", "-i", bomb.to_str().unwrap()]);
    let left = std::fs::read_dir(store.join("tmp")).unwrap().count();
    tool("umount", &[store.to_str().unwrap()]);
    run.fails(7, &["store"]);
    assert_eq!(left, 0, "the spooled file is left");
}

#[test]
fn every_image_of_a_layout_is_loaded_unless_one_is_named() {
    let scratch = Scratch::new();
    let layout = scratch.path().join("lay");
    for (name, text) in [("a:1", "one"), ("b:2", "two")] {
        let context = scratch.context("c", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", text)]);
        scratch.build(&context, &["-t", name]).ok();
        scratch.xbuild(&["copy", name, &format!("oci-layout://{}", layout.display())]).ok();
    }
    let layout = layout.to_str().unwrap();
    let archive = scratch.path().join("a.tar");
    let archive = archive.to_str().unwrap();
    scratch.xbuild(&["save", "a:1", "-o", archive]).ok();
    let check = |input: &str, expect: &[&str]| {
        let fresh = Scratch::new();
        let run = fresh.xbuild(&["load", "-i", input]).ok();
        let names: Vec<_> =
            run.stderr.lines().filter_map(|line| line.strip_prefix("loaded docker.io/library/")).collect();
        assert_eq!(names, expect, "{input}: {}", run.stderr);
        assert_eq!(run.stdout.lines().count(), expect.len());
    };
    check(layout, &["a:1", "b:2"]);
    check(&format!("oci-layout://{layout}"), &["a:1", "b:2"]);
    check(&format!("oci-layout:{layout}:2"), &["b:2"]);
    check(&format!("docker-archive:{archive}"), &["a:1"]);
    check(&format!("docker-archive:{archive}:a:1"), &["a:1"]);
    check(&format!("oci-archive:{archive}"), &["a:1"]);
    let empty = scratch.path().join("empty");
    scratch.xbuild(&["load", "-i", "docker://h.example/x"]).fails(2, &["xbuild pull"]);
    oci::layout::Layout::create(&empty).unwrap();
    scratch.xbuild(&["load", "-i", empty.to_str().unwrap()]).fails(4, &["it lists no image"]);
}
