//! Layers in the store: their indexes, their blobs, their unpacked directories, and the ways between.
//!
//! Any residence is made from another, none before somebody asks. What a layer is for, and when it is needed, is
//! the worker's; nothing here knows a manifest or a registry.

mod changes;
mod flavour;
mod id;
mod over;
mod store;

#[cfg(test)]
pub(crate) use changes::all_changes;
pub use changes::changes;
pub use flavour::Flavour;
pub use id::LayerId;
pub use over::{Over, kind as over_kind};
pub use store::{LayerError, LayerStore, PackedLayer, StreamedLayer};
