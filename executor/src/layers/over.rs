//! Unpacked layers that are kept as changes over another layer's directory.
//!
//! ```text
//! layers/<flavour>+over/<id>/fs    what the layer has and the other has not ([`super::changes`])
//! layers/<flavour>+over/<id>/over  diff id of the other, which has to be unpacked whole
//! ```
//! They serve overlays only; who wants to read files unpacks the layer. One whose other layer is gone is of no use,
//! and is a miss.

use std::path::{Path, PathBuf};

use oci::DiffId;
use oci::store::Staging;

use super::store::{LayerError, LayerStore, io_error};
use super::{Flavour, LayerId};

/// The file with the diff id of the other layer.
const BASE: &str = "over";

/// A layer that is kept as changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    /// The root of the changes.
    pub changes: PathBuf,
    /// The layer that they go onto.
    pub base: DiffId,
}

/// Returns the directory of `layers/` that changes are in; a lease names it like a flavour.
pub fn kind(flavour: Flavour) -> String {
    format!("{}+over", flavour.name())
}

impl LayerStore {
    /// Returns the changes that a layer is kept as. Whether the layer that they go onto is there is not looked at.
    ///
    /// # Errors
    /// [`LayerError::Store`].
    pub fn over(&self, id: LayerId) -> Result<Option<Over>, LayerError> {
        let Some(directory) = self.store().layer(&kind(self.flavour()), &id.name())? else { return Ok(None) };
        // Damage is a miss: the layer can be unpacked.
        let text = std::fs::read_to_string(directory.join(BASE)).unwrap_or_default();
        let base = text.trim().parse().ok().map(DiffId);
        Ok(base.map(|base| Over { changes: directory.join("fs"), base }))
    }

    /// Notes in `layer`, a directory with changes in its `fs`, what they go onto.
    ///
    /// # Errors
    /// [`LayerError::Io`].
    pub fn note_base(layer: &Path, base: &DiffId) -> Result<(), LayerError> {
        let path = layer.join(BASE);
        std::fs::write(&path, format!("{}\n", base.0)).map_err(io_error("write", &path))
    }

    /// Publishes such a directory as the layer `id`. Where other changes are kept as it already, those stay and are
    /// the result.
    ///
    /// # Errors
    /// [`LayerError::Store`].
    pub fn publish_over(
        &self,
        staging: &Staging,
        layer: &Path,
        id: LayerId,
    ) -> Result<Option<Over>, LayerError> {
        self.store().place_layer(staging, layer, &kind(self.flavour()), &id.name())?;
        self.over(id)
    }
}
