//! Which queues may use an allocation.

use crate::range::{NO_QUEUE, QueueIndex};

/// The queue that an allocation was made on, its *home*, and the others that were recorded since. One word.
///
/// Queues beyond the 47th share a bit: an allocation that one of them uses waits for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uses(u64);

const HOME_SHIFT: u32 = 48;
const RECORDED: u64 = (1 << HOME_SHIFT) - 1;

fn bit(queue: QueueIndex) -> u64 {
    1 << (u32::from(queue) - 1).min(HOME_SHIFT - 1)
}

impl Uses {
    /// Nothing but the home.
    #[inline]
    pub(crate) const fn at_home(queue: QueueIndex) -> Self {
        Self((queue as u64) << HOME_SHIFT)
    }

    #[inline]
    pub(crate) const fn from_word(word: u64) -> Self {
        Self(word)
    }

    #[inline]
    pub(crate) const fn word(self) -> u64 {
        self.0
    }

    /// [`NO_QUEUE`] if it was allocated on none.
    #[inline]
    pub(crate) fn home(self) -> QueueIndex {
        (self.0 >> HOME_SHIFT) as QueueIndex
    }

    /// The same and one more queue. The home adds nothing: what is freed goes back there in any case.
    pub(crate) fn with(self, queue: QueueIndex) -> Self {
        if queue == NO_QUEUE || queue == self.home() { self } else { Self(self.0 | bit(queue)) }
    }

    /// Whether any queue was recorded.
    #[inline]
    pub(crate) fn are_recorded(self) -> bool {
        self.0 & RECORDED != 0
    }

    /// Whether `queue`, which is one, was recorded or may have been.
    pub(crate) fn include(self, queue: QueueIndex) -> bool {
        self.0 & bit(queue) != 0
    }

    /// Both together, for finding out which queues several allocations wait for.
    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0 & RECORDED)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_home_is_kept_apart_and_late_queues_share_a_bit() {
        let uses = Uses::at_home(3).with(3).with(NO_QUEUE);
        assert_eq!((uses, uses.home(), uses.are_recorded()), (Uses::at_home(3), 3, false));
        let uses = uses.with(1).with(47);
        assert_eq!(uses.home(), 3);
        let included: Vec<QueueIndex> = (1..100).filter(|&queue| uses.include(queue)).collect();
        assert_eq!(included, [1, 47]);
        let late = Uses::at_home(NO_QUEUE).with(60_000);
        assert!((48..=QueueIndex::MAX).all(|queue| late.include(queue)) && !late.include(47));
        assert!(uses.union(late).include(1) && uses.union(late).include(50) && uses.union(late).home() == 3);
    }
}
