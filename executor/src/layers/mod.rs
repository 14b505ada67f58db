//! Layers in the store: their indexes, their blobs, their unpacked directories, and the ways between.
//!
//! Any residence is made from another, none before somebody asks. What a layer is for, and when it is needed, is
//! the worker's; nothing here knows a manifest or a registry.

mod flavour;
mod id;
mod store;

pub use flavour::Flavour;
pub use id::LayerId;
pub use store::{LayerError, LayerStore, PackedLayer, StreamedLayer};
