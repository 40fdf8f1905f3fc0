//! Every atomic, lock, fence and thread-local of the core, so that loom can stand in for them.
//!
//! Left out are what loom has no model of or no use for: statics ([`StaticMutex`]), and the locks around names,
//! blocks, observers, and what is told and counted of pressure, under which nothing of this module is used, so that to loom they are
//! never contended. A budget group's lock is a leaf, too, taken under the growth lock: files are read and written under it.
//!
//! # Locks
//!
//! A [`Mutex`] has a [`Rank`]; a thread may only take locks of rising rank, which debug builds check at every lock (not
//! under loom, whose threads are one to the system).
//!
//! # Fences
//!
//! A thread cache is used by its own thread millions of times for each time another thread looks into it. So the owner
//! pays only a [`LightFence`] (nothing but an order for the compiler), and whoever looks in pays [`heavy_fence`]
//! (a system call that makes every running thread of the process pass a full fence; Linux: `membarrier`). Where the
//! system has no such call, both are ordinary full fences. Either way: of two threads that each write one place, pass
//! their fence and read the other's place, at least one sees the other's write.

use std::sync::Arc;
use std::task::Wake;

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

#[cfg(loom)]
pub(crate) use loom::thread::yield_now;
#[cfg(not(loom))]
pub(crate) use std::thread::yield_now;

/// Loom's thread-locals, in the form of `std`'s that begin with a constant, which loom's own macro does not take.
#[cfg(loom)]
macro_rules! loom_thread_local {
    ($(static $name:ident: $type:ty = const $value:block;)+) => {
        loom::thread_local! { $(static $name: $type = $value;)+ }
    };
}
#[cfg(loom)]
pub(crate) use loom_thread_local as thread_local;
#[cfg(not(loom))]
pub(crate) use std::thread_local;

/// A lock for statics. They outlive a run of a model, so loom cannot stand in for it. A leaf: nothing of this module
/// is used under it.
pub(crate) use parking_lot::Mutex as StaticMutex;

/// An atomic that loom need not know: whoever reads it has been handed it by who wrote it, or does not care about order.
pub(crate) use std::sync::atomic::AtomicU64 as UnmodelledAtomicU64;

/// The size of a table: `size`, or `in_models` under loom, which makes every atomic anew in every run.
pub(crate) const fn table_size(size: u64, in_models: u64) -> u64 {
    if cfg!(loom) { in_models } else { size }
}

/// The order in which locks may be taken, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// One thread at a time makes a pool grow or shrink. The only lock under which a driver is called.
    Growth,
    /// One thread at a time puts a marker into a queue.
    Signal,
    /// Whether threads are kept out of their caches.
    Hold,
    /// Which thread caches a pool has.
    Registry,
    /// An ending thread tells a manager's tally what it has not told yet.
    Tally,
    /// What queues have passed goes back to where it is found again.
    Moving,
    /// What waits for queues.
    Quarantine,
    /// One class of the depot.
    Depot,
    /// A pool's ranges, slabs and counters.
    PoolState,
    /// Which pinned allocations are live. Nothing is taken under it.
    Pinned,
    /// Who is to be woken or called back: waiting allocations, cancellation, reclaim hooks. Nothing is taken under it.
    Waiters,
    /// Who uses which part of a shared allocation. Nothing is taken under it, but a second of them by [`Mutex::lock_both`].
    Parts,
}

/// A mutual exclusion lock with a rank. It has no poison: no code of the user's runs under it.
#[derive(Debug)]
pub(crate) struct Mutex<T> {
    #[cfg(all(debug_assertions, not(loom)))]
    rank: Rank,
    #[cfg(not(loom))]
    inner: parking_lot::Mutex<T>,
    #[cfg(loom)]
    inner: loom::sync::Mutex<T>,
}

#[cfg(not(loom))]
type InnerGuard<'a, T> = parking_lot::MutexGuard<'a, T>;
#[cfg(loom)]
type InnerGuard<'a, T> = loom::sync::MutexGuard<'a, T>;

impl<T> Mutex<T> {
    pub(crate) fn new(rank: Rank, value: T) -> Self {
        #[cfg(not(all(debug_assertions, not(loom))))]
        let _ = rank;
        Self {
            #[cfg(all(debug_assertions, not(loom)))]
            rank,
            #[cfg(not(loom))]
            inner: parking_lot::Mutex::new(value),
            #[cfg(loom)]
            inner: loom::sync::Mutex::new(value),
        }
    }

    /// Waits for the lock.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        #[cfg(all(debug_assertions, not(loom)))]
        let held = held::Held::new(self.rank);
        MutexGuard {
            inner: self.lock_inner(),
            #[cfg(all(debug_assertions, not(loom)))]
            _held: held,
        }
    }

    /// Waits for two locks of one rank, which are not the same lock, and answers them in the order in which they are given. They
    /// are taken in the order of their addresses, so that nobody who takes them crosswise waits for ever.
    pub(crate) fn lock_both<'a>(one: &'a Self, other: &'a Self) -> (MutexGuard<'a, T>, MutexGuard<'a, T>) {
        debug_assert!(!std::ptr::eq(one, other), "a lock is taken twice");
        if std::ptr::from_ref(one) > std::ptr::from_ref(other) {
            let (other, one) = Self::lock_both(other, one);
            return (one, other);
        }
        let one = one.lock();
        #[cfg(all(debug_assertions, not(loom)))]
        let held = held::Held::beside(other.rank);
        let other = MutexGuard {
            inner: other.lock_inner(),
            #[cfg(all(debug_assertions, not(loom)))]
            _held: held,
        };
        (one, other)
    }

    fn lock_inner(&self) -> InnerGuard<'_, T> {
        #[cfg(not(loom))]
        return self.inner.lock();
        #[cfg(loom)]
        return self.inner.lock().expect("loom's locks are not poisoned: a panic ends the run");
    }
}

/// The lock, held.
#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    inner: InnerGuard<'a, T>,
    #[cfg(all(debug_assertions, not(loom)))]
    _held: held::Held,
}

impl<T> std::ops::Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> std::ops::DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[cfg(all(debug_assertions, not(loom)))]
mod held {
    use super::Rank;
    use std::cell::RefCell;

    thread_local! {
        static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
    }

    /// A note that this thread holds a lock. A thread that is past its thread-locals is not checked.
    #[derive(Debug)]
    pub(super) struct Held(Rank);

    impl Held {
        pub(super) fn new(rank: Rank) -> Self {
            Self::note(rank, |highest| highest < rank)
        }

        /// For the second of two locks of one rank, which are taken together.
        pub(super) fn beside(rank: Rank) -> Self {
            Self::note(rank, |highest| highest == rank)
        }

        fn note(rank: Rank, may_be_under: impl Fn(Rank) -> bool) -> Self {
            let _ = HELD.try_with(|held| {
                let mut held = held.borrow_mut();
                let highest = held.iter().max();
                assert!(
                    highest.is_none_or(|&highest| may_be_under(highest)),
                    "lock {rank:?} taken under {highest:?}"
                );
                held.push(rank);
            });
            Self(rank)
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            let _ = HELD.try_with(|held| {
                let mut held = held.borrow_mut();
                let place = held.iter().rposition(|rank| *rank == self.0);
                held.remove(place.expect("a held lock is listed"));
            });
        }
    }
}

/// Where one thread sleeps until it is woken. To wake it before it sleeps keeps it from sleeping.
#[derive(Debug)]
pub(crate) struct Sleeper {
    #[cfg(not(loom))]
    is_woken: parking_lot::Mutex<bool>,
    #[cfg(not(loom))]
    wake: parking_lot::Condvar,
    #[cfg(loom)]
    notify: loom::sync::Notify,
}

#[cfg(not(loom))]
impl Sleeper {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { is_woken: parking_lot::Mutex::new(false), wake: parking_lot::Condvar::new() })
    }

    /// Blocks until it has been woken since the last sleep.
    pub(crate) fn sleep(&self) {
        let mut is_woken = self.is_woken.lock();
        self.wake.wait_while(&mut is_woken, |is_woken| !*is_woken);
        *is_woken = false;
    }
}

#[cfg(loom)]
impl Sleeper {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { notify: loom::sync::Notify::new() })
    }

    pub(crate) fn sleep(&self) {
        self.notify.wait();
    }
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        #[cfg(not(loom))]
        {
            *self.is_woken.lock() = true;
            self.wake.notify_one();
        }
        #[cfg(loom)]
        self.notify.notify();
    }
}

/// The cheap side of the asymmetric fence. Made once per thread cache, so that the hot path need not look up which
/// kind the system has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LightFence {
    #[cfg_attr(loom, expect(dead_code, reason = "loom knows full fences only"))]
    is_compiler_only: bool,
}

impl LightFence {
    pub(crate) fn new() -> Self {
        Self { is_compiler_only: process_wide::is_registered() }
    }

    #[inline]
    pub(crate) fn pass(self) {
        #[cfg(not(loom))]
        if self.is_compiler_only {
            std::sync::atomic::compiler_fence(Ordering::SeqCst);
            return;
        }
        fence(Ordering::SeqCst);
    }
}

/// The dear side of the asymmetric fence: a few microseconds. False if the system refused, which it does not once the
/// process is registered, save in a sandbox that was closed later; then nothing has been ordered.
#[must_use]
pub(crate) fn heavy_fence() -> bool {
    fence(Ordering::SeqCst);
    !process_wide::is_registered() || process_wide::fence_all_threads()
}

#[cfg(all(target_os = "linux", not(loom)))]
mod process_wide {
    use rustix::thread::{MembarrierCommand, membarrier};
    use std::sync::OnceLock;

    /// Whether every thread of this process can be made to pass a fence. Decided once, since light fences of both
    /// kinds must not mix.
    pub(super) fn is_registered() -> bool {
        static REGISTERED: OnceLock<bool> = OnceLock::new();
        *REGISTERED.get_or_init(|| membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok())
    }

    pub(super) fn fence_all_threads() -> bool {
        membarrier(MembarrierCommand::PrivateExpedited).is_ok()
    }
}

#[cfg(any(not(target_os = "linux"), loom))]
mod process_wide {
    pub(super) fn is_registered() -> bool {
        false
    }

    pub(super) fn fence_all_threads() -> bool {
        true
    }
}
