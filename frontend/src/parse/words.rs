//! A logical line to keyword, flags and words.
//!
//! It knows no instruction. Words keep their quotes and escapes: removing them is expansion's work.

/// A part of a logical line and where it starts in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub text: &'a str,
    pub at: usize,
}

impl<'a> Piece<'a> {
    pub(super) fn new(text: &'a str) -> Piece<'a> {
        Piece { text, at: 0 }
    }

    pub(super) fn end(&self) -> usize {
        self.at + self.text.len()
    }

    pub(super) fn part(&self, start: usize, end: usize) -> Piece<'a> {
        Piece { text: &self.text[start..end], at: self.at + start }
    }

    pub(super) fn trim(&self) -> Piece<'a> {
        let start = self.text.len() - self.text.trim_start().len();
        self.part(start, start + self.text.trim().len())
    }
}

/// The blanks between words: BuildKit's `[\t\v\f\r ]+`.
fn is_blank(character: char) -> bool {
    matches!(character, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// Splits off the first word; both parts lie around the blanks between them.
pub(super) fn split_first(piece: Piece<'_>) -> (Piece<'_>, Option<Piece<'_>>) {
    let Some(end) = piece.text.find(is_blank) else { return (piece, None) };
    let rest = piece.text[end..].trim_start_matches(is_blank);
    (piece.part(0, end), Some(piece.part(piece.text.len() - rest.len(), piece.text.len())))
}

/// Splits at blanks; nothing is quoted.
pub(super) fn split_blanks(piece: Piece<'_>) -> Vec<Piece<'_>> {
    let mut words = Vec::new();
    let mut rest = (!piece.text.is_empty()).then_some(piece);
    while let Some(piece) = rest {
        let (word, next) = split_first(piece);
        words.push(word);
        rest = next;
    }
    words
}

/// Splits at white space outside quotes; quotes and escapes stay in the words.
pub(super) fn split_quoted(piece: Piece<'_>, escape: char) -> Vec<Piece<'_>> {
    let mut words = Vec::new();
    let mut characters = piece.text.char_indices();
    let mut start = None;
    let mut quote = None;
    // A lone escape at the end of the line is no part of a word.
    let mut end = piece.text.len();
    while let Some((at, character)) = characters.next() {
        if start.is_none() && character.is_whitespace() {
            continue;
        }
        let first = *start.get_or_insert(at);
        match quote {
            None if character.is_whitespace() => {
                words.push(piece.part(first, at));
                start = None;
                continue;
            }
            None if matches!(character, '\'' | '"') => quote = Some(character),
            Some(open) if open == character => quote = None,
            _ => {}
        }
        if character == escape && quote != Some('\'') && characters.next().is_none() {
            end = at;
        }
    }
    if let Some(start) = start.filter(|start| *start < end) {
        words.push(piece.part(start, end));
    }
    words
}

/// A flag with quotes and escapes removed, and its place in the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FlagText {
    pub text: String,
    pub start: usize,
    pub end: usize,
}

/// Splits off the words that begin with `--`; a lone `--` ends them.
pub(super) fn split_flags(piece: Piece<'_>, escape: char) -> (Vec<FlagText>, Piece<'_>) {
    let mut flags = Vec::new();
    let mut at = 0;
    loop {
        let rest = &piece.text[at..];
        at += rest.len() - rest.trim_start().len();
        if !piece.text[at..].starts_with("--") {
            return (flags, piece.part(at, piece.text.len()));
        }
        let (text, length) = flag_word(&piece.text[at..], escape);
        let end = at + length;
        if text == "--" {
            return (flags, piece.part(end, piece.text.len()).trim());
        }
        flags.push(FlagText { text, start: piece.at + at, end: piece.at + end });
        at = end;
    }
}

/// Reads one flag: its text and how many bytes it takes.
fn flag_word(text: &str, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match quote {
            None if character.is_whitespace() => return (word, at),
            None if matches!(character, '\'' | '"') => quote = Some(character),
            Some(open) if open == character => quote = None,
            _ if character == escape => word.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => word.push(character),
        }
    }
    (word, text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<'a>(pieces: &[Piece<'a>]) -> Vec<&'a str> {
        pieces.iter().map(|piece| piece.text).collect()
    }

    #[test]
    fn words_keep_quotes_and_escapes() {
        let words = |text| texts(&split_quoted(Piece::new(text), '\\')).join("|");
        assert_eq!(words("a='b c' d\\ e \"f\\\" g\""), "a='b c'|d\\ e|\"f\\\" g\"");
        assert_eq!(words(" a\\"), "a");
        assert_eq!(words("'a\\' b'"), "'a\\'|b'");
    }

    #[test]
    fn flags_lose_quotes_and_end_at_two_dashes() {
        let (flags, rest) = split_flags(Piece::new("--a='b c' --d\\ e -- --f  g "), '\\');
        assert_eq!(flags.iter().map(|flag| flag.text.as_str()).collect::<Vec<_>>(), ["--a=b c", "--d e"]);
        assert_eq!((rest.text, rest.at), ("--f  g", 20));
    }
}
