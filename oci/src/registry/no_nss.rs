//! Keeps glibc's name service switch out of the static binary. Resolves nothing.
//!
//! `hyper-util` links a resolver that calls `getaddrinfo` even where another resolver is configured. In a
//! static glibc binary that function loads NSS modules of whatever libc the host has, which crashes or answers
//! wrongly. These definitions take the place of glibc's archive members, so nothing of them is linked; they
//! always fail, because every name goes through `dns.rs`. The same holds for the standard library's look-up of a
//! home directory.
#![expect(unsafe_code, reason = "defines two C symbols, see the module doc")]

use std::ffi::{c_char, c_int, c_void};

/// `EAI_FAIL` of netdb.h: a non-recoverable failure.
const EAI_FAIL: c_int = -4;

/// Fails always: names are resolved by `dns.rs`.
// SAFETY: the symbol replaces glibc's of the same signature; it reads and writes none of its arguments.
#[unsafe(no_mangle)]
pub extern "C" fn getaddrinfo(
    _node: *const c_char,
    _service: *const c_char,
    _hints: *const c_void,
    _result: *mut *mut c_void,
) -> c_int {
    EAI_FAIL
}

/// Frees nothing: `getaddrinfo` above never gives anything out.
// SAFETY: the symbol replaces glibc's of the same signature; the pointer is not touched.
#[unsafe(no_mangle)]
pub extern "C" fn freeaddrinfo(_result: *mut c_void) {}

/// Finds nobody: the standard library asks it for a home directory where HOME is not set.
// SAFETY: the symbol replaces glibc's of the same signature; `result` is the caller's pointer to a pointer, which
// getpwuid_r(3) sets to null where there is no entry.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getpwuid_r(
    _uid: u32,
    _entry: *mut c_void,
    _buffer: *mut c_char,
    _size: usize,
    result: *mut *mut c_void,
) -> c_int {
    // SAFETY: see above; a null `result` would be a caller's mistake that glibc does not survive either.
    unsafe { *result = std::ptr::null_mut() };
    0
}

/// A reference that keeps the definitions in every binary that can make a client.
pub(super) fn keep() -> bool {
    let all: [*const (); 3] = [getaddrinfo as *const (), freeaddrinfo as *const (), getpwuid_r as *const ()];
    std::hint::black_box(all).iter().all(|function| !function.is_null())
}
