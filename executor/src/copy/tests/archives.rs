//! ADD of archives, from entries to tar and back.

use super::*;
use crate::tree::Content;
use oci::compress::Encoding;
use std::sync::Arc;

/// Makes a layer tar of entries in path order, in this test's notation.
fn tar(lines: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        append(&mut out, line);
    }
    out.extend_from_slice(&[0; 1024]);
    out
}

/// Appends one member; members may come in any order, and paths twice.
fn append(out: &mut Vec<u8>, line: &str) {
    let device = oci::layer::Device { major: 1, minor: 3 };
    let (entry, bytes) = match line.strip_suffix(" device") {
        Some(path) => (Entry::plain(path, Kind::CharDevice(device), 0o666), None),
        None => parse(line),
    };
    let mut entry = entry;
    if let (Kind::File { size, .. }, Some(bytes)) = (&mut entry.kind, &bytes) {
        *size = bytes.len() as u64;
    }
    oci::layer::Encoder::default().entry(&entry, out).unwrap();
    if let Some(bytes) = bytes {
        out.extend_from_slice(&bytes);
        out.resize(out.len() + oci::layer::writer::padding(bytes.len() as u64), 0);
    }
}

fn source(files: &[(&str, &[u8])]) -> Memory {
    files.iter().fold(Memory::default(), |tree, (path, bytes)| {
        tree.with_file(Entry::plain(*path, Kind::Fifo, 0o600), bytes)
    })
}

fn add(sources: &[&str], dest: &str) -> CopyOp {
    CopyOp { unpack: Unpack::Archives, ..copy(sources, dest) }
}

fn plan_add(op: &CopyOp, source: &Memory, parent: &Memory) -> Result<CopyPlan, CopyError> {
    let staging = tempfile::tempdir().unwrap();
    let source = Source { tree: source, kind: SourceKind::Context };
    let plan = plan(op, &[source], parent, &options(staging.path()));
    assert_eq!(std::fs::read_dir(staging.path()).unwrap().count(), 0, "the spool has no name");
    plan
}

fn check_add(op: &CopyOp, members: &[&str], parent: &[&str], expected: &[&str]) {
    let got = match plan_add(op, &source(&[("t.tar", &tar(members))]), &tree(parent)) {
        Ok(plan) => plan.entries.iter().map(describe).collect(),
        Err(error) => vec![format!("error: {error}")],
    };
    assert_eq!(got, expected, "ADD t.tar {} with {members:?} on {parent:?}", op.dest);
}

#[test]
fn archives_are_unpacked_into_the_destination() {
    let members = ["d/ 700 1:2", "d/f 640 3:4", "d/l -> f", "d/m = d/f"];
    check_add(
        &add(&["t.tar"], "/x"),
        &members,
        &[],
        &["x/ 755 0:0", "x/d/ 700 1:2", "x/d/f 640 3:4", "x/d/l -> f", "x/d/m = x/d/f"],
    );
    let chown = CopyOp { chown: owner("100:200"), ..add(&["t.tar"], "/out/") };
    check_add(&chown, &["foo 644 5:5"], &[], &["out/ 755 100:200", "out/foo 644 100:200"]);
    let never = CopyOp { unpack: Unpack::Never, ..add(&["t.tar"], "/x") };
    check_add(&never, &members, &[], &["x 600 0:0"]);
    check_add(&add(&["t.tar"], "/x"), &members, &["x"], &["error: cannot copy to non-directory: \"/x\""]);
}

#[test]
fn the_bytes_are_those_of_the_members() {
    let plan = plan_add(
        &add(&["t.tar"], "/"),
        &source(&[("t.tar", &tar(&["a", "long/", "long/name"]))]),
        &tree(&[]),
    )
    .unwrap();
    let got: Vec<_> = plan.entries.iter().map(bytes).collect();
    assert_eq!(got, ["a", "", "long/name"]);
    for planned in &plan.entries {
        if let Kind::File { content, .. } = planned.entry.kind {
            assert_eq!(content.unwrap().0, *blake3::hash(bytes(planned).as_bytes()).as_bytes());
        }
    }
}

#[test]
fn every_compression_is_recognised_by_content() {
    let plain = tar(&["foo"]);
    for encoding in [Encoding::None, Encoding::GZIP, Encoding::ZSTD] {
        let mut encoder = oci::compress::Encoder::with_threads(Vec::new(), encoding, 1);
        std::io::Write::write_all(&mut encoder, &plain).unwrap();
        let packed = encoder.finish().unwrap();
        let plan = plan_add(&add(&["t"], "/d/"), &source(&[("t", &packed)]), &tree(&[])).unwrap();
        assert_eq!(
            plan.entries.iter().map(describe).collect::<Vec<_>>(),
            ["d/ 755 0:0", "d/foo 644 0:0"],
            "{encoding:?}"
        );
    }
}

#[test]
fn what_is_no_archive_is_copied() {
    for bytes in [
        &b""[..],
        b"text",
        &[0; 1024],
        &[b'a'; 600],
        b"\x1f\x8b\x08 broken",
        b"BZh9 broken",
        b"\xfd7zXZ\0 no",
    ] {
        let plan = plan_add(&add(&["t.tar.gz"], "/d/"), &source(&[("t.tar.gz", bytes)]), &tree(&[])).unwrap();
        assert_eq!(plan.entries[1].entry.path, Path::new("d/t.tar.gz"), "{}", bytes.escape_ascii());
    }
}

#[test]
fn wildcards_unpack_several_archives() {
    let source = source(&[("b.tar", &tar(&["bar"])), ("t.tar", &tar(&["foo"]))]);
    let plan = plan_add(&add(&["*.tar"], "/dest"), &source, &tree(&[])).unwrap();
    let got: Vec<_> = plan.entries.iter().map(describe).collect();
    assert_eq!(got, ["dest/ 755 0:0", "dest/bar 644 0:0", "dest/foo 644 0:0"]);
}

#[test]
fn implied_parents_are_made() {
    check_add(
        &add(&["t.tar"], "/"),
        &["etc/dnf/", "etc/dnf/conf"],
        &[],
        &["etc/ 755 0:0", "etc/dnf/ 755 0:0", "etc/dnf/conf 644 0:0"],
    );
    check_add(
        &add(&["t.tar"], "/"),
        &["a/b/c"],
        &["a/ 700 5:5"],
        &["a/ 700 5:5", "a/b/ 755 0:0", "a/b/c 644 0:0"],
    );
}

#[test]
fn ctx_13_archives_write_through_links_of_the_image() {
    let parent = ["run/ 711", "var/", "var/run -> /run"];
    check_add(
        &add(&["t.tar"], "/"),
        &["var/run/act/", "var/run/act/HEAD", "var/run/act/link = var/run/act/HEAD"],
        &parent,
        &["run/ 711 0:0", "run/act/ 755 0:0", "run/act/HEAD 644 0:0", "run/act/link = run/act/HEAD"],
    );
    check_add(
        &add(&["t.tar"], "/var/run/x"),
        &["f"],
        &parent,
        &["run/ 711 0:0", "run/x/ 755 0:0", "run/x/f 644 0:0"],
    );
}

#[test]
fn tar_42_links_planted_by_the_archive_stay_in_the_root() {
    check_add(
        &add(&["t.tar"], "/"),
        &["l -> ../../etc", "l/f"],
        &["etc/ 700"],
        &["etc/ 700 0:0", "etc/f 644 0:0", "l -> ../../etc"],
    );
    check_add(&add(&["t.tar"], "/x"), &["l -> /", "l/f"], &[], &["f 644 0:0", "x/ 755 0:0", "x/l -> /"]);
    check_add(&add(&["t.tar"], "/x"), &["l -> l", "l/f"], &[], &["error: look at \"/x/l\""]);
    // TAR-41: a directory entry does not follow a link of the same name, it replaces it.
    check_add(&add(&["t.tar"], "/"), &["evil -> /victim", "evil/ 777"], &["victim/ 700"], &["evil/ 777 0:0"]);
}

#[test]
fn conflicts_are_overwritten_entry_by_entry() {
    let parent = ["d/ 700 5:5", "d/old", "f", "l -> d"];
    check_add(&add(&["t.tar"], "/"), &["d/ 711 1:1", "d/new"], &parent, &["d/ 711 1:1", "d/new 644 0:0"]);
    check_add(&add(&["t.tar"], "/"), &["d"], &parent, &["d 644 0:0"]);
    check_add(&add(&["t.tar"], "/"), &["f/", "f/x"], &parent, &["f/ 755 0:0", "f/x 644 0:0"]);
    check_add(&add(&["t.tar"], "/"), &["l"], &parent, &["l 644 0:0"]);
    // A directory that comes back after it was replaced must not show what the parent had in it.
    check_add(&add(&["t.tar"], "/"), &["d", "d/", "d/new"], &parent, &["d/! 755 0:0", "d/new 644 0:0"]);
    check_add(&add(&["t.tar"], "/"), &["a 600", "a 640"], &parent, &["a 640 0:0"]);
}

#[test]
fn hard_links_to_files_of_the_image_bring_them_along() {
    let parent = ["d/ 711", "d/f 600 7:7"];
    let plan =
        plan_add(&add(&["t.tar"], "/"), &source(&[("t.tar", &tar(&["g = d/f"]))]), &tree(&parent)).unwrap();
    assert_eq!(
        plan.entries.iter().map(describe).collect::<Vec<_>>(),
        ["d/ 711 0:0", "d/f 600 7:7", "g = d/f"]
    );
    assert_eq!(bytes(&plan.entries[1]), "d/f");
    check_add(
        &add(&["t.tar"], "/"),
        &["g = none"],
        &parent,
        &["error: unpack \"t.tar\": member \"g\" is a hard link to a file that is not there"],
    );
    check_add(
        &add(&["t.tar"], "/"),
        &["g = d"],
        &parent,
        &["error: unpack \"t.tar\": member \"g\" is a hard link to a directory"],
    );
}

#[test]
fn a_file_of_a_packed_layer_is_asked_for() {
    let index = |paths: &[&str]| {
        let entries = paths.iter().map(|path| parse(path).0).map(|mut entry| {
            if let Kind::File { size, .. } = &mut entry.kind {
                *size = 1;
            }
            entry
        });
        Arc::new(oci::layer::LayerIndex::new(entries.collect(), Default::default()).unwrap())
    };
    let parent = crate::tree::Merged::of_indexes([index(&["x"]), index(&["f"])]);
    let archive = source(&[("t.tar", &tar(&["g = f"]))]);
    let staging = tempfile::tempdir().unwrap();
    let context = Source { tree: &archive, kind: SourceKind::Context };
    let error = plan(&add(&["t.tar"], "/"), &[context], &parent, &options(staging.path())).unwrap_err();
    assert_eq!(error.missing_layer(), Some(MissingLayer::Parent(1)), "{error}");
    let stage = Source { tree: &parent, kind: SourceKind::Rootfs };
    let error = plan(&copy(&["x"], "/y"), &[stage], &tree(&[]), &options(staging.path())).unwrap_err();
    assert_eq!(error.missing_layer(), Some(MissingLayer::Source(0)), "{error}");
}

#[test]
fn tar_49_devices_are_refused_unless_allowed() {
    let refused = "error: unpack \"t.tar\": member \"null\" is a device, which ADD refuses; pass --allow-devices to make it";
    check_add(&add(&["t.tar"], "/"), &["null device"], &[], &[refused]);
    let archive = source(&[("t.tar", &tar(&["null device"]))]);
    let staging = tempfile::tempdir().unwrap();
    let allowed = Options { devices: Devices::Allow, ..options(staging.path()) };
    let source = Source { tree: &archive, kind: SourceKind::Context };
    let plan = plan(&add(&["t.tar"], "/"), &[source], &tree(&[]), &allowed).unwrap();
    assert_eq!(plan.entries.iter().map(describe).collect::<Vec<_>>(), ["null device 666 0:0"]);
}

#[test]
fn tar_50_limits_are_told() {
    let archive = source(&[("t.tar", &tar(&["a", "b", "c"]))]);
    let staging = tempfile::tempdir().unwrap();
    let few = Options { limits: Limits { entries: 2, ..Limits::default() }, ..options(staging.path()) };
    let source = Source { tree: &archive, kind: SourceKind::Context };
    let error = plan(&add(&["t.tar"], "/"), &[source], &tree(&[]), &few).unwrap_err();
    assert!(matches!(error, CopyError::Archive { source: TarError::Limit(_), .. }), "{error}");
}

#[test]
fn tar_53_archives_that_are_cut_off_are_errors() {
    let whole = tar(&["a", "b"]);
    let error =
        plan_add(&add(&["t.tar"], "/"), &source(&[("t.tar", &whole[..1100])]), &tree(&[])).unwrap_err();
    assert!(matches!(error, CopyError::Archive { .. }), "{error}");
}

#[test]
fn tar_44_a_member_without_a_name_is_refused_and_no_plain_file() {
    let mut archive = tar(&["f"]);
    archive[0] = 0;
    let sum: u32 = archive[..148].iter().chain(&archive[156..512]).map(|byte| u32::from(*byte)).sum();
    archive[148..155].copy_from_slice(format!("{:07o}", sum + 8 * 32).as_bytes());
    let planned = plan_add(&add(&["t.tar"], "/"), &source(&[("t.tar", &archive)]), &tree(&[]));
    assert!(matches!(planned, Err(CopyError::Archive { .. })));
}

#[test]
fn git_checkouts_are_not_unpacked() {
    let archive = source(&[("t.tar", &tar(&["a"]))]);
    let source = Source { tree: &archive, kind: SourceKind::Git };
    let plan = plan(&add(&["t.tar"], "/d/"), &[source], &tree(&[]), &options(Path::new("/"))).unwrap();
    assert_eq!(plan.entries[1].entry.path, Path::new("d/t.tar"));
}

#[test]
fn a_downloaded_file_keeps_mode_and_time() {
    let time = Mtime { seconds: 123, nanoseconds: 0 };
    let content = Content::Bytes(Arc::from(&b"body"[..]));
    let url = Memory::file("name", 0o600, time, 4, content);
    let source = Source { tree: &url, kind: SourceKind::Url };
    let op = CopyOp { unpack: Unpack::Never, ..add(&["name"], "/d/") };
    let plan = plan(&op, &[source], &tree(&[]), &options(Path::new("/"))).unwrap();
    assert_eq!(describe(&plan.entries[1]), "d/name 600 0:0");
    assert_eq!(plan.entries[1].entry.mtime, time);
    assert_eq!(bytes(&plan.entries[1]), "body");
}
