//! The lexer behind expansion: one pass over characters, quotes and substitutions.
//!
//! It decides nothing about limits or where expansion applies; [`Rules`] says how quotes, escapes and unset
//! names are treated. Behaviour follows BuildKit's frontend/dockerfile/shell/lex.go, except that a
//! substitution with a default inside a word does not drop the word's beginning when words are wanted
//! (there the nested call resets the shared buffer).

use std::collections::BTreeSet;

use super::pattern::{Longest, Pattern};
use super::{DEPTH_LIMIT, ExpandError, Lookup, Quotes, VALUE_LIMIT, excerpt};

/// How a text is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// The escape character.
    pub escape: char,
    /// Whether quotes group and stay.
    pub quotes: Quotes,
    /// Escape characters stay in the result.
    pub raw_escapes: bool,
    /// References to unset names stay as written.
    pub keep_unset: bool,
    /// Longest result in bytes.
    pub limit: usize,
    /// The result is split into words too.
    pub split: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            escape: '\\',
            quotes: Quotes::Removed,
            raw_escapes: false,
            keep_unset: false,
            limit: VALUE_LIMIT,
            split: false,
        }
    }
}

/// Names that were looked up.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub matched: BTreeSet<String>,
    pub unmatched: BTreeSet<String>,
}

/// Expands `text`: the value, its words, the names it asked for.
pub(super) fn run(
    text: &str,
    rules: Rules,
    env: Lookup,
) -> Result<(String, Vec<String>, Names), ExpandError> {
    let mut lexer = Lexer { text, at: 0, rules, env, names: Names::default(), depth: 0 };
    let (value, words) = lexer.until(None)?;
    Ok((value, words, lexer.names))
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    rules: Rules,
    env: Lookup<'a>,
    names: Names,
    depth: usize,
}

/// White space between `<<` and a delimiter.
const BLANKS: [char; 3] = ['\t', '\r', ' '];

/// Collects words, where they are wanted: unquoted white space ends them.
struct Words {
    wanted: bool,
    done: Vec<String>,
    open: String,
}

impl Words {
    fn new(wanted: bool) -> Self {
        Self { wanted, done: Vec::new(), open: String::new() }
    }

    fn push(&mut self, character: char) {
        if !self.wanted {
            return;
        }
        if !character.is_whitespace() {
            self.open.push(character);
        } else if !self.open.is_empty() {
            self.done.push(std::mem::take(&mut self.open));
        }
    }

    /// Adds what is unquoted: its white space ends words.
    fn push_unquoted(&mut self, piece: &str) {
        if self.wanted {
            piece.chars().for_each(|character| self.push(character));
        }
    }

    /// Adds what is quoted or escaped: its white space belongs to the word.
    fn push_quoted(&mut self, piece: &str) {
        if self.wanted {
            self.open.push_str(piece);
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.open.is_empty() {
            self.done.push(self.open);
        }
        self.done
    }
}

impl<'a> Lexer<'a> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.at += character.len_utf8();
        Some(character)
    }

    fn excerpt(&self) -> String {
        excerpt(self.text)
    }

    /// Reads up to `stop`, which is consumed, or to the end of the text.
    fn until(&mut self, stop: Option<char>) -> Result<(String, Vec<String>), ExpandError> {
        let mut value = String::new();
        let mut words = Words::new(self.rules.split && stop.is_none());
        while let Some(character) = self.peek() {
            if Some(character) == stop {
                self.next();
                return Ok((value, words.finish()));
            }
            self.step(character, &mut value, &mut words)?;
            if value.len() > self.rules.limit {
                return Err(ExpandError::TooLong { limit: self.rules.limit, text: self.excerpt() });
            }
        }
        match stop {
            Some(missing) => Err(ExpandError::Unclosed { missing, text: self.excerpt() }),
            None => Ok((value, words.finish())),
        }
    }

    /// Reads one character or one quoted or substituted piece.
    fn step(&mut self, character: char, value: &mut String, words: &mut Words) -> Result<(), ExpandError> {
        let quotes = self.rules.quotes != Quotes::Ignored;
        match character {
            '$' => {
                let piece = self.dollar()?;
                words.push_unquoted(&piece);
                value.push_str(&piece);
            }
            '\'' | '"' if quotes => {
                let piece = if character == '"' { self.double_quoted()? } else { self.single_quoted()? };
                words.push_quoted(&piece);
                value.push_str(&piece);
            }
            '<' => {
                let piece = self.possible_heredoc();
                words.push_quoted(piece);
                value.push_str(piece);
            }
            _ if character == self.rules.escape => {
                self.next();
                if self.rules.raw_escapes {
                    words.push_quoted(character.encode_utf8(&mut [0; 4]));
                    value.push(character);
                }
                if let Some(escaped) = self.next() {
                    words.push_quoted(escaped.encode_utf8(&mut [0; 4]));
                    value.push(escaped);
                }
            }
            _ => {
                self.next();
                words.push(character);
                value.push(character);
            }
        }
        Ok(())
    }

    /// `<<` and `<<-` keep the white space behind them in the word, so that `<< EOF` is one word.
    fn possible_heredoc(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let length = match rest.strip_prefix("<<") {
            None => 1,
            Some(behind) => {
                let dashed = behind.strip_prefix('-').filter(|behind| behind.starts_with(BLANKS));
                rest.len() - dashed.unwrap_or(behind).trim_start_matches(BLANKS).len()
            }
        };
        self.at += length;
        &rest[..length]
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let mut value = String::new();
        let quote = self.next();
        if self.rules.quotes == Quotes::Kept {
            value.extend(quote);
        }
        loop {
            match self.next() {
                None => return Err(ExpandError::SingleQuote { text: self.excerpt() }),
                Some('\'') => {
                    if self.rules.quotes == Quotes::Kept {
                        value.push('\'');
                    }
                    return Ok(value);
                }
                Some(character) => value.push(character),
            }
        }
    }

    /// Inside double quotes only the quote, the dollar sign and the escape itself can be escaped; other
    /// escapes stay, as in POSIX shells.
    fn double_quoted(&mut self) -> Result<String, ExpandError> {
        let mut value = String::new();
        let quote = self.next();
        if self.rules.quotes == Quotes::Kept {
            value.extend(quote);
        }
        loop {
            match self.peek() {
                None => return Err(ExpandError::DoubleQuote { text: self.excerpt() }),
                Some('"') => {
                    self.next();
                    if self.rules.quotes == Quotes::Kept {
                        value.push('"');
                    }
                    return Ok(value);
                }
                Some('$') => value.push_str(&self.dollar()?),
                Some(character) => {
                    self.next();
                    if character == self.rules.escape {
                        self.escaped_in_quotes(&mut value);
                    } else {
                        value.push(character);
                    }
                }
            }
            if value.len() > self.rules.limit {
                return Err(ExpandError::TooLong { limit: self.rules.limit, text: self.excerpt() });
            }
        }
    }

    fn escaped_in_quotes(&mut self, value: &mut String) {
        if self.rules.raw_escapes {
            value.push(self.rules.escape);
        }
        match self.peek() {
            None => {}
            Some(escaped) if escaped == '"' || escaped == '$' || escaped == self.rules.escape => {
                self.next();
                value.push(escaped);
            }
            Some(_) => value.push(self.rules.escape),
        }
    }

    /// Reads `$name`, `${name}` or `${name…}`.
    fn dollar(&mut self) -> Result<String, ExpandError> {
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.get(name) {
                None if self.rules.keep_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.next();
        match self.peek() {
            None => return Err(ExpandError::Unclosed { missing: '}', text: self.excerpt() }),
            Some('{' | '}' | ':') => return Err(ExpandError::BadSubstitution { text: self.excerpt() }),
            Some(_) => {}
        }
        if self.depth == DEPTH_LIMIT {
            return Err(ExpandError::TooDeep { text: self.excerpt() });
        }
        self.depth += 1;
        let value = self.substitution();
        self.depth -= 1;
        value
    }

    /// Reads what follows `${`.
    fn substitution(&mut self) -> Result<String, ExpandError> {
        let name = self.name();
        let unclosed = || ExpandError::Unclosed { missing: '}', text: excerpt(self.text) };
        match self.next().ok_or_else(unclosed)? {
            '}' => Ok(match self.get(name) {
                None if self.rules.keep_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            ':' => {
                let modifier =
                    self.next().ok_or(ExpandError::Unclosed { missing: '}', text: self.excerpt() })?;
                match modifier {
                    '-' | '+' | '?' => self.conditional(name, modifier, EmptyIs::Unset),
                    other => Err(self.unsupported(&format!(":{other}"))),
                }
            }
            modifier @ ('-' | '+' | '?') => self.conditional(name, modifier, EmptyIs::Set),
            modifier @ ('#' | '%') => self.trim(name, modifier),
            '/' => self.replace(name),
            other => Err(self.unsupported(&other.to_string())),
        }
    }

    fn unsupported(&self, modifier: &str) -> ExpandError {
        ExpandError::Modifier { modifier: modifier.to_owned(), text: self.excerpt() }
    }

    /// Reads the word of a modifier; escapes in patterns are left to the pattern.
    fn operand(&mut self, stop: char, raw_escapes: bool) -> Result<String, ExpandError> {
        let outer = std::mem::replace(&mut self.rules.raw_escapes, raw_escapes);
        let word = self.until(Some(stop));
        self.rules.raw_escapes = outer;
        word.map(|(word, _)| word)
    }

    fn conditional(&mut self, name: &str, modifier: char, empty: EmptyIs) -> Result<String, ExpandError> {
        let word = self.operand('}', false)?;
        let value = self.get(name);
        if value.is_none() && self.rules.keep_unset {
            let colon = if empty == EmptyIs::Unset { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
        }
        let present = value.as_ref().filter(|value| !(value.is_empty() && empty == EmptyIs::Unset));
        match (modifier, present) {
            ('+', None) => Ok(String::new()),
            ('+', Some(_)) | ('-', None) => Ok(word),
            (_, Some(present)) => Ok(present.clone()),
            (_, None) => {
                let fact =
                    if value.is_none() { "is not allowed to be unset" } else { "is not allowed to be empty" };
                let message = if word.is_empty() { fact.to_owned() } else { word };
                Err(ExpandError::Required { name: name.to_owned(), message })
            }
        }
    }

    fn trim(&mut self, name: &str, modifier: char) -> Result<String, ExpandError> {
        let word = self.operand('}', true)?;
        let Some(value) = self.get(name) else {
            return Ok(if self.rules.keep_unset {
                format!("${{{name}{modifier}{word}}}")
            } else {
                String::new()
            });
        };
        let (longest, pattern) = match word.strip_prefix(modifier) {
            Some(pattern) => (Longest::Yes, pattern),
            None => (Longest::No, word.as_str()),
        };
        let pattern = Pattern::parse(pattern)?;
        Ok(match modifier {
            '#' => pattern.without_prefix(&value, longest),
            _ => pattern.without_suffix(&value, longest),
        })
    }

    fn replace(&mut self, name: &str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.operand('/', true)?;
        let replacement = self.operand('}', true)?;
        let value = match self.get(name) {
            Some(value) => value,
            None if self.rules.keep_unset => return Ok(format!("${{{name}/{pattern}/{replacement}}}")),
            None => String::new(),
        };
        let times = if all { usize::MAX } else { 1 };
        let too_long = ExpandError::TooLong { limit: self.rules.limit, text: self.excerpt() };
        Pattern::parse(&pattern)?.replace(&value, &replacement, times, self.rules.limit).ok_or(too_long)
    }

    /// Reads a name: letters, digits and underscores, or only digits, or one special parameter.
    fn name(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let length = |accept: fn(char) -> bool| rest.find(|c| !accept(c)).unwrap_or(rest.len());
        let end = match rest.chars().next() {
            Some(first) if first.is_ascii_digit() => length(|c| c.is_ascii_digit()),
            // The special parameters of POSIX XCU 2.5.2.
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => length(|c| c.is_alphabetic() || c.is_ascii_digit() || c == '_'),
        };
        self.at += end;
        &rest[..end]
    }

    fn get(&mut self, name: &str) -> Option<String> {
        let value = (self.env)(name);
        let names = if value.is_some() { &mut self.names.matched } else { &mut self.names.unmatched };
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
        value
    }
}

/// Whether an empty value counts as set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EmptyIs {
    Set,
    Unset,
}
