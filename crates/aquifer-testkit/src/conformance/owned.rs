//! A block for the cases that talk to the backend itself.

use aquifer_backend::{Backend, BlockDesc, BlockRange, DestroyError};
use std::ptr::NonNull;

/// A block, destroyed when it is dropped, unless the case has failed.
pub(super) struct Owned<'a, B: Backend> {
    backend: &'a B,
    block: Option<B::Block>,
    pub(super) bytes: u64,
}

impl<'a, B: Backend> Owned<'a, B> {
    /// A new block of the first memory type.
    pub(super) fn new(backend: &'a B, granules: u64) -> Self {
        let bytes = granules * backend.properties().block_granularity_bytes;
        let block = backend.create_block(&BlockDesc::new(bytes, 0)).expect("a small block");
        Self::of(backend, block, bytes)
    }

    /// Takes a block over.
    pub(super) fn of(backend: &'a B, block: B::Block, bytes: u64) -> Self {
        Self { backend, block: Some(block), bytes }
    }

    pub(super) fn block(&self) -> &B::Block {
        self.block.as_ref().expect("present until it is dropped")
    }

    pub(super) fn address(&self) -> NonNull<u8> {
        self.backend.host_pointer(self.block()).expect("the case needs memory that the host sees")
    }

    pub(super) fn content(&mut self) -> &mut [u8] {
        // SAFETY: a block's bytes are readable, writable and initialised (the contract under test), and this value owns
        // the block and is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.address().as_ptr(), self.bytes as usize) }
    }

    /// The first of the content: enough to compare, however large a granule is.
    pub(super) fn beginning(&mut self) -> &mut [u8] {
        let bytes = self.bytes.min(32 << 10) as usize;
        &mut self.content()[..bytes]
    }

    pub(super) fn range(&self, offset: u64, bytes: u64) -> BlockRange<'_, B::Block> {
        assert!(offset + bytes <= self.bytes);
        BlockRange { block: self.block(), offset, bytes }
    }

    pub(super) fn fill(&mut self, offset: u64, bytes: u64, value: u8) {
        // SAFETY: the range lies in the block, which this value owns and which is borrowed mutably.
        unsafe { self.backend.fill(self.range(offset, bytes), value) }.expect("a fill");
    }
}

impl<B: Backend> Drop for Owned<'_, B> {
    fn drop(&mut self) {
        let Some(block) = self.block.take() else { return };
        if std::thread::panicking() {
            // A case that has failed may have left work behind that uses the block.
            return;
        }
        // SAFETY: this value owns the block, references to its content borrow the value, and cases wait for their queues
        // before they drop it.
        if let Err(DestroyError { error, .. }) = unsafe { self.backend.destroy_block(block) } {
            panic!("a block that nothing uses was refused: {error}");
        }
    }
}
