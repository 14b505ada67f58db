//! The patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*`, `?` and backslash escapes, no brackets.
//!
//! `*` and `?` do not match a line feed, because BuildKit compiles them to the `.` of Go's regexp.
//! Matching never backtracks over more than one literal run, so it costs at most value times run length.

use super::ExpandError;

/// Whether the longest or the shortest match counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Longest {
    Yes,
    No,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Literal(char),
    Any,
}

/// A parsed pattern: runs of characters with a `*` between every two.
#[derive(Debug)]
pub(super) struct Pattern {
    runs: Vec<Vec<Token>>,
}

impl Pattern {
    /// Reads a pattern; only `*`, `?`, `\`, `}` and `/` can be escaped.
    pub(super) fn parse(text: &str) -> Result<Pattern, ExpandError> {
        let mut runs = vec![Vec::new()];
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            let token = match character {
                '*' => {
                    runs.push(Vec::new());
                    continue;
                }
                '?' => Token::Any,
                '\\' => match characters.next() {
                    Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Token::Literal(escaped),
                    escaped => {
                        let escaped = escaped.map(String::from).unwrap_or_default();
                        return Err(ExpandError::Pattern { pattern: super::excerpt(text), escaped });
                    }
                },
                other => Token::Literal(other),
            };
            runs.last_mut().expect("one run from the start").push(token);
        }
        Ok(Pattern { runs })
    }

    /// Returns `value` without the part that matches at its beginning.
    pub(super) fn without_prefix(&self, value: &str, longest: Longest) -> String {
        let characters: Vec<char> = value.chars().collect();
        match self.match_at(&characters, 0, longest) {
            Some(end) => characters[end..].iter().collect(),
            None => value.to_owned(),
        }
    }

    /// Returns `value` without the part that matches at its end.
    pub(super) fn without_suffix(&self, value: &str, longest: Longest) -> String {
        let mut runs = self.runs.clone();
        runs.reverse();
        runs.iter_mut().for_each(|run| run.reverse());
        let characters: Vec<char> = value.chars().rev().collect();
        match (Pattern { runs }).match_at(&characters, 0, longest) {
            Some(end) => characters[end..].iter().rev().collect(),
            None => value.to_owned(),
        }
    }

    /// Replaces up to `times` matches, leftmost first; `None` if the result exceeds `limit` bytes.
    pub(super) fn replace(
        &self,
        value: &str,
        replacement: &str,
        times: usize,
        limit: usize,
    ) -> Option<String> {
        let characters: Vec<char> = value.chars().collect();
        let mut result = String::new();
        let (mut at, mut left, mut previous_end) = (0, times, None);
        while left > 0 {
            let Some((start, end)) = self.find(&characters, at) else { break };
            result.extend(&characters[at..start]);
            // An empty match right behind the previous one does not count, as in Go's ReplaceAll.
            if end > start || previous_end != Some(start) {
                result.push_str(replacement);
                left -= 1;
                previous_end = Some(end);
            }
            at = end;
            if end == start {
                result.extend(characters.get(at));
                at += 1;
            }
            if result.len() > limit {
                return None;
            }
            if at > characters.len() {
                break;
            }
        }
        result.extend(characters.get(at..).unwrap_or_default());
        (result.len() <= limit).then_some(result)
    }

    /// Finds the leftmost match from `from` on; of those with that start, the longest.
    fn find(&self, value: &[char], from: usize) -> Option<(usize, usize)> {
        let first = &self.runs[0];
        let mut start = from;
        while start + first.len() <= value.len() {
            if !run_matches(first, value, start) {
                start += 1;
                continue;
            }
            if let Some(end) = self.match_at(value, start, Longest::Yes) {
                return Some((start, end));
            }
            // What cannot be reached from here cannot be reached from further right in this line either.
            let line_end = line_end(value, start + first.len());
            start = (line_end + 1).saturating_sub(first.len()).max(start + 1);
        }
        None
    }

    /// Matches at exactly `start` and returns the end.
    fn match_at(&self, value: &[char], start: usize, longest: Longest) -> Option<usize> {
        let (first, rest) = self.runs.split_first()?;
        if !run_matches(first, value, start) {
            return None;
        }
        let mut at = start + first.len();
        let Some((last, middle)) = rest.split_last() else { return Some(at) };
        for run in middle {
            at = earliest(run, value, at)? + run.len();
        }
        match longest {
            Longest::No => earliest(last, value, at).map(|found| found + last.len()),
            Longest::Yes => latest(last, value, at).map(|found| found + last.len()),
        }
    }
}

fn run_matches(run: &[Token], value: &[char], at: usize) -> bool {
    value.get(at..at + run.len()).is_some_and(|slice| {
        run.iter().zip(slice).all(|(token, character)| match token {
            Token::Literal(literal) => literal == character,
            Token::Any => *character != '\n',
        })
    })
}

/// The index of the next line feed, or the end.
fn line_end(value: &[char], from: usize) -> usize {
    value[from..].iter().position(|character| *character == '\n').map_or(value.len(), |found| from + found)
}

/// The first place of a run behind a `*` that starts at `from`.
fn earliest(run: &[Token], value: &[char], from: usize) -> Option<usize> {
    (from..=line_end(value, from)).find(|at| run_matches(run, value, *at))
}

/// The last place of a run behind a `*` that starts at `from`.
fn latest(run: &[Token], value: &[char], from: usize) -> Option<usize> {
    (from..=line_end(value, from)).rev().find(|at| run_matches(run, value, *at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, pattern: &str, replacement: &str, expect: &str) {
        let pattern = Pattern::parse(pattern).expect("valid pattern");
        assert_eq!(pattern.replace(value, replacement, usize::MAX, 1000).as_deref(), Some(expect));
    }

    #[test]
    fn replaces_every_match_and_empty_ones_once() {
        check("abcabc", "b", "X", "aXcaXc");
        check("abc", "", "-", "-a-b-c-");
        check("abc", "*", "-", "-");
        check("a\nb", "*", "-", "-\n-");
        check("xaxbx", "a*b", "-", "x-x");
        check("aab", "a*c", "-", "aab");
        check("a\nac", "a*c", "-", "a\n-");
    }

    #[test]
    fn stars_take_the_shortest_or_the_longest() {
        let pattern = Pattern::parse("*a?").expect("valid pattern");
        assert_eq!(pattern.without_prefix("xaaabc", Longest::No), "abc");
        assert_eq!(pattern.without_prefix("xaaabc", Longest::Yes), "c");
        assert_eq!(Pattern::parse("a*").expect("valid").without_suffix("xaya", Longest::No), "xay");
    }

    #[test]
    fn df_04_failing_patterns_stay_cheap() {
        let value = "a".repeat(128 * 1024);
        let pattern = Pattern::parse("a*b").expect("valid pattern");
        assert_eq!(pattern.replace(&value, "", usize::MAX, value.len()), Some(value));
    }
}
