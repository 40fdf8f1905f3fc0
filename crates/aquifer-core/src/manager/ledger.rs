//! How many bytes are reserved from a heap, and the budget that they stay within.
//!
//! Bytes are charged before the driver is called and refunded if it fails, so that what is reserved is never above the
//! budget, whatever threads do at the same time.

use crate::statistics::ByteCounter;
use crate::sync::{AtomicU64, Ordering};

#[derive(Debug)]
pub(crate) struct Ledger {
    budget_bytes: u64,
    reserved: AtomicU64,
    peak: AtomicU64,
    total: AtomicU64,
}

impl Ledger {
    pub(crate) fn new(budget_bytes: u64) -> Self {
        Self { budget_bytes, reserved: AtomicU64::new(0), peak: AtomicU64::new(0), total: AtomicU64::new(0) }
    }

    /// Charges bytes; false, and nothing is charged, if they are not within the budget.
    pub(crate) fn charge(&self, bytes: u64) -> bool {
        let raise = |reserved: u64| reserved.checked_add(bytes).filter(|&sum| sum <= self.budget_bytes);
        self.reserved.fetch_update(Ordering::AcqRel, Ordering::Acquire, raise).is_ok()
    }

    /// Notes that the driver has given what was charged. A charge that is refunded is not a peak.
    pub(crate) fn confirm(&self, bytes: u64) {
        self.peak.fetch_max(self.reserved.load(Ordering::Acquire), Ordering::Relaxed);
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn refund(&self, bytes: u64) {
        self.reserved.fetch_sub(bytes, Ordering::AcqRel);
    }

    pub(crate) fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    pub(crate) fn reserved_bytes(&self) -> u64 {
        self.reserved.load(Ordering::Acquire)
    }

    pub(crate) fn counter(&self) -> ByteCounter {
        ByteCounter {
            current: self.reserved_bytes(),
            peak: self.peak.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_charge_beyond_the_budget_changes_nothing() {
        let ledger = Ledger::new(100);
        assert!(ledger.charge(60));
        ledger.confirm(60);
        assert!(!ledger.charge(41));
        assert!(!ledger.charge(u64::MAX));
        assert!(ledger.charge(40));
        ledger.refund(40);
        assert_eq!(ledger.counter(), ByteCounter { current: 60, peak: 60, total: 60 });
    }
}
