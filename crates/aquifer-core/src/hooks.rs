//! Users' callbacks: registered, called one after the other, unregistered at any time.
//!
//! A callback is the user's code and may do anything: allocate, free, panic, register, unregister, drop what it owns. So
//! it is called, and dropped, under no lock, and a panic ends with it.

use crate::calls::{drop_panic, panic_message};
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering, Rank, thread_local};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use tracing::error;

thread_local! {
    static IN_HOOK: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread runs a callback.
pub(crate) fn is_in_hook() -> bool {
    IN_HOOK.try_with(Cell::get).unwrap_or(false)
}

/// One callback, for as long as this lives: dropping it unregisters the callback, without waiting for a call that has begun.
#[derive(Debug)]
pub(crate) struct HookGuard<E> {
    hooks: Weak<Hooks<E>>,
    key: HookKey,
}

impl<E> Drop for HookGuard<E> {
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

struct Hook<E> {
    callback: Box<dyn Fn(&E) + Send + Sync>,
    is_running: AtomicBool,
}

/// A callback that this thread runs, and no other does.
struct RunningHook<E>(Arc<Hook<E>>);

impl<E> RunningHook<E> {
    /// `None` if another thread runs it.
    fn new(hook: &Arc<Hook<E>>) -> Option<Self> {
        let is_running = hook.is_running.swap(true, Ordering::Acquire);
        (!is_running).then(|| Self(Arc::clone(hook)))
    }
}

impl<E> Drop for RunningHook<E> {
    fn drop(&mut self) {
        self.0.is_running.store(false, Ordering::Release);
    }
}

struct Registry<E> {
    registered_count: u64,
    hooks: BTreeMap<HookKey, Arc<Hook<E>>>,
}

/// Callbacks that are told of one kind of event.
pub(crate) struct Hooks<E> {
    /// What a callback is, for the log.
    what: &'static str,
    count: AtomicUsize,
    registry: Mutex<Registry<E>>,
    calls: AtomicU64,
    panics: AtomicU64,
}

impl<E> fmt::Debug for Hooks<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").field("what", &self.what).field("count", &self.count).finish_non_exhaustive()
    }
}

impl<E> Hooks<E> {
    pub(crate) fn new(what: &'static str) -> Arc<Self> {
        Arc::new(Self {
            what,
            count: AtomicUsize::new(0),
            registry: Mutex::new(Rank::Waiters, Registry { registered_count: 0, hooks: BTreeMap::new() }),
            calls: AtomicU64::new(0),
            panics: AtomicU64::new(0),
        })
    }

    /// Adds a callback, the last of its priority.
    pub(crate) fn register(
        self: &Arc<Self>,
        priority: i32,
        callback: impl Fn(&E) + Send + Sync + 'static,
    ) -> HookGuard<E> {
        let hook = Arc::new(Hook { callback: Box::new(callback), is_running: AtomicBool::new(false) });
        let mut registry = self.registry.lock();
        let key = HookKey { priority, number: registry.registered_count };
        registry.registered_count += 1;
        registry.hooks.insert(key, hook);
        self.count.store(registry.hooks.len(), Ordering::Relaxed);
        drop(registry);
        HookGuard { hooks: Arc::downgrade(self), key }
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

    /// Runs all callbacks of the lowest priority above `after` (of the lowest, if that is `None`), unless that is above `up_to`, with
    /// what `event` makes for that priority, which it answers; `None` if there is none. Callbacks that other threads are running are left out, as are those
    /// that are registered meanwhile. To be called under no lock.
    ///
    /// Who panics is counted, stays registered, and does not keep the others from running.
    pub(crate) fn run_next(
        &self,
        after: Option<i32>,
        up_to: i32,
        event: impl FnOnce(i32) -> E,
    ) -> Option<i32> {
        if self.is_empty() {
            return None;
        }
        let (mut from, end) = self.priority_above(after)?;
        let priority = end.priority;
        if priority > up_to {
            return None;
        }
        let event = event(priority);
        while let Some((key, hook)) = self.start_next(from, end) {
            self.run(hook, priority, &event);
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
    fn start_next(&self, from: Bound<HookKey>, end: HookKey) -> Option<(HookKey, RunningHook<E>)> {
        let registry = self.registry.lock();
        let mut rest = registry.hooks.range((from, Bound::Excluded(end)));
        rest.find_map(|(&key, hook)| RunningHook::new(hook).map(|running| (key, running)))
    }

    fn run(&self, hook: RunningHook<E>, priority: i32, event: &E) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let was_in_hook = IN_HOOK.try_with(|in_hook| in_hook.replace(true)).unwrap_or(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| (hook.0.callback)(event)));
        let _ = IN_HOOK.try_with(|in_hook| in_hook.set(was_in_hook));
        // If it has been unregistered, this drops it, which may panic too.
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(hook)));
        for panic in [outcome, dropped].into_iter().filter_map(Result::err) {
            self.panics.fetch_add(1, Ordering::Relaxed);
            let message = panic_message(&*panic);
            error!(priority, message, "a {} panicked", self.what);
            drop_panic(panic);
        }
    }
}
