//! rlsf 0.2: TLSF in Rust, its headers in the memory it manages (so that memory must be real).

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use super::{Peer, Space};

pub(crate) struct Rlsf {
    tlsf: ::rlsf::Tlsf<'static, u32, u32, 32, 32>,
    unit_bytes: usize,
    /// What `tlsf` manages; never looked into from here.
    _memory: Vec<MaybeUninit<u8>>,
}

/// An allocation's address.
pub(crate) struct Address(NonNull<u8>);

// SAFETY: the address stands for memory that its owner alone may use, on any thread.
unsafe impl Send for Address {}

impl Rlsf {
    pub(crate) fn new(space: &Space) -> Self {
        // Pages that are never touched cost only addresses.
        let mut memory = Vec::<MaybeUninit<u8>>::with_capacity(space.range_bytes as usize);
        let start = NonNull::from(memory.spare_capacity_mut()).cast::<u8>();
        let mut tlsf = ::rlsf::Tlsf::new();
        let block = NonNull::slice_from_raw_parts(start, memory.capacity());
        // SAFETY: the block is the whole of `memory`, which nothing else uses and which `Self` drops after `tlsf`.
        unsafe { tlsf.insert_free_block_ptr(block) }.expect("the range is too small for a header");
        Self { tlsf, unit_bytes: space.unit_bytes as usize, _memory: memory }
    }
}

impl Peer for Rlsf {
    type Handle = Address;

    #[inline]
    fn allocate(&mut self, bytes: u64) -> Option<Address> {
        let layout = Layout::from_size_align(bytes as usize, self.unit_bytes).ok()?;
        self.tlsf.allocate(layout).map(Address)
    }

    #[inline]
    fn free(&mut self, address: Address) {
        // SAFETY: the address came from `allocate` of this peer, with this alignment, and is consumed here.
        unsafe { self.tlsf.deallocate(address.0, self.unit_bytes) };
    }
}
