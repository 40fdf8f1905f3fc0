//! Autorelease pools: per thread, one within the other.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::counts::count_poolless_autorelease;
use crate::objects::{Id, objc_retain};

/// An open pool of the thread.
struct Pool {
    token: Token,
    objects: Vec<Id>,
}

/// Names a pool to its client, which treats it as an opaque pointer. No two pools of a process have the same.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
struct Token(NonZeroUsize);

thread_local! {
    /// Innermost last.
    static POOLS: RefCell<Vec<Pool>> = const { RefCell::new(Vec::new()) };
}

impl Token {
    fn new() -> Self {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        Self(NonZeroUsize::MIN.saturating_add(LAST.fetch_add(1, Relaxed)))
    }
}

/// Puts the object into the innermost pool. Without one it leaks, and is counted as such.
pub(crate) fn add_to_pool(object: Id) {
    let added = POOLS.with_borrow_mut(|pools| pools.last_mut().map(|pool| pool.objects.push(object)));
    if added.is_none() {
        count_poolless_autorelease();
    }
}

/// Runs `action` in a pool of its own, which is drained unless it panics.
pub(crate) fn with_pool(action: impl FnOnce()) {
    let token = objc_autoreleasePoolPush();
    action();
    objc_autoreleasePoolPop(token);
}

/// Closes the pool however its draining ends, so that a release that panics leaves the thread's pools in order.
struct Closing(Token);

impl Drop for Closing {
    fn drop(&mut self) {
        POOLS.with_borrow_mut(|pools| {
            if let Some(place) = pools.iter().position(|pool| pool.token == self.0) {
                pools.truncate(place);
            }
        });
    }
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_autoreleasePoolPush() -> Token {
    let token = Token::new();
    POOLS.with_borrow_mut(|pools| pools.push(Pool { token, objects: Vec::new() }));
    token
}

/// Releases what is in the pool, the last one first, with what the releases themselves put into it.
#[unsafe(no_mangle)]
extern "C-unwind" fn objc_autoreleasePoolPop(token: Token) {
    let innermost = POOLS.with_borrow(|pools| pools.last().map(|pool| pool.token));
    assert!(innermost == Some(token), "autorelease pool popped out of order, twice, or on another thread");
    let _closing = Closing(token);
    while let Some(object) = POOLS.with_borrow_mut(|pools| pools.last_mut()?.objects.pop()) {
        object.release();
    }
}

#[unsafe(no_mangle)]
pub(crate) extern "C-unwind" fn objc_autorelease(object: Option<Id>) -> Option<Id> {
    object?.autorelease()
}

/// The shortcut that hands an object to the caller without a pool is not taken here: the object is in the pool.
#[unsafe(no_mangle)]
extern "C-unwind" fn objc_autoreleaseReturnValue(object: Option<Id>) -> Option<Id> {
    object?.autorelease()
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_retainAutoreleasedReturnValue(object: Option<Id>) -> Option<Id> {
    objc_retain(object)
}
