//! Layers and a config become an image; an image becomes a layout, an archive, or a root file system on disk.
//!
//! Blobs travel as they are: nothing is compressed or packed a second time. Every blob is verified while it is
//! written out, and equal images give equal bytes. This crate knows no step, no cache and no registry; it reads a
//! [`oci::Layout`] and, for root file systems, a handle of a mounted root.

pub mod archive;
pub mod assemble;
mod closure;
mod error;
mod file;
pub mod layout;
pub mod load;
pub mod rootfs;

pub use assemble::{Addition, Assembly, Image, Layer, assemble, index};
pub use error::{Error, Result};
pub use file::write_file;
