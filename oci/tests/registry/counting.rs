//! An allocator that counts, so that a test can bound what a client takes. It holds no policy.
//!
//! Counted per thread: a client lives on the thread of its test, servers and other tests have threads of their own.
#![expect(unsafe_code, reason = "an allocator's methods are unsafe by their trait; all go to the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    // Constants without a destructor: touching them allocates nothing.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// What lived on this thread when it was made; what has come since can be asked.
pub struct Taken(isize);

impl Taken {
    pub fn since_now() -> Self {
        let live = LIVE.get();
        PEAK.set(live);
        Self(live)
    }

    /// The most bytes that lived at once, beyond those that lived before.
    pub fn peak(&self) -> u64 {
        u64::try_from(PEAK.get() - self.0).unwrap_or(0)
    }
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: isize) {
    let live = LIVE.get() + bytes;
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

// SAFETY: every method hands its arguments to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps GlobalAlloc's contract, which is System's too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: `at` came from System with this layout, since `alloc` and `realloc` go there.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as for `dealloc`; the size is the caller's to keep in bounds.
        unsafe { System.realloc(at, layout, size) }
    }
}
