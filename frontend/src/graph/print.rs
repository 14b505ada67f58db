//! A definition as JSON, as a DOT graph and as a picture, for `--print`.
//!
//! All are for people and their tools; nothing is hashed of them.

mod place;
mod route;
mod svg;

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
pub use svg::svg;

use super::{
    CacheSharing, Chmod, CopySource, Definition, Mount, Network, Op, Security, Step, StepGraph, StepId,
    StepKind, Unpack,
};

/// What is known of a step beyond the graph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Note {
    /// What the cache has of it.
    pub mark: Mark,
    /// How long it ran when it ran last.
    pub duration: Option<Duration>,
    /// Why it must run.
    pub reason: Option<String>,
}

/// What the cache has of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mark {
    /// Nobody asked, or it is not needed.
    #[default]
    None,
    /// It names what exists already.
    Source,
    /// It need not run.
    Hit,
    /// It must run.
    Miss,
}

impl Mark {
    /// Returns the mark as a word; nothing where there is none.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Source => "source",
            Self::Hit => "hit",
            Self::Miss => "miss",
        }
    }
}

impl Note {
    /// Returns mark and duration in words: `hit · 3.2 s`, `miss · last 3.2 s`.
    pub fn words(&self) -> String {
        let word = self.mark.word();
        let last = match self.mark {
            Mark::None | Mark::Source | Mark::Hit => "",
            Mark::Miss => "last ",
        };
        match self.duration.map(duration) {
            Some(duration) if word.is_empty() => duration,
            Some(duration) => format!("{word} · {last}{duration}"),
            None => word.to_owned(),
        }
    }
}

/// Returns a duration as people say it, to two digits or so.
fn duration(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    match seconds {
        0 if millis == 0 => "<1 ms".to_owned(),
        0 if millis < 100 => format!("{millis} ms"),
        0..60 => format!("{seconds}.{} s", millis / 100),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Returns text as one line in which every character shows: no controls, no change of direction, nothing that
/// XML forbids (XML 1.0 §2.2).
fn visible(text: &str) -> String {
    let shown = |char: char| match char {
        '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => ' ',
        '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}' => ' ',
        char if char.is_control() => ' ',
        char => char,
    };
    text.chars().map(shown).collect()
}

/// Returns a definition as JSON.
pub fn json(definition: &Definition) -> Value {
    let graph = &definition.graph;
    json!({
        "stage": definition.image.stage,
        "platform": definition.image.platform.to_string(),
        "target": definition.image.target.map(|id| id.0),
        "also": definition.image.also.iter().map(|id| id.0).collect::<Vec<_>>(),
        "skipped": definition.image.skipped,
        "source_date_epoch": definition.image.source_date_epoch,
        "steps": graph.iter().map(|(id, step)| step_json(graph, id, step)).collect::<Vec<_>>(),
        "config": definition.image.config.config,
        "history": definition.image.history.iter().map(|entry| json!({
            "created_by": entry.history.created_by,
            "step": entry.step.map(|id| id.0),
        })).collect::<Vec<_>>(),
    })
}

/// Returns one step as JSON.
pub fn step_json(graph: &StepGraph, id: StepId, step: &Step) -> Value {
    json!({
        "id": id.0,
        "digest": format!("{:?}", graph.op_digest(id)),
        "kind": match step.kind() {
            StepKind::Source => "source",
            StepKind::Layer => "layer",
        },
        "parent": step.parent.map(|parent| parent.0),
        "inputs": step.inputs.iter().map(|input| input.0).collect::<Vec<_>>(),
        "platform": step.platform.to_string(),
        "no_cache": step.no_cache,
        "stage": step.label.stage,
        "text": step.label.text,
        "lines": [step.label.lines.0, step.label.lines.1],
        "op": op_json(&step.op),
    })
}

fn op_json(op: &Op) -> Value {
    match op {
        Op::Image(image) => json!({
            "image": image.reference, "manifest": image.manifest, "platform": image.platform.to_string(),
        }),
        Op::OciLayout(layout) => json!({ "oci-layout": layout.path, "manifest": layout.manifest }),
        Op::Local(local) => json!({
            "local": local.context,
            "files": local.selection.entries.len(),
            "content": local.selection.content().to_string(),
        }),
        Op::Git(git) => json!({
            "git": git.remote, "commit": git.commit, "subdir": git.subdir,
            "keep_git_dir": git.keep_git_dir, "submodules": git.submodules,
        }),
        Op::Http(http) => json!({
            "http": http.url, "digest": http.digest, "filename": http.filename, "last_modified": http.last_modified,
        }),
        Op::Run(run) => json!({
            "run": run.args,
            "env": run.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
            "cwd": run.cwd,
            "user": run.user,
            "network": match run.network {
                Network::Default => "default",
                Network::None => "none",
                Network::Host => "host",
            },
            "security": match run.security {
                Security::Sandbox => "sandbox",
                Security::Insecure => "insecure",
            },
            "mounts": run.mounts.iter().map(mount_json).collect::<Vec<_>>(),
            "files": run.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(),
        }),
        Op::Copy(copy) => json!({
            "copy": copy.sources.iter().map(source_json).collect::<Vec<_>>(),
            "dest": copy.dest,
            "dest_is_dir": copy.dest_is_dir,
            "chown": copy.chown.as_ref().map(|owner| match &owner.group {
                Some(group) => format!("{}:{group}", owner.user),
                None => owner.user.clone(),
            }),
            "chmod": copy.chmod.as_ref().map(|chmod| match chmod {
                Chmod::Octal(bits) => format!("{bits:04o}"),
                Chmod::Symbolic(text) => text.clone(),
            }),
            "link": copy.link,
            "parents": copy.parents,
            "excludes": copy.excludes,
            "unpack": match copy.unpack {
                Unpack::Never => false,
                Unpack::Archives => true,
            },
        }),
        Op::Mkdir(mkdir) => json!({ "mkdir": mkdir.path, "user": mkdir.user }),
    }
}

fn source_json(source: &CopySource) -> Value {
    match source {
        CopySource::Input { input, path, wildcards } => {
            json!({ "input": input, "path": path, "wildcards": wildcards })
        }
        CopySource::Inline(file) => json!({ "inline": file.name, "size": file.data.len() }),
    }
}

fn mount_json(mount: &Mount) -> Value {
    match mount {
        Mount::Bind(bind) => json!({
            "type": "bind", "input": bind.input, "source": bind.source, "target": bind.target,
            "writable": bind.writable,
        }),
        Mount::Cache(cache) => json!({
            "type": "cache", "id": cache.id, "target": cache.target,
            "sharing": match cache.sharing {
                CacheSharing::Shared => "shared",
                CacheSharing::Private => "private",
                CacheSharing::Locked => "locked",
            },
            "read_only": cache.read_only,
        }),
        Mount::Tmpfs(tmpfs) => json!({ "type": "tmpfs", "target": tmpfs.target, "size": tmpfs.size }),
        Mount::Secret(secret) => json!({
            "type": "secret", "id": secret.id, "target": secret.target, "env": secret.env,
            "required": secret.required,
        }),
        Mount::Ssh(ssh) => json!({
            "type": "ssh", "id": ssh.id, "target": ssh.target, "required": ssh.required,
        }),
    }
}

/// Returns the graph in the DOT language: stages are clusters, parents solid lines, inputs dashed ones.
pub fn dot(definition: &Definition, note: impl Fn(StepId) -> Note) -> String {
    let graph = &definition.graph;
    let mut out =
        "digraph build {\n  rankdir=LR;\n  node [shape=box, fontname=\"monospace\", fontsize=10];\n"
            .to_owned();
    let mut write = |line: std::fmt::Arguments<'_>| out.write_fmt(line).expect("a String takes all text");
    let mut stages: Vec<&str> = Vec::new();
    for (_, step) in graph.iter() {
        if !stages.contains(&step.label.stage.as_str()) {
            stages.push(&step.label.stage);
        }
    }
    for (n, stage) in stages.iter().enumerate() {
        let named = !stage.is_empty();
        if named {
            write(format_args!("  subgraph cluster_{n} {{\n    label=\"{}\";\n", escaped(stage)));
        }
        for (id, step) in graph.iter().filter(|(_, step)| step.label.stage == *stage) {
            write(format_args!(
                "    s{} [{}];\n",
                id.0,
                attributes(step, &note(id), Some(id) == definition.image.target)
            ));
        }
        if named {
            write(format_args!("  }}\n"));
        }
    }
    for (id, step) in graph.iter() {
        if let Some(parent) = step.parent {
            write(format_args!("  s{} -> s{};\n", parent.0, id.0));
        }
        for input in &step.inputs {
            write(format_args!("  s{} -> s{} [style=dashed];\n", input.0, id.0));
        }
    }
    out + "}\n"
}

fn attributes(step: &Step, note: &Note, is_target: bool) -> String {
    let shown: String = step.label.text.chars().take(60).collect();
    let words = note.words();
    let separator = if words.is_empty() { "" } else { "\\n" };
    let mut text = format!("label=\"{}{separator}{}\"", escaped(&shown), escaped(&words));
    match note.mark {
        Mark::None => {}
        Mark::Source => text.push_str(", style=filled, fillcolor=\"#d0e2f5\""),
        Mark::Hit => text.push_str(", style=filled, fillcolor=\"#d9ead3\""),
        Mark::Miss => text.push_str(", style=filled, fillcolor=\"#f4cccc\""),
    }
    if let Some(reason) = &note.reason {
        text.push_str(&format!(", tooltip=\"{}\"", escaped(reason)));
    }
    if is_target {
        text.push_str(", penwidth=2");
    }
    if step.kind() == StepKind::Source {
        text.push_str(", shape=ellipse");
    }
    text
}

/// Returns text for between the quotes of a DOT string.
fn escaped(text: &str) -> String {
    visible(text).replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_as_people_say_them() {
        let check = |millis, expect: &str| assert_eq!(duration(Duration::from_millis(millis)), expect);
        check(0, "<1 ms");
        check(99, "99 ms");
        check(100, "0.1 s");
        check(59_999, "59.9 s");
        check(60_000, "1 min 00 s");
        check(3_599_000, "59 min 59 s");
        check(3_660_000, "1 h 01 min");
    }

    #[test]
    fn notes_say_mark_and_duration() {
        let check = |mark, millis: Option<u64>, expect: &str| {
            let note = Note { mark, duration: millis.map(Duration::from_millis), reason: None };
            assert_eq!(note.words(), expect);
        };
        check(Mark::None, None, "");
        check(Mark::None, Some(5), "5 ms");
        check(Mark::Source, None, "source");
        check(Mark::Hit, Some(5), "hit · 5 ms");
        check(Mark::Miss, Some(5), "miss · last 5 ms");
        check(Mark::Miss, None, "miss");
    }
}
