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
//! preallocated   places made ready for one size
//!     |  none of this size
//! the manager    budget, driver               (crate::manager)
//! ```
//!
//! A pool never calls a driver. It says that nothing fits, and the manager brings it another block.
//!
//! Thread caches and depot are a [`Lane`]: one for buffers without a queue, and one for each queue. What is freed while
//! queues other than its own may still use it goes through the [`Quarantine`] first.

mod aside;
mod caches;
mod depot;
mod elastic;
mod growth;
mod in_flight;
mod lane;
mod layout;
mod preallocated;
mod quarantine;
mod request;
mod slab;
mod snapshot;
mod state;
mod thread_cache;
mod uses;

pub use layout::{BUCKET_BYTES_MAX, BucketLayout, GRANULE_BYTES};

pub(crate) use growth::{BLOCK_GRANULE_BYTES, EXACT_BYTES_MIN, SHARED_BLOCK_BYTES_MAX};
pub(crate) use layout::CACHED_BYTES_MAX;

use crate::bell::Bell;
use crate::clock::Clock;
use crate::range::{BlockIndex, IdleBlock, NO_QUEUE, QueueIndex, Range};
use crate::raw::local;
use crate::statistics::Tally;
use crate::sync::{AtomicU64, Mutex, Rank};
use crate::timeline::Timeline;
use growth::{Fit, Plan};
use layout::ClassIndex;
use parking_lot::RwLock;
use quarantine::Quarantine;
use state::State;
use std::sync::Arc;
use thread_cache::Batch;

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
    /// Destroy blocks of `aside_bytes` bytes, or a little more, of those that are set aside, and these, which the pool has let
    /// go; then create one of `bytes`; one of [`Pool::range_bytes`] will do.
    Create { aside_bytes: u64, evicted: Vec<IdleBlock>, bytes: u64 },
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
    /// How many bytes all caches may keep together.
    caches_bytes_max: u64,
    quarantine: Mutex<Quarantine>,
    /// Held while places go from the quarantine to where they are found again, and while they are counted.
    moving: Mutex<()>,
    state: Mutex<State>,
}

impl Pool {
    pub(crate) fn new(
        layout: BucketLayout,
        is_elastic: bool,
        budget_bytes: u64,
        clock: Clock,
        tally: Arc<Tally>,
        bell: Arc<Bell>,
    ) -> Arc<Self> {
        let lane = Lane::new(&layout, NO_QUEUE, Arc::default());
        Arc::new(Self {
            layout,
            clock,
            tally,
            bell,
            lanes: RwLock::new(vec![Arc::new(lane)]),
            registry: Mutex::new(Rank::Registry, Registry::default()),
            cache_count: AtomicU64::new(0),
            caches_bytes_max: thread_cache::pool_bytes_max(budget_bytes),
            quarantine: Mutex::new(Rank::Quarantine, Quarantine::default()),
            moving: Mutex::new(Rank::Moving, ()),
            state: Mutex::new(Rank::PoolState, State::new(&layout, is_elastic)),
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
        let found = if request.is_cached() {
            local::with_or_make(self, lane, |cache| self.refill(lane, cache, request))
        } else {
            None
        };
        let place = found.unwrap_or_else(|| self.allocate_directly(lane, request));
        place.or_else(|| self.allocate_preallocated(request))
    }

    /// Brings places to a cache that has run empty, and takes one; `None` if the pool must grow.
    fn refill(&self, lane: &Lane, cache: &ThreadCache, request: Request) -> Option<Place> {
        // Those who come past the hot path find it full as often as not.
        if let Some(place) = cache.allocate(request) {
            return Some(place);
        }
        let class = request.class();
        let wanted = cache.grow(class, self.cache_share_bytes());
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
        cache.grow(class, self.cache_share_bytes());
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
        if request.is_slot(bytes) { slab::slab_bytes(bytes) } else { bytes }
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
            Plan::Create { aside_bytes, evicted, bytes } => Growth::Create { aside_bytes, evicted, bytes },
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

    /// How often something was allocated or freed so far.
    pub(crate) fn request_count(&self) -> u64 {
        let caches = self.thread_caches();
        let in_caches = caches.iter().map(|cache| cache.allocation_count() + cache.free_count()).sum::<u64>();
        let state = self.state.lock();
        in_caches + state.classes.iter().map(|class| class.sums.allocations + class.sums.frees).sum::<u64>()
    }

    /// Bytes of blocks that hold nothing and are kept for whoever comes.
    pub(crate) fn idle_bytes_kept(&self) -> u64 {
        self.state.lock().ranges.idle_bytes()
    }

    /// The same, and those that are set aside.
    pub(crate) fn idle_bytes(&self) -> u64 {
        let state = self.state.lock();
        state.ranges.idle_bytes() + state.ranges.aside_bytes()
    }

    /// The caches that threads have of this pool, of all lanes, to read.
    pub(crate) fn thread_caches(&self) -> Vec<Arc<ThreadCache>> {
        self.registry.lock().caches.clone()
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
