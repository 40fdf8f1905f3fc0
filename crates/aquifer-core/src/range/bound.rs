//! Ranges that are bound to queues: unbound when the queue has passed, and joined across when nothing else fits.

use super::{Area, BlockIndex, Bound, NO_QUEUE, NONE, Node, QueueIndex, Range, RangeIndex, Ranges};

impl Ranges {
    /// Takes `bytes` out of neighbouring free ranges that are bound to `queue` or unbound and only together large
    /// enough. Looks at every hole of the queue: a last resort before growing.
    pub(crate) fn allocate_across(&mut self, queue: QueueIndex, bytes: u64, alignment: u64) -> Option<Range> {
        if queue == NO_QUEUE {
            return None;
        }
        let of_area = |area| self.holes.range((area, queue, 0, 0, 0, 0)..(area, queue + 1, 0, 0, 0, 0));
        let holes = of_area(Area::General).chain(of_area(Area::Small));
        let may_have = |index: RangeIndex| {
            self.is_free(index) && [NO_QUEUE, queue].contains(&self.nodes[index as usize].bound.queue)
        };
        let run = holes.map(|&(.., index)| index).find_map(|index| {
            let (mut first, mut last, mut sum) = (index, index, self.nodes[index as usize].bytes);
            while may_have(self.nodes[first as usize].previous) {
                first = self.nodes[first as usize].previous;
                sum += self.nodes[first as usize].bytes;
            }
            while may_have(self.nodes[last as usize].next) {
                last = self.nodes[last as usize].next;
                sum += self.nodes[last as usize].bytes;
            }
            let start = self.nodes[first as usize].offset;
            (start.next_multiple_of(alignment) - start + bytes <= sum).then_some((first, last))
        });
        let (first, last) = run?;
        Some(self.join(queue, first, last, bytes, alignment))
    }

    /// Makes one used range of a run of free ones from `first` to `last`, which are large enough. What is left at either
    /// end stays bound as it was.
    fn join(
        &mut self,
        queue: QueueIndex,
        first: RangeIndex,
        last: RangeIndex,
        bytes: u64,
        alignment: u64,
    ) -> Range {
        let start = self.nodes[first as usize].offset.next_multiple_of(alignment);
        let end = start + bytes;
        let mut index = first;
        let mut joined = NONE;
        loop {
            let Node { offset, bytes, bound, next, .. } = self.nodes[index as usize];
            let is_last = index == last;
            if offset + bytes > start && offset < end {
                self.holes.remove(&self.key(index));
                if offset < start {
                    let rest = self.split(index, start - offset);
                    self.holes.insert(self.key(index));
                    index = rest;
                }
                let Node { offset, bytes, .. } = self.nodes[index as usize];
                if offset + bytes > end {
                    let rest = self.split(index, end - offset);
                    self.holes.insert(self.key(rest));
                }
                self.set_bound(index, Bound { queue, value: bound.value });
                if bound.is_none() && self.is_sparse(self.nodes[index as usize].block) {
                    let Node { block, offset, bytes, .. } = self.nodes[index as usize];
                    self.claim(block, offset, bytes);
                }
                if joined == NONE {
                    joined = index;
                } else {
                    self.merge_with_next(joined);
                }
            }
            if is_last || offset + bytes >= end {
                break;
            }
            index = next;
        }
        self.take(joined, bytes, 1)
    }

    /// Unbinds what is bound to `queue` up to `value`, which the queue has reached.
    pub(crate) fn settle(&mut self, queue: QueueIndex, value: u64, time_ms: u64) {
        self.settle_left(queue, value);
        while let Some(&(owner, bound_to, index)) = self.bound.range((queue, 0, 0)..).next()
            && owner == queue
            && bound_to <= value
        {
            let Node { block, offset, bytes, .. } = self.nodes[index as usize];
            if self.blocks[block as usize].as_ref().expect("a range's block exists").idle_for.is_some() {
                self.make_busy(block);
            } else {
                self.holes.remove(&self.key(index));
            }
            self.set_bound(index, Bound::NONE);
            let merged = self.merge_free(index);
            self.place_free(merged, time_ms);
            if self.is_sparse(block) {
                self.unclaim(block, offset, bytes, time_ms);
            }
        }
    }

    /// The highest value that anything is bound to of a queue, or that addresses stay for.
    pub(crate) fn bound_value_max(&self, queue: QueueIndex) -> Option<u64> {
        let of_queue = self.bound.range((queue, 0, 0)..=(queue, u64::MAX, RangeIndex::MAX));
        let left = self.left.range((queue, 0, 0)..=(queue, u64::MAX, BlockIndex::MAX)).last();
        of_queue.last().map(|&(_, value, _)| value).max(left.map(|&(_, value, _)| value))
    }

    /// The lowest value that anything is bound to of a queue.
    pub(crate) fn bound_value_min(&self, queue: QueueIndex) -> Option<u64> {
        let of_queue = self.bound.range((queue, 0, 0)..=(queue, u64::MAX, RangeIndex::MAX));
        of_queue.into_iter().next().map(|&(_, value, _)| value)
    }

    /// Binds a range, or unbinds it. It must not be a hole: holes are ordered by queue.
    pub(super) fn set_bound(&mut self, index: RangeIndex, bound: Bound) {
        let Node { bytes, block, bound: before, .. } = self.nodes[index as usize];
        if before == bound {
            return;
        }
        let owner = self.blocks[block as usize].as_mut().expect("a range's block exists");
        if !before.is_none() {
            self.bound.remove(&(before.queue, before.value, index));
            owner.bound_bytes -= bytes;
            self.bound_bytes -= bytes;
        }
        if !bound.is_none() {
            self.bound.insert((bound.queue, bound.value, index));
            owner.bound_bytes += bytes;
            self.bound_bytes += bytes;
        }
        self.nodes[index as usize].bound = bound;
    }
}
