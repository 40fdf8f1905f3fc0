//! Sparse blocks of the backend itself: addresses, and the memory of other blocks behind them.
//!
//! What lies behind addresses is written and read by copies from and to memory that the host sees.

use super::owned::Owned;
use crate::Pattern;
use aquifer_backend::{Backend, BlockDesc, BlockRange, Capabilities, ErrorKind, MemoryFlags};

/// A backend and a memory type that its sparse blocks can have.
struct Device<'a, B> {
    backend: &'a B,
    memory_type_index: usize,
    visible_type_index: usize,
    page_bytes: u64,
}

impl<'a, B: Backend> Device<'a, B> {
    fn new(backend: &'a B) -> Self {
        let properties = backend.properties();
        let page_bytes = properties.physical_page_bytes;
        let types = 0..properties.memory_types.len();
        let is_visible =
            |index: &usize| properties.memory_types[*index].flags.contains(MemoryFlags::HOST_VISIBLE);
        let visible_type_index =
            types.clone().find(is_visible).expect("the case needs memory that the host sees");
        let can_be_sparse =
            |index: &usize| match backend.create_sparse_block(&BlockDesc::new(page_bytes, *index)) {
                Ok(block) => {
                    drop(Owned::of(backend, block, page_bytes));
                    true
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                    false
                }
            };
        let memory_type_index = types.clone().find(can_be_sparse).expect("sparse blocks were promised");
        Self { backend, memory_type_index, visible_type_index, page_bytes }
    }

    fn desc(&self, pages: u64) -> BlockDesc<'static> {
        BlockDesc::new(pages * self.page_bytes, self.memory_type_index)
    }

    fn sparse(&self, pages: u64) -> Owned<'a, B> {
        let desc = self.desc(pages);
        let block = self.backend.create_sparse_block(&desc).expect("a few addresses");
        Owned::of(self.backend, block, desc.bytes)
    }

    /// An ordinary block.
    fn memory(&self, pages: u64) -> Owned<'a, B> {
        let desc = self.desc(pages);
        let block = self.backend.create_block(&desc).expect("a small block");
        Owned::of(self.backend, block, desc.bytes)
    }

    fn page<'b>(&self, block: &'b Owned<'_, B>, page: u64) -> BlockRange<'b, B::Block> {
        block.range(page * self.page_bytes, self.page_bytes)
    }

    /// Puts a page of an ordinary block behind one of a sparse block.
    fn map(&self, sparse: (&Owned<'_, B>, u64), memory: (&Owned<'_, B>, u64)) {
        let (sparse, memory) = (self.page(sparse.0, sparse.1), self.page(memory.0, memory.1));
        // SAFETY: both are whole pages in their blocks; the cases map nothing twice behind the same page, and keep the memory's
        // block until the page is unmapped or its block destroyed.
        unsafe { self.backend.map(sparse, memory) }.expect("a page is mapped");
    }

    fn unmap(&self, sparse: &Owned<'_, B>, page: u64) {
        // SAFETY: it is a whole page of a sparse block, and copies to and from it have ended.
        unsafe { self.backend.unmap(self.page(sparse, page)) }.expect("a page is unmapped");
    }

    /// A page of memory that the host sees.
    fn staging(&self) -> Owned<'a, B> {
        let desc = BlockDesc::new(self.page_bytes, self.visible_type_index);
        let block = self.backend.create_block(&desc).expect("a small block");
        Owned::of(self.backend, block, self.page_bytes)
    }

    fn write(&self, block: &Owned<'_, B>, page: u64, seed: u64) {
        let mut staging = self.staging();
        Pattern::new(seed).bytes(0, staging.content());
        // SAFETY: both are whole pages of two blocks, which nobody else uses, with memory behind them.
        unsafe { self.backend.copy(self.page(&staging, 0), self.page(block, page)) }.expect("a copy");
    }

    fn read(&self, block: &Owned<'_, B>, page: u64) -> Vec<u8> {
        let mut staging = self.staging();
        staging.fill(0, self.page_bytes, 0xee);
        // SAFETY: as in `write`.
        unsafe { self.backend.copy(self.page(block, page), self.page(&staging, 0)) }.expect("a copy");
        staging.content().to_vec()
    }

    #[track_caller]
    fn check(&self, block: &Owned<'_, B>, page: u64, seed: u64) {
        let mut expected = vec![0; self.page_bytes as usize];
        Pattern::new(seed).bytes(0, &mut expected);
        assert!(self.read(block, page) == expected, "page {page} does not hold pattern {seed}");
    }
}

/// Sparse blocks can be made where the device says so, and nowhere else.
pub fn there_are_sparse_blocks_exactly_where_promised<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let properties = backend.properties();
    let page_bytes = properties.physical_page_bytes;
    if properties.capabilities.contains(Capabilities::SPARSE_BLOCKS) {
        assert!(page_bytes.is_power_of_two(), "{page_bytes}");
        assert_eq!(page_bytes % properties.block_granularity_bytes, 0);
        return;
    }
    assert_eq!(page_bytes, 0);
    let desc = BlockDesc::new(properties.block_granularity_bytes, 0);
    let error = backend.create_sparse_block(&desc).err().expect("they were not promised");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

/// Sparse blocks have addresses like others, apart from all others, and need no memory.
pub fn sparse_blocks_have_addresses_of_their_own<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let device = Device::new(&backend);
    let blocks = [device.sparse(4), device.memory(2), device.sparse(1), device.sparse(64), device.memory(1)];
    let alignment = backend.properties().alignment_bytes_min;
    let mut ends = Vec::new();
    for block in &blocks {
        let Some(address) = backend.device_address(block.block()) else { return };
        assert_eq!(address % alignment, 0);
        assert_eq!(backend.device_address(block.block()), Some(address), "it is the same each time");
        ends.push((address, block.bytes));
    }
    ends.sort_unstable();
    assert!(ends.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{ends:x?}");
}

/// One page of memory behind two pages of addresses: what is written through one is read through the other.
pub fn memory_is_seen_through_two_parts<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let device = Device::new(&backend);
    let memory = device.memory(2);
    let mut sparse = device.sparse(4);
    device.map((&sparse, 0), (&memory, 1));
    device.map((&sparse, 3), (&memory, 1));
    device.map((&sparse, 2), (&memory, 0));
    device.write(&sparse, 0, 1);
    device.write(&sparse, 2, 2);
    device.check(&sparse, 3, 1);
    device.check(&sparse, 0, 1);
    device.check(&memory, 1, 1);
    device.check(&memory, 0, 2);
    let page_bytes = device.page_bytes;
    sparse.fill(3 * page_bytes, page_bytes, 0x5a);
    assert!(device.read(&sparse, 0).iter().all(|&byte| byte == 0x5a));
    device.check(&sparse, 2, 2);
    // Two pages side by side, in the order of the addresses.
    device.write(&memory, 0, 3);
    device.write(&memory, 1, 4);
    device.check(&sparse, 2, 3);
    device.check(&sparse, 3, 4);
    sparse.fill(2 * page_bytes + page_bytes / 2, page_bytes, 0x77);
    let (first, second) = (device.read(&memory, 0), device.read(&memory, 1));
    let half = page_bytes as usize / 2;
    assert!(first[half..].iter().chain(&second[..half]).all(|&byte| byte == 0x77), "across two pages");
    assert!(first[..half].iter().chain(&second[half..]).any(|&byte| byte != 0x77), "and no further");
}

/// What is unmapped stays with its own block, and other memory may take its place.
pub fn unmapped_memory_keeps_what_it_holds<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let device = Device::new(&backend);
    let (memory, other) = (device.memory(2), device.memory(1));
    let sparse = device.sparse(3);
    for round in 0..4 {
        device.map((&sparse, 1), (&memory, round % 2));
        device.write(&sparse, 1, 10 + round);
        device.unmap(&sparse, 1);
        device.check(&memory, round % 2, 10 + round);
        device.map((&sparse, 1), (&other, 0));
        device.write(&sparse, 1, 20 + round);
        device.check(&memory, round % 2, 10 + round);
        device.check(&other, 0, 20 + round);
        device.unmap(&sparse, 1);
    }
    // The same memory behind two sparse blocks, and then behind one.
    let second = device.sparse(1);
    device.map((&sparse, 2), (&memory, 0));
    device.map((&second, 0), (&memory, 0));
    device.unmap(&sparse, 2);
    device.write(&second, 0, 30);
    device.check(&memory, 0, 30);
}

/// A sparse block may be destroyed with memory behind it, which is then as usable as before.
pub fn sparse_blocks_are_destroyed_mapped_or_not<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let device = Device::new(&backend);
    let memory = device.memory(3);
    for round in 0..5 {
        drop(device.sparse(2));
        let sparse = device.sparse(8);
        for page in 0..3 {
            device.map((&sparse, 2 * page), (&memory, page));
            device.write(&sparse, 2 * page, 10 * round + page);
        }
        device.unmap(&sparse, 2);
        drop(sparse);
        (0..3).for_each(|page| device.check(&memory, page, 10 * round + page));
    }
}
