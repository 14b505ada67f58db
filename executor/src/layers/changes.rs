//! What one layer's directory lacks of another's: stacked on it, these changes show what the other would.
//!
//! Pure: two indexes and the layers below to a third index. A COPY of which one file was edited needs one file on
//! disk so, not all of them. Where changes cannot give exactly the same tree (content of lower layers that the older
//! layer hides and the newer does not), or are no small part of it, there are none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use oci::layer::{Entry, Kind, LayerIndex, MergedView};

/// The most of a layer, in files and in bytes, that changes may be: one in so many.
const SMALL_PART: u64 = 4;

/// Returns what has to be stacked on `old`, an unpacked layer, to show what `new` would in its place on top of `below`,
/// lowest first. Every ancestor in both is an entry, as in all layers that are kept by their diff id.
///
/// The result is for overlayfs only: it is no layer of an image.
pub fn changes(old: &LayerIndex, new: &LayerIndex, below: &[&LayerIndex]) -> Option<LayerIndex> {
    all_changes(old, new, below).filter(|changes| is_small(changes, new))
}

/// As [`changes`], however many they are.
pub(crate) fn all_changes(old: &LayerIndex, new: &LayerIndex, below: &[&LayerIndex]) -> Option<LayerIndex> {
    let compared = compare(old, new)?;
    let mut entries: BTreeMap<&Path, Entry> = BTreeMap::new();
    for path in removals(new, below, &compared.removed)? {
        entries.insert(path, Entry::whiteout(path));
    }
    for entry in compared.changed {
        entries.insert(&entry.path, stacked(entry, old));
    }
    let paths: Vec<&Path> = entries.keys().copied().collect();
    for ancestor in paths.iter().flat_map(|path| path.ancestors().skip(1)) {
        if entries.contains_key(ancestor) {
            continue;
        }
        match new.get(ancestor) {
            Some(entry) => entries.insert(&entry.path, stacked(entry, old)),
            None if ancestor.as_os_str().is_empty() => None,
            None => return None,
        };
    }
    // The topmost directory has the say about the root, also where nothing else has changed.
    if let Some(root) = new.get(Path::new("")) {
        entries.entry(&root.path).or_insert_with(|| root.clone());
    }
    LayerIndex::new(entries.into_values().collect(), BTreeMap::new()).ok()
}

/// What differs, in path order.
struct Compared<'a> {
    /// Entries of the new layer that the old one does not have so.
    changed: Vec<&'a Entry>,
    /// Paths of the old layer that the new one does not have.
    removed: Vec<&'a Entry>,
}

/// Compares two layers; `None` where a difference cannot be stacked.
fn compare<'a>(old: &'a LayerIndex, new: &'a LayerIndex) -> Option<Compared<'a>> {
    let links = dirty_links(old, new);
    // Overlayfs takes the roots of all layers together, whatever attributes they have.
    if old.is_opaque(Path::new("")) || new.is_opaque(Path::new("")) {
        return None;
    }
    let mut compared = Compared { changed: Vec::new(), removed: Vec::new() };
    let mut left = old.entries().iter().peekable();
    for entry in new.entries() {
        while let Some(gone) = left.next_if(|older| older.path < entry.path) {
            compared.removed.push(gone);
        }
        match left.next_if(|older| older.path == entry.path) {
            Some(older) if is_same(older, entry) && !links.contains(owner(entry)) => {}
            Some(older) if !can_replace(older, entry) => return None,
            Some(_) | None => compared.changed.push(entry),
        }
    }
    compared.removed.extend(left);
    Some(compared)
}

/// Whether both are one object with the same bytes. A file that nobody has hashed is like no other.
fn is_same(old: &Entry, new: &Entry) -> bool {
    match (&old.kind, &new.kind) {
        (Kind::Whiteout, Kind::Whiteout) => true,
        (_, Kind::File { content: None, .. }) => false,
        _ => old == new,
    }
}

/// Whether `new` over `old` shows what `new` alone would. A directory over something else does not: overlayfs shows
/// nothing of what layers below have in it then. Nor does one that hides lower layers over one that does not, or the
/// other way round.
fn can_replace(old: &Entry, new: &Entry) -> bool {
    match (&old.kind, &new.kind) {
        (Kind::Directory { opaque: old }, Kind::Directory { opaque: new }) => old == new,
        (_, Kind::Directory { .. }) => false,
        (_, _) => true,
    }
}

/// The path that stands for the inode of an entry.
fn owner(entry: &Entry) -> &Path {
    match &entry.kind {
        Kind::HardLink { target } => target,
        Kind::File { .. }
        | Kind::Directory { .. }
        | Kind::Symlink { .. }
        | Kind::CharDevice(_)
        | Kind::BlockDevice(_)
        | Kind::Fifo
        | Kind::Whiteout => &entry.path,
    }
}

/// Returns first names of files whose other names, or what they are, differ: names of one file are made together.
fn dirty_links<'a>(old: &'a LayerIndex, new: &'a LayerIndex) -> BTreeSet<&'a Path> {
    let (old_names, new_names) = (names(old), names(new));
    let same_entry = |path: &Path| match (old.get(path), new.get(path)) {
        (Some(old), Some(new)) => is_same(old, new),
        _ => false,
    };
    let is_dirty = |first: &&Path| match (old_names.get(first), new_names.get(first)) {
        (Some(old), Some(new)) => {
            old != new || !same_entry(first) || !new.iter().all(|name| same_entry(name))
        }
        _ => true,
    };
    old_names.keys().chain(new_names.keys()).copied().filter(is_dirty).collect()
}

/// Returns the further names of files that have several, by the first.
fn names(index: &LayerIndex) -> BTreeMap<&Path, Vec<&Path>> {
    let mut names: BTreeMap<&Path, Vec<&Path>> = BTreeMap::new();
    for entry in index.entries() {
        if let Kind::HardLink { target } = &entry.kind {
            names.entry(target).or_default().push(&entry.path);
        }
    }
    names
}

/// Returns the paths to hide; `None` where a layer below would show something there, which a whiteout hides too.
fn removals<'a>(new: &LayerIndex, below: &[&LayerIndex], removed: &[&'a Entry]) -> Option<Vec<&'a Path>> {
    let view = MergedView::new(below.iter().copied().chain([new]).collect());
    let is_other = |path: &Path| new.get(path).is_some_and(|above| !above.is_directory());
    let mut hidden: Vec<&Path> = Vec::new();
    for entry in removed.iter().filter(|entry| !entry.path.as_os_str().is_empty()) {
        let path = entry.path.as_path();
        let gone = hidden.last().is_some_and(|above| path.starts_with(above));
        if gone || path.ancestors().skip(1).any(is_other) {
            continue;
        }
        if entry.kind == Kind::Whiteout || view.lstat(path).is_some() {
            return None;
        }
        hidden.push(path);
    }
    Some(hidden)
}

/// Returns the entry as it lies over the old layer: a directory goes on in the old one, which hides what is below
/// both where the new one does.
fn stacked(entry: &Entry, old: &LayerIndex) -> Entry {
    let goes_on = entry.is_directory() && old.get(&entry.path).is_some_and(Entry::is_directory);
    match goes_on && !entry.path.as_os_str().is_empty() {
        true => Entry { kind: Kind::Directory { opaque: false }, ..entry.clone() },
        false => entry.clone(),
    }
}

fn is_small(changes: &LayerIndex, whole: &LayerIndex) -> bool {
    let count = |index: &LayerIndex| {
        let objects = index.entries().iter().filter(|entry| !entry.is_directory());
        objects.fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.size()))
    };
    let ((count, bytes), (all, all_bytes)): ((u64, u64), (u64, u64)) = (count(changes), count(whole));
    count * SMALL_PART <= all && bytes * SMALL_PART <= all_bytes
}

#[cfg(test)]
mod tests {
    use oci::layer::ContentHash;

    use super::*;

    /// `d/` is a directory, `d/!` an opaque one, `-f` a whiteout, `l>f` a hard link, `f=2` a file with other bytes
    /// than `f`, `f?` one that was not hashed.
    fn layer(paths: &[&str]) -> LayerIndex {
        let file = |path: &str, content| Entry::plain(path, Kind::File { size: 1, content }, 0o644);
        let entry = |text: &&str| {
            if let Some(path) = text.strip_suffix("/!") {
                Entry::plain(path, Kind::Directory { opaque: true }, 0o755)
            } else if let Some(path) = text.strip_suffix('/') {
                Entry::directory(path, 0o755)
            } else if let Some(path) = text.strip_prefix('-') {
                Entry::whiteout(path)
            } else if let Some((path, target)) = text.split_once('>') {
                Entry::plain(path, Kind::HardLink { target: target.into() }, 0o644)
            } else if let Some(path) = text.strip_suffix('?') {
                file(path, None)
            } else {
                let (path, version) = text.split_once('=').unwrap_or((text, "1"));
                file(path, Some(ContentHash([version.as_bytes()[0]; 32])))
            }
        };
        LayerIndex::new(paths.iter().map(entry).collect(), BTreeMap::new()).unwrap()
    }

    fn show(index: &LayerIndex) -> Vec<String> {
        let text = |entry: &Entry| {
            let path = entry.path.to_str().unwrap();
            match &entry.kind {
                Kind::Directory { opaque: false } => format!("{path}/"),
                Kind::Directory { opaque: true } => format!("{path}/!"),
                Kind::Whiteout => format!("-{path}"),
                Kind::HardLink { target } => format!("{path}>{}", target.display()),
                _ => path.to_owned(),
            }
        };
        index.entries().iter().map(text).collect()
    }

    fn check(below: &[&str], old: &[&str], new: &[&str], expect: Option<&[&str]>) {
        let changes = all_changes(&layer(old), &layer(new), &[&layer(below)]);
        let expect = expect.map(|paths| paths.iter().map(|path| (*path).to_owned()).collect());
        assert_eq!(changes.as_ref().map(show), expect, "{old:?} -> {new:?} on {below:?}");
    }

    #[test]
    fn only_what_differs_is_stacked_with_its_directories() {
        check(&[], &["d/", "d/a", "d/b"], &["d/", "d/a=2", "d/b"], Some(&["d/", "d/a"]));
        check(&[], &["d/", "d/a"], &["d/", "d/a", "e/", "e/f"], Some(&["e/", "e/f"]));
        check(&[], &["d/", "d/a"], &["d/", "d/a"], Some(&[]));
        check(&[], &["/", "d/", "d/a"], &["/", "d/", "d/a"], Some(&["/"]));
        check(&[], &["a?"], &["a?"], Some(&["a"]));
        check(&["d/", "d/x"], &["d/!", "d/a"], &["d/!", "d/a=2"], Some(&["d/", "d/a"]));
    }

    #[test]
    fn what_is_gone_is_hidden_unless_that_hides_more() {
        check(&[], &["d/", "d/a", "d/b"], &["d/", "d/b"], Some(&["d/", "-d/a"]));
        check(&[], &["d/", "d/a", "d/e/", "d/e/f"], &["d/", "d/a"], Some(&["d/", "-d/e"]));
        check(&["d/", "d/a"], &["d/", "d/a", "d/b"], &["d/", "d/b"], None);
        check(&["d/", "d/a"], &["d/!", "d/a", "d/b"], &["d/!", "d/b"], Some(&["d/", "-d/a"]));
        check(&["d/"], &["d/", "d/a"], &["x"], None);
        check(&[], &["-a", "b"], &["b"], None);
        check(&[], &["-a", "b"], &["-a", "b=2"], Some(&["b"]));
    }

    #[test]
    fn what_changes_its_kind_is_stacked_where_nothing_below_shines_through() {
        check(&[], &["d/", "d/a"], &["d"], Some(&["d"]));
        check(&[], &["d"], &["d/", "d/a"], None);
        check(&[], &["-d"], &["d/", "d/a"], None);
        check(&[], &["-d"], &["d"], Some(&["d"]));
        check(&[], &["d/"], &["d/!"], None);
        check(&[], &["d/!"], &["d/"], None);
    }

    #[test]
    fn names_of_one_file_are_made_together() {
        check(&[], &["a", "b>a", "c"], &["a", "b>a", "c=2"], Some(&["c"]));
        check(&[], &["a", "b>a"], &["a=2", "b>a"], Some(&["a", "b>a"]));
        check(&[], &["a", "b>a"], &["a", "b>a", "c>a"], Some(&["a", "b>a", "c>a"]));
        check(&[], &["a", "b>a"], &["a"], Some(&["a", "-b"]));
        check(&[], &["a", "b>a"], &["a", "b"], Some(&["a", "b"]));
        check(&[], &["a", "b", "c>a"], &["a", "b", "c>b"], Some(&["a", "b", "c>b"]));
    }

    #[test]
    fn many_changes_are_none() {
        let old = layer(&["a", "b", "c", "d", "e", "f", "g", "h"]);
        assert!(changes(&old, &layer(&["a=2", "b=2", "c", "d", "e", "f", "g", "h"]), &[]).is_some());
        assert!(changes(&old, &layer(&["a=2", "b=2", "c=2", "d", "e", "f", "g", "h"]), &[]).is_none());
        assert!(changes(&old, &layer(&["a", "b", "c", "d", "e"]), &[]).is_none());
    }
}
