//! offset-allocator 0.2: segregated fits over one range of 32-bit units, its nodes kept outside.

use offset_allocator::{Allocation, Allocator};

use super::{Peer, RangePeer, Space};

pub(crate) struct OffsetAllocator {
    allocator: Allocator,
    unit_shift: u32,
}

impl OffsetAllocator {
    pub(crate) fn new(space: &Space) -> Self {
        let units = u32::try_from(space.range_bytes / space.unit_bytes).unwrap_or(u32::MAX);
        // A node for each allocation and for each hole between two of them.
        let nodes = space.allocations_max * 2 + 64;
        Self { allocator: Allocator::with_max_allocs(units, nodes), unit_shift: space.unit_bytes.ilog2() }
    }
}

impl Peer for OffsetAllocator {
    type Handle = Allocation;

    #[inline]
    fn allocate(&mut self, bytes: u64) -> Option<Allocation> {
        let units = (bytes + (1 << self.unit_shift) - 1) >> self.unit_shift;
        self.allocator.allocate(units as u32)
    }

    #[inline]
    fn free(&mut self, allocation: Allocation) {
        self.allocator.free(allocation);
    }
}

impl RangePeer for OffsetAllocator {
    #[inline]
    fn offset_bytes(&self, allocation: &Allocation) -> u64 {
        u64::from(allocation.offset) << self.unit_shift
    }
}
