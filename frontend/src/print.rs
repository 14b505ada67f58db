//! A parsed Dockerfile as JSON, for `--print=instructions`.
//!
//! Values are as written: nothing is expanded, no base is looked at. Mistakes stand beside the instructions that
//! could be read. For people's tools; the tables of `debug` have forms of their own.

use serde_json::{Value, json};

use crate::diagnostic::{Diagnostic, Severity};
use crate::file::File;
use crate::graph::{CacheSharing, Network, Security};
use crate::instruction::{
    Command, Copy, Heredoc, Instruction, InstructionKind, KeyValue, MountKind, MountSpec, Run, Spanned,
};

/// Returns directives, instructions and findings.
pub fn instructions(file: &File) -> Value {
    let directives = &file.directives;
    let mut stage = None;
    let instructions = file.instructions.iter().map(|found| {
        if let InstructionKind::From(_) = found.kind {
            stage = Some(stage.map_or(0, |stage: usize| stage + 1));
        }
        let mut value = instruction(found);
        value["stage"] = json!(stage);
        value
    });
    let instructions: Vec<_> = instructions.collect();
    json!({
        "directives": {
            "escape": directives.escape.to_string(),
            "syntax": directives.syntax.as_ref().map(|syntax| &syntax.value),
            "check": directives.check.as_ref().map(|check| &check.value.text),
        },
        "instructions": instructions,
        "findings": file.diagnostics.iter().map(|found| finding(file, found)).collect::<Vec<_>>(),
    })
}

fn finding(file: &File, found: &Diagnostic) -> Value {
    let place = file.position(found.span.start);
    json!({
        "severity": match found.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        "rule": found.rule,
        "line": place.line,
        "column": place.column,
        "message": found.message,
        "help": found.help,
    })
}

/// One instruction: where it stands, its text, its flags and its arguments by their names.
fn instruction(instruction: &Instruction) -> Value {
    let (flags, arguments) = parts(&instruction.kind);
    json!({
        "keyword": instruction.keyword.value.to_uppercase(),
        "lines": [instruction.lines.0, instruction.lines.1],
        "text": instruction.original,
        "form": if instruction.json { "json" } else { "words" },
        "flags": without_nulls(flags),
        "arguments": without_nulls(arguments),
        "comments": instruction.comments,
    })
}

/// Leaves out what was not written.
fn without_nulls(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.retain(|_, value| !value.is_null());
    }
    value
}

fn parts(kind: &InstructionKind) -> (Value, Value) {
    let none = || json!({});
    match kind {
        InstructionKind::From(from) => (
            json!({ "platform": value(from.platform.as_ref()) }),
            json!({ "image": from.image.value, "name": value(from.name.as_ref()) }),
        ),
        InstructionKind::Arg(definitions) => {
            let one = |definition: &crate::instruction::ArgDefinition| json!({ "name": definition.name.value, "default": value(definition.default.as_ref()) });
            (none(), json!({ "definitions": definitions.iter().map(one).collect::<Vec<_>>() }))
        }
        InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => {
            (none(), json!({ "pairs": self::pairs(pairs) }))
        }
        InstructionKind::Run(run) => (run_flags(run), run_arguments(run)),
        InstructionKind::Copy(copy) | InstructionKind::Add(copy) => (copy_flags(copy), copy_arguments(copy)),
        InstructionKind::Workdir(path) => (none(), json!({ "path": path.value })),
        InstructionKind::User(user) => (none(), json!({ "user": user.value })),
        InstructionKind::Cmd(command) | InstructionKind::Entrypoint(command) => {
            (none(), self::command(command))
        }
        InstructionKind::Expose(ports) => (none(), json!({ "ports": values(ports) })),
        InstructionKind::Volume(paths) => (none(), json!({ "paths": values(paths) })),
        InstructionKind::StopSignal(signal) => (none(), json!({ "signal": signal.value })),
        InstructionKind::Shell(shell) => (none(), json!({ "exec": shell })),
        InstructionKind::Healthcheck(check) => (none(), json!({ "healthcheck": check })),
        InstructionKind::Maintainer(name) => (none(), json!({ "name": name.value })),
        InstructionKind::Onbuild { text, trigger } => {
            (none(), json!({ "text": text, "trigger": instruction(trigger) }))
        }
    }
}

fn value(text: Option<&Spanned<String>>) -> Option<&str> {
    text.map(|text| text.value.as_str())
}

fn values(texts: &[Spanned<String>]) -> Vec<&str> {
    texts.iter().map(|text| text.value.as_str()).collect()
}

fn pairs(pairs: &[KeyValue]) -> Vec<Value> {
    pairs.iter().map(|pair| json!({ "key": pair.key.value, "value": pair.value.value })).collect()
}

fn command(command: &Command) -> Value {
    match command {
        Command::Shell(text) => json!({ "shell": text }),
        Command::Exec(args) => json!({ "exec": args }),
    }
}

fn heredocs(heredocs: &[Heredoc]) -> Option<Vec<Value>> {
    let one = |heredoc: &Heredoc| json!({ "name": heredoc.name, "content": heredoc.content, "expand": heredoc.expand });
    (!heredocs.is_empty()).then(|| heredocs.iter().map(one).collect())
}

fn run_flags(run: &Run) -> Value {
    json!({
        "mount": (!run.mounts.is_empty()).then(|| run.mounts.iter().map(|spec| mount(&spec.value)).collect::<Vec<_>>()),
        "network": run.network.as_ref().map(|network| match network.value {
            Network::Default => "default",
            Network::None => "none",
            Network::Host => "host",
        }),
        "security": run.security.as_ref().map(|security| match security.value {
            Security::Sandbox => "sandbox",
            Security::Insecure => "insecure",
        }),
    })
}

fn run_arguments(run: &Run) -> Value {
    let mut arguments = command(&run.written);
    arguments["heredocs"] = json!(heredocs(&run.heredocs));
    arguments
}

fn mount(mount: &MountSpec) -> Value {
    without_nulls(json!({
        "text": mount.text,
        "type": match mount.kind {
            MountKind::Bind => "bind",
            MountKind::Cache => "cache",
            MountKind::Tmpfs => "tmpfs",
            MountKind::Secret => "secret",
            MountKind::Ssh => "ssh",
        },
        "from": mount.from,
        "source": mount.source,
        "target": mount.target,
        "id": mount.id,
        "env": mount.env,
        "sharing": mount.sharing.map(|sharing| match sharing {
            CacheSharing::Shared => "shared",
            CacheSharing::Private => "private",
            CacheSharing::Locked => "locked",
        }),
        "readonly": mount.read_only,
        "required": mount.required.then_some(true),
        "mode": mount.mode.map(|mode| format!("{mode:04o}")),
        "uid": mount.uid,
        "gid": mount.gid,
        "size": mount.size,
    }))
}

fn copy_flags(copy: &Copy) -> Value {
    json!({
        "from": value(copy.from.as_ref()),
        "chown": value(copy.chown.as_ref()),
        "chmod": value(copy.chmod.as_ref()),
        "link": copy.link.then_some(true),
        "parents": copy.parents.then_some(true),
        "exclude": (!copy.excludes.is_empty()).then(|| values(&copy.excludes)),
        "checksum": value(copy.checksum.as_ref()),
        "keep-git-dir": copy.keep_git_dir,
        "unpack": copy.unpack,
    })
}

fn copy_arguments(copy: &Copy) -> Value {
    json!({
        "sources": values(&copy.sources),
        "heredocs": heredocs(&copy.inline),
        "destination": copy.dest.value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each pointer into the output with the JSON that is there.
    #[track_caller]
    fn check(text: &str, expect: &[(&str, &str)]) {
        let value = instructions(&crate::parse(text.as_bytes()));
        for (pointer, json) in expect {
            let found = value.pointer(pointer).map(Value::to_string);
            assert_eq!(found.as_deref(), Some(*json), "{pointer} in {value:#}");
        }
    }

    #[test]
    fn instructions_have_their_place_flags_and_arguments() {
        check(
            "# escape=`\nARG V=1\nfrom --platform=$P a:$V as B\n# why\nRUN --mount=type=cache,id=c,target=/c --network=none `\n  make x\n",
            &[
                ("/directives/escape", "\"`\""),
                ("/instructions/0/stage", "null"),
                ("/instructions/0/arguments/definitions/0", r#"{"default":"1","name":"V"}"#),
                ("/instructions/1/keyword", "\"FROM\""),
                ("/instructions/1/stage", "0"),
                ("/instructions/1/flags", r#"{"platform":"$P"}"#),
                ("/instructions/1/arguments", r#"{"image":"a:$V","name":"b"}"#),
                ("/instructions/2/lines", "[5,6]"),
                ("/instructions/2/comments", r#"["why"]"#),
                ("/instructions/2/flags/network", "\"none\""),
                ("/instructions/2/flags/mount/0/type", "\"cache\""),
                ("/instructions/2/flags/mount/0/id", "\"c\""),
            ],
        );
    }

    #[test]
    fn forms_heredocs_and_triggers_are_told_apart() {
        check(
            "FROM a\nCMD [\"x\", \"y\"]\nCOPY --chmod=755 --link a b <<E /d/\nhi $X\nE\nONBUILD RUN x\nENV A=1 B=\"2 3\"\nLABEL z=1\n",
            &[
                ("/instructions/1/form", "\"json\""),
                ("/instructions/1/arguments", r#"{"exec":["x","y"]}"#),
                ("/instructions/2/flags", r#"{"chmod":"755","link":true}"#),
                ("/instructions/2/arguments/sources", r#"["a","b"]"#),
                ("/instructions/2/arguments/heredocs/0/content", "\"hi $X\\n\""),
                ("/instructions/2/arguments/destination", "\"/d/\""),
                ("/instructions/3/arguments/trigger/arguments", r#"{"shell":"x"}"#),
                ("/instructions/4/arguments/pairs/1/key", "\"B\""),
            ],
        );
    }

    #[test]
    fn mistakes_stand_beside_what_could_be_read() {
        check(
            "FROM a\nRUM x\nUSER y\n",
            &[
                ("/findings/0/severity", "\"error\""),
                ("/findings/0/line", "2"),
                ("/findings/0/column", "1"),
                ("/instructions/1/arguments/user", "\"y\""),
            ],
        );
    }
}
