//! The index of one layer: every entry in path order, with content hashes, and the account files inline.
//!
//! It answers what a step needs to know about a layer without the layer's bytes. It is keyed by diff id, so it
//! holds nothing that depends on how a blob is compressed, nothing of a flavour, and it never looks at what
//! lies below the layer ([`super::merged`] does).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::{ContentHash, Entry, Kind, Xattrs};

/// Files whose bytes are kept in the index, because names of users are resolved through them.
pub const INLINE_PATHS: [&str; 2] = ["etc/passwd", "etc/group"];

/// Larger account files are not kept inline; resolving a name through them is an error then.
pub const INLINE_LIMIT: u64 = 10 << 20;

/// Every entry of a layer, sorted by path components, each path once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerIndex {
    entries: Vec<Entry>,
    inline: BTreeMap<PathBuf, Vec<u8>>,
}

/// Why there is no index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Two entries have one path.
    #[error("layer has two entries for {}", .0.display())]
    Duplicate(PathBuf),
    /// The file could not be read or written.
    #[error("{action} layer index {}", .path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The bytes are no index of this version, or damaged. Callers treat this as a missing index.
    #[error("layer index {} is damaged or of another version: {what}", .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
}

impl LayerIndex {
    /// Sorts `entries` and keeps `inline` contents of [`INLINE_PATHS`].
    ///
    /// # Errors
    /// [`IndexError::Duplicate`] for a path that occurs twice.
    pub fn new(mut entries: Vec<Entry>, inline: BTreeMap<PathBuf, Vec<u8>>) -> Result<Self, IndexError> {
        if !entries.is_sorted_by(|left, right| left.path < right.path) {
            entries.sort_by(|left, right| left.path.cmp(&right.path));
        }
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].path == pair[1].path) {
            return Err(IndexError::Duplicate(pair[0].path.clone()));
        }
        Ok(Self { entries, inline })
    }

    /// Returns all entries in path order; a directory stands before what it contains.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the entry at `path`, whiteouts included. The root is the empty path.
    pub fn get(&self, path: &Path) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|entry| entry.path.as_path().cmp(path)).ok()?;
        Some(&self.entries[at])
    }

    /// Returns the entry at `path` followed by everything below it.
    pub fn subtree(&self, path: &Path) -> &[Entry] {
        let start = self.entries.partition_point(|entry| entry.path.as_path() < path);
        let rest = &self.entries[start..];
        &rest[..rest.partition_point(|entry| entry.path.starts_with(path))]
    }

    /// Returns the entries directly inside `path` in name order, whiteouts included.
    pub fn children<'a, 'p>(&'a self, path: &'p Path) -> impl Iterator<Item = &'a Entry> + use<'a, 'p> {
        let mut rest = self.subtree(path);
        if rest.first().is_some_and(|entry| entry.path == path) {
            rest = &rest[1..];
        }
        std::iter::from_fn(move || {
            loop {
                let (first, _) = rest.split_first()?;
                rest = &rest[gallop(rest, &first.path)..];
                if first.path.parent() == Some(path) {
                    return Some(first);
                }
            }
        })
    }

    /// Returns whether this layer hides everything that lower layers have in the directory `path`.
    pub fn is_opaque(&self, path: &Path) -> bool {
        self.get(path).is_some_and(|entry| matches!(entry.kind, Kind::Directory { opaque: true }))
    }

    /// Returns whether this layer removes what lower layers have at exactly `path`.
    pub fn is_whiteout(&self, path: &Path) -> bool {
        self.get(path).is_some_and(|entry| matches!(entry.kind, Kind::Whiteout))
    }

    /// Returns the paths that this layer removes.
    pub fn whiteouts(&self) -> impl Iterator<Item = &Path> {
        let removed = self.entries.iter().filter(|entry| matches!(entry.kind, Kind::Whiteout));
        removed.map(|entry| entry.path.as_path())
    }

    /// Returns the entry that owns the inode of `entry`: itself, or the first name of a hard link.
    pub fn inode_of<'a>(&'a self, entry: &'a Entry) -> Option<&'a Entry> {
        match &entry.kind {
            Kind::HardLink { target } => self.get(target),
            Kind::File { .. }
            | Kind::Directory { .. }
            | Kind::Symlink { .. }
            | Kind::CharDevice(_)
            | Kind::BlockDevice(_)
            | Kind::Fifo
            | Kind::Whiteout => Some(entry),
        }
    }

    /// Returns the bytes of an account file that this layer holds as a regular file of at most
    /// [`INLINE_LIMIT`] bytes.
    pub fn inline(&self, path: &Path) -> Option<&[u8]> {
        self.inline.get(path).map(Vec::as_slice)
    }

    /// Returns all inline contents.
    pub fn inlined(&self) -> &BTreeMap<PathBuf, Vec<u8>> {
        &self.inline
    }

    /// Returns the identity of the layer's content: blake3 of its entries without modification times, `None`
    /// where a file's bytes have not been hashed.
    ///
    /// Encoding: `xbuild-content-1\0`, then each entry as in the index file with mtime 0 (see
    /// [`super::index_file`]). Two runs of one command that differ in times only have the same content id.
    pub fn content_id(&self) -> Option<ContentHash> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"xbuild-content-1\0");
        let mut buffer = Vec::with_capacity(256);
        for entry in &self.entries {
            if matches!(entry.kind, Kind::File { content: None, .. }) {
                return None;
            }
            buffer.clear();
            super::index_file::put_entry(&mut buffer, entry, super::Mtime::default());
            hasher.update(&buffer);
        }
        Some(ContentHash(hasher.finalize().into()))
    }

    /// Returns the byte form of the index (see `index_file.rs`), for whoever replaces a file atomically.
    pub fn to_bytes(&self) -> Vec<u8> {
        super::index_file::encode(self)
    }

    /// Writes the index to a new or truncated file at `path`. Durability and renaming are the store's.
    ///
    /// # Errors
    /// [`IndexError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), IndexError> {
        std::fs::write(path, super::index_file::encode(self)).map_err(|source| IndexError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        })
    }

    /// Reads an index file and verifies its checksum.
    ///
    /// # Errors
    /// [`IndexError::Io`], and [`IndexError::Damaged`] for a file of another version or with wrong bytes.
    pub fn read(path: &Path) -> Result<Self, IndexError> {
        let bytes = std::fs::read(path).map_err(|source| IndexError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        super::index_file::decode(&bytes).map_err(|what| IndexError::Damaged { path: path.to_owned(), what })
    }

    /// Wraps entries that are known to be sorted and unique.
    pub(crate) fn from_sorted(entries: Vec<Entry>, inline: BTreeMap<PathBuf, Vec<u8>>) -> Self {
        debug_assert!(entries.is_sorted_by(|left, right| left.path < right.path));
        Self { entries, inline }
    }
}

/// Returns how many entries at the start of `entries` are `path` or below it: doubling, then bisecting, so
/// that listing a directory costs little beside huge subtrees.
fn gallop(entries: &[Entry], path: &Path) -> usize {
    let mut end = 1;
    while end < entries.len() && entries[end].path.starts_with(path) {
        end *= 2;
    }
    let low = end / 2;
    let end = end.min(entries.len());
    low + entries[low..end].partition_point(|entry| entry.path.starts_with(path))
}

impl Entry {
    /// Returns a directory with the given mode, owned by root, without times and attributes.
    pub fn directory(path: impl Into<PathBuf>, mode: u32) -> Self {
        Self::plain(path, Kind::Directory { opaque: false }, mode)
    }

    /// Returns an entry owned by root, without times and attributes.
    pub fn plain(path: impl Into<PathBuf>, kind: Kind, mode: u32) -> Self {
        Self {
            path: path.into(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: super::Mtime::default(),
            xattrs: Xattrs::new(),
        }
    }

    /// Returns the mark that removes `path` of the layers below.
    pub fn whiteout(path: impl Into<PathBuf>) -> Self {
        Self::plain(path, Kind::Whiteout, 0)
    }

    /// Returns whether this is a directory.
    pub const fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory { .. })
    }

    /// Returns the size of a regular file, 0 for anything else.
    pub const fn size(&self) -> u64 {
        match self.kind {
            Kind::File { size, .. } => size,
            Kind::Directory { .. }
            | Kind::Symlink { .. }
            | Kind::HardLink { .. }
            | Kind::CharDevice(_)
            | Kind::BlockDevice(_)
            | Kind::Fifo
            | Kind::Whiteout => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(paths: &[&str]) -> LayerIndex {
        let entry = |path: &&str| match path.strip_suffix('/') {
            Some(directory) => Entry::directory(directory, 0o755),
            None => Entry::plain(*path, Kind::File { size: 0, content: None }, 0o644),
        };
        LayerIndex::new(paths.iter().map(entry).collect(), BTreeMap::new()).unwrap()
    }

    fn check_children(paths: &[&str], of: &str, expect: &[&str]) {
        let index = index(paths);
        let got: Vec<_> = index.children(Path::new(of)).map(|e| e.path.to_str().unwrap()).collect();
        assert_eq!(got, expect, "children of {of:?} in {paths:?}");
    }

    #[test]
    fn children_are_direct_and_in_name_order() {
        let tree = ["a-b", "a/", "a/z", "a/d/", "a/d/x", "a/d/y", "b/", "b/c"];
        check_children(&tree, "", &["a", "a-b", "b"]);
        check_children(&tree, "a", &["a/d", "a/z"]);
        check_children(&tree, "a/d", &["a/d/x", "a/d/y"]);
        check_children(&tree, "a-b", &[]);
        check_children(&tree, "nothing", &[]);
        check_children(&["/", "a/"], "", &["a"]);
    }

    #[test]
    fn children_skip_entries_without_their_directory() {
        check_children(&["a/b/c", "a/x", "z"], "", &["z"]);
        check_children(&["a/b/c", "a/x", "z"], "a", &["a/x"]);
    }

    #[test]
    fn subtree_starts_with_its_root() {
        let index = index(&["a/", "a/b", "a.b", "a/c/", "a/c/d", "b"]);
        let paths = |of: &str| -> Vec<_> {
            index.subtree(Path::new(of)).iter().map(|e| e.path.to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(paths("a"), ["a", "a/b", "a/c", "a/c/d"]);
        assert_eq!(paths("").len(), 6);
        assert!(paths("a/b/c").is_empty());
    }

    #[test]
    fn refuses_duplicates() {
        let twice = vec![Entry::directory("a", 0o755), Entry::whiteout("a")];
        assert!(matches!(LayerIndex::new(twice, BTreeMap::new()), Err(IndexError::Duplicate(_))));
    }

    #[test]
    fn content_id_ignores_times_and_needs_hashes() {
        let file = |content, seconds| {
            let mut entry = Entry::plain("f", Kind::File { size: 1, content }, 0o644);
            entry.mtime.seconds = seconds;
            LayerIndex::new(vec![entry], BTreeMap::new()).unwrap().content_id()
        };
        let hash = |byte| Some(ContentHash([byte; 32]));
        assert_eq!(file(None, 1), None);
        assert_eq!(file(hash(1), 1), file(hash(1), 2));
        assert_ne!(file(hash(1), 1), file(hash(2), 1));
    }
}
