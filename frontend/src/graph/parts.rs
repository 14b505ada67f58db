//! The parts of a step as names and texts, in which people see why it is not cached. What is no part of the digest is
//! none here; no key rests on these texts.

use oci::layer::{Entry, Kind};

use super::Step;
use super::encode::depends_on_platform;
use super::op::{CopyOp, CopySource, LocalOp, Op, RunOp};

/// Names and texts.
#[derive(Default)]
struct Parts(Vec<(String, String)>);

impl Parts {
    fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }
}

/// Returns the named parts of a step's digest as text.
pub(super) fn of(step: &Step) -> Vec<(String, String)> {
    let mut parts = Parts::default();
    if depends_on_platform(&step.op) {
        parts.add("platform", step.platform.to_string());
    }
    if let Some(epoch) = step.source_date_epoch {
        parts.add("SOURCE_DATE_EPOCH", epoch.to_string());
    }
    match &step.op {
        Op::Image(image) => parts.add("manifest", image.manifest.to_string()),
        Op::OciLayout(layout) => parts.add("manifest", layout.manifest.to_string()),
        Op::Local(local) => of_local(&mut parts, local),
        Op::Git(git) => parts.add("commit", &git.commit),
        Op::Http(http) => parts.add("url content", http.digest.to_string()),
        Op::Run(run) => of_run(&mut parts, run),
        Op::Copy(copy) => of_copy(&mut parts, copy),
        Op::Mkdir(mkdir) => {
            parts.add("directory", &mkdir.path);
            parts.add("user", &mkdir.user);
        }
    }
    parts.0
}

fn of_local(parts: &mut Parts, local: &LocalOp) {
    for entry in &local.selection.entries {
        parts.add(format!("file {}", entry.path.display()), file(entry));
    }
}

/// A file as people compare it: mode, kind, size, the beginning of its hash.
fn file(entry: &Entry) -> String {
    let kind = match &entry.kind {
        Kind::File { size, content: None } => format!("{size} bytes"),
        Kind::File { size, content: Some(content) } => {
            format!("{size} bytes {}", content.to_string().get(..16).unwrap_or_default())
        }
        Kind::Directory { .. } => "directory".to_owned(),
        Kind::Symlink { target } => format!("link to {}", target.display()),
        Kind::HardLink { target } => format!("hard link to {}", target.display()),
        Kind::CharDevice(_) | Kind::BlockDevice(_) => "device".to_owned(),
        Kind::Fifo => "named pipe".to_owned(),
        Kind::Whiteout => "whiteout".to_owned(),
    };
    let attributes: Vec<_> = entry.xattrs.keys().map(|name| String::from_utf8_lossy(name)).collect();
    format!("{:04o} {kind} {}", entry.mode, attributes.join(" ")).trim_end().to_owned()
}

fn of_run(parts: &mut Parts, run: &RunOp) {
    parts.add("command", run.args.join(" "));
    for (name, value) in &run.env {
        parts.add(format!("env {name}"), value);
    }
    parts.add("workdir", &run.cwd);
    parts.add("user", &run.user);
    parts.add("network", format!("{:?}", run.network));
    parts.add("security", format!("{:?}", run.security));
    for (number, mount) in (1..).zip(&run.mounts) {
        parts.add(format!("mount {number}"), format!("{mount:?}"));
    }
    for file in &run.files {
        parts.add(format!("heredoc {}", file.name), blake3::hash(&file.data).to_string());
    }
    parts.add("hostname", &run.hostname);
    parts.add("limits", format!("{:?} {:?}", run.ulimits, run.shm_size));
    let hosts: Vec<&str> = run.extra_hosts.iter().map(|host| host.name.as_str()).collect();
    parts.add("extra hosts", hosts.join(" "));
}

fn of_copy(parts: &mut Parts, copy: &CopyOp) {
    parts.add("destination", format!("{}{}", copy.dest, if copy.dest_is_dir { "/" } else { "" }));
    for (number, source) in (1..).zip(&copy.sources) {
        let value = match source {
            CopySource::Input { path, .. } => path.clone(),
            CopySource::Inline(file) => format!("heredoc {} {}", file.name, blake3::hash(&file.data)),
        };
        parts.add(format!("source {number}"), value);
    }
    parts.add("chown", format!("{:?}", copy.chown));
    parts.add("chmod", format!("{:?}", copy.chmod));
    let flags = format!(
        "link={} parents={} unpack={:?} exclude={:?}",
        copy.link, copy.parents, copy.unpack, copy.excludes
    );
    parts.add("flags", flags);
}
