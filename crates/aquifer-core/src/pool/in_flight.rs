//! What is freed but still in use by queues: into the quarantine, and out of it when the queues have passed.

use super::quarantine::{BatchId, Entry};
use super::thread_cache::Batch;
use super::{Closing, Lane, Place, Pool, Request, Return, Uses};
use crate::planted;
use crate::range::{NO_QUEUE, QueueIndex};
use crate::raw::local;
use std::sync::Arc;

/// For so many places at most a cache grows when they come back from the quarantine together.
const GROWING_MAX: usize = 16;

impl Pool {
    /// Begins to seal a batch that is full, this thread's or the shared one, so that [`Pool::quarantine`] finds room. The
    /// manager puts the markers into the queues.
    pub(crate) fn begin_seal_full(&self, home: QueueIndex, request: Request) -> Option<(BatchId, Uses)> {
        let mut entries = Vec::new();
        if request.is_cached() {
            let at_hand = local::with(request.identity(), |cache| {
                cache.take_full_quarantine(&mut entries);
                Some(())
            });
            if at_hand.is_none() {
                local::with_own(&self.lane(home), |cache| cache.take_full_quarantine(&mut entries));
            }
        }
        let mut quarantine = self.quarantine.lock();
        match entries.is_empty() {
            false => quarantine.begin_seal(entries),
            true if quarantine.is_full() => quarantine.begin_seal_open(),
            true => None,
        }
    }

    /// Frees a place that other queues than its own may still use. As after [`Pool::free`], the pool may then be gone.
    pub(crate) fn quarantine(self: Arc<Self>, entry: Entry) -> Closing {
        let request = entry.request;
        if request.is_cached() {
            let at_hand = local::with(request.identity(), |cache| Some(cache.begin_quarantine(entry)));
            let begun = at_hand.or_else(|| {
                let lane = self.lane(entry.uses.home());
                local::with_or_make(&self, &lane, |cache| cache.begin_quarantine(entry))
            });
            if begun == Some(true) {
                return Closing::Orphans;
            }
        }
        let bytes = request.bytes(&self.layout);
        self.count_fall(request, bytes);
        self.quarantine.lock().push(entry);
        if self.state.lock().count_free(request, bytes) { Closing::Drained } else { Closing::Orphans }
    }

    /// Begins to seal all that waits without a marker: of all threads if `flush` has just brought it here.
    pub(crate) fn begin_seal_open(&self) -> Option<(BatchId, Uses)> {
        self.quarantine.lock().begin_seal_open()
    }

    /// Keeps a batch until each queue has reached its value.
    pub(crate) fn finish_seal(&self, id: BatchId, values: Vec<(QueueIndex, u64)>) {
        self.quarantine.lock().finish_seal(id, values);
    }

    /// Lets others have what the queues have passed, as their timelines say.
    pub(crate) fn settle(&self, to: Return) {
        if self.lanes.read().len() == 1 {
            return;
        }
        // Whoever counts meanwhile must not miss what is on its way home.
        let _moving = self.moving.lock();
        let mut quarantine = self.quarantine.lock();
        // Not before: a queue may come and be waited for meanwhile.
        let lanes = self.all_lanes();
        let completed = |queue: QueueIndex| lanes[usize::from(queue)].timeline().completed();
        let free = quarantine.collect(completed);
        drop(quarantine);
        let mut state = self.state.lock();
        let bound_bytes = state.bound_bytes();
        if state.is_any_bound() {
            let now = self.clock.now_ms();
            for lane in &lanes[1..] {
                state.settle(lane.queue, lane.timeline().completed(), now);
            }
        }
        let has_passed = state.bound_bytes() < bound_bytes || !free.is_empty();
        drop(state);
        if !free.is_empty() {
            self.give_home(&lanes, free, to);
        }
        if has_passed {
            self.bell.note_news();
        }
    }

    /// Gives places that have left the quarantine back.
    fn give_home(&self, lanes: &[Arc<Lane>], mut free: Vec<Entry>, to: Return) {
        free.retain(|entry| !planted::forgets(entry.place.offset));
        if to == Return::ToCaches && !free.is_empty() {
            self.keep_here(lanes, &mut free);
            free.sort_unstable_by_key(|entry| (entry.uses.home(), entry.request.class()));
        }
        let same = |one: &Entry, other: &Entry| {
            one.uses.home() == other.uses.home() && one.request.class() == other.request.class()
        };
        for group in free.chunk_by(same) {
            let (lane, request) = (&lanes[usize::from(group[0].uses.home())], group[0].request);
            if request.is_cached() && to == Return::ToCaches {
                for part in group.chunks(Batch::new().capacity()) {
                    let mut places: Batch = part.iter().map(|entry| entry.place).collect();
                    lane.depot.put(request.class(), &mut places);
                    self.evict(lane, request.class(), places.drain(..));
                }
                continue;
            }
            let now = self.clock.now_ms();
            let mut state = self.state.lock();
            for entry in group {
                let bytes = entry.request.bytes(&self.layout);
                state.free_place(entry.place, bytes, lane.bound(), now);
            }
        }
    }

    /// Gives places to this thread's cache, as far as it has one of their lane.
    fn keep_here(&self, lanes: &[Arc<Lane>], free: &mut Vec<Entry>) {
        let lane = &lanes[usize::from(free[0].uses.home())];
        let identity = lane.identity();
        local::with_own(lane, |cache| {
            cache.keep(identity, free);
            // What found no room goes to the depot, a stack at a time, unless the cache may grow.
            let share_bytes = self.cache_share_bytes();
            let own = |entry: &&Entry| entry.request.identity() == identity && entry.request.is_cached();
            for entry in free.iter().filter(own).take(GROWING_MAX) {
                cache.grow(entry.request.class(), share_bytes);
            }
            cache.keep(identity, free);
        });
    }

    /// Whether anything may wait for a queue: its timeline is worth asking for.
    pub(crate) fn has_in_flight(&self) -> bool {
        if self.lanes.read().len() == 1 {
            return false;
        }
        !self.quarantine.lock().is_empty()
            || self.state.lock().bound_bytes() > 0
            || self.thread_caches().iter().any(|cache| cache.has_quarantined())
    }

    /// Whether more than so large a share of what is reserved is bound to queues, and more than so many bytes.
    pub(crate) fn is_much_bound(&self, share: u64, bytes: u64) -> bool {
        let state = self.state.lock();
        state.bound_bytes() > bytes.max(state.ranges.reserved_bytes() / share)
    }

    /// The first value that memory waits for on a queue.
    pub(crate) fn first_bound(&self, queue: QueueIndex) -> Option<u64> {
        self.state.lock().first_bound(queue)
    }

    /// Whether something of `queue` waits that no marker covers yet.
    pub(crate) fn needs_marker(&self, queue: QueueIndex) -> bool {
        let claimed = self.lane(queue).timeline().claimed();
        self.state.lock().is_bound_beyond(queue, claimed)
    }

    /// A queue and a value whose passing will free something.
    pub(crate) fn next_in_flight(&self) -> Option<(QueueIndex, u64)> {
        if let Some(oldest) = self.quarantine.lock().oldest() {
            return Some(oldest);
        }
        let lanes = self.all_lanes();
        let state = self.state.lock();
        lanes[1..].iter().find_map(|lane| Some((lane.queue, state.first_bound(lane.queue)?)))
    }

    /// Finds a place in what lies side by side, for a request on a queue that found nothing whole.
    pub(crate) fn allocate_across(&self, lane: &Lane, request: Request) -> Option<Place> {
        if lane.queue == NO_QUEUE {
            return None;
        }
        let bytes = request.bytes(&self.layout);
        let place = self.state.lock().allocate_across(lane.queue, request, bytes)?;
        self.count_rise(request, bytes);
        Some(place)
    }
}
