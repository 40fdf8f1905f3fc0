//! Parts of physical blocks that the driver has back, while the rest is in use.
//!
//! Such a part is mapped as before, and nobody finds it. It is taken back, with all others of its block, when a request finds
//! nothing else: for that the driver need not be called, since its memory comes again where it is touched.

use super::remap::Physical;
use super::{BlockIndex, NONE, Range, RangeState, Ranges};

impl Ranges {
    /// Returns what whole multiples of `granule` are free in physical blocks that are partly used. The caller gives their memory
    /// back, and undoes with [`Ranges::unreturn`] what the driver refuses.
    pub(super) fn return_parts(&mut self, granule: u64) -> Vec<Range> {
        let mut returned = Vec::new();
        for index in 0..self.remap.physical_len() {
            let Some(&Physical { bytes, claimed_bytes, ref mappings, .. }) = self.remap.get(index) else {
                continue;
            };
            let Some(&(block, start)) = mappings.first().filter(|_| claimed_bytes > 0) else { continue };
            let mut at = start;
            while at < start + bytes {
                let (node, end) = self.part_at(block, at, start + bytes);
                let (from, to) = (at.next_multiple_of(granule), end / granule * granule);
                if node.state == RangeState::Free && node.bound.is_none() && from < to {
                    self.change_part(index, from - start, to - from, RangeState::Free, RangeState::Returned);
                    returned.push(Range { index: NONE, block, offset: from, bytes: to - from });
                }
                at = end;
            }
        }
        returned
    }

    /// Undoes for one range what [`Ranges::return_parts`] did.
    pub(super) fn unreturn(&mut self, range: &Range) {
        let (start, index) = self.remap.mapping_at(range.block, range.offset);
        self.change_part(index, range.offset - start, range.bytes, RangeState::Returned, RangeState::Free);
    }

    /// Of the physical blocks that nobody claims a byte of, the one with the most bytes returned; if there is none, of the others one
    /// with at least `bytes` returned. And how many they are.
    pub(crate) fn most_returned(&self, bytes: u64) -> Option<(BlockIndex, u64)> {
        let is_unclaimed = |&&(_, index): &&(u64, BlockIndex)| self.remap.physical(index).claimed_bytes == 0;
        let unclaimed = self.remap.returned.iter().rev().find(is_unclaimed);
        let enough = || self.remap.returned.range((bytes, 0)..).next();
        let &(returned_bytes, index) = unclaimed.or_else(enough)?;
        Some((index, returned_bytes))
    }

    /// Takes all of a physical block back that was returned. It is reserved again.
    pub(crate) fn take_back(&mut self, index: BlockIndex) {
        let &Physical { bytes, returned_bytes, ref mappings, .. } = self.remap.physical(index);
        let Some(&(block, start)) = mappings.first() else {
            // It is mapped nowhere, so where its parts were does not matter.
            self.remap.unlist(index);
            self.remap.physical_mut(index).returned_bytes = 0;
            self.remap.list(index);
            return self.count_reserved(returned_bytes);
        };
        let mut at = start;
        while at < start + bytes {
            let (node, end) = self.part_at(block, at, start + bytes);
            if node.state == RangeState::Returned {
                self.change_part(index, at - start, end - at, RangeState::Returned, RangeState::Free);
            }
            at = end;
        }
    }

    /// Gives a part of a physical block another state, at all its addresses.
    fn change_part(&mut self, index: BlockIndex, start: u64, bytes: u64, from: RangeState, to: RangeState) {
        for (block, at) in self.mappings(index) {
            self.convert(block, at + start, bytes, from, to);
        }
        self.remap.unlist(index);
        let owner = self.remap.physical_mut(index);
        if to == RangeState::Returned {
            owner.returned_bytes += bytes;
            self.reserved_bytes -= bytes;
        } else {
            owner.returned_bytes -= bytes;
            self.count_reserved(bytes);
        }
        self.measure_edges(index);
        self.remap.list(index);
    }

    /// Finds out how much is free at the beginning and at the end of a physical block.
    fn measure_edges(&mut self, index: BlockIndex) {
        let &Physical { bytes, ref mappings, .. } = self.remap.physical(index);
        let Some(&(block, start)) = mappings.first() else { return };
        let free_at = |at: u64| {
            let node = self.nodes[self.remap.range_at(block, at) as usize];
            (node.state == RangeState::Free && node.bound.is_none()).then_some(node)
        };
        let front = free_at(start).map_or(0, |node| (node.offset + node.bytes - start).min(bytes));
        let back = free_at(start + bytes - 1).map_or(0, |node| (start + bytes - node.offset).min(bytes));
        let owner = self.remap.physical_mut(index);
        (owner.front_bytes, owner.back_bytes) = (front, back);
    }
}
