//! What the members of an archive amount to: each path once, every ancestor present, links inside the layer.
//!
//! Members are applied in order to a tree in memory, as an extraction onto the layers below would do, with
//! every link resolved inside the root. The result is what is unpacked and indexed; so an extraction never
//! replaces, removes or follows anything on disk. Pure: no file is opened.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
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
        Tree { below, nodes: vec![Node::default()], inodes: Vec::new(), self_contained: true, last: None };
    for (position, member) in scan.members.iter().enumerate() {
        tree.apply(position, member)?;
    }
    Ok(tree.finish(scan))
}

/// More links in one path are a loop (the kernel's own limit, path_resolution(7)).
const MOST_LINKS: usize = 40;

/// The root is the first node.
const ROOT: usize = 0;

struct Tree<'a> {
    below: Option<&'a MergedView<'a>>,
    nodes: Vec<Node>,
    inodes: Vec<Inode>,
    self_contained: bool,
    /// The last parent as written and as resolved; dropped when a look-up could end elsewhere.
    last: Option<(PathBuf, Place)>,
}

#[derive(Default)]
struct Node {
    object: Object,
    children: BTreeMap<OsString, usize>,
}

#[derive(Default)]
enum Object {
    /// The archive says nothing about it: the root, until it does.
    #[default]
    Unsaid,
    Directory {
        entry: Entry,
        opaque: bool,
        /// Whether the archive has it, rather than something inside it.
        explicit: bool,
    },
    Inode(usize),
    Whiteout,
}

struct Inode {
    entry: Entry,
    source: Source,
}

/// A directory that a path leads to.
#[derive(Clone)]
struct Place {
    node: usize,
    path: PathBuf,
    /// Whether it shows nothing of the layers below.
    closed: bool,
}

/// What stands at a component in the middle of a path.
enum Step {
    Directory(usize),
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
            self.put_directory(ROOT, entry);
            return Ok(());
        };
        let parent = self.parent_of(&entry.path, entry.mtime)?;
        match &entry.kind {
            Kind::Whiteout => self.put_whiteout(&parent, name),
            Kind::Directory { .. } => {
                let node = self.child(parent.node, name);
                self.put_directory(node, entry);
            }
            Kind::HardLink { target } => return self.put_link(&parent, name, entry, target),
            Kind::File { .. } => self.put_inode(&parent, name, entry.clone(), Source::Member(position)),
            Kind::Symlink { .. } | Kind::CharDevice(_) | Kind::BlockDevice(_) | Kind::Fifo => {
                self.put_inode(&parent, name, entry.clone(), Source::None);
            }
        }
        Ok(())
    }

    /// Returns the node called `name` in a directory, made where it is missing.
    fn child(&mut self, parent: usize, name: &OsStr) -> usize {
        if let Some(node) = self.nodes[parent].children.get(name) {
            return *node;
        }
        self.nodes.push(Node::default());
        let node = self.nodes.len() - 1;
        self.nodes[parent].children.insert(name.to_owned(), node);
        node
    }

    fn make_opaque(&mut self, directory: &Path) -> Result<(), ResolveError> {
        let place = self.resolve_directory(directory, directory, Mtime::default())?;
        if matches!(self.nodes[place.node].object, Object::Unsaid) {
            let root = self.below_at(&place.path, false).filter(Entry::is_directory);
            self.put_implicit(place.node, root, Mtime::default(), false);
        }
        self.close(place.node);
        Ok(())
    }

    fn close(&mut self, node: usize) {
        self.last = None;
        if let Object::Directory { opaque, .. } = &mut self.nodes[node].object {
            *opaque = true;
        }
    }

    /// A deletion applies to the layers below only, wherever in the archive it stands (image-spec layer.md).
    fn put_whiteout(&mut self, parent: &Place, name: &OsStr) {
        let node = self.child(parent.node, name);
        match self.nodes[node].object {
            Object::Directory { .. } => self.close(node),
            Object::Inode(_) | Object::Whiteout => {}
            Object::Unsaid => self.nodes[node].object = Object::Whiteout,
        }
    }

    fn put_directory(&mut self, node: usize, entry: &Entry) {
        let opaque = match self.nodes[node].object {
            Object::Directory { opaque, .. } => opaque,
            // What was replaced or deleted hides what is below it.
            Object::Inode(_) | Object::Whiteout => {
                self.last = None;
                true
            }
            Object::Unsaid => false,
        };
        self.nodes[node].object = Object::Directory { entry: entry.clone(), opaque, explicit: true };
    }

    fn put_inode(&mut self, parent: &Place, name: &OsStr, entry: Entry, source: Source) {
        self.inodes.push(Inode { entry, source });
        self.put_name(parent, name, self.inodes.len() - 1);
    }

    fn put_name(&mut self, parent: &Place, name: &OsStr, inode: usize) {
        let node = self.child(parent.node, name);
        if !matches!(self.nodes[node].object, Object::Unsaid) {
            self.last = None;
        }
        self.nodes[node] = Node { object: Object::Inode(inode), children: BTreeMap::new() };
    }

    fn put_link(
        &mut self,
        parent: &Place,
        name: &OsStr,
        entry: &Entry,
        target: &Path,
    ) -> Result<(), ResolveError> {
        let wrong = |what| {
            let (path, target) = (entry.path.clone(), target.to_owned());
            Err(ResolveError::HardLink { path, target, what })
        };
        let Some(target_name) = target.file_name() else { return wrong("the root") };
        let place = self.parent_of(target, entry.mtime)?;
        if place.node == parent.node && target_name == name {
            return wrong("itself");
        }
        let found = self.nodes[place.node].children.get(target_name).map(|node| &self.nodes[*node].object);
        match found {
            Some(Object::Inode(inode)) => {
                self.put_name(parent, name, *inode);
                Ok(())
            }
            Some(Object::Directory { .. }) => wrong("a directory"),
            Some(Object::Whiteout) => wrong("deleted"),
            Some(Object::Unsaid) | None => {
                self.self_contained = false;
                if self.below.is_none() {
                    return Ok(());
                }
                let copied = self.copy_up(&place.path.join(target_name), place.closed);
                let Some((entry, source)) = copied else { return wrong("missing") };
                self.put_inode(parent, name, entry, source);
                Ok(())
            }
        }
    }

    /// Returns a file of the layers below as an entry of this one.
    fn copy_up(&self, path: &Path, closed: bool) -> Option<(Entry, Source)> {
        let below = self.below.filter(|_| !closed)?;
        let found = below.lstat(path)?;
        let inode = below.layers()[found.layer].inode_of(found.entry)?;
        let source = match inode.kind {
            Kind::File { .. } => Source::Below { layer: found.layer, path: inode.path.clone() },
            Kind::Symlink { .. } | Kind::CharDevice(_) | Kind::BlockDevice(_) | Kind::Fifo => Source::None,
            Kind::Directory { .. } | Kind::HardLink { .. } | Kind::Whiteout => return None,
        };
        Some((inode.clone(), source))
    }

    fn parent_of(&mut self, path: &Path, mtime: Mtime) -> Result<Place, ResolveError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if let Some((written, place)) = &self.last
            && written == parent
        {
            return Ok(place.clone());
        }
        let place = self.resolve_directory(path, parent, mtime)?;
        self.last = Some((parent.to_owned(), place.clone()));
        Ok(place)
    }

    /// Returns where `directory` really is, made where it is missing, clamped to the root.
    fn resolve_directory(
        &mut self,
        member: &Path,
        directory: &Path,
        mtime: Mtime,
    ) -> Result<Place, ResolveError> {
        let start = Place { node: ROOT, path: PathBuf::new(), closed: self.is_opaque(ROOT) };
        let mut trail = Vec::new();
        let mut at = start.clone();
        let mut todo: Vec<OsString> = directory.iter().rev().map(OsStr::to_owned).collect();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == ".." {
                at.path.pop();
                (at.node, at.closed) = trail.pop().unwrap_or((start.node, start.closed));
                continue;
            }
            match self.step(&mut at, &part, mtime) {
                Step::Directory(node) => {
                    trail.push((at.node, at.closed));
                    at.path.push(part);
                    at.node = node;
                    at.closed |= self.is_opaque(node);
                }
                Step::Blocked => {
                    return Err(ResolveError::NotDirectory {
                        path: member.to_owned(),
                        at: at.path.join(part),
                    });
                }
                Step::Link(target) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(ResolveError::Loop(member.to_owned()));
                    }
                    if target.has_root() {
                        trail.clear();
                        at = start.clone();
                    }
                    todo.extend(parts(&target).rev());
                }
            }
        }
        Ok(at)
    }

    fn is_opaque(&self, node: usize) -> bool {
        matches!(self.nodes[node].object, Object::Directory { opaque: true, .. })
    }

    fn step(&mut self, at: &mut Place, name: &OsStr, mtime: Mtime) -> Step {
        let node = self.child(at.node, name);
        match &self.nodes[node].object {
            Object::Directory { .. } => Step::Directory(node),
            Object::Inode(inode) => match &self.inodes[*inode].entry.kind {
                Kind::Symlink { target } => Step::Link(target.clone()),
                Kind::File { .. }
                | Kind::Directory { .. }
                | Kind::HardLink { .. }
                | Kind::CharDevice(_)
                | Kind::BlockDevice(_)
                | Kind::Fifo
                | Kind::Whiteout => Step::Blocked,
            },
            Object::Whiteout => {
                self.put_implicit(node, None, mtime, true);
                Step::Directory(node)
            }
            Object::Unsaid => {
                let below = self.below_at(&at.path.join(name), at.closed);
                if let Some(Entry { kind: Kind::Symlink { target }, .. }) = &below {
                    self.self_contained = false;
                    return Step::Link(target.clone());
                }
                self.put_implicit(node, below.filter(Entry::is_directory), mtime, false);
                Step::Directory(node)
            }
        }
    }

    /// Adds a directory that the archive does not have: the one below, or root's with mode 755.
    fn put_implicit(&mut self, node: usize, below: Option<Entry>, mtime: Mtime, opaque: bool) {
        let entry = below.unwrap_or_else(|| Entry { mtime, ..Entry::directory("", 0o755) });
        self.nodes[node].object = Object::Directory { entry, opaque, explicit: false };
    }

    fn below_at(&self, path: &Path, closed: bool) -> Option<Entry> {
        let below = self.below.filter(|_| !closed)?;
        below.lstat(path).map(|found| found.entry.clone())
    }

    fn finish(self, scan: &Scan) -> Resolved {
        let mut finish = Finish {
            first_names: vec![None; self.inodes.len()],
            inodes: self.inodes,
            entries: Vec::new(),
            sources: Vec::new(),
            inline: BTreeMap::new(),
            self_contained: self.self_contained,
        };
        let mut nodes = self.nodes;
        let mut pending = vec![(PathBuf::new(), ROOT, false)];
        // Depth first with sorted names is path order; the stack is on the heap (TAR-52).
        while let Some((path, node, closed)) = pending.pop() {
            let Node { object, children } = std::mem::take(&mut nodes[node]);
            let closed = closed || matches!(object, Object::Directory { opaque: true, .. });
            let children = children.into_iter().rev();
            pending.extend(children.map(|(name, child)| (path.join(name), child, closed)));
            finish.add(path, object, closed, scan);
        }
        let index = LayerIndex::from_sorted(finish.entries, finish.inline);
        Resolved { index, sources: finish.sources, self_contained: finish.self_contained }
    }
}

struct Finish {
    inodes: Vec<Inode>,
    first_names: Vec<Option<PathBuf>>,
    entries: Vec<Entry>,
    sources: Vec<Source>,
    inline: BTreeMap<PathBuf, Vec<u8>>,
    self_contained: bool,
}

impl Finish {
    /// Adds the next object in path order. The first name of an inode holds it, others are links to that.
    fn add(&mut self, path: PathBuf, object: Object, closed: bool, scan: &Scan) {
        let (entry, source) = match object {
            Object::Unsaid => return,
            // Inside an opaque directory there is nothing left to delete.
            Object::Whiteout if closed => return,
            Object::Whiteout => (Entry::whiteout(path), Source::None),
            Object::Directory { entry, opaque, explicit } => {
                self.self_contained &= explicit;
                (Entry { path, kind: Kind::Directory { opaque }, ..entry }, Source::None)
            }
            Object::Inode(inode) => {
                let Inode { entry, source } = &self.inodes[inode];
                let entry = entry.clone();
                match &self.first_names[inode] {
                    Some(target) => {
                        let kind = Kind::HardLink { target: target.clone() };
                        (Entry { path, kind, ..entry }, Source::None)
                    }
                    None => {
                        self.first_names[inode] = Some(path.clone());
                        let source = source.clone();
                        self.keep_inline(&path, &source, scan);
                        (Entry { path, ..entry }, source)
                    }
                }
            }
        };
        self.entries.push(entry);
        self.sources.push(source);
    }

    fn keep_inline(&mut self, path: &Path, source: &Source, scan: &Scan) {
        if let Source::Member(position) = source
            && let Some(bytes) = scan.inline.get(position)
            && super::index::INLINE_PATHS.iter().any(|kept| path == Path::new(kept))
        {
            self.inline.insert(path.to_owned(), bytes.clone());
        }
    }
}

/// Returns the names of a link's target and its `..` parts.
fn parts(target: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    target.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests;
