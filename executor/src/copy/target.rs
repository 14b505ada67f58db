//! The destination while it is planned: what the parent has, and over it what the step puts there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci::layer::{Entry, Kind};

use super::{CopyError, Planned};
use crate::tree::{Content, Inode, Last, Node, Tree, TreeError, key, resolve};

/// A parent tree and planned entries.
pub struct Target<'a> {
    parent: &'a dyn Tree,
    planned: BTreeMap<Box<[u8]>, Slot>,
    groups: usize,
}

/// A planned entry.
struct Slot {
    entry: Entry,
    content: Option<Content>,
    /// Names with one number are one file.
    group: Option<usize>,
}

impl<'a> Target<'a> {
    /// Starts with nothing planned.
    pub const fn new(parent: &'a dyn Tree) -> Self {
        Self { parent, planned: BTreeMap::new(), groups: 0 }
    }

    /// Returns the path that `path` leads to, links in the parent and planned ones followed.
    pub fn resolve(&self, path: &Path, last: Last) -> Result<PathBuf, CopyError> {
        match resolve(self, path, last) {
            Ok(resolved) => Ok(resolved.path),
            Err(TreeError::NotDirectory(path)) => Err(CopyError::NotDirectory(path)),
            Err(source) => Err(CopyError::Tree { path: path.to_owned(), source }),
        }
    }

    /// Returns what will be at a path without links.
    pub fn get(&self, path: &Path) -> Result<Option<Entry>, CopyError> {
        let failed = |source| CopyError::Tree { path: path.to_owned(), source };
        Ok(self.lstat(path).map_err(failed)?.map(|node| node.entry))
    }

    /// Returns what is planned at a path.
    pub fn planned(&self, path: &Path) -> Option<&Entry> {
        self.planned.get(&key(path)).map(|slot| &slot.entry)
    }

    /// Returns what the parent has in a directory, in name order; nothing where the step hides it.
    pub fn parents_children(&self, directory: &Path) -> Result<Vec<Node>, CopyError> {
        if self.hides_parent(directory) {
            return Ok(Vec::new());
        }
        let failed = |source| CopyError::Tree { path: directory.to_owned(), source };
        self.parent.children(directory).map_err(failed)
    }

    /// Plans an entry at its path, in the place of what was planned there. Its directory exists.
    pub fn put(&mut self, entry: Entry, content: Option<Content>) -> Result<(), CopyError> {
        self.put_slot(Slot { entry, content, group: None })
    }

    /// Plans one more name of the file planned at `first`. A file of the parent is planned for it: the layer
    /// must hold all names of a file.
    pub fn link(&mut self, first: &Path, path: &Path) -> Result<(), CopyError> {
        if !self.planned.contains_key(&key(first)) {
            let entry = self
                .get(first)?
                .ok_or_else(|| CopyError::NotFound { path: first.to_owned(), nearest: None })?;
            let content = content(self.parent, &entry, first).map_err(|error| match error {
                CopyError::Tree { path, source } => CopyError::Parent { path, source },
                other => other,
            })?;
            self.put(entry, content)?;
        }
        let groups = self.groups;
        let slot = self.planned.get_mut(&key(first)).expect("it was planned above");
        let group = *slot.group.get_or_insert(groups);
        let mut entry = slot.entry.clone();
        let content = slot.content.clone();
        self.groups += 1;
        path.clone_into(&mut entry.path);
        self.put_slot(Slot { entry, content, group: Some(group) })
    }

    fn put_slot(&mut self, slot: Slot) -> Result<(), CopyError> {
        self.keep_ancestors(&slot.entry.path)?;
        if !slot.entry.path.as_os_str().is_empty() {
            self.planned.insert(key(&slot.entry.path), slot);
        }
        Ok(())
    }

    /// Plans the ancestors of `path` as the parent has them.
    fn keep_ancestors(&mut self, path: &Path) -> Result<(), CopyError> {
        let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) else {
            return Ok(());
        };
        if self.planned.contains_key(&key(above)) {
            return Ok(());
        }
        self.keep_ancestors(above)?;
        let entry = self.get(above)?.unwrap_or_else(|| Entry::directory(above, 0o755));
        self.planned.insert(key(above), Slot { entry, content: None, group: None });
        Ok(())
    }

    /// Forgets what is planned at `path` and below, and hides what the parent has there: what is planned at
    /// the path next replaces it. Returns whether the parent has a directory there.
    pub fn remove(&mut self, path: &Path) -> Result<bool, CopyError> {
        let first = key(path);
        let mut end = first.to_vec();
        end.push(1); // above the separator, which is 0, and below every name
        let range = self.planned.range(first..end.into_boxed_slice());
        let below: Vec<_> = range.map(|(key, _)| key.clone()).collect();
        below.iter().for_each(|key| {
            self.planned.remove(key);
        });
        let failed = |source| CopyError::Tree { path: path.to_owned(), source };
        let at_parent =
            if self.hides_parent(path) { None } else { self.parent.lstat(path).map_err(failed)? };
        Ok(at_parent.is_some_and(|node| node.entry.is_directory()))
    }

    /// Whether the plan replaces an ancestor of `path`, or `path`, by something that is not merged with it.
    fn hides_parent(&self, path: &Path) -> bool {
        path.ancestors().any(|above| {
            self.planned(above).is_some_and(|entry| match entry.kind {
                Kind::Directory { opaque } => opaque,
                Kind::File { .. }
                | Kind::Symlink { .. }
                | Kind::HardLink { .. }
                | Kind::CharDevice(_)
                | Kind::BlockDevice(_)
                | Kind::Fifo
                | Kind::Whiteout => true,
            })
        })
    }

    /// Returns the entries in path order. Of several names of a file, the first has the bytes.
    pub fn finish(self) -> Vec<Planned> {
        let mut first_names: BTreeMap<usize, PathBuf> = BTreeMap::new();
        let planned = self.planned.into_values().map(|Slot { mut entry, mut content, group }| {
            match group.and_then(|group| first_names.get(&group)) {
                Some(first) => {
                    entry.kind = Kind::HardLink { target: first.clone() };
                    content = None;
                }
                None => {
                    group.map(|group| first_names.insert(group, entry.path.clone()));
                }
            }
            Planned { entry, content }
        });
        planned.collect()
    }
}

/// Returns where the bytes of a file of `tree` are; `None` for anything else and for empty files.
pub fn content(tree: &dyn Tree, entry: &Entry, path: &Path) -> Result<Option<Content>, CopyError> {
    if entry.size() == 0 {
        return Ok(None);
    }
    let failed = |source| CopyError::Tree { path: path.to_owned(), source };
    tree.content(path).map(Some).map_err(failed)
}

impl Tree for Target<'_> {
    fn lstat(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        if let Some(slot) = self.planned.get(&key(path)) {
            let inode = slot.group.map(|group| Inode { layer: group, name: PathBuf::new() });
            return Ok(Some(Node { entry: slot.entry.clone(), inode }));
        }
        if self.hides_parent(path) { Ok(None) } else { self.parent.lstat(path) }
    }

    fn children(&self, directory: &Path) -> Result<Vec<Node>, TreeError> {
        let mut names: BTreeMap<PathBuf, Node> = BTreeMap::new();
        if !self.hides_parent(directory) {
            let children = self.parent.children(directory)?;
            names.extend(children.into_iter().map(|node| (node.entry.path.clone(), node)));
        }
        for slot in self.planned.values().filter(|slot| slot.entry.path.parent() == Some(directory)) {
            names.insert(slot.entry.path.clone(), Node::new(slot.entry.clone()));
        }
        Ok(names.into_values().collect())
    }

    fn content(&self, path: &Path) -> Result<Content, TreeError> {
        match self.planned.get(&key(path)) {
            Some(slot) => slot.content.clone().ok_or_else(|| TreeError::NotRegular(path.to_owned())),
            None => self.parent.content(path),
        }
    }
}
