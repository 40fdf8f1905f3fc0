//! What the processor does in streams, and its end when the device is lost.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Says whether steps of the processor's may still touch memory. The driver's promise that a lost device touches none is about the device:
/// a function of its that is under way on a thread of its goes on.
#[derive(Debug, Default)]
pub(crate) struct HostWork {
    running: AtomicUsize,
    is_over: AtomicBool,
}

impl HostWork {
    /// Does a short piece of work, unless all work is over.
    pub(super) fn run(&self, work: impl FnOnce()) {
        // Both here and in `end` the write comes before the look, in one order for all, so one of the two sees the other.
        self.running.fetch_add(1, Ordering::SeqCst);
        if !self.is_over.load(Ordering::SeqCst) {
            work();
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    /// From now on nothing is run. Blocks until what runs has ended: some hundred microseconds.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        while self.running.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
    }
}
