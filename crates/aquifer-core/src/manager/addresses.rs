//! Where blocks begin, by their index: asked for with every buffer that a program gives to the device, so read without a lock and
//! without a write.

use crate::range::BlockIndex;
use crate::sync::UnmodelledAtomicU64;
use aquifer_backend::Backend;
use std::fmt;
use std::ptr::{NonNull, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Places in the first segment; each further one has twice as many.
const FIRST_COUNT: u64 = 64;
/// Enough for every index.
const SEGMENT_COUNT: usize = 27;

/// The addresses of a memory type's blocks. It grows and never shrinks.
pub(super) struct Addresses {
    segments: [OnceLock<Box<[Address]>>; SEGMENT_COUNT],
}

#[derive(Default)]
struct Address {
    /// One more than the device's, 0 if there is none.
    device: UnmodelledAtomicU64,
    host: AtomicPtr<u8>,
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let segments = self.segments.iter().filter(|segment| segment.get().is_some());
        f.debug_struct("Addresses").field("segments", &segments.count()).finish_non_exhaustive()
    }
}

impl Addresses {
    pub(super) fn new() -> Self {
        Self { segments: [const { OnceLock::new() }; SEGMENT_COUNT] }
    }

    /// Notes where a block begins, before anybody is given a part of it.
    pub(super) fn note<B: Backend>(&self, backend: &B, index: BlockIndex, block: &B::Block) {
        let (segment, place) = locate(index);
        let count = (FIRST_COUNT << segment) as usize;
        let segment = self.segments[segment].get_or_init(|| (0..count).map(|_| Address::default()).collect());
        let device = backend.device_address(block).and_then(|address| address.checked_add(1)).unwrap_or(0);
        let host = backend.host_pointer(block).map_or(null_mut(), NonNull::as_ptr);
        // Whoever reads has been given a part of the block since, which orders this before.
        segment[place].device.store(device, Ordering::Relaxed);
        segment[place].host.store(host, Ordering::Relaxed);
    }

    /// Where the device reaches the block of a live allocation.
    #[inline]
    pub(super) fn device(&self, index: BlockIndex) -> Option<u64> {
        self.get(index)?.device.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Where the host sees the block of a live allocation.
    #[inline]
    pub(super) fn host(&self, index: BlockIndex) -> Option<NonNull<u8>> {
        NonNull::new(self.get(index)?.host.load(Ordering::Relaxed))
    }

    #[inline]
    fn get(&self, index: BlockIndex) -> Option<&Address> {
        let (segment, place) = locate(index);
        self.segments.get(segment)?.get()?.get(place)
    }
}

/// The segment of an index, and its place there.
#[inline]
fn locate(index: BlockIndex) -> (usize, usize) {
    let number = u64::from(index) + FIRST_COUNT;
    let segment = (number / FIRST_COUNT).ilog2();
    (segment as usize, (number - (FIRST_COUNT << segment)) as usize)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_index_has_a_place_of_its_own() {
        let mut expected = (0, 0);
        for index in 0..10_000 {
            assert_eq!(locate(index), expected, "{index}");
            expected.1 += 1;
            if expected.1 == (FIRST_COUNT << expected.0) as usize {
                expected = (expected.0 + 1, 0);
            }
        }
        assert!(locate(BlockIndex::MAX).0 < SEGMENT_COUNT);
    }
}
