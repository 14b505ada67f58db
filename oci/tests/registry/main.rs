//! The registry client against real and scripted servers on loopback.

mod attacks;
mod auth;
mod fixture;
mod memory;
mod proxy;
mod real;
mod server;
mod sweep;
mod uploads;
