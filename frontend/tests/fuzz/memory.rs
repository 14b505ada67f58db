//! An allocator that counts, so that a test can bound what one call may take. It holds no policy.
//!
//! Counted per thread: tests run on threads beside each other, and the frontend starts none.
#![expect(unsafe_code, reason = "an allocator's methods are unsafe by their trait; all go to the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    // Constants without a destructor: touching them allocates nothing.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static TOTAL: Cell<usize> = const { Cell::new(0) };
}

/// What a call took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The most bytes that lived at once, beyond those that lived before.
    pub peak: usize,
    /// All bytes that were ever asked for.
    pub total: usize,
}

/// Runs a call and says what it took.
pub fn measured<T>(call: impl FnOnce() -> T) -> (T, Taken) {
    let (live, total) = (LIVE.get(), TOTAL.get());
    PEAK.set(live);
    let value = call();
    let peak = usize::try_from(PEAK.get() - live).unwrap_or(0);
    (value, Taken { peak, total: TOTAL.get().wrapping_sub(total) })
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn grow(bytes: usize) {
    let live = LIVE.get() + bytes as isize;
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
    TOTAL.set(TOTAL.get().wrapping_add(bytes));
}

fn shrink(bytes: usize) {
    LIVE.set(LIVE.get() - bytes as isize);
}

// SAFETY: every method hands its arguments to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller keeps GlobalAlloc's contract, which is System's too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        shrink(layout.size());
        // SAFETY: `at` came from System with this layout, since `alloc` and `realloc` go there.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        shrink(layout.size());
        grow(size);
        // SAFETY: as for `dealloc`; the size is the caller's to keep in bounds.
        unsafe { System.realloc(at, layout, size) }
    }
}
