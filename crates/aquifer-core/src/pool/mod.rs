//! A pool: all blocks of one memory type, and everything that hands out parts of them.
//!
//! ```text
//! thread cache   own stack per class          no lock
//!     |  half a stack at a time
//! depot          shared stack per class       one lock per class
//!     |
//! slabs          slots up to 32 KiB           \  one lock
//! ranges         best fit over all blocks     /
//!     |  "nothing fits"
//! the manager    budget, driver               (crate::manager)
//! ```
//!
//! A pool never calls a driver. It says that nothing fits, and the manager brings it another block.
//!
//! Thread caches and depot are a [`Lane`]: one for buffers without a queue, and one for each queue. What is freed while
//! queues other than its own may still use it goes through the [`Quarantine`] first.

mod depot;
mod growth;
mod lane;
mod layout;
mod quarantine;
mod request;
mod slab;
mod snapshot;
mod state;
mod thread_cache;
mod uses;

pub use layout::{BUCKET_BYTES_MAX, BucketLayout, GRANULE_BYTES};

pub(crate) use layout::CACHED_BYTES_MAX;

use crate::bell::Bell;
use crate::clock::Clock;
use crate::planted;
use crate::range::{BlockIndex, IdleBlock, NO_QUEUE, QueueIndex, Range};
use crate::raw::local;
use crate::statistics::Tally;
use crate::sync::{AtomicU64, Mutex, Ordering, Rank};
use crate::timeline::Timeline;
use growth::{Fit, Plan};
use layout::ClassIndex;
use parking_lot::RwLock;
use quarantine::Quarantine;
use state::State;
use std::sync::Arc;
use thread_cache::{Batch, ClassSums};

pub(crate) use lane::Lane;
pub(crate) use quarantine::{BatchId, Entry};
pub(crate) use request::{LaneKey, Place, Request};
pub(crate) use thread_cache::ThreadCache;
pub(crate) use uses::Uses;

/// How a pool was left when its manager closed it, or by a free after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
    /// Nothing is live: the pool can go.
    Drained,
    /// Something is live; the free that ends this answers [`Closing::Drained`].
    Orphans,
    /// It cannot be known, since the system refused to order other threads' work. The pool must stay for ever.
    Unknown,
}

/// Where places go that no queue uses any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Return {
    /// To be found soonest: this thread's cache, the depots.
    ToCaches,
    /// To slabs and ranges, where they merge and their blocks can go: when memory is short.
    ToRanges,
}

/// How to make room for a request.
#[derive(Debug)]
pub(crate) enum Growth {
    /// Not needed: here it is.
    Placed(Place),
    /// Destroy these blocks, which the pool has let go, then create one of `bytes`; one of [`Pool::range_bytes`] will
    /// do.
    Create { evicted: Vec<IdleBlock>, bytes: u64 },
}

/// The thread caches of all lanes.
#[derive(Debug, Default)]
struct Registry {
    caches: Vec<Arc<ThreadCache>>,
    is_closed: bool,
    /// Whether owners stay kept out after someone has looked in: somebody waits for memory.
    is_held: bool,
}

/// A pool of one memory type.
#[derive(Debug)]
pub(crate) struct Pool {
    layout: BucketLayout,
    clock: Clock,
    tally: Arc<Tally>,
    bell: Arc<Bell>,
    /// By queue; the first is that of no queue. Only ever more.
    lanes: RwLock<Vec<Arc<Lane>>>,
    registry: Mutex<Registry>,
    /// How many thread caches there are, of all lanes.
    cache_count: AtomicU64,
    quarantine: Mutex<Quarantine>,
    /// Held while places go from the quarantine to where they are found again, and while they are counted.
    moving: Mutex<()>,
    state: Mutex<State>,
}

impl Pool {
    pub(crate) fn new(layout: BucketLayout, clock: Clock, tally: Arc<Tally>, bell: Arc<Bell>) -> Arc<Self> {
        let lane = Lane::new(&layout, NO_QUEUE, Arc::default());
        Arc::new(Self {
            layout,
            clock,
            tally,
            bell,
            lanes: RwLock::new(vec![Arc::new(lane)]),
            registry: Mutex::new(Rank::Registry, Registry::default()),
            cache_count: AtomicU64::new(0),
            quarantine: Mutex::new(Rank::Quarantine, Quarantine::default()),
            moving: Mutex::new(Rank::Moving, ()),
            state: Mutex::new(Rank::PoolState, State::new(&layout)),
        })
    }

    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Adds the lane of a queue, whose number is how many lanes there are.
    pub(crate) fn add_lane(&self, queue: QueueIndex, timeline: Arc<Timeline>) -> Arc<Lane> {
        let mut lanes = self.lanes.write();
        assert_eq!(lanes.len(), usize::from(queue), "queues come one after the other");
        let lane = Arc::new(Lane::new(&self.layout, queue, timeline));
        lanes.push(Arc::clone(&lane));
        lane
    }

    pub(crate) fn lane(&self, queue: QueueIndex) -> Arc<Lane> {
        Arc::clone(&self.lanes.read()[usize::from(queue)])
    }

    fn all_lanes(&self) -> Vec<Arc<Lane>> {
        self.lanes.read().clone()
    }

    #[inline]
    pub(crate) fn layout(&self) -> &BucketLayout {
        &self.layout
    }

    /// Finds a place in what is reserved, past this thread's cache if that has none; `None` if the pool must grow.
    pub(crate) fn allocate(self: &Arc<Self>, lane: &Arc<Lane>, request: Request) -> Option<Place> {
        if !request.is_cached() {
            return self.allocate_directly(lane, request);
        }
        let found = local::with_or_make(self, lane, |cache| self.refill(lane, cache, request));
        found.unwrap_or_else(|| self.allocate_directly(lane, request))
    }

    /// Brings places to a cache that has run empty, and takes one; `None` if the pool must grow.
    fn refill(&self, lane: &Lane, cache: &ThreadCache, request: Request) -> Option<Place> {
        // Those who come past the hot path find it full as often as not.
        if let Some(place) = cache.allocate(request) {
            return Some(place);
        }
        let class = request.class();
        let wanted = cache.grow(class, self.cache_count.load(Ordering::Relaxed));
        let mut places = Batch::new();
        lane.depot.take(class, wanted, &mut places);
        if places.is_empty() {
            let class_bytes = self.layout.class_bytes(class);
            self.state.lock().allocate_places(lane.queue, class, class_bytes, wanted, &mut places);
        }
        if places.is_empty() {
            return None;
        }
        cache.fill(class, &mut places);
        let mut place = cache.allocate(request);
        if place.is_none()
            && let Some(found) = places.pop()
        {
            // The caches are held, or someone looks in.
            let bytes = self.layout.class_bytes(class);
            self.state.lock().count_allocation(request, bytes);
            self.count_rise(request, bytes);
            place = Some(found);
        }
        if !places.is_empty() {
            lane.depot.put(class, &mut places);
            self.evict(lane, class, places.drain(..));
        }
        place.or_else(|| self.allocate_directly(lane, request))
    }

    /// The way past the caches.
    fn allocate_directly(&self, lane: &Lane, request: Request) -> Option<Place> {
        let bytes = request.bytes(&self.layout);
        let place = self.state.lock().allocate(lane.queue, request, bytes, Fit::Good)?;
        self.count_rise(request, bytes);
        Some(place)
    }

    /// Counts an allocation that no thread cache has counted.
    fn count_rise(&self, request: Request, bytes: u64) {
        self.publish_own(request);
        self.tally.rise(request.requested_bytes, bytes, request.tag());
    }

    fn count_fall(&self, request: Request, bytes: u64) {
        self.publish_own(request);
        self.tally.fall(request.requested_bytes, bytes, request.tag());
    }

    fn publish_own(&self, request: Request) {
        local::with(request.identity(), |cache| {
            cache.publish_one(request.tag());
            Some(())
        });
    }

    /// Frees a place that this thread's cache had no room for. After this the pool may be gone, unless the caller holds
    /// the manager.
    ///
    /// Takes a share of the pool, so that the pool outlives the moment at which the place is counted as freed, until its
    /// locks are let go.
    pub(crate) fn free(self: Arc<Self>, queue: QueueIndex, place: Place, request: Request) -> Closing {
        let lane = self.lane(queue);
        if request.is_cached() {
            let freed =
                local::with_or_make(&self, &lane, |cache| self.make_room(&lane, cache, place, request));
            if freed == Some(true) {
                return Closing::Orphans;
            }
        }
        let bytes = request.bytes(&self.layout);
        self.count_fall(request, bytes);
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        state.free_place(place, bytes, lane.bound(), now);
        if state.count_free(request, bytes) { Closing::Drained } else { Closing::Orphans }
    }

    /// Makes room in a cache's full stack, and frees a place to it; false if someone looks in.
    fn make_room(&self, lane: &Lane, cache: &ThreadCache, place: Place, request: Request) -> bool {
        if cache.free(place, request).is_some() {
            return true;
        }
        self.take_half(lane, cache, request.class());
        cache.free(place, request).is_some()
    }

    /// Takes half of a cache's full stack away.
    fn take_half(&self, lane: &Lane, cache: &ThreadCache, class: ClassIndex) {
        cache.grow(class, self.cache_count.load(Ordering::Relaxed));
        let mut places = Batch::new();
        cache.take_half(class, &mut places);
        lane.depot.put(class, &mut places);
        self.evict(lane, class, places.drain(..));
    }

    /// Gives places that a cache kept back to slabs and ranges.
    fn evict(
        &self,
        lane: &Lane,
        class: ClassIndex,
        places: impl IntoIterator<Item = Place, IntoIter: ExactSizeIterator>,
    ) {
        let places = places.into_iter();
        if places.len() == 0 {
            return;
        }
        let (class_bytes, now) = (self.layout.class_bytes(class), self.clock.now_ms());
        let mut state = self.state.lock();
        let bound = lane.bound();
        for place in places {
            state.evict(class, class_bytes, place, bound, now);
        }
    }

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
        if bound_bytes > 0 {
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
            cache.keep(free);
            // Those whose class is full; taking half of it away makes room for all that follow of the class.
            let mut count = free.len();
            while let Some(entry) = free.first()
                && entry.request.identity() == identity
                && entry.request.is_cached()
            {
                self.take_half(lane, cache, entry.request.class());
                cache.keep(free);
                if free.len() == count {
                    break;
                }
                count = free.len();
            }
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

    /// Finds a place wherever there is one, however bad a fit.
    pub(crate) fn allocate_anywhere(&self, lane: &Lane, request: Request) -> Option<Place> {
        let bytes = request.bytes(&self.layout);
        let place = self.state.lock().allocate(lane.queue, request, bytes, Fit::Any);
        if place.is_some() {
            self.count_rise(request, bytes);
        }
        place.or_else(|| self.allocate_across(lane, request))
    }

    /// What a request occupies, in bytes.
    pub(crate) fn bytes(&self, request: Request) -> u64 {
        request.bytes(&self.layout)
    }

    /// The size of the range that a request needs when no slab has room for it.
    pub(crate) fn range_bytes(&self, request: Request) -> u64 {
        let bytes = request.bytes(&self.layout);
        if request.is_cached() && bytes <= slab::SLOT_BYTES_MAX { slab::slab_bytes(bytes) } else { bytes }
    }

    /// Decides how to make room for a request that [`Pool::allocate`] found none for. The manager holds its growth
    /// lock and has called [`Pool::flush_for`], which also tells how many requests there were.
    pub(crate) fn plan_growth(&self, lane: &Lane, request: Request, block_granularity_bytes: u64) -> Growth {
        let mut state = self.state.lock();
        match state.plan_growth(lane.queue, self.range_bytes(request), block_granularity_bytes) {
            Plan::TakeAnyFit => {
                let bytes = request.bytes(&self.layout);
                let place = state
                    .allocate(lane.queue, request, bytes, Fit::Any)
                    .expect("an idle block holds the request");
                drop(state);
                self.count_rise(request, bytes);
                Growth::Placed(place)
            }
            Plan::Create { evicted, bytes } => Growth::Create { evicted, bytes },
        }
    }

    /// Makes a new block part of the pool and serves the request from it, which must fit.
    pub(crate) fn grow(&self, lane: &Lane, block: BlockIndex, block_bytes: u64, request: Request) -> Place {
        let (bytes, now) = (request.bytes(&self.layout), self.clock.now_ms());
        let mut state = self.state.lock();
        state.ranges.add_block(block, block_bytes, now);
        state.allowance.count_miss();
        state.classes[request.class()].misses += 1;
        let place = state
            .allocate(lane.queue, request, bytes, Fit::Any)
            .expect("a new block holds the request that it was made for");
        drop(state);
        self.count_rise(request, bytes);
        place
    }

    /// Takes a block back that the pool had let go and the driver refused.
    pub(crate) fn restore(&self, idle: IdleBlock) {
        self.state.lock().ranges.restore_block(idle);
    }

    /// Lets go of idle blocks, longest idle first, for as long as `wants_more` says so of the next one and of the
    /// bytes reserved now.
    pub(crate) fn release_idle(&self, wants_more: impl FnMut(&IdleBlock, u64) -> bool) -> Vec<IdleBlock> {
        self.state.lock().release_idle(wants_more)
    }

    /// Releases what whole multiples of `granule` bytes are free in blocks that are partly used.
    pub(crate) fn release_holes(&self, granule: u64) -> Vec<Range> {
        self.state.lock().ranges.release_holes(granule)
    }

    /// Takes a range back that the pool had released and the driver refused.
    pub(crate) fn unrelease(&self, range: Range) {
        self.state.lock().ranges.unrelease(range);
    }

    /// Empties all caches if that is worth it to make room for a request; says whether it did.
    pub(crate) fn flush_for(&self, request: Request) -> bool {
        self.count_requests();
        let should_flush = self.state.lock().should_flush(self.range_bytes(request));
        if should_flush {
            let places = self.flush();
            self.state.lock().allowance.count_flushed(places);
        }
        should_flush
    }

    /// Tells the allowance how many requests there were, most of which the thread caches have served without a word.
    fn count_requests(&self) {
        let in_caches = self.thread_caches().iter().map(|cache| cache.allocation_count()).sum::<u64>();
        let mut state = self.state.lock();
        let counted = state.classes.iter().map(|class| class.sums.allocations).sum::<u64>();
        state.allowance.set_requests(counted + in_caches);
    }

    /// Empties all caches, those of other threads too, so that what they kept can merge; what waits for queues goes to the
    /// shared batch, to be sealed. Costs some microseconds, and a moment's work for each thread that is just allocating.
    /// Returns how many places they lost.
    pub(crate) fn flush(&self) -> u64 {
        let registry = self.registry.lock();
        // Not before: a queue may come and get caches meanwhile.
        let lanes = self.all_lanes();
        let mut places = 0;
        if ThreadCache::revoke_all(&registry.caches) {
            for cache in &registry.caches {
                places += self.empty(&lanes[usize::from(cache.queue())], cache);
                if !registry.is_held {
                    cache.readmit();
                }
            }
        }
        places + lanes.iter().map(|lane| self.empty_depot(lane)).sum::<u64>()
    }

    /// Brings what waits for queues in threads' own batches to the shared batch, to be sealed; leaves all else as it is.
    pub(crate) fn flush_quarantine(&self) {
        let registry = self.registry.lock();
        let caches: Vec<_> =
            registry.caches.iter().filter(|cache| cache.has_quarantined()).cloned().collect();
        if caches.is_empty() || !ThreadCache::revoke_all(&caches) {
            return;
        }
        let mut quarantine = self.quarantine.lock();
        for cache in &caches {
            cache.drain_quarantine(|entry| quarantine.push(entry));
            if !registry.is_held {
                cache.readmit();
            }
        }
    }

    /// Keeps every thread out of its caches from now on, or lets them in again: while somebody waits for memory, every
    /// free must come past the caches, where it can be told of.
    pub(crate) fn hold_caches(&self, is_held: bool) {
        let mut registry = self.registry.lock();
        if std::mem::replace(&mut registry.is_held, is_held) == is_held {
            return;
        }
        if is_held {
            // Where the system refuses to order other threads' work, they notice later: waiters also look by themselves.
            let _ = ThreadCache::revoke_all(&registry.caches);
        } else {
            registry.caches.iter().for_each(|cache| cache.readmit());
        }
    }

    fn empty(&self, lane: &Lane, cache: &ThreadCache) -> u64 {
        let now = self.clock.now_ms();
        if cache.has_quarantined() {
            let mut quarantine = self.quarantine.lock();
            cache.drain_quarantine(|entry| quarantine.push(entry));
        }
        let mut state = self.state.lock();
        let bound = lane.bound();
        let mut count = 0;
        cache.drain(|class, place| {
            state.evict(class, self.layout.class_bytes(class), place, bound, now);
            count += 1;
        });
        count
    }

    fn empty_depot(&self, lane: &Lane) -> u64 {
        let mut count = 0;
        lane.depot.drain(|class, places| {
            count += places.len() as u64;
            self.evict(lane, class, places);
        });
        count
    }

    /// A new cache for the calling thread; `None` once the pool is closed.
    pub(crate) fn enlist(&self, lane: &Lane) -> Option<Arc<ThreadCache>> {
        let mut registry = self.registry.lock();
        if registry.is_closed || registry.is_held {
            return None;
        }
        let cache = Arc::new(ThreadCache::new(&self.layout, lane.queue, Arc::clone(&self.tally)));
        registry.caches.push(Arc::clone(&cache));
        self.cache_count.fetch_add(1, Ordering::Relaxed);
        Some(cache)
    }

    /// Takes an ending thread's cache in: places, counters and all.
    pub(crate) fn retire(&self, cache: &Arc<ThreadCache>) {
        let mut registry = self.registry.lock();
        let Some(place) = registry.caches.iter().position(|other| Arc::ptr_eq(other, cache)) else { return };
        registry.caches.swap_remove(place);
        self.cache_count.fetch_sub(1, Ordering::Relaxed);
        self.fold(cache);
        drop(registry);
        if cache.queue() != NO_QUEUE {
            // What it kept is bound to its queue now.
            self.bell.wake_reaper();
        }
    }

    fn fold(&self, cache: &ThreadCache) {
        cache.publish();
        self.empty(&self.lane(cache.queue()), cache);
        let mut state = self.state.lock();
        for class in 0..self.layout.cached_class_count() {
            let class_bytes = self.layout.class_bytes(class);
            let mut sums = ClassSums::default();
            cache.add_freed(class, &mut sums);
            cache.add_allocated(class, &mut sums);
            let counters = &mut state.classes[class];
            counters.sums.add(sums);
            counters.allocated_allocated += sums.allocations * class_bytes;
            counters.allocated_freed += sums.frees * class_bytes;
        }
    }

    /// Ends allocation for good. From here on every free goes past the caches and is counted under the lock.
    pub(crate) fn close(&self) -> Closing {
        let mut registry = self.registry.lock();
        registry.is_closed = true;
        let caches = std::mem::take(&mut registry.caches);
        if !ThreadCache::revoke_all(&caches) {
            registry.caches = caches;
            return Closing::Unknown;
        }
        for cache in &caches {
            self.fold(cache);
        }
        for lane in self.all_lanes() {
            self.empty_depot(&lane);
        }
        let mut state = self.state.lock();
        state.is_closed = true;
        state.orphans = state.classes.iter().map(|class| class.sums.allocations - class.sums.frees).sum();
        if state.orphans == 0 { Closing::Drained } else { Closing::Orphans }
    }

    /// The caches that threads have of this pool, of all lanes, to read.
    pub(crate) fn thread_caches(&self) -> Vec<Arc<ThreadCache>> {
        self.registry.lock().caches.clone()
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
