//! The registry client against real and scripted servers on loopback.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod attacks;
mod auth;
mod fixture;
mod memory;
mod proxy;
mod real;
mod server;
mod sweep;
mod tls;
mod uploads;
