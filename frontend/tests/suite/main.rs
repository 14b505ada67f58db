//! Tests of the frontend from outside: whole Dockerfiles, hostile bytes, and other parsers as oracles.

mod bombs;
mod mistakes;
mod oracles;
mod plans;
mod properties;
