//! Unpacked layers on disk.

mod flavour;

pub use flavour::Flavour;
