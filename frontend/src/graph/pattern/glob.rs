//! One glob, compiled: the matcher below `.dockerignore` rules and wildcards.
//!
//! It simulates all possible matches at once, so that no pattern is exponential. It knows no rules, no
//! negation and no directories.

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A `[` without its end, or an empty or reversed range.
    #[error("syntax error in pattern: character class is malformed")]
    Class,
    /// A backslash with nothing after it.
    #[error("syntax error in pattern: nothing follows the backslash")]
    Escape,
    /// A rule that is only `!`.
    #[error("illegal exclusion pattern: \"!\"")]
    LoneExclusion,
    /// A NUL byte, which no path contains.
    #[error("syntax error in pattern: NUL byte")]
    Nul,
}

/// What `**` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stars {
    /// Two single stars, as in Go's `filepath.Match`.
    Single,
    /// Any number of directories, as in moby's patternmatcher.
    Deep,
}

/// A compiled glob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob(Form);

/// Most rules need no automaton.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    /// The path is this text.
    Exact(String),
    /// `text**`: the path begins with this text.
    Prefix(String),
    /// `**text`: the path ends with this text.
    Suffix(String),
    /// `**/text`: the path is this text, or ends with a slash and this text.
    SuffixPart(String),
    /// Anything else.
    Tokens(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// This character.
    Char(char),
    /// Any character but the separator.
    Any,
    /// A character class; Go lets it match the separator.
    Class { negated: bool, ranges: Vec<(char, char)> },
    /// Any number of characters but the separator.
    Star,
    /// `**`, first half: enter the loop of the second half, or skip it.
    DeepEntry,
    /// `**`, second half: any characters, left only after a separator.
    DeepLoop,
    /// `**` at the end: everything.
    Rest,
}

impl Token {
    /// Returns the only character that the token takes, where there is only one.
    fn literal(&self) -> Option<char> {
        match self {
            Self::Char(char) => Some(*char),
            Self::Any | Self::Class { .. } | Self::Star | Self::DeepEntry | Self::DeepLoop | Self::Rest => {
                None
            }
        }
    }
}

impl Glob {
    /// Compiles `pattern`.
    pub(super) fn compile(pattern: &str, stars: Stars) -> Result<Self, PatternError> {
        let tokens = tokenize(pattern, stars)?;
        Ok(Self(simplify(tokens, pattern)))
    }

    /// Returns whether the whole of `path` matches.
    pub(super) fn matches(&self, path: &str) -> bool {
        match &self.0 {
            Form::Exact(text) => path == text,
            Form::Prefix(text) => path.starts_with(text.as_str()),
            Form::Suffix(text) => path.ends_with(text.as_str()),
            Form::SuffixPart(text) => {
                path.strip_suffix(text.as_str()).is_some_and(|head| head.is_empty() || head.ends_with('/'))
            }
            Form::Tokens(tokens) => simulate(tokens, path),
        }
    }

    /// Returns the text with which every matching path begins.
    pub(super) fn literal_head(&self) -> String {
        match &self.0 {
            Form::Exact(text) | Form::Prefix(text) => text.clone(),
            Form::Suffix(_) | Form::SuffixPart(_) => String::new(),
            Form::Tokens(tokens) => tokens.iter().map_while(Token::literal).collect(),
        }
    }
}

fn tokenize(pattern: &str, stars: Stars) -> Result<Vec<Token>, PatternError> {
    let mut tokens = Vec::with_capacity(pattern.len());
    let mut chars = pattern.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\0' => return Err(PatternError::Nul),
            '*' if stars == Stars::Deep && chars.peek() == Some(&'*') => {
                chars.next();
                chars.next_if_eq(&'/');
                push_deep(&mut tokens, chars.peek().is_none());
            }
            '*' if tokens.last() == Some(&Token::Star) => {}
            '*' => tokens.push(Token::Star),
            '?' => tokens.push(Token::Any),
            '[' => tokens.push(class(&mut chars)?),
            '\\' => tokens.push(Token::Char(chars.next().ok_or(PatternError::Escape)?)),
            char => tokens.push(Token::Char(char)),
        }
    }
    Ok(tokens)
}

/// Adds `**`, once for a run of them.
fn push_deep(tokens: &mut Vec<Token>, last: bool) {
    if last {
        tokens.push(Token::Rest);
    } else if tokens.last() != Some(&Token::DeepLoop) {
        tokens.extend([Token::DeepEntry, Token::DeepLoop]);
    }
}

/// Reads a class after its `[`, with Go's grammar: `-` and `]` must be escaped.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token, PatternError> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Ok(Token::Class { negated, ranges });
        }
        let low = class_char(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() { class_char(chars)? } else { low };
        if high < low {
            return Err(PatternError::Class);
        }
        ranges.push((low, high));
    }
}

fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, PatternError> {
    match chars.next() {
        None | Some('-' | ']') => Err(PatternError::Class),
        Some('\0') => Err(PatternError::Nul),
        Some('\\') => chars.next().ok_or(PatternError::Class),
        Some(char) => Ok(char),
    }
}

/// Finds the cheapest form of the same meaning.
fn simplify(tokens: Vec<Token>, pattern: &str) -> Form {
    let text = |tokens: &[Token]| -> Option<String> { tokens.iter().map(Token::literal).collect() };
    let simple = match tokens.as_slice() {
        [head @ .., Token::Rest] => text(head).map(Form::Prefix),
        // moby tells `**x` from `**/x` only here: with a wildcard after it, both mean whole directories.
        [Token::DeepEntry, Token::DeepLoop, tail @ ..] => text(tail).map(|tail| {
            let parts = pattern.trim_start_matches('*').starts_with('/');
            if parts { Form::SuffixPart(tail) } else { Form::Suffix(tail) }
        }),
        tokens => text(tokens).map(Form::Exact),
    };
    simple.unwrap_or(Form::Tokens(tokens))
}

/// Runs all states at once; state `n` means "the first `n` tokens have matched". Only states that are reached
/// cost anything, so that a long pattern is left where a path departs from it.
fn simulate(tokens: &[Token], path: &str) -> bool {
    let mut now = States::of(tokens);
    let mut next = States::of(tokens);
    now.add(tokens, 0);
    for char in path.chars() {
        if now.reached.is_empty() {
            return false;
        }
        for &state in &now.reached {
            // The state behind the last token has nothing left to match.
            if let Some(token) = tokens.get(state) {
                advance(tokens, token, state, char, &mut next);
            }
        }
        now.clear();
        std::mem::swap(&mut now, &mut next);
    }
    now.marked[tokens.len()]
}

/// Adds the states that follow `state` after `char`.
fn advance(tokens: &[Token], token: &Token, state: usize, char: char, next: &mut States) {
    match token {
        Token::Char(expected) if *expected == char => next.add(tokens, state + 1),
        Token::Any if char != '/' => next.add(tokens, state + 1),
        Token::Class { negated, ranges } => {
            let inside = ranges.iter().any(|(low, high)| (*low..=*high).contains(&char));
            if inside != *negated {
                next.add(tokens, state + 1);
            }
        }
        Token::Star if char != '/' => next.add(tokens, state),
        Token::DeepLoop => {
            next.add(tokens, state);
            if char == '/' {
                next.add(tokens, state + 1);
            }
        }
        Token::Rest => next.add(tokens, state),
        Token::Char(_) | Token::Any | Token::Star | Token::DeepEntry => {}
    }
}

/// States that are reached.
struct States {
    reached: Vec<usize>,
    marked: Vec<bool>,
}

impl States {
    fn of(tokens: &[Token]) -> Self {
        Self { reached: Vec::new(), marked: vec![false; tokens.len() + 1] }
    }

    /// Adds a state, and those that are reached from it without a character.
    fn add(&mut self, tokens: &[Token], state: usize) {
        let mut at = self.reached.len();
        self.mark(state);
        while let Some(&state) = self.reached.get(at) {
            match tokens.get(state) {
                Some(Token::Star | Token::Rest) => self.mark(state + 1),
                Some(Token::DeepEntry) => {
                    self.mark(state + 1);
                    self.mark(state + 2);
                }
                Some(Token::Char(_) | Token::Any | Token::Class { .. } | Token::DeepLoop) | None => {}
            }
            at += 1;
        }
    }

    fn mark(&mut self, state: usize) {
        if !std::mem::replace(&mut self.marked[state], true) {
            self.reached.push(state);
        }
    }

    fn clear(&mut self) {
        for state in self.reached.drain(..) {
            self.marked[state] = false;
        }
    }
}
