//! What to say about a source that is not there: the nearest name, and the ignore rule that hides it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Context, IgnoredBy, ScanError};
use crate::tree::{Directory, Last, list, open_directory_beneath, resolve};

/// Names beyond this many in one directory are not compared.
const NAMES: usize = 10_000;

/// Makes the error for `path`, whose links end in `real` as far as they lead.
pub fn not_found(context: &Context<'_>, path: &Path, real: &Path) -> ScanError {
    let tree = Directory::new(Arc::clone(context.root));
    let ignored_by = ignored_by(context, &tree, path).or_else(|| ignored_by_path(context, real));
    let nearest = if ignored_by.is_some() { None } else { nearest(&tree, path) };
    ScanError::NotFound { path: path.to_owned(), nearest, ignored_by }
}

/// Returns the rule that hides a path which exists.
fn ignored_by(context: &Context<'_>, tree: &Directory, path: &Path) -> Option<IgnoredBy> {
    let resolved = resolve(tree, path, Last::Keep).ok()?;
    resolved.node?;
    let all = resolved.links.iter().map(PathBuf::as_path).chain([resolved.path.as_path()]);
    all.filter_map(|path| rule(context, path)).next()
}

fn ignored_by_path(context: &Context<'_>, path: &Path) -> Option<IgnoredBy> {
    let directory = open_directory_beneath(context.root, path.parent()?).ok()?;
    crate::tree::stat_at(directory, path.file_name()?).ok()?;
    rule(context, path)
}

fn rule(context: &Context<'_>, path: &Path) -> Option<IgnoredBy> {
    let rule = context.ignore.hiding_rule(&path.to_string_lossy())?;
    Some(IgnoredBy { line: rule.line, pattern: rule.pattern.clone() })
}

/// Returns the most similar path that exists, differing in the first component that does not.
fn nearest(tree: &Directory, path: &Path) -> Option<PathBuf> {
    let mut parent = PathBuf::new();
    let mut parts = path.iter();
    for part in parts.by_ref() {
        let here = resolve(tree, &parent.join(part), Last::Follow).ok()?;
        if here.node.is_some() {
            parent.push(part);
            continue;
        }
        let directory = resolve(tree, &parent, Last::Follow).ok()?;
        let open = open_directory_beneath(tree.root(), &directory.path).ok()?;
        let names = list(open).ok()?;
        let name = similar(&part.to_string_lossy(), names.iter().map(|(name, _)| name.as_slice()))?;
        let found = parent.join(name);
        let whole: PathBuf = found.iter().chain(parts).collect();
        let exists = resolve(tree, &whole, Last::Follow).is_ok_and(|resolved| resolved.node.is_some());
        return Some(if exists { whole } else { found });
    }
    None
}

/// Returns the name that is most like `wanted`: differences of case first, then at most a third of its letters.
fn similar<'a>(wanted: &str, names: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    let folded = wanted.to_lowercase();
    let limit = (wanted.chars().count() / 3).clamp(1, 4);
    names
        .take(NAMES)
        .filter_map(|name| std::str::from_utf8(name).ok())
        .filter_map(|name| {
            let other = name.to_lowercase();
            let distance = if other == folded { 0 } else { distance(&folded, &other, limit)? };
            Some((distance, name))
        })
        .min()
        .map(|(_, name)| name.to_owned())
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

/// Returns the end of the message of [`ScanError::NotFound`].
pub fn hint(nearest: Option<&Path>, ignored_by: Option<&IgnoredBy>) -> String {
    match (ignored_by, nearest) {
        (Some(rule), _) => {
            format!(": line {} of the ignore file hides it ({:?})", rule.line, rule.pattern)
        }
        (None, Some(nearest)) => format!("; did you mean {:?}?", nearest.display().to_string()),
        (None, None) => String::new(),
    }
}
