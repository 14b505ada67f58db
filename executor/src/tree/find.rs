//! Paths that a COPY or ADD source with wildcards names: Go's `filepath.Match` over a walk, as BuildKit does it.

use std::path::{Path, PathBuf};

use frontend::graph::pattern::wildcard::{Part, Wildcard};

use super::{Last, Node, Tree, TreeError, resolve};

/// What a pattern names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// What matches, in path order.
    pub nodes: Vec<Node>,
    /// The links before the first wildcard that were followed.
    pub links: Vec<PathBuf>,
}

/// Returns what matches, with links before the first wildcard resolved. A link that
/// matches is named itself; links below the first wildcard are not entered.
///
/// # Errors
/// Those of the tree. A leading directory that does not exist matches nothing.
pub fn find(tree: &dyn Tree, pattern: &Wildcard) -> Result<Found, TreeError> {
    let parts = pattern.parts();
    let literal = parts.iter().take_while(|part| matches!(part, Part::Literal(_))).count();
    let (head, tail) = parts.split_at(literal);
    let head: PathBuf = head.iter().filter_map(literal_text).collect();
    let start = match resolve(tree, &head, Last::Follow) {
        Ok(resolved) => resolved,
        Err(TreeError::NotDirectory(_)) => return Ok(Found::default()),
        Err(error) => return Err(error),
    };
    let links = start.links;
    let mut found: Vec<Node> = start.node.into_iter().collect();
    for part in tail {
        let mut next = Vec::new();
        for directory in found {
            next.extend(step(tree, &directory.entry.path, part)?);
        }
        found = next;
    }
    Ok(Found { nodes: found, links })
}

fn step(tree: &dyn Tree, directory: &Path, part: &Part) -> Result<Vec<Node>, TreeError> {
    if let Part::Literal(name) = part {
        return Ok(tree.lstat(&directory.join(name))?.into_iter().collect());
    }
    let mut children = tree.children(directory)?;
    children.retain(|node| part.matches(&name_of(&node.entry.path)));
    Ok(children)
}

fn name_of(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

fn literal_text(part: &Part) -> Option<&str> {
    match part {
        Part::Literal(text) => Some(text),
        Part::Pattern(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Memory;
    use super::*;
    use oci::layer::{Entry, Kind};

    fn check(pattern: &str, expected: &[&str]) {
        let link =
            |path: &str, target: &str| Entry::plain(path, Kind::Symlink { target: target.into() }, 0o777);
        let mut tree = Memory::default().with(link("l", "d1")).with(link("d1/k", "/d2"));
        for path in ["", "d1", "d1/sub", "d2", "d2/sub"] {
            tree = tree.with(Entry::directory(path, 0o755));
        }
        for path in ["a.go", "b.go", "d1/a.go", "d1/sub/a.go", "d2/sub/b.go", "[x].go"] {
            tree = tree.with_file(Entry::plain(path, Kind::Fifo, 0o644), b"");
        }
        let found = find(&tree, &Wildcard::compile(pattern).unwrap()).unwrap().nodes;
        let found: Vec<_> = found.iter().map(|node| node.entry.path.to_str().unwrap()).collect();
        assert_eq!(found, expected, "{pattern}");
    }

    #[test]
    fn wildcards_stay_in_one_directory() {
        check("*.go", &["[x].go", "a.go", "b.go"]);
        check("d*", &["d1", "d2"]);
        check("d*/sub/*.go", &["d1/sub/a.go", "d2/sub/b.go"]);
        check("*/*.go", &["d1/a.go"]);
        check("nothing*", &[]);
        check("a.go/*", &[]);
        check("missing/*", &[]);
        check("\\[x\\]*", &["[x].go"]);
    }

    #[test]
    fn links_are_entered_before_the_first_wildcard_only() {
        check("l/*.go", &["d1/a.go"]);
        check("d1/k/s*", &["d2/sub"]);
        check("d1/*/sub", &[]);
        check("l*", &["l"]);
    }
}
