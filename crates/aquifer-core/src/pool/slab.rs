//! Slabs: ranges cut into slots of one class, so that small allocations neither search nor split.
//!
//! A slab has at most 64 slots, and one word tells which are free. Of a class's slabs with free slots the one lowest
//! in the oldest block serves first, so that the others run empty and their ranges go back.

use super::layout::ClassIndex;
use crate::range::{BlockIndex, Range, RangeIndex};
use std::collections::BTreeSet;

/// The largest slot, in bytes. Larger classes are ranges of their own.
pub(crate) const SLOT_BYTES_MAX: u64 = 32 << 10;
/// The most bytes one slab takes.
const SLAB_BYTES_MAX: u64 = 128 << 10;

/// A slab's place in the table of slabs.
pub(crate) type SlabIndex = u32;

/// How many bytes a new slab of slots of `slot_bytes` takes.
pub(crate) fn slab_bytes(slot_bytes: u64) -> u64 {
    slot_bytes * (SLAB_BYTES_MAX / slot_bytes).min(u64::from(u64::BITS))
}

#[derive(Debug, Clone, Copy)]
struct Slab {
    range: Range,
    class: ClassIndex,
    slot_bytes: u64,
    free_slots: u64,
}

impl Slab {
    fn all_slots(&self) -> u64 {
        u64::MAX >> (u64::from(u64::BITS) - self.range.bytes / self.slot_bytes)
    }

    fn order(&self, index: SlabIndex) -> (BlockIndex, u64, SlabIndex) {
        (self.range.block, self.range.offset, index)
    }
}

/// A slot, as [`Slabs::allocate`] hands it out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) slab: SlabIndex,
    pub(crate) block: BlockIndex,
    pub(crate) offset: u64,
}

/// All slabs of one pool.
#[derive(Debug)]
pub(crate) struct Slabs {
    slabs: Vec<Option<Slab>>,
    unused: Vec<SlabIndex>,
    /// Per class, the slabs that have a free slot.
    open: Vec<BTreeSet<(BlockIndex, u64, SlabIndex)>>,
    free_bytes: u64,
}

impl Slabs {
    pub(crate) fn new(class_count: usize) -> Self {
        Self {
            slabs: Vec::new(),
            unused: Vec::new(),
            open: vec![BTreeSet::new(); class_count],
            free_bytes: 0,
        }
    }

    /// Takes a free slot of a class, if a slab has one.
    pub(crate) fn allocate(&mut self, class: ClassIndex) -> Option<Slot> {
        let &(block, offset, index) = self.open[class].first()?;
        let slab = self.slabs[index as usize].as_mut().expect("an open slab exists");
        let slot = slab.free_slots.trailing_zeros();
        slab.free_slots &= slab.free_slots - 1;
        self.free_bytes -= slab.slot_bytes;
        if slab.free_slots == 0 {
            self.open[class].pop_first();
        }
        Some(Slot { slab: index, block, offset: offset + u64::from(slot) * slab.slot_bytes })
    }

    /// Cuts a used range of [`slab_bytes`] into free slots of a class.
    pub(crate) fn add(&mut self, class: ClassIndex, slot_bytes: u64, range: Range) {
        let mut slab = Slab { range, class, slot_bytes, free_slots: 0 };
        slab.free_slots = slab.all_slots();
        self.free_bytes += range.bytes;
        let index = self.unused.pop().unwrap_or_else(|| {
            self.slabs.push(None);
            SlabIndex::try_from(self.slabs.len() - 1).expect("fewer than 2^32 slabs")
        });
        self.slabs[index as usize] = Some(slab);
        self.open[class].insert(slab.order(index));
    }

    /// Frees the slot at `offset` of its block. If that was the slab's last, the slab is gone and its range, still
    /// used, is the caller's to free.
    pub(crate) fn free(&mut self, index: SlabIndex, offset: u64) -> Option<RangeIndex> {
        let slab = self.slabs[index as usize].as_mut().expect("a slot's slab exists");
        let bit = 1 << ((offset - slab.range.offset) / slab.slot_bytes);
        debug_assert_eq!(slab.free_slots & bit, 0, "slot freed twice");
        let was_full = slab.free_slots == 0;
        slab.free_slots |= bit;
        self.free_bytes += slab.slot_bytes;
        let slab = *slab;
        if slab.free_slots == slab.all_slots() {
            self.open[slab.class].remove(&slab.order(index));
            self.free_bytes -= slab.range.bytes;
            self.slabs[index as usize] = None;
            self.unused.push(index);
            return Some(slab.range.index);
        }
        if was_full {
            self.open[slab.class].insert(slab.order(index));
        }
        None
    }

    /// Bytes in free slots.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_bytes
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn range(index: RangeIndex, offset: u64, bytes: u64) -> Range {
        Range { index, block: 0, offset, bytes }
    }

    #[test]
    fn sizes_stay_within_the_limits() {
        for slot_bytes in (256..=SLOT_BYTES_MAX).step_by(256) {
            let bytes = slab_bytes(slot_bytes);
            assert!(bytes <= SLAB_BYTES_MAX && bytes >= SLAB_BYTES_MAX.min(64 * slot_bytes) - slot_bytes);
            assert_eq!(bytes % slot_bytes, 0);
        }
        assert_eq!(slab_bytes(256), 64 * 256);
    }

    #[test]
    fn every_slot_is_handed_out_once_and_the_empty_slab_goes_back() {
        let mut slabs = Slabs::new(1);
        slabs.add(0, 512, range(9, 1 << 20, slab_bytes(512)));
        slabs.add(0, 512, range(4, 0, slab_bytes(512)));
        let slots: Vec<Slot> = std::iter::from_fn(|| slabs.allocate(0)).collect();
        let mut offsets: Vec<u64> = slots.iter().map(|slot| slot.offset).collect();
        assert_eq!(offsets[0], 0, "the lowest slab serves first");
        offsets.sort_unstable();
        offsets.dedup();
        assert_eq!((offsets.len(), slabs.free_bytes()), (128, 0));
        let gone: Vec<RangeIndex> =
            slots.iter().filter_map(|slot| slabs.free(slot.slab, slot.offset)).collect();
        assert_eq!(gone, [4, 9]);
        assert_eq!(slabs.free_bytes(), 0);
        assert!(slabs.allocate(0).is_none());
    }
}
