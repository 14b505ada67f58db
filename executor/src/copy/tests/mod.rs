//! Plans from trees in memory. An entry is written `path mode uid:gid`, with `/` after a directory, `-> target`
//! behind a link and `= first` behind a hard link; mode and owner default to 755 or 644 and 0:0.

mod archives;
mod directories;
mod files;
mod model;
mod selection;

use super::*;
use frontend::graph::{MkdirOp, Owner};

const NOW: Mtime = Mtime { seconds: 5000, nanoseconds: 7 };

/// Makes an entry of its text; files hold their path.
fn parse(text: &str) -> (Entry, Option<Vec<u8>>) {
    let (head, link) = match (text.split_once(" -> "), text.split_once(" = ")) {
        (Some((head, target)), _) => (head, Some(Kind::Symlink { target: target.into() })),
        (None, Some((head, target))) => (head, Some(Kind::HardLink { target: target.into() })),
        (None, None) => (text, None),
    };
    let mut words = head.split(' ');
    let path = words.next().unwrap();
    let mut entry = match (path.strip_suffix('/'), link) {
        (Some(path), _) => Entry::directory(path, 0o755),
        (None, Some(Kind::Symlink { target })) => Entry::plain(path, Kind::Symlink { target }, 0o777),
        (None, Some(kind)) => Entry::plain(path, kind, 0o644),
        (None, None) => Entry::plain(path, Kind::File { size: 0, content: None }, 0o644),
    };
    if let Some(mode) = words.next() {
        entry.mode = u32::from_str_radix(mode, 8).unwrap();
    }
    if let Some((uid, gid)) = words.next().and_then(|owner| owner.split_once(':')) {
        (entry.uid, entry.gid) = (uid.parse().unwrap(), gid.parse().unwrap());
    }
    entry.mtime = Mtime { seconds: 1000, nanoseconds: 0 };
    let bytes = matches!(entry.kind, Kind::File { .. }).then(|| path.as_bytes().to_vec());
    (entry, bytes)
}

fn tree(lines: &[&str]) -> Memory {
    lines.iter().fold(Memory::default(), |tree, line| match parse(line) {
        (entry, Some(bytes)) => tree.with_file(entry, &bytes),
        (entry, None) => tree.with(entry),
    })
}

fn describe(planned: &Planned) -> String {
    let entry = &planned.entry;
    let path = entry.path.display();
    let owner = format!("{:o} {}:{}", entry.mode, entry.uid, entry.gid);
    match &entry.kind {
        Kind::Directory { opaque: false } => format!("{path}/ {owner}"),
        Kind::Directory { opaque: true } => format!("{path}/! {owner}"),
        Kind::Symlink { target } => format!("{path} -> {}", target.display()),
        Kind::HardLink { target } => format!("{path} = {}", target.display()),
        Kind::CharDevice(_) | Kind::BlockDevice(_) => format!("{path} device {owner}"),
        Kind::Fifo => format!("{path} pipe {owner}"),
        Kind::File { .. } | Kind::Whiteout => format!("{path} {owner}"),
    }
}

/// The bytes of a planned file.
fn bytes(planned: &Planned) -> String {
    let mut text = String::new();
    if let Some(content) = &planned.content {
        io::Read::read_to_string(&mut content.open().unwrap(), &mut text).unwrap();
    }
    text
}

/// A COPY of a context.
fn copy(sources: &[&str], dest: &str) -> CopyOp {
    let dest_is_dir = dest.ends_with('/') || sources.len() > 1;
    let input = |path: &&str| CopySource::Input { input: 0, path: (*path).to_owned(), wildcards: true };
    CopyOp {
        sources: sources.iter().map(input).collect(),
        dest: if dest == "/" { dest.to_owned() } else { dest.trim_end_matches('/').to_owned() },
        dest_is_dir,
        chown: None,
        chmod: None,
        link: false,
        parents: false,
        excludes: Vec::new(),
        unpack: Unpack::Never,
    }
}

fn owner(spec: &str) -> Option<Owner> {
    let (user, group) = spec.split_once(':').map_or((spec, None), |(user, group)| (user, Some(group)));
    Some(Owner { user: user.to_owned(), group: group.map(str::to_owned) })
}

fn options(staging: &Path) -> Options<'_> {
    Options {
        source_date_epoch: None,
        now: NOW,
        staging,
        limits: Limits::default(),
        devices: Devices::Refuse,
    }
}

fn plan_of(op: &CopyOp, source: &Memory, parent: &Memory) -> Result<CopyPlan, CopyError> {
    let source = Source { tree: source, kind: SourceKind::Rootfs };
    plan(op, &[source], parent, &options(Path::new("/nonexistent")))
}

/// Plans and compares; an error is its message.
fn check(op: &CopyOp, source: &[&str], parent: &[&str], expected: &[&str]) {
    let got = match plan_of(op, &tree(source), &tree(parent)) {
        Ok(plan) => plan.entries.iter().map(describe).collect(),
        Err(error) => vec![format!("error: {error}")],
    };
    assert_eq!(got, expected, "COPY {:?} {} of {source:?} on {parent:?}", op.sources, op.dest);
}
