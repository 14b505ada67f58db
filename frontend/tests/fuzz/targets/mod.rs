//! The fuzz targets: what is done with any bytes, and what must hold of the answer.
//!
//! `cargo fuzz` (the directory `fuzz` at the root) and the fixed-seed run beside this directory use the same
//! functions. They hold no randomness and do no IO.

mod dockerfile;
mod ignore;
pub mod world;

use frontend::expand::{self, ExpandError};
use frontend::giturl;
use frontend::instruction::InstructionKind;
use oci::reference::Reference;

pub use dockerfile::dockerfile;
pub use ignore::ignore;

/// A target.
pub type Target = fn(&[u8]);

/// Values of the variables that the texts under test name.
fn lookup(name: &str) -> Option<String> {
    match name {
        "A" => Some("a b*c".to_owned()),
        "E" => Some(String::new()),
        "L" => Some("x/".repeat(200)),
        "U" => None,
        name => (name.len() % 2 == 0).then(|| format!("<{name}>")),
    }
}

/// Expands a text in every way that there is.
pub fn words(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for escape in ['\\', '`'] {
        let word = expand::word(&text, escape, &lookup);
        if let Ok(expanded) = &word {
            assert!(expanded.value.len() <= expand::VALUE_LIMIT, "{} bytes", expanded.value.len());
            assert!(expanded.matched.is_disjoint(&expanded.unmatched));
        }
        if !text.contains(['$', '\'', '"', '\\', '`']) {
            assert_eq!(word.expect("nothing to expand").value, text);
        }
        if let Ok(split) = expand::words(&text, escape, &lookup) {
            let length: usize = split.words.iter().map(String::len).sum();
            assert!(length <= expand::VALUE_LIMIT, "{length} bytes");
        }
        shown_or_explained(expand::shown(&text, escape, &lookup));
    }
    shown_or_explained(expand::body(&text, &lookup).map(|expanded| expanded.value));
}

/// An error message stays short, however long the text is.
fn shown_or_explained(result: Result<String, ExpandError>) {
    if let Err(error) = result {
        let message = error.to_string();
        assert!(message.len() < 64 * 1024, "{} bytes of message", message.len());
    }
}

/// Parses the value of `RUN --mount=`, and expands what was accepted.
pub fn mounts(data: &[u8]) {
    let text = String::from_utf8_lossy(data).replace(['\n', '\r'], ",");
    let file = frontend::parse(format!("FROM a\nRUN --mount={text} x\n").as_bytes());
    for instruction in &file.instructions {
        let InstructionKind::Run(run) = &instruction.kind else { continue };
        for mount in &run.mounts {
            let mut expander =
                |value: &str| expand::word(value, '\\', &lookup).map(|expanded| expanded.value);
            let expanded = mount.value.expand(&mut expander);
            if !mount.value.text.contains('$') {
                assert_eq!(expanded.as_ref(), Ok(&mount.value), "{:?}", mount.value.text);
            }
        }
    }
}

/// Parses an image reference; what is accepted is printed and read again as the same.
pub fn reference(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(reference) = text.parse::<Reference>() else { return };
    assert_eq!(reference.to_string().parse().as_ref(), Ok(&reference), "{text:?}");
    assert_eq!(reference.familiar().parse().as_ref(), Ok(&reference), "{text:?}");
    let printed = reference.to_string();
    assert!(!printed.contains(|found: char| found.is_control() || found.is_whitespace()), "{text:?}");
    assert!(reference.repository.split('/').all(|part| !matches!(part, "" | "." | "..")), "{text:?}");
    assert!(reference.name().len() <= 256 + reference.registry.len(), "{text:?}");
}

/// Parses a git reference; nothing accepted is an option of git, leaves the repository or holds a control.
pub fn giturl(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = (giturl::is_http(&text), giturl::decode(&text));
    let Ok(Some(git)) = giturl::parse(&text) else { return };
    for part in [&git.remote, &git.reference, &git.checksum] {
        assert!(!part.starts_with('-'), "{text:?}: {git:?}");
    }
    for part in [&git.remote, &git.reference, &git.checksum, &git.subdir] {
        assert!(!part.contains(char::is_control), "{text:?}: {git:?}");
    }
    assert!(!git.subdir.starts_with('/'), "{text:?}: {git:?}");
    assert!(git.subdir.split('/').all(|part| part != ".."), "{text:?}: {git:?}");
}
