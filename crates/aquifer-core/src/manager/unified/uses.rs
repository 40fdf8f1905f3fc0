//! What queues do, or may still do, with parts of a unified buffer.

use super::super::queues::QueueState;
use super::side::Side;
use crate::range_lock::{Access, overlap};
use aquifer_backend::{Backend, Ticket};
use std::ops::Range;
use std::sync::Arc;

/// What a queue does with a part.
#[derive(Debug)]
pub(super) enum Work {
    /// The user's own programs use it on the device.
    Users(Access),
    /// It is copied to the memory of a side.
    Copy { to: Side, ticket: Arc<Ticket> },
}

/// A part that a queue uses until it has passed a value.
pub(super) struct Use<B: Backend> {
    pub(super) queue: Arc<QueueState<B::Queue>>,
    pub(super) range: Range<u64>,
    pub(super) work: Work,
    /// Of a marker behind the work. `None` while none has been put there: the work is being given to the queue, or whoever gave it has not
    /// said that this is all (the guard was forgotten), or the driver refused the marker.
    pub(super) value: Option<u64>,
}

impl<B: Backend> Use<B> {
    /// What it does to the memory of a side. Without a shadow both sides have the same.
    fn access_on(&self, side: Side, is_zero_copy: bool) -> Option<Access> {
        match (&self.work, side) {
            (Work::Users(access), Side::Device) => Some(*access),
            (Work::Users(access), Side::Host) => is_zero_copy.then_some(*access),
            (Work::Copy { to, .. }, side) => Some(if *to == side { Access::Write } else { Access::Read }),
        }
    }

    /// Whether it must be over before the use that is asked for, or the other way round.
    pub(super) fn conflicts_with(&self, wanted: &Wanted, is_zero_copy: bool) -> bool {
        let is_apart = |access| access == Access::Read && wanted.access == Access::Read;
        overlap(&self.range, &wanted.range)
            && self.access_on(wanted.side, is_zero_copy).is_some_and(|access| !is_apart(access))
    }

    /// Whether it is over as far as is known.
    pub(super) fn is_over(&self) -> bool {
        self.value.is_some_and(|value| self.queue.timeline.completed() >= value)
    }

    /// Whether who waits for the user's programs `other`, which came later, has waited for this too.
    pub(super) fn is_covered_by(&self, other: &Self) -> bool {
        let (Work::Users(access), Work::Users(other_access)) = (&self.work, &other.work) else {
            return false;
        };
        self.queue.index == other.queue.index
            && other.range.start <= self.range.start
            && self.range.end <= other.range.end
            && (access == other_access || *other_access == Access::Write)
    }
}

/// A use that somebody wants to make of the memory of a side.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) side: Side,
    pub(super) range: Range<u64>,
    pub(super) access: Access,
}

impl Wanted {
    pub(super) fn new(side: Side, range: &Range<u64>, access: Access) -> Self {
        Self { side, range: range.clone(), access }
    }

    /// What a copy of a part to the memory of a side does.
    pub(super) fn by_copy(to: Side, range: &Range<u64>) -> [Self; 2] {
        [Self::new(to, range, Access::Write), Self::new(to.other(), range, Access::Read)]
    }
}
