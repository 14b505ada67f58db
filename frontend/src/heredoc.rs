//! Heredocs: which words of a line open one, and what a body is.
//!
//! It reads no lines itself ([`crate::parse`] does) and expands nothing. A word opens a heredoc if it is
//! digits, `<<`, perhaps `-`, blanks and a delimiter without `<`; any quote in the delimiter turns expansion
//! off. The escape directive has no influence here, as in BuildKit.

use crate::expand::{self, ExpandError, Quotes, RawEscapes};

/// A heredoc that a word opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opening {
    /// The delimiter, quotes removed.
    pub name: String,
    /// Whether the body is expanded.
    pub expand: bool,
    /// Written with `<<-`.
    pub chomp: bool,
    /// The file descriptor, 0 if none is written.
    pub fd: u32,
}

/// Reads a word.
pub(crate) fn opening(text: &str) -> Result<Option<Opening>, ExpandError> {
    let (digits, rest) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let Some(rest) = rest.strip_prefix("<<") else { return Ok(None) };
    let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    let rest = rest.trim_start();
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let words = expand::shell_words(rest, Quotes::Removed, RawEscapes::Removed)?;
    let raw_words = expand::shell_words(rest, Quotes::Kept, RawEscapes::Removed)?;
    let ([word], [raw_word]) = (words.as_slice(), raw_words.as_slice()) else { return Ok(None) };
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Ok(Some(Opening {
        name: word.clone(),
        expand: quotes(word) == quotes(raw_word),
        chomp,
        fd: digits.parse().unwrap_or(0),
    }))
}

/// Finds the heredocs that a logical line opens, in order. A line that no shell could read opens none.
pub(crate) fn openings(line: &str) -> Result<Vec<Opening>, ExpandError> {
    if !line.contains("<<") {
        return Ok(Vec::new());
    }
    let words = expand::shell_words(line, Quotes::Kept, RawEscapes::Kept).unwrap_or_default();
    words.iter().filter_map(|word| opening(word).transpose()).collect()
}

/// Removes the leading tabs of every line, as `<<-` demands.
pub(crate) fn chomp(body: &str) -> String {
    body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expect: &[&str]) {
        let found = openings(line).expect("valid words");
        assert_eq!(found.iter().map(|opening| opening.name.as_str()).collect::<Vec<_>>(), expect, "{line}");
    }

    #[test]
    fn df_03_words_that_open_heredocs() {
        check("RUN <<EOF", &["EOF"]);
        check("RUN 3<< EOF cat <<-'A B'", &["EOF", "A B"]);
        check("RUN <<<EOF <<", &[]);
        check("RUN echo '<<EOF' \\<<EOF", &[]);
        check(&format!("RUN {}", "<<E ".repeat(1000)), &["E"; 1000]);
    }

    #[test]
    fn any_quote_stops_expansion() {
        for (word, expand) in [("<<EOF", true), ("<<'EOF'", false), ("<<E\"O\"F", false)] {
            assert_eq!(opening(word).expect("valid").map(|opening| opening.expand), Some(expand), "{word}");
        }
    }

    #[test]
    fn chomping_takes_tabs_of_every_line() {
        assert_eq!(chomp("\t\ta\n\tb\tc\n d"), "a\nb\tc\n d");
    }
}
