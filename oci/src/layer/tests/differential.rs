//! What GNU tar, Python and the `tar` crate read from our archives, and what we read from theirs.

use std::process::{Command, Stdio};

use super::*;

/// Runs a foreign program on `input`; `None` where it is not installed.
fn run(program: &str, arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").env("TZ", "UTC");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        skip(&format!("{program} is not installed"));
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feed = std::thread::spawn(move || stdin.write_all(&input).unwrap());
    let output = child.wait_with_output().unwrap();
    feed.join().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

#[expect(clippy::disallowed_methods, reason = "strictness of tests is the tester's environment")]
fn skip(why: &str) {
    println!("SKIP: {why}");
    assert!(std::env::var_os("XBUILD_TEST_STRICT").is_none(), "{why}");
}

/// A layer with every kind, long names and attributes.
fn sample() -> Vec<Entry> {
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
    let mut capable = Entry::plain("c", Kind::File { size: 5, content: None }, 0o4755);
    capable.xattrs.insert(
        b"security.capability".to_vec(),
        b"\x01\0\0\x02\x0a\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
    );
    capable.mtime = Mtime { seconds: 1_600_000_000, nanoseconds: 123_456_789 };
    capable.uid = 4_000_000_000;
    let mut odd = Entry::directory("a b", 0o1777);
    odd.mtime.seconds = -100;
    vec![
        odd,
        Entry::whiteout("a b/gone"),
        Entry::plain("b", Kind::BlockDevice(Device { major: 8, minor: 300 }), 0o660),
        capable,
        Entry::directory("d".repeat(90), 0o755),
        Entry::plain(long.clone(), Kind::File { size: 1300, content: None }, 0o600),
        Entry::plain("e", Kind::HardLink { target: long.into() }, 0o600),
        Entry::plain("f", Kind::Fifo, 0o644),
        Entry::plain("l", Kind::Symlink { target: "../../x//y/./z".into() }, 0o777),
        Entry::plain("m", Kind::CharDevice(Device { major: 1, minor: 3 }), 0o666),
    ]
}

/// `type path mode uid gid size mtime link major,minor`, one a line, as Python prints it.
fn listing(entries: &[Entry]) -> String {
    let line = |entry: &Entry| {
        let path = entry.path.to_str().unwrap();
        let (flag, link, device) = match &entry.kind {
            Kind::File { .. } => ('0', "", (0, 0)),
            Kind::Whiteout => {
                let at = path.rfind('/').map_or(0, |at| at + 1);
                return format!("0 {}.wh.{} 0 0 0 0 0.0  0,0\n", &path[..at], &path[at..]);
            }
            Kind::Directory { .. } => ('5', "", (0, 0)),
            Kind::Symlink { target } => ('2', target.to_str().unwrap(), (0, 0)),
            Kind::HardLink { target } => ('1', target.to_str().unwrap(), (0, 0)),
            Kind::CharDevice(device) => ('3', "", (device.major, device.minor)),
            Kind::BlockDevice(device) => ('4', "", (device.major, device.minor)),
            Kind::Fifo => ('6', "", (0, 0)),
        };
        let Mtime { seconds, nanoseconds } = entry.mtime;
        let time = seconds as f64 + f64::from(nanoseconds / 1000) / 1e6;
        let Entry { mode, uid, gid, .. } = entry;
        let (major, minor) = device;
        format!("{flag} {path} {mode:o} {uid} {gid} {} {time:?} {link} {major},{minor}\n", entry.size())
    };
    entries.iter().map(line).collect()
}

const PYTHON: &str = "
import tarfile, sys
for m in tarfile.open(fileobj=sys.stdin.buffer, mode='r|'):
    t = float(int(m.mtime * 1000000) / 1e6)
    print(m.type.decode(), m.name, '%o' % m.mode, m.uid, m.gid, m.size, repr(t), m.linkname,
          '%d,%d' % (m.devmajor, m.devminor))
";

#[test]
fn python_lists_what_was_written() {
    let entries = sample();
    if let Some(listed) = run("python3", &["-c", PYTHON], &archive(&entries, content_of)) {
        assert_eq!(String::from_utf8(listed).unwrap(), listing(&entries));
    }
}

#[test]
fn gnu_tar_lists_what_was_written() {
    let entries = sample();
    let arguments = ["-t", "-f", "-", "--quoting-style=literal"];
    if let Some(listed) = run("tar", &arguments, &archive(&entries, content_of)) {
        let names = |entry: &Entry| match (&entry.kind, entry.path.to_str().unwrap()) {
            (Kind::Whiteout, _) => "a b/.wh.gone\n".to_owned(),
            (Kind::Directory { .. }, path) => format!("{path}/\n"),
            (_, path) => format!("{path}\n"),
        };
        assert_eq!(String::from_utf8(listed).unwrap(), entries.iter().map(names).collect::<String>());
    }
}

#[test]
fn the_tar_crate_reads_what_was_written() {
    let entries = sample();
    let bytes = archive(&entries, content_of);
    let mut theirs = ::tar::Archive::new(&bytes[..]);
    let mut count = 0;
    for (member, entry) in theirs.entries().unwrap().zip(&entries) {
        let mut member = member.unwrap();
        let mut content = Vec::new();
        member.read_to_end(&mut content).unwrap();
        assert_eq!(content, content_of(entry), "{:?}", entry.path);
        if entry.kind != Kind::Whiteout {
            assert_eq!(member.path().unwrap(), entry.path.as_path());
            assert_eq!(member.header().mode().unwrap(), entry.mode);
        }
        count += 1;
    }
    assert_eq!(count, entries.len());
}

#[test]
fn gnu_tar_formats_are_read_alike() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("in");
    let long = root.join("x".repeat(80)).join("y".repeat(80));
    std::fs::create_dir_all(long.parent().unwrap()).unwrap();
    std::fs::write(&long, b"hello").unwrap();
    std::fs::hard_link(&long, root.join("hard")).unwrap();
    std::os::unix::fs::symlink("../".repeat(50), root.join("soft")).unwrap();
    let holes = std::fs::File::create(root.join("sparse")).unwrap();
    holes.set_len(1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&holes, b"middle", 500_000).unwrap();
    let mut first = None;
    for format in ["gnu", "pax", "oldgnu"] {
        for sparse in [&[][..], &["--sparse"]] {
            let path = root.to_str().unwrap();
            let tail = ["-C", path, "--sort=name", "--mtime=@1000000000", "-cf", "-", "."];
            let format = format!("--format={format}");
            let arguments: Vec<&str> = [&format[..]].iter().chain(sparse).chain(&tail).copied().collect();
            let Some(bytes) = run("tar", &arguments, b"") else { return };
            let members = read_all(&bytes).unwrap();
            assert_eq!(members.len(), 6, "{format} {sparse:?}");
            let first = first.get_or_insert_with(|| members.clone());
            assert_eq!(&members, first, "{format} {sparse:?}");
        }
    }
}
