//! Which cache this thread has of which lane of a pool.
//!
//! A lane has an identity, which is never used again, and a number, its own until it is dropped. A thread keeps its
//! caches in a list by number. When it ends, they go back to their pools.
//!
//! The list is behind a `RefCell`, whose borrow count is written and read back four times a pair, each time waiting for
//! the store before: a hot pair took 26 ns with it, and 20 ns without. So the caches used last are also in [`RECENT`],
//! as plain pointers, found by identity alone: a buffer carries its lane's identity and need not ask the pool.

use crate::pool::{Lane, Pool, ThreadCache};
use crate::sync::{StaticMutex, thread_local};
use std::cell::{Cell, RefCell};
use std::ptr;
use std::sync::{Arc, Weak};

/// Tells a lane from every other that was or will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneIdentity(u32);

impl LaneIdentity {
    /// Of no lane.
    const NONE: Self = Self(0);
    /// Of no lane either, and of no thread's cache: memory that users brought. [`LaneId::new`] stops before it.
    pub(crate) const IMPORTED: Self = Self(u32::MAX);

    #[inline]
    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    #[inline]
    pub(crate) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// A lane's identity and number.
#[derive(Debug)]
pub(crate) struct LaneId {
    pub(crate) identity: LaneIdentity,
    number: usize,
}

/// What the next lane is called.
struct Next {
    identity: u32,
    /// Numbers that are free again, below the first one never used.
    unused: Vec<usize>,
    number: usize,
}

static NEXT: StaticMutex<Next> =
    StaticMutex::new(Next { identity: LaneIdentity::NONE.0 + 1, unused: Vec::new(), number: 0 });

impl LaneId {
    /// # Panics
    ///
    /// After 2^32 - 1 lanes, since two alike would be one thread's cache for both.
    pub(crate) fn new() -> Self {
        let mut next = NEXT.lock();
        let identity = LaneIdentity(next.identity);
        next.identity = identity.0.checked_add(1).expect("fewer than 2^32 lanes in one process");
        let number = next.unused.pop().unwrap_or_else(|| {
            next.number += 1;
            next.number - 1
        });
        Self { identity, number }
    }
}

impl Drop for LaneId {
    fn drop(&mut self) {
        NEXT.lock().unused.push(self.number);
    }
}

#[derive(Debug)]
struct Local {
    identity: LaneIdentity,
    cache: Arc<ThreadCache>,
    pool: Weak<Pool>,
}

impl Local {
    /// Makes it the cache that is found fast.
    fn put_at_hand(&self) {
        let recent = Recent { identity: self.identity, cache: Arc::as_ptr(&self.cache) };
        RECENT.with(|entries| entries[self.identity.0 as usize % RECENT_COUNT].set(recent));
    }
}

/// This thread's caches, by lane number. The owner of what [`RECENT`] points to.
#[derive(Debug, Default)]
struct Locals(RefCell<Vec<Option<Local>>>);

/// A cache of this thread and the lane it is of.
#[derive(Debug, Clone, Copy)]
struct Recent {
    identity: LaneIdentity,
    cache: *const ThreadCache,
}

const NO_CACHE: Recent = Recent { identity: LaneIdentity::NONE, cache: ptr::null() };
/// How many caches of a thread can be reached fast: those of lanes whose identities differ modulo this.
const RECENT_COUNT: usize = 32;

thread_local! {
    static LOCALS: Locals = const { Locals(RefCell::new(Vec::new())) };
    static RECENT: [Cell<Recent>; RECENT_COUNT] = const { [const { Cell::new(NO_CACHE) }; RECENT_COUNT] };
}

impl Drop for Locals {
    fn drop(&mut self) {
        // `RECENT` has no destructor and may still be read after this. It is gone only in models, where every
        // thread-local ends with its thread.
        let _ = RECENT.try_with(|recent| recent.iter().for_each(|entry| entry.set(NO_CACHE)));
        for local in self.0.get_mut().drain(..).flatten() {
            if let Some(pool) = local.pool.upgrade() {
                pool.retire(&local.cache);
            }
        }
    }
}

/// Calls `use_cache` with this thread's cache of the lane; `None` if it has none at hand. `use_cache` must not allocate
/// or free through a manager.
#[inline]
pub(crate) fn with<R>(
    identity: LaneIdentity,
    use_cache: impl FnOnce(&ThreadCache) -> Option<R>,
) -> Option<R> {
    let recent = RECENT.with(|recent| recent[identity.0 as usize % RECENT_COUNT].get());
    if recent.identity != identity {
        return None;
    }
    // SAFETY: the entry points into an `Arc` in this thread's `LOCALS`. Entries of `LOCALS` are replaced only by
    // `bring` and dropped only by `Locals::drop`, on this thread, and both overwrite the entry here first. Neither
    // (nor `put_at_hand`, which leaves the caches as they are)
    // runs during `use_cache`: the thread is not ending, and `bring` is reached only by allocating or freeing, which
    // the core's callers of this function, the only ones, do not do inside it.
    use_cache(unsafe { &*recent.cache })
}

/// As [`with`], and makes the cache if there is none; `None` also if the thread is ending or the pool has been closed.
pub(crate) fn with_or_make<R>(
    pool: &Arc<Pool>,
    lane: &Arc<Lane>,
    use_cache: impl FnOnce(&ThreadCache) -> R,
) -> Option<R> {
    let identity = lane.identity();
    let is_at_hand = with(identity, |_| Some(())).is_some();
    if is_at_hand || bring(pool, lane) { with(identity, |cache| Some(use_cache(cache))) } else { None }
}

/// As [`with`], and finds the cache also if it is not at hand; `None` if this thread has none of the lane.
pub(crate) fn with_own<R>(lane: &Lane, use_cache: impl FnOnce(&ThreadCache) -> R) -> Option<R> {
    let LaneId { number, identity } = lane.id;
    if with(identity, |_| Some(())).is_none() {
        LOCALS
            .try_with(|locals| {
                let locals = locals.0.borrow();
                let local = locals.get(number)?.as_ref().filter(|local| local.identity == identity)?;
                local.put_at_hand();
                Some(())
            })
            .ok()??;
    }
    with(identity, |cache| Some(use_cache(cache)))
}

/// Makes this thread's cache of the pool the one at hand; false if there can be none.
#[cold]
fn bring(pool: &Arc<Pool>, lane: &Arc<Lane>) -> bool {
    let LaneId { number, identity } = lane.id;
    let found = LOCALS.try_with(|locals| {
        let mut locals = locals.0.borrow_mut();
        if locals.len() <= number {
            locals.resize_with(number + 1, || None);
        }
        let local = match &mut locals[number] {
            Some(local) if local.identity == identity => local,
            other => {
                let cache = pool.enlist(lane)?;
                if let Some(gone) = other.take() {
                    let entry = gone.identity.0 as usize % RECENT_COUNT;
                    RECENT.with(|recent| recent[entry].set(NO_CACHE));
                }
                other.insert(Local { identity, cache, pool: Arc::downgrade(pool) })
            }
        };
        local.put_at_hand();
        Some(())
    });
    found.ok().flatten().is_some()
}
