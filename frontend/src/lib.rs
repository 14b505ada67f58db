//! Dockerfile text to a content-hashed step graph, without IO.

pub mod debug;
pub mod giturl;
pub mod graph;
pub mod instruction;
