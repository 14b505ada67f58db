//! "Did you mean": the path of a tree that is most like one that is not there.

use std::path::{Path, PathBuf};

use super::{Last, Tree, resolve};

/// Names beyond this many in one directory are not compared.
const NAMES: usize = 10_000;

/// Returns the most similar path that exists, differing in the first component that does not. Differences of
/// case come first, then at most a third of a name's letters.
pub fn nearest(tree: &dyn Tree, path: &Path) -> Option<PathBuf> {
    let mut parent = PathBuf::new();
    let mut parts = path.iter();
    for part in parts.by_ref() {
        let here = resolve(tree, &parent.join(part), Last::Follow).ok()?;
        if here.node.is_some() {
            parent.push(part);
            continue;
        }
        let directory = resolve(tree, &parent, Last::Follow).ok()?;
        let children = tree.children(&directory.path).ok()?;
        let names = children.iter().filter_map(|node| node.entry.path.file_name()?.to_str());
        let found = parent.join(similar(&part.to_string_lossy(), names)?);
        let whole: PathBuf = found.iter().chain(parts).collect();
        let exists = resolve(tree, &whole, Last::Follow).is_ok_and(|resolved| resolved.node.is_some());
        return Some(if exists { whole } else { found });
    }
    None
}

fn similar<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let folded = wanted.to_lowercase();
    let limit = (wanted.chars().count() / 3).clamp(1, 4);
    // A link that leads nowhere is there by name.
    let distances = names.take(NAMES).filter(|name| *name != wanted).filter_map(|name| {
        let other = name.to_lowercase();
        let distance = if other == folded { 0 } else { 1 + distance(&folded, &other, limit)? };
        Some((distance, name))
    });
    distances.min().map(|(_, name)| name)
}

/// Returns the number of edits between two names if it is at most `limit`.
fn distance(left: &str, right: &str, limit: usize) -> Option<usize> {
    let right: Vec<char> = right.chars().collect();
    if left.chars().count().abs_diff(right.len()) > limit {
        return None;
    }
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, one) in left.chars().enumerate() {
        let mut diagonal = above;
        row[0] = above + 1;
        for (at, other) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(one != *other);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().filter(|distance| *distance <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wanted: &str, names: &[&str], expected: Option<&str>) {
        assert_eq!(similar(wanted, names.iter().copied()), expected, "{wanted} among {names:?}");
    }

    #[test]
    fn case_comes_before_spelling() {
        check("makefile", &["makefiles", "Makefile"], Some("Makefile"));
        check("requirments.txt", &["readme.md", "requirements.txt"], Some("requirements.txt"));
        check("ab", &["ac", "zz"], Some("ac"));
        check("ab", &["yz"], None);
        check("x", &[], None);
    }
}
