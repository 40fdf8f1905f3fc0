//! Physical blocks behind sparse ones: which bytes of addresses are backed by which memory, and what of it is free.
//!
//! A sparse block is a block of ranges like any other, but for the memory: its ranges are
//!
//! ```text
//! Used       as ever; the memory behind it is *claimed*
//! Free       the memory behind it is nobody's, under no address
//! Free and   its queue may have it at these addresses; the memory is claimed, so that nobody has it under others before
//!   bound      the queue has passed
//! Elsewhere  mapped, but the memory is claimed under other addresses
//! Returned   free too, but its memory has been given back ([`super::returned`])
//! Released   no memory is mapped here
//! ```
//!
//! So every byte of memory that nobody claims is free at all its addresses, and one that is claimed at one only. No physical block
//! is mapped twice behind one sparse block: then no range of addresses has the same byte of memory twice.

use super::{Area, BlockIndex, IdleBlock, Moment, NONE, Node, RangeIndex, RangeState, Ranges};
use std::collections::{BTreeMap, BTreeSet};

/// Where a physical block lies: a sparse block, and the first byte there.
pub(crate) type Mapping = (BlockIndex, u64);

#[derive(Debug)]
pub(super) struct Physical {
    pub(super) bytes: u64,
    pub(super) claimed_bytes: u64,
    /// Bytes of it that the driver has back.
    pub(super) returned_bytes: u64,
    /// Free bytes at its beginning and at its end, if some are claimed.
    pub(super) front_bytes: u64,
    pub(super) back_bytes: u64,
    pub(super) mappings: Vec<Mapping>,
    free_since: Moment,
    /// On its way back to the driver.
    is_leaving: bool,
    /// Where the bytes were that the driver has back, while it is on its way.
    returned_parts: Vec<(u64, u64)>,
}

impl Physical {
    /// The bytes that the driver has not got back.
    fn reserved_bytes(&self) -> u64 {
        self.bytes - self.returned_bytes
    }
}

/// What is known of physical blocks and of sparse ones.
#[derive(Debug, Default)]
pub(super) struct Remap {
    /// By the index that the caller keeps the block by.
    physical: Vec<Option<Physical>>,
    physical_count: usize,
    /// Of each sparse block the first byte that nothing has been mapped behind yet.
    pub(super) ends: BTreeMap<BlockIndex, u64>,
    /// By sparse block and first byte.
    mapped: BTreeMap<Mapping, BlockIndex>,
    /// The ranges of sparse blocks, by place.
    at: BTreeMap<Mapping, RangeIndex>,
    /// Physical blocks that nobody claims a byte of.
    pub(super) free_by_size: BTreeSet<(u64, BlockIndex)>,
    free_by_age: BTreeSet<(Moment, BlockIndex)>,
    free_bytes: u64,
    /// Of the others, those with free bytes at the beginning, or at the end.
    pub(super) fronts: BTreeSet<(u64, BlockIndex)>,
    pub(super) backs: BTreeSet<(u64, BlockIndex)>,
    /// Those of which the driver has bytes back, and how many.
    pub(super) returned: BTreeSet<(u64, BlockIndex)>,
    /// Room to collect parts of sparse blocks in: block, first byte, bytes.
    elsewhere: Vec<(BlockIndex, u64, u64)>,
}

impl Remap {
    pub(super) fn physical(&self, index: BlockIndex) -> &Physical {
        self.physical[index as usize].as_ref().expect("a mapped physical block exists")
    }

    pub(super) fn physical_mut(&mut self, index: BlockIndex) -> &mut Physical {
        self.physical[index as usize].as_mut().expect("a mapped physical block exists")
    }

    /// One more than the highest index of a physical block.
    pub(super) fn physical_len(&self) -> BlockIndex {
        self.physical.len() as BlockIndex
    }

    pub(super) fn get(&self, index: BlockIndex) -> Option<&Physical> {
        self.physical.get(index as usize)?.as_ref()
    }

    pub(super) fn note_range(&mut self, block: BlockIndex, offset: u64, index: RangeIndex) {
        self.at.insert((block, offset), index);
    }

    pub(super) fn forget_range(&mut self, block: BlockIndex, offset: u64) {
        self.at.remove(&(block, offset));
    }

    /// The range that has a byte of a sparse block.
    pub(super) fn range_at(&self, block: BlockIndex, offset: u64) -> RangeIndex {
        let (&(owner, _), &index) = self.at.range(..=(block, offset)).next_back().expect("blocks are tiled");
        debug_assert_eq!(owner, block);
        index
    }

    /// What is mapped behind a part of a sparse block, by place.
    pub(super) fn mappings_in(
        &self,
        block: BlockIndex,
        part: std::ops::Range<u64>,
    ) -> impl Iterator<Item = (&Mapping, &BlockIndex)> {
        self.mapped.range((block, part.start)..(block, part.end))
    }

    /// The mapping that has a byte of a sparse block: its first byte there, and the physical block.
    pub(super) fn mapping_at(&self, block: BlockIndex, offset: u64) -> (u64, BlockIndex) {
        let (&(owner, start), &physical) =
            self.mapped.range(..=(block, offset)).next_back().expect("something is mapped there");
        debug_assert!(owner == block && offset < start + self.physical(physical).bytes);
        (start, physical)
    }

    /// Takes a physical block out of the sets that tell what of it is free.
    pub(super) fn unlist(&mut self, index: BlockIndex) {
        let &Physical { bytes, claimed_bytes, returned_bytes, front_bytes, back_bytes, free_since, .. } =
            self.physical(index);
        self.returned.remove(&(returned_bytes, index));
        if claimed_bytes == 0 {
            self.free_by_size.remove(&(bytes, index));
            if self.free_by_age.remove(&(free_since, index)) {
                self.free_bytes -= bytes - returned_bytes;
            }
            return;
        }
        self.fronts.remove(&(front_bytes, index));
        self.backs.remove(&(back_bytes, index));
    }

    /// The reverse of [`Remap::unlist`].
    pub(super) fn list(&mut self, index: BlockIndex) {
        let &Physical { bytes, claimed_bytes, returned_bytes, front_bytes, back_bytes, free_since, .. } =
            self.physical(index);
        if returned_bytes > 0 {
            self.returned.insert((returned_bytes, index));
        }
        if claimed_bytes == 0 {
            // What is not all there cannot be mapped for somebody.
            if returned_bytes == 0 {
                self.free_by_size.insert((bytes, index));
            }
            self.free_by_age.insert((free_since, index));
            self.free_bytes += bytes - returned_bytes;
            return;
        }
        if front_bytes > 0 {
            self.fronts.insert((front_bytes, index));
        }
        if back_bytes > 0 {
            self.backs.insert((back_bytes, index));
        }
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.free_bytes
    }

    /// The physical block that has been free for longest.
    pub(super) fn longest_free(&self) -> Option<(Moment, BlockIndex)> {
        self.free_by_age.first().copied()
    }
}

impl Ranges {
    pub(super) fn is_sparse(&self, block: BlockIndex) -> bool {
        self.blocks[block as usize].as_ref().is_some_and(|owner| owner.is_sparse)
    }

    /// Takes in a new sparse block of `bytes` bytes of addresses for an area's requests, with nothing behind them.
    pub(crate) fn add_sparse(&mut self, block: BlockIndex, bytes: u64, area: Area) {
        self.insert_block(block, bytes, RangeState::Released, true, area);
        let first = self.blocks[block as usize].as_ref().expect("it was just made").first;
        self.remap.note_range(block, 0, first);
        self.remap.ends.insert(block, 0);
    }

    /// Takes in a new physical block, reserved and free, mapped nowhere yet.
    pub(crate) fn add_physical(&mut self, index: BlockIndex, bytes: u64, time_ms: u64) {
        let place = index as usize;
        if self.remap.physical.len() <= place {
            self.remap.physical.resize_with(place + 1, || None);
        }
        assert!(self.remap.physical[place].is_none(), "physical block {index} exists");
        let free_since = self.moment(time_ms);
        self.remap.physical[place] = Some(Physical {
            bytes,
            claimed_bytes: 0,
            returned_bytes: 0,
            front_bytes: 0,
            back_bytes: 0,
            mappings: Vec::new(),
            free_since,
            is_leaving: false,
            returned_parts: Vec::new(),
        });
        self.remap.physical_count += 1;
        self.remap.list(index);
        self.count_reserved(bytes);
    }

    /// The first byte of a sparse block that nothing has been mapped behind.
    pub(crate) fn mapped_end(&self, sparse: BlockIndex) -> u64 {
        self.remap.ends[&sparse]
    }

    pub(crate) fn physical_bytes(&self, index: BlockIndex) -> u64 {
        self.remap.physical(index).bytes
    }

    pub(super) fn area(&self, block: BlockIndex) -> Area {
        self.blocks[block as usize].as_ref().expect("the block exists").area
    }

    /// How many addresses a sparse block has.
    pub(crate) fn sparse_bytes(&self, sparse: BlockIndex) -> u64 {
        self.blocks[sparse as usize].as_ref().expect("a sparse block exists").bytes
    }

    pub(crate) fn physical_count(&self) -> usize {
        self.remap.physical_count
    }

    pub(crate) fn mapping_count(&self) -> usize {
        self.remap.mapped.len()
    }

    /// Notes that a physical block has been mapped at the end of what is mapped behind a sparse block, where it is not mapped yet.
    pub(crate) fn add_mapping(&mut self, sparse: BlockIndex, index: BlockIndex) {
        let start = self.mapped_end(sparse);
        self.map_at(sparse, start, index);
        self.remap.ends.insert(sparse, start + self.physical_bytes(index));
    }

    fn map_at(&mut self, sparse: BlockIndex, start: u64, index: BlockIndex) {
        let &Physical { bytes, claimed_bytes, returned_bytes, is_leaving, ref mappings, .. } =
            self.remap.physical(index);
        debug_assert!(mappings.iter().all(|&(block, _)| block != sparse), "no byte twice in one block");
        let template = mappings.first().copied();
        self.remap.mapped.insert((sparse, start), index);
        self.remap.physical_mut(index).mappings.push((sparse, start));
        if is_leaving {
            // Taken back with its sparse block: it serves nothing until it is taken back itself.
            return;
        }
        let Some((block, from)) = template.filter(|_| claimed_bytes + returned_bytes > 0) else {
            // Where in it the bytes are that the driver has back does not matter while it is mapped nowhere else.
            if returned_bytes > 0 {
                self.convert(sparse, start, returned_bytes, RangeState::Released, RangeState::Returned);
            }
            if returned_bytes < bytes {
                let (start, bytes) = (start + returned_bytes, bytes - returned_bytes);
                self.convert(sparse, start, bytes, RangeState::Released, RangeState::Free);
            }
            return;
        };
        let mut at = from;
        while at < from + bytes {
            let (node, end) = self.part_at(block, at, from + bytes);
            let state = match node.state {
                RangeState::Free if node.bound.is_none() => RangeState::Free,
                RangeState::Returned => RangeState::Returned,
                _ => RangeState::Elsewhere,
            };
            self.convert(sparse, start + (at - from), end - at, RangeState::Released, state);
            at = end;
        }
    }

    /// The range that has a byte of a sparse block, and where it ends, or `end` if that comes first.
    pub(super) fn part_at(&self, block: BlockIndex, offset: u64, end: u64) -> (Node, u64) {
        let node = self.nodes[self.remap.range_at(block, offset) as usize];
        (node, end.min(node.offset + node.bytes))
    }

    /// Gives a part of a range of a sparse block, which is all in one state, another.
    pub(super) fn convert(
        &mut self,
        block: BlockIndex,
        offset: u64,
        bytes: u64,
        from: RangeState,
        to: RangeState,
    ) {
        let mut index = self.remap.range_at(block, offset);
        let node = self.nodes[index as usize];
        debug_assert!(
            node.state == from && node.bound.is_none() && offset + bytes <= node.offset + node.bytes,
            "{node:?} is not {from:?} from {offset} on for {bytes}"
        );
        let was_free = from == RangeState::Free;
        if was_free {
            self.holes.remove(&self.key(index));
        }
        if node.offset < offset {
            let rest = self.split(index, offset - node.offset);
            if was_free {
                self.holes.insert(self.key(index));
            }
            index = rest;
        }
        if self.nodes[index as usize].bytes > bytes {
            let rest = self.split(index, bytes);
            if was_free {
                self.holes.insert(self.key(rest));
            }
        }
        self.nodes[index as usize].state = to;
        if to == RangeState::Free {
            let merged = self.merge_free(index);
            self.holes.insert(self.key(merged));
        } else {
            self.merge_alike(index);
        }
    }

    /// Merges a range that is neither used nor free with neighbours in the same state.
    fn merge_alike(&mut self, index: RangeIndex) {
        let Node { previous, next, state, .. } = self.nodes[index as usize];
        let is_alike = |other: RangeIndex| other != NONE && self.nodes[other as usize].state == state;
        let (with_next, with_previous) = (is_alike(next), is_alike(previous));
        if with_next {
            self.merge_with_next(index);
        }
        if with_previous {
            self.merge_with_next(previous);
        }
    }

    /// Claims the memory behind a part of a sparse block, which was free: it is free under no other address any more.
    pub(super) fn claim(&mut self, block: BlockIndex, offset: u64, bytes: u64) {
        self.for_each_piece(
            block,
            offset,
            bytes,
            RangeState::Free,
            RangeState::Elsewhere,
            |ranges, piece| {
                ranges.remap.unlist(piece.index);
                let owner = ranges.remap.physical_mut(piece.index);
                if owner.claimed_bytes == 0 {
                    // Of a block that is not all there it is found out when what is missing is taken back.
                    let whole_bytes = if owner.returned_bytes == 0 { owner.bytes } else { 0 };
                    (owner.front_bytes, owner.back_bytes) = (whole_bytes, whole_bytes);
                }
                owner.claimed_bytes += piece.bytes;
                owner.front_bytes = owner.front_bytes.min(piece.start);
                owner.back_bytes = owner.back_bytes.min(owner.bytes - piece.start - piece.bytes);
                ranges.remap.list(piece.index);
            },
        );
    }

    /// Ends the claim on the memory behind a part of a sparse block, which is free, unbound and merged already.
    pub(super) fn unclaim(&mut self, block: BlockIndex, offset: u64, bytes: u64, time_ms: u64) {
        let since = self.moment(time_ms);
        let owner = self.blocks[block as usize].as_mut().expect("a range's block exists");
        if owner.is_unused_sparse() {
            owner.idle_since = since;
        }
        self.for_each_piece(
            block,
            offset,
            bytes,
            RangeState::Elsewhere,
            RangeState::Free,
            |ranges, piece| {
                let node = ranges.nodes[ranges.remap.range_at(block, offset.max(piece.mapped_at)) as usize];
                ranges.remap.unlist(piece.index);
                let owner = ranges.remap.physical_mut(piece.index);
                owner.claimed_bytes -= piece.bytes;
                if owner.claimed_bytes == 0 {
                    owner.free_since = since;
                } else {
                    let end = piece.mapped_at + owner.bytes;
                    if node.offset <= piece.mapped_at {
                        owner.front_bytes = node.offset + node.bytes - piece.mapped_at;
                    }
                    if node.offset + node.bytes >= end {
                        owner.back_bytes = end - node.offset;
                    }
                }
                ranges.remap.list(piece.index);
            },
        );
    }

    /// Converts a part of a sparse block at all the other addresses of its memory, then calls for each physical block behind it.
    fn for_each_piece(
        &mut self,
        block: BlockIndex,
        offset: u64,
        bytes: u64,
        from: RangeState,
        to: RangeState,
        mut then: impl FnMut(&mut Self, Piece),
    ) {
        let mut elsewhere = std::mem::take(&mut self.remap.elsewhere);
        let (mut at, end) = (offset, offset + bytes);
        while at < end {
            let (mapped_at, index) = self.remap.mapping_at(block, at);
            let start = at - mapped_at;
            let Physical { bytes, mappings, .. } = self.remap.physical(index);
            let bytes = (end - at).min(bytes - start);
            let others = mappings.iter().filter(|&&(other, _)| other != block);
            elsewhere.extend(others.map(|&(other, other_at)| (other, other_at + start, bytes)));
            then(self, Piece { index, mapped_at, start, bytes });
            at += bytes;
        }
        // What lies side by side there too is converted at once.
        elsewhere.sort_unstable();
        let is_next = |one: &(BlockIndex, u64, u64), other: &(BlockIndex, u64, u64)| {
            (one.0, one.1 + one.2) == (other.0, other.1)
        };
        for run in elsewhere.chunk_by(is_next) {
            let (other, start, _) = run[0];
            self.convert(other, start, run.iter().map(|part| part.2).sum(), from, to);
        }
        elsewhere.clear();
        self.remap.elsewhere = elsewhere;
    }

    /// Lets go of a free physical block: it serves nothing any more. The caller unmaps it ([`Ranges::mappings`],
    /// [`Ranges::remove_mapping`]), destroys it, and forgets it; or takes it back.
    pub(super) fn remove_physical(&mut self, index: BlockIndex) -> Option<u64> {
        let owner = self.remap.get(index)?;
        if owner.claimed_bytes > 0 || owner.is_leaving {
            return None;
        }
        let (bytes, reserved_bytes) = (owner.bytes, owner.reserved_bytes());
        self.remap.unlist(index);
        let mut returned_parts = Vec::new();
        for (block, start) in self.mappings(index) {
            returned_parts.clear();
            let mut at = start;
            while at < start + bytes {
                let (node, end) = self.part_at(block, at, start + bytes);
                if node.state == RangeState::Returned {
                    returned_parts.push((at - start, end - at));
                }
                self.convert(block, at, end - at, node.state, RangeState::Released);
                at = end;
            }
        }
        let owner = self.remap.physical_mut(index);
        owner.is_leaving = true;
        owner.returned_parts = returned_parts;
        self.reserved_bytes -= reserved_bytes;
        Some(reserved_bytes)
    }

    /// Where a physical block is mapped.
    pub(crate) fn mappings(&self, index: BlockIndex) -> Vec<Mapping> {
        self.remap.get(index).map(|owner| owner.mappings.clone()).unwrap_or_default()
    }

    /// Notes that a physical block that was let go is mapped there no more.
    pub(crate) fn remove_mapping(&mut self, index: BlockIndex, mapping: Mapping) {
        self.remap.mapped.remove(&mapping);
        self.remap.physical_mut(index).mappings.retain(|&other| other != mapping);
        let (sparse, _) = mapping;
        let Some(last) = self.remap.ends.get(&sparse).and_then(|end| end.checked_sub(1)) else { return };
        let node = self.nodes[self.remap.range_at(sparse, last) as usize];
        if node.state == RangeState::Released {
            // Addresses behind all that is mapped can be had again.
            let last = self.remap.mapped.range((sparse, 0)..(sparse + 1, 0)).next_back();
            let mapped_end = last.map_or(0, |(&(_, at), &index)| at + self.physical_bytes(index));
            self.remap.ends.insert(sparse, node.offset.max(mapped_end));
        }
    }

    /// Forgets a physical block that was let go and is destroyed.
    pub(crate) fn forget_physical(&mut self, index: BlockIndex) {
        let owner = self.remap.physical[index as usize].take();
        debug_assert!(owner.is_some_and(|owner| owner.is_leaving && owner.mappings.is_empty()));
        self.remap.physical_count -= 1;
    }

    /// Takes back a physical block that was let go, as free and wherever it is still mapped.
    pub(super) fn restore_physical(&mut self, index: BlockIndex) -> bool {
        let Some(owner) = self.remap.get(index) else { return false };
        debug_assert!(owner.is_leaving);
        let (bytes, reserved_bytes) = (owner.bytes, owner.reserved_bytes());
        let owner = self.remap.physical_mut(index);
        owner.is_leaving = false;
        let returned_parts = std::mem::take(&mut owner.returned_parts);
        for (block, at) in self.mappings(index) {
            self.convert(block, at, bytes, RangeState::Released, RangeState::Free);
            for &(start, bytes) in &returned_parts {
                self.convert(block, at + start, bytes, RangeState::Free, RangeState::Returned);
            }
        }
        self.remap.list(index);
        self.count_reserved(reserved_bytes);
        true
    }

    pub(crate) fn is_physical(&self, index: BlockIndex) -> bool {
        self.remap.get(index).is_some()
    }

    pub(super) fn idle_physical(&self, index: BlockIndex) -> Option<IdleBlock> {
        let owner = self.remap.get(index).filter(|owner| owner.claimed_bytes == 0 && !owner.is_leaving)?;
        let (bytes, reserved_bytes) = (owner.bytes, owner.reserved_bytes());
        Some(IdleBlock { block: index, bytes, reserved_bytes, since: owner.free_since })
    }

    /// Takes out a sparse block that nothing uses an address of: what is to be unmapped there, physical blocks and first bytes. None
    /// if something is used there, or bound to a queue.
    pub(crate) fn remove_sparse(&mut self, block: BlockIndex) -> Option<Vec<(BlockIndex, u64)>> {
        let owner = (*self.blocks.get(block as usize)?)?;
        if !owner.is_unused_sparse() {
            return None;
        }
        let mut index = owner.first;
        while index != NONE {
            let Node { offset, next, state, .. } = self.nodes[index as usize];
            if state == RangeState::Free {
                self.holes.remove(&self.key(index));
            }
            self.remap.forget_range(block, offset);
            self.unused_nodes.push(index);
            index = next;
        }
        self.blocks[block as usize] = None;
        self.remap.ends.remove(&block);
        let of_block = (block, 0)..(block + 1, 0);
        let mapped: Vec<_> =
            self.remap.mapped.range(of_block).map(|(&(_, at), &index)| (index, at)).collect();
        for &(index, at) in &mapped {
            self.remove_mapping(index, (block, at));
        }
        Some(mapped)
    }

    /// Takes back a sparse block of `bytes` bytes with what is still mapped there. What is mapped next comes behind the last of that.
    pub(crate) fn restore_sparse(&mut self, block: BlockIndex, bytes: u64, mapped: &[(BlockIndex, u64)]) {
        self.add_sparse(block, bytes, Area::General);
        self.remap.ends.insert(block, bytes);
        for &(index, at) in mapped {
            self.map_at(block, at, index);
        }
    }

    /// The sparse blocks that nothing uses an address of, unused for longest first, and how many mappings each has.
    pub(crate) fn unused_sparse(&self) -> Vec<(BlockIndex, usize)> {
        let block = |index: BlockIndex| self.blocks[index as usize].as_ref().expect("a sparse block exists");
        let mut unused: Vec<_> =
            self.remap.ends.keys().copied().filter(|&index| block(index).is_unused_sparse()).collect();
        unused.sort_unstable_by_key(|&index| block(index).idle_since);
        let count = |index| self.remap.mapped.range((index, 0)..(index + 1, 0)).count();
        unused.into_iter().map(|index| (index, count(index))).collect()
    }
}

/// A part of a physical block behind a part of a sparse one.
struct Piece {
    index: BlockIndex,
    /// Where in the sparse block the physical one begins.
    mapped_at: u64,
    /// Where in the physical block the part begins.
    start: u64,
    bytes: u64,
}

#[cfg(all(test, not(loom)))]
#[path = "remap_tests.rs"]
mod tests;
