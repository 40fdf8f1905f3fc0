//! vk-mem 0.5: the virtual block of AMD's Vulkan Memory Allocator 3 (TLSF over one range; no Vulkan device).

use vk_mem::{VirtualAllocation, VirtualAllocationCreateInfo, VirtualBlock, VirtualBlockCreateInfo};

use super::{Peer, RangePeer, Space};

pub(crate) struct VkMem {
    block: VirtualBlock,
    unit_bytes: u64,
}

// SAFETY: a virtual block has no tie to a thread; VMA asks only that its calls do not overlap, and every one here takes
// `&mut self`.
unsafe impl Send for VkMem {}

/// An allocation and, as users keep it too, its place.
pub(crate) struct Placed {
    allocation: VirtualAllocation,
    offset: u64,
}

impl VkMem {
    pub(crate) fn new(space: &Space) -> Self {
        let info = VirtualBlockCreateInfo { size: space.range_bytes, ..Default::default() };
        let block = VirtualBlock::new(info).expect("a virtual block takes only host memory");
        Self { block, unit_bytes: space.unit_bytes }
    }
}

impl Peer for VkMem {
    type Handle = Placed;

    #[inline]
    fn allocate(&mut self, bytes: u64) -> Option<Placed> {
        let info = VirtualAllocationCreateInfo {
            size: bytes.next_multiple_of(self.unit_bytes),
            alignment: self.unit_bytes,
            user_data: 0,
            flags: vk_mem::VirtualAllocationCreateFlags::empty(),
        };
        // SAFETY: the block lives as long as `self`; the size is not zero and the alignment is a power of two.
        let (allocation, offset) = unsafe { self.block.allocate(info) }.ok()?;
        Some(Placed { allocation, offset })
    }

    #[inline]
    fn free(&mut self, mut placed: Placed) {
        // SAFETY: the handle came from `allocate` of this block and is consumed here.
        unsafe { self.block.free(&mut placed.allocation) };
    }
}

impl RangePeer for VkMem {
    #[inline]
    fn offset_bytes(&self, placed: &Placed) -> u64 {
        placed.offset
    }
}

impl Drop for VkMem {
    fn drop(&mut self) {
        // SAFETY: no handle is used once its block is gone.
        unsafe { self.block.clear() };
    }
}
