//! What queues are given to do with a unified buffer.

use super::super::super::queues::{QueueState, lost};
use super::super::dirty::DirtyRanges;
use super::super::side::Side;
use super::super::uses::{Use, Wanted, Work};
use super::{State, UNIT_BYTES, in_units};
use crate::planted;
use crate::range_lock::Access;
use crate::raw::unified::UnifiedMemory;
use aquifer_backend::{Backend, Error, Ticket};
use std::ops::Range;
use std::sync::Arc;

/// The units that are wholly in a range of a buffer of so many bytes. What is behind its end is nobody's.
fn whole_units(range: &Range<u64>, size_bytes: u64) -> Range<u64> {
    let start = range.start.next_multiple_of(UNIT_BYTES);
    let end = if range.end == size_bytes { in_units(range).end } else { range.end / UNIT_BYTES * UNIT_BYTES };
    start..end.max(start)
}

impl<B: Backend> State<B> {
    /// Makes a range ready for what is given to `queue` next, which `reads` it, `writes` it, or both. Does not block, but see [`USES_MAX`](super::USES_MAX).
    /// The caller has the buffer alone.
    pub(in super::super) fn begin_device(
        &mut self,
        memory: &UnifiedMemory<B>,
        queue: &Arc<QueueState<B::Queue>>,
        range: &Range<u64>,
        (reads, writes): (bool, bool),
    ) -> Result<(), Error> {
        self.check_queue(memory, "on_device")?;
        let units = in_units(range);
        if !memory.is_zero_copy() {
            let mut stale = DirtyRanges::default();
            self.host_newer.within(&units).iter().for_each(|piece| stale.insert(piece));
            if !reads {
                stale.remove(&whole_units(range, memory.device().requested_bytes()));
            }
            self.enqueue(memory, queue, Side::Device, &stale.all())?;
        }
        let access = if writes { Access::Write } else { Access::Read };
        self.order(memory, queue, &[Wanted::new(Side::Device, &units, access)])?;
        if !memory.is_zero_copy() {
            if writes {
                self.host_newer.remove(&units);
                self.device_newer.insert(&units);
            }
            if !self.join() {
                // If that fails there are more ranges, for now.
                let _ = self.enqueue(memory, queue, Side::Device, &self.host_newer.all());
                self.join();
            }
        }
        memory.record_use(queue.index);
        let queue = Arc::clone(queue);
        let new = Use { queue, range: units, work: Work::Users(access), value: None };
        self.uses.retain(|one| !one.is_covered_by(&new));
        self.uses.push(new);
        Ok(())
    }

    /// Notes that the queue has been given everything that uses begun on it are for.
    pub(in super::super) fn end_device(&mut self, memory: &UnifiedMemory<B>, queue: &QueueState<B::Queue>) {
        // If it is refused, whoever comes next puts one in.
        let _ = self.mark(memory, |one| one.queue.index == queue.index);
    }

    /// Begins to bring to a side what the other has newer.
    pub(in super::super) fn prefetch(
        &mut self,
        memory: &UnifiedMemory<B>,
        queue: &Arc<QueueState<B::Queue>>,
        to: Side,
    ) -> Result<(), Error> {
        self.check_queue(memory, "prefetch")?;
        if memory.is_zero_copy() {
            return Ok(());
        }
        let pieces = self.newer(to.other()).all();
        let answer = self.enqueue(memory, queue, to, &pieces);
        self.end_device(memory, queue);
        answer
    }

    fn check_queue(&mut self, memory: &UnifiedMemory<B>, operation: &'static str) -> Result<(), Error> {
        memory.shared().check_process(operation)?;
        self.begin(memory)?;
        if memory.shared().is_lost() { Err(lost(operation)) } else { Ok(()) }
    }

    /// Enqueues copies of what the other side has newer to a side.
    fn enqueue(
        &mut self,
        memory: &UnifiedMemory<B>,
        queue: &Arc<QueueState<B::Queue>>,
        to: Side,
        pieces: &[Range<u64>],
    ) -> Result<(), Error> {
        let wanted: Vec<_> = pieces.iter().flat_map(|piece| Wanted::by_copy(to, piece)).collect();
        self.order(memory, queue, &wanted)?;
        for piece in pieces {
            let ticket = Arc::new(Ticket::default());
            let is_forgotten = to == Side::Device && planted::forgets_bring_over_to_device();
            if !is_forgotten {
                memory.enqueue_copy(queue, to, piece, &ticket)?;
            }
            self.newer(to.other()).remove(piece);
            let (queue, range) = (Arc::clone(queue), piece.clone());
            self.uses.push(Use { queue, range, work: Work::Copy { to, ticket }, value: None });
        }
        Ok(())
    }
}
