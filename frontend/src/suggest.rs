//! "Did you mean": the nearest of some words by edit distance.
//!
//! It decides nothing about which words are possible.

/// Finds the option that differs in at most two edits, ignoring case; nothing if one is equal but for case
/// or the text is so short that anything would be near.
pub fn nearest<'a>(text: &str, options: &[&'a str]) -> Option<&'a str> {
    const LIMIT: usize = 2;
    let lower = text.to_lowercase();
    if lower.chars().count() > 64 {
        return None;
    }
    let mut best: Option<(usize, &'a str)> = None;
    for option in options {
        let distance = distance(&lower, &option.to_lowercase());
        if distance <= LIMIT
            && distance < option.chars().count()
            && best.is_none_or(|(least, _)| distance < least)
        {
            best = Some((distance, option));
        }
    }
    best.map(|(_, option)| option)
}

/// Returns ` (did you mean X?)` or nothing.
pub fn did_you_mean(text: &str, options: &[&str]) -> String {
    nearest(text, options).map(|option| format!(" (did you mean {option}?)")).unwrap_or_default()
}

/// Edits between two texts in characters; two neighbours that changed places are one edit (optimal string alignment).
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut before = vec![0; right.len() + 1];
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in right.iter().enumerate() {
            let substituted = above[j] + usize::from(a != b);
            let mut least = substituted.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == right[j - 1] && left[i - 1] == *b {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_near() {
        assert_eq!(nearest("COPPY", &["COPY", "CMD"]), Some("COPY"));
        assert_eq!(nearest("form", &["FROM", "RUN"]), Some("FROM"));
        assert_eq!(nearest("xyz", &["FROM", "RUN"]), None);
        assert_eq!(nearest("puhs", &["pull", "push"]), Some("push"));
        assert_eq!(nearest("", &["pull"]), None);
    }

    #[test]
    fn edits_are_counted() {
        for (left, right, expect) in [
            ("", "", 0),
            ("", "ab", 2),
            ("abc", "abc", 0),
            ("ab", "ba", 1),
            ("abcd", "acbd", 1),
            ("ca", "abc", 3),
        ] {
            assert_eq!((distance(left, right), distance(right, left)), (expect, expect), "{left} {right}");
        }
    }
}
