//! Steps to snapshots: trees, contexts, COPY and ADD, layers on disk and the sandbox of RUN.
//!
//! It knows no cache, no manifest and no registry.

pub mod context;
pub mod copy;
pub mod diff;
pub mod layers;
pub mod owner;
pub mod sandbox;
pub mod tree;
pub mod unpack;
