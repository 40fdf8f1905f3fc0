//! What a manager does about pressure.
//!
//! A [`PressureMonitor`] sleeps until a source has news, follows each source's level, and responds to the highest. What the state
//! of a manager has of it is [`PressureState`]: what is counted, the gate that keeps requests back, and who is told that the pool
//! has grown.

mod decay;
mod escalation;
mod gate;
mod handle;
mod heaps;
mod monitor;
mod respond;
mod sources;
mod stream;
mod told;
mod watched;

pub use handle::{PressureListener, PressureMonitor};
pub use stream::PressureEvents;

use gate::Gate;
use told::Told;

use crate::clock::Clock;
use crate::pressure::{PressureBook, PressureStatistics};
use crate::sync::{AtomicBool, AtomicU64, Ordering, fence};
use aquifer_backend::{PressureLevel, PressureNotifier};
use parking_lot::Mutex;

/// What ends a monitor when its manager goes.
type End = Box<dyn FnOnce() + Send>;

/// The part of a manager's state that is about pressure.
pub(crate) struct PressureState {
    pub(super) gate: Gate,
    pub(super) growth: GrowthBell,
    told: Told,
    has_monitor: AtomicBool,
    book: Mutex<PressureBook>,
    end: Mutex<Option<End>>,
}

impl PressureState {
    pub(super) fn new(heap_count: usize) -> Self {
        Self {
            gate: Gate::default(),
            growth: GrowthBell::new(heap_count),
            told: Told::default(),
            has_monitor: AtomicBool::new(false),
            book: Mutex::default(),
            end: Mutex::new(None),
        }
    }

    pub(super) fn book(&self) -> parking_lot::MutexGuard<'_, PressureBook> {
        self.book.lock()
    }

    pub(super) fn level(&self) -> PressureLevel {
        self.book.lock().level()
    }

    pub(super) fn statistics(&self, clock: &Clock) -> PressureStatistics {
        let mut statistics = self.book.lock().statistics(clock.now_ms());
        (statistics.refused_count, statistics.queued_count) = self.gate.counts();
        statistics.listener_panic_count = self.told.panic_count();
        statistics
    }

    /// False if there is a monitor already.
    fn claim_monitor(&self) -> bool {
        !self.has_monitor.swap(true, Ordering::AcqRel)
    }

    fn release_monitor(&self) {
        self.has_monitor.store(false, Ordering::Release);
    }

    fn on_close(&self, end: End) {
        *self.end.lock() = Some(end);
    }

    /// The manager has gone, and its monitor goes with it.
    pub(super) fn close(&self) {
        let end = self.end.lock().take();
        if let Some(end) = end {
            end();
        }
    }
}

/// Tells the monitor when more of a heap is reserved than it wants to sleep through.
#[derive(Debug)]
pub(super) struct GrowthBell {
    is_on: AtomicBool,
    above_bytes: Box<[AtomicU64]>,
    notifiers: Mutex<Vec<PressureNotifier>>,
}

impl GrowthBell {
    fn new(heap_count: usize) -> Self {
        Self {
            is_on: AtomicBool::new(false),
            above_bytes: (0..heap_count).map(|_| AtomicU64::new(0)).collect(),
            notifiers: Mutex::default(),
        }
    }

    fn add(&self, notifier: PressureNotifier) {
        self.notifiers.lock().push(notifier);
        self.is_on.store(true, Ordering::Release);
    }

    fn clear(&self) {
        self.is_on.store(false, Ordering::Release);
        self.notifiers.lock().clear();
    }

    /// Above how many reserved bytes the monitor wants to know. To be called before it looks how many there are.
    fn ring_above(&self, heap_index: usize, bytes: u64) {
        self.above_bytes[heap_index].store(bytes, Ordering::Relaxed);
        // The other side is in `grew`.
        fence(Ordering::SeqCst);
    }

    /// The driver has given a block. May be called under the growth lock: it wakes a thread, and waits for nothing.
    pub(super) fn grew(&self, heap_index: usize, reserved_bytes: u64) {
        if !self.is_on.load(Ordering::Acquire) {
            return;
        }
        // The monitor writes what it wants to know and then looks what is reserved: one of the two sees the other.
        fence(Ordering::SeqCst);
        if reserved_bytes > self.above_bytes[heap_index].load(Ordering::Relaxed) {
            self.notifiers.lock().iter().for_each(PressureNotifier::notify);
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::super::ledger::Ledger;
    use super::*;
    use crate::loom_tests::explore;
    use loom::thread;
    use std::sync::Arc;

    /// A block is charged and told of, while the monitor says that it wants to know of the first, and falls asleep if nothing is
    /// reserved. It never sleeps through it.
    #[test]
    fn no_growth_is_slept_through() {
        explore(3, || {
            let (ledger, growth) = (Arc::new(Ledger::new(1000, None)), Arc::new(GrowthBell::new(1)));
            let rings = Arc::new(AtomicU64::new(0));
            let counted = Arc::clone(&rings);
            growth.add(PressureNotifier::new(move || _ = counted.fetch_add(1, Ordering::SeqCst)));
            // As it was when more was reserved.
            growth.ring_above(0, 850);
            let grower = thread::spawn({
                let (ledger, growth) = (Arc::clone(&ledger), Arc::clone(&growth));
                move || {
                    assert!(ledger.charge(100));
                    growth.grew(0, ledger.reserved_bytes());
                }
            });
            growth.ring_above(0, 0);
            let is_asleep = ledger.reserved_bytes() == 0;
            grower.join().expect("the other thread ends");
            assert!(!is_asleep || rings.load(Ordering::SeqCst) == 1, "nobody wakes it");
        });
    }
}
