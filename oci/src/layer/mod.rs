//! Layers as data: the entries of a layer, its index, and the tar form it travels in.

pub mod entry;
pub mod index;
mod index_file;
pub mod merged;

pub use entry::{ContentHash, Device, Entry, Kind, Mtime, Xattrs};
pub use index::{IndexError, LayerIndex};
pub use merged::{Found, MergedView};
