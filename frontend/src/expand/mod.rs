//! Variable expansion and word splitting with the rules of BuildKit's shell lexer.
//!
//! It knows text and a look-up of names, no instruction: where expansion applies is lowering's business.
//! Cost is linear in input plus output; values are limited, so that `ENV A1=$A0$A0` chains end in an error.

mod lexer;
mod pattern;

use std::collections::BTreeSet;

/// Longest value of a variable that an expansion may produce: Linux refuses longer strings in `execve`
/// (MAX_ARG_STRLEN, 32 pages).
pub const VALUE_LIMIT: usize = 128 * 1024;

/// Longest body of a COPY heredoc after expansion.
pub const BODY_LIMIT: usize = 16 * 1024 * 1024;

/// Deepest nesting of `${a:-${b:-…}}`.
pub const DEPTH_LIMIT: usize = 128;

/// Looks a variable up; `None` means unset.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What an expansion gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The text with variables replaced, quotes and escapes removed.
    pub value: String,
    /// Names that had a value.
    pub matched: BTreeSet<String>,
    /// Names that had none.
    pub unmatched: BTreeSet<String>,
}

/// Words that an expansion gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExpandedWords {
    /// The words, split after expansion at unquoted white space.
    pub words: Vec<String>,
    /// Names that had a value.
    pub matched: BTreeSet<String>,
    /// Names that had none.
    pub unmatched: BTreeSet<String>,
}

/// Why a text cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// `'` without its end.
    #[error("unexpected end of statement while looking for matching single-quote in {text:?}")]
    SingleQuote {
        /// The text.
        text: String,
    },
    /// `"` without its end.
    #[error("unexpected end of statement while looking for matching double-quote in {text:?}")]
    DoubleQuote {
        /// The text.
        text: String,
    },
    /// `${` without its end.
    #[error("syntax error: missing '{missing}' of ${{…}} in {text:?}")]
    Unclosed {
        /// What is missing.
        missing: char,
        /// The text.
        text: String,
    },
    /// `${}`, `${:…}`, `${{…}`.
    #[error("syntax error: bad substitution in {text:?}")]
    BadSubstitution {
        /// The text.
        text: String,
    },
    /// `${a=b}`, `${a:#b}`.
    #[error(
        "unsupported modifier ({modifier}) in substitution in {text:?}, supported are :- - :+ + :? ? # ## % %% / //"
    )]
    Modifier {
        /// As written.
        modifier: String,
        /// The text.
        text: String,
    },
    /// `${a?message}` of a variable that is unset or, with a colon, empty.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// What the Dockerfile says, or BuildKit's words where it says nothing.
        message: String,
    },
    /// A pattern of `#`, `%` or `/` with an escape that does not exist.
    #[error(
        "invalid pattern ({pattern}) in substitution: invalid escape '\\{escaped}', only \\* \\? \\\\ are known"
    )]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What follows the backslash; empty at the end.
        escaped: String,
    },
    /// The result is too long.
    #[error("value exceeds {} KiB while expanding {text:?}", .limit / 1024)]
    TooLong {
        /// The limit in bytes.
        limit: usize,
        /// The text.
        text: String,
    },
    /// `${a:-${b:-…}}` nested too deeply.
    #[error("substitutions are nested more than {DEPTH_LIMIT} deep in {text:?}")]
    TooDeep {
        /// The text.
        text: String,
    },
}

/// How a text is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Quotes {
    /// Quotes group and are removed.
    #[default]
    Removed,
    /// Quotes group and are kept.
    Kept,
    /// Quotes are ordinary characters.
    Ignored,
}

/// Expands one text: white space is kept, quotes and escapes are removed.
pub fn word(text: &str, escape: char, env: Lookup) -> Result<Expanded, ExpandError> {
    let rules = lexer::Rules { escape, ..lexer::Rules::default() };
    lexer::run(text, rules, env).map(|(value, _, names)| Expanded {
        value,
        matched: names.matched,
        unmatched: names.unmatched,
    })
}

/// Expands one text and splits the result at white space that is not quoted.
pub fn words(text: &str, escape: char, env: Lookup) -> Result<ExpandedWords, ExpandError> {
    let rules = lexer::Rules { escape, split: true, ..lexer::Rules::default() };
    lexer::run(text, rules, env).map(|(_, words, names)| ExpandedWords {
        words,
        matched: names.matched,
        unmatched: names.unmatched,
    })
}

/// Expands the body of a COPY or ADD heredoc: quotes are kept, `\$` is a dollar, whatever the escape directive says.
pub fn body(text: &str, env: Lookup) -> Result<Expanded, ExpandError> {
    let rules = lexer::Rules { quotes: Quotes::Ignored, limit: BODY_LIMIT, ..lexer::Rules::default() };
    lexer::run(text, rules, env).map(|(value, _, names)| Expanded {
        value,
        matched: names.matched,
        unmatched: names.unmatched,
    })
}

/// Expands a text that is shown to people: quotes are kept, and so is what has no value.
pub fn shown(text: &str, escape: char, env: Lookup) -> Result<String, ExpandError> {
    let rules = lexer::Rules { escape, quotes: Quotes::Kept, keep_unset: true, ..lexer::Rules::default() };
    lexer::run(text, rules, env).map(|(value, ..)| value)
}

/// Splits a line into words as a shell would see them, with quotes and escapes either kept or removed.
/// Nothing is expanded. Heredoc delimiters are found this way.
pub(crate) fn shell_words(
    text: &str,
    quotes: Quotes,
    raw_escapes: RawEscapes,
) -> Result<Vec<String>, ExpandError> {
    let rules = lexer::Rules {
        escape: '\\',
        quotes,
        raw_escapes: raw_escapes == RawEscapes::Kept,
        keep_unset: true,
        limit: usize::MAX,
        split: true,
    };
    lexer::run(text, rules, &|_| None).map(|(_, words, _)| words)
}

/// Whether escape characters stay in the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RawEscapes {
    /// They stay.
    Kept,
    /// They go.
    Removed,
}

/// Shortens a text for an error message.
fn excerpt(text: &str) -> String {
    const LIMIT: usize = 80;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        let pairs: Vec<(String, String)> = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        move |name| pairs.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    fn check(text: &str, env: &[(&str, &str)], expect: &str) {
        let got = match word(text, '\\', &lookup(env)) {
            Ok(expanded) => expanded.value,
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(got, expect, "{text}");
    }

    #[test]
    fn defaults_alternatives_and_demands() {
        check("${A:-x}${A-x}", &[("A", "")], "x");
        check("${A:+x}|${A+x}", &[("A", "")], "|x");
        check("${A:?no a}", &[("A", "")], "error: A: no a");
        check("${A?}", &[], "error: A: is not allowed to be unset");
        check("${A:-${B:-$C}}", &[("C", "c")], "c");
    }

    #[test]
    fn prefixes_suffixes_and_replacement() {
        let env = &[("V", "a/b/a.tar.gz")];
        check("${V#*/}|${V##*/}|${V%.*}|${V%%.*}", env, "b/a.tar.gz|a.tar.gz|a/b/a.tar|a/b/a");
        check("${V/a/X}|${V//a/X}|${V//\\//_}", env, "X/b/a.tar.gz|X/b/X.tXr.gz|a_b_a.tar.gz");
        check("${V/a*a/X}", env, "Xr.gz");
    }

    #[test]
    fn quotes_escapes_and_special_parameters() {
        check("'$A' \"$A\" \\$A $1x $", &[("A", "a"), ("1", "one")], "$A a $A onex $");
        check(
            "'a",
            &[],
            "error: unexpected end of statement while looking for matching single-quote in \"'a\"",
        );
        check("${a", &[], "error: syntax error: missing '}' of ${…} in \"${a\"");
    }

    #[test]
    fn a_substitution_inside_a_word_does_not_lose_what_precedes_it() {
        let got = words("a${X:-b c}d 'e f'", '\\', &|_| None).expect("valid");
        assert_eq!(got.words, ["ab", "cd", "e f"]);
    }

    #[test]
    fn a_body_keeps_quotes() {
        let got = body("\"$A\" '$A' \\$A", &lookup(&[("A", "a")])).expect("valid");
        assert_eq!(got.value, "\"a\" 'a' $A");
    }

    #[test]
    fn df_04_doubling_ends_at_the_limit() {
        let mut value = "xxxxxxxx".to_owned();
        let mut failed = false;
        for _ in 0..40 {
            match word("$A$A", '\\', &|_| Some(value.clone())) {
                Ok(expanded) => value = expanded.value,
                Err(error) => {
                    assert!(error.to_string().starts_with("value exceeds 128 KiB"), "{error}");
                    failed = true;
                    break;
                }
            }
        }
        assert!(failed && value.len() <= VALUE_LIMIT);
        let big = "x".repeat(VALUE_LIMIT);
        let error = word("${x//x/aaaa}", '\\', &|_| Some(big.clone())).expect_err("too long");
        assert!(matches!(error, ExpandError::TooLong { .. }), "{error}");
    }

    #[test]
    fn df_04_nesting_of_ten_thousand_is_refused_without_overflow() {
        let text = format!("{}x{}", "${a:-".repeat(10_000), "}".repeat(10_000));
        let error = word(&text, '\\', &|_| None).expect_err("too deep");
        assert!(matches!(error, ExpandError::TooDeep { .. }), "{error}");
    }
}
