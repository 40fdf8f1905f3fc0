//! Sparse blocks and mappings: made as runs are put together, and removed when they are of no use. Under the pool's growth lock.

use super::shared::Shared;
use super::typed_pool::Growing;
use crate::pool::Request;
use crate::range::{BlockIndex, Composition, Mapping};
use crate::raw::allocation::{destroy_block, map, unmap};
use crate::sync::Ordering;
use aquifer_backend::{Backend, BlockDesc, BlockRange, DestroyError, Error, ErrorKind};

/// A sparse block has so many addresses, or twice as many as there is memory if that is more.
const SPARSE_BYTES: u64 = 64 << 30;
/// Mappings that no address is used of are kept until there are so many for each physical block, and so many besides.
const MAPPINGS_PER_PHYSICAL: usize = 8;
const MAPPINGS_SPARE: usize = 64;

impl<B: Backend> Shared<B> {
    /// The sparse block that a composition goes to, with room for it, and for so many more mappings.
    pub(super) fn sparse_for(
        &self,
        growing: &mut Growing<'_, B::Block>,
        request: Request,
        way: &Composition,
        mapping_count: usize,
    ) -> Result<BlockIndex, Error> {
        self.make_room_for_mappings(growing, way.sparse, mapping_count);
        if let Some(sparse) = way.sparse {
            return Ok(sparse);
        }
        let properties = self.backend.properties();
        let page_bytes = properties.physical_page_bytes;
        let most = properties.block_bytes_max / page_bytes * page_bytes;
        let least = growing.pool.composition_bytes(way);
        let heap_bytes = properties.heaps[growing.heap_index].size_bytes;
        let budget_bytes = self.ledgers[growing.heap_index].budget_bytes();
        // All memory that there may be fits behind one, if it is not very much.
        let enough = SPARSE_BYTES.max(2 * self.ledgers[growing.heap_index].reserved_bytes());
        let roomy =
            heap_bytes.min(budget_bytes).min(enough).min(most / 2).next_multiple_of(page_bytes).max(least);
        let create = |growing: &mut Growing<'_, B::Block>, bytes| {
            let block = self.create_sparse(growing, request, bytes)?;
            let index = growing.insert_block(&self.backend, block);
            growing.pool.add_sparse(index, bytes, way.area);
            Ok(index)
        };
        create(growing, roomy).or_else(|refusal: Error| {
            if refusal.kind() != ErrorKind::OutOfMemory {
                return Err(refusal);
            }
            self.remove_unused_sparse(growing, None, usize::MAX);
            create(growing, least)
        })
    }

    fn create_sparse(
        &self,
        growing: &mut Growing<'_, B::Block>,
        request: Request,
        bytes: u64,
    ) -> Result<B::Block, Error> {
        if !self.block_count.charge() {
            return Err(Error::new(ErrorKind::OutOfMemory, "create_sparse_block", self.too_many_blocks()));
        }
        let desc = BlockDesc::new(bytes, request.memory_type());
        let answer = self.backend.create_sparse_block(&desc);
        self.count_call(growing, "create_sparse_block", bytes, &self.calls.reserve, answer.as_ref().err());
        if answer.is_err() {
            self.block_count.refund();
        }
        answer
    }

    /// Removes mappings that are of no use now if there would be too many.
    fn make_room_for_mappings(
        &self,
        growing: &mut Growing<'_, B::Block>,
        kept: Option<BlockIndex>,
        mapping_count: usize,
    ) {
        let (mappings, physical) = growing.pool.mapping_and_physical_count();
        let own_most = MAPPINGS_PER_PHYSICAL * physical + MAPPINGS_SPARE;
        let left = usize::try_from(self.mapping_count.left()).unwrap_or(usize::MAX);
        let excess =
            (mappings + mapping_count).saturating_sub(own_most).max(mapping_count.saturating_sub(left));
        if excess > 0 {
            // Some more, so that this comes seldom.
            self.remove_unused_sparse(growing, kept, excess.max(mappings / 4));
        }
    }

    /// Maps a physical block behind a part of a sparse one. The pool is yet to know.
    pub(super) fn map_physical(
        &self,
        growing: &mut Growing<'_, B::Block>,
        (sparse, offset): Mapping,
        physical: BlockIndex,
        bytes: u64,
    ) -> Result<(), Error> {
        if !self.mapping_count.charge() {
            let message =
                format!("there are {} mappings; the driver makes no more", self.mapping_count.count());
            return Err(Error::new(ErrorKind::OutOfMemory, "map", message));
        }
        let (block, memory) = (growing.block(sparse), growing.block(physical));
        let answer = self.note(map(&self.backend, BlockRange { block: &block, offset, bytes }, &memory));
        drop((block, memory));
        self.count_call(growing, "map", bytes, &self.calls.map, answer.as_ref().err());
        if answer.is_err() {
            self.mapping_count.refund();
        }
        answer
    }

    /// Removes sparse blocks that nobody uses an address of, unused for longest first, until so many mappings are gone.
    pub(super) fn remove_unused_sparse(
        &self,
        growing: &mut Growing<'_, B::Block>,
        kept: Option<BlockIndex>,
        mapping_count: usize,
    ) {
        let mut left = mapping_count;
        for (sparse, count) in growing.pool.unused_sparse() {
            if left == 0 {
                break;
            }
            if Some(sparse) != kept {
                self.remove_sparse(growing, sparse);
                left = left.saturating_sub(count);
            }
        }
    }

    /// Removes a sparse block if nobody uses an address of it.
    fn remove_sparse(&self, growing: &mut Growing<'_, B::Block>, sparse: BlockIndex) {
        let bytes = growing.pool.sparse_bytes(sparse);
        // From here on nobody finds an address of it.
        let Some(mut mapped) = growing.pool.remove_sparse(sparse) else { return };
        mapped.retain(|&(physical, at)| {
            let bytes = growing.pool.physical_bytes(physical);
            !self.unmap_at(growing, (sparse, at), bytes)
        });
        // It is taken back mapped or not.
        if self.destroy_sparse(growing, sparse) {
            mapped.iter().for_each(|_| self.mapping_count.refund());
            growing.remapping.dropped_mappings.fetch_add(mapped.len() as u64, Ordering::Relaxed);
            return;
        }
        growing.pool.restore_sparse(sparse, bytes, &mapped);
    }

    fn destroy_sparse(&self, growing: &mut Growing<'_, B::Block>, sparse: BlockIndex) -> bool {
        let answer = destroy_block(&self.backend, growing.take_block(sparse));
        let refusal = answer.as_ref().err().map(|DestroyError { error, .. }| error);
        self.count_call(growing, "destroy_block", 0, &self.calls.unreserve, refusal);
        match answer {
            Ok(()) => {
                self.block_count.refund();
                true
            }
            Err(DestroyError { block, .. }) => {
                growing.put_block(sparse, block);
                false
            }
        }
    }

    /// Removes a mapping that nobody uses an address of; false if the driver refused.
    fn unmap_at(&self, growing: &mut Growing<'_, B::Block>, (sparse, offset): Mapping, bytes: u64) -> bool {
        let block = growing.block(sparse);
        let answer = self.note(unmap(&self.backend, BlockRange { block: &block, offset, bytes }));
        drop(block);
        self.count_call(growing, "unmap", bytes, &self.calls.unmap, answer.as_ref().err());
        if answer.is_ok() {
            self.mapping_count.refund();
        }
        answer.is_ok()
    }

    /// Takes away all mappings of a physical block that the pool has let go; false if the driver refused.
    pub(super) fn unmap_everywhere(
        &self,
        growing: &mut Growing<'_, B::Block>,
        physical: BlockIndex,
        bytes: u64,
    ) -> bool {
        if self.unmap_each(growing, physical, bytes) {
            return true;
        }
        // A lost device unmaps nothing, but takes addresses back.
        if self.is_lost() {
            self.remove_unused_sparse(growing, None, usize::MAX);
        }
        growing.pool.mappings(physical).is_empty()
    }

    fn unmap_each(&self, growing: &mut Growing<'_, B::Block>, physical: BlockIndex, bytes: u64) -> bool {
        growing.pool.mappings(physical).into_iter().all(|mapping| {
            let is_unmapped = self.unmap_at(growing, mapping, bytes);
            if is_unmapped {
                growing.pool.remove_mapping(physical, mapping);
            }
            is_unmapped
        })
    }

    /// Removes the sparse blocks behind which nothing is mapped any more.
    pub(super) fn remove_empty_sparse(&self, growing: &mut Growing<'_, B::Block>) {
        for (sparse, count) in growing.pool.unused_sparse() {
            if count == 0 {
                self.remove_sparse(growing, sparse);
            }
        }
    }
}
