//! One transfer under way: which of its bytes are where.

use super::Priority;
use super::bell::RingBell;
use super::desc::{Chunk, EntryDesc, Hop, HopQueue, Way};
use super::ring::{PARTS_PER_CHUNK, Ring, SlotIndex, SlotSize};
use crate::cancel::Registration;
use crate::manager::Shared;
use crate::raw::transfer::{Parts, Plan};
use aquifer_backend::{Backend, Error, ErrorKind, Ticket};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

/// How many chunks of one transfer a queue is given at a time, where they need no staging.
const DEPTH: usize = 4;
/// The first chunks are smaller, so that queues have something to do soon, and the last ones, so that all who copy end at about the
/// same time; but not smaller than this.
pub(super) const RAMP_BYTES: u64 = 256 << 10;
/// All chunks but the last are multiples of this, so that what is aligned stays so.
const PIECE_UNIT_BYTES: u64 = 4 << 10;

/// Who comes first, the least: by priority; of one priority last who would have more staging memory than its part; and who has had least.
pub(crate) type Rank = (std::cmp::Reverse<Priority>, bool, u64);

/// A chunk in a queue.
struct Flight {
    value: u64,
    chunk: Chunk,
}

/// What is kept from one transfer for the next, so that the next need not allocate it.
#[derive(Default)]
pub(crate) struct Spare {
    near_flight: VecDeque<Flight>,
    far_flight: VecDeque<Flight>,
    arrived: VecDeque<Chunk>,
    near_ticket: Arc<Ticket>,
    ticket: Arc<Ticket>,
}

impl Spare {
    fn renewed(mut self) -> Self {
        for ticket in [&mut self.near_ticket, &mut self.ticket] {
            match Arc::get_mut(ticket) {
                Some(ticket) => *ticket = Ticket::default(),
                // A backend has not let go yet.
                None => *ticket = Arc::default(),
            }
        }
        debug_assert!(self.near_flight.is_empty() && self.far_flight.is_empty() && self.arrived.is_empty());
        self
    }
}

/// See the module.
pub(crate) struct Entry<B: Backend> {
    pub(crate) id: u64,
    pub(crate) plan: Plan<B>,
    pub(crate) desc: EntryDesc<B>,
    pub(crate) parts: Option<Box<dyn Parts<B>>>,
    pub(crate) waker: Option<Waker>,
    pub(crate) has_future: bool,
    pub(crate) start: Duration,
    /// How many bytes have been told of.
    pub(crate) told_bytes: u64,
    /// A thread calls other code for it, under no lock. It is not over meanwhile.
    pub(crate) is_called_for: bool,
    is_released: bool,
    /// For fair shares: bytes begun, counted from where others were when it came.
    pub(crate) served: u64,
    spare: Spare,
    /// The first byte that nobody has begun with.
    next: u64,
    /// Pieces that somebody outside of the lock is at.
    busy: u32,
    /// Of staging chunks.
    parts_used: usize,
    has_begun: bool,
    is_stopped: bool,
    error: Option<Error>,
    registration: Option<Registration>,
}

/// What a token wakes when it is cancelled: both tickets see it at once, so that a queue that looks at them stops.
struct CancelTickets {
    ticket: Arc<Ticket>,
    near_ticket: Arc<Ticket>,
    bell: Arc<RingBell>,
}

impl Wake for CancelTickets {
    fn wake(self: Arc<Self>) {
        self.ticket.cancel();
        self.near_ticket.cancel();
        self.bell.ring();
    }
}

/// A transfer that is over.
pub(crate) struct Over {
    pub(crate) result: Result<(), Error>,
    pub(crate) done_bytes: u64,
}

impl<B: Backend> Entry<B> {
    pub(crate) fn new(id: u64, plan: Plan<B>, desc: EntryDesc<B>, spare: Spare) -> Self {
        Self {
            id,
            plan,
            desc,
            parts: None,
            waker: None,
            has_future: false,
            start: Duration::ZERO,
            told_bytes: 0,
            is_called_for: false,
            is_released: false,
            served: 0,
            spare: spare.renewed(),
            next: 0,
            busy: 0,
            parts_used: 0,
            has_begun: false,
            is_stopped: false,
            error: None,
            registration: None,
        }
    }

    /// Follows the user's token, if there is one.
    pub(crate) fn follow_token(&mut self, bell: &Arc<RingBell>) {
        let Some(token) = &self.desc.options.cancel else { return };
        let tickets = CancelTickets {
            ticket: Arc::clone(&self.spare.ticket),
            near_ticket: Arc::clone(&self.spare.near_ticket),
            bell: Arc::clone(bell),
        };
        if token.poll_cancelled(&Arc::new(tickets).into(), &mut self.registration) {
            self.cancel();
        }
    }

    pub(crate) fn ticket(&self, hop: Hop) -> &Arc<Ticket> {
        match hop {
            Hop::Near => &self.spare.near_ticket,
            Hop::Far => &self.spare.ticket,
        }
    }

    pub(crate) fn hop(&self, hop: Hop) -> Option<&HopQueue<B>> {
        match hop {
            Hop::Near => self.desc.near.as_ref(),
            Hop::Far => self.desc.far.as_ref(),
        }
    }

    fn flight(&mut self, hop: Hop) -> &mut VecDeque<Flight> {
        match hop {
            Hop::Near => &mut self.spare.near_flight,
            Hop::Far => &mut self.spare.far_flight,
        }
    }

    pub(crate) fn done_bytes(&self) -> u64 {
        self.spare.ticket.done_bytes()
    }

    /// The far ticket first: who sees the near one cancelled, and a chunk cut short, must see the far one too.
    pub(crate) fn cancel(&self) {
        self.spare.ticket.cancel();
        self.spare.near_ticket.cancel();
    }

    /// Whether a device that it needs is lost.
    fn is_lost(&self, own: &Shared<B>) -> bool {
        [Hop::Near, Hop::Far].into_iter().filter_map(|hop| self.hop(hop)).any(|hop| hop.shared(own).is_lost())
    }

    /// A queue, and the value at which this transfer goes on.
    pub(crate) fn awaited(&self) -> Option<(&HopQueue<B>, u64)> {
        if !self.has_begun {
            let is_open = |(queue, value): &&(HopQueue<B>, u64)| queue.queue.timeline.completed() < *value;
            return self.desc.after.iter().find(is_open).map(|(queue, value)| (queue, *value));
        }
        let near = self.spare.near_flight.front().map(|flight| flight.value);
        let far = self.spare.far_flight.front().map(|flight| flight.value);
        near.and_then(|value| Some((self.desc.near.as_ref()?, value)))
            .or_else(|| far.and_then(|value| Some((self.desc.far.as_ref()?, value))))
    }

    /// All queues that it waits for.
    pub(crate) fn each_awaited<'a>(&'a self, mut each: impl FnMut(&'a HopQueue<B>, u64)) {
        if !self.has_begun {
            self.desc.after.iter().for_each(|(queue, value)| each(queue, *value));
        }
        for (flight, hop) in [(&self.spare.near_flight, Hop::Near), (&self.spare.far_flight, Hop::Far)] {
            if let (Some(flight), Some(queue)) = (flight.front(), self.hop(hop)) {
                each(queue, flight.value);
            }
        }
    }

    fn may_begin(&mut self, bell: &Waker) -> bool {
        if !self.has_begun {
            let has_passed = |(queue, value): &(HopQueue<B>, u64)| queue.queue.timeline.completed() >= *value;
            self.has_begun = self.desc.after.iter().all(has_passed)
                && self.parts.as_mut().is_none_or(|parts| parts.poll_granted(bell));
        }
        self.has_begun
    }

    /// Notes what queues have passed, and whether it is to stop. True if it is over.
    pub(crate) fn settle(&mut self, own: &Shared<B>, ring: &mut Ring<B>) -> bool {
        let is_lost = self.is_lost(own);
        if self.spare.ticket.is_cancelled() && !self.is_stopped {
            self.spare.near_ticket.cancel();
            self.is_stopped = true;
        }
        if is_lost && !self.is_stopped {
            let message = "the device was lost before the transfer was known to be over";
            self.stop(Error::new(ErrorKind::DeviceLost, "transfer", message));
        }
        while let Some(chunk) = self.landed(Hop::Near, own) {
            // A chunk that a cancellation has cut short must go no further, also if that came just now.
            if self.is_stopped || self.spare.ticket.is_cancelled() {
                self.give_back(ring, chunk);
            } else {
                self.spare.arrived.push_back(chunk);
            }
        }
        while let Some(chunk) = self.landed(Hop::Far, own) {
            self.give_back(ring, chunk);
        }
        if self.is_stopped {
            while let Some(chunk) = self.spare.arrived.pop_front() {
                self.give_back(ring, chunk);
            }
        }
        self.is_over()
    }

    /// The next chunk that a hop's queue has passed, or that was lost with that queue's device. (Another device may be lost alone.)
    fn landed(&mut self, hop: Hop, own: &Shared<B>) -> Option<Chunk> {
        let on = self.hop(hop)?;
        let (completed, is_lost) = (on.queue.timeline.completed(), on.shared(own).is_lost());
        let flight = self.flight(hop);
        if flight.front()?.value > completed && !is_lost {
            return None;
        }
        let chunk = flight.pop_front()?.chunk;
        if let Some(error) = self.ticket(hop).take_error() {
            self.stop(error);
        }
        Some(chunk)
    }

    pub(crate) fn is_over(&self) -> bool {
        let is_all_begun = self.next == self.plan.bytes || self.is_stopped;
        is_all_begun
            && self.busy == 0
            && self.spare.near_flight.is_empty()
            && self.spare.far_flight.is_empty()
            && self.spare.arrived.is_empty()
    }

    /// What it owns, once: to be released and put back.
    pub(crate) fn parts_to_release(&mut self) -> Option<Box<dyn Parts<B>>> {
        if std::mem::replace(&mut self.is_released, true) {
            return None;
        }
        let parts = self.parts.take();
        self.is_called_for = parts.is_some();
        parts
    }

    /// Begins no more. The first error stays.
    pub(crate) fn stop(&mut self, error: Error) {
        self.is_stopped = true;
        self.error.get_or_insert(error);
        self.cancel();
    }

    fn give_back(&mut self, ring: &mut Ring<B>, chunk: Chunk) {
        if let Some(slot) = chunk.slot {
            ring.give_back(slot);
            self.parts_used -= self.desc.way.slot_size().parts();
        }
    }

    /// What a processor could begin with now.
    pub(crate) fn wants_copy(&mut self, bell: &Waker) -> Option<Want> {
        if self.is_stopped || !self.may_begin(bell) {
            return None;
        }
        let has_more = self.next < self.plan.bytes;
        match self.desc.way {
            Way::Processor => has_more.then_some(Want { slot: None }),
            Way::StageIn => has_more.then_some(Want { slot: Some(self.desc.way.slot_size()) }),
            Way::StageOut => (!self.spare.arrived.is_empty()).then_some(Want { slot: None }),
            Way::Direct | Way::StagePeer => None,
        }
    }

    /// What a queue could be given now.
    pub(crate) fn wants_enqueue(&mut self, bell: &Waker) -> Option<Want> {
        if self.is_stopped || !self.may_begin(bell) {
            return None;
        }
        let has_more = self.next < self.plan.bytes;
        match self.desc.way {
            Way::Direct if self.spare.far_flight.len() + self.busy as usize >= DEPTH => None,
            Way::Direct => has_more.then_some(Want { slot: None }),
            Way::StagePeer if !self.spare.arrived.is_empty() => Some(Want { slot: None }),
            Way::StageOut | Way::StagePeer => {
                has_more.then_some(Want { slot: Some(self.desc.way.slot_size()) })
            }
            Way::Processor | Way::StageIn => None,
        }
    }

    /// What it could take for staging now.
    pub(crate) fn wants_slot(&mut self, bell: &Waker) -> Option<SlotSize> {
        let has_more = self.next < self.plan.bytes && self.desc.way.is_staged() && !self.is_stopped;
        (has_more && self.may_begin(bell)).then(|| self.desc.way.slot_size())
    }

    /// For one more of what it wants; so many parts of chunks are its part of the ring.
    pub(crate) fn rank(&self, share: usize, slot: Option<SlotSize>) -> Rank {
        let has_share = slot.is_some() && self.parts_used >= share;
        (std::cmp::Reverse(self.desc.options.priority), has_share, self.served)
    }

    /// Begins with what [`Entry::wants_copy`] has offered; so many processors copy.
    pub(crate) fn begin_copy(&mut self, ring: &mut Ring<B>, copiers: u64) -> Option<Chunk> {
        let chunk = match self.desc.way {
            Way::StageOut => self.spare.arrived.pop_front()?,
            Way::StageIn => {
                let slot = ring.take(self.desc.way.slot_size())?;
                self.next_chunk(Some(slot), copiers)
            }
            _ => self.next_chunk(None, copiers),
        };
        self.busy += 1;
        Some(chunk)
    }

    /// Begins with what [`Entry::wants_enqueue`] has offered.
    pub(crate) fn begin_enqueue(&mut self, ring: &mut Ring<B>) -> Option<(Hop, Chunk)> {
        let piece = match self.desc.way {
            Way::StagePeer if !self.spare.arrived.is_empty() => (Hop::Far, self.spare.arrived.pop_front()?),
            Way::StageOut | Way::StagePeer => {
                let slot = ring.take(self.desc.way.slot_size())?;
                (Hop::Near, self.next_chunk(Some(slot), 1))
            }
            _ => (Hop::Far, self.next_chunk(None, 1)),
        };
        self.busy += 1;
        Some(piece)
    }

    fn next_chunk(&mut self, slot: Option<SlotIndex>, copiers: u64) -> Chunk {
        let left = self.plan.bytes - self.next;
        let most = self.desc.chunk_bytes;
        let ramp = match self.desc.way {
            Way::Direct => most,
            way => {
                let most = if way.is_copied() { most / PARTS_PER_CHUNK as u64 } else { most };
                (self.next / copiers + RAMP_BYTES).min((left / (2 * copiers)).max(RAMP_BYTES)).min(most)
            }
        };
        let bytes = (most.min(ramp) & !(PIECE_UNIT_BYTES - 1)).max(PIECE_UNIT_BYTES).min(left);
        let chunk = Chunk { offset: self.next, bytes, slot };
        self.next += bytes;
        self.served += bytes;
        self.parts_used += slot.map_or(0, |_| self.desc.way.slot_size().parts());
        chunk
    }

    /// A processor has done its piece.
    pub(crate) fn end_copy(&mut self, ring: &mut Ring<B>, chunk: Chunk) {
        self.busy -= 1;
        self.give_back(ring, chunk);
    }

    /// A queue has been given a chunk, and passes it with this value, or has refused it.
    pub(crate) fn end_enqueue(
        &mut self,
        ring: &mut Ring<B>,
        hop: Hop,
        chunk: Chunk,
        answer: Result<u64, Error>,
    ) {
        self.busy -= 1;
        match answer {
            Ok(value) => self.flight(hop).push_back(Flight { value, chunk }),
            Err(error) => {
                self.give_back(ring, chunk);
                self.stop(error);
            }
        }
    }

    /// How it ended, once it is over.
    pub(crate) fn end(self) -> (Over, Spare, EntryDesc<B>) {
        let done_bytes = self.done_bytes();
        let is_cancelled = self.spare.ticket.is_cancelled() && done_bytes < self.plan.bytes;
        let result = match self.error.or_else(|| self.spare.ticket.take_error()) {
            Some(error) => Err(error),
            None if is_cancelled => {
                let message = format!("{done_bytes} of {} bytes had arrived", self.plan.bytes);
                Err(Error::new(ErrorKind::Cancelled, "transfer", message))
            }
            None => Ok(()),
        };
        (Over { result, done_bytes }, self.spare, self.desc)
    }
}

/// A piece that could be begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Want {
    /// What it needs for staging.
    pub(crate) slot: Option<SlotSize>,
}
