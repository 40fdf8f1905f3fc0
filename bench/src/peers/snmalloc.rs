//! snmalloc-rs 0.7: a malloc with per-thread caches and message-passing frees; its memory is real.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;

use snmalloc_rs::SnMalloc;

use super::Peer;

/// The alignment that device memory is asked for.
const ALIGNMENT: usize = 256;

#[derive(Clone)]
pub(crate) struct Snmalloc;

/// An allocation and the layout it must be freed with.
pub(crate) struct Held {
    address: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the address stands for memory that its owner alone may use, and snmalloc frees on any thread.
unsafe impl Send for Held {}

impl Peer for Snmalloc {
    type Handle = Held;

    #[inline]
    fn allocate(&mut self, bytes: u64) -> Option<Held> {
        let layout = Layout::from_size_align(bytes as usize, ALIGNMENT).ok()?;
        // SAFETY: no size in a mix is zero.
        let address = NonNull::new(unsafe { SnMalloc.alloc(layout) })?;
        Some(Held { address, layout })
    }

    #[inline]
    fn free(&mut self, Held { address, layout }: Held) {
        // SAFETY: the address came from `allocate`, with this layout, and is consumed here.
        unsafe { SnMalloc.dealloc(address.as_ptr(), layout) };
    }
}
