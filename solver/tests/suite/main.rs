//! Solves of fake graphs by a fake worker: no privileges, no network, no real layers.

#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod adoption;
mod cache;
mod explain;
mod failure;
mod fake;
mod parallel;
mod processes;
mod property;
