//! All threads' caches together: made, looked into, held shut, emptied and closed.

use super::lane::Lane;
use super::thread_cache::ClassSums;
use super::{Closing, Pool, ThreadCache};
use crate::range::NO_QUEUE;
use crate::sync::Ordering;
use std::sync::Arc;

impl Pool {
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

    /// How many bytes each cache may keep.
    pub(super) fn cache_share_bytes(&self) -> u64 {
        self.caches_bytes_max / self.cache_count.load(Ordering::Relaxed).max(1)
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
        self.free_preallocated();
        let mut state = self.state.lock();
        state.is_closed = true;
        state.orphans = state.classes.iter().map(|class| class.sums.allocations - class.sums.frees).sum();
        if state.orphans == 0 { Closing::Drained } else { Closing::Orphans }
    }
}
