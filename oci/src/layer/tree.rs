//! What the members of an archive amount to: each path once, every ancestor present, links inside the layer.
//!
//! Members are applied in order to a tree in memory, as an extraction onto the layers below would do, with
//! every link resolved inside the root. The result is what is unpacked and indexed; so an extraction never
//! replaces, removes or follows anything on disk. Pure: no file is opened.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::ops::Bound;
use std::path::{Component, Path, PathBuf};

use super::{Entry, Kind, LayerIndex, Member, MergedView, Mtime, Scan};

/// Where the bytes of a resolved entry are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// It has none.
    None,
    /// In the archive: the content of the member at this position of [`Scan::members`].
    Member(usize),
    /// In a layer below, because the archive links to it: the position of the layer and the path there.
    Below {
        /// Position in the [`MergedView`].
        layer: usize,
        /// Path of the regular file in that layer.
        path: PathBuf,
    },
}

/// A layer that stands for itself.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Its entries.
    pub index: LayerIndex,
    /// Where each entry's bytes are, in the order of the entries.
    pub sources: Vec<Source>,
    /// Whether the result does not depend on the layers below, so that it may be kept under its diff id;
    /// otherwise it belongs to its chain id.
    pub self_contained: bool,
}

/// Why an archive cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// A member lies below something that is no directory.
    #[error("layer member {path:?} is refused: {at:?} is no directory")]
    NotDirectory {
        /// The member.
        path: PathBuf,
        /// What is in its way.
        at: PathBuf,
    },
    /// Links lead in circles.
    #[error("layer member {0:?} is refused: too many symbolic links")]
    Loop(PathBuf),
    /// A hard link leads nowhere or to a directory.
    #[error("layer member {path:?} is refused: hard link to {target:?}, which is {what}")]
    HardLink {
        /// The link.
        path: PathBuf,
        /// Its target.
        target: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Resolves `scan` without anything below; [`Resolved::self_contained`] says whether that is the whole truth.
/// If not, [`resolve_onto`] is needed.
///
/// # Errors
/// [`ResolveError`].
pub fn resolve(scan: &Scan) -> Result<Resolved, ResolveError> {
    run(scan, None)
}

/// Resolves `scan` on top of `below`.
///
/// # Errors
/// [`ResolveError`].
pub fn resolve_onto(scan: &Scan, below: &MergedView<'_>) -> Result<Resolved, ResolveError> {
    run(scan, Some(below))
}

fn run(scan: &Scan, below: Option<&MergedView<'_>>) -> Result<Resolved, ResolveError> {
    let mut tree =
        Tree { below, names: BTreeMap::new(), inodes: Vec::new(), self_contained: true, last: None };
    for (position, member) in scan.members.iter().enumerate() {
        tree.apply(position, member)?;
    }
    Ok(tree.finish(scan))
}

/// More links in one path are a loop (the kernel's own limit, path_resolution(7)).
const MOST_LINKS: usize = 40;

struct Tree<'a> {
    below: Option<&'a MergedView<'a>>,
    names: BTreeMap<PathBuf, Node>,
    inodes: Vec<Inode>,
    self_contained: bool,
    /// The last parent as written and as resolved; dropped when something is replaced.
    last: Option<(PathBuf, PathBuf)>,
}

enum Node {
    Directory { entry: Entry, opaque: bool, explicit: bool },
    Object(usize),
    Whiteout,
}

struct Inode {
    entry: Entry,
    source: Source,
}

/// What stands in the way of a path.
enum Step {
    Directory,
    Link(PathBuf),
    Blocked,
}

impl Tree<'_> {
    fn apply(&mut self, position: usize, member: &Member) -> Result<(), ResolveError> {
        let entry = match member {
            Member::Opaque(directory) => return self.make_opaque(directory),
            Member::Object(entry) => entry,
        };
        let Some(name) = entry.path.file_name() else {
            self.put_directory(PathBuf::new(), entry);
            return Ok(());
        };
        let path = self.parent_of(&entry.path, entry.mtime)?.join(name);
        match &entry.kind {
            Kind::Whiteout => self.put_whiteout(path),
            Kind::Directory { .. } => self.put_directory(path, entry),
            Kind::HardLink { target } => return self.put_link(path, entry, target),
            Kind::File { .. } => self.put_inode(path, entry.clone(), Source::Member(position)),
            Kind::Symlink { .. } | Kind::CharDevice(_) | Kind::BlockDevice(_) | Kind::Fifo => {
                self.put_inode(path, entry.clone(), Source::None);
            }
        }
        Ok(())
    }

    fn make_opaque(&mut self, directory: &Path) -> Result<(), ResolveError> {
        let path = self.resolve_directory(directory, directory, Mtime::default())?;
        if path.as_os_str().is_empty() && !self.names.contains_key(&path) {
            let root = self.below_at(&path).filter(|entry| entry.is_directory());
            self.put_implicit(&path, root, Mtime::default());
        }
        if let Some(Node::Directory { opaque, .. }) = self.names.get_mut(&path) {
            *opaque = true;
        }
        Ok(())
    }

    /// A deletion applies to the layers below only, wherever in the archive it stands (image-spec layer.md).
    fn put_whiteout(&mut self, path: PathBuf) {
        match self.names.get_mut(&path) {
            Some(Node::Directory { opaque, .. }) => *opaque = true,
            Some(Node::Object(_) | Node::Whiteout) => {}
            None => drop(self.names.insert(path, Node::Whiteout)),
        }
    }

    fn put_directory(&mut self, path: PathBuf, entry: &Entry) {
        let opaque = match self.names.get(&path) {
            Some(Node::Directory { opaque, .. }) => *opaque,
            // What was replaced or deleted hides what is below it.
            Some(Node::Object(_) | Node::Whiteout) => {
                self.last = None;
                true
            }
            None => false,
        };
        let entry = Entry { path: path.clone(), ..entry.clone() };
        self.names.insert(path, Node::Directory { entry, opaque, explicit: true });
    }

    fn put_inode(&mut self, path: PathBuf, entry: Entry, source: Source) {
        self.inodes.push(Inode { entry, source });
        self.put_name(path, self.inodes.len() - 1);
    }

    fn put_name(&mut self, path: PathBuf, inode: usize) {
        if let Some(replaced) = self.names.insert(path.clone(), Node::Object(inode)) {
            self.last = None;
            if matches!(replaced, Node::Directory { .. }) {
                self.remove_below(&path);
            }
        }
    }

    fn remove_below(&mut self, path: &Path) {
        let range = (Bound::Excluded(path.to_owned()), Bound::Unbounded);
        let below = self.names.range(range).map(|(name, _)| name).take_while(|name| name.starts_with(path));
        for name in below.cloned().collect::<Vec<_>>() {
            self.names.remove(&name);
        }
    }

    fn put_link(&mut self, path: PathBuf, entry: &Entry, target: &Path) -> Result<(), ResolveError> {
        let wrong = |what| {
            let (path, target) = (entry.path.clone(), target.to_owned());
            Err(ResolveError::HardLink { path, target, what })
        };
        let Some(name) = target.file_name() else { return wrong("the root") };
        let real = self.parent_of(target, entry.mtime)?.join(name);
        match self.names.get(&real) {
            Some(Node::Object(_)) if real == path => wrong("itself"),
            Some(Node::Object(inode)) => {
                self.put_name(path, *inode);
                Ok(())
            }
            Some(Node::Directory { .. }) => wrong("a directory"),
            Some(Node::Whiteout) => wrong("deleted"),
            None => {
                self.self_contained = false;
                if self.below.is_none() {
                    return Ok(());
                }
                let Some((entry, source)) = self.copy_up(&real) else { return wrong("missing") };
                self.put_inode(path, entry, source);
                Ok(())
            }
        }
    }

    /// Returns a file of the layers below as an entry of this one.
    fn copy_up(&self, path: &Path) -> Option<(Entry, Source)> {
        if !self.shows_below(path) {
            return None;
        }
        let below = self.below?;
        let found = below.lstat(path)?;
        let inode = below.layers()[found.layer].inode_of(found.entry)?;
        let source = match inode.kind {
            Kind::File { .. } => Source::Below { layer: found.layer, path: inode.path.clone() },
            Kind::Symlink { .. } | Kind::CharDevice(_) | Kind::BlockDevice(_) | Kind::Fifo => Source::None,
            Kind::Directory { .. } | Kind::HardLink { .. } | Kind::Whiteout => return None,
        };
        Some((inode.clone(), source))
    }

    fn parent_of(&mut self, path: &Path, mtime: Mtime) -> Result<PathBuf, ResolveError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if let Some((written, real)) = &self.last
            && written == parent
        {
            return Ok(real.clone());
        }
        let real = self.resolve_directory(path, parent, mtime)?;
        self.last = Some((parent.to_owned(), real.clone()));
        Ok(real)
    }

    /// Returns the real path of `directory`, made where it is missing, clamped to the root.
    fn resolve_directory(
        &mut self,
        member: &Path,
        directory: &Path,
        mtime: Mtime,
    ) -> Result<PathBuf, ResolveError> {
        let mut real = PathBuf::new();
        let mut todo: Vec<OsString> = directory.iter().rev().map(OsStr::to_owned).collect();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == ".." {
                real.pop();
                continue;
            }
            let next = real.join(part);
            match self.step(&next, mtime) {
                Step::Directory => real = next,
                Step::Blocked => {
                    return Err(ResolveError::NotDirectory { path: member.to_owned(), at: next });
                }
                Step::Link(target) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(ResolveError::Loop(member.to_owned()));
                    }
                    if target.is_absolute() {
                        real = PathBuf::new();
                    }
                    todo.extend(target.components().rev().filter_map(|part| match part {
                        Component::Normal(name) => Some(name.to_owned()),
                        Component::ParentDir => Some("..".into()),
                        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
                    }));
                }
            }
        }
        Ok(real)
    }

    fn step(&mut self, path: &Path, mtime: Mtime) -> Step {
        match self.names.get(path) {
            Some(Node::Directory { .. }) => return Step::Directory,
            Some(Node::Object(inode)) => {
                return match &self.inodes[*inode].entry.kind {
                    Kind::Symlink { target } => Step::Link(target.clone()),
                    Kind::File { .. }
                    | Kind::Directory { .. }
                    | Kind::HardLink { .. }
                    | Kind::CharDevice(_)
                    | Kind::BlockDevice(_)
                    | Kind::Fifo
                    | Kind::Whiteout => Step::Blocked,
                };
            }
            Some(Node::Whiteout) => {
                self.put_implicit(path, None, mtime);
                if let Some(Node::Directory { opaque, .. }) = self.names.get_mut(path) {
                    *opaque = true;
                }
                return Step::Directory;
            }
            None => {}
        }
        let below = self.below_at(path);
        if let Some(Entry { kind: Kind::Symlink { target }, .. }) = &below {
            self.self_contained = false;
            return Step::Link(target.clone());
        }
        self.put_implicit(path, below.filter(Entry::is_directory), mtime);
        Step::Directory
    }

    /// Adds a directory that the archive does not have: the one below, or root's with mode 755.
    fn put_implicit(&mut self, path: &Path, below: Option<Entry>, mtime: Mtime) {
        let entry = below.unwrap_or_else(|| Entry { mtime, ..Entry::directory(path, 0o755) });
        self.names.insert(path.to_owned(), Node::Directory { entry, opaque: false, explicit: false });
    }

    fn below_at(&self, path: &Path) -> Option<Entry> {
        let below = self.below?;
        if self.shows_below(path) { below.lstat(path).map(|found| found.entry.clone()) } else { None }
    }

    /// Whether no directory above `path` is opaque in this layer.
    fn shows_below(&self, path: &Path) -> bool {
        let is_opaque = |above| matches!(self.names.get(above), Some(Node::Directory { opaque: true, .. }));
        !path.ancestors().skip(1).any(is_opaque)
    }

    fn finish(self, scan: &Scan) -> Resolved {
        let Self { names, mut inodes, mut self_contained, .. } = self;
        let mut first_names: Vec<Option<PathBuf>> = vec![None; inodes.len()];
        let mut entries = Vec::with_capacity(names.len());
        let mut sources = Vec::with_capacity(names.len());
        let mut inline = BTreeMap::new();
        let mut hidden: Option<PathBuf> = None;
        for (path, node) in names {
            let (entry, source) = match node {
                // Inside an opaque directory there is nothing left to delete.
                Node::Whiteout if hidden.as_ref().is_some_and(|opaque| path.starts_with(opaque)) => continue,
                Node::Whiteout => (Entry::whiteout(path), Source::None),
                Node::Directory { entry, opaque, explicit } => {
                    self_contained &= explicit;
                    if opaque && !hidden.as_ref().is_some_and(|hidden| path.starts_with(hidden)) {
                        hidden = Some(path.clone());
                    }
                    (Entry { path, kind: Kind::Directory { opaque }, ..entry }, Source::None)
                }
                Node::Object(inode) => match &first_names[inode] {
                    Some(target) => {
                        let kind = Kind::HardLink { target: target.clone() };
                        (Entry { path, kind, ..inodes[inode].entry.clone() }, Source::None)
                    }
                    None => {
                        first_names[inode] = Some(path.clone());
                        let Inode { entry, source } = &mut inodes[inode];
                        entry.path.clone_from(&path);
                        if let Source::Member(position) = source
                            && let Some(bytes) = scan.inline.get(position)
                        {
                            inline.insert(path, bytes.clone());
                        }
                        (entry.clone(), source.clone())
                    }
                },
            };
            entries.push(entry);
            sources.push(source);
        }
        inline.retain(|path: &PathBuf, _| {
            super::index::INLINE_PATHS.iter().any(|kept| path == Path::new(kept))
        });
        Resolved { index: LayerIndex::from_sorted(entries, inline), sources, self_contained }
    }
}

#[cfg(test)]
mod tests;
