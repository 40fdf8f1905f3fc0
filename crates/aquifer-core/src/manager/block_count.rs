//! How many blocks a manager has, of all its pools together and imported ones, and the most that the driver makes.
//!
//! As with bytes ([`super::ledger`]) a block is charged before the driver is called, and refunded if it fails, so that
//! threads which grow two pools at the same time never ask for one block too many.

use crate::sync::{AtomicU64, Ordering};

#[derive(Debug)]
pub(crate) struct BlockCount {
    most: u64,
    count: AtomicU64,
}

impl BlockCount {
    pub(super) fn new(most: u64) -> Self {
        Self { most, count: AtomicU64::new(0) }
    }

    /// Charges a block; false, and nothing is charged, if there are as many as there may be.
    pub(super) fn charge(&self) -> bool {
        let raise = |count: u64| (count < self.most).then_some(count + 1);
        self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, raise).is_ok()
    }

    /// Takes a charge back: the block is gone, or was never made.
    pub(super) fn refund(&self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// The most that there may be.
    pub(super) fn most(&self) -> u64 {
        self.most
    }

    /// How many more there may be.
    pub(super) fn left(&self) -> u64 {
        self.most - self.count()
    }

    pub(super) fn is_full(&self) -> bool {
        self.left() == 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_charged_than_there_may_be() {
        let blocks = BlockCount::new(2);
        assert_eq!([blocks.charge(), blocks.charge(), blocks.charge()], [true, true, false]);
        assert!(blocks.is_full());
        blocks.refund();
        assert_eq!((blocks.count(), blocks.left(), blocks.is_full()), (1, 1, false));
        assert!(blocks.charge());
    }
}
