//! Which cache this thread has of which pool.
//!
//! Pools are numbered, and numbers are used again; a thread finds its cache of a pool by the pool's number and makes
//! sure by the pool's identity, which is never used again. When the thread ends, its caches go back to their pools.
//!
//! The thread's list of caches is behind a `RefCell`. Its borrow count is written and read back four times a pair,
//! each time waiting for the store before: with it a hot pair took 26 ns, without it RECENT_NS. So the caches used
//! last are also in [`RECENT`], as plain pointers.

use crate::pool::Pool;
use crate::pool::ThreadCache;
use crate::sync::{AtomicU64, Mutex, Ordering, Rank};
use std::cell::{Cell, RefCell};
use std::ptr;
use std::sync::{Arc, LazyLock, Weak};

/// A pool's number, its own until it is dropped, and its identity.
#[derive(Debug)]
pub(crate) struct PoolId {
    number: usize,
    /// Never 0.
    identity: u64,
}

/// Numbers that are free again, below the first one never used.
struct Numbers {
    unused: Vec<usize>,
    next: usize,
}

static NUMBERS: LazyLock<Mutex<Numbers>> =
    LazyLock::new(|| Mutex::new(Rank::Leaf, Numbers { unused: Vec::new(), next: 0 }));
static IDENTITIES: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(1));

impl PoolId {
    pub(crate) fn new() -> Self {
        let mut numbers = NUMBERS.lock();
        let number = numbers.unused.pop().unwrap_or_else(|| {
            numbers.next += 1;
            numbers.next - 1
        });
        Self { number, identity: IDENTITIES.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for PoolId {
    fn drop(&mut self) {
        NUMBERS.lock().unused.push(self.number);
    }
}

#[derive(Debug)]
struct Local {
    identity: u64,
    cache: Arc<ThreadCache>,
    pool: Weak<Pool>,
}

/// This thread's caches, by pool number. The owner of what [`RECENT`] points to.
#[derive(Debug, Default)]
struct Locals(RefCell<Vec<Option<Local>>>);

/// A cache of this thread and the pool it is of; null, of pool 0, which does not exist, where there is none.
#[derive(Debug, Clone, Copy)]
struct Recent {
    identity: u64,
    cache: *const ThreadCache,
}

const NO_CACHE: Recent = Recent { identity: 0, cache: ptr::null() };
/// How many caches of a thread can be reached fast: those of pools whose numbers differ modulo this.
const RECENT_COUNT: usize = 8;

thread_local! {
    static LOCALS: Locals = const { Locals(RefCell::new(Vec::new())) };
    static RECENT: [Cell<Recent>; RECENT_COUNT] = const { [const { Cell::new(NO_CACHE) }; RECENT_COUNT] };
}

impl Drop for Locals {
    fn drop(&mut self) {
        // `RECENT` has no destructor and may still be read after this.
        RECENT.with(|recent| recent.iter().for_each(|entry| entry.set(NO_CACHE)));
        for local in self.0.get_mut().drain(..).flatten() {
            if let Some(pool) = local.pool.upgrade() {
                pool.retire(&local.cache);
            }
        }
    }
}

/// Calls `use_cache` with this thread's cache of the pool; `None` if it has none at hand. `use_cache` must not allocate
/// or free through a manager.
#[inline]
pub(crate) fn with<R>(id: &PoolId, use_cache: impl FnOnce(&ThreadCache) -> Option<R>) -> Option<R> {
    let recent = RECENT.with(|recent| recent[id.number % RECENT_COUNT].get());
    if recent.identity != id.identity {
        return None;
    }
    // SAFETY: the entry points into an `Arc` in this thread's `LOCALS`. Entries of `LOCALS` are replaced only by
    // `bring` and dropped only by `Locals::drop`, on this thread, and both overwrite the entry here first. Neither
    // runs during `use_cache`: the thread is not ending, and `bring` is reached only by allocating or freeing, which
    // the core's callers of this function, the only ones, do not do inside it.
    use_cache(unsafe { &*recent.cache })
}

/// As [`with`], and makes the cache if there is none; `None` also if the thread is ending or the pool has been closed.
pub(crate) fn with_or_make<R>(pool: &Arc<Pool>, use_cache: impl FnOnce(&ThreadCache) -> R) -> Option<R> {
    let is_at_hand = with(pool.id(), |_| Some(())).is_some();
    if is_at_hand || bring(pool) { with(pool.id(), |cache| Some(use_cache(cache))) } else { None }
}

/// Makes this thread's cache of the pool the one at hand; false if there can be none.
#[cold]
fn bring(pool: &Arc<Pool>) -> bool {
    let PoolId { number, identity } = *pool.id();
    let found = LOCALS.try_with(|locals| {
        let mut locals = locals.0.borrow_mut();
        if locals.len() <= number {
            locals.resize_with(number + 1, || None);
        }
        let local = match &mut locals[number] {
            Some(local) if local.identity == identity => local,
            other => {
                let cache = pool.enlist()?;
                RECENT.with(|recent| recent[number % RECENT_COUNT].set(NO_CACHE));
                other.insert(Local { identity, cache, pool: Arc::downgrade(pool) })
            }
        };
        let recent = Recent { identity, cache: Arc::as_ptr(&local.cache) };
        RECENT.with(|entries| entries[number % RECENT_COUNT].set(recent));
        Some(())
    });
    found.ok().flatten().is_some()
}
