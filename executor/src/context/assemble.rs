//! From walked items to a selection: order, hard links, hashes, and the directories on the way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use frontend::graph::Selection;
use oci::layer::{Entry, Kind};
use rayon::prelude::*;

use super::walk::{Item, Role, Stamp};
use super::{Context, ScanError, hash};
use crate::tree::{Directory, Tree, compare_paths};

/// Makes the selection of what walks found and of the links that led there.
pub fn assemble(
    context: &Context<'_>,
    mut items: Vec<Item>,
    links: Vec<PathBuf>,
) -> Result<Selection, ScanError> {
    let outside = Directory::new(Arc::clone(context.root));
    for link in links {
        items.extend(lstat(&outside, &link)?.map(|entry| unstamped(entry, Role::Selected)));
    }
    let mut items = with_ancestors(&outside, in_order(items))?;
    link_names(&mut items);
    hash_files(context, &mut items)?;
    Ok(Selection::new(items.into_iter().map(landed).collect()))
}

/// Returns the items in path order, each path once. Positions are sorted instead of the items, which are large.
fn in_order(items: Vec<Item>) -> Vec<Item> {
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.par_sort_unstable_by(|left, right| {
        let (left, right) = (&items[*left], &items[*right]);
        compare_paths(&left.entry.path, &right.entry.path).then_with(|| left.role.cmp(&right.role))
    });
    let mut slots: Vec<Option<Item>> = items.into_iter().map(Some).collect();
    let mut sorted: Vec<Item> = Vec::with_capacity(slots.len());
    for at in order {
        let later = slots[at].take().expect("every position occurs once");
        match sorted
            .last_mut()
            .filter(|earlier| earlier.entry.path.as_os_str() == later.entry.path.as_os_str())
        {
            Some(earlier) if (earlier.role, later.role) == (Role::Base, Role::Parent) => {
                earlier.role = Role::Selected;
            }
            Some(_) => {}
            None => sorted.push(later),
        }
    }
    sorted
}

fn lstat(tree: &Directory, path: &Path) -> Result<Option<Entry>, ScanError> {
    let failed = |source| ScanError::Tree { path: path.to_owned(), source };
    Ok(tree.lstat(path).map_err(failed)?.map(|node| node.entry))
}

const fn unstamped(entry: Entry, role: Role) -> Item {
    Item { entry, stamp: NO_STAMP, role }
}

const NO_STAMP: Stamp = Stamp {
    device: (0, 0),
    inode: 0,
    links: 0,
    size: 0,
    mtime: oci::layer::Mtime { seconds: 0, nanoseconds: 0 },
    ctime: oci::layer::Mtime { seconds: 0, nanoseconds: 0 },
};

/// Keeps what is wanted and adds every directory above it.
fn with_ancestors(tree: &Directory, items: Vec<Item>) -> Result<Vec<Item>, ScanError> {
    let mut kept: Vec<Item> = Vec::with_capacity(items.len() + 8);
    // Directories that lead to the present place and are not (yet) kept.
    let mut passing: Vec<Item> = Vec::new();
    for item in items {
        passing.retain(|above| item.entry.path.starts_with(&above.entry.path));
        match item.role {
            Role::Parent | Role::Passing => {
                passing.push(item);
                continue;
            }
            Role::Selected | Role::Base => {}
        }
        let parent = item.entry.path.parent().unwrap_or(Path::new(""));
        let is_known = kept.last().is_some_and(|last| {
            last.entry.path.parent() == Some(parent)
                || (last.entry.path == parent && last.entry.is_directory())
        });
        if !is_known && !item.entry.path.as_os_str().is_empty() {
            add_ancestors(tree, &mut kept, &mut passing, parent)?;
        }
        kept.push(item);
    }
    if kept.first().is_none_or(|first| !first.entry.path.as_os_str().is_empty()) {
        let root = lstat(tree, Path::new(""))?.unwrap_or_else(|| Entry::directory("", 0o755));
        kept.insert(0, unstamped(root, Role::Passing));
    }
    Ok(kept)
}

fn add_ancestors(
    tree: &Directory,
    kept: &mut Vec<Item>,
    passing: &mut Vec<Item>,
    parent: &Path,
) -> Result<(), ScanError> {
    let mut above: Vec<&Path> = parent.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
    above.reverse();
    for path in above {
        if kept.binary_search_by(|item| compare_paths(&item.entry.path, path)).is_ok() {
            continue;
        }
        let known = passing.iter().position(|item| item.entry.path == path).map(|at| passing.remove(at));
        let item = match known {
            Some(item) => Some(item),
            None => lstat(tree, path)?.map(|entry| unstamped(entry, Role::Passing)),
        };
        kept.push(item.ok_or_else(|| ScanError::Changed { path: path.to_owned() })?);
    }
    Ok(())
}

/// Makes further names of one file hard links to the first.
fn link_names(items: &mut [Item]) {
    let mut names: BTreeMap<((u32, u32), u64), PathBuf> = BTreeMap::new();
    for item in items {
        if item.stamp.links < 2 || !matches!(item.entry.kind, Kind::File { .. }) {
            continue;
        }
        let identity = (item.stamp.device, item.stamp.inode);
        match names.get(&identity) {
            Some(first) => item.entry.kind = Kind::HardLink { target: first.clone() },
            None => {
                names.insert(identity, item.entry.path.clone());
            }
        }
    }
}

/// Fills in the hashes and attributes of files, from the cache where it knows them.
fn hash_files(context: &Context<'_>, items: &mut [Item]) -> Result<(), ScanError> {
    let mut unknown = Vec::new();
    let mut known = context.cache.lookup();
    for item in items.iter_mut() {
        let Kind::File { content, .. } = &mut item.entry.kind else { continue };
        match known.find(&item.entry.path, &item.stamp) {
            Some(record) => {
                *content = Some(record.content);
                item.entry.xattrs = record.xattrs();
            }
            None => unknown.push(item),
        }
    }
    unknown.into_par_iter().try_for_each(|item| {
        let hashed = hash::hash(context, &item.entry.path, &item.stamp)?;
        context.cache.add(&item.entry.path, &hashed, context.now);
        item.entry.kind = Kind::File { size: hashed.stamp.size, content: Some(hashed.content) };
        item.entry.xattrs = hashed.xattrs;
        Ok::<_, ScanError>(())
    })?;
    copy_to_hard_links(items);
    Ok(())
}

/// Attributes belong to the inode, so every name shows them.
fn copy_to_hard_links(items: &mut [Item]) {
    for at in 0..items.len() {
        let Kind::HardLink { target } = &items[at].entry.kind else { continue };
        if let Ok(first) = items.binary_search_by(|item| compare_paths(&item.entry.path, target)) {
            items[at].entry.xattrs = items[first].entry.xattrs.clone();
        }
    }
}

/// Returns the entry as the selection has it.
fn landed(item: Item) -> Entry {
    let Item { mut entry, role, .. } = item;
    (entry.uid, entry.gid) = (0, 0);
    let is_root = entry.path.as_os_str().is_empty();
    if is_root || matches!(role, Role::Base | Role::Passing) {
        entry.mode = 0o755;
        entry.xattrs.clear();
    }
    entry
}
