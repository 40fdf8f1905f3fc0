//! Counting what a pool has.

use super::Pool;
use super::thread_cache::ClassSums;
use crate::statistics::{ClassStatistics, PoolSnapshot};

impl Pool {
    /// Everything there is to count. Consistent when no thread is allocating or freeing.
    pub(crate) fn snapshot(&self) -> PoolSnapshot {
        let registry = self.registry.lock();
        let _moving = self.moving.lock();
        let (lanes, caches) = (self.all_lanes(), &registry.caches);
        let cached_classes = 0..self.layout.cached_class_count();
        let kept: Vec<u64> = cached_classes
            .map(|class| {
                let in_threads = caches.iter().map(|cache| cache.place_count(class)).sum::<u64>();
                let in_depots = lanes.iter().map(|lane| lane.depot.place_count(class)).sum::<u64>();
                (in_threads + in_depots) * self.layout.class_bytes(class)
            })
            .collect();
        let waiting = caches.iter().flat_map(|cache| cache.quarantined_entries());
        let mut quarantined_bytes: u64 = waiting.map(|entry| entry.request.bytes(&self.layout)).sum();
        let quarantine = self.quarantine.lock();
        quarantined_bytes += quarantine.entries().map(|entry| entry.request.bytes(&self.layout)).sum::<u64>();
        drop(quarantine);
        // The order of reading is the reverse of the order of events, so that no free is seen without its allocation.
        let state = self.state.lock();
        let mut classes: Vec<ClassStatistics> = state
            .classes
            .iter()
            .enumerate()
            .map(|(class, counters)| {
                let is_cached = class < kept.len();
                let mut sums = counters.sums;
                let mut in_threads = ClassSums::default();
                if is_cached {
                    caches.iter().for_each(|cache| cache.add_freed(class, &mut in_threads));
                    caches.iter().for_each(|cache| cache.add_allocated(class, &mut in_threads));
                    sums.add(in_threads);
                }
                let size_bytes = (class < self.layout.class_count()).then(|| self.layout.class_bytes(class));
                let class_bytes = if is_cached { size_bytes.unwrap_or(0) } else { 0 };
                let allocated_total = counters.allocated_allocated + in_threads.allocations * class_bytes;
                ClassStatistics {
                    size_bytes,
                    allocations: sums.allocations,
                    deallocations: sums.frees,
                    misses: counters.misses,
                    evictions: counters.evictions,
                    requested_bytes: sums.requested_allocated - sums.requested_freed,
                    requested_bytes_total: sums.requested_allocated,
                    allocated_bytes: allocated_total
                        - counters.allocated_freed
                        - in_threads.frees * class_bytes,
                    allocated_bytes_total: allocated_total,
                    cached_bytes: kept.get(class).copied().unwrap_or(0),
                }
            })
            .collect();
        for (class, bytes) in state.preallocated.by_class(&self.layout) {
            classes[class].cached_bytes += bytes;
        }
        PoolSnapshot {
            cached_bytes: classes.iter().map(|class| class.cached_bytes).sum(),
            classes,
            quarantined_bytes: quarantined_bytes + state.bound_bytes(),
            free_bytes: state.ranges.reserved_bytes()
                - state.ranges.used_bytes()
                - state.ranges.bound_bytes()
                + state.slabs.free_bytes(),
            purgeable_bytes: state.ranges.aside_bytes(),
            largest_free_bytes: state.ranges.largest_free_bytes(),
            free_range_count: state.ranges.free_range_count() as u64,
            block_count: state.ranges.block_count() as u64,
            physical_block_count: state.ranges.physical_count() as u64,
            mapping_count: state.ranges.mapping_count() as u64,
        }
    }
}
