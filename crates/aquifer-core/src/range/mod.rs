//! Free and used ranges of blocks: numbers only, no memory, no locks.
//!
//! Each block is a doubly linked list of ranges in address order that tile it without a gap. Two free neighbours never
//! exist: freeing merges at once. Free ranges of blocks that are partly used are in one ordered set, by size and then
//! by place, so that the best fit over all of them is one look-up: the smallest that is large enough, and of several
//! the one in the oldest block, lowest first. Blocks that are wholly free, *idle*, are kept apart, so that the caller
//! can leave them whole.
//!
//! A hole can be *released*: its memory goes back to the driver and only its addresses stay, unused, until its block is
//! removed. A block with released ranges that becomes idle serves nothing more; it waits to be removed.
//!
//! ```text
//! block 0  [used 4 KiB][free 12 KiB       ][used 48 KiB            ]
//! block 1  [free 2 MiB                                             ]
//! holes    (12 KiB, block 0, at 4 KiB)
//! idle     (2 MiB, block 1)
//! ```

use std::collections::BTreeSet;

/// Every range starts at a multiple of this many bytes and is as many long, and so is every allocation: the smallest class,
/// the step between the smallest classes, and the alignment that is always given.
///
/// CUDA aligns `cudaMalloc` to 256 bytes, and no Vulkan or Metal buffer offset needs more.
pub const GRANULE_BYTES: u64 = 256;

/// A range's place in the table of ranges. Stays the same while the range is used.
pub(crate) type RangeIndex = u32;
/// A block's place in the table of blocks. Reused after the block is gone.
pub(crate) type BlockIndex = u32;

const NONE: RangeIndex = RangeIndex::MAX;

/// A used range, as [`Ranges`] hands it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) index: RangeIndex,
    pub(crate) block: BlockIndex,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    offset: u64,
    bytes: u64,
    block: BlockIndex,
    previous: RangeIndex,
    next: RangeIndex,
    state: RangeState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RangeState {
    Used,
    Free,
    Released,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    bytes: u64,
    used_bytes: u64,
    released_bytes: u64,
    first: RangeIndex,
    idle_since: Moment,
}

impl Block {
    /// The bytes that the driver has not got back.
    fn reserved_bytes(&self) -> u64 {
        self.bytes - self.released_bytes
    }
}

/// When a block became idle: the caller's time, and a number that tells apart what happened at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Moment {
    pub(crate) time_ms: u64,
    sequence: u64,
}

/// A block none of whose bytes is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdleBlock {
    pub(crate) block: BlockIndex,
    pub(crate) bytes: u64,
    /// The bytes that the driver has not got back.
    pub(crate) reserved_bytes: u64,
    pub(crate) since: Moment,
}

/// All ranges of all blocks of one pool.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    nodes: Vec<Node>,
    unused_nodes: Vec<RangeIndex>,
    blocks: Vec<Option<Block>>,
    holes: BTreeSet<(u64, BlockIndex, u64, RangeIndex)>,
    idle_by_size: BTreeSet<(u64, BlockIndex)>,
    idle_by_age: BTreeSet<(Moment, BlockIndex)>,
    idle_bytes: u64,
    sequence: u64,
    reserved_bytes: u64,
    reserved_bytes_peak: u64,
    used_bytes: u64,
    used_bytes_peak: u64,
}

impl Ranges {
    /// Takes a new block in, idle, under the index that the caller keeps the block's memory by.
    ///
    /// # Panics
    ///
    /// If the index is taken: the caller's table and this one would disagree.
    pub(crate) fn add_block(&mut self, block: BlockIndex, bytes: u64, time_ms: u64) {
        let place = block as usize;
        if self.blocks.len() <= place {
            self.blocks.resize(place + 1, None);
        }
        assert!(self.blocks[place].is_none(), "block {block} exists");
        let first = self.new_node(Node {
            offset: 0,
            bytes,
            block,
            previous: NONE,
            next: NONE,
            state: RangeState::Free,
        });
        self.blocks[place] =
            Some(Block { bytes, used_bytes: 0, released_bytes: 0, first, idle_since: Moment::default() });
        self.reserved_bytes += bytes;
        self.reserved_bytes_peak = self.reserved_bytes_peak.max(self.reserved_bytes);
        self.make_idle(block, time_ms);
    }

    /// Takes back in a block that was removed, as one that waits to be removed again.
    pub(crate) fn restore_block(&mut self, idle: IdleBlock) {
        self.add_block(idle.block, idle.bytes, idle.since.time_ms);
        let released = idle.bytes - idle.reserved_bytes;
        if released == 0 {
            return;
        }
        // Where the released ranges were no longer matters: the block serves nothing more.
        self.make_busy(idle.block);
        let owner = self.blocks[idle.block as usize].as_mut().expect("the block exists");
        owner.released_bytes = released;
        let (first, at) = (owner.first, idle.reserved_bytes);
        self.reserved_bytes -= released;
        if at > 0 {
            let rest = self.split(first, at);
            self.nodes[rest as usize].state = RangeState::Released;
        } else {
            self.nodes[first as usize].state = RangeState::Released;
        }
        self.make_idle(idle.block, idle.since.time_ms);
    }

    /// Forgets a block if it is idle, and says how many bytes of it the driver has yet to get back.
    pub(crate) fn remove_block(&mut self, block: BlockIndex) -> Option<u64> {
        let owner = (*self.blocks.get(block as usize)?)?;
        if owner.used_bytes > 0 {
            return None;
        }
        self.make_busy(block);
        let mut index = owner.first;
        while index != NONE {
            self.unused_nodes.push(index);
            index = self.nodes[index as usize].next;
        }
        self.blocks[block as usize] = None;
        self.reserved_bytes -= owner.reserved_bytes();
        Some(owner.reserved_bytes())
    }

    /// Takes the best fitting hole of a partly used block, cut to `bytes` at a multiple of `alignment`.
    ///
    /// A fit is always found if there is one: first among the holes that fit however they lie, then among those that
    /// fit only because they happen to be aligned.
    pub(crate) fn allocate_in_hole(&mut self, bytes: u64, alignment: u64) -> Option<Range> {
        let surely = bytes.checked_add(alignment.saturating_sub(GRANULE_BYTES))?;
        let sure = self.holes.range((surely, 0, 0, 0)..).next().copied();
        let found = sure.or_else(|| {
            let perhaps = self.holes.range((bytes, 0, 0, 0)..(surely, 0, 0, 0));
            perhaps
                .copied()
                .find(|&(size, _, offset, _)| offset.next_multiple_of(alignment) - offset + bytes <= size)
        });
        let (_, _, _, index) = found?;
        self.holes.remove(&self.key(index));
        Some(self.take(index, bytes, alignment))
    }

    /// The size of the smallest idle block that holds `bytes`.
    pub(crate) fn smallest_idle_fit(&self, bytes: u64) -> Option<u64> {
        self.idle_by_size.range((bytes, 0)..).next().map(|&(size, _)| size)
    }

    /// Takes the low end of the smallest idle block that holds `bytes`.
    pub(crate) fn allocate_in_idle(&mut self, bytes: u64) -> Option<Range> {
        let &(_, block) = self.idle_by_size.range((bytes, 0)..).next()?;
        self.make_busy(block);
        let first = self.blocks[block as usize].as_ref().expect("an idle block exists").first;
        Some(self.take(first, bytes, 1))
    }

    /// Makes a free range, which the caller has taken out of its set, a used one, cut to what was asked.
    fn take(&mut self, index: RangeIndex, bytes: u64, alignment: u64) -> Range {
        let offset = self.nodes[index as usize].offset;
        let range = self.cut(index, offset.next_multiple_of(alignment) - offset, bytes);
        self.nodes[range.index as usize].state = RangeState::Used;
        self.blocks[range.block as usize].as_mut().expect("a range's block exists").used_bytes += bytes;
        self.used_bytes += bytes;
        self.used_bytes_peak = self.used_bytes_peak.max(self.used_bytes);
        range
    }

    /// Cuts `bytes` bytes after the first `before` out of a free range that is in no set; what is left of it on either
    /// side becomes a hole.
    fn cut(&mut self, index: RangeIndex, before: u64, bytes: u64) -> Range {
        let mut middle = index;
        if before > 0 {
            middle = self.split(index, before);
            self.holes.insert(self.key(index));
        }
        if self.nodes[middle as usize].bytes > bytes {
            let rest = self.split(middle, bytes);
            self.holes.insert(self.key(rest));
        }
        let node = &self.nodes[middle as usize];
        Range { index: middle, block: node.block, offset: node.offset, bytes: node.bytes }
    }

    /// Frees a used range and merges it with free neighbours.
    pub(crate) fn free(&mut self, index: RangeIndex, time_ms: u64) {
        let Node { bytes, block, state, .. } = self.nodes[index as usize];
        debug_assert_eq!(state, RangeState::Used, "range {index} freed twice");
        self.used_bytes -= bytes;
        let merged = self.make_free(index);
        let owner = self.blocks[block as usize].as_mut().expect("a range's block exists");
        owner.used_bytes -= bytes;
        if owner.used_bytes > 0 {
            self.holes.insert(self.key(merged));
        } else {
            self.make_idle(block, time_ms);
        }
    }

    /// Makes a range free and merges it with free neighbours; returns the whole, which is in no set yet.
    fn make_free(&mut self, index: RangeIndex) -> RangeIndex {
        let Node { previous, next, .. } = self.nodes[index as usize];
        self.nodes[index as usize].state = RangeState::Free;
        if self.is_free(next) {
            self.holes.remove(&self.key(next));
            self.merge_with_next(index);
        }
        if !self.is_free(previous) {
            return index;
        }
        self.holes.remove(&self.key(previous));
        self.merge_with_next(previous);
        previous
    }

    /// Releases what whole multiples of `granule` there are in the holes. The caller gives their memory back, and undoes
    /// with [`Ranges::unrelease`] what the driver refuses.
    pub(crate) fn release_holes(&mut self, granule: u64) -> Vec<Range> {
        let is_large = |&(bytes, ..): &(u64, BlockIndex, u64, RangeIndex)| bytes >= granule;
        let large: Vec<_> = self.holes.range((granule, 0, 0, 0)..).copied().filter(is_large).collect();
        let mut released = Vec::new();
        for (bytes, block, offset, index) in large {
            let (start, end) = (offset.next_multiple_of(granule), (offset + bytes) / granule * granule);
            if start >= end {
                continue;
            }
            self.holes.remove(&(bytes, block, offset, index));
            let range = self.cut(index, start - offset, end - start);
            self.nodes[range.index as usize].state = RangeState::Released;
            self.blocks[block as usize].as_mut().expect("a hole's block exists").released_bytes +=
                range.bytes;
            self.reserved_bytes -= range.bytes;
            released.push(range);
        }
        released
    }

    /// Makes a released range free again. Its block may have become idle meanwhile.
    pub(crate) fn unrelease(&mut self, range: Range) {
        let owner = self.blocks[range.block as usize].expect("a released range's block exists");
        let is_idle = owner.used_bytes == 0;
        if is_idle {
            self.make_busy(range.block);
        }
        self.blocks[range.block as usize].as_mut().expect("as above").released_bytes -= range.bytes;
        self.reserved_bytes += range.bytes;
        let merged = self.make_free(range.index);
        if is_idle {
            self.make_idle(range.block, owner.idle_since.time_ms);
        } else {
            self.holes.insert(self.key(merged));
        }
    }

    /// Enters a block whose last used range was freed. None of its free ranges is a hole any more.
    fn make_idle(&mut self, block: BlockIndex, time_ms: u64) {
        self.sequence += 1;
        let since = Moment { time_ms, sequence: self.sequence };
        let owner = self.blocks[block as usize].as_mut().expect("the block exists");
        owner.idle_since = since;
        let owner = *owner;
        self.idle_bytes += owner.reserved_bytes();
        self.idle_by_age.insert((since, block));
        if owner.released_bytes == 0 {
            self.idle_by_size.insert((owner.bytes, block));
            return;
        }
        let mut index = owner.first;
        while index != NONE {
            self.holes.remove(&self.key(index));
            index = self.nodes[index as usize].next;
        }
    }

    fn make_busy(&mut self, block: BlockIndex) {
        let owner = self.blocks[block as usize].expect("the block exists");
        self.idle_bytes -= owner.reserved_bytes();
        self.idle_by_size.remove(&(owner.bytes, block));
        self.idle_by_age.remove(&(owner.idle_since, block));
    }

    /// The block that has been idle longest.
    pub(crate) fn longest_idle(&self) -> Option<IdleBlock> {
        let &(since, block) = self.idle_by_age.first()?;
        let owner = self.blocks[block as usize].expect("an idle block exists");
        Some(IdleBlock { block, bytes: owner.bytes, reserved_bytes: owner.reserved_bytes(), since })
    }

    pub(crate) fn idle_bytes(&self) -> u64 {
        self.idle_bytes
    }

    pub(crate) fn reserved_bytes(&self) -> u64 {
        self.reserved_bytes
    }

    pub(crate) fn reserved_bytes_peak(&self) -> u64 {
        self.reserved_bytes_peak
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    pub(crate) fn used_bytes_peak(&self) -> u64 {
        self.used_bytes_peak
    }

    pub(crate) fn largest_free_bytes(&self) -> u64 {
        let hole = self.holes.last().map_or(0, |&(bytes, ..)| bytes);
        hole.max(self.idle_by_size.last().map_or(0, |&(bytes, _)| bytes))
    }

    pub(crate) fn free_range_count(&self) -> usize {
        self.holes.len() + self.idle_by_size.len()
    }

    pub(crate) fn block_count(&self) -> usize {
        self.blocks.iter().flatten().count()
    }

    fn is_free(&self, index: RangeIndex) -> bool {
        index != NONE && self.nodes[index as usize].state == RangeState::Free
    }

    fn new_node(&mut self, node: Node) -> RangeIndex {
        if let Some(index) = self.unused_nodes.pop() {
            self.nodes[index as usize] = node;
            return index;
        }
        self.nodes.push(node);
        RangeIndex::try_from(self.nodes.len() - 1).expect("fewer than 2^32 ranges")
    }

    fn key(&self, index: RangeIndex) -> (u64, BlockIndex, u64, RangeIndex) {
        let node = &self.nodes[index as usize];
        (node.bytes, node.block, node.offset, index)
    }

    /// Cuts a range after `bytes`; returns the second part, as free as the first.
    fn split(&mut self, index: RangeIndex, bytes: u64) -> RangeIndex {
        let first = self.nodes[index as usize];
        let second = self.new_node(Node {
            offset: first.offset + bytes,
            bytes: first.bytes - bytes,
            previous: index,
            ..first
        });
        if first.next != NONE {
            self.nodes[first.next as usize].previous = second;
        }
        let first = &mut self.nodes[index as usize];
        first.bytes = bytes;
        first.next = second;
        second
    }

    /// Adds the next range's bytes to a range and forgets the next.
    fn merge_with_next(&mut self, index: RangeIndex) {
        let gone = self.nodes[index as usize].next;
        let Node { bytes, next, .. } = self.nodes[gone as usize];
        let kept = &mut self.nodes[index as usize];
        kept.bytes += bytes;
        kept.next = next;
        if next != NONE {
            self.nodes[next as usize].previous = index;
        }
        self.unused_nodes.push(gone);
    }

    /// Checks every promise of the module's text; for tests.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn validate(&self) {
        let (mut reserved, mut used, mut hole_count, mut idle) = (0, 0, 0, 0);
        for (place, block) in self.blocks.iter().enumerate() {
            let Some(block) = block else { continue };
            let (mut index, mut previous, mut offset, mut block_used, mut released) =
                (block.first, NONE, 0, 0, 0);
            while index != NONE {
                let node = self.nodes[index as usize];
                assert_eq!((node.offset, node.block as usize, node.previous), (offset, place, previous));
                assert!(node.bytes > 0);
                let is_free = node.state == RangeState::Free;
                assert!(!(is_free && self.is_free(previous)), "free neighbours");
                let is_hole = is_free && block.used_bytes > 0;
                assert_eq!(is_hole, self.holes.contains(&self.key(index)));
                hole_count += usize::from(is_hole);
                block_used += if node.state == RangeState::Used { node.bytes } else { 0 };
                released += if node.state == RangeState::Released { node.bytes } else { 0 };
                offset += node.bytes;
                (previous, index) = (index, node.next);
            }
            assert_eq!((offset, block_used, released), (block.bytes, block.used_bytes, block.released_bytes));
            let is_idle = block_used == 0;
            let serves = is_idle && released == 0;
            assert_eq!(serves, self.idle_by_size.contains(&(block.bytes, place as BlockIndex)));
            assert_eq!(is_idle, self.idle_by_age.contains(&(block.idle_since, place as BlockIndex)));
            reserved += block.reserved_bytes();
            used += block_used;
            idle += if is_idle { block.reserved_bytes() } else { 0 };
        }
        assert_eq!((reserved, used, hole_count), (self.reserved_bytes, self.used_bytes, self.holes.len()));
        assert_eq!(idle, self.idle_bytes);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
