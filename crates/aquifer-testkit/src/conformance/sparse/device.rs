//! A backend's sparse and physical blocks in pages, and what lies behind them.

use super::super::owned::Owned;
use crate::Pattern;
use aquifer_backend::{Backend, BlockDesc, BlockRange, Capabilities, MemoryFlags};
use std::ops::Range;

/// A backend and one memory type that its sparse blocks can have. Offsets and sizes are in physical pages.
///
/// What lies behind addresses is written and read by copies from and to memory that the host sees.
pub(super) struct Device<'a, B> {
    pub(super) backend: &'a B,
    pub(super) memory_type_index: usize,
    visible_type_index: usize,
    pub(super) page_bytes: u64,
}

impl<'a, B: Backend> Device<'a, B> {
    /// One for each memory type that is sparse. Without memory that the host sees, content cannot be asked for.
    pub(super) fn all(backend: &'a B) -> Vec<Self> {
        let properties = backend.properties();
        let with = |flag| {
            let types = properties.memory_types.iter().enumerate();
            types.filter(move |(_, one)| one.flags.contains(flag)).map(|(index, _)| index)
        };
        let visible_type_index = with(MemoryFlags::HOST_VISIBLE).next().unwrap_or(0);
        let page_bytes = properties.physical_page_bytes;
        let all: Vec<_> = with(MemoryFlags::SPARSE)
            .map(|memory_type_index| Self { backend, memory_type_index, visible_type_index, page_bytes })
            .collect();
        assert!(!all.is_empty(), "sparse blocks were promised, of no memory type");
        all
    }

    /// Whether the backend has promised something.
    pub(super) fn has(&self, capability: Capabilities) -> bool {
        self.backend.properties().capabilities.contains(capability)
    }

    /// Whether the host sees memory of this type.
    pub(super) fn is_visible(&self) -> bool {
        let memory_type = &self.backend.properties().memory_types[self.memory_type_index];
        memory_type.flags.contains(MemoryFlags::HOST_VISIBLE)
    }

    fn desc(&self, pages: u64) -> BlockDesc<'static> {
        BlockDesc::new(pages * self.page_bytes, self.memory_type_index)
    }

    /// Addresses.
    pub(super) fn sparse(&self, pages: u64) -> Owned<'a, B> {
        let desc = self.desc(pages);
        let block = self.backend.create_sparse_block(&desc).expect("a few addresses");
        Owned::of(self.backend, block, desc.bytes)
    }

    /// Memory.
    pub(super) fn physical(&self, pages: u64) -> Owned<'a, B> {
        let desc = self.desc(pages);
        let block = self.backend.create_physical_block(&desc).expect("a little memory");
        Owned::of(self.backend, block, desc.bytes)
    }

    /// An ordinary block: addresses with memory.
    pub(super) fn ordinary(&self, pages: u64) -> Owned<'a, B> {
        let desc = self.desc(pages);
        let block = self.backend.create_block(&desc).expect("a small block");
        Owned::of(self.backend, block, desc.bytes)
    }

    fn range<'b>(&self, block: &'b Owned<'_, B>, pages: Range<u64>) -> BlockRange<'b, B::Block> {
        block.range(pages.start * self.page_bytes, (pages.end - pages.start) * self.page_bytes)
    }

    /// Puts all of a physical block behind a sparse one, from a page on.
    pub(super) fn map(&self, sparse: &Owned<'_, B>, page: u64, physical: &Owned<'_, B>) {
        let range = self.range(sparse, page..page + physical.bytes / self.page_bytes);
        // SAFETY: the range is whole pages and as long as the physical block; the cases map nothing twice behind the same page,
        // and keep the physical block until the range is unmapped or its block destroyed.
        unsafe { self.backend.map(range, physical.block()) }.expect("a physical block is mapped");
    }

    /// Takes away what [`Device::map`] has put there, all of it.
    pub(super) fn unmap(&self, sparse: &Owned<'_, B>, page: u64, physical: &Owned<'_, B>) {
        let range = self.range(sparse, page..page + physical.bytes / self.page_bytes);
        // SAFETY: the range is that of a mapping, and copies to and from it have ended.
        unsafe { self.backend.unmap(range) }.expect("a physical block is unmapped");
    }

    /// Gives back the memory behind some pages.
    pub(super) fn release(&self, sparse: &Owned<'_, B>, pages: Range<u64>) {
        // SAFETY: the cases give pages of one mapping, and copies to and from them have ended.
        unsafe { self.backend.release_range(self.range(sparse, pages)) }.expect("memory is given back");
    }

    /// A page of memory that the host sees.
    fn staging(&self) -> Owned<'a, B> {
        let desc = BlockDesc::new(self.page_bytes, self.visible_type_index);
        let block = self.backend.create_block(&desc).expect("a small block");
        Owned::of(self.backend, block, self.page_bytes)
    }

    /// Writes the pattern of `seed` to a page.
    pub(super) fn write(&self, sparse: &Owned<'_, B>, page: u64, seed: u64) {
        let mut staging = self.staging();
        Pattern::new(seed).bytes(0, staging.content());
        let (from, to) = (self.range(&staging, 0..1), self.range(sparse, page..page + 1));
        // SAFETY: both are whole pages of two blocks, which nobody else uses, with memory behind them.
        unsafe { self.backend.copy(from, to) }.expect("a copy");
    }

    pub(super) fn read(&self, sparse: &Owned<'_, B>, page: u64) -> Vec<u8> {
        let mut staging = self.staging();
        staging.fill(0, self.page_bytes, 0xee);
        let (from, to) = (self.range(sparse, page..page + 1), self.range(&staging, 0..1));
        // SAFETY: as in `write`.
        unsafe { self.backend.copy(from, to) }.expect("a copy");
        staging.content().to_vec()
    }

    /// The pattern of `seed` as a page holds it.
    pub(super) fn pattern(&self, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; self.page_bytes as usize];
        Pattern::new(seed).bytes(0, &mut bytes);
        bytes
    }

    /// Checks that a page has the pattern of `seed`.
    #[track_caller]
    pub(super) fn check(&self, sparse: &Owned<'_, B>, page: u64, seed: u64) {
        assert!(self.read(sparse, page) == self.pattern(seed), "page {page} does not hold pattern {seed}");
    }

    /// Checks that every byte of a page is zero.
    #[track_caller]
    pub(super) fn check_zero(&self, sparse: &Owned<'_, B>, page: u64) {
        assert!(self.read(sparse, page).iter().all(|&byte| byte == 0), "page {page} is not zero");
    }
}
