//! From patterns to the places where walks start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use frontend::graph::SelectionRequest;
use frontend::graph::pattern::clean_below_root;
use frontend::graph::pattern::ignore::Rules;
use frontend::graph::pattern::wildcard::{ParentsPattern, Wildcard, is_pattern, literal};

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
    /// How the source was written, where finding nothing is an error.
    pub required: Option<PathBuf>,
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
        for path in self.matches(pattern)? {
            let excluded = || self.excludes.ignores(&path.file_name().unwrap_or_default().to_string_lossy());
            let is_directory = self.lstat(&path)?.is_some_and(|node| node.entry.is_directory());
            if !is_directory && excluded() {
                continue;
            }
            // A link that a wildcard matches and that leads nowhere is an error of the copy, not of a walk.
            self.follow(&path, None)?;
        }
        Ok(())
    }

    fn add_literal(&mut self, path: &Path) -> Result<(), ScanError> {
        let required = (!path.as_os_str().is_empty()).then(|| path.to_owned());
        if self.follow(path, required)? { Ok(()) } else { Err(missing::not_found(self.context, path, path)) }
    }

    /// Adds what `path` leads to; `false` if there is nothing.
    fn follow(&mut self, path: &Path, required: Option<PathBuf>) -> Result<bool, ScanError> {
        let last = if self.request.follow { Last::Follow } else { Last::Keep };
        let resolved = match resolve(&self.tree, path, last) {
            Err(TreeError::NotDirectory(_)) => return Ok(false),
            resolved => resolved.map_err(|source| ScanError::Tree { path: path.to_owned(), source })?,
        };
        self.roots.links.extend(resolved.links);
        let found = resolved.node.is_some();
        if found {
            self.walk(resolved.path, None, required);
        }
        Ok(found)
    }

    fn add_parents(&mut self, pattern: &str) -> Result<(), ScanError> {
        let (base, wanted) = pattern.split_once("/./").unwrap_or(("", pattern));
        let (base, wanted) = (clean_below_root(base), clean_below_root(wanted));
        let wild = |text: &str| self.request.wildcards && is_pattern(text);
        let (wild_base, wild_wanted) = (wild(&base), wild(&wanted));
        let whole = Path::new(&base).join(&wanted);
        let bases = if wild_base { self.matches(&base)? } else { vec![PathBuf::from(&base)] };
        let required = (!wild_base && !wild_wanted).then(|| whole.clone());
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
            let required = required.clone().filter(|path| !path.as_os_str().is_empty());
            self.walk(resolved.path, parents, required);
        }
        Ok(())
    }

    fn walk(&mut self, path: PathBuf, parents: Option<ParentsPattern>, required: Option<PathBuf>) {
        self.roots.walks.push(Root { path, excludes: Arc::clone(&self.excludes), parents, required });
    }

    fn matches(&self, pattern: &str) -> Result<Vec<PathBuf>, ScanError> {
        let bad = |source| ScanError::Pattern { pattern: pattern.to_owned(), source };
        let wildcard = Wildcard::compile(pattern).map_err(bad)?;
        find(&self.tree, &wildcard).map_err(|source| ScanError::Tree { path: pattern.into(), source })
    }

    fn lstat(&self, path: &Path) -> Result<Option<Node>, ScanError> {
        self.tree.lstat(path).map_err(|source| ScanError::Tree { path: path.to_owned(), source })
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
