//! Wildcards of COPY and ADD sources: Go's `filepath.Match`, and moby's `**` for `--parents`.
//!
//! A pattern is cleaned and relative. `*` and `?` never cross a separator; a backslash takes the next
//! character literally.

use super::glob::{Glob, PatternError, Stars};
use super::ignore::{IgnoreError, Rules};

/// A source with wildcards, part by part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wildcard {
    parts: Vec<Part>,
}

/// One part of a path pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A name without wildcards, escapes removed.
    Literal(String),
    /// A name pattern.
    Pattern(NamePattern),
}

/// A pattern of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern(Glob);

/// A `--parents` pattern: `**` stands for any number of directories, and a directory stands for all below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentsPattern {
    rules: Rules,
    /// Text with which all matches begin.
    head: String,
}

/// Returns whether a text has a wildcard that is not escaped.
pub fn is_pattern(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '*' | '?' | '[' => return true,
            '\\' => {
                chars.next();
            }
            _ => {}
        }
    }
    false
}

/// Returns a text without its escapes.
pub fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => out.extend(chars.next()),
            char => out.push(char),
        }
    }
    out
}

impl Wildcard {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// If a character class or an escape is malformed.
    pub fn compile(pattern: &str) -> Result<Self, PatternError> {
        let part = |text: &str| {
            Ok(if is_pattern(text) {
                Part::Pattern(NamePattern(Glob::compile(text, Stars::Single)?))
            } else {
                Part::Literal(literal(text))
            })
        };
        let parts = pattern.split('/').filter(|text| !text.is_empty()).map(part);
        Ok(Self { parts: parts.collect::<Result<_, _>>()? })
    }

    /// Returns the parts, topmost first.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Returns whether a whole path, cleaned and relative, matches.
    pub fn matches(&self, path: &str) -> bool {
        let mut names = path.split('/').filter(|name| !name.is_empty());
        self.parts.iter().all(|part| names.next().is_some_and(|name| part.matches(name)))
            && names.next().is_none()
    }
}

impl Part {
    /// Returns whether one name matches.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Literal(text) => text == name,
            Self::Pattern(NamePattern(glob)) => glob.matches(name),
        }
    }
}

impl ParentsPattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn compile(pattern: &str) -> Result<Self, IgnoreError> {
        let rules = Rules::of_patterns([pattern])?;
        let head = pattern.split(['*', '?', '[', '\\']).next().unwrap_or_default().to_owned();
        Ok(Self { rules, head })
    }

    /// Returns whether a path or one of its parents matches.
    pub fn matches(&self, path: &str) -> bool {
        self.rules.ignores(path)
    }

    /// Returns whether something below a directory may match.
    pub fn may_match_below(&self, directory: &str) -> bool {
        let below = if directory.is_empty() { String::new() } else { format!("{directory}/") };
        self.matches(directory) || self.head.starts_with(&below) || below.starts_with(&self.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_stays_in_its_directory() {
        let check = |pattern: &str, path: &str, expected: bool| {
            assert_eq!(Wildcard::compile(pattern).unwrap().matches(path), expected, "{pattern} {path}");
        };
        check("*", "a", true);
        check("*", "a/b", false);
        check("a*/b?", "axx/bc", true);
        check("**/x", "a/b/x", false);
        check("a/[b-d]e", "a/ce", true);
        check("[^a]", "b", true);
        check("a\\*b", "a*b", true);
        check("a\\*b", "axb", false);
        check("dir/", "dir", true);
        check("a?b", "a☺b", true);
    }

    #[test]
    fn ctx_04_malformed_wildcards_are_errors() {
        for bad in ["[a-", "[]a]", "*\\", "a/[", "[b-a]"] {
            assert!(Wildcard::compile(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parents_patterns_cross_directories() {
        let pattern = ParentsPattern::compile("a/**/*.txt").unwrap();
        assert!(pattern.matches("a/b/c.txt") && pattern.matches("a/c.txt") && !pattern.matches("b/c.txt"));
        assert!(
            pattern.may_match_below("a/b") && pattern.may_match_below("") && !pattern.may_match_below("b")
        );
        assert!(ParentsPattern::compile("dir").unwrap().matches("dir/below"));
    }

    #[test]
    fn escapes_are_no_wildcards() {
        assert!(!is_pattern("a\\*b") && is_pattern("a\\\\*b"));
        assert_eq!(literal("a\\*b\\\\c"), "a*b\\c");
    }
}
