//! A tree in memory: heredocs, a downloaded file, and tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci::layer::{Entry, Kind, Mtime};

use super::order::key;
use super::{Content, Inode, Node, Tree, TreeError, order};

/// Entries in path order and the places of their bytes.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    entries: Vec<Entry>,
    contents: BTreeMap<PathBuf, Content>,
    linked: BTreeSet<PathBuf>,
}

impl Memory {
    /// Makes a tree of entries in any order, and of the bytes of its files. Of two entries with one path the
    /// later wins.
    pub fn new(entries: Vec<Entry>, contents: impl IntoIterator<Item = (PathBuf, Content)>) -> Self {
        let by_path: BTreeMap<_, _> = entries.into_iter().map(|entry| (key(&entry.path), entry)).collect();
        let entries: Vec<Entry> = by_path.into_values().collect();
        let linked = linked_names(&entries);
        Self { entries, contents: contents.into_iter().collect(), linked }
    }

    /// Makes a tree of one file, such as a downloaded one.
    pub fn file(name: &str, mode: u32, mtime: Mtime, size: u64, content: Content) -> Self {
        let mut entry = Entry::plain(name, Kind::File { size, content: None }, mode);
        entry.mtime = mtime;
        Self::new(vec![entry], [(PathBuf::from(name), content)])
    }

    /// Adds a file with its bytes.
    #[must_use]
    pub fn with_file(mut self, mut entry: Entry, bytes: &[u8]) -> Self {
        entry.kind = Kind::File {
            size: bytes.len() as u64,
            content: Some(oci::layer::ContentHash(*blake3::hash(bytes).as_bytes())),
        };
        self.contents.insert(entry.path.clone(), Content::Bytes(Arc::from(bytes)));
        self.with(entry)
    }

    /// Adds an entry, in the place of one with its path.
    #[must_use]
    pub fn with(mut self, entry: Entry) -> Self {
        match self.entries.binary_search_by(|other| order::compare(&other.path, &entry.path)) {
            Ok(at) => self.entries[at] = entry,
            Err(at) => self.entries.insert(at, entry),
        }
        self.linked = linked_names(&self.entries);
        self
    }
}

impl Memory {
    fn node(&self, entry: &Entry) -> Node {
        node(&self.entries, entry, 0, |name| self.linked.contains(name))
    }
}

impl Tree for Memory {
    fn lstat(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        let found = order::find(&self.entries, path).map(|entry| self.node(entry));
        Ok(found.or_else(|| super::implied_root(path)))
    }

    fn children(&self, directory: &Path) -> Result<Vec<Node>, TreeError> {
        let children = order::children(&self.entries, directory);
        Ok(children.into_iter().map(|entry| self.node(entry)).collect())
    }

    fn content(&self, path: &Path) -> Result<Content, TreeError> {
        let name = order::find(&self.entries, path).and_then(first_name);
        let content = name.and_then(|name| self.contents.get(name));
        content.cloned().ok_or_else(|| TreeError::NotRegular(path.to_owned()))
    }
}

/// Returns `entry` as a node, hard links resolved in the same list; `has_links` tells first names that have others.
pub(super) fn node(
    entries: &[Entry],
    entry: &Entry,
    layer: usize,
    has_links: impl Fn(&Path) -> bool,
) -> Node {
    let Some(name) = first_name(entry) else {
        return Node::new(entry.clone());
    };
    let inode = has_links(name).then(|| Inode { layer, name: name.to_owned() });
    let mut shown =
        if name == entry.path { entry } else { order::find(entries, name).unwrap_or(entry) }.clone();
    shown.path.clone_from(&entry.path);
    Node { entry: shown, inode }
}

/// Returns the first names of files of a list that have further names in it.
pub(super) fn linked_names(entries: &[Entry]) -> BTreeSet<PathBuf> {
    let targets = entries.iter().filter_map(|entry| match &entry.kind {
        Kind::HardLink { target } => Some(target.clone()),
        Kind::File { .. }
        | Kind::Directory { .. }
        | Kind::Symlink { .. }
        | Kind::CharDevice(_)
        | Kind::BlockDevice(_)
        | Kind::Fifo
        | Kind::Whiteout => None,
    });
    targets.collect()
}

/// Returns the name under which the bytes of a file are kept.
pub(super) fn first_name(entry: &Entry) -> Option<&Path> {
    match &entry.kind {
        Kind::File { .. } => Some(&entry.path),
        Kind::HardLink { target } => Some(target),
        Kind::Directory { .. }
        | Kind::Symlink { .. }
        | Kind::CharDevice(_)
        | Kind::BlockDevice(_)
        | Kind::Fifo
        | Kind::Whiteout => None,
    }
}
