//! A reference policy: best fit in one range that grows at its end, in multiples of 512 bytes.
//!
//! It takes the smallest hole that fits, the lowest of equals, and joins neighbouring holes. If no hole fits, the range
//! grows, from the hole at its end if there is one. No allocator that cannot move or remap memory should need much less.

use std::collections::{BTreeMap, BTreeSet};

use super::Replayer;

const ROUND_BYTES: u64 = 512;

pub(crate) struct BestFit {
    /// The range grows no further.
    budget_bytes: u64,
    /// Offset to size.
    holes: BTreeMap<u64, u64>,
    /// (size, offset) of the same holes.
    by_size: BTreeSet<(u64, u64)>,
    end: u64,
}

/// A used part of the range.
#[derive(Debug)]
pub(crate) struct Part {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

impl BestFit {
    pub(crate) fn new(budget_bytes: u64) -> Self {
        Self { budget_bytes, holes: BTreeMap::new(), by_size: BTreeSet::new(), end: 0 }
    }

    fn insert(&mut self, offset: u64, bytes: u64) {
        self.holes.insert(offset, bytes);
        self.by_size.insert((bytes, offset));
    }

    fn remove(&mut self, offset: u64, bytes: u64) {
        self.holes.remove(&offset);
        self.by_size.remove(&(bytes, offset));
    }
}

impl Replayer for BestFit {
    type Handle = Part;

    fn allocate(&mut self, bytes: u64, _: u64) -> Option<Part> {
        let bytes = bytes.next_multiple_of(ROUND_BYTES).max(ROUND_BYTES);
        if let Some(&(hole, offset)) = self.by_size.range((bytes, 0)..).next() {
            self.remove(offset, hole);
            if hole > bytes {
                self.insert(offset + bytes, hole - bytes);
            }
            return Some(Part { offset, bytes });
        }
        let at_end = self.holes.last_key_value().filter(|&(offset, hole)| offset + hole == self.end);
        let (offset, hole) = at_end.map_or((self.end, 0), |(&offset, &hole)| (offset, hole));
        if bytes > self.budget_bytes.saturating_sub(offset) {
            return None;
        }
        if hole > 0 {
            self.remove(offset, hole);
        }
        self.end = offset + bytes;
        Some(Part { offset, bytes })
    }

    fn free(&mut self, Part { mut offset, mut bytes }: Part) {
        if let Some(&next) = self.holes.get(&(offset + bytes)) {
            self.remove(offset + bytes, next);
            bytes += next;
        }
        if let Some((&before, &hole)) = self.holes.range(..offset).next_back()
            && before + hole == offset
        {
            self.remove(before, hole);
            offset = before;
            bytes += hole;
        }
        self.insert(offset, bytes);
    }

    /// The range never shrinks.
    fn reserved_bytes_peak(&self) -> Option<u64> {
        Some(self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_grows_up_to_the_budget_and_no_further() {
        let mut allocator = BestFit::new(4096);
        let first = allocator.allocate(1024, 0).expect("it is empty");
        let last = allocator.allocate(2048, 0).expect("there is room");
        assert!(allocator.allocate(1025, 0).is_none());
        allocator.free(first);
        assert!(allocator.allocate(1025, 0).is_none(), "the hole is too small, and so is the end");
        allocator.free(last);
        assert!(allocator.allocate(4097, 0).is_none());
        assert!(allocator.allocate(4096, 0).is_some(), "from the hole at the end");
        assert_eq!(allocator.reserved_bytes_peak(), Some(4096));
    }
}
