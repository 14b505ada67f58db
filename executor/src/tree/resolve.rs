//! Following symbolic links inside a root, by look-ups only: no system call ever sees an unresolved path.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use oci::layer::Kind;

use super::{Node, Tree, TreeError};

/// How many links one resolution follows: as many as BuildKit's `fs.RootPath`, more than the kernel's 40.
pub const MAX_LINKS: usize = 255;

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The path without symbolic links, apart from a last one that was not to be followed.
    pub path: PathBuf,
    /// What is there; `None` where it or a parent does not exist.
    pub node: Option<Node>,
    /// The links that were followed, in order.
    pub links: Vec<PathBuf>,
}

/// What happens to a symbolic link at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// It is followed.
    Follow,
    /// It is what was meant.
    Keep,
}

/// Resolves `path` in `tree` as a process whose root directory is the tree's would: absolute targets restart
/// at the root and `..` stops there. What does not exist is kept as it is written.
///
/// # Errors
/// [`TreeError::Loop`], [`TreeError::NotDirectory`] where a component in the middle is a file, and those of
/// the tree.
pub fn resolve(tree: &dyn Tree, path: &Path, last: Last) -> Result<Resolved, TreeError> {
    let mut rest: VecDeque<OsString> = VecDeque::new();
    push_front(&mut rest, path);
    let mut at = Resolved { path: PathBuf::new(), node: tree.lstat(Path::new(""))?, links: Vec::new() };
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            at.path.pop();
            at.node = tree.lstat(&at.path)?;
            continue;
        }
        let next = at.path.join(&name);
        let node = tree.lstat(&next)?;
        match node.as_ref().map(|node| &node.entry.kind) {
            Some(Kind::Symlink { target }) if !rest.is_empty() || last == Last::Follow => {
                if at.links.len() >= MAX_LINKS {
                    return Err(TreeError::Loop(path.to_owned()));
                }
                at.links.push(next);
                if target.has_root() {
                    at.path = PathBuf::new();
                    at.node = tree.lstat(Path::new(""))?;
                }
                push_front(&mut rest, target);
            }
            Some(Kind::Directory { .. }) | None => (at.path, at.node) = (next, node),
            Some(
                Kind::File { .. }
                | Kind::HardLink { .. }
                | Kind::Symlink { .. }
                | Kind::CharDevice(_)
                | Kind::BlockDevice(_)
                | Kind::Fifo
                | Kind::Whiteout,
            ) => {
                if !rest.is_empty() {
                    return Err(TreeError::NotDirectory(next));
                }
                (at.path, at.node) = (next, node);
            }
        }
    }
    Ok(at)
}

/// Puts the components of `path` before `rest`; `.` and separators say nothing.
fn push_front(rest: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => rest.push_front(name.to_owned()),
            Component::ParentDir => rest.push_front(OsStr::new("..").to_owned()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Memory;
    use super::*;
    use oci::layer::Entry;

    fn tree(links: &[(&str, &str)], directories: &[&str], files: &[&str]) -> Memory {
        let mut tree = Memory::default();
        for path in directories {
            tree = tree.with(Entry::directory(*path, 0o755));
        }
        for path in files {
            tree = tree.with_file(Entry::plain(*path, Kind::Fifo, 0o644), b"x");
        }
        for (path, target) in links {
            tree = tree.with(Entry::plain(*path, Kind::Symlink { target: target.into() }, 0o777));
        }
        tree
    }

    fn check(links: &[(&str, &str)], path: &str, expected: &str) {
        let tree = tree(links, &["run", "var", "a", "a/b"], &["a/b/f", "x"]);
        let resolved = resolve(&tree, Path::new(path), Last::Follow);
        let text = match &resolved {
            Ok(resolved) if resolved.node.is_some() => resolved.path.display().to_string(),
            Ok(resolved) => format!("{} (new)", resolved.path.display()),
            Err(TreeError::Loop(_)) => "loop".to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(text, expected, "{path} with {links:?}");
    }

    #[test]
    fn ctx_13_links_lead_to_places_in_the_root() {
        check(&[("var/run", "/run")], "/var/run/act", "run/act (new)");
        check(&[("var/run", "../run")], "var/run", "run");
        check(&[("l", "a")], "l/b/f", "a/b/f");
        check(&[("l", "m"), ("m", "/a/b")], "l/f", "a/b/f");
        check(&[("l", "nothing/here")], "l/x", "nothing/here/x (new)");
        check(&[], "new/../x", "x");
    }

    #[test]
    fn ctx_01_links_out_of_the_root_are_clamped() {
        check(&[("l", "../../../../x")], "l", "x");
        check(&[("a/l", "/../../run")], "a/l", "run");
        check(&[("a/b/l", "../../..")], "a/b/l/x", "x");
        check(&[], "../../../x", "x");
    }

    #[test]
    fn ctx_09_loops_end() {
        check(&[("l", "l")], "l", "loop");
        check(&[("l", "m"), ("m", "l")], "l/x", "loop");
        check(&[("l", "l/l")], "l", "loop");
    }

    #[test]
    fn files_in_the_middle_are_errors() {
        check(&[], "x/y", "\"x\" is not a directory");
        check(&[("l", "x")], "l/y", "\"x\" is not a directory");
    }

    #[test]
    fn a_last_link_can_be_kept() {
        let tree = tree(&[("l", "a"), ("a/k", "b")], &["a", "a/b"], &[]);
        let resolved = resolve(&tree, Path::new("l/k"), Last::Keep).unwrap();
        assert_eq!(resolved.path, Path::new("a/k"));
        assert_eq!(resolved.links, [Path::new("l")]);
    }
}
