//! OCI nouns, the blob store that is an OCI image layout, layer archives and the registry client.
//!
//! Everything here is about bytes and names that the OCI specifications define. It knows no Dockerfile, no
//! step and no namespace. Raw bytes are kept beside every parsed document, because a digest is of bytes.

pub mod compress;
pub mod config;
pub mod debug;
pub mod digest;
pub mod document;
pub mod error;
mod json;
pub mod layer;
pub mod layout;
pub mod lock;
pub mod media_type;
pub mod pack;
pub mod platform;
pub mod reference;
pub mod registry;
pub mod store;

pub use config::{History, ImageConfig, RuntimeConfig};
pub use digest::{ChainId, DiffId, Digest};
pub use document::{Descriptor, Document};
pub use error::{Error, Result};
pub use layout::Layout;
pub use platform::Platform;
pub use reference::Reference;
pub use store::Store;
