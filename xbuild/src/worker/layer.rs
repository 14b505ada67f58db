//! Layers in their three residences: remote (a descriptor), packed (a blob), unpacked (a directory). Each is
//! made from another when somebody needs it, never before.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use executor::layers::{Flavour, LayerId, LayerStore};
use executor::tree::{self, Merged, MergedLayer};
use futures_util::{StreamExt as _, TryStreamExt as _};
use oci::compress::Encoding;
use oci::document::Descriptor;
use oci::layer::{ContentHash, LayerIndex, Scan, Source, resolve};
use oci::pack::Item;
use oci::reference::Reference;
use oci::store::{Leased, Store};
use oci::{ChainId, DiffId};
use solver::LayerResult;
use tokio::sync::{OnceCell, watch};

use super::build::Build;
use super::download::Downloads;
use super::error::StepError;
pub use super::packed::{Blob, Settled};
use super::packed::{Packing, id_of, resolved, settled, wait};
use super::stacked::{Stacked, unpack};
use crate::registries::Registries;

/// Whose unpacked layers these are.
pub(super) const FLAVOUR: Flavour = Flavour::Root;

/// How layers of this build are compressed.
const ENCODING: Encoding = Encoding::GZIP;

/// Layers that are read or unpacked at the same time.
const LAYERS_AT_ONCE: usize = 4;

/// A stack of layers, lowest first.
pub type Stack = Arc<[Arc<Layer>]>;

/// One layer of a stack.
pub struct Layer {
    pub(super) origin: Origin,
    pub(super) index: OnceCell<Arc<LayerIndex>>,
    directory: OnceCell<PathBuf>,
    /// Where the directory went when the build was over.
    kept: OnceLock<PathBuf>,
    /// What stands for the directory in overlays, if anything does.
    pub(super) stacked: OnceCell<Option<Stacked>>,
}

/// Where a layer comes from.
pub(super) enum Origin {
    /// A base image: the blob as its registry has it.
    Base { diff_id: DiffId, descriptor: Box<Descriptor>, remote: Option<Reference> },
    /// An earlier build.
    Recorded(LayerResult),
    /// A RUN of this build: its upper directory is the layer's.
    Upper(Packing),
    /// A COPY, ADD or WORKDIR of this build.
    Planned {
        packing: Packing,
        /// Entries and their sources, for unpacking as often as needed.
        items: Box<dyn Fn() -> Vec<Item> + Send + Sync>,
        /// What the same op made the last time.
        earlier: Option<LayerResult>,
    },
}

/// Makes residences of layers in one store.
pub struct Layers {
    pub(super) store: Arc<Store>,
    pub(super) layers: LayerStore,
    pub(super) build: Arc<Build>,
    fresh: Mutex<Vec<Arc<Layer>>>,
    downloads: Downloads,
}

impl Layer {
    /// A layer of a base image.
    pub fn base(diff_id: DiffId, descriptor: Descriptor, remote: Option<Reference>) -> Arc<Self> {
        let descriptor = Box::new(descriptor);
        Arc::new(Self::new(Origin::Base { diff_id, descriptor, remote }))
    }

    /// A layer of an earlier build.
    pub fn recorded(result: LayerResult) -> Arc<Self> {
        Arc::new(Self::new(Origin::Recorded(result)))
    }

    fn new(origin: Origin) -> Self {
        Self {
            origin,
            index: OnceCell::new(),
            directory: OnceCell::new(),
            kept: OnceLock::new(),
            stacked: OnceCell::new(),
        }
    }

    /// Returns the packed layer of this build, once it is packed; `None` for layers of other origins.
    pub async fn settled(&self) -> Option<Result<Settled, StepError>> {
        match &self.origin {
            Origin::Upper(packing) | Origin::Planned { packing, .. } => Some(wait(packing.clone()).await),
            Origin::Base { .. } | Origin::Recorded(_) => None,
        }
    }

    /// Returns the content id of a planned layer all of whose files have hashes: packing only confirms them.
    pub fn planned_content(&self) -> Option<ContentHash> {
        match &self.origin {
            Origin::Planned { .. } => {
                super::planned_content(&self.index.get()?.entries().iter().collect::<Vec<_>>())
            }
            Origin::Base { .. } | Origin::Recorded(_) | Origin::Upper(_) => None,
        }
    }

    /// Returns the unpacked directory, where there is one.
    pub(super) fn place(&self) -> Option<&Path> {
        self.kept.get().or_else(|| self.directory.get()).map(PathBuf::as_path)
    }

    /// Returns the directories that an overlay takes for the layer, topmost first.
    fn places(&self) -> Option<Vec<PathBuf>> {
        let stacked = || self.stacked.get().and_then(Option::as_ref);
        let whole = self.place().map(|place| vec![place.to_owned()]);
        whole.or_else(|| stacked().map(|stacked| stacked.places().map(Path::to_owned).into()))
    }

    async fn diff_id(&self) -> Result<DiffId, StepError> {
        match &self.origin {
            Origin::Base { diff_id, .. } => Ok(*diff_id),
            Origin::Recorded(result) => Ok(result.diff_id),
            Origin::Upper(packing) | Origin::Planned { packing, .. } => {
                Ok(wait(packing.clone()).await?.result.diff_id)
            }
        }
    }
}

impl Layers {
    /// Works on `store`, downloading through `registries`.
    pub fn new(store: Arc<Store>, build: Arc<Build>, registries: Arc<Registries>) -> Self {
        let layers = LayerStore::new((*store).clone(), FLAVOUR);
        let downloads = Downloads::new(Arc::clone(&store), registries);
        Self { store, layers, build, downloads, fresh: Mutex::default() }
    }

    /// Packs what a RUN wrote in the background. `upper` is named `fs` and alone in its directory; `index` needs
    /// no hashes.
    pub fn pack_upper(&self, index: LayerIndex, upper: PathBuf, items: Vec<Item>) -> Arc<Layer> {
        let layer = Layer {
            index: OnceCell::new_with(Some(Arc::new(index))),
            directory: OnceCell::new_with(Some(upper)),
            ..Layer::new(Origin::Upper(self.pack(items, None)))
        };
        self.remember(layer)
    }

    /// Packs planned entries in the background; `items` gives them as often as it is called. `earlier` is what the same
    /// op made the last time.
    pub fn pack_plan(
        &self,
        index: LayerIndex,
        earlier: Option<LayerResult>,
        items: impl Fn() -> Vec<Item> + Send + Sync + 'static,
    ) -> Arc<Layer> {
        let earlier_id = earlier.as_ref().map(|earlier| earlier.diff_id);
        let origin =
            Origin::Planned { packing: self.pack(items(), earlier_id), items: Box::new(items), earlier };
        self.remember(Layer { index: OnceCell::new_with(Some(Arc::new(index))), ..Layer::new(origin) })
    }

    fn remember(&self, layer: Layer) -> Arc<Layer> {
        let layer = Arc::new(layer);
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&layer));
        layer
    }

    /// Packs in the background, copying what the blob of `earlier` has in common.
    fn pack(&self, items: Vec<Item>, earlier: Option<DiffId>) -> Packing {
        let (sender, receiver) = watch::channel(None);
        let (layers, root) = (self.layers.clone(), self.store.root().to_owned());
        tokio::task::spawn_blocking(move || {
            let packed = match earlier {
                Some(earlier) => layers.pack_after(&earlier, items, ENCODING),
                None => layers.pack(items, ENCODING),
            };
            let settled = packed.map(settled);
            sender.send_replace(Some(settled.map_err(|error| StepError::layer(error, &root))));
        });
        receiver
    }

    /// Returns whether a layer of an earlier build can still be had.
    pub fn available(&self, result: &LayerResult) -> bool {
        let id = LayerId::from(result.diff_id);
        // Leased first and looked up then, or prune could come in between.
        let leased = self
            .build
            .lease(&[Leased::Diff(result.diff_id), Leased::Layer(FLAVOUR.name().to_owned(), id.name())]);
        leased.is_ok() && (self.packed(result.diff_id).is_some() || self.unpacked(id).is_some())
    }

    fn packed(&self, diff_id: DiffId) -> Option<Descriptor> {
        self.layers.packed(&diff_id, ENCODING).ok().flatten()
    }

    pub(super) fn unpacked(&self, id: LayerId) -> Option<PathBuf> {
        self.layers.path(id).ok().flatten()
    }

    /// Returns the blob of a layer as manifests name it. A base's layer is not downloaded for it.
    pub async fn blob(&self, layer: &Layer) -> Result<Blob, StepError> {
        match &layer.origin {
            Origin::Base { diff_id, descriptor, remote } => {
                let digest = oci::document::digest_of(descriptor).map_err(oci::Error::from)?;
                self.build.lease(&[Leased::Blob(digest)])?;
                let here = self.store.layout().has(&digest)?;
                let remote = remote.clone().filter(|_| !here);
                Ok(Blob { diff_id: *diff_id, descriptor: (**descriptor).clone(), remote })
            }
            Origin::Recorded(result) => {
                let descriptor = match self.packed(result.diff_id) {
                    Some(descriptor) => descriptor,
                    None => self.repack(result).await?,
                };
                Ok(Blob { diff_id: result.diff_id, descriptor, remote: None })
            }
            Origin::Upper(packing) | Origin::Planned { packing, .. } => {
                let settled = wait(packing.clone()).await?;
                Ok(Blob { diff_id: settled.result.diff_id, descriptor: settled.descriptor, remote: None })
            }
        }
    }

    /// Makes sure that a blob is in the store, downloading it where it is not.
    pub async fn download(&self, blob: &Blob) -> Result<(), StepError> {
        self.downloads.finish(blob).await
    }

    /// Packs a layer again whose blob was removed while its directory stayed.
    async fn repack(&self, result: &LayerResult) -> Result<Descriptor, StepError> {
        let id = LayerId::from(result.diff_id);
        let lost = |why: &str| StepError::Layer { layer: result.diff_id.to_string(), why: why.to_owned() };
        let (Some(path), Some(index)) = (self.unpacked(id), self.layers.index(id)) else {
            return Err(lost("it was removed from the store during the build"));
        };
        let root = Arc::new(tree::open_root(&path).map_err(StepError::io("open", &path))?);
        let items = index.entries().iter().map(|entry| Item {
            content: match entry.kind {
                oci::layer::Kind::File { size, .. } if size > 0 => {
                    executor::diff::content(&root, &entry.path)
                }
                _ => oci::pack::Content::None,
            },
            entry: entry.clone(),
        });
        let settled = wait(self.pack(items.collect(), None)).await?;
        if settled.result.diff_id != result.diff_id {
            return Err(lost("its directory in the store was changed"));
        }
        Ok(settled.descriptor)
    }

    /// Returns the names under which a layer may be kept: by itself, and on top of this stack.
    async fn ids(&self, stack: &Stack, position: usize) -> Result<[LayerId; 2], StepError> {
        let mut diff_ids = Vec::with_capacity(position + 1);
        for layer in &stack[..=position] {
            diff_ids.push(layer.diff_id().await?);
        }
        let chain = ChainId::of(&diff_ids).expect("the stack has the layer at `position`");
        let ids = [LayerId::Diff(diff_ids[position]), LayerId::Chain(chain)];
        // Leased before anybody looks them up.
        let unpacked = ids.iter().map(|id| Leased::Layer(FLAVOUR.name().to_owned(), id.name()));
        let things: Vec<_> = unpacked.chain([Leased::Diff(diff_ids[position])]).collect();
        self.build.lease(&things)?;
        Ok(ids)
    }

    /// Returns the indexes of a stack, lowest first. Layers whose index nobody has made yet are downloaded and
    /// read, several at a time.
    pub async fn indexes(&self, stack: &Stack) -> Result<Vec<Arc<LayerIndex>>, StepError> {
        let indexes = (0..stack.len()).map(|position| self.index(stack, position));
        futures_util::stream::iter(indexes).buffered(LAYERS_AT_ONCE).try_collect().await
    }

    async fn index(&self, stack: &Stack, position: usize) -> Result<Arc<LayerIndex>, StepError> {
        stack[position].index.get_or_try_init(|| self.make_index(stack, position)).await.cloned()
    }

    async fn make_index(&self, stack: &Stack, position: usize) -> Result<Arc<LayerIndex>, StepError> {
        let ids = self.ids(stack, position).await?;
        if let Some(index) = ids.iter().find_map(|id| self.layers.index(*id)) {
            return Ok(index);
        }
        let blob = self.blob(&stack[position]).await?;
        let algorithm = blob.diff_id.0.algorithm();
        let (layers, descriptor) = (self.layers.clone(), blob.descriptor.clone());
        let scan = move |tar| layers.scan(&descriptor, tar, algorithm);
        let scan = self.downloads.read(&self.layers, &blob, scan).await?;
        let below = self.below(stack, position, &scan).await?;
        let (layers, root) = (self.layers.clone(), self.store.root().to_owned());
        blocking(move || {
            let failed = |error| StepError::layer(error, &root);
            let resolved = resolved(&scan, &below, &blob)?;
            let index = Arc::new(resolved.index.clone());
            layers.put_index(id_of(&resolved, ids), &index).map_err(failed)?;
            Ok(index)
        })
        .await
    }

    /// Returns the indexes below a layer where it does not stand for itself, and none where it does.
    async fn below(
        &self,
        stack: &Stack,
        position: usize,
        scan: &Scan,
    ) -> Result<Vec<Arc<LayerIndex>>, StepError> {
        if resolve(scan).is_ok_and(|resolved| resolved.self_contained) {
            return Ok(Vec::new());
        }
        let stack: Stack = stack[..position].into();
        // Indexes below may need those below them, and so on.
        Box::pin(self.indexes(&stack)).await
    }

    /// Returns a stack as a tree of which only the metadata and the account files can be read.
    pub async fn tree(&self, stack: &Stack) -> Result<Merged, StepError> {
        Ok(Merged::of_indexes(self.indexes(stack).await?))
    }

    /// Returns a stack as a tree whose files can be read: every layer of it is unpacked.
    pub async fn readable_tree(&self, stack: &Stack) -> Result<Merged, StepError> {
        self.partly_readable_tree(stack, &(0..stack.len()).collect()).await
    }

    /// Returns a stack as a tree in which the files of the layers at `positions` can be read.
    pub async fn partly_readable_tree(
        &self,
        stack: &Stack,
        positions: &BTreeSet<usize>,
    ) -> Result<Merged, StepError> {
        for position in positions.iter().filter(|position| **position < stack.len()) {
            self.unpack(stack, *position).await?;
        }
        let indexes = self.indexes(stack).await?;
        let layers = indexes.into_iter().zip(stack.iter()).enumerate().map(|(position, (index, layer))| {
            let directory = match layer.place().filter(|_| positions.contains(&position)) {
                Some(path) => Some(Arc::new(tree::open_root(path).map_err(StepError::io("open", path))?)),
                None => None,
            };
            Ok(MergedLayer { index, directory })
        });
        Ok(Merged::new(layers.collect::<Result<_, StepError>>()?))
    }

    /// Returns a stack as a tree whose files all have hashes: layers of this build are waited for.
    pub async fn hashed_tree(&self, stack: &Stack) -> Result<Merged, StepError> {
        let mut indexes = self.indexes(stack).await?;
        for (index, layer) in indexes.iter_mut().zip(stack.iter()) {
            if let Some(settled) = layer.settled().await {
                *index = settled?.index;
            }
        }
        Ok(Merged::of_indexes(indexes))
    }

    /// Returns the directories that show a stack, **topmost first** as overlayfs takes them.
    pub async fn directories(&self, stack: &Stack) -> Result<Vec<PathBuf>, StepError> {
        let unpacked = (0..stack.len()).map(|position| self.mountable(stack, position));
        let unpacked = futures_util::stream::iter(unpacked).buffered(LAYERS_AT_ONCE).try_collect::<Vec<()>>();
        tokio::try_join!(self.download_missing(stack), unpacked)?;
        Ok(stack.iter().rev().flat_map(|layer| layer.places().expect("all were made")).collect())
    }

    /// Downloads all blobs, also those whose turn to be unpacked has not come.
    async fn download_missing(&self, stack: &Stack) -> Result<(), StepError> {
        let remote = stack
            .iter()
            .filter(|layer| layer.place().is_none() && matches!(layer.origin, Origin::Base { .. }));
        let downloads = remote.map(|layer| async move {
            let Origin::Base { diff_id, .. } = &layer.origin else { return Ok(()) };
            match self.unpacked(LayerId::from(*diff_id)) {
                Some(_) => Ok(()),
                None => self.download(&self.blob(layer).await?).await,
            }
        });
        futures_util::future::try_join_all(downloads).await.map(drop)
    }

    pub(super) async fn unpack(&self, stack: &Stack, position: usize) -> Result<(), StepError> {
        let layer = &stack[position];
        layer.directory.get_or_try_init(|| self.directory(stack, position)).await.map(drop)
    }

    async fn directory(&self, stack: &Stack, position: usize) -> Result<PathBuf, StepError> {
        let layer = &stack[position];
        if let Origin::Planned { items, .. } = &layer.origin {
            let index = layer.index.get().expect("a planned layer is made with its index");
            let (scratch, index, items) = (self.build.scratch()?, Arc::clone(index), items());
            return blocking(move || unpack(&scratch, &index, items)).await;
        }
        let ids = self.ids(stack, position).await?;
        if let Some(path) = ids.iter().find_map(|id| self.unpacked(*id)) {
            return Ok(path);
        }
        let blob = self.blob(layer).await?;
        self.store.check_space(blob.descriptor.size())?;
        let (layers, algorithm) = (self.layers.clone(), blob.diff_id.0.algorithm());
        let stream = move |tar| layers.stream(tar, algorithm);
        let streamed = self.downloads.read(&self.layers, &blob, stream).await?;
        let below = self.below(stack, position, streamed.scan()).await?;
        let lower = self.lower(stack, position, streamed.scan(), &below, &blob).await?;
        let (layers, root) = (self.layers.clone(), self.store.root().to_owned());
        blocking(move || {
            let failed = |error| StepError::layer(error, &root);
            let resolved = resolved(streamed.scan(), &below, &blob)?;
            let id = id_of(&resolved, ids);
            layers.put_index(id, &Arc::new(resolved.index.clone())).map_err(failed)?;
            let mut open = |layer: usize, path: &Path| {
                let directory =
                    lower.get(layer).and_then(Option::as_ref).ok_or(std::io::ErrorKind::NotFound)?;
                tree::open_beneath(tree::open_root(directory)?, path)
            };
            let (path, _left_out) = layers.assemble(id, &streamed, &resolved, &mut open).map_err(failed)?;
            Ok(path)
        })
        .await
    }

    /// Returns the directories of the layers below, where a layer has files of theirs.
    async fn lower(
        &self,
        stack: &Stack,
        position: usize,
        scan: &Scan,
        below: &[Arc<LayerIndex>],
        blob: &Blob,
    ) -> Result<Vec<Option<PathBuf>>, StepError> {
        // A layer that stands for itself has none below.
        if below.is_empty() {
            return Ok(Vec::new());
        }
        let resolved = resolved(scan, below, blob)?;
        for source in &resolved.sources {
            if let Source::Below { layer, .. } = source {
                // Hard links lead downwards only, so this ends.
                Box::pin(self.unpack(stack, *layer)).await?;
            }
        }
        Ok(stack[..position].iter().map(|layer| layer.place().map(Path::to_owned)).collect())
    }

    /// Moves what this build unpacked or wrote to where later builds find it. To be called when no step runs.
    pub async fn keep(&self) -> Result<(), StepError> {
        let fresh = std::mem::take(&mut *self.fresh.lock().unwrap_or_else(PoisonError::into_inner));
        for layer in fresh {
            if layer.places().is_none() {
                continue;
            }
            let Some(Ok(settled)) = layer.settled().await else { continue };
            let Some(directory) = layer.directory.get() else {
                self.keep_stacked(&layer, settled.result.diff_id)?;
                continue;
            };
            let whole = directory.parent().expect("a layer's fs is in a directory of its own");
            let id = LayerId::from(settled.result.diff_id);
            let kept = self.layers.publish(self.build.staging()?, whole, id);
            let kept = kept.map_err(|error| StepError::layer(error, self.store.root()))?;
            // Set once: a layer is in the list once.
            let _ = layer.kept.set(kept);
        }
        Ok(())
    }
}

/// Runs `work` on a thread that may block.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StepError> + Send + 'static,
) -> Result<T, StepError> {
    tokio::task::spawn_blocking(work).await.expect("the work does not panic")
}
