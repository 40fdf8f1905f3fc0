//! Who sleeps until something has changed.

use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Wake;
use std::time::Duration;

/// Counts rings: who has seen the count, then looked in vain, sleeps until it changes.
#[derive(Debug, Default)]
pub(super) struct RingBell {
    count: AtomicU64,
    lock: Mutex<()>,
    rung: Condvar,
}

impl RingBell {
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    pub(super) fn ring(&self) {
        // Under the lock, so that who is about to sleep does not miss it.
        let lock = self.lock.lock();
        self.count.fetch_add(1, Ordering::AcqRel);
        drop(lock);
        self.rung.notify_all();
    }

    /// Sleeps until it has rung since `seen`, or for so long.
    pub(super) fn wait(&self, seen: u64, timeout: Option<Duration>) {
        let mut lock = self.lock.lock();
        let is_same = |_: &mut ()| self.count() == seen;
        match timeout {
            Some(timeout) => drop(self.rung.wait_while_for(&mut lock, is_same, timeout)),
            None => self.rung.wait_while(&mut lock, is_same),
        }
    }
}

impl Wake for RingBell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }
}
