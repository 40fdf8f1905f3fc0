//! Size classes summed up to the powers of two.

use super::ClassStatistics;
use crate::pool::{BUCKET_BYTES_MAX, GRANULE_BYTES};

/// How many buckets have an upper end.
const BOUNDED_COUNT: usize = (BUCKET_BYTES_MAX.ilog2() - GRANULE_BYTES.ilog2() + 1) as usize;

/// One bucket: all size classes above one power of two, up to the next; or all requests that are larger than every bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryBucket {
    /// The largest request that it takes, in bytes: a power of two from 256 B to 256 MiB; `None` for what is larger than
    /// every bucket.
    pub size_bytes: Option<u64>,
    /// Allocations so far.
    pub allocations: u64,
    /// Allocations freed so far.
    pub deallocations: u64,
    /// Allocations for which the driver had to be called.
    pub misses: u64,
    /// Places that caches gave back to the pool.
    pub evictions: u64,
    /// Requested bytes, live.
    pub requested_bytes: u64,
    /// Requested bytes of all allocations so far.
    pub requested_bytes_total: u64,
    /// Allocated bytes, live.
    pub allocated_bytes: u64,
    /// Allocated bytes of all allocations so far.
    pub allocated_bytes_total: u64,
    /// Bytes kept ready, in caches or because they were preallocated.
    pub cached_bytes: u64,
}

impl MemoryBucket {
    /// Allocations that are live.
    #[must_use]
    pub fn live_count(&self) -> u64 {
        self.allocations.saturating_sub(self.deallocations)
    }

    /// Allocations served without calling the driver.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.allocations.saturating_sub(self.misses)
    }

    /// The share of allocations that were served without calling the driver, 0 to 1; 1 if there were none.
    #[must_use]
    pub fn hit_rate(&self) -> f64 {
        1.0 - share(self.misses, self.allocations)
    }

    /// The share of the allocated bytes of all allocations so far that rounding added, 0 to 1; 0 if there were none.
    #[must_use]
    pub fn waste_total(&self) -> f64 {
        share(
            self.allocated_bytes_total.saturating_sub(self.requested_bytes_total),
            self.allocated_bytes_total,
        )
    }

    fn add(&mut self, class: &ClassStatistics) {
        let ClassStatistics {
            size_bytes: _,
            allocations,
            deallocations,
            misses,
            evictions,
            requested_bytes,
            requested_bytes_total,
            allocated_bytes,
            allocated_bytes_total,
            cached_bytes,
        } = *class;
        self.allocations += allocations;
        self.deallocations += deallocations;
        self.misses += misses;
        self.evictions += evictions;
        self.requested_bytes += requested_bytes;
        self.requested_bytes_total += requested_bytes_total;
        self.allocated_bytes += allocated_bytes;
        self.allocated_bytes_total += allocated_bytes_total;
        self.cached_bytes += cached_bytes;
    }
}

/// A part of a whole; of nothing, none.
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// All buckets, smallest first, with what `classes` sum up to in each; last what is larger than every bucket.
pub(super) fn buckets(classes: &[ClassStatistics]) -> Vec<MemoryBucket> {
    let sizes = (0..BOUNDED_COUNT).map(|index| Some(GRANULE_BYTES << index)).chain([None]);
    let mut buckets: Vec<_> =
        sizes.map(|size_bytes| MemoryBucket { size_bytes, ..MemoryBucket::default() }).collect();
    for class in classes {
        let index = class.size_bytes.map_or(BOUNDED_COUNT, |bytes| {
            (bytes.next_power_of_two().ilog2() - GRANULE_BYTES.ilog2()) as usize
        });
        buckets[index].add(class);
    }
    buckets
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::pool::BucketLayout;

    #[test]
    fn classes_are_summed_into_their_bucket() {
        let class = |size_bytes, allocations, misses| ClassStatistics {
            size_bytes,
            allocations,
            misses,
            deallocations: 1,
            evictions: 2,
            requested_bytes: 3,
            allocated_bytes: 4,
            requested_bytes_total: 3 * allocations,
            allocated_bytes_total: 4 * allocations,
            cached_bytes: 5,
        };
        let classes =
            [class(None, 2, 2), class(Some(4608), 3, 1), class(Some(8192), 5, 1), class(Some(256), 1, 0)];
        let buckets = buckets(&classes);
        let used: Vec<_> = buckets.iter().filter(|bucket| bucket.allocations > 0).collect();
        let sizes: Vec<_> = used.iter().map(|bucket| bucket.size_bytes).collect();
        assert_eq!(sizes, [Some(256), Some(8192), None]);
        let both = MemoryBucket {
            size_bytes: Some(8192),
            allocations: 8,
            deallocations: 2,
            misses: 2,
            evictions: 4,
            requested_bytes: 6,
            requested_bytes_total: 24,
            allocated_bytes: 8,
            allocated_bytes_total: 32,
            cached_bytes: 10,
        };
        assert_eq!(*used[1], both);
        assert_eq!((both.live_count(), both.hits(), both.hit_rate(), both.waste_total()), (6, 6, 0.75, 0.25));
    }

    #[test]
    fn every_power_of_two_has_a_bucket_and_every_class_is_in_one() {
        let empty = buckets(&[]);
        let sizes: Vec<_> = empty.iter().map(|bucket| bucket.size_bytes).collect();
        let expected: Vec<_> = (8..=28).map(|log2| Some(1 << log2)).chain([None]).collect();
        assert_eq!(sizes, expected);
        assert_eq!((empty[0].hit_rate(), empty[0].waste_total()), (1.0, 0.0));
        for sub_classes in [1, 8, 64] {
            let layout = BucketLayout::with_sub_classes(sub_classes).expect("a power of two");
            let class = |index| ClassStatistics {
                size_bytes: Some(layout.class_bytes(index)),
                allocations: 1,
                ..ClassStatistics::default()
            };
            let classes: Vec<_> = (0..layout.class_count()).map(class).collect();
            let buckets = buckets(&classes);
            assert_eq!(
                buckets.iter().map(|bucket| bucket.allocations).sum::<u64>(),
                layout.class_count() as u64
            );
            let least: Vec<_> = buckets[..21].iter().map(|bucket| bucket.allocations > 0).collect();
            assert_eq!(least, [true; 21], "{sub_classes} sub-classes");
        }
    }
}
