//! How far a queue is: the values of its markers, as numbers.
//!
//! Every marker gets the next value. A value is *claimed* before the driver is asked to put its marker into the queue, so
//! whoever reads what is claimed after enqueuing work knows that the marker after that, [`Timeline::next_value`], comes
//! behind the work:
//!
//! ```text
//! who uses memory and then frees it        who signals
//!   enqueue work W                           claimed += 1, to v
//!   bind the memory up to claimed + 1        enqueue the marker v
//! ```
//!
//! If the marker `v` came into the queue before `W`, its claim is seen by the reader, since the queue orders the two
//! (see [`Backend`](aquifer_backend::Backend)'s safety section), and the memory is bound up to `v + 1` or more. If it came
//! after, any value from `v` on will do. So freeing calls no driver; one marker, whenever it comes, serves all frees before
//! it.

use crate::sync::{AtomicU64, Ordering};

/// A queue's values.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    claimed: AtomicU64,
    completed: AtomicU64,
}

impl Timeline {
    /// The value by which everything that has been enqueued so far will be over, once someone signals it.
    pub(crate) fn next_value(&self) -> u64 {
        self.claimed.load(Ordering::Acquire) + 1
    }

    /// The value of the last marker that was asked for.
    pub(crate) fn claimed(&self) -> u64 {
        self.claimed.load(Ordering::Acquire)
    }

    /// Takes the next value, for a marker that the caller will put into the queue. One caller at a time.
    pub(crate) fn claim(&self) -> u64 {
        self.claimed.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The highest value that the queue is known to have reached.
    pub(crate) fn completed(&self) -> u64 {
        self.completed.load(Ordering::Acquire)
    }

    /// Notes what the queue has reached; true if that is news.
    pub(crate) fn reach(&self, value: u64) -> bool {
        // No `fetch_max`: the thread sanitizer does not see it, and would take everything ordered by it for a race.
        let rise = |completed| (completed < value).then_some(value);
        self.completed.fetch_update(Ordering::AcqRel, Ordering::Acquire, rise).is_ok()
    }

    /// Takes everything as over, for good: the device is lost.
    pub(crate) fn end(&self) {
        self.reach(u64::MAX);
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
