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

mod depot;
mod growth;
mod layout;
mod request;
mod slab;
mod snapshot;
mod state;
mod thread_cache;

pub use layout::{BUCKET_BYTES_MAX, BucketLayout, GRANULE_BYTES};

pub(crate) use layout::CACHED_BYTES_MAX;

use crate::clock::Clock;
use crate::range::{BlockIndex, IdleBlock, Range};
use crate::raw::local::{self, PoolId, PoolIdentity};
use crate::statistics::{Tag, Tally};
use crate::sync::{AtomicU64, Mutex, Ordering, Rank};
use depot::Depot;
use growth::{Fit, Plan};
use layout::ClassIndex;
use state::State;
use std::sync::Arc;
use thread_cache::{Batch, ClassSums};

pub(crate) use request::{Place, PoolKey, Request};
pub(crate) use thread_cache::ThreadCache;

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

/// How to make room for a request.
#[derive(Debug)]
pub(crate) enum Growth {
    /// Not needed: here it is.
    Placed(Place),
    /// Destroy these blocks, which the pool has let go, then create one of `bytes`; one of [`Pool::range_bytes`] will
    /// do.
    Create { evicted: Vec<IdleBlock>, bytes: u64 },
}

#[derive(Debug, Default)]
struct Registry {
    caches: Vec<Arc<ThreadCache>>,
    is_closed: bool,
}

/// A pool of one memory type.
#[derive(Debug)]
pub(crate) struct Pool {
    id: PoolId,
    layout: BucketLayout,
    clock: Clock,
    tally: Arc<Tally>,
    registry: Mutex<Registry>,
    thread_count: AtomicU64,
    depot: Depot,
    state: Mutex<State>,
}

impl Pool {
    pub(crate) fn new(layout: BucketLayout, clock: Clock, tally: Arc<Tally>) -> Arc<Self> {
        Arc::new(Self {
            id: PoolId::new(),
            layout,
            clock,
            tally,
            registry: Mutex::new(Rank::Registry, Registry::default()),
            thread_count: AtomicU64::new(0),
            depot: Depot::new(&layout),
            state: Mutex::new(Rank::PoolState, State::new(&layout)),
        })
    }

    pub(crate) fn id(&self) -> &PoolId {
        &self.id
    }

    pub(crate) fn identity(&self) -> PoolIdentity {
        self.id.identity
    }

    #[inline]
    pub(crate) fn layout(&self) -> &BucketLayout {
        &self.layout
    }

    /// Finds a place in what is reserved, past this thread's cache if that has none; `None` if the pool must grow.
    pub(crate) fn allocate(self: &Arc<Self>, request: Request) -> Option<Place> {
        if !request.is_cached() {
            return self.allocate_directly(request);
        }
        let found = local::with_or_make(self, |cache| self.refill(cache, request));
        found.unwrap_or_else(|| self.allocate_directly(request))
    }

    /// Brings places to a cache that has run empty, and takes one; `None` if the pool must grow.
    fn refill(&self, cache: &ThreadCache, request: Request) -> Option<Place> {
        // Those who come past the hot path find it full as often as not.
        if let Some(place) = cache.allocate(request) {
            return Some(place);
        }
        let class = request.class();
        let wanted = cache.grow(class, self.thread_count.load(Ordering::Relaxed));
        let mut places = Batch::new();
        self.depot.take(class, wanted, &mut places);
        if places.is_empty() {
            let class_bytes = self.layout.class_bytes(class);
            self.state.lock().allocate_places(class, class_bytes, wanted, &mut places);
        }
        if places.is_empty() {
            return None;
        }
        cache.fill(class, &mut places);
        let place = cache.allocate(request);
        if !places.is_empty() {
            self.depot.put(class, &mut places);
            self.evict(class, places.drain(..));
        }
        place.or_else(|| self.allocate_directly(request))
    }

    /// The way past the caches.
    fn allocate_directly(&self, request: Request) -> Option<Place> {
        let bytes = request.bytes(&self.layout);
        let place = self.state.lock().allocate(request, bytes, Fit::Good)?;
        self.count_rise(request, bytes);
        Some(place)
    }

    /// Counts an allocation that no thread cache has counted.
    fn count_rise(&self, request: Request, bytes: u64) {
        self.publish_own(request.tag());
        self.tally.rise(request.requested_bytes, bytes, request.tag());
    }

    fn publish_own(&self, tag: Tag) {
        local::with(self.identity(), |cache| {
            cache.publish_one(tag);
            Some(())
        });
    }

    /// Frees a place that this thread's cache had no room for. After this the pool may be gone, unless the caller holds
    /// the manager.
    ///
    /// Takes a share of the pool, so that the pool outlives the moment at which the place is counted as freed, until its
    /// locks are let go.
    pub(crate) fn free(self: Arc<Self>, place: Place, request: Request) -> Closing {
        if request.is_cached() {
            let freed = local::with_or_make(&self, |cache| self.make_room(cache, place, request));
            if freed == Some(true) {
                return Closing::Orphans;
            }
        }
        let bytes = request.bytes(&self.layout);
        self.publish_own(request.tag());
        self.tally.fall(request.requested_bytes, bytes, request.tag());
        let is_last = self.state.lock().free(place, request, bytes, self.clock.now_ms());
        if is_last { Closing::Drained } else { Closing::Orphans }
    }

    /// Takes half of a cache's full stack away, and frees a place to it; false if someone looks in.
    fn make_room(&self, cache: &ThreadCache, place: Place, request: Request) -> bool {
        if cache.free(place, request).is_some() {
            return true;
        }
        let class = request.class();
        cache.grow(class, self.thread_count.load(Ordering::Relaxed));
        let mut places = Batch::new();
        cache.take_half(class, &mut places);
        self.depot.put(class, &mut places);
        self.evict(class, places.drain(..));
        cache.free(place, request).is_some()
    }

    /// Gives places that a cache kept back to slabs and ranges.
    fn evict(&self, class: ClassIndex, places: impl IntoIterator<Item = Place, IntoIter: ExactSizeIterator>) {
        let places = places.into_iter();
        if places.len() == 0 {
            return;
        }
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        for place in places {
            state.evict(class, place, now);
        }
    }

    /// Empties all caches, and finds a place wherever there is one: the last resort before a request fails.
    pub(crate) fn flush_and_allocate(&self, request: Request) -> Option<Place> {
        self.flush();
        let bytes = request.bytes(&self.layout);
        let place = self.state.lock().allocate(request, bytes, Fit::Any)?;
        self.count_rise(request, bytes);
        Some(place)
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
    pub(crate) fn plan_growth(&self, request: Request, block_granularity_bytes: u64) -> Growth {
        let mut state = self.state.lock();
        match state.plan_growth(self.range_bytes(request), block_granularity_bytes) {
            Plan::TakeAnyFit => {
                let bytes = request.bytes(&self.layout);
                let place =
                    state.allocate(request, bytes, Fit::Any).expect("an idle block holds the request");
                drop(state);
                self.count_rise(request, bytes);
                Growth::Placed(place)
            }
            Plan::Create { evicted, bytes } => Growth::Create { evicted, bytes },
        }
    }

    /// Makes a new block part of the pool and serves the request from it, which must fit.
    pub(crate) fn grow(&self, block: BlockIndex, block_bytes: u64, request: Request) -> Place {
        let (bytes, now) = (request.bytes(&self.layout), self.clock.now_ms());
        let mut state = self.state.lock();
        state.ranges.add_block(block, block_bytes, now);
        state.allowance.count_miss();
        state.classes[request.class()].misses += 1;
        let place = state
            .allocate(request, bytes, Fit::Any)
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

    /// Empties all caches, those of other threads too, so that what they kept can merge. Costs some microseconds,
    /// and a moment's work for each thread that is just allocating. Returns how many places they lost.
    pub(crate) fn flush(&self) -> u64 {
        let registry = self.registry.lock();
        let mut places = 0;
        if ThreadCache::revoke_all(&registry.caches) {
            for cache in &registry.caches {
                places += self.empty(cache);
                cache.readmit();
            }
        }
        places + self.empty_depot()
    }

    fn empty(&self, cache: &ThreadCache) -> u64 {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        let mut count = 0;
        cache.drain(|class, place| {
            state.evict(class, place, now);
            count += 1;
        });
        count
    }

    fn empty_depot(&self) -> u64 {
        let mut count = 0;
        self.depot.drain(|class, places| {
            count += places.len() as u64;
            self.evict(class, places);
        });
        count
    }

    /// A new cache for the calling thread; `None` once the pool is closed.
    pub(crate) fn enlist(&self) -> Option<Arc<ThreadCache>> {
        let mut registry = self.registry.lock();
        if registry.is_closed {
            return None;
        }
        let cache = Arc::new(ThreadCache::new(&self.layout, Arc::clone(&self.tally)));
        registry.caches.push(Arc::clone(&cache));
        self.thread_count.fetch_add(1, Ordering::Relaxed);
        Some(cache)
    }

    /// Takes an ending thread's cache in: places, counters and all.
    pub(crate) fn retire(&self, cache: &Arc<ThreadCache>) {
        let mut registry = self.registry.lock();
        let Some(place) = registry.caches.iter().position(|other| Arc::ptr_eq(other, cache)) else { return };
        registry.caches.swap_remove(place);
        self.thread_count.fetch_sub(1, Ordering::Relaxed);
        self.fold(cache);
    }

    fn fold(&self, cache: &ThreadCache) {
        cache.publish();
        self.empty(cache);
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
        self.empty_depot();
        let mut state = self.state.lock();
        state.is_closed = true;
        state.orphans = state.classes.iter().map(|class| class.sums.allocations - class.sums.frees).sum();
        if state.orphans == 0 { Closing::Drained } else { Closing::Orphans }
    }

    /// The caches that threads have of this pool, to read.
    pub(crate) fn thread_caches(&self) -> Vec<Arc<ThreadCache>> {
        self.registry.lock().caches.clone()
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
