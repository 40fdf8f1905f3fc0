//! A lane: a pool's caches for one queue.
//!
//! What is freed on a queue can be used again on the same queue at once, since a queue does one thing after the other. So
//! each queue has thread caches and a depot of its own, reached just as those of buffers without a queue, and what they
//! keep never waits. Only what leaves them for slabs and ranges, where others may have it, is bound to the queue.

use super::depot::Depot;
use super::layout::BucketLayout;
use crate::planted;
use crate::range::{Bound, NO_QUEUE, QueueIndex};
use crate::raw::local::{LaneId, LaneIdentity};
use crate::timeline::Timeline;
use std::sync::Arc;

/// A pool's caches for one queue, or for none.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) id: LaneId,
    pub(crate) queue: QueueIndex,
    timeline: Arc<Timeline>,
    pub(super) depot: Depot,
}

impl Lane {
    pub(super) fn new(layout: &BucketLayout, queue: QueueIndex, timeline: Arc<Timeline>) -> Self {
        Self { id: LaneId::new(), queue, timeline, depot: Depot::new(layout) }
    }

    pub(crate) fn identity(&self) -> LaneIdentity {
        self.id.identity
    }

    pub(super) fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// What everything that was freed here so far is bound to.
    pub(super) fn bound(&self) -> Bound {
        if self.queue == NO_QUEUE {
            Bound::NONE
        } else {
            let early = u64::from(planted::binds_early());
            Bound { queue: self.queue, value: self.timeline.next_value() - early }
        }
    }
}
