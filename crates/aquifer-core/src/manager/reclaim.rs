//! Users' callbacks that give memory up when the manager has none left.
//!
//! A callback is the user's code and may do anything: allocate, free, panic, register, unregister, drop what it owns. So
//! it is called, and dropped, under no lock; a panic ends with it; and what it does cannot lead back into a callback.

#[cfg(all(test, not(loom)))]
mod tests;

use crate::calls::{drop_panic, panic_message};
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering, Rank, thread_local};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use tracing::error;

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
    hooks: Weak<ReclaimHooks>,
    key: HookKey,
}

impl Drop for ReclaimHook {
    fn drop(&mut self) {
        if let Some(hooks) = self.hooks.upgrade() {
            hooks.unregister(self.key);
        }
    }
}

/// In the order in which callbacks are called: by priority, then as they were registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct HookKey {
    priority: i32,
    number: u64,
}

struct Hook {
    callback: Box<dyn Fn(&ReclaimRequest) + Send + Sync>,
    is_running: AtomicBool,
}

/// A callback that this thread runs, and no other does.
struct RunningHook(Arc<Hook>);

impl RunningHook {
    /// `None` if another thread runs it.
    fn new(hook: &Arc<Hook>) -> Option<Self> {
        let is_running = hook.is_running.swap(true, Ordering::Acquire);
        (!is_running).then(|| Self(Arc::clone(hook)))
    }
}

impl Drop for RunningHook {
    fn drop(&mut self) {
        self.0.is_running.store(false, Ordering::Release);
    }
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

#[derive(Default)]
struct Registry {
    registered_count: u64,
    hooks: BTreeMap<HookKey, Arc<Hook>>,
}

/// All callbacks of one manager.
pub(crate) struct ReclaimHooks {
    count: AtomicUsize,
    registry: Mutex<Registry>,
    calls: AtomicU64,
    panics: AtomicU64,
}

impl fmt::Debug for ReclaimHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReclaimHooks").field("count", &self.count).finish_non_exhaustive()
    }
}

impl ReclaimHooks {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            count: AtomicUsize::new(0),
            registry: Mutex::new(Rank::Waiters, Registry::default()),
            calls: AtomicU64::new(0),
            panics: AtomicU64::new(0),
        })
    }

    /// Adds a callback, the last of its priority.
    pub(crate) fn register(
        self: &Arc<Self>,
        priority: i32,
        callback: impl Fn(&ReclaimRequest) + Send + Sync + 'static,
    ) -> ReclaimHook {
        let hook = Arc::new(Hook { callback: Box::new(callback), is_running: AtomicBool::new(false) });
        let mut registry = self.registry.lock();
        let key = HookKey { priority, number: registry.registered_count };
        registry.registered_count += 1;
        registry.hooks.insert(key, hook);
        self.count.store(registry.hooks.len(), Ordering::Relaxed);
        drop(registry);
        ReclaimHook { hooks: Arc::downgrade(self), key }
    }

    fn unregister(&self, key: HookKey) {
        let mut registry = self.registry.lock();
        let hook = registry.hooks.remove(&key);
        self.count.store(registry.hooks.len(), Ordering::Relaxed);
        drop(registry);
        // After the lock, since it may own anything.
        drop(hook);
    }

    /// Whether there are no callbacks. One relaxed load.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// How many callbacks have been started.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// How many panics have been caught.
    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Runs all callbacks of the lowest priority above `after` (of the lowest, if that is `None`) and answers that priority;
    /// `None` if there is none, and always on a thread that runs a callback. Callbacks that other threads are running are left
    /// out, as are those that are registered meanwhile. To be called under no lock.
    ///
    /// Who panics is counted, stays registered, and does not keep the others from running.
    pub(crate) fn run_next(&self, after: Option<i32>, needed_bytes: u64, heap_index: usize) -> Option<i32> {
        if self.is_empty() {
            return None;
        }
        let _reclaiming = Reclaiming::new()?;
        let (mut from, end) = self.priority_above(after)?;
        let priority = end.priority;
        let request = ReclaimRequest { needed_bytes, heap_index, priority };
        while let Some((key, hook)) = self.start_next(from, end) {
            self.run(hook, &request);
            from = Bound::Excluded(key);
        }
        Some(priority)
    }

    /// The first callback of the lowest priority above `after`, and the end of those that there are now of that priority.
    fn priority_above(&self, after: Option<i32>) -> Option<(Bound<HookKey>, HookKey)> {
        let last_of = |priority| Bound::Excluded(HookKey { priority, number: u64::MAX });
        let registry = self.registry.lock();
        let mut above = registry.hooks.range((after.map_or(Bound::Unbounded, last_of), Bound::Unbounded));
        let (&first, _) = above.next()?;
        Some((Bound::Included(first), HookKey { number: registry.registered_count, ..first }))
    }

    /// Starts the next callback that no other thread runs. Under the lock, so that none is started that has been
    /// unregistered.
    fn start_next(&self, from: Bound<HookKey>, end: HookKey) -> Option<(HookKey, RunningHook)> {
        let registry = self.registry.lock();
        let mut rest = registry.hooks.range((from, Bound::Excluded(end)));
        rest.find_map(|(&key, hook)| RunningHook::new(hook).map(|running| (key, running)))
    }

    fn run(&self, hook: RunningHook, request: &ReclaimRequest) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let outcome = catch_unwind(AssertUnwindSafe(|| (hook.0.callback)(request)));
        // If it has been unregistered, this drops it, which may panic too.
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(hook)));
        for panic in [outcome, dropped].into_iter().filter_map(Result::err) {
            self.panics.fetch_add(1, Ordering::Relaxed);
            let message = panic_message(&*panic);
            error!(priority = request.priority, message, "a reclaim callback panicked");
            drop_panic(panic);
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::loom_tests::explore;
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
