//! `.dockerignore` files and `--exclude` lists, with moby/patternmatcher's meaning.
//!
//! Reading: a byte order mark is dropped, lines that begin with `#` are comments, the rest is trimmed and
//! cleaned, a leading slash is dropped, `!` negates. Matching: a rule that matches a parent matches the path;
//! the last rule that changes the verdict wins. Which line that was is kept for people.

use super::clean;
use super::glob::{Glob, PatternError, Stars};

/// Why a list of rules cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {kind}: {pattern:?}")]
pub struct IgnoreError {
    /// Line in the file, or position in the list, from 1.
    pub line: u32,
    /// The pattern, shortened.
    pub pattern: String,
    /// What is wrong with it.
    pub kind: PatternError,
}

/// One line of an ignore file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1.
    pub number: u32,
    /// The pattern, cleaned, with its `!`.
    pub pattern: String,
}

/// A rule, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Line in the file, or position in the list, from 1.
    pub line: u32,
    /// The pattern, cleaned, with its `!`.
    pub pattern: String,
    /// Whether it brings paths back.
    pub negated: bool,
    glob: Glob,
}

/// Rules in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    rules: Vec<Rule>,
    negations: usize,
}

/// What the rules say of a directory, so that its entries need not look at all their parents again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory {
    /// Per rule: whether it matched the directory or a parent. Empty at the root.
    matched: Vec<bool>,
}

/// Reads the text of an ignore file into cleaned patterns.
pub fn read(text: &str) -> Vec<Line> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines()
        .zip(1..)
        .filter(|(line, _)| !line.starts_with('#'))
        .filter_map(|(line, number)| Some(Line { number, pattern: clean_line(line.trim())? }))
        .collect()
}

fn clean_line(line: &str) -> Option<String> {
    let (mark, rest) = match line.strip_prefix('!') {
        Some(rest) => ("!", rest.trim()),
        None => ("", line),
    };
    if line.is_empty() {
        return None;
    }
    if rest.is_empty() {
        return Some(mark.to_owned());
    }
    let cleaned = clean(rest);
    let relative = if cleaned.len() > 1 { cleaned.strip_prefix('/').unwrap_or(&cleaned) } else { &cleaned };
    Some(format!("{mark}{relative}"))
}

impl Rules {
    /// Reads and compiles an ignore file; bytes that are no UTF-8 match no path.
    ///
    /// # Errors
    /// The first line that is no pattern.
    pub fn parse(text: &[u8]) -> Result<Self, IgnoreError> {
        Self::compile(read(&String::from_utf8_lossy(text)))
    }

    /// Compiles patterns of a list such as `--exclude`.
    ///
    /// # Errors
    /// The first pattern that is none; its position stands for the line.
    pub fn of_patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, IgnoreError> {
        let lines = patterns.into_iter().zip(1..);
        Self::compile(lines.map(|(pattern, number)| Line { number, pattern: pattern.to_owned() }))
    }

    fn compile(lines: impl IntoIterator<Item = Line>) -> Result<Self, IgnoreError> {
        let rules: Vec<Rule> = lines.into_iter().filter_map(compile_line).collect::<Result<_, _>>()?;
        let negations = rules.iter().filter(|rule| rule.negated).count();
        Ok(Self { rules, negations })
    }

    /// Returns whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Returns the rules in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Returns whether any rule brings paths back.
    pub fn has_negations(&self) -> bool {
        self.negations > 0
    }

    /// Returns whether a path, cleaned and relative, is ignored.
    pub fn ignores(&self, path: &str) -> bool {
        self.hiding_rule(path).is_some()
    }

    /// Returns the rule that hides a path; `None` if the path is not ignored.
    pub fn hiding_rule(&self, path: &str) -> Option<&Rule> {
        let path = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path);
        let mut hiding: Option<&Rule> = None;
        for rule in &self.rules {
            let undecided = rule.negated == hiding.is_some();
            if undecided && (rule.glob.matches(path) || parents(path).any(|parent| rule.glob.matches(parent)))
            {
                hiding = (!rule.negated).then_some(rule);
            }
        }
        hiding
    }

    /// Returns the rule that hides `path`, an entry of `directory`, and what is known for its own entries.
    ///
    /// This is [`Self::hiding_rule`] for walks: each rule is tried once per entry instead of once per parent.
    pub fn enter(&self, directory: &Directory, path: &str) -> (Option<&Rule>, Directory) {
        let mut matched = Vec::with_capacity(self.rules.len());
        let mut hiding: Option<&Rule> = None;
        for (n, rule) in self.rules.iter().enumerate() {
            let inherited = directory.matched.get(n).copied().unwrap_or(false);
            let undecided = rule.negated == hiding.is_some();
            let matches = inherited || (undecided && rule.glob.matches(path));
            matched.push(matches);
            if matches && undecided {
                hiding = (!rule.negated).then_some(rule);
            }
        }
        (hiding, Directory { matched })
    }

    /// Returns whether something below an ignored directory may be brought back by a later `!` rule, so that
    /// the directory must be walked.
    pub fn may_bring_back_below(&self, directory: &str) -> bool {
        let below = format!("{directory}/");
        self.rules.iter().filter(|rule| rule.negated).any(|rule| {
            let head = rule.glob.literal_head();
            head.starts_with(&below) || below.starts_with(&head)
        })
    }
}

fn compile_line(line: Line) -> Option<Result<Rule, IgnoreError>> {
    let trimmed = line.pattern.trim();
    if trimmed.is_empty() {
        return None;
    }
    let pattern = clean(trimmed);
    let (negated, glob) = match pattern.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, pattern.as_str()),
    };
    // A pattern of a list may be rooted; paths never are.
    let glob = if glob.len() > 1 { glob.strip_prefix('/').unwrap_or(glob) } else { glob };
    let compiled =
        if glob.is_empty() { Err(PatternError::LoneExclusion) } else { Glob::compile(glob, Stars::Deep) };
    Some(match compiled {
        Ok(glob) => Ok(Rule { line: line.number, pattern, negated, glob }),
        Err(kind) => {
            Err(IgnoreError { line: line.number, pattern: pattern.chars().take(80).collect(), kind })
        }
    })
}

/// Returns the parents of a relative path, topmost first.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at]).filter(|parent| !parent.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, path: &str, hidden_by: Option<u32>) {
        let rules = Rules::parse(text.as_bytes()).unwrap();
        assert_eq!(rules.hiding_rule(path).map(|rule| rule.line), hidden_by, "{text:?} on {path}");
        let mut directory = Directory::default();
        for parent in parents(path) {
            directory = rules.enter(&directory, parent).1;
        }
        let walked = rules.enter(&directory, path).0;
        assert_eq!(walked.map(|rule| rule.line), hidden_by, "walk: {text:?} on {path}");
    }

    #[test]
    fn last_match_wins_and_its_line_is_known() {
        check("node_modules\n# c\n*.log\n!keep.log\n", "a.log", Some(3));
        check("node_modules\n# c\n*.log\n!keep.log\n", "keep.log", None);
        check("node_modules\n", "node_modules/x/y", Some(1));
        check("docs\n!docs/README.md\n", "docs/README.md", None);
        check("docs\n!docs/README.md\n", "docs/other", Some(1));
        check("\u{feff}a\r\n", "a", Some(1));
        check("**\n!src/**\n", "src/a/b", None);
        check("**/*.pyc\n", "a/b.pyc", Some(1));
        check("a**/*.txt", "a/dir/file.txt", Some(1));
        check("**/.foo", "bar.foo", None);
        check("**foo", "bar.foo", Some(1));
    }

    #[test]
    fn a_hidden_directory_is_walked_only_if_something_may_come_back() {
        let check = |text: &str, directory: &str, expected: bool| {
            let rules = Rules::parse(text.as_bytes()).unwrap();
            assert_eq!(rules.may_bring_back_below(directory), expected, "{text:?} {directory}");
        };
        check("foo*\n!foo/bar2\n", "foo", true);
        check("foo*\n!foo/bar2\n", "foo3", false);
        check("foo*\n!**/x\n", "foo3", true);
        check("foo*\n!b*/x\n", "foo", false);
        check("foo\n", "foo", false);
    }

    #[test]
    fn ctx_04_bad_patterns_are_errors_with_their_line() {
        for bad in ["[a-", "[]a]", "x\\", "[", "!", "a\0b", "[Local-Only]/"] {
            let error = Rules::parse(format!("ok\n{bad}\n").as_bytes()).unwrap_err();
            assert_eq!(error.line, 2, "{bad}");
        }
        for good in ["a**b", "!../..", "\\!x", "a]", "..", "/"] {
            assert!(Rules::parse(good.as_bytes()).is_ok(), "{good}");
        }
    }

    #[test]
    fn ctx_04_matching_is_linear() {
        let start = std::time::Instant::now();
        let deep = "**/".repeat(1000) + "x*y";
        let rules = Rules::parse(deep.as_bytes()).unwrap();
        assert!(!rules.ignores(&"a/".repeat(2000)));
        let stars = "a*".repeat(500) + "b";
        assert!(!Rules::parse(stars.as_bytes()).unwrap().ignores(&"a".repeat(5000)));
        let many: String = (0..100_000).map(|n| format!("dir{n}/*.o\n")).collect();
        assert!(!Rules::parse(many.as_bytes()).unwrap().ignores("src/main.c"));
        assert!(start.elapsed().as_secs() < 120, "took {:?}", start.elapsed());
    }
}
