//! What to say about a source that is not there: the ignore rule that hides it, or the nearest name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Context, IgnoredBy, ScanError};
use crate::tree::{Directory, Last, nearest, open_directory_beneath, resolve};

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
