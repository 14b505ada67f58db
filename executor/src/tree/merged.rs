//! A stack of layer indexes as one tree; bytes come from the layers' unpacked directories.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use oci::layer::LayerIndex;
use oci::layer::merged::{Found, MergedView};

use super::memory::{first_name, linked_names, node};
use super::{Content, Node, Tree, TreeError};

/// One layer of a stack.
#[derive(Debug, Clone)]
pub struct MergedLayer {
    /// What the layer holds.
    pub index: Arc<LayerIndex>,
    /// Its unpacked directory, needed for reading files only.
    pub directory: Option<Arc<OwnedFd>>,
}

/// Layers from the lowest to the topmost, as overlayfs shows them.
#[derive(Debug)]
pub struct Merged {
    layers: Vec<MergedLayer>,
    /// Per layer: names of files with several names, made when first needed.
    linked: Vec<OnceLock<BTreeSet<PathBuf>>>,
}

impl Merged {
    /// Stacks `layers`, lowest first.
    pub fn new(layers: Vec<MergedLayer>) -> Self {
        let linked = layers.iter().map(|_| OnceLock::new()).collect();
        Self { layers, linked }
    }

    /// Stacks layers of which only the indexes are known; no file can be read.
    pub fn of_indexes(indexes: impl IntoIterator<Item = Arc<LayerIndex>>) -> Self {
        Self::new(indexes.into_iter().map(|index| MergedLayer { index, directory: None }).collect())
    }

    fn view(&self) -> MergedView<'_> {
        MergedView::new(self.layers.iter().map(|layer| &*layer.index).collect())
    }

    fn node(&self, found: Found<'_>) -> Node {
        let entries = self.layers[found.layer].index.entries();
        let linked = || self.linked[found.layer].get_or_init(|| linked_names(entries));
        node(entries, found.entry, found.layer, |name| linked().contains(name))
    }
}

impl Tree for Merged {
    fn lstat(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        let found = self.view().lstat(path).map(|found| self.node(found));
        Ok(found.or_else(|| super::implied_root(path)))
    }

    fn children(&self, directory: &Path) -> Result<Vec<Node>, TreeError> {
        if !self.lstat(directory)?.is_some_and(|node| node.entry.is_directory()) {
            return Ok(Vec::new());
        }
        Ok(self.view().children(directory).into_iter().map(|found| self.node(found)).collect())
    }

    fn content(&self, path: &Path) -> Result<Content, TreeError> {
        let not_regular = || TreeError::NotRegular(path.to_owned());
        let found = self.view().lstat(path).ok_or_else(not_regular)?;
        let name = first_name(found.entry).ok_or_else(not_regular)?;
        let Some(root) = &self.layers[found.layer].directory else {
            return Err(TreeError::NotUnpacked { path: path.to_owned(), layer: found.layer });
        };
        Ok(Content::Beneath { root: Arc::clone(root), path: name.to_owned() })
    }

    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, TreeError> {
        // The account files stand in the index, so that names resolve without unpacking.
        if let Some(bytes) = self.view().inline(path).filter(|bytes| bytes.len() as u64 <= limit) {
            return Ok(bytes.to_vec());
        }
        super::read_content(self, path, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::layer::{Entry, Kind, Mtime};
    use std::collections::BTreeMap;

    fn layer(entries: Vec<Entry>) -> Arc<LayerIndex> {
        Arc::new(LayerIndex::new(entries, BTreeMap::new()).unwrap())
    }

    fn file(path: &str, size: u64) -> Entry {
        Entry::plain(path, Kind::File { size, content: None }, 0o644)
    }

    #[test]
    fn upper_layers_hide_lower_ones() {
        let lower = layer(vec![Entry::directory("d", 0o700), file("d/a", 1), file("d/b", 1)]);
        let upper = layer(vec![Entry::directory("d", 0o755), Entry::whiteout("d/a"), file("d/c", 2)]);
        let tree = Merged::of_indexes([lower, upper]);
        let names: Vec<_> =
            tree.children(Path::new("d")).unwrap().into_iter().map(|n| n.entry.path).collect();
        assert_eq!(names, [Path::new("d/b"), Path::new("d/c")]);
        assert_eq!(tree.lstat(Path::new("d")).unwrap().unwrap().entry.mode, 0o755);
        assert!(tree.lstat(Path::new("d/a")).unwrap().is_none());
        assert!(tree.children(Path::new("d/b")).unwrap().is_empty());
        assert!(tree.lstat(Path::new("")).unwrap().unwrap().entry.is_directory());
    }

    #[test]
    fn hard_links_show_their_file_and_share_an_inode() {
        let mut first = file("a", 7);
        first.mtime = Mtime { seconds: 5, nanoseconds: 0 };
        let second = Entry::plain("z", Kind::HardLink { target: "a".into() }, 0);
        let tree = Merged::of_indexes([layer(vec![first, second, file("single", 1)])]);
        let (a, z) =
            (tree.lstat(Path::new("a")).unwrap().unwrap(), tree.lstat(Path::new("z")).unwrap().unwrap());
        assert_eq!((z.entry.size(), z.entry.mtime.seconds), (7, 5));
        assert_eq!(a.inode, z.inode);
        assert!(a.inode.is_some());
        assert!(tree.lstat(Path::new("single")).unwrap().unwrap().inode.is_none());
        assert!(matches!(tree.content(Path::new("z")), Err(TreeError::NotUnpacked { layer: 0, .. })));
    }
}
