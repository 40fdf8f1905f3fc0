//! All transfers of a manager that are under way.

mod ending;
mod state;
mod waiting;

use super::bell::RingBell;
use super::counters::{End, RouteCounters};
use super::desc::{Chunk, EntryDesc, Hop, HopQueue};
use super::entry::{Entry, Over, RAMP_BYTES};
use super::ring::{NeedsRing, PARTS_PER_CHUNK, SlotIndex, SlotSize};
use super::threads::{CopyStep, CopyThreads};
use super::{Route, TransferStatistics};
use crate::manager::{QueueState, Shared};
use crate::raw::transfer::{Parts, Plan, Slot, SlotPart};
use aquifer_backend::{Backend, Error, ErrorKind};
use arrayvec::ArrayVec;
use parking_lot::Mutex;
use state::State;
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;

/// So many queues are asked how far they are without allocating a list of them.
const QUEUES_MOSTLY: usize = 8;
/// How many processors the last chunks are cut for, where nobody knows how many there are.
const COPIERS_UNKNOWN: usize = 8;
/// What is kept for the next transfers.
const SPARES_MAX: usize = 16;

/// What a queue is for, so that what goes one way over the link does not wait for what goes the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueUse {
    Upload,
    Download,
    Local,
}

/// How many processors copy at the same time.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Copiers {
    /// No more than these, besides those that wait for what they copy.
    AtMost(usize),
    /// As many as the program likes.
    Unknown,
}

/// What became of a transfer, and what it owned.
pub(crate) type Outcome<B> = (Over, Option<Box<dyn Parts<B>>>);

/// See the module's text in [`super`].
pub(crate) struct Engine<B: Backend> {
    state: Mutex<State<B>>,
    pub(super) bell: Arc<RingBell>,
    /// Rings the bell.
    waker: Waker,
    queues: [OnceLock<Arc<QueueState<B::Queue>>>; 3],
    making_queue: Mutex<()>,
    counters: RouteCounters,
    pub(crate) threads: CopyThreads,
}

impl<B: Backend> Default for Engine<B> {
    fn default() -> Self {
        let bell = Arc::<RingBell>::default();
        Self {
            state: Mutex::default(),
            waker: Arc::clone(&bell).into(),
            bell,
            queues: [const { OnceLock::new() }; 3],
            making_queue: Mutex::new(()),
            counters: RouteCounters::default(),
            threads: CopyThreads::default(),
        }
    }
}

impl<B: Backend> Engine<B> {
    pub(crate) fn statistics(&self, shared: &Shared<B>) -> TransferStatistics {
        let slots = self.state.lock().ring.count() as u64;
        self.counters.statistics(slots * shared.config.transfers.chunk_bytes())
    }

    /// Counts a transfer that needed no entry.
    pub(crate) fn count(&self, route: Route, over: &Over, time: Duration) {
        let end = match &over.result {
            Ok(()) => End::Done,
            Err(error) if error.kind() == ErrorKind::Cancelled => End::Cancelled,
            Err(_) => End::Failed,
        };
        self.counters.add(route, end, over.done_bytes, time);
    }

    /// The manager's own queue for something.
    pub(crate) fn queue(&self, shared: &Shared<B>, of: QueueUse) -> Result<Arc<QueueState<B::Queue>>, Error> {
        let place = &self.queues[of as usize];
        if let Some(queue) = place.get() {
            return Ok(Arc::clone(queue));
        }
        let _one = self.making_queue.lock();
        if let Some(queue) = place.get() {
            return Ok(Arc::clone(queue));
        }
        let queue = shared.make_queue()?;
        Ok(Arc::clone(place.get_or_init(|| queue)))
    }

    /// Begins a transfer, and answers its number. Every number must be taken, or detached.
    pub(crate) fn begin(
        &self,
        shared: &Shared<B>,
        plan: Plan<B>,
        desc: EntryDesc<B>,
        parts: Option<Box<dyn Parts<B>>>,
    ) -> u64 {
        let is_shared = desc.way.is_copied() && !desc.is_short(plan.bytes) || parts.is_some();
        let mut state = self.state.lock();
        state.last_id += 1;
        let (id, spare) = (state.last_id, state.spares.pop().unwrap_or_default());
        drop(state);
        let mut entry = Entry::new(id, plan, desc, spare);
        entry.has_future = parts.is_some();
        entry.parts = parts;
        entry.start = shared.config.clock.now();
        entry.follow_token(&self.bell);
        let mut state = self.state.lock();
        // Who comes now shares from now on.
        entry.served = state.entries.iter().map(|other| other.served).min().unwrap_or(0);
        state.entries.push(entry);
        drop(state);
        if is_shared {
            self.bell.ring();
        }
        id
    }

    /// Makes staging chunks for a transfer, as far as the bound allows. An error only if there is none at all: while the answer lives there
    /// is one. Waits where others are making the only ones, if it `may_wait`.
    pub(crate) fn make_chunks(
        &self,
        shared: &Shared<B>,
        desc: &EntryDesc<B>,
        (bytes, may_wait): (u64, bool),
        mut make: impl FnMut() -> Result<Slot<B>, Error>,
    ) -> Result<NeedsRing, Error> {
        let config = &shared.config.transfers;
        let chunk_bytes = config.chunk_bytes();
        // As the first and last pieces are smaller, some more than would hold it all.
        let wanted = match desc.way.slot_size() {
            SlotSize::Part => {
                let parts = PARTS_PER_CHUNK as u64;
                bytes.div_ceil(RAMP_BYTES.min(chunk_bytes / parts)).div_ceil(parts)
            }
            SlotSize::Chunk => bytes.div_ceil(chunk_bytes) + 2,
        };
        let most = (config.staging_bytes / chunk_bytes).min(wanted).max(1);
        let needed = self.state.lock().ring.needed();
        loop {
            let seen = self.bell.count();
            let mut state = self.state.lock();
            if !state.ring.begin_chunk(most as usize) {
                if state.ring.existing() > 0 {
                    return Ok(needed);
                }
                drop(state);
                if !may_wait {
                    let message = "there is no staging memory yet, and to make it memory must be reclaimed first, which this is a part of";
                    return Err(Error::new(ErrorKind::OutOfMemory, "transfer", message));
                }
                self.bell.wait(seen, None);
                continue;
            }
            drop(state);
            let made = make();
            let mut state = self.state.lock();
            let (slot, refusal) = match made {
                Ok(slot) => (Some(slot), None),
                Err(error) => (None, Some(error)),
            };
            state.ring.end_chunk(slot);
            let (existing, count) = (state.ring.existing(), state.ring.count());
            drop(state);
            // Others may wait for this one.
            self.bell.ring();
            match refusal {
                Some(error) if count == 0 => return Err(error),
                Some(_) if existing > 0 => return Ok(needed),
                _ => {}
            }
        }
    }

    /// Takes the slots that nobody uses; to be dropped, by the caller.
    pub(crate) fn take_free_slots(&self) -> Vec<Arc<Slot<B>>> {
        self.state.lock().ring.take_free()
    }

    /// A part of a staging chunk, for who copies at once. To be given back.
    pub(crate) fn take_slot(&self, shared: &Shared<B>) -> Option<(SlotIndex, SlotPart<B>)> {
        let mut state = self.state.lock();
        let index = state.ring.take(SlotSize::Part)?;
        Some((index, state.slot_part(index, shared.config.transfers.chunk_bytes())))
    }

    pub(crate) fn give_slot_back(&self, index: SlotIndex) {
        self.state.lock().ring.give_back(index);
        self.bell.ring();
    }

    /// Notes what queues have passed, ends what is over, and gives queues what is next. Does not wait. In a forked process it does
    /// nothing.
    pub(crate) fn poll(&self, shared: &Shared<B>) {
        if shared.is_forked() {
            return;
        }
        loop {
            self.look(shared);
            self.settle(shared);
            if !self.enqueue_next(shared) {
                return;
            }
        }
    }

    /// Asks the queues that are waited for how far they are.
    fn look(&self, shared: &Shared<B>) {
        let mut queues = ArrayVec::<HopQueue<B>, QUEUES_MOSTLY>::new();
        let mut more = Vec::new();
        let state = self.state.lock();
        for entry in &state.entries {
            entry.each_awaited(|queue, value| {
                let is_known = |known: &HopQueue<B>| Arc::ptr_eq(&known.queue, &queue.queue);
                if queue.queue.timeline.completed() >= value || queues.iter().chain(&more).any(is_known) {
                    return;
                }
                if let Err(full) = queues.try_push(queue.clone()) {
                    more.push(full.element());
                }
            });
        }
        drop(state);
        queues.iter().chain(&more).for_each(|queue| queue.look(shared));
    }

    /// Gives a queue one chunk; false if there is none to give.
    fn enqueue_next(&self, shared: &Shared<B>) -> bool {
        let mut state = self.state.lock();
        let Some(index) = state.pick(None, &self.waker, |entry| entry.wants_enqueue(&self.waker)) else {
            return false;
        };
        let State { entries, ring, .. } = &mut *state;
        let entry = &mut entries[index];
        let Some((hop, chunk)) = entry.begin_enqueue(ring) else { return false };
        let queue = entry.hop(hop).expect("who enqueues has a queue").clone();
        let (id, plan, ticket) = (entry.id, entry.plan.clone(), Arc::clone(entry.ticket(hop)));
        let slot = chunk.slot.map(|slot| state.slot_part(slot, shared.config.transfers.chunk_bytes()));
        drop(state);
        let answer = enqueue(shared, &plan, &queue, hop, chunk, slot.as_ref(), &ticket);
        // Before the piece is over: after it the plan's memory may be gone.
        drop((plan, slot, queue, ticket));
        self.end_enqueue(id, hop, chunk, answer);
        true
    }

    pub(super) fn end_enqueue(&self, id: u64, hop: Hop, chunk: Chunk, answer: Result<u64, Error>) {
        let mut state = self.state.lock();
        let State { entries, ring, .. } = &mut *state;
        let entry = entries.iter_mut().find(|entry| entry.id == id).expect("it is not over while a piece is");
        entry.end_enqueue(ring, hop, chunk, answer);
    }

    /// One piece for a processor: of transfer `only`, or of any. `None` if there is none now.
    pub(crate) fn take_copy(&self, copiers: Copiers, only: Option<u64>) -> Option<CopyStep<B>> {
        let mut state = self.state.lock();
        let count = match copiers {
            Copiers::AtMost(most) if only.is_none() && state.copying >= most => return None,
            Copiers::AtMost(most) => most.max(1),
            Copiers::Unknown => COPIERS_UNKNOWN,
        };
        let index = state.pick(only, &self.waker, |entry| entry.wants_copy(&self.waker))?;
        let State { entries, ring, copying, .. } = &mut *state;
        let entry = &mut entries[index];
        let chunk = entry.begin_copy(ring, count as u64)?;
        *copying += 1;
        let mut step = CopyStep {
            id: entry.id,
            way: entry.desc.way,
            plan: entry.plan.clone(),
            slot: None,
            queue: entry.hop(Hop::Far).cloned(),
            ticket: Arc::clone(entry.ticket(Hop::Far)),
            chunk,
        };
        let chunk_bytes = entry.desc.chunk_bytes;
        step.slot = chunk.slot.map(|slot| state.slot_part(slot, chunk_bytes));
        Some(step)
    }

    /// A processor has done its piece; of one that goes on to a queue, this is the queue's answer.
    pub(super) fn end_copy(&self, id: u64, chunk: Chunk, enqueued: Option<Result<u64, Error>>) {
        let mut state = self.state.lock();
        state.copying -= 1;
        let State { entries, ring, .. } = &mut *state;
        let entry = entries.iter_mut().find(|entry| entry.id == id).expect("it is not over while a piece is");
        match enqueued {
            Some(answer) => entry.end_enqueue(ring, Hop::Far, chunk, answer),
            None => entry.end_copy(ring, chunk),
        }
        drop(state);
        self.bell.ring();
    }

    /// What became of a transfer, if it is over, and what it owned.
    pub(crate) fn take_ended(&self, id: u64) -> Option<Outcome<B>> {
        let mut state = self.state.lock();
        let index = state.ended.iter().position(|(ended, _)| *ended == id)?;
        Some(state.ended.swap_remove(index).1)
    }

    /// As [`Engine::take_ended`], but keeps a waker for that moment if it is to come.
    pub(crate) fn poll_ended(&self, id: u64, waker: &Waker) -> Option<Outcome<B>> {
        // To clone or drop a waker is the executor's code, so neither is done under the lock.
        let mut waker = Some(waker.clone());
        let mut state = self.state.lock();
        if let Some(entry) = state.entry(id) {
            std::mem::swap(&mut entry.waker, &mut waker);
        }
        drop(state);
        drop(waker);
        self.take_ended(id)
    }

    /// Asks a transfer to stop; false if it is over.
    pub(crate) fn cancel(&self, id: u64) -> bool {
        let mut state = self.state.lock();
        let Some(entry) = state.entry(id) else { return false };
        entry.cancel();
        drop(state);
        self.bell.ring();
        true
    }

    /// Nobody will ask what became of a transfer: what it owns goes with it.
    pub(crate) fn detach(&self, id: u64) {
        let mut state = self.state.lock();
        let waker = state.entry(id).map(|entry| {
            entry.has_future = false;
            entry.waker.take()
        });
        drop(state);
        drop(waker);
        drop(self.take_ended(id));
    }

    /// How many bytes of a transfer have arrived; `None` if its outcome has been taken.
    pub(crate) fn done_bytes(&self, id: u64) -> Option<u64> {
        let mut state = self.state.lock();
        if let Some(entry) = state.entry(id) {
            return Some(entry.done_bytes());
        }
        state.ended.iter().find(|(ended, ..)| *ended == id).map(|(_, (over, _))| over.done_bytes)
    }

    /// Whether a transfer is over.
    pub(crate) fn is_over(&self, id: u64) -> bool {
        self.state.lock().entry(id).is_none()
    }
}

/// Gives a queue a chunk, and puts a marker behind it: by this value the queue has passed it.
pub(super) fn enqueue<B: Backend>(
    own: &Shared<B>,
    plan: &Plan<B>,
    queue: &HopQueue<B>,
    hop: Hop,
    chunk: Chunk,
    slot: Option<&SlotPart<B>>,
    ticket: &Arc<aquifer_backend::Ticket>,
) -> Result<u64, Error> {
    let shared = queue.shared(own);
    // To another device a staging chunk is memory of the host.
    let slot = slot.map(|slot| match queue.foreign {
        Some(_) => slot.end_of_host(),
        None => slot.end(),
    });
    plan.enqueue(shared, &queue.queue, hop, chunk, slot.as_ref(), ticket)?;
    // Refused or not, a marker comes behind it sooner or later.
    Ok(shared.signal(&queue.queue).unwrap_or_else(|_| queue.queue.timeline.claimed()))
}
