//! How a run of addresses is put together when none is long enough: which memory goes behind which addresses.
//!
//! ```text
//! sparse block  [used      |free tail][free block][free block][new memory][front of a block]
//!               already mapped         mapped next to it, each as a whole
//! ```
//!
//! A run begins with the free tail of what is mapped behind a sparse block, or, behind a new one, with the free end of a block
//! that is partly used. Free blocks come next, and the odd rest is the free front of a block that is partly used. Memory is
//! made only for what is missing then.
//!
//! For a request on a queue, what the queue alone may have yet is as good as free ([`super::rebind`]).
//!
//! For a small request there is nothing to put together: it gets a free block, or a new one.

use super::{Area, BlockIndex, NO_QUEUE, QueueIndex, RangeState, Ranges};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// How many sparse blocks are looked at: looking at one more takes longer than a mapping less would.
const TAILS_MAX: usize = 4;

/// What to map, in this order, behind the end of a sparse block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Composition {
    pub(crate) area: Area,
    /// `None`: behind a new one.
    pub(crate) sparse: Option<BlockIndex>,
    /// Physical blocks that are there.
    pub(crate) mapped: Vec<BlockIndex>,
    /// Memory to be made, in bytes: whole units.
    pub(crate) new_bytes: u64,
    /// What is mapped after the new memory.
    pub(crate) last: Option<BlockIndex>,
}

/// What it is chosen by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// New memory is made in multiples of this many bytes,
    pub(crate) unit_bytes: u64,
    /// and in blocks of so many.
    pub(crate) block_bytes: u64,
    /// What the driver takes to make a block, and to map one, in nanoseconds.
    pub(crate) create_ns: u64,
    pub(crate) map_ns: u64,
    /// To map memory that there is counts so many times: more than once where it is done again and again, and more memory would end it.
    pub(crate) remap_weight: u64,
    /// New memory up to so many bytes costs time only.
    pub(crate) spare_bytes: u64,
}

impl Terms {
    /// What to have less of: new memory that cannot be spared, then the driver's time.
    fn cost(&self, way: &Composition) -> (u64, u64) {
        let mapped = (way.mapped.len() + usize::from(way.last.is_some())) as u64;
        let new = way.new_bytes.div_ceil(self.block_bytes);
        let ns = mapped * self.map_ns * self.remap_weight + new * (self.create_ns + self.map_ns);
        (way.new_bytes.saturating_sub(self.spare_bytes), ns)
    }
}

/// What is wanted for a run.
#[derive(Debug, Clone, Copy)]
struct Want<'a> {
    area: Area,
    /// Where it is to be mapped: not what is mapped there already. `None`: nowhere yet.
    sparse: Option<BlockIndex>,
    /// The physical block that the run begins with.
    first: Option<BlockIndex>,
    /// How many bytes are missing.
    bytes: u64,
    /// The physical blocks that are whole for the queue that it is for, by size.
    own: &'a BTreeSet<(u64, BlockIndex)>,
    terms: Terms,
}

impl Ranges {
    /// The best way to have a run of `bytes` bytes for a request on `queue`. There is always one.
    pub(crate) fn compose(&self, area: Area, queue: QueueIndex, bytes: u64, terms: Terms) -> Composition {
        let own = &self.whole_for(queue);
        let want = Want { area, sparse: None, first: None, bytes, own, terms };
        let mut best = self.compose_in_new(want);
        for (tail_bytes, sparse) in self.longest_tails(area, queue, bytes) {
            let room_bytes = self.sparse_bytes(sparse) - self.mapped_end(sparse);
            let bytes = bytes - tail_bytes;
            let new_bytes = bytes.next_multiple_of(terms.unit_bytes);
            let new = Composition { area, sparse: Some(sparse), mapped: Vec::new(), new_bytes, last: None };
            for way in [self.gather(Want { sparse: Some(sparse), bytes, ..want }), new] {
                let (cost, least) = (terms.cost(&way), terms.cost(&best));
                let is_as_good = cost < least || cost == least && best.sparse.is_none();
                if is_as_good && self.composition_bytes(&way) <= room_bytes {
                    best = way;
                }
            }
        }
        best
    }

    /// A run from the beginning of a new sparse block on, which is aligned to whatever can be asked for.
    pub(crate) fn compose_from_start(
        &self,
        area: Area,
        queue: QueueIndex,
        bytes: u64,
        terms: Terms,
    ) -> Composition {
        let own = &self.whole_for(queue);
        self.gather(Want { area, sparse: None, first: None, bytes, own, terms })
    }

    /// A run behind a new sparse block: with the free end of a partly used block as its beginning, if that is worth it.
    fn compose_in_new(&self, want: Want<'_>) -> Composition {
        let plain = self.gather(want);
        if want.area == Area::Small {
            return plain;
        }
        let backs = &self.remap.backs;
        let candidates = [backs.range((want.bytes % want.terms.unit_bytes, 0)..).next(), backs.last()];
        let with_back = candidates.into_iter().flatten().map(|&(back_bytes, index)| {
            let bytes = want.bytes.saturating_sub(back_bytes);
            let mut way = self.gather(Want { first: Some(index), bytes, ..want });
            way.mapped.insert(0, index);
            way
        });
        with_back.chain([plain.clone()]).min_by_key(|way| want.terms.cost(way)).unwrap_or(plain)
    }

    /// Free memory for the end of a run, with what lies side by side at other addresses in the same order.
    fn gather(&self, want: Want<'_>) -> Composition {
        let mut way = self.gather_in_pieces(want);
        way.mapped.sort_unstable_by_key(|&index| self.remap.physical(index).mappings.first());
        way
    }

    /// Free memory for the end of a run, in few pieces.
    fn gather_in_pieces(&self, want: Want<'_>) -> Composition {
        let Want { area, sparse, first, bytes, own, terms: Terms { unit_bytes, block_bytes, .. }, .. } = want;
        let mut way = Composition { area, sparse, mapped: Vec::new(), new_bytes: 0, last: None };
        // Small requests break no large free block, and leave those that large ones use in part to the large.
        let bytes_max = if area == Area::Small { block_bytes } else { u64::MAX };
        let may_have = |index: BlockIndex| {
            let physical = self.remap.physical(index);
            Some(index) != first
                && physical.bytes <= bytes_max
                && physical.mappings.iter().all(|&(block, _)| Some(block) != sparse)
        };
        let smallest = |set: &BTreeSet<(u64, BlockIndex)>, bytes: u64, taken: &[BlockIndex]| {
            let mut fits = set.range((bytes, 0)..).map(|&(_, index)| index);
            fits.find(|&index| may_have(index) && !taken.contains(&index))
        };
        let no_fronts = BTreeSet::new();
        let free = &self.remap.free_by_size;
        let fronts = if area == Area::Small { &no_fronts } else { &self.remap.fronts };
        let from_largest = |set| BTreeSet::iter(set).rev().filter(|&&(_, index)| may_have(index)).peekable();
        let (mut largest, mut largest_own) = (from_largest(free), from_largest(own));
        let mut left = bytes;
        while left > 0 {
            if let Some(front) = smallest(fronts, left, &way.mapped) {
                way.last = Some(front);
                return way;
            }
            let whole = [smallest(free, left, &way.mapped), smallest(own, left, &way.mapped)];
            if let Some(whole) = whole.into_iter().flatten().min_by_key(|&index| self.physical_bytes(index)) {
                way.mapped.push(whole);
                return way;
            }
            // All that are left are smaller.
            let larger =
                if largest_own.peek() > largest.peek() { largest_own.next() } else { largest.next() };
            let Some(&(size, index)) = larger else { break };
            way.mapped.push(index);
            left = left.saturating_sub(size);
        }
        let units = |bytes: u64| bytes.div_ceil(unit_bytes);
        way.new_bytes = units(left) * unit_bytes;
        if let Some(&(front_bytes, index)) =
            fronts.iter().rev().find(|&&(_, index)| may_have(index) && !way.mapped.contains(&index))
            && left > 0
            && units(left - front_bytes) < units(left)
        {
            way.last = Some(index);
            way.new_bytes = units(left - front_bytes) * unit_bytes;
        }
        way
    }

    /// Of the tails of an area's sparse blocks that are free for `queue` and shorter than `bytes`, the longest few.
    fn longest_tails(&self, area: Area, queue: QueueIndex, bytes: u64) -> Vec<(u64, BlockIndex)> {
        let of_area = self.remap.ends.iter().filter(|&(&sparse, _)| self.area(sparse) == area);
        let tails = of_area.map(|(&sparse, &end)| (self.tail_bytes(sparse, queue, end), sparse));
        let mut tails: Vec<_> = tails.filter(|&(tail_bytes, _)| tail_bytes < bytes).collect();
        tails.sort_unstable_by_key(|&(tail_bytes, sparse)| (Reverse(tail_bytes), sparse));
        tails.truncate(TAILS_MAX);
        tails
    }

    /// How many bytes are free, for everybody or for `queue`, before the end of what is mapped behind a sparse block.
    fn tail_bytes(&self, sparse: BlockIndex, queue: QueueIndex, end: u64) -> u64 {
        let mut start = end;
        while let Some(last) = start.checked_sub(1) {
            let node = &self.nodes[self.remap.range_at(sparse, last) as usize];
            if node.state != RangeState::Free || ![NO_QUEUE, queue].contains(&node.bound.queue) {
                break;
            }
            start = node.offset;
        }
        end - start
    }

    /// How many bytes a composition maps: what a new sparse block must have room for.
    pub(crate) fn composition_bytes(&self, way: &Composition) -> u64 {
        let each = way.mapped.iter().chain(&way.last).map(|&index| self.remap.physical(index).bytes);
        each.sum::<u64>() + way.new_bytes
    }
}
