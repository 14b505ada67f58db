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

/// Levenshtein distance in characters.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_near() {
        assert_eq!(nearest("COPPY", &["COPY", "CMD"]), Some("COPY"));
        assert_eq!(nearest("form", &["FROM", "RUN"]), Some("FROM"));
        assert_eq!(nearest("xyz", &["FROM", "RUN"]), None);
    }
}
