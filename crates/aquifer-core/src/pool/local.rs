//! Which cache this thread has of which pool.
//!
//! Pools are numbered, and numbers are used again; a thread finds its cache of a pool by the pool's number and makes
//! sure by the pool's identity, which is never used again. When the thread ends, its caches go back to their pools.

use super::Pool;
use super::thread_cache::ThreadCache;
use crate::sync::{AtomicU64, Mutex, Ordering, Rank};
use std::cell::RefCell;
use std::sync::{Arc, LazyLock, Weak};

/// A pool's number, its own until it is dropped, and its identity.
#[derive(Debug)]
pub(super) struct PoolId {
    number: usize,
    identity: u64,
}

/// Numbers that are free again, below the first one never used.
struct Numbers {
    unused: Vec<usize>,
    next: usize,
}

static NUMBERS: LazyLock<Mutex<Numbers>> =
    LazyLock::new(|| Mutex::new(Rank::Leaf, Numbers { unused: Vec::new(), next: 0 }));
static IDENTITIES: AtomicU64 = AtomicU64::new(0);

impl PoolId {
    pub(super) fn new() -> Self {
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

#[derive(Debug, Default)]
struct Locals(RefCell<Vec<Option<Local>>>);

thread_local! {
    static LOCALS: Locals = const { Locals(RefCell::new(Vec::new())) };
}

impl Drop for Locals {
    fn drop(&mut self) {
        for local in self.0.get_mut().drain(..).flatten() {
            if let Some(pool) = local.pool.upgrade() {
                pool.retire(&local.cache);
            }
        }
    }
}

/// Calls `use_cache` with this thread's cache of the pool; `None` if it has none, or the thread is ending.
#[inline]
pub(super) fn with<R>(id: &PoolId, use_cache: impl FnOnce(&ThreadCache) -> Option<R>) -> Option<R> {
    let found = LOCALS.try_with(|locals| {
        let locals = locals.0.borrow();
        match locals.get(id.number) {
            Some(Some(local)) if local.identity == id.identity => use_cache(&local.cache),
            _ => None,
        }
    });
    found.ok().flatten()
}

/// This thread's cache of the pool, made if need be; `None` if the thread is ending or the pool has been closed.
pub(super) fn cache_of(pool: &Arc<Pool>) -> Option<Arc<ThreadCache>> {
    let found = LOCALS.try_with(|locals| {
        let mut locals = locals.0.borrow_mut();
        let number = pool.id.number;
        if locals.len() <= number {
            locals.resize_with(number + 1, || None);
        }
        match &locals[number] {
            Some(local) if local.identity == pool.id.identity => Some(Arc::clone(&local.cache)),
            _ => {
                let cache = pool.enlist()?;
                let local = Local {
                    identity: pool.id.identity,
                    cache: Arc::clone(&cache),
                    pool: Arc::downgrade(pool),
                };
                locals[number] = Some(local);
                Some(cache)
            }
        }
    });
    found.ok().flatten()
}
