//! A stack of layer indexes seen as one tree, as overlayfs shows it. Pure: no file is opened.
//!
//! It follows no symbolic links; callers that resolve paths do that with [`MergedView::lstat`] step by step.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Entry, Kind, LayerIndex};

/// Layers from the lowest to the topmost, as one tree.
#[derive(Debug, Clone, Default)]
pub struct MergedView<'a> {
    layers: Vec<&'a LayerIndex>,
}

/// What a stack has at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'a> {
    /// Position of the layer that shows the object; 0 is the lowest.
    pub layer: usize,
    /// The object, never a whiteout. A hard link's bytes are those of [`LayerIndex::inode_of`] in its layer.
    pub entry: &'a Entry,
}

enum Seen<'a> {
    Entry(&'a Entry),
    Hidden,
    Nothing,
}

impl<'a> MergedView<'a> {
    /// Stacks `layers`, lowest first.
    pub const fn new(layers: Vec<&'a LayerIndex>) -> Self {
        Self { layers }
    }

    /// Returns the layers, lowest first.
    pub fn layers(&self) -> &[&'a LayerIndex] {
        &self.layers
    }

    /// Returns what is at `path` without following a symbolic link at any component. The root is the empty
    /// path, and absent where no layer describes it.
    pub fn lstat(&self, path: &Path) -> Option<Found<'a>> {
        for (layer, index) in self.layers.iter().enumerate().rev() {
            match look(index, path) {
                Seen::Entry(entry) => return Some(Found { layer, entry }),
                Seen::Hidden => return None,
                Seen::Nothing => {}
            }
        }
        None
    }

    /// Returns what is directly inside the directory `path`, in name order.
    pub fn children(&self, path: &Path) -> Vec<Found<'a>> {
        let mut names: BTreeMap<&Path, Option<Found<'a>>> = BTreeMap::new();
        for (layer, index) in self.layers.iter().enumerate().rev() {
            for entry in index.children(path) {
                let found = (!matches!(entry.kind, Kind::Whiteout)).then_some(Found { layer, entry });
                names.entry(entry.path.as_path()).or_insert(found);
            }
            if path.ancestors().any(|above| hides(index, above)) {
                break;
            }
        }
        names.into_values().flatten().collect()
    }

    /// Returns the bytes of an account file as the stack shows it: `None` where it is absent, no regular file
    /// or too large to be kept inline.
    pub fn inline(&self, path: &Path) -> Option<&'a [u8]> {
        let found = self.lstat(path)?;
        self.layers[found.layer].inline(path)
    }
}

fn look<'a>(index: &'a LayerIndex, path: &Path) -> Seen<'a> {
    match index.get(path) {
        Some(Entry { kind: Kind::Whiteout, .. }) => Seen::Hidden,
        Some(entry) => Seen::Entry(entry),
        None if path.ancestors().skip(1).any(|above| hides(index, above)) => Seen::Hidden,
        None => Seen::Nothing,
    }
}

/// Whether `index` hides everything that lower layers have below `path`.
fn hides(index: &LayerIndex, path: &Path) -> bool {
    match index.get(path).map(|entry| &entry.kind) {
        None | Some(Kind::Directory { opaque: false }) => false,
        Some(
            Kind::Directory { opaque: true }
            | Kind::File { .. }
            | Kind::Symlink { .. }
            | Kind::HardLink { .. }
            | Kind::CharDevice(_)
            | Kind::BlockDevice(_)
            | Kind::Fifo
            | Kind::Whiteout,
        ) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name/` is a directory, `name/!` an opaque one, `-name` a whiteout, anything else a file.
    fn layer(paths: &[&str]) -> LayerIndex {
        let entry = |text: &&str| {
            if let Some(path) = text.strip_suffix("/!") {
                Entry::plain(path, Kind::Directory { opaque: true }, 0o755)
            } else if let Some(path) = text.strip_suffix('/') {
                Entry::directory(path, 0o755)
            } else if let Some(path) = text.strip_prefix('-') {
                Entry::whiteout(path)
            } else {
                Entry::plain(*text, Kind::File { size: 0, content: None }, 0o644)
            }
        };
        LayerIndex::new(paths.iter().map(entry).collect(), BTreeMap::new()).unwrap()
    }

    fn check(layers: &[&[&str]], path: &str, at: Option<usize>, children: &[&str]) {
        let indexes: Vec<_> = layers.iter().map(|paths| layer(paths)).collect();
        let view = MergedView::new(indexes.iter().collect());
        assert_eq!(view.lstat(Path::new(path)).map(|found| found.layer), at, "{path} in {layers:?}");
        let names: Vec<_> = view
            .children(Path::new(path))
            .iter()
            .map(|found| found.entry.path.file_name().unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, children, "children of {path} in {layers:?}");
    }

    #[test]
    fn upper_layers_win_and_hide() {
        check(&[&["d/", "d/a"], &["d/", "d/b"]], "d", Some(1), &["a", "b"]);
        check(&[&["d/", "d/a"], &["d/", "-d/a"]], "d/a", None, &[]);
        check(&[&["d/", "d/a"], &["d/", "-d/a"]], "d", Some(1), &[]);
        check(&[&["d/", "d/a", "d/c"], &["d/!", "d/b"]], "d", Some(1), &["b"]);
        check(&[&["d/", "d/a"], &["d/!", "d/b"]], "d/a", None, &[]);
        check(&[&["d/", "d/a"], &["d"]], "d/a", None, &[]);
        check(&[&["d/", "d/a"], &["-d"], &["d/"]], "d", Some(2), &[]);
        check(&[&["d/", "d/e/", "d/e/f"], &["d/!"], &["d/", "d/e/"]], "d/e/f", None, &[]);
        check(&[&["d/", "d/e/", "d/e/f"], &["d/!"], &["d/", "d/e/"]], "d/e", Some(2), &[]);
        check(&[&["d/", "d/a"], &["x"]], "d/a", Some(0), &[]);
    }
}
