//! Dockerfile text to a content-hashed step graph, without IO.

pub mod debug;
pub mod diagnostic;
pub mod expand;
mod file;
pub mod giturl;
pub mod graph;
pub mod instruction;

pub use diagnostic::{Diagnostic, Severity};
pub use file::{Check, Directives, File, Position};
