//! Dockerfile text to a content-hashed step graph, without IO.

mod boolean;
pub mod debug;
pub mod diagnostic;
mod directives;
pub mod expand;
mod file;
pub mod giturl;
pub mod graph;
mod heredoc;
pub mod instruction;
mod lines;
pub mod lint;
pub mod lower;
mod parse;
pub mod print;
pub mod render;
mod source;
pub mod stage;
pub mod suggest;

pub use diagnostic::{Diagnostic, Severity};
pub use file::{Check, Directives, File, Position};
pub use lower::{Known, Lowered, Need, Options, lower};
pub use parse::mount::{Expander, MountError};
pub use parse::{parse, parse_trigger};
