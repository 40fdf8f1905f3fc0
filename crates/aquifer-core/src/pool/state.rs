//! What a pool keeps under its one lock: ranges, slabs, and the counters of everything that did not go through a
//! thread cache. How it grows and shrinks is in [`super::growth`].

use super::growth::{Allowance, Fit};
use super::layout::{BucketLayout, ClassIndex, GRANULE_BYTES};
use super::preallocated::Preallocated;
use super::slab::{self, Slabs};
use super::thread_cache::{Batch, ClassSums};
use super::{Place, Request};
use crate::range::{Bound, NO_QUEUE, QueueIndex, Ranges};
use std::collections::{BTreeMap, VecDeque};

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
    /// Whether the pool's memory is mapped behind addresses.
    pub(super) is_elastic: bool,
    /// Allocations still live after closing.
    pub(crate) orphans: u64,
    pub(super) allowance: Allowance,
    pub(super) preallocated: Preallocated,
    /// Slots that are bound to a queue: slabs know free and used only. By queue; and their bytes.
    bound_slots: BTreeMap<QueueIndex, VecDeque<(u64, Place, u64)>>,
    bound_slot_bytes: u64,
}

impl State {
    pub(crate) fn new(layout: &BucketLayout, is_elastic: bool) -> Self {
        Self {
            ranges: Ranges::default(),
            slabs: Slabs::new(layout.cached_class_count()),
            classes: vec![ClassCounters::default(); layout.class_count() + 1],
            is_closed: false,
            is_elastic,
            orphans: 0,
            allowance: Allowance::default(),
            preallocated: Preallocated::default(),
            bound_slots: BTreeMap::new(),
            bound_slot_bytes: 0,
        }
    }

    /// Finds a place for a request on `queue`, which occupies `bytes`, among what is reserved, and counts it.
    pub(crate) fn allocate(
        &mut self,
        queue: QueueIndex,
        request: Request,
        bytes: u64,
        fit: Fit,
    ) -> Option<Place> {
        let place = self.find_place(queue, request, bytes, fit)?;
        self.count_allocation(request, bytes);
        Some(place)
    }

    /// As [`State::allocate`], but counts nothing.
    pub(super) fn find_place(
        &mut self,
        queue: QueueIndex,
        request: Request,
        bytes: u64,
        fit: Fit,
    ) -> Option<Place> {
        let is_slot = request.is_slot(bytes);
        let slot = if is_slot { self.allocate_slot(request.class(), bytes, fit) } else { None };
        // Where there is no room for a slab there may be for a range of the one slot's size, which is as good a place.
        match slot {
            None if !is_slot || fit == Fit::Any => {
                self.allocate_range(queue, bytes, request.alignment(), fit)
            }
            slot => slot,
        }
    }

    /// Finds up to `count` uncounted places of a cached class, for a cache to keep. Of the larger classes just one:
    /// each is a range, and cutting ranges in advance would only keep them from merging.
    pub(crate) fn allocate_places(
        &mut self,
        queue: QueueIndex,
        class: ClassIndex,
        class_bytes: u64,
        count: usize,
        places: &mut Batch,
    ) {
        if class_bytes <= slab::SLOT_BYTES_MAX {
            places.extend((0..count).map_while(|_| self.allocate_slot(class, class_bytes, Fit::Good)));
        } else {
            places.extend(self.allocate_range(queue, class_bytes, GRANULE_BYTES, Fit::Good));
        }
    }

    /// Counts a free. True if that was the last one of a closed pool.
    pub(crate) fn count_free(&mut self, request: Request, bytes: u64) -> bool {
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

    /// Frees a place that a cache kept, of `class_bytes`.
    pub(crate) fn evict(
        &mut self,
        class: ClassIndex,
        class_bytes: u64,
        place: Place,
        bound: Bound,
        now: u64,
    ) {
        self.free_place(place, class_bytes, bound, now);
        self.classes[class].evictions += 1;
    }

    /// Frees a place, of `bytes`, that a queue may still use until it has reached a value.
    pub(crate) fn free_place(&mut self, place: Place, bytes: u64, bound: Bound, now: u64) {
        if place.source() & SLAB_BIT == 0 {
            self.ranges.free(place.source(), bound, now);
        } else if bound.queue == NO_QUEUE {
            self.free_slot(place, now);
        } else {
            self.bound_slots.entry(bound.queue).or_default().push_back((bound.value, place, bytes));
            self.bound_slot_bytes += bytes;
        }
    }

    fn free_slot(&mut self, place: Place, now: u64) {
        if let Some(range) = self.slabs.free(place.source() & !SLAB_BIT, place.offset) {
            self.ranges.free(range, Bound::NONE, now);
        }
    }

    /// Lets everyone have what was bound to `queue` up to `value`, which the queue has reached.
    pub(crate) fn settle(&mut self, queue: QueueIndex, value: u64, now: u64) {
        self.ranges.settle(queue, value, now);
        while let Some(slots) = self.bound_slots.get_mut(&queue)
            && let Some((_, place, bytes)) = slots.pop_front_if(|(bound, ..)| *bound <= value)
        {
            self.bound_slot_bytes -= bytes;
            self.free_slot(place, now);
        }
    }

    /// Whether anything is bound to `queue` beyond `value`, the last that was signalled.
    pub(crate) fn is_bound_beyond(&self, queue: QueueIndex, value: u64) -> bool {
        let slots = self.bound_slots.get(&queue).and_then(VecDeque::back).map(|&(bound, ..)| bound);
        slots.max(self.ranges.bound_value_max(queue)).is_some_and(|bound| bound > value)
    }

    /// The first value that something waits for on `queue`.
    pub(crate) fn first_bound(&self, queue: QueueIndex) -> Option<u64> {
        let slots = self.bound_slots.get(&queue).and_then(VecDeque::front).map(|&(bound, ..)| bound);
        [slots, self.ranges.bound_value_min(queue)].into_iter().flatten().min()
    }

    /// Whether anything waits for a queue: memory, or addresses that it was taken from.
    pub(crate) fn is_any_bound(&self) -> bool {
        self.ranges.is_any_bound() || self.bound_slot_bytes > 0
    }

    /// Bytes that are free but bound to a queue.
    pub(crate) fn bound_bytes(&self) -> u64 {
        self.ranges.bound_bytes() + self.bound_slot_bytes
    }

    /// Finds room in free ranges side by side that only together are large enough, and counts it.
    pub(crate) fn allocate_across(
        &mut self,
        queue: QueueIndex,
        request: Request,
        bytes: u64,
    ) -> Option<Place> {
        let range = self.ranges.allocate_across(queue, bytes, request.alignment())?;
        self.count_allocation(request, bytes);
        Some(Place::new(range.index, range.block, range.offset))
    }

    pub(crate) fn count_allocation(&mut self, request: Request, bytes: u64) {
        self.allowance.count_requests(1);
        let counters = &mut self.classes[request.class()];
        counters.sums.allocations += 1;
        counters.sums.requested_allocated += request.requested_bytes;
        counters.allocated_allocated += bytes;
    }

    fn allocate_slot(&mut self, class: ClassIndex, slot_bytes: u64, fit: Fit) -> Option<Place> {
        let slot = self.slabs.allocate(class).or_else(|| {
            // Slots know of no queues, so what is cut into slots must be bound to none.
            let range = self.find_range(NO_QUEUE, slab::slab_bytes(slot_bytes), GRANULE_BYTES, fit)?;
            self.slabs.add(class, slot_bytes, range);
            self.slabs.allocate(class)
        })?;
        Some(Place::new(slot.slab | SLAB_BIT, slot.block, slot.offset))
    }

    fn allocate_range(&mut self, queue: QueueIndex, bytes: u64, alignment: u64, fit: Fit) -> Option<Place> {
        let range = self.find_range(queue, bytes, alignment, fit)?;
        debug_assert_eq!(range.index & SLAB_BIT, 0);
        Some(Place::new(range.index, range.block, range.offset))
    }
}
