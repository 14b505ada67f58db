//! Layers as data: the entries of a layer, its index, and the tar form it travels in.

pub mod entry;
mod fields;
mod header;
pub mod index;
mod index_file;
pub mod merged;
pub mod reader;
pub mod scan;
pub mod tree;
pub mod writer;

pub use entry::{ContentHash, Device, Entry, Kind, Mtime, Xattrs};
pub use header::{Member, Warning, is_overlay_xattr};
pub use index::{IndexError, LayerIndex};
pub use merged::{Found, MergedView};
pub use reader::{Limit, Limits, Reader, TarError};
pub use scan::{Scan, scan, scan_with};
pub use tree::{ResolveError, Resolved, Source, resolve, resolve_onto};
pub use writer::{Encoder, WriteError};

#[cfg(test)]
mod tests;
