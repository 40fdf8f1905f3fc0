//! Memory that a queue may still use, for the same queue under other addresses: what comes in the queue now is behind all that used the
//! memory before, so nobody need wait. The addresses that it is taken from stay mapped until the queue has passed.

use super::remap::Mapping;
use super::{BlockIndex, Bound, NO_QUEUE, Node, QueueIndex, RangeIndex, RangeState, Ranges};
use std::collections::BTreeSet;

/// A physical block that has so many mappings is left to the queue where it is: each claim is noted at all of them, and while the queue lags none
/// of its addresses can go.
const MAPPINGS_MAX: usize = 8;

impl Ranges {
    /// The physical blocks that a request on `queue` may have before the queue has passed: every byte is free at one place, for everybody
    /// or for the queue, and not all is for everybody. By size. Looks at all that is bound to the queue.
    pub(super) fn whole_for(&self, queue: QueueIndex) -> BTreeSet<(u64, BlockIndex)> {
        let mut found = BTreeSet::new();
        if queue == NO_QUEUE {
            return found;
        }
        for &(_, _, index) in self.bound.range((queue, 0, 0)..=(queue, u64::MAX, RangeIndex::MAX)) {
            let Node { block, offset, bytes, .. } = self.nodes[index as usize];
            if !self.is_sparse(block) {
                continue;
            }
            let (first, _) = self.remap.mapping_at(block, offset);
            for (&(_, start), &physical) in self.remap.mappings_in(block, first..offset + bytes) {
                let size = self.physical_bytes(physical);
                if !found.contains(&(size, physical))
                    && self.remap.physical(physical).mappings.len() < MAPPINGS_MAX
                    && self.bound_value_at((block, start), size, queue).is_some()
                {
                    found.insert((size, physical));
                }
            }
        }
        found
    }

    /// Up to which value the queue may use what is there, if every byte is free for everybody or for the queue, and some for the queue alone.
    fn bound_value_at(&self, (block, start): Mapping, bytes: u64, queue: QueueIndex) -> Option<u64> {
        let (mut at, end) = (start, start + bytes);
        let mut value = None;
        while at < end {
            let (node, part_end) = self.part_at(block, at, end);
            match node.bound {
                _ if node.state != RangeState::Free => return None,
                Bound { queue: NO_QUEUE, .. } => {}
                bound if bound.queue == queue => value = value.max(Some(bound.value)),
                _ => return None,
            }
            at = part_end;
        }
        value
    }

    /// Notes that a physical block has been mapped at the end of what is mapped behind a sparse block, for a request on `queue`: what the
    /// queue may still use of it goes along, if [`Ranges::whole_for`] still has it.
    pub(crate) fn add_mapping_for(
        &mut self,
        queue: QueueIndex,
        sparse: BlockIndex,
        physical: BlockIndex,
        time_ms: u64,
    ) {
        let bytes = self.physical_bytes(physical);
        let places = if queue == NO_QUEUE { Vec::new() } else { self.mappings(physical) };
        let found =
            places.into_iter().find_map(|place| Some((place, self.bound_value_at(place, bytes, queue)?)));
        let Some((place, value)) = found else { return self.add_mapping(sparse, physical) };
        self.leave(place, bytes, (queue, value), time_ms);
        let start = self.mapped_end(sparse);
        self.add_mapping(sparse, physical);
        // It is free everywhere now. For everybody it is not to be.
        let index = self.isolate(sparse, start, bytes);
        self.set_bound(index, Bound { queue, value });
        let merged = self.merge_free(index);
        self.holes.insert(self.key(merged));
        self.claim(sparse, start, bytes);
    }

    /// Ends what is bound there, but not the addresses: they stay until the queue has reached the value.
    fn leave(
        &mut self,
        (block, start): Mapping,
        bytes: u64,
        (queue, value): (QueueIndex, u64),
        time_ms: u64,
    ) {
        if self.left.insert((queue, value, block)) {
            self.blocks[block as usize].as_mut().expect("the block exists").left_count += 1;
        }
        let (mut at, end) = (start, start + bytes);
        while at < end {
            let (node, part_end) = self.part_at(block, at, end);
            if !node.bound.is_none() {
                let index = self.isolate(block, at, part_end - at);
                self.set_bound(index, Bound::NONE);
                let merged = self.merge_free(index);
                self.holes.insert(self.key(merged));
                self.unclaim(block, at, part_end - at, time_ms);
            }
            at = part_end;
        }
    }

    /// Takes out of the holes just this part of a free range of a sparse block.
    fn isolate(&mut self, block: BlockIndex, offset: u64, bytes: u64) -> RangeIndex {
        let mut index = self.remap.range_at(block, offset);
        self.holes.remove(&self.key(index));
        let before = offset - self.nodes[index as usize].offset;
        if before > 0 {
            let rest = self.split(index, before);
            self.holes.insert(self.key(index));
            index = rest;
        }
        if self.nodes[index as usize].bytes > bytes {
            let rest = self.split(index, bytes);
            self.holes.insert(self.key(rest));
        }
        index
    }

    /// Forgets the addresses that memory was taken from, now that `queue` has reached `value`.
    pub(super) fn settle_left(&mut self, queue: QueueIndex, value: u64) {
        while let Some(&(owner, until, block)) = self.left.range((queue, 0, 0)..).next()
            && owner == queue
            && until <= value
        {
            self.left.remove(&(owner, until, block));
            self.blocks[block as usize].as_mut().expect("addresses that are in use stay").left_count -= 1;
        }
    }

    /// Whether anything waits for a queue: ranges, or addresses.
    pub(crate) fn is_any_bound(&self) -> bool {
        self.bound_bytes > 0 || !self.left.is_empty()
    }
}
