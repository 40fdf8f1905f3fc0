//! Every peer hands out room that no other live buffer has.

use std::collections::BTreeMap;

use super::*;
use crate::mix::{Draws, Mix};

const SPACE: Space = Space { unit_bytes: 256, range_bytes: 256 << 20, allocations_max: 200 };

/// Replaces buffers and checks each against a sorted list of the live ones.
fn check<P: RangePeer>(mut peer: P) {
    let mut draws = Draws::new(Mix::To1MiB, SPACE.allocations_max, 11);
    let mut slots: Vec<Option<(P::Handle, u64)>> = (0..SPACE.allocations_max).map(|_| None).collect();
    let mut live = BTreeMap::new();
    draws.draw(20_000);
    for draw in draws.table() {
        let slot = &mut slots[draw.slot as usize];
        if let Some((handle, offset)) = slot.take() {
            live.remove(&offset);
            peer.free(handle);
        }
        let bytes = u64::from(draw.bytes);
        let handle = peer.allocate(bytes).expect("the range has room");
        let offset = peer.offset_bytes(&handle);
        assert!(offset % SPACE.unit_bytes == 0 && offset + bytes <= SPACE.range_bytes);
        let before = live.range(..=offset).next_back();
        assert!(before.is_none_or(|(start, length)| start + length <= offset));
        assert!(live.range(offset..).next().is_none_or(|(start, _)| offset + bytes <= *start));
        live.insert(offset, bytes);
        *slot = Some((handle, offset));
    }
}

#[test]
fn offset_allocator_never_overlaps() {
    check(OffsetAllocator::new(&SPACE));
}

#[test]
fn vk_mem_never_overlaps() {
    check(VkMem::new(&SPACE));
}

#[test]
fn best_fit_never_overlaps() {
    struct Ranged(BestFit);
    impl Peer for Ranged {
        type Handle = best_fit::Part;
        fn allocate(&mut self, bytes: u64) -> Option<best_fit::Part> {
            self.0.allocate(bytes, 0)
        }
        fn free(&mut self, part: best_fit::Part) {
            self.0.free(part);
        }
    }
    impl RangePeer for Ranged {
        fn offset_bytes(&self, part: &best_fit::Part) -> u64 {
            part.offset
        }
    }
    check(Ranged(BestFit::new(SPACE.range_bytes)));
}
