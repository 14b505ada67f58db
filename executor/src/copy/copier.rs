//! Copying matched paths into the target, with fsutil's rules about what is kept, merged and refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use frontend::graph::pattern::chmod::{self, Node as ModeOf};
use frontend::graph::pattern::ignore::{Directory as Known, Rules};
use frontend::graph::pattern::wildcard::ParentsPattern;
use frontend::graph::{Chmod, CopyOp, Unpack};
use oci::layer::{Entry, Kind, Mtime};

use super::sources::{self, Match, Matching};
use super::target::{Target, content};
use super::{CopyError, CopyPlan, Flags, Options, Source, SourceKind, archive};
use crate::owner::Ids;
use crate::tree::{Inode, Last, Memory, Node, Tree as _};

/// Mode of directories that a copy makes on its way.
const NEW_DIRECTORY: u32 = 0o755;

/// One COPY or ADD in progress.
pub struct Copier<'a> {
    pub(super) target: Target<'a>,
    pub(super) flags: Flags,
    pub(super) options: &'a Options<'a>,
    pub(super) plan: CopyPlan,
    op: &'a CopyOp,
    excludes: Rules,
}

/// Whether rules decide about what is in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    /// Everything is wanted.
    Everything,
    /// `--parents` and `--exclude` decide.
    Rules,
}

/// A directory being copied.
struct Frame {
    source: PathBuf,
    target: PathBuf,
    /// Metadata of the source.
    node: Node,
    /// Frame of the directory around it.
    above: Option<usize>,
    /// Made already; otherwise it is made when something in it is wanted.
    made: bool,
    excludes: Known,
}

/// Names of what a target directory has at the parent.
type Existing = BTreeMap<PathBuf, Node>;

impl<'a> Copier<'a> {
    /// Starts with an empty plan.
    pub fn new(
        op: &'a CopyOp,
        chown: Option<Ids>,
        target: Target<'a>,
        options: &'a Options<'a>,
    ) -> Result<Self, CopyError> {
        let flags = Flags { chown, chmod: op.chmod.clone(), unpack: op.unpack };
        let excludes = Rules::of_patterns(op.excludes.iter().map(String::as_str))?;
        Ok(Self { target, flags, options, plan: CopyPlan::default(), op, excludes })
    }

    /// Copies what `pattern` names in `source`.
    pub fn copy(&mut self, source: Source<'_>, pattern: &str, matching: Matching) -> Result<(), CopyError> {
        let matches = if self.op.parents {
            sources::parents(source.tree, pattern, matching, &self.excludes)?
        } else {
            sources::matches(source.tree, pattern, matching, &self.excludes)?
        };
        if !matches.matched {
            self.plan.unmatched.push(pattern.to_owned());
        }
        let mut landed: Option<PathBuf> = None;
        for found in &matches.paths {
            if self.unpacks(source, found)? {
                archive::unpack(self, source, found)?;
            } else if found.node.entry.is_directory() {
                self.copy_directory(source, found, matches.wanted.as_ref())?;
            } else {
                let at = self.copy_file(source, found)?;
                if landed.as_ref() == Some(&at) && !self.op.dest_is_dir && at == self.destination()? {
                    // BuildKit copies them one over the other and says nothing.
                    if self.plan.replaced.last().is_none_or(|last| last != pattern) {
                        self.plan.replaced.push(pattern.to_owned());
                    }
                }
                landed = Some(at);
            }
        }
        Ok(())
    }

    /// Copies a heredoc.
    pub fn copy_inline(&mut self, tree: &Memory) -> Result<(), CopyError> {
        let source = Source { tree, kind: SourceKind::Context };
        let failed = |error| CopyError::Tree { path: PathBuf::new(), source: error };
        for node in tree.children(Path::new("")).map_err(failed)? {
            let path = node.entry.path.clone();
            self.copy_file(source, &Match { real: path.clone(), path, node })?;
        }
        Ok(())
    }

    /// Ends the plan.
    pub fn finish(self) -> CopyPlan {
        CopyPlan { entries: self.target.finish(), ..self.plan }
    }

    fn unpacks(&self, source: Source<'_>, found: &Match) -> Result<bool, CopyError> {
        let is_file = matches!(found.node.entry.kind, Kind::File { .. });
        match (self.flags.unpack, source.kind) {
            (Unpack::Never, _) | (_, SourceKind::Git) => Ok(false),
            (Unpack::Archives, SourceKind::Context | SourceKind::Url | SourceKind::Rootfs) => {
                Ok(is_file && archive::is_archive(source.tree, &found.real)?)
            }
        }
    }

    /// Returns where the destination leads.
    pub(super) fn destination(&self) -> Result<PathBuf, CopyError> {
        self.target.resolve(Path::new(&self.op.dest), Last::Follow)
    }

    /// Copies a single file, link or device; returns where it lands.
    fn copy_file(&mut self, source: Source<'_>, found: &Match) -> Result<PathBuf, CopyError> {
        let mode = self.mode_of_new();
        let mut target = self.destination()?;
        if self.op.dest_is_dir {
            self.make_directories(&target, mode)?;
        }
        if self.target.get(&target)?.is_some_and(|entry| entry.is_directory()) || is_root(&target) {
            target.push(found.path.file_name().unwrap_or_default());
        }
        self.make_directories(target.parent().unwrap_or(Path::new("")), mode)?;
        let existing = self.target.get(&target)?;
        let mut names = BTreeMap::new();
        self.put_file(source, &found.node, &found.real, &target, existing.as_ref(), &mut names)?;
        Ok(target)
    }

    /// Copies the contents of a directory.
    fn copy_directory(
        &mut self,
        source: Source<'_>,
        found: &Match,
        wanted: Option<&ParentsPattern>,
    ) -> Result<(), CopyError> {
        let target = self.destination()?;
        self.make_directories(&target, self.mode_of_new())?;
        // fsutil sets the time of the destination, new or not, to that of the source directory.
        if let Some(mut entry) = self.target.get(&target)? {
            entry.mtime = self.options.time_of(source.kind, found.node.entry.mtime);
            self.target.put(entry, None)?;
        }
        let top = Frame {
            source: found.real.clone(),
            target,
            node: found.node.clone(),
            above: None,
            made: true,
            excludes: Known::default(),
        };
        let filter =
            if wanted.is_none() && self.excludes.is_empty() { Filter::Everything } else { Filter::Rules };
        let mut walk = Walk {
            source,
            root: found.real.clone(),
            wanted,
            filter,
            frames: vec![top],
            names: BTreeMap::new(),
        };
        let mut at = 0;
        while at < walk.frames.len() {
            self.copy_children(&mut walk, at)?;
            at += 1;
        }
        Ok(())
    }

    fn copy_children(&mut self, walk: &mut Walk<'_>, at: usize) -> Result<(), CopyError> {
        let Frame { source, target, .. } = &walk.frames[at];
        let (source, target) = (source.clone(), target.clone());
        let failed = |error| CopyError::Tree { path: source.clone(), source: error };
        let children = walk.source.tree.children(&source).map_err(failed)?;
        let existing = self.existing(&target)?;
        for node in children {
            let name = node.entry.path.file_name().unwrap_or_default();
            let (from, to) = (source.join(name), target.join(name));
            let (verdict, excludes) = self.judge(walk, at, &node);
            match verdict {
                Verdict::Skip => continue,
                Verdict::Include => self.make_frames(walk, at)?,
                Verdict::Pass => {}
            }
            let there =
                self.target.planned(&to).or_else(|| existing.get(&to).map(|node| &node.entry)).cloned();
            if node.entry.is_directory() {
                let made = matches!(verdict, Verdict::Include);
                if made {
                    self.put_directory(walk.source, &node, &to, there.as_ref())?;
                }
                walk.frames.push(Frame { source: from, target: to, node, above: Some(at), made, excludes });
            } else if matches!(verdict, Verdict::Include) {
                self.put_file(walk.source, &node, &from, &to, there.as_ref(), &mut walk.names)?;
            }
        }
        Ok(())
    }

    fn existing(&self, directory: &Path) -> Result<Existing, CopyError> {
        let children = self.target.parents_children(directory)?;
        Ok(children.into_iter().map(|node| (node.entry.path.clone(), node)).collect())
    }

    /// Makes the directories around something wanted that were not wanted themselves.
    fn make_frames(&mut self, walk: &mut Walk<'_>, at: usize) -> Result<(), CopyError> {
        let mut missing = Vec::new();
        let mut next = Some(at);
        while let Some(frame) = next.filter(|frame| !walk.frames[*frame].made) {
            missing.push(frame);
            next = walk.frames[frame].above;
        }
        for frame in missing.into_iter().rev() {
            let Frame { target, node, made, .. } = &mut walk.frames[frame];
            *made = true;
            let there = self.target.get(target)?;
            match there {
                // fsutil changes only the mode of such a directory where it exists.
                Some(mut entry) if entry.is_directory() => {
                    entry.mode = node.entry.mode;
                    self.target.put(entry, None)?;
                }
                there => {
                    let (node, target) = (node.clone(), target.clone());
                    self.put_directory(walk.source, &node, &target, there.as_ref())?;
                }
            }
        }
        Ok(())
    }

    fn judge(&self, walk: &Walk<'_>, at: usize, node: &Node) -> (Verdict, Known) {
        if walk.filter == Filter::Everything {
            return (Verdict::Include, Known::default());
        }
        let whole = node.entry.path.to_string_lossy();
        let relative = relative(&whole, &walk.root);
        let (rule, known) = self.excludes.enter(&walk.frames[at].excludes, relative);
        let wanted = walk.wanted.is_none_or(|wanted| wanted.matches(relative));
        if rule.is_none() && wanted {
            return (Verdict::Include, known);
        }
        let passes = node.entry.is_directory()
            && (rule.is_none() || self.excludes.may_bring_back_below(relative))
            && (wanted || walk.wanted.is_some_and(|wanted| wanted.may_match_below(relative)));
        (if passes { Verdict::Pass } else { Verdict::Skip }, known)
    }

    /// Plans a nested directory: where there is one, it takes the source's metadata.
    fn put_directory(
        &mut self,
        source: Source<'_>,
        node: &Node,
        to: &Path,
        there: Option<&Entry>,
    ) -> Result<(), CopyError> {
        let mut entry = self.landed(source.kind, &node.entry, to);
        if let Some(there) = there {
            let Kind::Directory { .. } = there.kind else {
                return Err(CopyError::NotDirectory(to.to_owned()));
            };
            entry.kind.clone_from(&there.kind);
            let mut xattrs = there.xattrs.clone();
            xattrs.append(&mut entry.xattrs);
            entry.xattrs = xattrs;
        }
        self.target.put(entry, None)
    }

    /// Plans anything but a directory.
    fn put_file(
        &mut self,
        source: Source<'_>,
        node: &Node,
        from: &Path,
        to: &Path,
        there: Option<&Entry>,
        names: &mut BTreeMap<Inode, PathBuf>,
    ) -> Result<(), CopyError> {
        if there.is_some_and(Entry::is_directory) {
            return Err(CopyError::IsDirectory(to.to_owned()));
        }
        if let Some(inode) = &node.inode {
            if let Some(first) = names.get(inode).filter(|first| self.target.planned(first).is_some()) {
                return self.target.link(first, to);
            }
            names.insert(inode.clone(), to.to_owned());
        }
        let content = content(source.tree, &node.entry, from)?;
        let entry = self.landed(source.kind, &node.entry, to);
        self.target.put(entry, content)
    }

    /// Returns a source's entry as it lands at `to`.
    fn landed(&self, kind: SourceKind, entry: &Entry, to: &Path) -> Entry {
        let mut entry = entry.clone();
        to.clone_into(&mut entry.path);
        entry.mtime = self.options.time_of(kind, entry.mtime);
        entry.xattrs.retain(|name, _| lands(name));
        if let Some(Ids { uid, gid }) = self.flags.chown {
            (entry.uid, entry.gid) = (uid, gid);
        }
        if let Some(chmod) = &self.flags.chmod {
            entry.mode = match entry.kind {
                Kind::Symlink { .. } => entry.mode,
                Kind::Directory { .. } => chmod::apply(chmod, entry.mode, ModeOf::Directory),
                Kind::File { .. }
                | Kind::HardLink { .. }
                | Kind::CharDevice(_)
                | Kind::BlockDevice(_)
                | Kind::Fifo
                | Kind::Whiteout => chmod::apply(chmod, entry.mode, ModeOf::Other),
            };
        }
        entry
    }

    /// Returns the mode of directories that are made on the way: an octal `--chmod` applies to them.
    fn mode_of_new(&self) -> u32 {
        match &self.flags.chmod {
            Some(Chmod::Octal(mode)) => mode & 0o777,
            Some(Chmod::Symbolic(_)) | None => NEW_DIRECTORY,
        }
    }

    /// Makes the directory at a path without links, with those above it.
    pub(super) fn make_directories(&mut self, path: &Path, mode: u32) -> Result<(), CopyError> {
        let owner = self.flags.chown.unwrap_or_default();
        make_directories(&mut self.target, path, mode, owner, self.options.time_of_new())
    }
}

/// Makes the directory at a path without links, with those above it; what exists stays as it is.
pub fn make_directories(
    target: &mut Target<'_>,
    path: &Path,
    mode: u32,
    owner: Ids,
    mtime: Mtime,
) -> Result<(), CopyError> {
    let mut above: Vec<&Path> = path.ancestors().filter(|path| !is_root(path)).collect();
    above.reverse();
    for directory in above {
        match target.get(directory)? {
            Some(entry) if entry.is_directory() => {}
            Some(_) => return Err(CopyError::NotDirectory(directory.to_owned())),
            None => {
                let Ids { uid, gid } = owner;
                target.put(Entry { uid, gid, mtime, ..Entry::directory(directory, mode) }, None)?;
            }
        }
    }
    Ok(())
}

/// A directory source being copied.
struct Walk<'a> {
    source: Source<'a>,
    /// Path of the directory in its tree.
    root: PathBuf,
    wanted: Option<&'a ParentsPattern>,
    filter: Filter,
    frames: Vec<Frame>,
    /// First targets of files with several names.
    names: BTreeMap<Inode, PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Include,
    /// A directory that is not wanted, but below which something may be.
    Pass,
    Skip,
}

/// Whether an attribute of a source lands. BuildKit's layers hold file capabilities and no other attribute.
pub(super) fn lands(xattr: &[u8]) -> bool {
    xattr == b"security.capability"
}

fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

fn relative<'a>(path: &'a str, root: &Path) -> &'a str {
    let root = root.to_string_lossy();
    if root.is_empty() { path } else { path.get(root.len() + 1..).unwrap_or_default() }
}
