//! The files of a context that one instruction selected, as a tree over the context's directory.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use frontend::graph::Selection;

use super::memory::{first_name, linked_names, node};
use super::{Content, Node, Tree, TreeError, order};

/// A selection and the directory in which its bytes are.
#[derive(Debug, Clone)]
pub struct Selected {
    selection: Arc<Selection>,
    root: Arc<OwnedFd>,
    linked: BTreeSet<PathBuf>,
}

impl Selected {
    /// Makes a tree of `selection`, whose files are read beneath `root`. Whoever reads them compares the
    /// bytes with the selection's hashes: they may have changed in between.
    pub fn new(selection: Arc<Selection>, root: Arc<OwnedFd>) -> Self {
        let linked = linked_names(&selection.entries);
        Self { selection, root, linked }
    }

    fn node(&self, entry: &oci::layer::Entry) -> Node {
        node(&self.selection.entries, entry, 0, |name| self.linked.contains(name))
    }
}

impl Tree for Selected {
    fn lstat(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        let found = order::find(&self.selection.entries, path).map(|entry| self.node(entry));
        Ok(found.or_else(|| super::implied_root(path)))
    }

    fn children(&self, directory: &Path) -> Result<Vec<Node>, TreeError> {
        let children = order::children(&self.selection.entries, directory);
        Ok(children.into_iter().map(|entry| self.node(entry)).collect())
    }

    fn content(&self, path: &Path) -> Result<Content, TreeError> {
        let name = order::find(&self.selection.entries, path).and_then(first_name);
        let name = name.ok_or_else(|| TreeError::NotRegular(path.to_owned()))?;
        Ok(Content::Beneath { root: Arc::clone(&self.root), path: name.to_owned() })
    }
}
