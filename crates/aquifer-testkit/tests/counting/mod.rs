//! An allocator that counts its calls.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// The system's allocator, which counts each thread's calls and those of all.
struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}
static CALLS_OF_ALL: AtomicU64 = AtomicU64::new(0);

fn count() {
    CALLS.set(CALLS.get() + 1);
    CALLS_OF_ALL.fetch_add(1, Ordering::Relaxed);
}

// SAFETY: every call is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps to the contract of this very method.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often this thread calls meanwhile.
#[allow(dead_code, unreachable_pub, reason = "each test uses one of these")]
pub fn calls_of(work: impl FnOnce()) -> u64 {
    let before = CALLS.get();
    work();
    CALLS.get() - before
}

/// How often any thread calls meanwhile.
#[allow(dead_code, unreachable_pub, reason = "each test uses one of these")]
pub fn calls_of_all_threads(work: impl FnOnce()) -> u64 {
    let before = CALLS_OF_ALL.load(Ordering::Relaxed);
    work();
    CALLS_OF_ALL.load(Ordering::Relaxed) - before
}
