//! Which paths of a source tree one COPY source names.

use std::path::{Path, PathBuf};

use frontend::graph::pattern::clean_below_root;
use frontend::graph::pattern::ignore::Rules;
use frontend::graph::pattern::wildcard::{ParentsPattern, Wildcard, is_pattern, literal};

use super::CopyError;
use crate::tree::{Last, Node, Tree, TreeError, find, resolve};

/// How a source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matching {
    /// `*`, `?`, `[` are special.
    Wildcards,
    /// Every character stands for itself.
    Literal,
}

/// A path that a source names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// As matched: its last part is the name that lands.
    pub path: PathBuf,
    /// Where it leads.
    pub real: PathBuf,
    /// What is there.
    pub node: Node,
}

/// What a source names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matches {
    /// The paths, in order.
    pub paths: Vec<Match>,
    /// `--parents`: what is wanted below them.
    pub wanted: Option<ParentsPattern>,
    /// Whether a wildcard found them.
    pub by_wildcard: bool,
    /// Whether anything was found, even if all of it is excluded.
    pub matched: bool,
}

impl Matching {
    fn is_pattern(self, text: &str) -> bool {
        self == Self::Wildcards && is_pattern(text)
    }
}

/// Returns the paths that a source without `--parents` names; none where a wildcard matches nothing.
///
/// What a wildcard matches and is no directory can be excluded by its name, as in the example of the Dockerfile
/// reference (`--exclude=*.txt hom*`).
pub fn matches(
    tree: &dyn Tree,
    pattern: &str,
    matching: Matching,
    excludes: &Rules,
) -> Result<Matches, CopyError> {
    let by_wildcard = matching.is_pattern(pattern);
    let mut matched = true;
    let paths: Vec<PathBuf> = if by_wildcard {
        let wildcard = Wildcard::compile(pattern)
            .map_err(|source| CopyError::Pattern { pattern: pattern.to_owned(), source })?;
        let failed = |source| CopyError::Tree { path: pattern.into(), source };
        let mut found = find(tree, &wildcard).map_err(failed)?.nodes;
        matched = !found.is_empty();
        found.retain(|node| node.entry.is_directory() || !excludes.ignores(&name_of(&node.entry.path)));
        found.into_iter().map(|node| node.entry.path).collect()
    } else {
        let path = if matching == Matching::Wildcards { literal(pattern) } else { pattern.to_owned() };
        vec![PathBuf::from(clean_below_root(&path))]
    };
    let paths = paths.into_iter().map(|path| follow(tree, path)).collect::<Result<_, _>>()?;
    Ok(Matches { paths, wanted: None, by_wildcard, matched })
}

/// Returns the directories below which a source with `--parents` is looked for, and what is wanted there. The
/// part before `/./` is left out of the paths that land.
///
/// A path without wildcards must exist, unless `excludes` leaves it out: a selection does not hold it then.
pub fn parents(
    tree: &dyn Tree,
    pattern: &str,
    matching: Matching,
    excludes: &Rules,
) -> Result<Matches, CopyError> {
    let (base, wanted) = pattern.split_once("/./").unwrap_or(("", pattern));
    let mut matches = matches(tree, base, matching, &Rules::default())?;
    let wanted = clean_below_root(wanted);
    if !matches.by_wildcard && !matching.is_pattern(&wanted) && !excludes.ignores(&wanted) {
        for base in &matches.paths {
            let path: PathBuf = base.real.iter().chain(Path::new(&wanted)).collect();
            let node = tree.lstat(&path).map_err(|source| CopyError::Tree { path: path.clone(), source })?;
            node.ok_or_else(|| CopyError::not_found(tree, path))?;
        }
    }
    matches.wanted = (!wanted.is_empty()).then(|| ParentsPattern::compile(&wanted)).transpose()?;
    matches.paths.retain(|base| base.node.entry.is_directory());
    Ok(matches)
}

fn name_of(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

fn follow(tree: &dyn Tree, path: PathBuf) -> Result<Match, CopyError> {
    let resolved = match resolve(tree, Path::new(&path), Last::Follow) {
        Ok(resolved) => resolved,
        Err(TreeError::NotDirectory(_)) => return Err(CopyError::not_found(tree, path)),
        Err(source) => return Err(CopyError::Tree { path, source }),
    };
    match resolved.node {
        Some(node) => Ok(Match { path, real: resolved.path, node }),
        None => Err(CopyError::not_found(tree, path)),
    }
}
