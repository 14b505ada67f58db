//! The order of paths by components, without parsing them, and look-ups in lists that are in this order.

use std::cmp::Ordering;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use oci::layer::Entry;

/// Compares two cleaned relative paths part by part, as `Path`'s own order does, at the cost of one scan.
///
/// The separator sorts below every other byte: no name contains it or NUL.
pub fn compare(left: &Path, right: &Path) -> Ordering {
    let (left, right) = (left.as_os_str().as_bytes(), right.as_os_str().as_bytes());
    match left.iter().zip(right).position(|(one, other)| one != other) {
        Some(at) => weight(left[at]).cmp(&weight(right[at])),
        None => left.len().cmp(&right.len()),
    }
}

const fn weight(byte: u8) -> u8 {
    if byte == b'/' { 0 } else { byte }
}

/// Returns a path as bytes whose plain order is that of [`compare`]: separators become NUL.
pub fn key(path: &Path) -> Box<[u8]> {
    path.as_os_str().as_bytes().iter().map(|byte| weight(*byte)).collect()
}

/// Returns the entry at `path` of a list in path order.
pub fn find<'a>(entries: &'a [Entry], path: &Path) -> Option<&'a Entry> {
    let at = entries.binary_search_by(|entry| compare(&entry.path, path)).ok()?;
    Some(&entries[at])
}

/// Returns the entries directly inside `directory` of a list in path order.
pub fn children<'a>(entries: &'a [Entry], directory: &Path) -> Vec<&'a Entry> {
    let start = entries.partition_point(|entry| compare(&entry.path, directory).is_le());
    let mut rest = &entries[start..];
    let mut children = Vec::new();
    while let Some(first) = rest.first().filter(|first| is_below(&first.path, directory)) {
        if first.path.parent() == Some(directory) {
            children.push(first);
        }
        rest = &rest[1 + rest[1..].partition_point(|entry| is_below(&entry.path, &first.path))..];
    }
    children
}

/// Returns whether `path` is below `directory`, not the same.
pub fn is_below(path: &Path, directory: &Path) -> bool {
    let (path, directory) = (path.as_os_str().as_bytes(), directory.as_os_str().as_bytes());
    if directory.is_empty() {
        return !path.is_empty();
    }
    path.len() > directory.len() && path[directory.len()] == b'/' && path.starts_with(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn order_is_that_of_paths(left in "[ab./-]{0,6}", right in "[ab./-]{0,6}") {
            let clean = |text: &str| text.split('/').filter(|part| !part.trim_matches('.').is_empty())
                .collect::<Vec<_>>().join("/");
            let (left, right) = (clean(&left), clean(&right));
            let (left, right) = (Path::new(&left), Path::new(&right));
            prop_assert_eq!(compare(left, right), left.cmp(right));
            prop_assert_eq!(key(left).cmp(&key(right)), left.cmp(right));
            prop_assert_eq!(is_below(left, right), left != right && left.starts_with(right));
        }
    }

    #[test]
    fn lists_children_without_their_descendants() {
        let entries: Vec<Entry> =
            ["", "a", "a/b", "a/b/c", "a/d", "a-b", "b"].map(|path| Entry::directory(path, 0o755)).into();
        let names = |of: &str| -> Vec<_> {
            children(&entries, Path::new(of)).iter().map(|e| e.path.to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(""), ["a", "a-b", "b"]);
        assert_eq!(names("a"), ["a/b", "a/d"]);
        assert_eq!(names("b"), [""; 0]);
        assert_eq!(find(&entries, Path::new("a/d")).unwrap().path, Path::new("a/d"));
        assert!(find(&entries, Path::new("a/c")).is_none());
    }
}
