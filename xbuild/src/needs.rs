//! Answers what lowering needs to know: image configs from store or registry, selections from contexts. All
//! needs of one round are answered at once.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use executor::context::ignore_file::{self, IgnoreFile};
use executor::context::{self, Context, ScanError, StatCache};
use frontend::graph::Selection;
use frontend::graph::pattern::ignore::Rules;
use frontend::lower::{
    Asked, GitNeed, IgnoredBy, ImageNeed, Known, KnownGit, KnownImage, KnownUrl, LayoutNeed, Need,
    SelectionError, SelectionNeed, UrlNeed,
};

use crate::bases::Bases;
use crate::failure::{self, Class, Failure};
use crate::fetch::Fetcher;
use crate::image::StoredImage;
use crate::location::Location;
use crate::options::NamedContext;
use crate::worker::now;

/// How failures of contexts begin.
pub const UNREADABLE_CONTEXT: &str = "cannot read the build context";

/// A context directory.
pub struct ContextDirectory {
    /// The open directory.
    pub root: Arc<OwnedFd>,
    /// Its ignore file.
    pub ignore: Option<IgnoreFile>,
    cache: StatCache,
}

/// Everything that answers come from.
pub struct Answers {
    /// Contexts that are directories, the main one under the empty name.
    pub directories: BTreeMap<String, ContextDirectory>,
    /// Contexts that are images in layouts and archives.
    pub layouts: Layouts,
    /// Images.
    pub bases: Arc<Bases>,
    /// URLs and git repositories.
    pub fetcher: Arc<Fetcher>,
}

impl ContextDirectory {
    /// Opens a directory, its ignore file and its stat cache.
    ///
    /// # Errors
    /// A source failure where it cannot be read or its ignore file is no good.
    pub fn open(path: &Path, ignore_names: &[&Path], contexts: &Path) -> Result<Self, Failure> {
        let shown = path.display().to_string();
        let failed = |why: String| Failure::new(Class::Source, &[UNREADABLE_CONTEXT, &shown, &why]);
        let root = executor::tree::open_root(path).map_err(|error| failed(error.to_string()))?;
        let root = Arc::new(root);
        let ignore =
            ignore_file::read(&root, ignore_names).map_err(|error| failed(failure::chain(&error)))?;
        let path = std::fs::canonicalize(path).map_err(|error| failed(error.to_string()))?;
        Ok(Self { root, ignore, cache: StatCache::open(contexts, &path) })
    }

    /// Opens a directory that was fetched for this build: it has no ignore file, and nothing of it is remembered.
    ///
    /// # Errors
    /// A source failure where it cannot be read.
    pub fn fetched(path: &Path) -> Result<Self, Failure> {
        let root = executor::tree::open_root(path).map_err(|error| {
            let shown = path.display().to_string();
            Failure::new(Class::Source, &[UNREADABLE_CONTEXT, &shown, &error.to_string()])
        })?;
        Ok(Self { root: Arc::new(root), ignore: None, cache: StatCache::default() })
    }

    fn select(&self, need: &SelectionNeed) -> Result<Result<Arc<Selection>, SelectionError>, Failure> {
        let none = Rules::default();
        let rules = self.ignore.as_ref().map_or(&none, |ignore| &ignore.rules);
        let context = Context { root: &self.root, ignore: rules, cache: &self.cache, now: now() };
        match context::scan(&context, &need.request) {
            Ok(selection) => Ok(Ok(Arc::new(selection))),
            Err(ScanError::NotFound { path, nearest, ignored_by }) => {
                let file =
                    self.ignore.as_ref().map_or_else(String::new, |ignore| ignore.path.display().to_string());
                Ok(Err(SelectionError::NotFound {
                    path: path.display().to_string(),
                    nearest: nearest.map(|path| path.display().to_string()),
                    ignored_by: ignored_by.map(|rule| IgnoredBy {
                        file,
                        line: rule.line,
                        pattern: rule.pattern,
                    }),
                }))
            }
            Err(error @ (ScanError::Call { .. } | ScanError::Changed { .. })) => {
                Err(Failure::new(Class::Source, &[UNREADABLE_CONTEXT, "", &failure::chain(&error)]))
            }
            Err(error) => Ok(Err(SelectionError::Refused(failure::chain(&error)))),
        }
    }
}

impl Answers {
    /// Finds out everything in `needs`.
    ///
    /// # Errors
    /// A source failure where an image or a context cannot be read. A file that is missing is an answer.
    pub async fn answer(&self, needs: &BTreeMap<Need, Asked>, known: &mut Known) -> Result<(), Failure> {
        let mut images = Vec::new();
        let mut selections = Vec::new();
        let (mut urls, mut repositories) = (Vec::new(), Vec::new());
        for (need, asked) in needs {
            match need {
                Need::Image(need) => images.push(self.image(need, asked)),
                Need::Layout(need) => {
                    let image = self.layout(need).await?;
                    known.layouts.insert(need.clone(), image);
                }
                Need::Selection(need) => selections.push(need),
                Need::Url(need) => urls.push(self.url(need)),
                Need::Git(need) => repositories.push(self.git(need)),
            }
        }
        // Contexts are hashed on all cores while registries answer.
        let selected = tokio::task::block_in_place(|| {
            use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};
            let select = |need: &SelectionNeed| self.select(need).map(|selection| (need.clone(), selection));
            selections.into_par_iter().map(select).collect::<Vec<_>>()
        });
        for answer in selected {
            let (need, selection) = answer?;
            known.selections.insert(need, selection);
        }
        let (images, urls, repositories) = futures_util::future::try_join3(
            futures_util::future::try_join_all(images),
            futures_util::future::try_join_all(urls),
            futures_util::future::try_join_all(repositories),
        )
        .await?;
        known.images.extend(images);
        known.urls.extend(urls);
        known.git.extend(repositories);
        Ok(())
    }

    /// Keeps what was hashed for the next build.
    pub fn save(self) {
        for directory in self.directories.into_values() {
            // The cache is a convenience: a full disk is told by what the build itself writes.
            let _ = directory.cache.save();
        }
    }

    async fn image(&self, need: &ImageNeed, asked: &Asked) -> Result<(ImageNeed, KnownImage), Failure> {
        let image = self.bases.resolve(&need.reference, &need.platform).await.map_err(|mut failure| {
            if let Some(hint) = &asked.hint {
                failure.line += &format!(" — {hint}");
            }
            failure
        })?;
        Ok((need.clone(), known(need.reference.to_string(), &image)))
    }

    async fn url(&self, need: &UrlNeed) -> Result<(UrlNeed, KnownUrl), Failure> {
        let known = self.fetcher.url(need).await.map_err(|error| Failure::from(&error))?;
        Ok((need.clone(), known))
    }

    async fn git(&self, need: &GitNeed) -> Result<(GitNeed, KnownGit), Failure> {
        let known = self.fetcher.git(need).await.map_err(|error| Failure::from(&error))?;
        Ok((need.clone(), known))
    }

    async fn layout(&self, need: &LayoutNeed) -> Result<KnownImage, Failure> {
        let location = self.layouts.get(&need.context).ok_or_else(|| missing_context(&need.context))?;
        let (image, name) = self.bases.import(location, &need.platform).await?;
        Ok(known(name, &image))
    }

    fn select(&self, need: &SelectionNeed) -> Result<Result<Arc<Selection>, SelectionError>, Failure> {
        let directory = self.directories.get(&need.context).ok_or_else(|| missing_context(&need.context))?;
        directory.select(need)
    }
}

fn known(name: String, image: &StoredImage) -> KnownImage {
    KnownImage { name, manifest: image.manifest.digest, config: Arc::from(&image.config.raw[..]) }
}

fn missing_context(name: &str) -> Failure {
    Failure::new(
        Class::Source,
        &[
            "no files in context",
            name,
            "it was not given or is no directory",
            "give --build-context NAME=DIR",
        ],
    )
}

/// Images in layouts and archives, by the names of their contexts.
pub type Layouts = BTreeMap<String, Location>;

/// Returns what named contexts are to lowering, and those that are layouts and archives.
pub fn named(contexts: &[(String, NamedContext)]) -> (BTreeMap<String, frontend::lower::Context>, Layouts) {
    let (mut kinds, mut layouts) = (BTreeMap::new(), BTreeMap::new());
    for (name, context) in contexts {
        let kind = match context {
            NamedContext::Directory(_) | NamedContext::Fetched(_) => frontend::lower::Context::Files,
            NamedContext::Image(reference) => frontend::lower::Context::Image(reference.clone()),
            NamedContext::Layout(location) => {
                layouts.insert(name.clone(), location.clone());
                frontend::lower::Context::OciLayout
            }
        };
        kinds.insert(name.clone(), kind);
    }
    (kinds, layouts)
}
