//! The target `mounts`, as `frontend/tests/fuzz/targets` defines it.
#![no_main]

#[path = "../../frontend/tests/fuzz/targets/mod.rs"]
#[allow(dead_code, unused_imports, reason = "one target of six")]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::mounts(data));
