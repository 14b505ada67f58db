//! Layers as data: the entries of a layer, and the tar form they travel in.

pub mod entry;

pub use entry::{ContentHash, Device, Entry, Kind, Mtime, Xattrs};
