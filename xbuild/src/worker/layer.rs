//! Layers in their three residences: remote (a descriptor), packed (a blob), unpacked (a directory). Each is
//! made from another when somebody needs it, never before.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use executor::layers::Flavour;
use executor::tree::{Merged, MergedLayer};
use executor::{tree, unpack};
use oci::compress::{Decoder, Encoding};
use oci::document::Descriptor;
use oci::layer::{Limits, MergedView, Resolved, Scan};
use oci::layer::{LayerIndex, resolve, resolve_onto, scan};
use oci::pack::{Item, PackError};
use oci::reference::Reference;
use oci::store::{Leased, Store};
use oci::{ChainId, DiffId, media_type};
use solver::LayerResult;
use tokio::sync::{OnceCell, watch};

use super::build::Build;
use super::error::StepError;
use super::registries::Registries;

/// Whose unpacked layers these are.
const FLAVOUR: &str = Flavour::Root.name();

/// How layers of this build are compressed.
pub const ENCODING: Encoding = Encoding::GZIP;

/// A stack of layers, lowest first.
pub type Stack = Arc<[Arc<Layer>]>;

/// One layer of a stack.
pub struct Layer {
    origin: Origin,
    index: OnceCell<Arc<LayerIndex>>,
    directory: OnceCell<PathBuf>,
    /// Where the directory went when the build was over.
    kept: OnceLock<PathBuf>,
}

/// Where a layer comes from.
enum Origin {
    /// A base image: the blob as its registry has it.
    Base { diff_id: DiffId, descriptor: Descriptor, remote: Option<Reference> },
    /// An earlier build.
    Recorded(LayerResult),
    /// This build; packed in the background.
    Fresh { settled: watch::Receiver<Option<Result<Settled, StepError>>>, writes: Writes },
}

/// What the layer's directory can be had from while it is being packed.
enum Writes {
    /// A RUN's upper directory.
    Upper,
    /// The entries and their sources, for unpacking once more.
    Items(Box<dyn Fn() -> Items + Send + Sync>),
}

/// Entries with their bytes, in path order.
pub type Items = Vec<Item>;

/// A packed layer of this build.
#[derive(Debug, Clone)]
pub struct Settled {
    /// For the record.
    pub result: LayerResult,
    /// The blob.
    pub descriptor: Descriptor,
    /// The index with all hashes.
    pub index: Arc<LayerIndex>,
}

/// A layer as an image's manifest needs it.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// The packed form.
    pub descriptor: Descriptor,
    /// Where a blob that was never downloaded is.
    pub remote: Option<Reference>,
}

/// Makes residences of layers in one store.
pub struct Layers {
    store: Arc<Store>,
    build: Arc<Build>,
    registries: Arc<Registries>,
    fresh: Mutex<Vec<Arc<Layer>>>,
}

impl Layer {
    /// A layer of a base image.
    pub fn base(diff_id: DiffId, descriptor: Descriptor, remote: Option<Reference>) -> Arc<Self> {
        Self::new(Origin::Base { diff_id, descriptor, remote })
    }

    /// A layer of an earlier build.
    pub fn recorded(result: LayerResult) -> Arc<Self> {
        Self::new(Origin::Recorded(result))
    }

    fn new(origin: Origin) -> Arc<Self> {
        Arc::new(Self { origin, index: OnceCell::new(), directory: OnceCell::new(), kept: OnceLock::new() })
    }

    /// Returns the packed layer of this build, once it is packed; `None` for layers of other origins.
    pub async fn settled(&self) -> Option<Result<Settled, StepError>> {
        match &self.origin {
            Origin::Fresh { settled, .. } => Some(wait(settled.clone()).await),
            Origin::Base { .. } | Origin::Recorded(_) => None,
        }
    }

    /// Returns the unpacked directory, where there is one.
    fn place(&self) -> Option<&PathBuf> {
        self.kept.get().or_else(|| self.directory.get())
    }

    async fn diff_id(&self) -> Result<DiffId, StepError> {
        match &self.origin {
            Origin::Base { diff_id, .. } => Ok(*diff_id),
            Origin::Recorded(result) => Ok(result.diff_id),
            Origin::Fresh { settled, .. } => Ok(wait(settled.clone()).await?.result.diff_id),
        }
    }
}

async fn wait(mut settled: watch::Receiver<Option<Result<Settled, StepError>>>) -> Result<Settled, StepError> {
    match settled.wait_for(Option::is_some).await {
        Ok(value) => value.clone().expect("it was waited for"),
        Err(_) => Err(StepError::Stopped),
    }
}

impl Layers {
    /// Works on `store`, downloading through `registries`.
    pub fn new(store: Arc<Store>, build: Arc<Build>, registries: Arc<Registries>) -> Self {
        Self { store, build, registries, fresh: Mutex::default() }
    }

    /// Packs `items` in the background. `index` needs no hashes; `upper` is a RUN's directory.
    pub fn pack_upper(&self, index: LayerIndex, upper: PathBuf, items: Vec<Item>) -> Arc<Layer> {
        let settled = self.pack(items);
        let layer = Arc::new(Layer {
            origin: Origin::Fresh { settled, writes: Writes::Upper },
            index: OnceCell::new_with(Some(Arc::new(index))),
            directory: OnceCell::new_with(Some(upper)),
            kept: OnceLock::new(),
        });
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&layer));
        layer
    }

    /// Packs planned entries in the background; `items` gives them as often as it is called.
    pub fn pack_plan(&self, index: LayerIndex, items: impl Fn() -> Items + Send + Sync + 'static) -> Arc<Layer> {
        let settled = self.pack(items());
        Arc::new(Layer {
            origin: Origin::Fresh { settled, writes: Writes::Items(Box::new(items)) },
            index: OnceCell::new_with(Some(Arc::new(index))),
            directory: OnceCell::new(),
            kept: OnceLock::new(),
        })
    }

    fn pack(&self, items: Vec<Item>) -> watch::Receiver<Option<Result<Settled, StepError>>> {
        let (sender, receiver) = watch::channel(None);
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || {
            let result = pack(&store, items);
            sender.send_replace(Some(result));
        });
        receiver
    }

    /// Returns whether a layer of an earlier build can still be had.
    pub fn available(&self, result: &LayerResult) -> bool {
        // Leased first and looked up then, or prune could come in between.
        self.build.lease(&[Leased::Diff(result.diff_id), Leased::Layer(FLAVOUR.to_owned(), result.diff_id.0.hex())]).is_ok()
            && (self.packed(result.diff_id).is_some() || self.unpacked(&result.diff_id.0.hex()).is_some())
    }

    fn packed(&self, diff_id: DiffId) -> Option<Descriptor> {
        self.store.packed(&diff_id, &ENCODING.to_string()).ok().flatten()
    }

    fn unpacked(&self, id: &str) -> Option<PathBuf> {
        self.store.layer(FLAVOUR, id).ok().flatten()
    }

    /// Returns the blob of a layer as manifests name it. A base's layer is not downloaded for it.
    pub async fn blob(&self, layer: &Layer) -> Result<Blob, StepError> {
        match &layer.origin {
            Origin::Base { diff_id, descriptor, remote } => {
                let here = self.store.layout().has(&digest(descriptor)?)?;
                let remote = remote.clone().filter(|_| !here);
                Ok(Blob { diff_id: *diff_id, descriptor: descriptor.clone(), remote })
            }
            Origin::Recorded(result) => {
                let descriptor = match self.packed(result.diff_id) {
                    Some(descriptor) => descriptor,
                    None => self.repack(result).await?,
                };
                Ok(Blob { diff_id: result.diff_id, descriptor, remote: None })
            }
            Origin::Fresh { settled, .. } => {
                let settled = wait(settled.clone()).await?;
                Ok(Blob { diff_id: settled.result.diff_id, descriptor: settled.descriptor, remote: None })
            }
        }
    }

    /// Makes sure that a blob is in the store, downloading it where it is not.
    pub async fn download(&self, blob: &Blob) -> Result<(), StepError> {
        match &blob.remote {
            Some(remote) => self.fetch(&blob.descriptor, remote).await,
            None => Ok(()),
        }
    }

    async fn fetch(&self, descriptor: &Descriptor, remote: &Reference) -> Result<(), StepError> {
        let digest = digest(descriptor)?;
        if self.store.layout().has(&digest)? {
            return Ok(());
        }
        let writer = self.store.layout().writer()?;
        let client = self.registries.client();
        let writer = client.pull_blob(remote, digest, descriptor.size(), writer).await?;
        writer.finish_expecting(&digest, descriptor.size())?;
        Ok(())
    }

    /// Packs a layer again whose blob was removed while its directory stayed.
    async fn repack(&self, result: &LayerResult) -> Result<Descriptor, StepError> {
        let id = result.diff_id.0.hex();
        let Some(path) = self.unpacked(&id) else {
            let why = "it was removed from the store during the build".to_owned();
            return Err(StepError::Layer { layer: result.diff_id.to_string(), why });
        };
        let index = LayerIndex::read(&index_path(&self.store, &id)).map_err(|error| damaged(&id, &error))?;
        let root = Arc::new(open_directory(&path)?);
        let items = index.entries().iter().map(|entry| Item {
            content: match entry.kind {
                oci::layer::Kind::File { size, .. } if size > 0 => executor::diff::content(&root, &entry.path),
                _ => oci::pack::Content::None,
            },
            entry: entry.clone(),
        });
        let items = items.collect();
        let settled = wait(self.pack(items)).await?;
        if settled.result.diff_id != result.diff_id {
            let why = "its directory in the store was changed".to_owned();
            return Err(StepError::Layer { layer: result.diff_id.to_string(), why });
        }
        Ok(settled.descriptor)
    }

    /// Returns the indexes of a stack, lowest first. Layers whose index nobody has made yet are downloaded and
    /// read.
    pub async fn indexes(&self, stack: &Stack) -> Result<Vec<Arc<LayerIndex>>, StepError> {
        let mut indexes: Vec<Arc<LayerIndex>> = Vec::with_capacity(stack.len());
        for layer in stack.iter() {
            let position = indexes.len();
            let index = layer.index.get_or_try_init(|| self.index(stack, position, &indexes)).await?.clone();
            indexes.push(index);
        }
        Ok(indexes)
    }

    /// Returns the names under which a layer's index and directory may be: by itself, and on top of this stack.
    async fn ids(&self, stack: &Stack, position: usize) -> Result<[String; 2], StepError> {
        let mut diff_ids = Vec::with_capacity(position + 1);
        for layer in &stack[..=position] {
            diff_ids.push(layer.diff_id().await?);
        }
        let chain = ChainId::of(&diff_ids).expect("the stack has the layer at `position`");
        Ok([diff_ids[position].0.hex(), chain.0.hex()])
    }

    async fn index(
        &self,
        stack: &Stack,
        position: usize,
        below: &[Arc<LayerIndex>],
    ) -> Result<Arc<LayerIndex>, StepError> {
        let layer = &stack[position];
        let ids = self.ids(stack, position).await?;
        for id in &ids {
            if let Ok(index) = LayerIndex::read(&index_path(&self.store, id)) {
                return Ok(Arc::new(index));
            }
        }
        let resolved = self.resolved(layer, below).await?;
        let [alone, chained] = ids;
        let id = if resolved.self_contained { alone } else { chained };
        let index = Arc::new(resolved.index);
        index.write(&index_path(&self.store, &id)).map_err(|error| damaged(&id, &error))?;
        Ok(index)
    }

    /// Reads a layer's archive and says what it amounts to on top of `below`.
    async fn resolved(&self, layer: &Layer, below: &[Arc<LayerIndex>]) -> Result<Resolved, StepError> {
        let blob = self.blob(layer).await?;
        self.download(&blob).await?;
        let store = Arc::clone(&self.store);
        let below = below.to_vec();
        blocking(move || {
            let scan = read(&store, &blob)?;
            resolve_scan(&scan, &below, blob.diff_id)
        })
        .await
    }

    /// Returns a stack as a tree of which only the metadata and the account files can be read.
    pub async fn tree(&self, stack: &Stack) -> Result<Merged, StepError> {
        Ok(Merged::of_indexes(self.indexes(stack).await?))
    }

    /// Returns a stack as a tree whose files can be read: every layer of it is unpacked.
    pub async fn readable_tree(&self, stack: &Stack) -> Result<Merged, StepError> {
        let indexes = self.indexes(stack).await?;
        let mut directories = self.directories(stack).await?;
        directories.reverse();
        let layers = indexes.into_iter().zip(directories).map(|(index, directory)| {
            Ok(MergedLayer { index, directory: Some(Arc::new(open_directory(&directory)?)) })
        });
        Ok(Merged::new(layers.collect::<Result<_, StepError>>()?))
    }

    /// Returns a stack as a tree in which the files of the layers at `positions` can be read.
    pub async fn partly_readable_tree(
        &self,
        stack: &Stack,
        positions: &BTreeSet<usize>,
    ) -> Result<Merged, StepError> {
        let indexes = self.indexes(stack).await?;
        let mut layers = Vec::with_capacity(indexes.len());
        for (position, index) in indexes.iter().enumerate() {
            let directory = match positions.contains(&position) {
                true => Some(Arc::new(open_directory(self.unpack(stack, position, &indexes).await?)?)),
                false => None,
            };
            layers.push(MergedLayer { index: Arc::clone(index), directory });
        }
        Ok(Merged::new(layers))
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

    /// Returns the unpacked directories of a stack, **topmost first** as overlayfs takes them.
    pub async fn directories(&self, stack: &Stack) -> Result<Vec<PathBuf>, StepError> {
        if stack.iter().any(|layer| layer.directory.get().is_none()) {
            let indexes = self.indexes(stack).await?;
            for position in 0..stack.len() {
                self.unpack(stack, position, &indexes).await?;
            }
        }
        Ok(stack.iter().rev().map(|layer| layer.place().expect("all were made").clone()).collect())
    }

    async fn unpack<'a>(
        &self,
        stack: &'a Stack,
        position: usize,
        indexes: &[Arc<LayerIndex>],
    ) -> Result<&'a Path, StepError> {
        let layer = &stack[position];
        layer.directory.get_or_try_init(|| self.directory(stack, position, indexes)).await?;
        Ok(layer.place().expect("it was made just now"))
    }

    async fn directory(
        &self,
        stack: &Stack,
        position: usize,
        indexes: &[Arc<LayerIndex>],
    ) -> Result<PathBuf, StepError> {
        let layer = &stack[position];
        if let Origin::Fresh { writes: Writes::Items(items), .. } = &layer.origin {
            return self.unpack_items(&indexes[position], items()).await;
        }
        let [alone, chained] = self.ids(stack, position).await?;
        for id in [&alone, &chained] {
            if let Some(path) = self.unpacked(id) {
                return Ok(path);
            }
        }
        let below = &indexes[..position];
        let blob = self.blob(layer).await?;
        self.download(&blob).await?;
        let mut lower = Vec::new();
        for under in &stack[..position] {
            lower.push(under.place().cloned());
        }
        let (store, build, below) = (Arc::clone(&self.store), Arc::clone(&self.build), below.to_vec());
        blocking(move || {
            let scan = read(&store, &blob)?;
            let resolved = resolve_scan(&scan, &below, blob.diff_id)?;
            let id = if resolved.self_contained { alone } else { chained };
            unpack_blob(&store, &build, &blob, &resolved, &id, &lower)
        })
        .await
    }

    /// Unpacks planned entries into a directory that lives as long as the build.
    async fn unpack_items(&self, index: &Arc<LayerIndex>, items: Items) -> Result<PathBuf, StepError> {
        let staging = self.build.scratch()?.join("fs");
        let index = Arc::clone(index);
        blocking(move || {
            std::fs::create_dir(&staging).map_err(StepError::io("make directory", &staging))?;
            let root = open_directory(&staging)?;
            let mut contents: BTreeMap<PathBuf, _> =
                items.into_iter().map(|item| (item.entry.path, item.content)).collect();
            unpack::unpack_index(root.as_fd(), &index, Flavour::Root, &mut |entry| {
                Ok(contents.remove(&entry.path).unwrap_or(oci::pack::Content::None))
            })?;
            Ok(staging)
        })
        .await
    }

    /// Moves what this build unpacked or wrote to where later builds find it. To be called when no step runs.
    pub async fn keep(&self) -> Result<(), StepError> {
        let fresh = std::mem::take(&mut *self.fresh.lock().unwrap_or_else(PoisonError::into_inner));
        for layer in fresh {
            let (Some(directory), Some(Ok(settled))) = (layer.directory.get(), layer.settled().await) else { continue };
            let id = settled.result.diff_id.0.hex();
            let place = self.store.place_layer(self.build.staging()?, directory, FLAVOUR, &id)?;
            // Set once: a layer is in the list once.
            let _ = layer.kept.set(place);
        }
        Ok(())
    }
}

/// Packs entries into a blob of the store.
fn pack(store: &Store, items: Vec<Item>) -> Result<Settled, StepError> {
    let writer = store.layout().writer()?;
    let packed = oci::pack::pack(items.into_iter().map(Ok::<_, PackError>), ENCODING, writer);
    let packed = packed.map_err(|error| match error {
        // Says where there is no space, and what to do.
        PackError::Blob(error) => StepError::from(oci::Error::io("write a layer's blob in", store.root())(error)),
        other => other.into(),
    })?;
    let written = packed.output.finish()?;
    let descriptor = written.descriptor(media_type::Types::Oci.layer(ENCODING.compression()));
    let content_id = frontend::graph::content_id(packed.index.entries());
    let id = packed.diff_id.0.hex();
    packed.index.write(&index_path(store, &id)).map_err(|error| damaged(&id, &error))?;
    store.set_packed(&packed.diff_id, &ENCODING.to_string(), &descriptor)?;
    let result = LayerResult {
        diff_id: packed.diff_id,
        content_id,
        size: packed.tar_size,
        entries: packed.index.entries().len() as u64,
    };
    Ok(Settled { result, descriptor, index: Arc::new(packed.index) })
}

/// Opens a packed layer's tar, verified while it is read.
fn open_tar(store: &Store, blob: &Blob) -> Result<impl std::io::Read, StepError> {
    let file = store.layout().open_verified(&blob.descriptor)?;
    let (decoder, _) = Decoder::new(BufReader::with_capacity(256 << 10, file))
        .map_err(|error| StepError::Layer { layer: blob.descriptor.digest().to_string(), why: error.to_string() })?;
    Ok(decoder)
}

fn read(store: &Store, blob: &Blob) -> Result<Scan, StepError> {
    let scan = scan(open_tar(store, blob)?, Limits::default()).map_err(|error| StepError::Layer {
        layer: blob.descriptor.digest().to_string(),
        why: crate::failure::chain(&error),
    })?;
    if scan.diff_id != blob.diff_id {
        let why = format!("its content is {}, the image config says {}", scan.diff_id, blob.diff_id);
        return Err(StepError::Layer { layer: blob.descriptor.digest().to_string(), why });
    }
    Ok(scan)
}

fn resolve_scan(scan: &Scan, below: &[Arc<LayerIndex>], diff_id: DiffId) -> Result<Resolved, StepError> {
    let refused = |error: oci::layer::ResolveError| StepError::Layer {
        layer: diff_id.to_string(),
        why: crate::failure::chain(&error),
    };
    let alone = resolve(scan).map_err(refused);
    match alone {
        Ok(resolved) if resolved.self_contained => Ok(resolved),
        Ok(_) | Err(_) => {
            let view = MergedView::new(below.iter().map(|index| &**index).collect());
            resolve_onto(scan, &view).map_err(refused)
        }
    }
}

fn unpack_blob(
    store: &Store,
    build: &Build,
    blob: &Blob,
    resolved: &Resolved,
    id: &str,
    lower: &[Option<PathBuf>],
) -> Result<PathBuf, StepError> {
    let staging = build.scratch()?.join("fs");
    std::fs::create_dir(&staging).map_err(StepError::io("make directory", &staging))?;
    let root = open_directory(&staging)?;
    let mut below = |layer: usize, path: &Path| {
        let directory = lower.get(layer).and_then(Option::as_ref).ok_or(std::io::ErrorKind::NotFound)?;
        let root = tree::open_root(directory)?;
        tree::open_beneath(&root, path)
    };
    unpack::unpack_archive(
        root.as_fd(),
        resolved,
        open_tar(store, blob)?,
        Limits::default(),
        Flavour::Root,
        &mut below,
    )?;
    Ok(store.place_layer(build.staging()?, &staging, FLAVOUR, id)?)
}

fn index_path(store: &Store, id: &str) -> PathBuf {
    store.root().join("index").join(id)
}

fn open_directory(path: &Path) -> Result<OwnedFd, StepError> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| StepError::io("open", path)(errno.into()))
}

fn digest(descriptor: &Descriptor) -> Result<oci::Digest, StepError> {
    Ok(oci::document::digest_of(descriptor).map_err(oci::Error::from)?)
}

fn damaged(id: &str, error: &oci::layer::IndexError) -> StepError {
    StepError::Layer { layer: id.to_owned(), why: crate::failure::chain(error) }
}

/// Runs `work` on a thread that may block.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StepError> + Send + 'static,
) -> Result<T, StepError> {
    tokio::task::spawn_blocking(work).await.expect("the work does not panic")
}
