//! The registry client against real and scripted servers on loopback.

mod fixture;
mod proxy;
mod real;
mod server;
mod sweep;
