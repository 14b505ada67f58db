//! Other parsers as oracles, on what they can read.
//!
//! `dockerfile-parser` knows neither heredocs nor the JSON form of COPY; `parse-dockerfile` splits neither ENV
//! nor LABEL. Compared is what both sides have: the sequence of instructions, base images, stage names,
//! sources and destinations, exec forms, heredocs.

use std::path::Path;

use dockerfile_parser as old;
use frontend::instruction::{Command, InstructionKind};
use frontend::{File, parse};
use parse_dockerfile as other;

/// Dockerfiles in the style of published ones.
const TEXTS: [&str; 6] = [
    "FROM alpine:3.11 as builder\nRUN apk add --no-cache \\\n    gcc \\\n    make\nCOPY a b /c/\nFROM scratch\nCOPY --from=builder /x /y\nENTRYPOINT [\"/y\"]\nCMD [\"-v\", \"1\"]\n",
    "ARG V=3\nFROM python:${V}\nWORKDIR /app\nENV A=b\nEXPOSE 8080\nUSER 1000\nCMD python app.py\n",
    "# comment\nFROM --platform=linux/amd64 debian\nARG X\nRUN set -ex; \\\n  # inner comment\n  echo \"$X\"\nVOLUME /data\nSTOPSIGNAL SIGTERM\n",
    "from a\nrun [\"x\", \"y z\"]\ncopy [\"a b\", \"c\"]\nlabel a=b\n",
    "FROM a\nADD --chown=1:1 x /y\nHEALTHCHECK NONE\nSHELL [\"/bin/bash\", \"-c\"]\nONBUILD RUN x\nMAINTAINER me\n",
    "FROM a\nRUN <<EOF\necho $x\nEOF\nCOPY --chmod=600 <<'A' <<B /d/\none\nA\ntwo\nB\nRUN true\n",
];

/// The Dockerfiles of `testdata/`, and those above.
fn corpus() -> Vec<String> {
    let mut texts: Vec<String> = TEXTS.iter().map(|text| (*text).to_owned()).collect();
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() {
                directories.push(path);
            } else if name.to_string_lossy().starts_with("Dockerfile") {
                texts.extend(std::fs::read_to_string(path));
            }
        }
    }
    texts
}

fn command(command: &Command) -> String {
    match command {
        Command::Shell(_) => "shell".to_owned(),
        Command::Exec(argv) => format!("exec {argv:?}"),
    }
}

/// What every oracle says of the instructions that all know.
fn common(kind: &InstructionKind) -> Option<String> {
    match kind {
        InstructionKind::From(from) => {
            let name = from.name.as_ref().map(|_| from.name_as_written.as_str());
            Some(format!("FROM {} {name:?}", from.image.value))
        }
        InstructionKind::Cmd(cmd) => Some(format!("CMD {}", command(cmd))),
        InstructionKind::Entrypoint(entrypoint) => Some(format!("ENTRYPOINT {}", command(entrypoint))),
        _ => None,
    }
}

fn ours(file: &File, special: fn(&InstructionKind) -> Option<String>) -> Vec<String> {
    let keyword = |text: &str| text.to_ascii_uppercase();
    let instructions = file.instructions.iter();
    instructions
        .map(|found| {
            common(&found.kind)
                .or_else(|| special(&found.kind))
                .unwrap_or_else(|| keyword(&found.keyword.value))
        })
        .collect()
}

/// What only dockerfile-parser says too.
fn as_old(kind: &InstructionKind) -> Option<String> {
    match kind {
        InstructionKind::Arg(arguments) => Some(format!("ARG {}", arguments[0].name.value)),
        InstructionKind::Run(run) => Some(format!("RUN {}", command(&run.written))),
        InstructionKind::Copy(copy) => {
            let sources: Vec<&str> = copy.sources.iter().map(|source| source.value.as_str()).collect();
            let from = copy.from.as_ref().map(|from| from.value.as_str()).unwrap_or_default();
            Some(format!("COPY {sources:?} {} from={from}", copy.dest.value))
        }
        InstructionKind::Env(pairs) => {
            Some(format!("ENV {:?}", pairs.iter().map(|pair| &pair.key.value).collect::<Vec<_>>()))
        }
        InstructionKind::Label(pairs) => {
            Some(format!("LABEL {:?}", pairs.iter().map(|pair| &pair.key.value).collect::<Vec<_>>()))
        }
        _ => None,
    }
}

fn theirs_of_old(file: &old::Dockerfile) -> Vec<String> {
    let expression = |expression: &old::ShellOrExecExpr| match expression {
        old::ShellOrExecExpr::Shell(_) => "shell".to_owned(),
        old::ShellOrExecExpr::Exec(argv) => format!("exec {:?}", argv.as_str_vec()),
    };
    let one = |found: &old::Instruction| match found {
        old::Instruction::From(from) => {
            let name = from.alias.as_ref().map(|alias| alias.content.as_str());
            format!("FROM {} {name:?}", from.image.content)
        }
        old::Instruction::Arg(arg) => format!("ARG {}", arg.name.content),
        old::Instruction::Run(run) => format!("RUN {}", expression(&run.expr)),
        old::Instruction::Cmd(cmd) => format!("CMD {}", expression(&cmd.expr)),
        old::Instruction::Entrypoint(entrypoint) => format!("ENTRYPOINT {}", expression(&entrypoint.expr)),
        old::Instruction::Copy(copy) => {
            let sources: Vec<&str> = copy.sources.iter().map(|source| source.content.as_str()).collect();
            let from = copy.flags.iter().find(|flag| flag.name.content == "from");
            let from = from.map(|flag| flag.value.content.as_str()).unwrap_or_default();
            format!("COPY {sources:?} {} from={from}", copy.destination.content)
        }
        old::Instruction::Env(env) => {
            format!("ENV {:?}", env.vars.iter().map(|var| &var.key.content).collect::<Vec<_>>())
        }
        old::Instruction::Label(label) => {
            format!("LABEL {:?}", label.labels.iter().map(|label| &label.name.content).collect::<Vec<_>>())
        }
        old::Instruction::Misc(misc) => misc.instruction.content.to_ascii_uppercase(),
    };
    file.instructions.iter().map(one).collect()
}

/// What dockerfile-parser accepts and reads otherwise.
fn old_misreads(text: &str) -> bool {
    text.contains("<<") || text.to_ascii_lowercase().contains("copy [")
}

#[test]
fn dockerfile_parser_agrees() {
    let mut compared = 0;
    for text in corpus().into_iter().filter(|text| !old_misreads(text)) {
        let Ok(theirs) = old::Dockerfile::parse(&text) else { continue };
        assert_eq!(ours(&parse(text.as_bytes()), as_old), theirs_of_old(&theirs), "{text}");
        compared += 1;
    }
    assert!(compared >= 4, "{compared} Dockerfiles compared");
}

/// What only parse-dockerfile says too.
fn as_other(kind: &InstructionKind) -> Option<String> {
    match kind {
        InstructionKind::Run(run) => {
            let bodies: Vec<_> =
                run.heredocs.iter().map(|heredoc| (heredoc.content.trim_end(), heredoc.expand)).collect();
            Some(format!("RUN {} {bodies:?}", command(&run.written)))
        }
        InstructionKind::Copy(copy) => {
            let sources: Vec<&str> = copy.sources.iter().map(|source| source.value.as_str()).collect();
            Some(format!("COPY {sources:?} {} {}", copy.inline.len(), copy.dest.value))
        }
        InstructionKind::Workdir(path) => Some(format!("WORKDIR {}", path.value)),
        InstructionKind::User(user) => Some(format!("USER {}", user.value)),
        _ => None,
    }
}

fn theirs_of_other(file: &other::Dockerfile) -> Vec<String> {
    let form = |command: &other::Command| match command {
        other::Command::Exec(argv) => {
            format!("exec {:?}", argv.value.iter().map(|item| item.value.as_ref()).collect::<Vec<&str>>())
        }
        _ => "shell".to_owned(),
    };
    let one = |found: &other::Instruction| match found {
        other::Instruction::From(from) => {
            let name = from.as_.as_ref().map(|(_, name)| name.value.as_ref());
            format!("FROM {} {name:?}", from.image.value)
        }
        other::Instruction::Run(run) => {
            let bodies: Vec<_> =
                run.here_docs.iter().map(|heredoc| (heredoc.value.trim_end(), heredoc.expand)).collect();
            format!("RUN {} {bodies:?}", form(&run.arguments))
        }
        other::Instruction::Cmd(cmd) => format!("CMD {}", form(&cmd.arguments)),
        other::Instruction::Entrypoint(entrypoint) => format!("ENTRYPOINT {}", form(&entrypoint.arguments)),
        other::Instruction::Copy(copy) => {
            let path = |source: &other::Source| match source {
                other::Source::Path(path) => Some(path.value.to_string()),
                _ => None,
            };
            let sources: Vec<String> = copy.src.iter().filter_map(path).collect();
            format!("COPY {sources:?} {} {}", copy.src.len() - sources.len(), copy.dest.value)
        }
        other::Instruction::Workdir(workdir) => format!("WORKDIR {}", workdir.arguments.value),
        other::Instruction::User(user) => format!("USER {}", user.arguments.value),
        found => {
            let name = format!("{found:?}");
            name.split('(').next().unwrap_or_default().to_ascii_uppercase()
        }
    };
    file.instructions.iter().map(one).collect()
}

#[test]
fn parse_dockerfile_agrees() {
    let mut compared = 0;
    for text in corpus() {
        let Ok(theirs) = other::parse(&text) else { continue };
        assert_eq!(ours(&parse(text.as_bytes()), as_other), theirs_of_other(&theirs), "{text}");
        compared += 1;
    }
    assert!(compared >= 5, "{compared} Dockerfiles compared");
}
