//! End-to-end tests of the binary: real namespaces, real overlays, foreign tools as judges.
#![expect(clippy::unwrap_used, reason = "a helper of tests that panics fails the test")]

mod arriving;
mod cache;
mod config;
mod copy;
mod copy_failures;
mod copy_mirrored;
mod damage;
mod demo;
mod dockerfiles;
mod emulation;
mod execution;
mod harness;
mod index;
mod inputs;
mod inspect;
mod lint;
mod load;
mod login;
mod mounts;
mod outputs;
mod places;
mod platforms;
mod print;
mod proxy;
mod push;
mod push_failures;
mod registry;
mod server;
mod sha512;
mod sources;
mod stacked;
mod tidy;
mod together;

/// Says that a test cannot run here; fails it instead under XBUILD_TEST_STRICT=1.
fn skip(why: &str) {
    let strict = std::env::vars().any(|(name, value)| name == "XBUILD_TEST_STRICT" && value == "1");
    assert!(!strict, "would be skipped: {why}");
    println!("SKIP: {why}");
}
