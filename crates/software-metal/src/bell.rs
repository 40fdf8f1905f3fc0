//! A counter that threads sleep on: who looked before it rang does not miss it.

use parking_lot::{Condvar, Mutex};
use std::time::Duration;

/// Wakes threads that found nothing to do.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    /// How often it rang. To be asked before looking for something to do.
    pub(crate) fn rings(&self) -> u64 {
        *self.rings.lock()
    }

    pub(crate) fn ring(&self) {
        *self.rings.lock() += 1;
        self.rung.notify_all();
    }

    /// Sleeps until it has rung more often than `seen`, at most for `limit`.
    pub(crate) fn wait(&self, seen: u64, limit: Duration) {
        let mut rings = self.rings.lock();
        if *rings == seen {
            self.rung.wait_for(&mut rings, limit);
        }
    }
}
