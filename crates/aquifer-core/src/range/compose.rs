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

use super::{BlockIndex, Bound, RangeState, Ranges};

/// How many sparse blocks are looked at: looking at one more takes longer than a mapping less would.
const TAILS_MAX: usize = 4;

/// What to map, in this order, behind the end of a sparse block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Composition {
    /// `None`: behind a new one.
    pub(crate) sparse: Option<BlockIndex>,
    /// Physical blocks that are there.
    pub(crate) mapped: Vec<BlockIndex>,
    /// Memory to be made, in bytes: whole physical pages.
    pub(crate) new_bytes: u64,
    /// What is mapped after the new memory.
    pub(crate) last: Option<BlockIndex>,
}

/// What to have less of: new memory first, then mappings.
fn cost(way: &Composition) -> (u64, usize) {
    (way.new_bytes, way.mapped.len() + usize::from(way.last.is_some()))
}

impl Ranges {
    /// The best way to have a run of `bytes` bytes: with the least new memory, of those with the fewest mappings. New memory is made in
    /// multiples of `page_bytes`. There is always one.
    pub(crate) fn compose(&self, bytes: u64, page_bytes: u64) -> Composition {
        let mut best = self.compose_in_new(bytes, page_bytes);
        let mut consider = |other: Composition| {
            let is_worse = cost(&other) > cost(&best);
            if !is_worse && (cost(&other) < cost(&best) || best.sparse.is_none()) {
                best = other;
            }
        };
        for (tail_bytes, sparse) in self.longest_tails(bytes) {
            let room_bytes = self.sparse_bytes(sparse) - self.mapped_end(sparse);
            let way = self.gather(Some(sparse), bytes - tail_bytes, page_bytes);
            if self.composition_bytes(&way) <= room_bytes {
                consider(way);
            }
        }
        best
    }

    /// A run behind a new sparse block: with the free end of a partly used block as its beginning, if that is worth it.
    fn compose_in_new(&self, bytes: u64, page_bytes: u64) -> Composition {
        let plain = self.gather(None, bytes, page_bytes);
        let odd_bytes = bytes % page_bytes;
        let backs = &self.remap.backs;
        let candidates = [backs.range((odd_bytes, 0)..).next(), backs.last()];
        let with_back = candidates.into_iter().flatten().map(|&(back_bytes, index)| {
            let mut way = self.gather_without(None, Some(index), bytes.saturating_sub(back_bytes), page_bytes);
            way.mapped.insert(0, index);
            way
        });
        with_back.chain([plain.clone()]).min_by_key(cost).unwrap_or(plain)
    }

    fn gather(&self, sparse: Option<BlockIndex>, bytes: u64, page_bytes: u64) -> Composition {
        self.gather_without(sparse, None, bytes, page_bytes)
    }

    /// Free memory of `bytes` bytes in all for the end of a sparse block, in few pieces. `without` is in use for it already.
    fn gather_without(
        &self,
        sparse: Option<BlockIndex>,
        without: Option<BlockIndex>,
        bytes: u64,
        page_bytes: u64,
    ) -> Composition {
        let mut way = Composition { sparse, ..Composition::default() };
        let mut left = bytes;
        let may_have = |index: BlockIndex| {
            let mappings = &self.remap.physical(index).mappings;
            Some(index) != without && mappings.iter().all(|&(block, _)| Some(block) != sparse)
        };
        let smallest = |set: &std::collections::BTreeSet<(u64, BlockIndex)>, bytes: u64, taken: &[BlockIndex]| {
            let mut fits = set.range((bytes, 0)..).map(|&(_, index)| index);
            fits.find(|&index| may_have(index) && !taken.contains(&index))
        };
        let mut largest = self.remap.free_by_size.iter().rev();
        while left > 0 {
            if let Some(front) = smallest(&self.remap.fronts, left, &[]) {
                way.last = Some(front);
                return way;
            }
            if let Some(whole) = smallest(&self.remap.free_by_size, left, &way.mapped) {
                way.mapped.push(whole);
                return way;
            }
            // All that are left are smaller.
            let Some(&(size, index)) = largest.find(|&&(_, index)| may_have(index)) else { break };
            way.mapped.push(index);
            left = left.saturating_sub(size);
        }
        if left > 0 {
            let front = self.remap.fronts.iter().rev().find(|&&(_, index)| may_have(index));
            let pages = |bytes: u64| bytes.div_ceil(page_bytes);
            way.new_bytes = pages(left) * page_bytes;
            if let Some(&(front_bytes, index)) = front
                && pages(left - front_bytes) < pages(left)
            {
                way.last = Some(index);
                way.new_bytes = pages(left - front_bytes) * page_bytes;
            }
        }
        way
    }

    /// Of the sparse blocks' free tails that are shorter than `bytes`, the longest few.
    fn longest_tails(&self, bytes: u64) -> Vec<(u64, BlockIndex)> {
        let mut tails: Vec<_> =
            self.remap.ends.iter().map(|(&sparse, &end)| (self.tail_bytes(sparse, end), sparse)).collect();
        tails.retain(|&(tail_bytes, _)| tail_bytes < bytes);
        tails.sort_unstable_by_key(|&(tail_bytes, sparse)| (std::cmp::Reverse(tail_bytes), sparse));
        tails.truncate(TAILS_MAX);
        tails
    }

    /// How many bytes are free, for everybody, before the end of what is mapped behind a sparse block.
    fn tail_bytes(&self, sparse: BlockIndex, end: u64) -> u64 {
        let Some(last) = end.checked_sub(1) else { return 0 };
        let node = &self.nodes[self.remap.range_at(sparse, last) as usize];
        let is_free = node.state == RangeState::Free && node.bound == Bound::NONE;
        if is_free { end - node.offset } else { 0 }
    }

    /// How many bytes a composition maps: what a new sparse block must have room for.
    pub(crate) fn composition_bytes(&self, way: &Composition) -> u64 {
        let each = way.mapped.iter().chain(&way.last).map(|&index| self.remap.physical(index).bytes);
        each.sum::<u64>() + way.new_bytes
    }
}
