//! Dockerfile text to a content-hashed step graph, without IO.

pub mod graph;
pub mod instruction;
