//! What a pool keeps under its one lock: ranges, slabs, and the counters of everything that did not go through a
//! thread cache. How it grows and shrinks is in [`super::growth`].

use super::growth::{Allowance, Fit};
use super::layout::{BucketLayout, ClassIndex, GRANULE_BYTES};
use super::slab::{self, Slabs};
use super::thread_cache::{Batch, ClassSums};
use super::{Place, Request};
use crate::range::Ranges;

/// Set in a place's source where the place is a slot of a slab.
const SLAB_BIT: u32 = 1 << 31;

/// One class's counters. The last class counts what is larger than every bucket.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ClassCounters {
    pub(crate) sums: ClassSums,
    /// Rounded bytes, like the sums' requested bytes.
    pub(crate) allocated_allocated: u64,
    pub(crate) allocated_freed: u64,
    /// Allocations for which the driver had to be called.
    pub(crate) misses: u64,
    /// Places that caches gave back.
    pub(crate) evictions: u64,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) ranges: Ranges,
    pub(crate) slabs: Slabs,
    pub(crate) classes: Vec<ClassCounters>,
    pub(crate) is_closed: bool,
    /// Allocations still live after closing.
    pub(crate) orphans: u64,
    pub(super) allowance: Allowance,
}

impl State {
    pub(crate) fn new(layout: &BucketLayout) -> Self {
        Self {
            ranges: Ranges::default(),
            slabs: Slabs::new(layout.cached_class_count()),
            classes: vec![ClassCounters::default(); layout.class_count() + 1],
            is_closed: false,
            orphans: 0,
            allowance: Allowance::default(),
        }
    }

    /// Finds a place for a request, which occupies `bytes`, among what is reserved, and counts it.
    pub(crate) fn allocate(&mut self, request: Request, bytes: u64, fit: Fit) -> Option<Place> {
        let is_slot = request.is_cached() && bytes <= slab::SLOT_BYTES_MAX;
        let slot = if is_slot { self.allocate_slot(request.class(), bytes, fit) } else { None };
        // Where there is no room for a slab there may be for a range of the one slot's size, which is as good a place.
        let place = match slot {
            None if !is_slot || fit == Fit::Any => self.allocate_range(bytes, request.alignment(), fit),
            slot => slot,
        }?;
        self.allowance.count_requests(1);
        let counters = &mut self.classes[request.class()];
        counters.sums.allocations += 1;
        counters.sums.requested_allocated += request.requested_bytes;
        counters.allocated_allocated += bytes;
        Some(place)
    }

    /// Finds up to `count` uncounted places of a cached class, for a cache to keep. Of the larger classes just one:
    /// each is a range, and cutting ranges in advance would only keep them from merging.
    pub(crate) fn allocate_places(
        &mut self,
        class: ClassIndex,
        class_bytes: u64,
        count: usize,
        places: &mut Batch,
    ) {
        if class_bytes <= slab::SLOT_BYTES_MAX {
            places.extend((0..count).map_while(|_| self.allocate_slot(class, class_bytes, Fit::Good)));
        } else {
            places.extend(self.allocate_range(class_bytes, GRANULE_BYTES, Fit::Good));
        }
    }

    /// Frees a place and counts it. True if that was the last one of a closed pool.
    pub(crate) fn free(&mut self, place: Place, request: Request, bytes: u64, now: u64) -> bool {
        self.free_place(place, now);
        let counters = &mut self.classes[request.class()];
        counters.sums.frees += 1;
        counters.sums.requested_freed += request.requested_bytes;
        counters.allocated_freed += bytes;
        if !self.is_closed {
            return false;
        }
        self.orphans -= 1;
        self.orphans == 0
    }

    /// Frees a place that a cache kept.
    pub(crate) fn evict(&mut self, class: ClassIndex, place: Place, now: u64) {
        self.free_place(place, now);
        self.classes[class].evictions += 1;
    }

    fn free_place(&mut self, place: Place, now: u64) {
        let range = if place.source() & SLAB_BIT == 0 {
            Some(place.source())
        } else {
            self.slabs.free(place.source() & !SLAB_BIT, place.offset)
        };
        if let Some(range) = range {
            self.ranges.free(range, now);
        }
    }

    fn allocate_slot(&mut self, class: ClassIndex, slot_bytes: u64, fit: Fit) -> Option<Place> {
        let slot = self.slabs.allocate(class).or_else(|| {
            let range = self.find_range(slab::slab_bytes(slot_bytes), GRANULE_BYTES, fit)?;
            self.slabs.add(class, slot_bytes, range);
            self.slabs.allocate(class)
        })?;
        Some(Place::new(slot.slab | SLAB_BIT, slot.block, slot.offset))
    }

    fn allocate_range(&mut self, bytes: u64, alignment: u64, fit: Fit) -> Option<Place> {
        let range = self.find_range(bytes, alignment, fit)?;
        debug_assert_eq!(range.index & SLAB_BIT, 0);
        Some(Place::new(range.index, range.block, range.offset))
    }
}
