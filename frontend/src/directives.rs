//! Parser directives: `# syntax=`, `# escape=`, `# check=`.
//!
//! It decides which lines are directives and what `check` says; it runs no lint rule. The grammar is
//! BuildKit's: `#`, blanks, a known key in any case, `=`, a value. The first other line ends the block. The
//! escape directive is found by the line reader; syntax and check are found in the text as a whole, where a
//! `#!` line may precede and, for syntax, `//` comments or a JSON object may carry them.

use crate::diagnostic::Diagnostic;
use crate::file::Check;
use crate::instruction::{Span, Spanned};
use crate::source::Lines;

/// A directive as found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Directive<'a> {
    key: &'static str,
    value: &'a str,
    /// Offset of the value in the line.
    at: usize,
}

const KEYS: [&str; 3] = ["syntax", "escape", "check"];

/// Follows the lines of a file as long as they are directives.
#[derive(Debug)]
pub(crate) struct Machine {
    /// The escape character in force.
    pub escape: char,
    seen: Vec<&'static str>,
    done: bool,
}

impl Default for Machine {
    fn default() -> Machine {
        Machine { escape: '\\', seen: Vec::new(), done: false }
    }
}

impl Machine {
    /// Takes a comment line; says whether it is a directive.
    pub(crate) fn line(&mut self, line: &str, start: usize, diagnostics: &mut Vec<Diagnostic>) -> bool {
        if self.done {
            return false;
        }
        let Some(directive) = read(line, "#") else {
            self.done = true;
            return false;
        };
        let span = Span { start, end: start + line.trim_end().len() };
        if self.seen.contains(&directive.key) {
            let message = format!("only one {} parser directive can be used", directive.key);
            diagnostics.push(Diagnostic::error(span, message).with_help("remove this line"));
            return true;
        }
        self.seen.push(directive.key);
        if directive.key == "escape" {
            match directive.value {
                "\\" => self.escape = '\\',
                "`" => self.escape = '`',
                other => {
                    let message = format!("invalid escape token '{other}' does not match ` or \\");
                    diagnostics.push(Diagnostic::error(span, message));
                }
            }
        }
        true
    }

    /// Ends the block of directives.
    pub(crate) fn finish(&mut self) {
        self.done = true;
    }
}

/// Reads one line as a directive.
fn read<'a>(line: &'a str, prefix: &str) -> Option<Directive<'a>> {
    let rest = line.strip_prefix(prefix)?.trim_start();
    let end = rest.find(|character: char| !character.is_ascii_alphanumeric())?;
    let key = KEYS.into_iter().find(|key| rest[..end].eq_ignore_ascii_case(key))?;
    let value = rest[end..].trim_start().strip_prefix('=')?.trim_start();
    let at = line.len() - value.len();
    let value = value.trim_end();
    (!value.is_empty()).then_some(Directive { key, value, at })
}

/// Which comment signs count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Forms {
    /// `#`.
    Hash,
    /// `#`, `//`, or a JSON object.
    Any,
}

/// How a file names its frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SyntaxForm {
    /// `# syntax=`: what follows may be a Dockerfile.
    Hash,
    /// Another form: what follows is none.
    Other,
}

/// Finds the syntax directive: its value's first word.
pub(crate) fn syntax(text: &str) -> Option<(Spanned<String>, SyntaxForm)> {
    if let Some(found) = find(text, "syntax", Forms::Hash) {
        return Some((found, SyntaxForm::Hash));
    }
    find(text, "syntax", Forms::Any).map(|found| (found, SyntaxForm::Other))
}

/// Finds the check directive: its value's first word.
pub(crate) fn check(text: &str) -> Option<Spanned<String>> {
    find(text, "check", Forms::Hash)
}

fn find(text: &str, key: &str, forms: Forms) -> Option<Spanned<String>> {
    if let Some(found) = find_in_comments(text, key, "#") {
        return Some(found);
    }
    if forms == Forms::Hash {
        return None;
    }
    find_in_comments(text, key, "//").or_else(|| find_in_json(text, key))
}

fn find_in_comments(text: &str, key: &str, prefix: &str) -> Option<Spanned<String>> {
    let mut seen: Vec<&str> = Vec::new();
    for line in Lines::new(text) {
        if line.number == 1 && line.raw.starts_with("#!") {
            continue;
        }
        let directive = read(line.text(), prefix)?;
        if seen.contains(&directive.key) {
            return None;
        }
        seen.push(directive.key);
        if directive.key == key {
            let word = directive.value.split(' ').next().unwrap_or_default();
            let start = line.start + directive.at;
            return Some(Spanned { value: word.to_owned(), span: Span { start, end: start + word.len() } });
        }
    }
    None
}

fn find_in_json(text: &str, key: &str) -> Option<Spanned<String>> {
    let body = if text.starts_with("#!") { text.split_once('\n')?.1 } else { text };
    if !body.trim_start().starts_with('{') {
        return None;
    }
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(body).ok()?;
    let value = object.get(key)?.as_str()?.to_owned();
    Some(Spanned { value, span: Span { start: 0, end: text.len().min(1) } })
}

/// Refuses a frontend that is not Docker's own Dockerfile frontend, which is built in and never pulled.
/// Copies of it in mirror registries count as it.
pub(crate) fn check_syntax(syntax: &Spanned<String>) -> Option<Diagnostic> {
    let name = syntax.value.as_str();
    let built_in = name == "dockerfile.v0"
        || name.rfind("docker/dockerfile").is_some_and(|at| {
            let rest = &name[at + "docker/dockerfile".len()..];
            (at == 0 || name[..at].ends_with('/')) && (rest.is_empty() || rest.starts_with([':', '@', '-']))
        });
    (!built_in).then(|| {
        let message = format!("frontend {name:?} is not supported: xbuild runs no external frontends");
        let help = "use `# syntax=docker/dockerfile:1`, which is built in, or remove the line";
        Diagnostic::error(syntax.span, message).with_help(help)
    })
}

/// Reads the value of a check directive, such as `skip=JSONArgsRecommended;error=true`.
pub(crate) fn parse_check(text: &str) -> Result<Check, String> {
    let mut check = Check { text: text.to_owned(), ..Check::default() };
    let names = |value: &str| value.trim().split(',').map(|name| name.trim().to_owned()).collect();
    for part in text.trim().splitn(3, ';').filter(|_| !text.trim().is_empty()) {
        let Some((key, value)) = part.split_once('=') else {
            return Err(format!("invalid check option {part:?}, expected skip=…, experimental=… or error=…"));
        };
        match key.trim() {
            "skip" => check.skip = names(value),
            "experimental" => check.experimental = names(value),
            "error" => match crate::boolean::parse(value.trim()) {
                Some(error) => check.error = error,
                None => return Err(format!("failed to parse check option {part:?}: not a boolean")),
            },
            key => {
                let hint = crate::suggest::did_you_mean(key, &["skip", "experimental", "error"]);
                return Err(format!("invalid check option {key:?}{hint}"));
            }
        }
    }
    Ok(check)
}

/// Reads the check directive among the comments above an instruction.
pub(crate) fn check_of_comments(comments: &[String]) -> Option<Check> {
    let found = comments.iter().find_map(|comment| read(comment, "").filter(|found| found.key == "check"))?;
    parse_check(found.value.split(' ').next().unwrap_or_default()).ok()
}
