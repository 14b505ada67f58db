//! Solves of fake graphs by a fake worker: no privileges, no network, no real layers.

mod adoption;
mod cache;
mod explain;
mod failure;
mod fake;
mod parallel;
mod processes;
