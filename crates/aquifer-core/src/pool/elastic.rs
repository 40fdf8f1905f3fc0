//! A pool whose memory is mapped behind addresses: what the manager asks and tells about it, under its growth lock.

use super::growth::Fit;
use super::{Lane, Place, Pool, Request};
use crate::range::{
    Area, BlockIndex, Composition, GRANULE_BYTES, IdleBlock, Mapping, NO_QUEUE, QueueIndex, Terms,
};

/// Where memory is to spare, reserved bytes may exceed the peak of used bytes by this share of it.
const SPARE_SHARE: u64 = 2048;
/// A program that keeps remapping, more than this share of what it allocates, would do better with more memory: beyond so many times its peak of
/// used bytes, each further time is worth this share of the peak, up to half of it.
const REMAPPED_SHARE: u64 = 16;
const REMAPPED_TIMES: u64 = 8;
const WORTH_SHARE: u64 = 32;
const WORTH_TIMES_MAX: u64 = WORTH_SHARE / 2;

impl Pool {
    /// How a run of `bytes` bytes for a request on `queue` can best be put together.
    pub(crate) fn compose(
        &self,
        queue: QueueIndex,
        request: Request,
        bytes: u64,
        terms: Terms,
    ) -> Composition {
        let surely = bytes + request.alignment().saturating_sub(GRANULE_BYTES);
        let state = self.state.lock();
        state.ranges.compose(state.area_for(bytes), queue, surely, terms)
    }

    /// The same behind addresses that are aligned as they are, so that none is lost for that.
    pub(crate) fn compose_from_start(&self, queue: QueueIndex, bytes: u64, terms: Terms) -> Composition {
        let state = self.state.lock();
        state.ranges.compose_from_start(state.area_for(bytes), queue, bytes, terms)
    }

    /// How many more bytes may be reserved without being much above the peak of used bytes, or above that and as much as remapping so many
    /// bytes is worth; and whether that is worth anything.
    pub(crate) fn spare_bytes(&self, remapped_bytes: Option<u64>) -> (u64, bool) {
        let state = self.state.lock();
        let peak = state.ranges.used_bytes_peak().max(1);
        let allocated: u64 = state.classes.iter().map(|class| class.allocated_allocated).sum();
        let remapped_bytes = remapped_bytes.filter(|&bytes| bytes > allocated / REMAPPED_SHARE).unwrap_or(0);
        let times = remapped_bytes / peak;
        let worth = times.saturating_sub(REMAPPED_TIMES).min(WORTH_TIMES_MAX) * (peak / WORTH_SHARE);
        let spare = |most: u64| most.saturating_sub(state.ranges.reserved_bytes());
        (spare(peak + peak / SPARE_SHARE + worth), worth > 0 && spare(peak + worth) > 0)
    }

    /// How many bytes of addresses a composition needs.
    pub(crate) fn composition_bytes(&self, way: &Composition) -> u64 {
        self.state.lock().ranges.composition_bytes(way)
    }

    /// Takes in a new sparse block.
    pub(crate) fn add_sparse(&self, sparse: BlockIndex, bytes: u64, area: Area) {
        self.state.lock().ranges.add_sparse(sparse, bytes, area);
    }

    /// Takes in a new physical block, mapped nowhere yet.
    pub(crate) fn add_physical(&self, physical: BlockIndex, bytes: u64) {
        let now = self.clock.now_ms();
        self.state.lock().ranges.add_physical(physical, bytes, now);
    }

    /// Where in a sparse block the next mapping goes.
    pub(crate) fn mapped_end(&self, sparse: BlockIndex) -> u64 {
        self.state.lock().ranges.mapped_end(sparse)
    }

    /// Notes that physical blocks have been mapped there, one after the other.
    pub(crate) fn add_mappings(&self, sparse: BlockIndex, mapped: &[BlockIndex]) {
        let mut state = self.state.lock();
        mapped.iter().for_each(|&physical| state.ranges.add_mapping(sparse, physical));
    }

    pub(crate) fn physical_bytes(&self, physical: BlockIndex) -> u64 {
        self.state.lock().ranges.physical_bytes(physical)
    }

    pub(crate) fn sparse_bytes(&self, sparse: BlockIndex) -> u64 {
        self.state.lock().ranges.sparse_bytes(sparse)
    }

    pub(crate) fn is_physical(&self, block: BlockIndex) -> bool {
        self.state.lock().ranges.is_physical(block)
    }

    /// Where a physical block is mapped.
    pub(crate) fn mappings(&self, physical: BlockIndex) -> Vec<Mapping> {
        self.state.lock().ranges.mappings(physical)
    }

    /// Notes that a physical block, which the pool has let go, is mapped there no more.
    pub(crate) fn remove_mapping(&self, physical: BlockIndex, mapping: Mapping) {
        self.state.lock().ranges.remove_mapping(physical, mapping);
    }

    /// Forgets a physical block that is destroyed.
    pub(crate) fn forget_physical(&self, physical: BlockIndex) {
        self.state.lock().ranges.forget_physical(physical);
    }

    /// The sparse blocks that nobody uses an address of, unused for longest first, and how many mappings each has.
    pub(crate) fn unused_sparse(&self) -> Vec<(BlockIndex, usize)> {
        self.state.lock().ranges.unused_sparse()
    }

    /// Takes out a sparse block if nobody uses an address of it: what is still mapped there, physical blocks and ranges.
    pub(crate) fn remove_sparse(&self, sparse: BlockIndex) -> Option<Vec<(BlockIndex, u64)>> {
        self.state.lock().ranges.remove_sparse(sparse)
    }

    /// Takes back a sparse block that the driver has not, with what is still mapped there.
    pub(crate) fn restore_sparse(&self, sparse: BlockIndex, bytes: u64, mapped: &[(BlockIndex, u64)]) {
        self.state.lock().ranges.restore_sparse(sparse, bytes, mapped);
    }

    /// A physical block that bytes have been returned of, and how many: enough for a request of `bytes`, or nobody claims the rest.
    pub(crate) fn most_returned(&self, bytes: u64) -> Option<(BlockIndex, u64)> {
        self.state.lock().ranges.most_returned(bytes)
    }

    /// Takes back what has been returned of a physical block.
    pub(crate) fn take_back(&self, physical: BlockIndex) {
        self.state.lock().ranges.take_back(physical);
    }

    /// Lets go of idle blocks that are not mapped, longest idle first, for as long as `wants_more` says so of the next one.
    pub(crate) fn release_idle_with_addresses(
        &self,
        mut wants_more: impl FnMut(&IdleBlock) -> bool,
    ) -> Vec<IdleBlock> {
        let mut state = self.state.lock();
        let mut released = Vec::new();
        while let Some(idle) = state.ranges.longest_idle_with_addresses()
            && wants_more(&idle)
        {
            state.ranges.remove_block(idle.block).expect("an idle block can be removed");
            released.push(idle);
        }
        released
    }

    /// How many mappings there are, and physical blocks.
    pub(crate) fn mapping_and_physical_count(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.ranges.mapping_count(), state.ranges.physical_count())
    }

    /// The queue whose own memory a run for a request may be made of: slabs serve all queues, so what is cut into one must be everybody's.
    pub(crate) fn composing_queue(&self, lane: &Lane, request: Request) -> QueueIndex {
        if request.is_slot(self.bytes(request)) { NO_QUEUE } else { lane.queue }
    }

    /// Notes that a run has been mapped for a request, and serves it before anybody else can have what is new of it. None if another
    /// thread has meanwhile taken what was free already.
    pub(crate) fn allocate_composed(
        &self,
        lane: &Lane,
        request: Request,
        sparse: BlockIndex,
        mapped: &[BlockIndex],
    ) -> Option<Place> {
        let bytes = request.bytes(&self.layout);
        let (queue, now) = (self.composing_queue(lane, request), self.clock.now_ms());
        let mut state = self.state.lock();
        mapped.iter().for_each(|&physical| state.ranges.add_mapping_for(queue, sparse, physical, now));
        let place = match state.allocate(lane.queue, request, bytes, Fit::Any) {
            // Free memory and the queue's own lie side by side.
            None if queue != NO_QUEUE => state.allocate_across(queue, request, bytes)?,
            place => place?,
        };
        state.allowance.count_miss();
        state.classes[request.class()].misses += 1;
        drop(state);
        self.count_rise(request, bytes);
        Some(place)
    }
}
