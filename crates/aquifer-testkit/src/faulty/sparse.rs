//! Sparse and physical blocks of a driver that fails when it is told to.

use super::{Faulty, GARBAGE, GARBAGE_BYTES_MAX};
use aquifer_backend::{
    Backend, BlockDesc, BlockRange, Capabilities, DestroyError, Error, MemoryFlags, Properties,
};

/// Takes away what properties say of sparse blocks, if there are none any more; else keeps physical pages as coarse as granules.
pub(super) fn agree(properties: &mut Properties) {
    if properties.capabilities.contains(Capabilities::SPARSE_BLOCKS) {
        let granularity = properties.block_granularity_bytes;
        properties.physical_page_bytes = properties.physical_page_bytes.max(granularity);
        return;
    }
    properties.physical_page_bytes = 0;
    properties.mapping_count_max = 0;
    properties.mapping_costs = None;
    let others = [MemoryFlags::HOST_VISIBLE, MemoryFlags::DEVICE_LOCAL, MemoryFlags::PINNED];
    for memory_type in &mut properties.memory_types {
        let kept = others.into_iter().filter(|&flag| memory_type.flags.contains(flag));
        memory_type.flags = kept.fold(MemoryFlags::NONE, |flags, flag| flags | flag);
    }
}

impl<B: Backend> Faulty<B> {
    /// What the backend inside is asked for.
    ///
    /// # Errors
    ///
    /// If this device promises no sparse blocks of the memory type.
    pub(super) fn sparse_desc<'a>(
        &self,
        desc: &BlockDesc<'a>,
        operation: &'static str,
    ) -> Result<BlockDesc<'a>, Error> {
        let memory_type = &self.properties.memory_types[desc.memory_type_index];
        if !self.has(Capabilities::SPARSE_BLOCKS) || !memory_type.flags.contains(MemoryFlags::SPARSE) {
            return Err(self.unsupported(operation));
        }
        let page_bytes = self.properties.physical_page_bytes;
        assert!(desc.bytes > 0 && desc.bytes.is_multiple_of(page_bytes), "{desc:?}");
        Ok(BlockDesc { memory_type_index: self.inner_type(desc.memory_type_index), ..*desc })
    }

    /// Writes garbage over the beginning of a physical block, mapped behind addresses for that.
    ///
    /// # Safety
    ///
    /// - Nobody uses the block.
    pub(super) unsafe fn spoil_physical(
        &self,
        physical: &B::Block,
        desc: &BlockDesc<'_>,
    ) -> Result<(), Error> {
        let sparse = self.inner.create_sparse_block(desc)?;
        let all = BlockRange { block: &sparse, offset: 0, bytes: desc.bytes };
        // SAFETY: the range is as long as the physical block, and nothing is mapped behind it.
        unsafe { self.inner.map(all, physical) }?;
        let beginning = BlockRange { bytes: desc.bytes.min(GARBAGE_BYTES_MAX), ..all };
        // SAFETY: the memory is mapped, and nobody uses it, says the caller.
        unsafe { self.inner.fill(beginning, GARBAGE) }?;
        // SAFETY: the addresses are this function's own, and the fill is over.
        unsafe { self.inner.destroy_block(sparse) }.map_err(|DestroyError { error, .. }| error)
    }
}
