//! The loop with everything but the allocator: what to take off the other rows.

use std::hint::black_box;

use super::{Peer, Replayer};

#[derive(Clone)]
pub(crate) struct LoopOnly;

impl Peer for LoopOnly {
    type Handle = u64;

    #[inline]
    fn allocate(&mut self, bytes: u64) -> Option<u64> {
        Some(black_box(bytes))
    }

    #[inline]
    fn free(&mut self, handle: u64) {
        black_box(handle);
    }
}

impl Replayer for LoopOnly {
    type Handle = u64;

    #[inline]
    fn allocate(&mut self, bytes: u64, _: u64) -> Option<u64> {
        Peer::allocate(self, bytes)
    }

    #[inline]
    fn free(&mut self, handle: u64) {
        Peer::free(self, handle);
    }

    fn reserved_bytes_peak(&self) -> Option<u64> {
        None
    }
}
