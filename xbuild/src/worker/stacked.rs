//! Layers that are mounted as a few changes over an earlier layer's directory, where unpacking them would make mostly
//! the files that are there.
//!
//! Only overlays can take such a layer. Whoever reads files gets it unpacked, and so does whoever finds no earlier
//! layer, no index of it, or too many changes: this is never needed, only quicker.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use executor::layers::{LayerId, LayerStore, over_kind};
use oci::DiffId;
use oci::layer::LayerIndex;
use oci::pack::{Content, Item};
use oci::store::Leased;
use solver::LayerResult;

use super::error::StepError;
use super::layer::{FLAVOUR, Layer, Layers, Origin, Stack, blocking};

/// Smaller layers are unpacked: that is done in a moment, and every directory of a stack costs look-ups.
const FEW_FILES: usize = 300;
const FEW_BYTES: u64 = 8 << 20;

/// Layers of a stack beyond which nothing is stacked: the kernel takes a thousand directories.
const MOST_LAYERS: usize = 200;

/// Changes and what they go onto.
pub(super) struct Stacked {
    changes: PathBuf,
    /// Where the changes went when the build was over.
    kept: OnceLock<PathBuf>,
    base: DiffId,
    /// The directory of the base.
    below: PathBuf,
}

impl Stacked {
    /// Returns the directories, topmost first.
    pub(super) fn places(&self) -> [&Path; 2] {
        [self.kept.get().unwrap_or(&self.changes), &self.below]
    }
}

impl Layers {
    /// Makes sure that an overlay can have a layer.
    pub(super) async fn mountable(&self, stack: &Stack, position: usize) -> Result<(), StepError> {
        let layer = &stack[position];
        if layer.place().is_none() && stack.len() <= MOST_LAYERS {
            let stacked = layer.stacked.get_or_try_init(|| self.stacked(stack, position)).await?;
            if stacked.is_some() {
                return Ok(());
            }
        }
        self.unpack(stack, position).await
    }

    async fn stacked(&self, stack: &Stack, position: usize) -> Result<Option<Stacked>, StepError> {
        match &stack[position].origin {
            Origin::Planned { items, earlier: Some(earlier), .. } => {
                self.stack_planned(stack, position, items, earlier.diff_id).await
            }
            Origin::Recorded(LayerResult { diff_id, .. }) | Origin::Base { diff_id, .. } => {
                match self.whole(*diff_id)? {
                    Some(_) => Ok(None),
                    None => self.kept_stacked(*diff_id),
                }
            }
            Origin::Planned { earlier: None, .. } | Origin::Upper(_) => Ok(None),
        }
    }

    /// Makes the changes between what an op made earlier and what it has made now.
    async fn stack_planned(
        &self,
        stack: &Stack,
        position: usize,
        items: &(dyn Fn() -> Vec<Item> + Send + Sync),
        earlier: DiffId,
    ) -> Result<Option<Stacked>, StepError> {
        let new = stack[position].index.get().expect("a planned layer is made with its index");
        // Those of an attached COPY's stack are there since it was planned.
        let below: Option<Vec<_>> =
            stack[..position].iter().map(|layer| layer.index.get().cloned()).collect();
        let (false, Some(below)) = (is_little(new), below) else { return Ok(None) };
        let Some((base, directory)) = self.base(earlier)? else { return Ok(None) };
        let (layers, index) = (self.layers.clone(), Arc::clone(new));
        let changes = blocking(move || {
            let Some(old) = layers.index(base.into()) else { return Ok(None) };
            let below: Vec<&LayerIndex> = below.iter().map(|index| &**index).collect();
            Ok(executor::layers::changes(&old, &index, &below))
        });
        let Some(changes) = changes.await? else { return Ok(None) };
        let (scratch, root, items) = (self.build.scratch()?, self.store.root().to_owned(), items());
        let changes = blocking(move || {
            let fs = unpack(&scratch, &changes, items)?;
            let noted = LayerStore::note_base(&scratch, &base);
            noted.map_err(|error| StepError::layer(error, &root))?;
            Ok(fs)
        });
        Ok(Some(Stacked { changes: changes.await?, kept: OnceLock::new(), base, below: directory }))
    }

    /// Returns the unpacked layer that changes to what `earlier` is may go onto: itself, or what it is stacked on.
    fn base(&self, earlier: DiffId) -> Result<Option<(DiffId, PathBuf)>, StepError> {
        if let Some(directory) = self.whole(earlier)? {
            return Ok(Some((earlier, directory)));
        }
        Ok(self.kept_stacked(earlier)?.map(|stacked| (stacked.base, stacked.below)))
    }

    /// Returns the changes that an earlier build has kept of a layer.
    fn kept_stacked(&self, diff_id: DiffId) -> Result<Option<Stacked>, StepError> {
        let id = LayerId::from(diff_id);
        // Leased before it is looked up.
        self.build.lease(&[Leased::Layer(over_kind(FLAVOUR), id.name())])?;
        let over = self.layers.over(id).map_err(|error| StepError::layer(error, self.store.root()))?;
        let Some(over) = over else { return Ok(None) };
        let below = self.whole(over.base)?;
        let kept = OnceLock::new();
        Ok(below.map(|below| Stacked { changes: over.changes, kept, base: over.base, below }))
    }

    /// Returns the directory of an unpacked layer that stands for itself.
    fn whole(&self, diff_id: DiffId) -> Result<Option<PathBuf>, StepError> {
        let id = LayerId::from(diff_id);
        let unpacked = Leased::Layer(FLAVOUR.name().to_owned(), id.name());
        self.build.lease(&[Leased::Diff(diff_id), unpacked])?;
        Ok(self.unpacked(id))
    }

    /// Moves changes that this build made to where later builds find them.
    pub(super) fn keep_stacked(&self, layer: &Layer, diff_id: DiffId) -> Result<(), StepError> {
        let Some(Some(stacked)) = layer.stacked.get() else { return Ok(()) };
        let whole = stacked.changes.parent().expect("changes are in a directory of their own");
        let published = self.layers.publish_over(self.build.staging()?, whole, diff_id.into());
        let published = published.map_err(|error| StepError::layer(error, self.store.root()))?;
        // Another build's changes to the same layer may go onto another base: then ours stay where they are.
        if let Some(over) = published.filter(|over| over.base == stacked.base) {
            let _ = stacked.kept.set(over.changes);
        }
        Ok(())
    }
}

fn is_little(index: &LayerIndex) -> bool {
    index.entries().len() < FEW_FILES
        && index.entries().iter().map(oci::layer::Entry::size).sum::<u64>() < FEW_BYTES
}

/// Unpacks an index into `fs` of a directory, with the bytes that the items have. Both are in path order, and the items are
/// at least those of the index.
pub(super) fn unpack(directory: &Path, index: &LayerIndex, items: Vec<Item>) -> Result<PathBuf, StepError> {
    let fs = directory.join("fs");
    std::fs::create_dir(&fs).map_err(StepError::io("make directory", &fs))?;
    let root = executor::tree::open_root(&fs).map_err(StepError::io("open", &fs))?;
    let mut items = items.into_iter();
    executor::unpack::unpack_index(root.as_fd(), index, FLAVOUR, &mut |entry| {
        let item = items.find(|item| item.entry.path == entry.path);
        Ok(item.map_or(Content::None, |item| item.content))
    })?;
    Ok(fs)
}
