//! Packed layers of a build: the outcome of packing, and what an archive amounts to on a stack. Opens no file.

use std::sync::Arc;

use executor::layers::{LayerId, PackedLayer};
use oci::DiffId;
use oci::document::Descriptor;
use oci::layer::{LayerIndex, MergedView, Resolved, Scan, resolve, resolve_onto};
use oci::reference::Reference;
use solver::LayerResult;
use tokio::sync::watch;

use super::error::StepError;

/// The outcome of packing in the background; nothing as long as it goes on.
pub(super) type Packing = watch::Receiver<Option<Result<Settled, StepError>>>;

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

/// Waits until a layer is packed.
pub(super) async fn wait(mut packing: Packing) -> Result<Settled, StepError> {
    match packing.wait_for(Option::is_some).await {
        Ok(value) => value.clone().expect("it was waited for"),
        Err(_) => Err(StepError::Stopped),
    }
}

/// Makes what a record needs of a packed layer.
pub(super) fn settled(packed: PackedLayer) -> Settled {
    let entries = packed.index.entries();
    let result = LayerResult {
        diff_id: packed.diff_id,
        content_id: frontend::graph::content_id(entries),
        size: packed.size,
        entries: entries.len() as u64,
    };
    Settled { result, descriptor: packed.descriptor, index: packed.index }
}

/// Says what an archive amounts to on top of `below`, after checking that it is the one the config names.
pub(super) fn resolved(scan: &Scan, below: &[Arc<LayerIndex>], blob: &Blob) -> Result<Resolved, StepError> {
    let layer = || blob.descriptor.digest().to_string();
    if scan.diff_id != blob.diff_id {
        let why = format!("its content is {}, the image config says {}", scan.diff_id, blob.diff_id);
        return Err(StepError::Layer { layer: layer(), why });
    }
    match resolve(scan) {
        Ok(resolved) if resolved.self_contained => Ok(resolved),
        Ok(_) | Err(_) => {
            let view = MergedView::new(below.iter().map(|index| &**index).collect());
            let refused = |error| StepError::Layer { layer: layer(), why: crate::failure::chain(&error) };
            resolve_onto(scan, &view).map_err(refused)
        }
    }
}

/// Returns under which name a layer is kept: its own, or that of its chain.
pub(super) fn id_of(resolved: &Resolved, [alone, chained]: [LayerId; 2]) -> LayerId {
    if resolved.self_contained { alone } else { chained }
}
