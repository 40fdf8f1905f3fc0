//! What one thread keeps ready: a small stack of free places per size class.
//!
//! The owner takes and gives without a lock, a read-modify-write, an allocation or a clock. Everything is an atomic
//! that only the owner writes (relaxed loads and stores compile to plain moves), so another thread may read the
//! counters at any time.
//!
//! # Looking into another thread's cache
//!
//! Trimming, growing and closing must reach places that other threads keep. The owner and the one who looks in use
//! Dekker's protocol, made cheap for the owner by an asymmetric fence (see [`crate::sync`]):
//!
//! ```text
//! owner                               who looks in (under the registry's lock)
//!   is_busy = true                      is_revoked = true
//!   light fence                         heavy fence
//!   is_revoked? then back off           wait until !is_busy
//!   … take or give …                    … take everything …
//!   is_busy = false  (release)          is_revoked = false  (release)
//! ```
//!
//! One of the two sees the other's write, so they never work at the same time; the release stores, read with acquire,
//! order what they did. An owner that must back off goes to the pool directly and does not wait.

use super::layout::{BucketLayout, CACHED_BYTES_MAX, ClassIndex};
use super::quarantine::{BATCH_ENTRIES, Entry};
use super::uses::Uses;
use super::{Place, Request};
use crate::range::QueueIndex;
use crate::raw::local::LaneIdentity;
use crate::statistics::{LocalTally, Tag, Tally};
use crate::sync::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, LightFence, Ordering, heavy_fence, table_size, yield_now,
};
use arrayvec::ArrayVec;
use crossbeam_utils::CachePadded;
use std::sync::Arc;

/// Most places one class keeps in one thread's cache.
const CLASS_PLACES_MAX: usize = table_size(64, 4) as usize;
/// A class starts with room for so many, and doubles each time that was too few,
const CLASS_PLACES_FIRST: u32 = table_size(2, 1) as u32;
/// as long as all caches of the pool together, each growing to an even share, could not keep more bytes than this, or than this share of
/// the budget. (16 threads that each use all sizes up to 1 MiB want some 100 MiB each.)
const POOL_BYTES_MAX: u64 = 512 << 20;
const POOL_BUDGET_SHARE: u64 = 64;

/// How many bytes all caches of a pool may keep together.
pub(super) fn pool_bytes_max(budget_bytes: u64) -> u64 {
    POOL_BYTES_MAX.max(budget_bytes / POOL_BUDGET_SHARE)
}

/// Places on their way between caches, the depot and the pool.
pub(super) type Batch = ArrayVec<Place, CLASS_PLACES_MAX>;

/// How many places of a class one cache keeps at most: 6 of 1 MiB, and twice as many for each eighth of the size.
///
/// A stack of `n` runs empty or full about once in `n * n / 4` uses, and keeps `n` times its class's bytes. The least
/// sum of both over all classes is where `n` falls with the cube root of the size.
fn class_places_max(class_bytes: u64) -> u32 {
    let share = CACHED_BYTES_MAX as f64 / class_bytes as f64;
    (6.0 * share.cbrt()).round().min(CLASS_PLACES_MAX as f64) as u32
}

/// A [`Place`] that one thread writes and another may read.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(align(16)))]
struct PlaceCell {
    offset: AtomicU64,
    /// 0 until it is first written.
    word: AtomicU64,
}

impl PlaceCell {
    #[inline]
    fn load(&self) -> Option<Place> {
        Place::from_words(self.offset.load(Ordering::Relaxed), self.word.load(Ordering::Relaxed))
    }

    #[inline]
    fn store(&self, place: Place) {
        let (offset, word) = place.words();
        self.offset.store(offset, Ordering::Relaxed);
        self.word.store(word, Ordering::Relaxed);
    }
}

/// An [`Entry`] that one thread writes and another may read.
#[derive(Debug, Default)]
struct EntryCell {
    place: PlaceCell,
    requested_bytes: AtomicU64,
    parts: AtomicU64,
    uses: AtomicU64,
}

impl EntryCell {
    #[inline]
    fn load(&self) -> Option<Entry> {
        let (requested_bytes, parts) =
            (self.requested_bytes.load(Ordering::Relaxed), self.parts.load(Ordering::Relaxed));
        Some(Entry {
            place: self.place.load()?,
            request: Request::from_words(requested_bytes, parts),
            uses: Uses::from_word(self.uses.load(Ordering::Relaxed)),
        })
    }

    #[inline]
    fn store(&self, entry: Entry) {
        let (requested_bytes, parts) = entry.request.words();
        self.place.store(entry.place);
        self.requested_bytes.store(requested_bytes, Ordering::Relaxed);
        self.parts.store(parts, Ordering::Relaxed);
        self.uses.store(entry.uses.word(), Ordering::Relaxed);
    }
}

/// One class: its counters in one cache line, and its stack. Each owner's write is one plain store.
#[derive(Debug)]
#[cfg_attr(not(loom), repr(C, align(64)))]
struct ClassCell {
    class_bytes: u64,
    capacity_max: u32,
    capacity: AtomicU32,
    count: AtomicU32,
    allocations: AtomicU64,
    frees: AtomicU64,
    requested_allocated: AtomicU64,
    requested_freed: AtomicU64,
    places: [PlaceCell; CLASS_PLACES_MAX],
}

impl ClassCell {
    /// The place at a height of the stack, below [`CLASS_PLACES_MAX`].
    #[inline]
    fn place(&self, height: u32) -> &PlaceCell {
        // Heights never reach the limit; the remainder spares the check.
        &self.places[height as usize % CLASS_PLACES_MAX]
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        self.places[..self.count.load(Ordering::Relaxed) as usize].iter().filter_map(PlaceCell::load)
    }
}

/// Sums over time of one class, as one thread or the pool saw them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ClassSums {
    pub(crate) allocations: u64,
    pub(crate) frees: u64,
    /// Bytes asked for by all allocations so far, and by those that have been freed.
    pub(crate) requested_allocated: u64,
    pub(crate) requested_freed: u64,
}

impl ClassSums {
    pub(crate) fn add(&mut self, other: Self) {
        self.allocations += other.allocations;
        self.frees += other.frees;
        self.requested_allocated += other.requested_allocated;
        self.requested_freed += other.requested_freed;
    }
}

/// One thread's cache of one pool.
#[derive(Debug)]
pub(crate) struct ThreadCache {
    queue: QueueIndex,
    fence: LightFence,
    is_busy: CachePadded<AtomicBool>,
    is_revoked: CachePadded<AtomicBool>,
    classes: Box<[ClassCell]>,
    /// What all classes may keep beyond what they started with, in bytes.
    capacity_bytes: AtomicU64,
    /// What was freed while other queues could still use it, and is not handed over yet.
    quarantined: Box<[EntryCell; BATCH_ENTRIES]>,
    quarantined_count: AtomicUsize,
    tally: LocalTally,
    shared_tally: Arc<Tally>,
}

/// Proof that the owner is inside and nobody else is.
struct Inside<'a>(&'a ThreadCache);

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.is_busy.store(false, Ordering::Release);
    }
}

impl ThreadCache {
    pub(crate) fn new(layout: &BucketLayout, queue: QueueIndex, shared_tally: Arc<Tally>) -> Self {
        let classes: Box<[ClassCell]> = (0..layout.cached_class_count())
            .map(|class| {
                let class_bytes = layout.class_bytes(class);
                ClassCell {
                    class_bytes,
                    capacity_max: class_places_max(class_bytes),
                    capacity: AtomicU32::new(CLASS_PLACES_FIRST),
                    count: AtomicU32::new(0),
                    allocations: AtomicU64::new(0),
                    frees: AtomicU64::new(0),
                    requested_allocated: AtomicU64::new(0),
                    requested_freed: AtomicU64::new(0),
                    places: std::array::from_fn(|_| PlaceCell::default()),
                }
            })
            .collect();
        Self {
            queue,
            fence: LightFence::new(),
            is_busy: CachePadded::new(AtomicBool::new(false)),
            is_revoked: CachePadded::new(AtomicBool::new(false)),
            classes,
            capacity_bytes: AtomicU64::new(0),
            quarantined: Box::new(std::array::from_fn(|_| EntryCell::default())),
            quarantined_count: AtomicUsize::new(0),
            tally: LocalTally::default(),
            shared_tally,
        }
    }

    /// The queue of the lane that it belongs to.
    pub(crate) fn queue(&self) -> QueueIndex {
        self.queue
    }

    // The owner's side. Only the thread that the cache belongs to may call these.

    #[inline]
    fn enter(&self) -> Option<Inside<'_>> {
        self.is_busy.store(true, Ordering::Relaxed);
        self.fence.pass();
        let inside = Inside(self);
        if self.is_revoked.load(Ordering::Acquire) { None } else { Some(inside) }
    }

    /// Takes a place of the request's class and counts it as allocated; `None` if there is none, or someone looks in.
    #[inline]
    pub(crate) fn allocate(&self, request: Request) -> Option<Place> {
        let cell = &self.classes[request.class()];
        let _inside = self.enter()?;
        let count = cell.count.load(Ordering::Relaxed).checked_sub(1)?;
        let place = cell.place(count).load();
        cell.count.store(count, Ordering::Relaxed);
        add(&cell.allocations, 1);
        add(&cell.requested_allocated, request.requested_bytes);
        self.tally.rise(request.requested_bytes, cell.class_bytes, request.tag(), &self.shared_tally);
        place
    }

    /// Keeps a place that the request had and counts it as freed; `None` if there is no room, or someone looks in.
    #[inline]
    pub(crate) fn free(&self, place: Place, request: Request) -> Option<()> {
        let cell = &self.classes[request.class()];
        let _inside = self.enter()?;
        let count = cell.count.load(Ordering::Relaxed);
        if count == cell.capacity.load(Ordering::Relaxed) {
            return None;
        }
        cell.place(count).store(place);
        cell.count.store(count + 1, Ordering::Relaxed);
        add(&cell.frees, 1);
        add(&cell.requested_freed, request.requested_bytes);
        self.tally.fall(request.requested_bytes, cell.class_bytes, request.tag(), &self.shared_tally);
        Some(())
    }

    /// Keeps a cached request's place that other queues may still use, and counts it as freed; `None` if the batch is full
    /// or has not begun, or someone looks in.
    #[inline]
    pub(crate) fn quarantine(&self, entry: Entry) -> Option<()> {
        let _inside = self.enter()?;
        let count = self.quarantined_count.load(Ordering::Relaxed);
        if count == 0 || count == BATCH_ENTRIES {
            return None;
        }
        self.keep_quarantined(count, entry);
        Some(())
    }

    /// As [`ThreadCache::quarantine`], and begins a batch; false only if someone looks in, or the batch is full.
    pub(crate) fn begin_quarantine(&self, entry: Entry) -> bool {
        let Some(_inside) = self.enter() else { return false };
        let count = self.quarantined_count.load(Ordering::Relaxed);
        if count < BATCH_ENTRIES {
            self.keep_quarantined(count, entry);
        }
        count < BATCH_ENTRIES
    }

    #[inline]
    fn keep_quarantined(&self, count: usize, entry: Entry) {
        let cell = &self.classes[entry.request.class()];
        let request = entry.request;
        // Counts never reach the limit; the remainder spares the check.
        self.quarantined[count % BATCH_ENTRIES].store(entry);
        self.quarantined_count.store(count + 1, Ordering::Relaxed);
        add(&cell.frees, 1);
        add(&cell.requested_freed, request.requested_bytes);
        self.tally.fall(request.requested_bytes, cell.class_bytes, request.tag(), &self.shared_tally);
    }

    /// Takes a full batch out, to be handed over.
    pub(crate) fn take_full_quarantine(&self, batch: &mut Vec<Entry>) {
        let Some(_inside) = self.enter() else { return };
        if self.quarantined_count.load(Ordering::Relaxed) == BATCH_ENTRIES {
            batch.reserve_exact(BATCH_ENTRIES);
            batch.extend(self.quarantined());
            self.quarantined_count.store(0, Ordering::Relaxed);
        }
    }

    /// Keeps places of this cache's lane, whose identity is `identity`, that have left the quarantine, which were counted as freed when they came there;
    /// those that find no room, or are of another lane, stay in `entries`.
    pub(crate) fn keep(&self, identity: LaneIdentity, entries: &mut Vec<Entry>) {
        let Some(_inside) = self.enter() else { return };
        entries.retain(|entry| {
            if entry.request.identity() != identity || !entry.request.is_cached() {
                return true;
            }
            let cell = &self.classes[entry.request.class()];
            let count = cell.count.load(Ordering::Relaxed);
            if count == cell.capacity.load(Ordering::Relaxed) {
                return true;
            }
            cell.place(count).store(entry.place);
            cell.count.store(count + 1, Ordering::Relaxed);
            false
        });
    }

    fn quarantined(&self) -> impl Iterator<Item = Entry> {
        let count = self.quarantined_count.load(Ordering::Relaxed);
        self.quarantined[..count].iter().filter_map(EntryCell::load)
    }

    /// Lets a class keep more from now on, if the cache may keep so many bytes. Answers how many places to bring when it has run empty.
    pub(crate) fn grow(&self, class: ClassIndex, share_bytes: u64) -> usize {
        let cell = &self.classes[class];
        let capacity = cell.capacity.load(Ordering::Relaxed);
        let wanted = (2 * capacity).min(cell.capacity_max);
        let bytes =
            self.capacity_bytes.load(Ordering::Relaxed) + u64::from(wanted - capacity) * cell.class_bytes;
        if bytes <= share_bytes {
            cell.capacity.store(wanted, Ordering::Relaxed);
            self.capacity_bytes.store(bytes, Ordering::Relaxed);
        }
        (cell.capacity.load(Ordering::Relaxed) / 2).max(1) as usize
    }

    /// Puts places in, from the end of `places`, until the class is full.
    pub(crate) fn fill(&self, class: ClassIndex, places: &mut Batch) {
        let cell = &self.classes[class];
        let Some(_inside) = self.enter() else { return };
        let mut count = cell.count.load(Ordering::Relaxed);
        while count < cell.capacity.load(Ordering::Relaxed) {
            let Some(place) = places.pop() else { break };
            cell.place(count).store(place);
            count += 1;
        }
        cell.count.store(count, Ordering::Relaxed);
    }

    /// Takes the older half of a class out, to make room. The places used last stay: their memory is the warmest.
    pub(crate) fn take_half(&self, class: ClassIndex, places: &mut Batch) {
        let cell = &self.classes[class];
        let Some(_inside) = self.enter() else { return };
        let count = cell.count.load(Ordering::Relaxed);
        let taken = count.div_ceil(2);
        places.extend(cell.places().take(taken as usize));
        for (height, place) in cell.places().skip(taken as usize).enumerate() {
            cell.places[height].store(place);
        }
        cell.count.store(count - taken, Ordering::Relaxed);
    }

    /// Tells the shared tally what this thread has not told yet. To be done before the thread adds to the shared tally
    /// itself: the highest sum it remembers counts from what the shared one was.
    pub(crate) fn publish_one(&self, tag: Tag) {
        let Some(_inside) = self.enter() else { return };
        self.tally.publish_one(tag, &self.shared_tally);
    }

    // The other side. Only under the registry's lock.

    /// Keeps the owners of all `caches` out until [`ThreadCache::readmit`]; false if that cannot be had, and then
    /// nobody is kept out.
    pub(crate) fn revoke_all(caches: &[Arc<Self>]) -> bool {
        for cache in caches {
            cache.is_revoked.store(true, Ordering::Release);
        }
        if !heavy_fence() {
            for cache in caches {
                cache.readmit();
            }
            return false;
        }
        for cache in caches {
            while cache.is_busy.load(Ordering::Acquire) {
                yield_now();
            }
        }
        true
    }

    /// Lets the owner in again.
    pub(crate) fn readmit(&self) {
        self.is_revoked.store(false, Ordering::Release);
    }

    /// Takes everything out. The owner must be kept out, or be the caller.
    pub(crate) fn drain(&self, mut take: impl FnMut(ClassIndex, Place)) {
        for (class, cell) in self.classes.iter().enumerate() {
            cell.places().for_each(|place| take(class, place));
            cell.count.store(0, Ordering::Relaxed);
        }
    }

    /// Takes out what waits for queues. The owner must be kept out, or be the caller.
    pub(crate) fn drain_quarantine(&self, mut take: impl FnMut(Entry)) {
        self.quarantined().for_each(&mut take);
        self.quarantined_count.store(0, Ordering::Relaxed);
    }

    /// Tells the shared tally everything. The owner must be kept out, or be the caller.
    pub(crate) fn publish(&self) {
        self.tally.publish_all(&self.shared_tally);
    }

    // Reading. Any thread, any time; consistent when the owner rests.

    pub(crate) fn tally(&self) -> &LocalTally {
        &self.tally
    }

    /// Adds a class's frees to `sums`. To be read before any thread's allocations: a free that is seen was allocated
    /// before.
    pub(crate) fn add_freed(&self, class: ClassIndex, sums: &mut ClassSums) {
        sums.frees += read(&self.classes[class].frees);
        sums.requested_freed += read(&self.classes[class].requested_freed);
    }

    /// Adds a class's allocations to `sums`.
    pub(crate) fn add_allocated(&self, class: ClassIndex, sums: &mut ClassSums) {
        sums.allocations += read(&self.classes[class].allocations);
        sums.requested_allocated += read(&self.classes[class].requested_allocated);
    }

    /// How many allocations there were, over all classes.
    pub(crate) fn allocation_count(&self) -> u64 {
        self.classes.iter().map(|cell| read(&cell.allocations)).sum()
    }

    /// How many frees there were, over all classes.
    pub(crate) fn free_count(&self) -> u64 {
        self.classes.iter().map(|cell| read(&cell.frees)).sum()
    }

    /// The entries that wait for queues.
    pub(crate) fn quarantined_entries(&self) -> Vec<Entry> {
        self.quarantined().collect()
    }

    /// Whether any entry waits for queues.
    pub(crate) fn has_quarantined(&self) -> bool {
        self.quarantined_count.load(Ordering::Relaxed) > 0
    }

    /// How many places of a class are kept.
    pub(crate) fn place_count(&self, class: ClassIndex) -> u64 {
        u64::from(self.classes[class].count.load(Ordering::Relaxed))
    }
}

/// A counter's owner adds; nobody else writes.
#[inline]
fn add(counter: &AtomicU64, value: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(value), Ordering::Release);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Acquire)
}

#[cfg(all(test, loom))]
mod loom_tests;
