//! The JSON form: an array of strings, read as Go's encoding/json does.
//!
//! Arrays that are valid JSON but hold something else are told apart from text that is no JSON, because the
//! former is a mistake and the latter is a shell command.

use super::words::Piece;

/// What a text that begins with `[` turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Array {
    /// An array of strings, each with its place in the logical line.
    Strings(Vec<(String, usize, usize)>),
    /// A JSON array that holds something else.
    NotStrings,
    /// No JSON.
    NotJson,
}

/// Nesting that Go accepts (encoding/json maxNestingDepth).
const DEPTH_LIMIT: usize = 10_000;

/// Reads a JSON array; `None` if the text does not begin like one.
pub(super) fn array(piece: Piece<'_>) -> Option<Array> {
    let piece = piece.trim();
    if !piece.text.starts_with('[') {
        return None;
    }
    if let Some(strings) = strings(piece) {
        return Some(Array::Strings(strings));
    }
    let valid = depth(piece.text) <= DEPTH_LIMIT
        && serde_json::from_str::<Vec<serde::de::IgnoredAny>>(piece.text).is_ok();
    Some(if valid { Array::NotStrings } else { Array::NotJson })
}

/// Upper bound of the nesting.
fn depth(text: &str) -> usize {
    text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count()
}

fn strings(piece: Piece<'_>) -> Option<Vec<(String, usize, usize)>> {
    let mut items = Vec::new();
    let mut rest = skip(&piece.text[1..]);
    if let Some(end) = rest.strip_prefix(']') {
        return skip(end).is_empty().then_some(items);
    }
    loop {
        let start = piece.text.len() - rest.len();
        let (value, behind) = string(rest)?;
        let end = piece.text.len() - behind.len();
        items.push((value, piece.at + start, piece.at + end));
        rest = skip(behind);
        if let Some(end) = rest.strip_prefix(']') {
            return skip(end).is_empty().then_some(items);
        }
        rest = skip(rest.strip_prefix(',')?);
    }
}

fn skip(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\r', '\n'])
}

/// Reads a string literal and returns what follows it.
fn string(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.strip_prefix('"')?;
    loop {
        let at = rest.find(|character: char| matches!(character, '"' | '\\') || character < ' ')?;
        value.push_str(&rest[..at]);
        let special = rest.as_bytes()[at];
        rest = &rest[at + 1..];
        match special {
            b'"' => return Some((value, rest)),
            b'\\' => rest = escape(rest, &mut value)?,
            _ => return None,
        }
    }
}

fn escape<'a>(text: &'a str, value: &mut String) -> Option<&'a str> {
    let character = text.chars().next()?;
    let rest = &text[character.len_utf8()..];
    value.push(match character {
        '"' | '\\' | '/' => character,
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => return unicode(rest, value),
        _ => return None,
    });
    Some(rest)
}

/// Reads four hexadecimal digits, and a second escape if they are a high surrogate. Lone surrogates become
/// U+FFFD, as in Go.
fn unicode<'a>(text: &'a str, value: &mut String) -> Option<&'a str> {
    let (first, rest) = hex(text)?;
    if (0xd800..0xdc00).contains(&first)
        && let Some((second @ 0xdc00..0xe000, behind)) = rest.strip_prefix("\\u").and_then(hex)
    {
        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        value.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
        return Some(behind);
    }
    value.push(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
    Some(rest)
}

fn hex(text: &str) -> Option<(u32, &str)> {
    let digits = text.get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    Some((u32::from_str_radix(digits, 16).ok()?, &text[4..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Option<&[&str]>) {
        let got = match array(Piece::new(text)) {
            Some(Array::Strings(items)) => {
                Some(items.into_iter().map(|(value, ..)| value).collect::<Vec<_>>())
            }
            _ => None,
        };
        assert_eq!(got, expect.map(|items| items.iter().map(|item| (*item).to_owned()).collect()), "{text}");
    }

    #[test]
    fn arrays_of_strings() {
        check(" [ ] ", Some(&[]));
        check("[\"a\" , \"\\u00e9\\ud83d\\ude00\\ud800\\n\"]", Some(&["a", "é😀\u{fffd}\n"]));
        check("[\"a\",]", None);
        check("['a']", None);
        check("[\"a\"] x", None);
    }

    #[test]
    fn df_08_other_arrays_and_no_json() {
        assert_eq!(array(Piece::new("[\"a\", [1]]")), Some(Array::NotStrings));
        assert_eq!(array(Piece::new("[ -f x ]")), Some(Array::NotJson));
        assert_eq!(array(Piece::new(&"[".repeat(100_000))), Some(Array::NotJson));
        let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(array(Piece::new(&nested)), Some(Array::NotJson));
        assert_eq!(array(Piece::new("[1e999, {\"a\":1,\"a\":2}]")), Some(Array::NotStrings));
        assert_eq!(array(Piece::new("x")), None);
    }
}
