//! All transfers of a manager that are under way.

use super::counters::{End, RouteCounters};
use super::entry::{Entry, EntryDesc, Hop, HopQueue, Over, RAMP_BYTES, Rank, Spare, Want};
use super::ring::{NeedsRing, PARTS_PER_CHUNK, Ring, SlotIndex, SlotSize};
use super::threads::{CopyStep, CopyThreads};
use super::{Progress, Route, TransferOptions, TransferStatistics};
use crate::calls::{call, wake_all};
use crate::manager::{QueueState, Shared};
use crate::raw::transfer::{Parts, Plan, Slot, SlotPart};
use aquifer_backend::{Backend, Error, ErrorKind};
use arrayvec::ArrayVec;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};
use std::time::Duration;

/// So many queues are asked how far they are without allocating a list of them.
const QUEUES_MOSTLY: usize = 8;
/// How long one waits for a queue, or for the bell, before one looks at all again.
const WAIT_STEP: Duration = Duration::from_millis(100);
/// The same for copy threads: how late they may notice what nobody rings for.
const TICK: Duration = Duration::from_millis(1);
/// How many processors the last chunks are cut for, where nobody knows how many there are.
const COPIERS_UNKNOWN: usize = 8;
/// What is kept for the next transfers.
const SPARES_MAX: usize = 16;

/// Counts rings: who has seen the count, then looked in vain, sleeps until it changes.
#[derive(Debug, Default)]
pub(super) struct RingBell {
    count: AtomicU64,
    lock: Mutex<()>,
    rung: Condvar,
}

impl RingBell {
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    pub(super) fn ring(&self) {
        // Under the lock, so that who is about to sleep does not miss it.
        let lock = self.lock.lock();
        self.count.fetch_add(1, Ordering::AcqRel);
        drop(lock);
        self.rung.notify_all();
    }

    /// Sleeps until it has rung since `seen`, or for so long.
    pub(super) fn wait(&self, seen: u64, timeout: Option<Duration>) {
        let mut lock = self.lock.lock();
        let is_same = |_: &mut ()| self.count() == seen;
        match timeout {
            Some(timeout) => drop(self.rung.wait_while_for(&mut lock, is_same, timeout)),
            None => self.rung.wait_while(&mut lock, is_same),
        }
    }
}

impl Wake for RingBell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }
}

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

struct State<B: Backend> {
    entries: Vec<Entry<B>>,
    /// What is over, and has not been asked for yet.
    ended: Vec<(u64, Outcome<B>)>,
    ring: Ring<B>,
    spares: Vec<Spare>,
    last_id: u64,
    /// Pieces that processors are at.
    copying: usize,
}

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
        let state = State {
            entries: Vec::new(),
            ended: Vec::new(),
            ring: Ring::default(),
            spares: Vec::new(),
            last_id: 0,
            copying: 0,
        };
        let bell = Arc::<RingBell>::default();
        Self {
            state: Mutex::new(state),
            waker: Arc::clone(&bell).into(),
            bell,
            queues: [const { OnceLock::new() }; 3],
            making_queue: Mutex::new(()),
            counters: RouteCounters::default(),
            threads: CopyThreads::default(),
        }
    }
}

/// An entry that is over, with what must be called and dropped under no lock.
struct Ended<B: Backend> {
    waker: Option<Waker>,
    /// Of one that nobody will ask for: else they are kept, and what is needed for them is already gone.
    parts: Option<Box<dyn Parts<B>>>,
    desc: Option<EntryDesc<B>>,
    options: TransferOptions,
}

/// Something to tell a user, of the transfer with this number.
type Tell = (u64, Arc<dyn Fn(Progress) + Send + Sync>, Progress);

impl<B: Backend> State<B> {
    fn entry(&mut self, id: u64) -> Option<&mut Entry<B>> {
        self.entries.iter_mut().find(|entry| entry.id == id)
    }

    /// Who is next of those of whom `wants` says that they want something, if it can be had. Nobody gets a slot that is for another
    /// who comes before, whatever that one wants it for.
    fn pick(
        &mut self,
        only: Option<u64>,
        bell: &Waker,
        wants: impl Fn(&mut Entry<B>) -> Option<Want>,
    ) -> Option<usize> {
        let (share, mut may_stage) = (self.share(), true);
        loop {
            let can = |(index, entry): (usize, &mut Entry<B>)| {
                if only.is_some_and(|id| id != entry.id) {
                    return None;
                }
                let Want { slot } = wants(entry)?;
                (may_stage || slot.is_none()).then(|| (entry.rank(share, slot), index, slot))
            };
            let candidates = self.entries.iter_mut().enumerate().filter_map(can);
            let (rank, index, slot) = candidates.min_by_key(|(rank, index, _)| (*rank, *index))?;
            if slot.is_none_or(|size| self.can_have(rank, share, size, bell)) {
                return Some(index);
            }
            may_stage = false;
        }
    }

    /// How many parts of chunks are each transfer's part of the ring, if all that stage share alike.
    fn share(&self) -> usize {
        let sharers = self.entries.iter().filter(|entry| entry.desc.way.is_staged()).count();
        (self.ring.existing() * PARTS_PER_CHUNK).div_ceil(sharers.max(1))
    }

    /// Whether so much is left for who has this rank: nothing if any that is more urgent wants something; and one slot is kept for each other
    /// who comes before.
    fn can_have(&mut self, rank: Rank, share: usize, size: SlotSize, bell: &Waker) -> bool {
        let Self { entries, ring, .. } = self;
        let mut left = ring.free().without(size);
        for entry in entries {
            let Some(wanted) = entry.wants_slot(bell) else { continue };
            let other = entry.rank(share, Some(wanted));
            if other.0 < rank.0 {
                return false;
            }
            if other < rank {
                left = left.and_then(|left| left.without(wanted));
            }
        }
        left.is_some()
    }

    /// A slot as who copies uses it.
    fn slot_part(&self, index: SlotIndex, chunk_bytes: u64) -> SlotPart<B> {
        let (slot, parts) = self.ring.slot(index);
        SlotPart::new(slot, parts * (chunk_bytes / PARTS_PER_CHUNK as u64))
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

    fn settle(&self, shared: &Shared<B>) {
        loop {
            let mut state = self.state.lock();
            let State { entries, ring, .. } = &mut *state;
            let mut over = None;
            for (index, entry) in entries.iter_mut().enumerate() {
                if entry.settle(shared, ring) && !entry.is_called_for {
                    over.get_or_insert(index);
                }
            }
            // All has been told before a transfer is over, and of each by one thread at a time, so that it rises.
            if let Some(tell) = state.entries.iter_mut().find_map(tell_of) {
                drop(state);
                self.tell(tell);
                continue;
            }
            let Some(index) = over else { return };
            if let Some(parts) = state.entries[index].parts_to_release() {
                let id = state.entries[index].id;
                drop(state);
                self.release(id, parts);
                continue;
            }
            let Ended { waker, parts, desc, options } = self.end(shared, &mut state, index);
            drop(state);
            // All of these may run other code: frees, of which a recorder's writer hears, the user's, the executor's, a manager's end.
            call("who hears of a free", || drop(parts));
            call("what a progress callback owns", || drop(options));
            wake_all(waker);
            self.bell.ring();
            let Some(EntryDesc { near, far, after, needs_ring, manager, .. }) = desc else { continue };
            // The manager last: with it all slots go.
            drop((near, far, after, needs_ring));
            drop(manager);
        }
    }

    fn tell(&self, (id, tell, progress): Tell) {
        call("a progress callback", || tell(progress));
        call("what a progress callback owns", || drop(tell));
        let mut state = self.state.lock();
        state.entry(id).expect("it is not over while it is called for").is_called_for = false;
    }

    /// Lets others use what a transfer has used, whether or not anybody asks what became of it.
    fn release(&self, id: u64, mut parts: Box<dyn Parts<B>>) {
        call("a waker", || parts.release());
        let mut state = self.state.lock();
        let entry = state.entry(id).expect("it is not over while it is called for");
        entry.parts = Some(parts);
        entry.is_called_for = false;
    }

    fn end(&self, shared: &Shared<B>, state: &mut State<B>, index: usize) -> Ended<B> {
        let mut entry = state.entries.swap_remove(index);
        let (id, route, start) = (entry.id, entry.desc.route, entry.start);
        let waker = entry.waker.take();
        let options = std::mem::take(&mut entry.desc.options);
        let is_awaited = entry.has_future || entry.parts.is_none();
        let parts = entry.parts.take();
        let (over, spare, desc) = entry.end();
        self.count(route, &over, shared.config.clock.now().saturating_sub(start));
        if state.spares.len() < SPARES_MAX {
            state.spares.push(spare);
        }
        if !is_awaited {
            return Ended { waker, parts, desc: Some(desc), options };
        }
        // Gone before anybody can hear that it is over. None of it is the last: who waits has a handle, and the buffers.
        drop(desc);
        state.ended.push((id, (over, parts)));
        Ended { waker, parts: None, desc: None, options }
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

    pub(super) fn end_enqueue(&self, id: u64, hop: Hop, chunk: super::Chunk, answer: Result<u64, Error>) {
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
    pub(super) fn end_copy(&self, id: u64, chunk: super::Chunk, enqueued: Option<Result<u64, Error>>) {
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

    /// Blocks until a transfer is over, working at it meanwhile.
    pub(crate) fn wait(&self, shared: &Shared<B>, id: u64) -> Outcome<B> {
        // Where nobody else copies, others may hold all slots until somebody does: as there are no threads, or this is one of them, in
        // a callback.
        let is_copier = self.threads.is_one_of_them();
        let threads = if is_copier { 0 } else { shared.config.transfers.copy_threads };
        let copies = |only| match threads {
            0 => self.take_copy(Copiers::Unknown, only),
            most => only.and_then(|_| self.take_copy(Copiers::AtMost(most), only)),
        };
        loop {
            let seen = self.bell.count();
            self.poll(shared);
            if let Some(over) = self.take_ended(id) {
                return over;
            }
            if let Some(step) = copies(Some(id)).or_else(|| copies(None)) {
                step.run(shared);
                continue;
            }
            self.wait_a_while(shared, Some(id), seen, Some(WAIT_STEP));
        }
    }

    /// Blocks until something is granted that transfers may hold. Polled with a waker that rings the bell.
    pub(crate) fn wait_granted(&self, shared: &Shared<B>, mut poll_granted: impl FnMut(&Waker) -> bool) {
        loop {
            let seen = self.bell.count();
            self.poll(shared);
            if poll_granted(&self.waker) {
                return;
            }
            match self.take_copy(Copiers::Unknown, None) {
                Some(step) => step.run(shared),
                None => self.wait_a_while(shared, None, seen, Some(TICK)),
            }
        }
    }

    /// Waits for what may bring a transfer on, or any.
    fn wait_a_while(&self, shared: &Shared<B>, id: Option<u64>, seen: u64, timeout: Option<Duration>) {
        let mut state = self.state.lock();
        let awaited = |entry: &Entry<B>| entry.awaited().map(|(queue, value)| (queue.clone(), value));
        let own = id.and_then(|id| state.entry(id));
        let is_called_for = own.as_ref().is_some_and(|entry| entry.is_called_for);
        let own = own.and_then(|entry| awaited(entry));
        let awaited = own.or_else(|| state.entries.iter().find_map(awaited)).filter(|_| !is_called_for);
        drop(state);
        match awaited {
            Some((queue, value)) => {
                let of = queue.shared(shared);
                if of.is_lost() || of.wait_a_while(&queue.queue, value, timeout.unwrap_or(TICK)).is_err() {
                    // The driver cannot wait; or it is over, which the next look tells.
                    self.bell.wait(seen, Some(TICK));
                }
            }
            None => self.bell.wait(seen, timeout),
        }
    }

    /// For a copy thread: sleeps until there may be something to do.
    pub(super) fn rest(&self, shared: &Shared<B>, seen: u64) {
        let state = self.state.lock();
        let is_idle = state.entries.is_empty();
        drop(state);
        if is_idle {
            return self.bell.wait(seen, None);
        }
        // One thread waits for the queue, the others for the bell.
        match self.threads.begin_waiting() {
            Some(_waiting) => self.wait_a_while(shared, None, seen, Some(TICK)),
            None => self.bell.wait(seen, Some(WAIT_STEP)),
        }
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
        let waker = waker.clone();
        let mut state = self.state.lock();
        let replaced = state.entry(id).map(|entry| entry.waker.replace(waker));
        drop(state);
        drop(replaced);
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

/// What an entry's user has not been told yet, and is being told then.
fn tell_of<B: Backend>(entry: &mut Entry<B>) -> Option<Tell> {
    let done_bytes = entry.done_bytes();
    let is_news = done_bytes > entry.told_bytes && !entry.is_called_for;
    let tell = entry.desc.options.progress.as_ref().filter(|_| is_news)?;
    entry.told_bytes = done_bytes;
    entry.is_called_for = true;
    Some((entry.id, Arc::clone(tell), Progress { done_bytes, bytes: entry.plan.bytes }))
}

/// Gives a queue a chunk, and puts a marker behind it: by this value the queue has passed it.
pub(super) fn enqueue<B: Backend>(
    own: &Shared<B>,
    plan: &Plan<B>,
    queue: &HopQueue<B>,
    hop: Hop,
    chunk: super::Chunk,
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
