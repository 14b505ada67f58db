//! What steps write, made safe to show: lines, without anything that moves a cursor or commands a CI system.

/// Bytes after which a line is broken: a step may write without ever ending a line.
const LINE_LIMIT: usize = 16 * 1024;

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
    after_return: bool,
}

impl Lines {
    /// Adds bytes and returns the lines they complete.
    ///
    /// A carriage return starts a line over, as on a terminal, so of a progress bar the last state is shown.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                self.after_return = false;
                lines.push(self.take());
                continue;
            }
            if std::mem::replace(&mut self.after_return, byte == b'\r') && byte != b'\r' {
                self.partial.clear();
            }
            if byte != b'\r' {
                self.partial.push(byte);
            }
            if self.partial.len() >= LINE_LIMIT {
                lines.push(self.take());
            }
        }
        lines
    }

    /// Returns what is left without a line end, if anything is.
    pub(super) fn finish(&mut self) -> Option<String> {
        (!self.partial.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> String {
        neutralise(&String::from_utf8_lossy(&std::mem::take(&mut self.partial)))
    }
}

/// Returns `text` as one line that a terminal and a CI system show and do not obey.
///
/// Colours and other complete control sequences (ECMA-48 CSI) are dropped; other control characters are shown
/// in caret notation, C1 controls and bidirectional overrides as U+FFFD. `##vso[` (Azure Pipelines), `##[`
/// (GitHub Actions) and `##teamcity[` are obeyed anywhere in a line, so they are pulled apart; `::commands`
/// count at the start of a line only, where a prefix stands.
pub fn neutralise(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match character {
            '\u{1b}' => match after_sequence(rest.as_str()) {
                Some(after) => rest = after.chars(),
                None => safe.push_str("^["),
            },
            '\t' => safe.push('\t'),
            '\0'..='\u{1f}' | '\u{7f}' => {
                safe.push('^');
                safe.push(char::from(character as u8 ^ 0x40));
            }
            '\u{80}'..='\u{9f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{2028}'
            | '\u{2029}' => {
                safe.push('\u{fffd}');
            }
            _ => safe.push(character),
        }
    }
    if safe.contains("##") { without_commands(&safe) } else { safe }
}

/// Returns what follows a complete CSI sequence whose ESC was just read.
fn after_sequence(text: &str) -> Option<&str> {
    let body = text.strip_prefix('[')?;
    let end = body.find(|c: char| !('\u{20}'..='\u{3f}').contains(&c))?;
    let last = body[end..].chars().next()?;
    ('@'..='~').contains(&last).then(|| &body[end + last.len_utf8()..])
}

fn without_commands(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + 8);
    let mut rest = text;
    while let Some(at) = rest.find("##") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        let name = after.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        safe.push_str(before);
        if name.starts_with('[') {
            safe.push_str("# #");
            rest = after;
        } else {
            safe.push('#');
            rest = &rest[at + 1..];
        }
    }
    safe.push_str(rest);
    safe
}

/// Returns at most `limit` characters of a text.
pub fn shorten(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit.saturating_sub(1)) {
        Some((at, _)) if text[at..].chars().nth(1).is_some() => format!("{}…", &text[..at]),
        Some(_) | None => text.to_owned(),
    }
}

/// Digits of a digest that people are shown.
const DIGITS: usize = 12;

/// Returns `text` with its digests cut to twelve digits, as all progress shows them.
pub(super) fn with_short_digests(text: &str) -> String {
    let is_hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    let (mut short, mut rest) = (String::new(), text);
    while let Some(at) = ["sha256:", "sha512:"].iter().filter_map(|name| rest.find(name)).min() {
        let (before, digits) = rest.split_at(at + "sha256:".len());
        let length = digits.find(|c| !is_hex(c)).unwrap_or(digits.len());
        short.push_str(before);
        short.push_str(&digits[..if length < 64 { length } else { DIGITS }]);
        rest = &digits[length..];
    }
    short + rest
}

/// Returns a number of bytes for people.
pub(super) fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn df_11_controls_are_neutralised() {
        let check = |text: &str, expected: &str| assert_eq!(neutralise(text), expected, "{text:?}");
        check("plain \u{e9} \u{1f980}\ttab", "plain \u{e9} \u{1f980}\ttab");
        check("\x1b[1;31mred\x1b[0m", "red");
        check("\x1b[2J\x1b[Hx", "x");
        check("\x1b]0;title\x07x", "^[]0;title^Gx");
        check("\x1b]52;c;aGk=\x1b\\x", "^[]52;c;aGk=^[\\x");
        check("\x1b[31", "^[[31");
        check("\x1b", "^[");
        check("a\rb\0\x7f", "a^Mb^@^?");
        check("\u{9b}2J\u{202e}x", "\u{fffd}2J\u{fffd}x");
        check("##vso[task.setvariable]x", "# #vso[task.setvariable]x");
        check("a ##[error]b", "a # #[error]b");
        check("###vso[x] ##teamcity[y] ## [z", "## #vso[x] # #teamcity[y] ## [z");
        check("\x1b[0m##\x1b[0mvso[x]", "# #vso[x]");
    }

    #[test]
    fn bytes_become_lines_wherever_they_are_cut() {
        let text = b"one\r\n10%\r50%\r100%\ntwo\n\nthr\xffee";
        let expected = ["one", "100%", "two", "", "thr\u{fffd}ee"];
        for cut in 1..text.len() {
            let mut lines = Lines::default();
            let mut all: Vec<_> = text.chunks(cut).flat_map(|chunk| lines.push(chunk)).collect();
            all.extend(lines.finish());
            assert_eq!(all, expected, "in pieces of {cut}");
        }
    }

    #[test]
    fn a_line_without_end_is_broken() {
        let mut lines = Lines::default();
        let broken = lines.push(&vec![b'x'; 3 * LINE_LIMIT + 1]);
        assert_eq!(broken.len(), 3);
        assert_eq!(lines.finish().as_deref(), Some("x"));
        assert_eq!(lines.finish(), None);
    }

    #[test]
    fn texts_and_sizes_for_people() {
        assert_eq!(shorten("abcdef", 4), "abc…");
        assert_eq!(shorten("abcd", 4), "abcd");
        let digest = "0123456789abcdef".repeat(4);
        let text = format!("layer sha256:{digest} from h, sha512:{digest}{digest}; sha256:dead {digest}");
        let short = format!("layer sha256:0123456789ab from h, sha512:0123456789ab; sha256:dead {digest}");
        assert_eq!(with_short_digests(&text), short);
        assert_eq!((size(999).as_str(), size(1_500_000).as_str()), ("999 B", "1.5 MB"));
    }
}
