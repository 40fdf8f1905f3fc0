//! Users' callbacks that give memory up when the manager has none left.
//!
//! What they do cannot lead back into a callback.

#[cfg(all(test, not(loom)))]
mod tests;

use crate::hooks::{HookGuard, Hooks};
use crate::sync::thread_local;
use std::cell::Cell;
use std::sync::Arc;

/// What a reclaim callback is told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReclaimRequest {
    /// How many bytes the allocation needs that found no room. To free fewer may help too, and to free as many may not
    /// be enough, if they are not side by side.
    pub needed_bytes: u64,
    /// The heap that has too little: its place in [`Properties::heaps`](aquifer_backend::Properties::heaps).
    pub heap_index: usize,
    /// The priority that the callback was registered with.
    pub priority: i32,
}

/// A reclaim callback, for as long as this lives: dropping it unregisters the callback.
///
/// Any thread may drop it, the callback itself too, and also when the manager has gone; it waits for nothing but a short
/// lock. When that has returned, the callback is not started any more. One that another thread has just started may still
/// run; the callback, with what it owns, is dropped when that ends.
///
/// To forget it ([`std::mem::forget`]) leaves the callback registered for as long as there is a manager. A callback that
/// owns a handle of its manager keeps the manager alive.
#[derive(Debug)]
#[must_use = "dropping it unregisters the callback"]
pub struct ReclaimHook {
    _guard: HookGuard<ReclaimRequest>,
}

thread_local! {
    static IS_RECLAIMING: Cell<bool> = const { Cell::new(false) };
}

/// This thread runs callbacks, of whichever manager.
struct Reclaiming;

impl Reclaiming {
    /// `None` if it does already, or if it is past its thread-locals.
    fn new() -> Option<Self> {
        let was_reclaiming = IS_RECLAIMING.try_with(|is_reclaiming| is_reclaiming.replace(true));
        // Not `then_some`, which would make one and drop it.
        (!was_reclaiming.unwrap_or(true)).then(|| Self)
    }
}

/// Whether this thread runs a callback, of whichever manager.
pub(super) fn is_reclaiming() -> bool {
    IS_RECLAIMING.try_with(Cell::get).unwrap_or(false)
}

impl Drop for Reclaiming {
    fn drop(&mut self) {
        IS_RECLAIMING.with(|is_reclaiming| is_reclaiming.set(false));
    }
}

/// All callbacks of one manager.
#[derive(Debug)]
pub(crate) struct ReclaimHooks(Arc<Hooks<ReclaimRequest>>);

impl ReclaimHooks {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Hooks::new("reclaim callback")))
    }

    /// Adds a callback, the last of its priority.
    pub(crate) fn register(
        &self,
        priority: i32,
        callback: impl Fn(&ReclaimRequest) + Send + Sync + 'static,
    ) -> ReclaimHook {
        ReclaimHook { _guard: self.0.register(priority, callback) }
    }

    /// Whether there are no callbacks. One relaxed load.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many callbacks have been started.
    pub(crate) fn calls(&self) -> u64 {
        self.0.calls()
    }

    /// How many panics have been caught.
    pub(crate) fn panics(&self) -> u64 {
        self.0.panics()
    }

    /// Runs all callbacks of the lowest priority above `after`, as [`Hooks::run_next`] does, and answers that priority; `None` if
    /// there is none, and always on a thread that runs a callback.
    pub(crate) fn run_next(&self, after: Option<i32>, needed_bytes: u64, heap_index: usize) -> Option<i32> {
        self.run_next_up_to(i32::MAX, after, needed_bytes, heap_index)
    }

    /// As [`ReclaimHooks::run_next`], but none above priority `up_to`.
    pub(crate) fn run_next_up_to(
        &self,
        up_to: i32,
        after: Option<i32>,
        needed_bytes: u64,
        heap_index: usize,
    ) -> Option<i32> {
        if self.is_empty() {
            return None;
        }
        let _reclaiming = Reclaiming::new()?;
        self.0.run_next(after, up_to, |priority| ReclaimRequest { needed_bytes, heap_index, priority })
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::loom_tests::explore;
    use crate::sync::{AtomicU64, Ordering};
    use loom::thread;

    /// Two threads run a callback that only one at a time may run, while its hook is dropped. Each runs it or skips it,
    /// and the callback goes in the end.
    ///
    /// 580 runs, under 0.1 s.
    #[test]
    fn one_thread_at_a_time_runs_a_callback() {
        explore(3, || {
            let (hooks, runs) = (ReclaimHooks::new(), Arc::new(AtomicU64::new(0)));
            let hook = hooks.register(0, {
                let runs = Arc::clone(&runs);
                // Right only if all other runs happen before or after.
                move |_| runs.store(runs.load(Ordering::Relaxed) + 1, Ordering::Relaxed)
            });
            let running = [(); 2].map(|()| {
                let hooks = Arc::clone(&hooks);
                thread::spawn(move || hooks.run_next(None, 1, 0))
            });
            drop(hook);
            for thread in running {
                thread.join().expect("the thread ends");
            }
            assert_eq!(runs.load(Ordering::Relaxed), hooks.calls());
            assert_eq!(Arc::strong_count(&runs), 1);
        });
    }
}
