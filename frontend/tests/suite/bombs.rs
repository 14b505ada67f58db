//! Hostile Dockerfiles (reliability.md §2.F): each ends in a defined result, soon.

use std::time::{Duration, Instant};

use frontend::instruction::{Command, InstructionKind};
use frontend::{File, Severity, parse};

/// Parses and fails if that takes longer than a debug build on a busy machine may need.
fn quickly(text: &[u8]) -> File {
    let start = Instant::now();
    let file = parse(text);
    assert!(start.elapsed() < Duration::from_secs(120), "took {:?}", start.elapsed());
    file
}

/// The error messages with their places.
fn errors(file: &File) -> Vec<String> {
    let errors = file.diagnostics.iter().filter(|found| found.severity == Severity::Error);
    errors
        .map(|found| {
            let at = file.position(found.span.start);
            format!("{}:{} {}", at.line, at.column, found.message)
        })
        .collect()
}

fn check(text: &[u8], expect: &[&str]) {
    assert_eq!(errors(&quickly(text)), expect, "{}", String::from_utf8_lossy(&text[..text.len().min(200)]));
}

#[test]
fn df_01_bytes_that_are_no_plain_text() {
    check(b"\xef\xbb\xbfFROM a\r\nRUN b \\\r\n  c\r\n", &[]);
    check(b"FROM a\nRUN x\0y\n", &["2:6 the Dockerfile contains a NUL byte, no instruction can"]);
    check(b"FROM a\n# caf\xe9\nLABEL a=\xe9\n", &[]);
    check(b"\xff\xfeF\0R\0", &["1:1 the Dockerfile is UTF-16, expected UTF-8"]);
    check(b"", &["1:1 file with no instructions"]);
    check(b"# only\n\n  # comments\n", &["1:1 file with no instructions"]);
    check(b"FROM a\nRUN b \\", &[]);
    check("FROM a\nRUN a\u{2028}b \u{202e}c\rd\n".as_bytes(), &[]);
    let file = parse(b"FROM a\nRUN b \\\r\n  c\r\n");
    assert_eq!(file.instructions[1].original, "RUN b   c");
}

#[test]
fn df_02_long_lines_and_large_files() {
    let line =
        |length: usize| format!("FROM a\nLABEL a={}\n", "x".repeat(length - "LABEL a=".len())).into_bytes();
    check(&line(65_535), &[]);
    check(&line(65_536), &["2:1 dockerfile line greater than max allowed size of 65535 bytes"]);
    check(&vec![b'x'; 17 << 20], &["1:1 the Dockerfile has 17825792 bytes, more than the limit of 16777216"]);
    let body = |length: usize| format!("FROM a\nCOPY <<E /e\n{}\nE\n", "x".repeat(length)).into_bytes();
    check(&body(1 << 20), &[]);
    check(&body((1 << 20) + 1), &["3:1 dockerfile line greater than max allowed size of 1048576 bytes"]);
    let continued = format!("FROM a\nRUN x{}\n", " \\\n y".repeat(2_000_000));
    let file = quickly(continued.as_bytes());
    assert_eq!(errors(&file), [""; 0]);
    assert_eq!(file.instructions[1].lines, (2, 2_000_002));
}

#[test]
fn df_03_heredocs() {
    check(b"FROM a\nRUN <<E\nx\n", &["2:1 unterminated heredoc: no line is exactly \"E\""]);
    check(b"FROM a\nRUN <<''\nx\n", &["3:1 unknown instruction: x"]);
    check(
        b"FROM a\nCOPY <<a/b /x\na/b\n",
        &["2:6 heredoc delimiter \"a/b\" becomes a file name and cannot be one"],
    );
    check(b"FROM a\nCOPY x <<E\nE\n", &["2:8 COPY cannot accept a heredoc as a destination"]);
    let many: String = (0..1000).map(|n| format!(" <<E{n}")).collect();
    let bodies: String = (0..1000).map(|n| format!("b{n}\nE{n}\n")).collect();
    let file = quickly(format!("FROM a\nCOPY{many} /d/\n{bodies}").as_bytes());
    let InstructionKind::Copy(copy) = &file.instructions[1].kind else { panic!("{:?}", file.instructions) };
    assert_eq!((copy.inline.len(), copy.inline[999].content.as_str()), (1000, "b999\n"));
    let file = parse(b"FROM a\nRUN <<-'E' cat\n\t$x\n\t\tE\nRUN <<E\n#!/bin/sh\nE\nONBUILD RUN <<E\nx\nE\n");
    let InstructionKind::Run(run) = &file.instructions[1].kind else { panic!("{:?}", file.instructions) };
    assert_eq!(run.command, Command::Shell("<<-'E' cat\n\t$x\nE".to_owned()));
    let InstructionKind::Run(run) = &file.instructions[2].kind else { panic!("{:?}", file.instructions) };
    assert_eq!(run.command, Command::Shell("/dev/pipes/E".to_owned()));
    assert_eq!((run.files[0].data.as_slice(), run.files[0].mode), (&b"#!/bin/sh\n"[..], 0o755));
    let InstructionKind::Onbuild { text, trigger } = &file.instructions[3].kind else {
        panic!("{:?}", file.instructions)
    };
    assert_eq!(text, "RUN <<E\nx\nE");
    let again = frontend::parse_trigger(text);
    assert_eq!(again.instructions[0].original, trigger.original);
    let (InstructionKind::Run(now), InstructionKind::Run(then)) =
        (&again.instructions[0].kind, &trigger.kind)
    else {
        panic!("{again:?}")
    };
    assert_eq!(now.command, then.command);
}

#[test]
fn df_07_triggers_that_are_none() {
    check(b"FROM a\nONBUILD ONBUILD RUN x\n", &["2:9 Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"]);
    check(b"FROM a\nONBUILD FROM x\n", &["2:9 FROM isn't allowed as an ONBUILD trigger"]);
    check(b"FROM a\nONBUILD MAINTAINER x\n", &["2:9 MAINTAINER isn't allowed as an ONBUILD trigger"]);
    check(
        format!("FROM a\n{}RUN x\n", "ONBUILD ".repeat(8000)).as_bytes(),
        &["2:9 Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"],
    );
    assert!(frontend::parse_trigger("FROM x").has_errors());
    assert!(frontend::parse_trigger("RUN x\nRUN y").has_errors());
}

#[test]
fn df_08_json_that_is_none_is_a_shell_command() {
    for text in ["[\"a\"", "['a']", "[ -f /x ] && y", "[\"a\",]", &"[".repeat(60_000)] {
        let file = quickly(format!("FROM a\nCMD {text}\n").as_bytes());
        let InstructionKind::Cmd(command) = &file.instructions[1].kind else {
            panic!("{:?}", file.instructions)
        };
        assert_eq!(command, &Command::Shell(text.to_owned()));
        assert!(file.instructions[1].json_fallback);
    }
    let message = "2:1 when using JSON array syntax, arrays must be comprised of strings only";
    check(b"FROM a\nCMD [\"a\", 1]\n", &[message]);
}

#[test]
fn df_09_foreign_frontends_are_refused() {
    for name in
        ["docker/dockerfile:1", "docker/dockerfile:1-labs", "registry.corp/hub/docker/dockerfile@sha256:0"]
    {
        check(format!("# syntax={name}\nFROM a\n").as_bytes(), &[]);
    }
    let message = |at: &str, name: &str| {
        format!("{at} frontend {name:?} is not supported: xbuild runs no external frontends")
    };
    check(b"#syntax = evil/fe x\nFROM a\n", &[&message("1:11", "evil/fe")]);
    check(b"# syntax=evildocker/dockerfile\nFROM a\n", &[&message("1:10", "evildocker/dockerfile")]);
    check(b"//syntax=foo\n//key=value\n", &[&message("1:10", "foo")]);
    check(b"{\"syntax\": \"foo\"}", &[&message("1:1", "foo")]);
}

#[test]
fn a_hundred_thousand_instructions_are_read_in_one_pass() {
    let text: String = (0..100_000).map(|n| format!("ENV A{n}=\"$A b\"\n")).collect();
    let file = quickly(format!("FROM a\n{text}").as_bytes());
    assert_eq!(file.instructions.len(), 100_001);
    assert_eq!(file.instructions[100_000].lines.0, 100_001);
}
