//! Which side has the newer bytes, who still uses which, and what follows from it.
//!
//! A byte is *clean*, or newer on one side: what the host writes becomes newer there, what the device writes likewise, and a copy to the other
//! side makes it clean. It is taken for clean from when its copy is enqueued, since whoever comes next on either side is ordered
//! behind that. If the copy turns out to have failed, it is newer again where it was, unless the other side has written it meanwhile.
//!
//! Ranges are in whole units of [`UNIT_BYTES`]: a device that writes by units writes the neighbours of an odd end back as they
//! were, which must be nobody else's then.

mod device;
mod host;

use super::super::queues::QueueState;
use super::dirty::DirtyRanges;
use super::side::Side;
use super::uses::{Use, Wanted, Work};
use crate::planted;
use crate::range_lock::Access;
use crate::raw::unified::UnifiedMemory;
use aquifer_backend::{Backend, Error};
use std::ops::Range;
use std::sync::Arc;

/// The largest unit of bytes that a device writes at least, which a backend hides by writing neighbours back as they were.
const UNIT_BYTES: u64 = 4;
/// More ranges than this on a side are joined, or brought over.
const DIRTY_MAX: usize = 64;
/// With more uses than this not known to be over, who comes next waits for the first.
const USES_MAX: usize = 1024;
/// With more uses than this, who comes next asks the queues how far they are.
const USES_LOOK: usize = 32;

/// See the module's text. Whoever calls its methods has the buffer's memory too.
pub(super) struct State<B: Backend> {
    host_newer: DirtyRanges,
    /// Without a shadow: what the device was writing when it was lost.
    device_newer: DirtyRanges,
    uses: Vec<Use<B>>,
    /// Of a copy to the device, until somebody has been told.
    failure: Option<Error>,
}

impl<B: Backend> Default for State<B> {
    fn default() -> Self {
        let (host_newer, device_newer) = (DirtyRanges::default(), DirtyRanges::default());
        Self { host_newer, device_newer, uses: Vec::new(), failure: None }
    }
}

/// A range and what is around it in its units.
fn in_units(range: &Range<u64>) -> Range<u64> {
    if range.is_empty() {
        return range.clone();
    }
    range.start / UNIT_BYTES * UNIT_BYTES..range.end.next_multiple_of(UNIT_BYTES)
}

impl<B: Backend> State<B> {
    fn newer(&mut self, side: Side) -> &mut DirtyRanges {
        match side {
            Side::Host => &mut self.host_newer,
            Side::Device => &mut self.device_newer,
        }
    }

    /// How many ranges are newer on the host, and on the device.
    pub(super) fn dirty_counts(&self) -> (usize, usize) {
        (self.host_newer.len(), self.device_newer.len())
    }

    /// Notes which uses are over, and how copies ended.
    fn settle(&mut self, memory: &UnifiedMemory<B>) {
        if self.uses.len() > USES_LOOK {
            memory.shared().look();
        }
        let (over, rest): (Vec<_>, Vec<_>) = self.uses.drain(..).partition(Use::is_over);
        // Not before: who notes a loss says so first, and then takes everything for over.
        let is_lost = memory.shared().is_lost();
        let over = if is_lost {
            over.into_iter().chain(rest).collect()
        } else {
            self.uses = rest;
            over
        };
        // What went to the host was newer than what went to the device before, and goes last.
        let (to_host, others): (Vec<_>, Vec<_>) =
            over.into_iter().partition(|one| matches!(one.work, Work::Copy { to: Side::Host, .. }));
        for one in others.into_iter().chain(to_host) {
            self.end(one, is_lost, memory.is_zero_copy());
        }
    }

    /// Notes how a use ended, or that the device was lost before it was known to be over.
    fn end(&mut self, one: Use<B>, is_lost: bool, is_zero_copy: bool) {
        match one.work {
            Work::Copy { to, ticket } => {
                let error = ticket.take_error();
                if is_lost || error.is_some() {
                    self.take_back(to, &one.range);
                }
                if let Some(error) = error
                    && to == Side::Device
                {
                    self.failure.get_or_insert(error);
                }
            }
            Work::Users(Access::Write) if is_lost && is_zero_copy => self.device_newer.insert(&one.range),
            // With a shadow it has been noted.
            Work::Users(_) => {}
        }
    }

    /// A copy to a side did not get there: what the other has is newer again.
    fn take_back(&mut self, to: Side, range: &Range<u64>) {
        match to {
            // The host has waited for the copy before it wrote, so that what it has newer here is older than that.
            Side::Host => {
                self.host_newer.remove(range);
                self.device_newer.insert(range);
            }
            // The device may have written since.
            Side::Device => {
                let mut taken = DirtyRanges::default();
                taken.insert(range);
                self.device_newer.within(range).iter().for_each(|piece| taken.remove(piece));
                taken.all().iter().for_each(|piece| self.host_newer.insert(piece));
            }
        }
    }

    /// Joins ranges of each side where there are too many; false if that cannot be, since what must not be joined lies between.
    ///
    /// Only while nobody else can have a slice of the host's bytes: what lies between is brought over too, later.
    fn join(&mut self) -> bool {
        self.join_on(Side::Host) & self.join_on(Side::Device)
    }

    fn join_on(&mut self, side: Side) -> bool {
        if self.newer(side).len() <= DIRTY_MAX {
            return true;
        }
        let mut kept_out = self.newer(side.other()).clone();
        // What is taken for clean and is still being copied: if that fails it is newer where it was.
        let copies = self.uses.iter().filter(|one| matches!(one.work, Work::Copy { .. }));
        copies.for_each(|one| kept_out.insert(&one.range));
        self.newer(side).join(DIRTY_MAX, &kept_out)
    }

    /// Puts markers behind those uses that have none and that are asked for.
    fn mark(&mut self, memory: &UnifiedMemory<B>, is_wanted: impl Fn(&Use<B>) -> bool) -> Result<(), Error> {
        while let Some(open) = self.uses.iter().find(|one| one.value.is_none() && is_wanted(one)) {
            let queue = Arc::clone(&open.queue);
            let value = memory.shared().signal(&queue)?;
            let unmarked = |one: &&mut Use<B>| one.value.is_none() && one.queue.index == queue.index;
            self.uses.iter_mut().filter(unmarked).for_each(|one| one.value = Some(value));
        }
        Ok(())
    }

    /// The queues whose uses are asked for, and the values at which they are over.
    fn last_values(&self, is_wanted: impl Fn(&Use<B>) -> bool) -> Vec<(Arc<QueueState<B::Queue>>, u64)> {
        let mut last: Vec<(Arc<QueueState<B::Queue>>, u64)> = Vec::new();
        for one in self.uses.iter().filter(|one| is_wanted(one)) {
            let Some(value) = one.value else { continue };
            match last.iter_mut().find(|(queue, _)| queue.index == one.queue.index) {
                Some((_, last)) => *last = value.max(*last),
                None => last.push((Arc::clone(&one.queue), value)),
            }
        }
        last
    }

    /// Blocks until no use is left that conflicts with one that is wanted, or the device is lost.
    fn wait(&mut self, memory: &UnifiedMemory<B>, wanted: &[Wanted]) -> Result<(), Error> {
        let is_zero_copy = memory.is_zero_copy();
        let conflicts = |one: &Use<B>| wanted.iter().any(|wanted| one.conflicts_with(wanted, is_zero_copy));
        self.wait_for(memory, conflicts)
    }

    /// Blocks until those uses are over that are asked for, or the device is lost.
    fn wait_for(
        &mut self,
        memory: &UnifiedMemory<B>,
        is_wanted: impl Fn(&Use<B>) -> bool,
    ) -> Result<(), Error> {
        let shared = memory.shared();
        let waited = self.mark(memory, &is_wanted).and_then(|()| {
            self.last_values(&is_wanted)
                .into_iter()
                .try_for_each(|(queue, value)| shared.wait_for(&queue, value))
        });
        self.settle(memory);
        // The device touches no memory any more.
        if shared.is_lost() { Ok(()) } else { waited }
    }

    /// Keeps what is given to `queue` from now on behind those uses by other queues that conflict with one that is wanted.
    fn order(
        &mut self,
        memory: &UnifiedMemory<B>,
        queue: &QueueState<B::Queue>,
        wanted: &[Wanted],
    ) -> Result<(), Error> {
        if planted::forgets_queue_order() {
            return Ok(());
        }
        let (shared, is_zero_copy) = (memory.shared(), memory.is_zero_copy());
        let conflicts = |one: &Use<B>| {
            one.queue.index != queue.index
                && wanted.iter().any(|wanted| one.conflicts_with(wanted, is_zero_copy))
        };
        self.mark(memory, conflicts)?;
        for (other, value) in self.last_values(conflicts) {
            shared.note(shared.backend.wait_on_queue(&queue.raw, &other.raw, value))?;
        }
        Ok(())
    }

    /// What every use begins with: tells of a copy that has failed, and makes room.
    fn begin(&mut self, memory: &UnifiedMemory<B>) -> Result<(), Error> {
        self.settle(memory);
        while self.uses.len() >= USES_MAX {
            let (queue, value) = (self.uses[0].queue.index, self.uses[0].value);
            self.wait_for(memory, |one| one.queue.index == queue && one.value <= value)?;
        }
        self.tell_failure()
    }

    fn tell_failure(&mut self) -> Result<(), Error> {
        self.failure.take().map_or(Ok(()), Err)
    }
}
