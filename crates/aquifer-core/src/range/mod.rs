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
//! A block can be *sparse*: addresses behind which memory is mapped, the same memory behind several. [`remap`] tells what states
//! its ranges have, and [`compose`] how runs of addresses are put together; of sparse blocks only their memory is ever idle, and
//! what is released can be taken back ([`returned`]).
//!
//! A free range can be *bound* to a queue up to a value: work of that queue may still use it until the queue has reached
//! the value, so that until then only the same queue may have it (of a sparse block under other addresses too: [`rebind`]). Ranges bound to one queue merge with each other, not
//! with others; [`Ranges::settle`] unbinds what a queue has passed. A block all of whose bytes are bound to one queue is
//! idle for that queue: kept whole for it, and not to be removed yet.
//!
//! An idle block can be *set aside*: nothing finds room in it any more, but it is still reserved, and can come back.
//!
//! ```text
//! block 0  [used 4 KiB][free 12 KiB       ][used 48 KiB            ]
//! block 1  [free 2 MiB                                             ]
//! holes    (12 KiB, block 0, at 4 KiB)
//! idle     (2 MiB, block 1)
//! ```

mod aside;
mod bound;
mod compose;
mod rebind;
mod remap;
mod returned;

use remap::Remap;
use std::collections::BTreeSet;

pub(crate) use compose::{Composition, Terms};
pub(crate) use remap::Mapping;

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

/// A queue's number; [`NO_QUEUE`] is none.
pub(crate) type QueueIndex = u16;
/// The host's own order: what is free is free at once.
pub(crate) const NO_QUEUE: QueueIndex = 0;

/// Which queue may still use a free range, and up to which of its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bound {
    pub(crate) queue: QueueIndex,
    pub(crate) value: u64,
}

impl Bound {
    /// To no queue.
    pub(crate) const NONE: Self = Self { queue: NO_QUEUE, value: 0 };

    fn is_none(self) -> bool {
        self.queue == NO_QUEUE
    }
}

/// Which holes a request may have: large ones and small ones keep out of each other's way while there is a choice, or the small ones
/// would leave no physical block whole for the large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Area {
    /// Blocks with memory of their own, and sparse blocks for large requests.
    General,
    /// Sparse blocks for small requests.
    Small,
}

/// A hole as it is ordered: area, queue, bytes, block, offset.
type HoleKey = (Area, QueueIndex, u64, BlockIndex, u64, RangeIndex);

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
    /// Of a free range.
    bound: Bound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RangeState {
    Used,
    Free,
    Released,
    /// Of a sparse block: the memory behind it is in use under another address.
    Elsewhere,
    /// Of a sparse block: free, and the driver has the memory back.
    Returned,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    bytes: u64,
    used_bytes: u64,
    released_bytes: u64,
    bound_bytes: u64,
    first: RangeIndex,
    idle_since: Moment,
    /// The queue that it is idle for, if it is idle.
    idle_for: Option<QueueIndex>,
    /// It has no memory of its own, so it is never idle ([`remap`]).
    is_sparse: bool,
    /// How many values of queues its addresses stay for, though nothing there is bound to them ([`rebind`]).
    left_count: u32,
    area: Area,
}

impl Block {
    /// The bytes that the driver has not got back.
    fn reserved_bytes(&self) -> u64 {
        self.bytes - self.released_bytes
    }

    fn is_unused_sparse(&self) -> bool {
        self.is_sparse && self.used_bytes == 0 && self.bound_bytes == 0 && self.left_count == 0
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
    holes: BTreeSet<HoleKey>,
    /// By queue and value: every bound range.
    bound: BTreeSet<(QueueIndex, u64, RangeIndex)>,
    bound_bytes: u64,
    /// By queue and value: sparse blocks that memory was taken from while the queue might use it there.
    left: BTreeSet<(QueueIndex, u64, BlockIndex)>,
    /// By queue first.
    idle_by_size: BTreeSet<(QueueIndex, u64, BlockIndex)>,
    /// Those that are idle for no queue.
    idle_by_age: BTreeSet<(Moment, BlockIndex)>,
    idle_bytes: u64,
    sequence: u64,
    /// Blocks that are set aside, and their bytes.
    aside_count: usize,
    aside_bytes: u64,
    remap: Remap,
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
        self.insert_block(block, bytes, RangeState::Free, false, Area::General);
        self.count_reserved(bytes);
        self.make_idle(block, NO_QUEUE, time_ms);
    }

    /// Enters a block of one range.
    fn insert_block(
        &mut self,
        block: BlockIndex,
        bytes: u64,
        state: RangeState,
        is_sparse: bool,
        area: Area,
    ) {
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
            state,
            bound: Bound::NONE,
        });
        self.blocks[place] = Some(Block {
            bytes,
            used_bytes: 0,
            released_bytes: 0,
            bound_bytes: 0,
            first,
            idle_since: Moment::default(),
            idle_for: None,
            is_sparse,
            left_count: 0,
            area,
        });
    }

    fn count_reserved(&mut self, bytes: u64) {
        self.reserved_bytes += bytes;
        self.reserved_bytes_peak = self.reserved_bytes_peak.max(self.reserved_bytes);
    }

    fn moment(&mut self, time_ms: u64) -> Moment {
        self.sequence += 1;
        Moment { time_ms, sequence: self.sequence }
    }

    /// Takes back in a block that was removed, as one that waits to be removed again.
    pub(crate) fn restore_block(&mut self, idle: IdleBlock) {
        if self.restore_physical(idle.block) {
            return;
        }
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
        self.make_idle(idle.block, NO_QUEUE, idle.since.time_ms);
    }

    /// Forgets a block if it is idle, and not set aside, and says how many bytes of it the driver has yet to get back.
    pub(crate) fn remove_block(&mut self, block: BlockIndex) -> Option<u64> {
        if self.is_physical(block) {
            return self.remove_physical(block);
        }
        let owner = (*self.blocks.get(block as usize)?)?;
        if owner.idle_for != Some(NO_QUEUE) {
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

    /// Takes the best fitting hole of an area's partly used blocks that `queue` may have, cut to `bytes` at a multiple of
    /// `alignment`. Of two alike, the queue's own.
    ///
    /// A fit is always found if there is one: first among the holes that fit however they lie, then among those that
    /// fit only because they happen to be aligned.
    pub(crate) fn allocate_in_hole(
        &mut self,
        area: Area,
        queue: QueueIndex,
        bytes: u64,
        alignment: u64,
    ) -> Option<Range> {
        let surely = bytes.checked_add(alignment.saturating_sub(GRANULE_BYTES))?;
        let mut found = self.best_hole(area, queue, surely);
        if found.is_none() && surely > bytes {
            found = self.aligned_hole(area, queue, bytes..surely, alignment);
        }
        let (.., index) = found?;
        self.holes.remove(&self.key(index));
        Some(self.take(index, bytes, alignment))
    }

    fn best_hole(&self, area: Area, queue: QueueIndex, bytes: u64) -> Option<HoleKey> {
        let of = |queue| {
            let first = self.holes.range((area, queue, bytes, 0, 0, 0)..).next().copied();
            first.filter(|&(of_area, owner, ..)| (of_area, owner) == (area, queue))
        };
        let unbound = of(NO_QUEUE);
        if queue == NO_QUEUE {
            return unbound;
        }
        [of(queue), unbound].into_iter().flatten().min_by_key(|&(_, _, bytes, ..)| bytes)
    }

    /// A hole of a size in `sizes` whose place happens to suit.
    fn aligned_hole(
        &self,
        area: Area,
        queue: QueueIndex,
        sizes: std::ops::Range<u64>,
        alignment: u64,
    ) -> Option<HoleKey> {
        let fits = |&(_, _, size, _, offset, _): &HoleKey| {
            offset.next_multiple_of(alignment) - offset + sizes.start <= size
        };
        let of = |queue| {
            let key = |bytes| (area, queue, bytes, 0, 0, 0);
            self.holes.range(key(sizes.start)..key(sizes.end)).copied().find(fits)
        };
        let own = if queue == NO_QUEUE { None } else { of(queue) };
        own.or_else(|| of(NO_QUEUE))
    }

    /// The smallest idle block that `queue` may have and that holds `bytes`.
    fn smallest_idle(&self, queue: QueueIndex, bytes: u64) -> Option<(QueueIndex, u64, BlockIndex)> {
        let of = |queue| {
            let first = self.idle_by_size.range((queue, bytes, 0)..).next().copied();
            first.filter(|&(owner, ..)| owner == queue)
        };
        let unbound = of(NO_QUEUE);
        if queue == NO_QUEUE {
            return unbound;
        }
        [of(queue), unbound].into_iter().flatten().min_by_key(|&(_, bytes, _)| bytes)
    }

    /// The size of the smallest idle block that `queue` may have and that holds `bytes`.
    pub(crate) fn smallest_idle_fit(&self, queue: QueueIndex, bytes: u64) -> Option<u64> {
        self.smallest_idle(queue, bytes).map(|(_, size, _)| size)
    }

    /// Takes the low end of the smallest idle block that `queue` may have and that holds `bytes`.
    pub(crate) fn allocate_in_idle(&mut self, queue: QueueIndex, bytes: u64) -> Option<Range> {
        let (.., block) = self.smallest_idle(queue, bytes)?;
        self.make_busy(block);
        let first = self.blocks[block as usize].as_ref().expect("an idle block exists").first;
        Some(self.take(first, bytes, 1))
    }

    /// Makes a free range, which the caller has taken out of its set, a used one, cut to what was asked.
    fn take(&mut self, index: RangeIndex, bytes: u64, alignment: u64) -> Range {
        let offset = self.nodes[index as usize].offset;
        let was_bound = !self.nodes[index as usize].bound.is_none();
        let range = self.cut(index, offset.next_multiple_of(alignment) - offset, bytes);
        self.set_bound(range.index, Bound::NONE);
        self.nodes[range.index as usize].state = RangeState::Used;
        let owner = self.blocks[range.block as usize].as_mut().expect("a range's block exists");
        owner.used_bytes += bytes;
        let is_claimed_now = owner.is_sparse && !was_bound;
        self.used_bytes += bytes;
        self.used_bytes_peak = self.used_bytes_peak.max(self.used_bytes);
        if is_claimed_now {
            self.claim(range.block, range.offset, bytes);
        }
        range
    }

    /// Cuts `bytes` bytes after the first `before` out of a free range that is no hole; what is left of it on either
    /// side becomes a hole, bound as the whole was.
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

    /// Frees a used range, bound to a queue or not, and merges it with free neighbours that are bound alike.
    pub(crate) fn free(&mut self, index: RangeIndex, bound: Bound, time_ms: u64) {
        let Node { offset, bytes, block, state, .. } = self.nodes[index as usize];
        debug_assert_eq!(state, RangeState::Used, "range {index} freed twice");
        self.used_bytes -= bytes;
        let owner = self.blocks[block as usize].as_mut().expect("a range's block exists");
        owner.used_bytes -= bytes;
        let is_unclaimed = owner.is_sparse && bound.is_none();
        self.nodes[index as usize].state = RangeState::Free;
        self.set_bound(index, bound);
        let merged = self.merge_free(index);
        self.place_free(merged, time_ms);
        if is_unclaimed {
            self.unclaim(block, offset, bytes, time_ms);
        }
    }

    /// Enters a free range that is in no set yet: as a hole, or with its block, if that has become idle.
    fn place_free(&mut self, index: RangeIndex, time_ms: u64) {
        let Node { block, bytes, bound, .. } = self.nodes[index as usize];
        let owner = self.blocks[block as usize].as_ref().expect("a range's block exists");
        if owner.used_bytes > 0 || owner.is_sparse {
            self.holes.insert(self.key(index));
        } else if owner.bound_bytes == 0 || bytes == owner.bytes {
            self.make_idle(block, bound.queue, time_ms);
        } else {
            self.holes.insert(self.key(index));
        }
    }

    /// Merges a free range, which is in no set, with free neighbours that are bound alike; returns the whole, which is
    /// in no set either.
    fn merge_free(&mut self, index: RangeIndex) -> RangeIndex {
        let Node { previous, next, bound, .. } = self.nodes[index as usize];
        let is_alike = |ranges: &Self, other: RangeIndex| {
            ranges.is_free(other) && ranges.nodes[other as usize].bound.queue == bound.queue
        };
        if is_alike(self, next) {
            self.holes.remove(&self.key(next));
            self.merge_with_next(index);
        }
        if !is_alike(self, previous) {
            return index;
        }
        self.holes.remove(&self.key(previous));
        self.merge_with_next(previous);
        previous
    }

    /// Releases what whole multiples of `granule` there are in the unbound holes. The caller gives their memory back, and undoes
    /// with [`Ranges::unrelease`] what the driver refuses.
    pub(crate) fn release_holes(&mut self, granule: u64) -> Vec<Range> {
        let mut released = self.return_parts(granule);
        let large = (Area::General, NO_QUEUE, granule, 0, 0, 0)..(Area::General, NO_QUEUE + 1, 0, 0, 0, 0);
        let large: Vec<_> = self.holes.range(large).copied().collect();
        for (_, _, bytes, block, offset, index) in large {
            let (start, end) = (offset.next_multiple_of(granule), (offset + bytes) / granule * granule);
            if start >= end || self.is_sparse(block) {
                continue;
            }
            self.holes.remove(&self.key(index));
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
        if self.is_sparse(range.block) {
            return self.unreturn(&range);
        }
        let owner = self.blocks[range.block as usize].expect("a released range's block exists");
        let time_ms = owner.idle_since.time_ms;
        if owner.idle_for.is_some() {
            self.make_busy(range.block);
            self.list_holes(range.block);
        }
        self.blocks[range.block as usize].as_mut().expect("as above").released_bytes -= range.bytes;
        self.reserved_bytes += range.bytes;
        self.nodes[range.index as usize].state = RangeState::Free;
        let merged = self.merge_free(range.index);
        self.place_free(merged, time_ms);
    }

    /// Enters every free range of a block that is not idle any more as a hole.
    fn list_holes(&mut self, block: BlockIndex) {
        let mut index = self.blocks[block as usize].as_ref().expect("the block exists").first;
        while index != NONE {
            if self.is_free(index) {
                self.holes.insert(self.key(index));
            }
            index = self.nodes[index as usize].next;
        }
    }

    /// Enters a block whose last used range was freed. None of its free ranges is a hole any more.
    fn make_idle(&mut self, block: BlockIndex, queue: QueueIndex, time_ms: u64) {
        let since = self.moment(time_ms);
        let owner = self.blocks[block as usize].as_mut().expect("the block exists");
        owner.idle_since = since;
        owner.idle_for = Some(queue);
        let owner = *owner;
        if queue == NO_QUEUE {
            self.idle_bytes += owner.reserved_bytes();
            self.idle_by_age.insert((since, block));
        }
        if owner.released_bytes == 0 {
            self.idle_by_size.insert((queue, owner.bytes, block));
            return;
        }
        let mut index = owner.first;
        while index != NONE {
            self.holes.remove(&self.key(index));
            index = self.nodes[index as usize].next;
        }
    }

    fn make_busy(&mut self, block: BlockIndex) {
        let entry = self.blocks[block as usize].as_mut().expect("the block exists");
        let queue = entry.idle_for.take().expect("a block that becomes busy was idle");
        let owner = *entry;
        if queue == NO_QUEUE {
            self.idle_bytes -= owner.reserved_bytes();
            self.idle_by_age.remove(&(owner.idle_since, block));
        }
        self.idle_by_size.remove(&(queue, owner.bytes, block));
    }

    /// The block that has been idle longest.
    pub(crate) fn longest_idle(&self) -> Option<IdleBlock> {
        let block = self.idle_by_age.first().copied();
        let (_, first) = [block, self.remap.longest_free()].into_iter().flatten().min()?;
        self.idle_block(first)
    }

    /// As [`Ranges::longest_idle`], but no physical block.
    pub(crate) fn longest_idle_with_addresses(&self) -> Option<IdleBlock> {
        let &(_, block) = self.idle_by_age.first()?;
        self.idle_block(block)
    }

    /// A block, if it is idle and bound to no queue.
    pub(crate) fn idle_block(&self, block: BlockIndex) -> Option<IdleBlock> {
        if self.is_physical(block) {
            return self.idle_physical(block);
        }
        let owner = (*self.blocks.get(block as usize)?)?;
        (owner.idle_for == Some(NO_QUEUE)).then_some(IdleBlock {
            block,
            bytes: owner.bytes,
            reserved_bytes: owner.reserved_bytes(),
            since: owner.idle_since,
        })
    }

    pub(crate) fn idle_bytes(&self) -> u64 {
        self.idle_bytes + self.remap.free_bytes()
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

    /// Bytes of free ranges that are bound to a queue.
    pub(crate) fn bound_bytes(&self) -> u64 {
        self.bound_bytes
    }

    /// Of the ranges that are bound to no queue, the largest.
    pub(crate) fn largest_free_bytes(&self) -> u64 {
        let largest = |area| {
            let of_area = self.holes.range((area, NO_QUEUE, 0, 0, 0, 0)..(area, NO_QUEUE + 1, 0, 0, 0, 0));
            of_area.last().map_or(0, |&(_, _, bytes, ..)| bytes)
        };
        let hole = largest(Area::General).max(largest(Area::Small));
        hole.max(self.idle_by_size.range(..(NO_QUEUE + 1, 0, 0)).last().map_or(0, |&(_, bytes, _)| bytes))
    }

    /// How many free ranges there are that are bound to no queue.
    pub(crate) fn free_range_count(&self) -> usize {
        self.holes.len() + self.idle_by_size.len() - self.bound.len()
    }

    pub(crate) fn block_count(&self) -> usize {
        self.blocks.iter().flatten().filter(|block| !block.is_sparse).count()
            + self.physical_count()
            + self.aside_count
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

    fn key(&self, index: RangeIndex) -> HoleKey {
        let node = &self.nodes[index as usize];
        let area = self.blocks[node.block as usize].as_ref().expect("a range's block exists").area;
        (area, node.bound.queue, node.bytes, node.block, node.offset, index)
    }

    /// Cuts a range after `bytes`; returns the second part, as free and as bound as the first.
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
        let Node { block, bound, .. } = *first;
        if !bound.is_none() {
            self.bound.insert((bound.queue, bound.value, second));
        }
        if self.is_sparse(block) {
            self.remap.note_range(block, self.nodes[second as usize].offset, second);
        }
        second
    }

    /// Adds the next range's bytes to a range and forgets the next. Both are bound to the same queue, if free; the whole is
    /// bound up to the higher value.
    fn merge_with_next(&mut self, index: RangeIndex) {
        let gone = self.nodes[index as usize].next;
        let Node { block, offset, bytes, next, bound, .. } = self.nodes[gone as usize];
        if self.is_sparse(block) {
            self.remap.forget_range(block, offset);
        }
        let kept_bound = self.nodes[index as usize].bound;
        if !bound.is_none() {
            self.bound.remove(&(bound.queue, bound.value, gone));
            if bound.value > kept_bound.value {
                self.bound.remove(&(kept_bound.queue, kept_bound.value, index));
                self.bound.insert((bound.queue, bound.value, index));
                self.nodes[index as usize].bound = bound;
            }
        }
        let kept = &mut self.nodes[index as usize];
        kept.bytes += bytes;
        kept.next = next;
        if next != NONE {
            self.nodes[next as usize].previous = index;
        }
        self.unused_nodes.push(gone);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
