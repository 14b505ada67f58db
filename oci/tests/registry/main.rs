//! The registry client against real and scripted servers on loopback.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod ahead;
mod attacks;
mod auth;
mod checks;
mod counting;
mod fixture;
mod frames;
mod harbor;
mod http2;
mod leading;
mod listing;
mod memory;
mod mirrored;
mod on_harbor;
mod parts;
mod proxy;
mod races;
mod real;
mod retag;
mod round_trips;
mod server;
mod sha512;
mod sweep;
mod tls;
mod token_servers;
mod uploads;
mod waiting;
