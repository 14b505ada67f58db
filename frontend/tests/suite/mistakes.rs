//! Mistakes people make: all of them in one run, each at its place, with a word on how to mend it.

use frontend::{Diagnostic, parse};

/// Line, column, message and help of everything found.
fn found(text: &str) -> Vec<String> {
    let file = parse(text.as_bytes());
    let one = |found: &Diagnostic| frontend::render::line(&file, "D", found);
    file.diagnostics.iter().map(one).collect()
}

fn check(text: &str, expect: &[&str]) {
    assert_eq!(found(text), expect, "{text}");
}

#[test]
fn every_mistake_of_a_file_is_told() {
    check(
        "FROM a AS 1\nCOPPY a b\nRUN --mout=type=cache x\nCOPY --chown a b\nENV a\nHEALTHCHECK --interval=1 CMD x\nUSER\n",
        &[
            "D:1:11: invalid name for build stage: \"1\", name can't start with a number or contain symbols — use letters, digits, `-`, `_`, `.` after a letter",
            "D:2:1: unknown instruction: COPPY — did you mean COPY?",
            "D:3:5: unknown flag: --mout — did you mean --mount?",
            "D:4:6: missing a value on flag: --chown — write --chown=VALUE",
            "D:5:1: ENV must have two arguments — write ENV a=VALUE",
            "D:6:13: time: missing unit in duration \"1\", write for example 1s",
            "D:7:1: USER requires exactly one argument",
        ],
    );
}

#[test]
fn places_survive_continuations() {
    check(
        "FROM a\nRUN \\\n  # comment\n  --network=hots \\\n  --mount=type=bind,tagret=/x,source=y \\\n  x\n",
        &[
            "D:4:3: invalid network mode \"hots\" — did you mean host?",
            "D:5:3: unexpected key 'tagret' in 'tagret=/x' — did you mean target?",
        ],
    );
    check(
        "FROM a\nLABEL a=b \\\n\n  c\n",
        &[
            "D:4:1: Empty continuation line found in: LABEL a=b   c — remove the blank line, or turn it into a comment",
            "D:4:3: Syntax error - can't find = in \"c\". Must be of the form: name=value — quote values with blanks: name=\"a b\"",
        ],
    );
}

#[test]
fn instructions_outside_stages() {
    let help = "put a FROM before it: only ARG may stand above the first FROM";
    check("ARG a\nRUN x\nFROM a\n", &[&format!("D:2:1: no build stage in current context — {help}")]);
    check("ARG a\n", &["D:1:1: dockerfile contains no stages to build — add a FROM"]);
    check(
        "FROM\nRUN x\n",
        &["D:1:1: FROM requires either one or three arguments — write FROM image or FROM image AS name"],
    );
}

#[test]
fn directives() {
    check("# escape=x\nFROM a\n", &["D:1:1: invalid escape token 'x' does not match ` or \\"]);
    check(
        "# escape=`\n# ESCAPE=`\nFROM a\n",
        &["D:2:1: only one escape parser directive can be used — remove this line"],
    );
    check("# check=skpi=x\nFROM a\n", &["D:1:9: invalid check option \"skpi\" (did you mean skip?)"]);
    let file = parse(b"# check=skip=A, B;error=true\n# escape=`\nFROM a\n# check=skip=C\nRUN a `\n b \\\n");
    assert_eq!(file.diagnostics, []);
    assert_eq!(file.directives.escape, '`');
    let check = &file.directives.check.as_ref().expect("found").value;
    // The value ends at its first blank, as in BuildKit.
    assert_eq!((check.skip.as_slice(), check.error), (&["A".to_owned(), String::new()][..], false));
    assert_eq!(file.instructions[1].skipped_rules, ["C"]);
    assert_eq!(file.instructions[1].original, "RUN a  b \\");
}
