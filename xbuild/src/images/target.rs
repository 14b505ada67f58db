//! An image into the store, a layout directory, an archive (by `archiving`) or a registry (by `push`). A place is as it
//! was until all of the image is there: a layout lists it last.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use oci::Platform;
use oci::document;
use oci::layout::Layout;
use oci::reference::Reference;
use oci::store::Leased;

use super::archiving::Archiving;
use super::contents::{Contents, platforms};
use super::fill::{fill, missing, remember};
use super::source::Source;
use super::written::{Written, full, labels_of, names_of};
use super::{Places, pack, push};
use crate::failure::{Class, Failure};
use crate::location::{Location, Version};

/// Writes the image of `source` to `target`, which it is named by where it says a name, else by its own names.
///
/// # Errors
/// Source failures of what cannot be read, push failures, resource failures that name the target.
pub async fn write(places: &Places, mut source: Source, target: &Location) -> Result<Written, Failure> {
    match target {
        Location::Named(name) => {
            let name = crate::location::reference(name)?;
            into_store(places, &mut source, &[name]).await
        }
        Location::Registry(name) => {
            packed(places, &mut source).await?;
            push::copy(places, &source, name).await
        }
        Location::Layout(path, version) => {
            let written = into_directory(places, &mut source, path, version).await;
            written.map_err(|failure| full(target, failure))
        }
        Location::OciArchive(path, version) => {
            packed(places, &mut source).await?;
            let labels = labels_of(&source, version)?;
            Archiving { places, source: &source, target, path }.oci(&labels).await
        }
        Location::DockerArchive(path, name) => {
            one_platform(places, &mut source).await?;
            let names = name.as_ref().map_or_else(|| source.names.clone(), |name| vec![name.clone()]);
            Archiving { places, source: &source, target, path }.docker(&names).await
        }
    }
}

/// Copies an image into the store and gives it `names`; without one it is listed by its digest.
///
/// # Errors
/// As [`write`].
pub async fn into_store(
    places: &Places,
    source: &mut Source,
    names: &[Reference],
) -> Result<Written, Failure> {
    let store = places.store()?.clone();
    store.check_writable()?;
    let lease = store.lease()?;
    pack::pack(places, source, store.layout()).await?;
    let contents = Contents::of(source).await?;
    let here: Vec<_> = contents.blobs.keys().copied().map(Leased::Blob).collect();
    lease.add(&here)?;
    store.check_space(missing(&contents, store.layout())?)?;
    fill(store.layout(), source, &contents).await?;
    remember(&store, source, &contents)?;
    store.make_durable()?;
    for name in names {
        store.layout().tag(name, &contents.root)?;
    }
    if names.is_empty() {
        store.layout().list(&contents.root)?;
    }
    let names = names.iter().map(|name| name.clone().with_default_tag().to_string()).collect();
    Ok(Written { digest: source.root.digest(), names })
}

/// Copies an image into a layout, without listing it there.
///
/// # Errors
/// As [`write`].
pub(super) async fn into_layout(
    places: &Places,
    source: &mut Source,
    layout: &Layout,
) -> Result<Contents, Failure> {
    pack::pack(places, source, layout).await?;
    let contents = Contents::of(source).await?;
    fill(layout, source, &contents).await?;
    Ok(contents)
}

/// The layout directory that this command makes, until the image is listed there. A command makes one.
static UNFINISHED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// A directory that is removed again unless the image gets there: also where the copy is interrupted.
struct NewDirectory;

impl NewDirectory {
    fn at(path: &Path) -> Self {
        *unfinished() = (!path.exists()).then(|| path.to_owned());
        Self
    }

    fn keep(self) {
        *unfinished() = None;
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        abandon();
    }
}

fn unfinished() -> MutexGuard<'static, Option<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the layout directory that a copy was making. For processes that end without dropping what they hold.
pub fn abandon() {
    let Some(path) = unfinished().take() else { return };
    // Somebody else may have listed an image there meanwhile.
    let is_empty = Layout::open(&path).is_ok_and(|layout| layout.names().is_ok_and(|names| names.is_empty()));
    if is_empty {
        // What cannot be removed is a valid layout that lists nothing.
        let _ = oci::store::remove_tree(&path);
    }
}

async fn into_directory(
    places: &Places,
    source: &mut Source,
    path: &Path,
    version: &Version,
) -> Result<Written, Failure> {
    let labels = labels_of(source, version)?;
    let new = NewDirectory::at(path);
    let layout = Layout::create(path).map_err(at_target)?;
    let contents = into_layout(places, source, &layout).await?;
    exporter::layout::label(&layout, &contents.root, &labels)?;
    new.keep();
    Ok(Written { digest: source.root.digest(), names: names_of(&labels) })
}

/// A directory that the command line names is no store.
fn at_target(error: oci::Error) -> Failure {
    let failure = Failure::from(error);
    let class = if failure.class == Class::Store { Class::Usage } else { failure.class };
    Failure { class, ..failure }
}

/// Packs uncompressed layers of a Docker archive into scratch, for targets that are no layout themselves.
async fn packed(places: &Places, source: &mut Source) -> Result<(), Failure> {
    match pack::unpacked(source) {
        0 => Ok(()),
        _ => pack::pack(places, source, &places.scratch_layout()?).await,
    }
}

/// Docker's archives hold one platform: of an index, ours.
async fn one_platform(places: &Places, source: &mut Source) -> Result<(), Failure> {
    let count = platforms(&source.root).len();
    if matches!(source.root, document::Root::Index(_)) {
        let platform = Platform::host();
        source.narrow(&platform).await?;
        if count > 1 {
            let left = count - 1;
            places.tell(format!("a Docker archive holds one platform: {platform} of {count}, {left} left out (--platform chooses another)"));
        }
    }
    Ok(())
}
