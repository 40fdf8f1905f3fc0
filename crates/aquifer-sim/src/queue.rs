//! What a queue is and holds.

use crate::Sim;
use crate::check::{Touch, Who};
use crate::content::Motion;
use crate::schedule::Direction;
use aquifer_backend::Ticket;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// Names a queue of a device. The queues that [`create_queue`](aquifer_backend::Backend::create_queue) makes are numbered
/// from 1, in order, and no number comes again; 0 is the driver's own, on which copies and fills run that are waited for.
/// Devices of one clock ([`Sim::peer`]) share the numbers; a peer's driver takes the next one for a queue of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u32);

impl QueueId {
    /// The driver's own queue.
    pub const DRIVER: Self = Self(0);

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::DRIVER {
            f.write_str("the driver's own queue")
        } else {
            write!(f, "queue {}", self.0)
        }
    }
}

/// A queue of a [`Sim`].
pub struct SimQueue {
    pub(crate) sim: Sim,
    pub(crate) id: QueueId,
}

impl SimQueue {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> QueueId {
        self.id
    }
}

impl fmt::Debug for SimQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimQueue").field(&self.id).finish()
    }
}

impl Drop for SimQueue {
    fn drop(&mut self) {
        self.sim.queue_dropped(self.id);
    }
}

impl From<&SimQueue> for QueueId {
    fn from(queue: &SimQueue) -> Self {
        queue.id
    }
}

/// A command, as a queue holds it.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) who: Who,
    pub(crate) touches: Vec<Touch>,
    pub(crate) delay_ns: u64,
    pub(crate) duration_ns: u64,
    /// How many are copied or filled.
    pub(crate) bytes: u64,
    pub(crate) ticket: Option<Arc<Ticket>>,
    /// Whether it was told to fail.
    pub(crate) fails: bool,
    /// The way that it goes over, if it does.
    pub(crate) direction: Option<Direction>,
    /// The index of the other device whose memory it reads.
    pub(crate) peer: Option<usize>,
    /// What it does to bytes.
    pub(crate) motion: Motion,
}

impl Work {
    pub(crate) fn is_cancelled(&self) -> bool {
        self.ticket.as_ref().is_some_and(|ticket| ticket.is_cancelled())
    }
}

/// What waits in a queue.
#[derive(Debug)]
pub(crate) enum Item {
    Work(Work),
    Marker(u64),
    WaitFor { other: QueueId, value: u64 },
}

/// A command that runs.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) work: Work,
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    /// How many bytes will have arrived at the end: fewer than asked for once it has been cancelled.
    pub(crate) goal_bytes: u64,
    /// How many the ticket has been told of.
    pub(crate) noted_bytes: u64,
    pub(crate) is_stopping: bool,
}

/// So many bytes are copied or filled between two looks at whether the ticket is cancelled.
const CHUNK_BYTES: u64 = 1 << 20;

impl Run {
    pub(crate) fn new(work: Work, now_ns: u64) -> Self {
        let end_ns = now_ns.saturating_add(work.duration_ns);
        let goal_bytes = work.bytes;
        Self { work, start_ns: now_ns, end_ns, goal_bytes, noted_bytes: 0, is_stopping: false }
    }

    /// How many bytes have arrived, as if they came evenly.
    fn arrived_bytes(&self, now_ns: u64) -> u64 {
        // The end has been moved by the time that the queue hung, the start has not.
        let elapsed_ns = if self.is_stopping {
            return self.noted_bytes;
        } else {
            (now_ns + self.work.duration_ns).saturating_sub(self.end_ns)
        };
        let bytes = u128::from(self.work.bytes) * u128::from(elapsed_ns);
        (bytes / u128::from(self.work.duration_ns.max(1))).min(u128::from(self.goal_bytes)) as u64
    }

    /// Stops a cancelled command at the next chunk. Answers whether its end has changed.
    pub(crate) fn stop(&mut self, now_ns: u64) -> bool {
        if self.is_stopping || !self.work.is_cancelled() {
            return false;
        }
        let goal_bytes = self.arrived_bytes(now_ns).next_multiple_of(CHUNK_BYTES);
        if goal_bytes >= self.work.bytes {
            return false;
        }
        let left_bytes = u128::from(self.work.bytes - goal_bytes);
        let left_ns = left_bytes * u128::from(self.work.duration_ns) / u128::from(self.work.bytes);
        // At most what is left, since fewer bytes are skipped than are left.
        self.end_ns = (self.end_ns - left_ns as u64).max(now_ns);
        self.goal_bytes = goal_bytes;
        self.is_stopping = true;
        true
    }

    /// Tells the ticket of the whole chunks that have arrived.
    pub(crate) fn note_progress(&mut self, now_ns: u64) {
        if self.work.bytes <= CHUNK_BYTES || self.work.fails {
            return;
        }
        let arrived_bytes = self.arrived_bytes(now_ns) / CHUNK_BYTES * CHUNK_BYTES;
        if let Some(ticket) = &self.work.ticket
            && arrived_bytes > self.noted_bytes
        {
            ticket.add_done(arrived_bytes - self.noted_bytes);
            self.noted_bytes = arrived_bytes;
        }
    }
}

/// What a queue is at.
#[derive(Debug, Default)]
pub(crate) enum Head {
    #[default]
    Idle,
    /// Waits for another queue's marker.
    Blocked,
    /// Will begin then.
    Delayed {
        work: Work,
        until_ns: u64,
    },
    /// Waits for the way that its command goes over.
    InLine(Work),
    Running(Run),
}

/// A queue.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// The index of its device.
    pub(crate) device: usize,
    pub(crate) pending: VecDeque<Item>,
    pub(crate) head: Head,
    /// The number of the one event that is good for the head; others are out of date.
    pub(crate) event_number: u64,
    /// Since when it hangs.
    pub(crate) hung_ns: Option<u64>,
    /// The number of the latest hang.
    pub(crate) hang_number: u64,
    /// The last value that was to be signalled.
    pub(crate) asked_value: u64,
    /// The value as other queues see it.
    pub(crate) value: u64,
    /// The value as the host sees it.
    pub(crate) seen_value: u64,
    /// Queues that wait for a value of this one.
    pub(crate) waiters: Vec<(QueueId, u64)>,
}

impl Queue {
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty() && matches!(self.head, Head::Idle)
    }
}
