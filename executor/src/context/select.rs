//! From patterns to the places where walks start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use frontend::graph::SelectionRequest;
use frontend::graph::pattern::clean_below_root;
use frontend::graph::pattern::ignore::Rules;
use frontend::graph::pattern::wildcard::{ParentsPattern, Wildcard, is_pattern, literal};

use oci::layer::Kind;

use super::{Context, ScanError, missing};
use crate::tree::{Content, Directory, Last, Node, Tree, TreeError, find, resolve};

/// What a request wants to be walked.
#[derive(Debug, Default)]
pub struct Roots {
    /// Where walks start.
    pub walks: Vec<Root>,
    /// Symbolic links that lead there.
    pub links: Vec<PathBuf>,
}

/// A place where a walk starts.
#[derive(Debug)]
pub struct Root {
    /// Path without links.
    pub path: PathBuf,
    /// `--exclude`, relative to `path`; none where only a file is wanted.
    pub excludes: Arc<Rules>,
    /// `--parents`: what is wanted below `path`.
    pub parents: Option<ParentsPattern>,
    /// The source, where it is an error that the ignore file hides all of it.
    pub required: Option<Required>,
}

/// A source without wildcards.
#[derive(Debug, Clone)]
pub struct Required {
    /// As it was asked for.
    pub asked: PathBuf,
    /// Without links.
    pub real: PathBuf,
}

/// Returns where to walk.
pub fn roots(context: &Context<'_>, request: &SelectionRequest) -> Result<Roots, ScanError> {
    let tree = Visible { tree: Directory::new(Arc::clone(context.root)), ignore: context.ignore };
    let excludes = Arc::new(Rules::of_patterns(request.excludes.iter().map(String::as_str))?);
    let mut finder = Finder { context, request, tree, excludes, roots: Roots::default() };
    for pattern in &request.patterns {
        if request.parents { finder.add_parents(pattern)? } else { finder.add(pattern)? }
    }
    Ok(finder.roots)
}

struct Finder<'a> {
    context: &'a Context<'a>,
    request: &'a SelectionRequest,
    tree: Visible<'a>,
    excludes: Arc<Rules>,
    roots: Roots,
}

impl Finder<'_> {
    fn add(&mut self, pattern: &str) -> Result<(), ScanError> {
        if !(self.request.wildcards && is_pattern(pattern)) {
            let path = if self.request.wildcards { literal(pattern) } else { pattern.to_owned() };
            return self.add_literal(Path::new(&clean_below_root(&path)));
        }
        for node in self.matches(pattern)? {
            let path = node.entry.path;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !matches!(node.entry.kind, Kind::Directory { .. }) && self.excludes.ignores(&name) {
                continue;
            }
            // It was matched, so it is a link that leads nowhere, or to something ignored.
            if !self.follow(&path, Wanted::ByPattern)? {
                return Err(missing::not_found(self.context, &path, &path));
            }
        }
        Ok(())
    }

    fn add_literal(&mut self, path: &Path) -> Result<(), ScanError> {
        if self.follow(path, Wanted::ByName)? {
            Ok(())
        } else {
            Err(missing::not_found(self.context, path, path))
        }
    }

    /// Adds what `path` leads to; `false` if there is nothing.
    fn follow(&mut self, path: &Path, wanted: Wanted) -> Result<bool, ScanError> {
        let last = if self.request.follow { Last::Follow } else { Last::Keep };
        let resolved = match resolve(&self.tree, path, last) {
            Err(TreeError::NotDirectory(_)) => return Ok(false),
            resolved => resolved.map_err(|source| ScanError::Tree { path: path.to_owned(), source })?,
        };
        self.roots.links.extend(resolved.links);
        let found = resolved.node.is_some();
        if found {
            let required = wanted.required(path, &resolved.path);
            self.walk(resolved.path, None, required);
        }
        Ok(found)
    }

    fn add_parents(&mut self, pattern: &str) -> Result<(), ScanError> {
        let (base, wanted) = pattern.split_once("/./").unwrap_or(("", pattern));
        let (base, wanted) = (clean_below_root(base), clean_below_root(wanted));
        let wild = |text: &str| self.request.wildcards && is_pattern(text);
        let (wild_base, wild_wanted) = (wild(&base), wild(&wanted));
        let whole: PathBuf = Path::new(&base).iter().chain(Path::new(&wanted)).collect();
        let bases = if wild_base {
            self.matches(&base)?.into_iter().map(|node| node.entry.path).collect()
        } else {
            vec![PathBuf::from(&base)]
        };
        let by = if wild_base || wild_wanted { Wanted::ByPattern } else { Wanted::ByName };
        for base in bases {
            let resolved = match resolve(&self.tree, &base, Last::Follow) {
                Err(TreeError::NotDirectory(_)) => None,
                resolved => Some(resolved.map_err(|source| ScanError::Tree { path: base.clone(), source })?),
            };
            let Some(resolved) = resolved.filter(|resolved| resolved.node.is_some()) else {
                return Err(missing::not_found(self.context, &whole, &base));
            };
            self.roots.links.extend(resolved.links);
            let parents = (!wanted.is_empty()).then(|| ParentsPattern::compile(&wanted)).transpose()?;
            let real: PathBuf = resolved.path.iter().chain(Path::new(&wanted)).collect();
            if by == Wanted::ByName && self.lstat(&real)?.is_none() {
                return Err(missing::not_found(self.context, &whole, &real));
            }
            self.walk(resolved.path, parents, by.required(&whole, &real));
        }
        Ok(())
    }

    fn walk(&mut self, path: PathBuf, parents: Option<ParentsPattern>, required: Option<Required>) {
        self.roots.walks.push(Root { path, excludes: Arc::clone(&self.excludes), parents, required });
    }

    fn matches(&mut self, pattern: &str) -> Result<Vec<Node>, ScanError> {
        let bad = |source| ScanError::Pattern { pattern: pattern.to_owned(), source };
        let wildcard = Wildcard::compile(pattern).map_err(bad)?;
        let failed = |source| ScanError::Tree { path: pattern.into(), source };
        let found = find(&self.tree, &wildcard).map_err(failed)?;
        self.roots.links.extend(found.links);
        Ok(found.nodes)
    }

    fn lstat(&self, path: &Path) -> Result<Option<Node>, ScanError> {
        self.tree.lstat(path).map_err(|source| ScanError::Tree { path: path.to_owned(), source })
    }
}

/// How a source is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Without wildcards: it has to be there.
    ByName,
    /// With wildcards.
    ByPattern,
}

impl Wanted {
    /// The context's own directory is never missing, however much of it is ignored.
    fn required(self, asked: &Path, real: &Path) -> Option<Required> {
        let is_required = self == Self::ByName && !asked.as_os_str().is_empty();
        is_required.then(|| Required { asked: asked.to_owned(), real: real.to_owned() })
    }
}

/// The context without what its ignore file hides. Directories are seen even so: files below may be brought
/// back.
struct Visible<'a> {
    tree: Directory,
    ignore: &'a Rules,
}

impl Visible<'_> {
    fn hides(&self, node: &Node) -> bool {
        !node.entry.is_directory() && self.ignore.ignores(&node.entry.path.to_string_lossy())
    }
}

impl Tree for Visible<'_> {
    fn lstat(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        Ok(self.tree.lstat(path)?.filter(|node| !self.hides(node)))
    }

    fn children(&self, directory: &Path) -> Result<Vec<Node>, TreeError> {
        let mut children = self.tree.children(directory)?;
        children.retain(|node| !self.hides(node));
        Ok(children)
    }

    fn content(&self, path: &Path) -> Result<Content, TreeError> {
        self.tree.content(path)
    }
}
