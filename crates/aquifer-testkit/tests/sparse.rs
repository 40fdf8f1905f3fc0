//! The sparse cases of the conformance suite on a device that does by hand what others have a page table for: the cases
//! themselves are under test, and each must find the bug that it is there for.

#![cfg(any(target_os = "linux", target_os = "macos"))]
#![allow(unsafe_code)]

use aquifer_backend::{
    Backend, BlockDesc, BlockRange, Capabilities, Command, DestroyError, Error, ErrorKind, HeapBudget,
    MemoryFlags, MemoryType, Properties, Ticket,
};
use aquifer_host::{Host, HostBlock};
use aquifer_testkit::conformance::sparse;
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const PAGE_BYTES: u64 = 64 << 10;
/// Where sparse blocks begin: nothing of the host's is there.
const ADDRESS_MIN: u64 = 1 << 60;

/// What the device does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// All pages of a mapping are the physical block's first one.
    MapsFirstPage,
    /// What is mapped second to the same place is ignored.
    KeepsFirst,
    /// Unmapping clears the memory.
    ClearsOnUnmap,
    /// All sparse blocks have the same address.
    OneAddress,
    /// A second memory type can be sparse, which nobody was told.
    Secret,
    /// A memory type is sparse, and nothing can be made of it.
    Boasts,
    /// Physical blocks are not as new as was promised.
    DirtyBlocks,
    /// Released memory stays as it is.
    ReleasesNothing,
    /// All of the physical block is cleared when a part is released.
    ReleasesAll,
    /// New memory is put behind the addresses, and the other addresses of the old memory keep it.
    ReleasesAddresses,
    /// The host sees the memory, and not where it is mapped.
    Hides,
}

struct Paged {
    host: Host,
    properties: Properties,
    next_address: AtomicU64,
    bug: Bug,
    /// Memory for [`Bug::ReleasesAddresses`].
    spare: Mutex<Vec<Box<[u8]>>>,
}

enum Block {
    Ordinary {
        block: HostBlock,
        is_visible: bool,
    },
    Physical(HostBlock),
    /// For each page the memory behind it.
    Sparse {
        address: u64,
        pages: Mutex<Vec<Option<Page>>>,
    },
}

/// Memory of the host.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: NonNull<u8>,
    bytes: u64,
}

/// A page of a physical block.
#[derive(Debug, Clone, Copy)]
struct Page {
    start: NonNull<u8>,
    /// All of the physical block.
    whole: Piece,
}

/// The memory types: one that only the device sees, and the host's.
const SPARSE: usize = 0;

impl Paged {
    fn new(bug: Bug) -> Self {
        let host = Host::new().expect("the system says how much memory it has");
        let mut properties = host.properties().clone();
        properties.capabilities =
            Capabilities::SPARSE_BLOCKS | Capabilities::ZEROED_BLOCKS | Capabilities::RELEASE_RANGE;
        properties.physical_page_bytes = PAGE_BYTES;
        properties.mapping_count_max = 1 << 20;
        properties.mapping_costs = None;
        let of_device = MemoryFlags::DEVICE_LOCAL | MemoryFlags::SPARSE;
        let visible = MemoryFlags::HOST_VISIBLE;
        let flags = match bug {
            Bug::Hides => [of_device | visible, visible],
            Bug::Boasts => [of_device, visible | MemoryFlags::SPARSE],
            _ => [of_device, visible],
        };
        properties.memory_types = flags.map(|flags| MemoryType { heap_index: 0, flags }).into();
        Self { host, properties, next_address: AtomicU64::new(ADDRESS_MIN), bug, spare: Mutex::default() }
    }

    fn check_type(&self, desc: &BlockDesc<'_>, operation: &'static str) -> Result<(), Error> {
        assert!(desc.bytes > 0 && desc.bytes.is_multiple_of(PAGE_BYTES), "{desc:?}");
        if desc.memory_type_index == SPARSE || self.bug == Bug::Secret {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported, operation, "only the first memory type is sparse"))
    }

    /// A block of the host's, whatever the memory type.
    fn memory(&self, desc: &BlockDesc<'_>) -> Result<HostBlock, Error> {
        self.host.create_block(&BlockDesc { memory_type_index: 0, ..*desc })
    }

    /// The memory of a range, piece by piece.
    fn pieces(&self, range: BlockRange<'_, Block>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let (mut offset, end) = (range.offset, range.offset + range.bytes);
        while offset < end {
            let (start, in_piece, bytes) = match range.block {
                Block::Physical(_) => panic!("nobody uses a physical block's own addresses"),
                Block::Ordinary { block, .. } => {
                    (self.host.host_pointer(block).expect("the host sees its own"), offset, end - offset)
                }
                Block::Sparse { pages, .. } => {
                    let page =
                        pages.lock()[(offset / PAGE_BYTES) as usize].expect("a page without memory is used");
                    let in_page = offset % PAGE_BYTES;
                    (page.start, in_page, (PAGE_BYTES - in_page).min(end - offset))
                }
            };
            // SAFETY: the range lies in its block (the caller's duty), or in a page of one that is mapped as a whole.
            pieces.push(Piece { start: unsafe { start.add(in_piece as usize) }, bytes });
            offset += bytes;
        }
        pieces
    }
}

/// The pages of a sparse block that are in a range of whole pages.
fn with_pages(range: BlockRange<'_, Block>, mut each: impl FnMut(usize, &mut Option<Page>)) {
    let Block::Sparse { pages, .. } = range.block else { panic!("only sparse blocks are mapped") };
    assert!(range.offset.is_multiple_of(PAGE_BYTES) && range.bytes.is_multiple_of(PAGE_BYTES), "whole pages");
    let (first, count) = ((range.offset / PAGE_BYTES) as usize, (range.bytes / PAGE_BYTES) as usize);
    pages.lock()[first..first + count].iter_mut().enumerate().for_each(|(index, page)| each(index, page));
}

fn clear(piece: Piece) {
    // SAFETY: the piece is memory of a block that its only user, the case, does not use meanwhile.
    unsafe { piece.start.write_bytes(0, piece.bytes as usize) };
}

// SAFETY: ordinary blocks are the host's, which keeps the contract; sparse ones have no host pointer. With a bug of those above
// the contract is broken on purpose, but only as to which bytes of blocks that exist are read and written.
unsafe impl Backend for Paged {
    type Block = Block;
    type Queue = ();

    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn budget(&self, heap_index: usize) -> Result<HeapBudget, Error> {
        self.host.budget(heap_index)
    }

    fn create_block(&self, desc: &BlockDesc<'_>) -> Result<Block, Error> {
        let flags = self.properties.memory_types[desc.memory_type_index].flags;
        let is_visible = flags.contains(MemoryFlags::HOST_VISIBLE);
        self.memory(desc).map(|block| Block::Ordinary { block, is_visible })
    }

    unsafe fn destroy_block(&self, block: Block) -> Result<(), DestroyError<Block>> {
        match block {
            Block::Ordinary { block, .. } | Block::Physical(block) => {
                // SAFETY: the caller's duty.
                let destroyed = unsafe { self.host.destroy_block(block) };
                destroyed.map_err(|DestroyError { block, error }| DestroyError {
                    block: Block::Physical(block),
                    error,
                })
            }
            Block::Sparse { .. } => Ok(()),
        }
    }

    fn create_sparse_block(&self, desc: &BlockDesc<'_>) -> Result<Block, Error> {
        self.check_type(desc, "create_sparse_block")?;
        let step = if self.bug == Bug::OneAddress { 0 } else { desc.bytes };
        let address = self.next_address.fetch_add(step, Ordering::Relaxed);
        let pages = vec![None; (desc.bytes / PAGE_BYTES) as usize];
        Ok(Block::Sparse { address, pages: Mutex::new(pages) })
    }

    fn create_physical_block(&self, desc: &BlockDesc<'_>) -> Result<Block, Error> {
        self.check_type(desc, "create_physical_block")?;
        let block = self.memory(desc)?;
        if self.bug == Bug::DirtyBlocks {
            let all = BlockRange { block: &block, offset: desc.bytes - 1, bytes: 1 };
            // SAFETY: the block is new.
            unsafe { self.host.fill(all, 1) }?;
        }
        Ok(Block::Physical(block))
    }

    unsafe fn map(&self, sparse: BlockRange<'_, Block>, physical: &Block) -> Result<(), Error> {
        let Block::Physical(block) = physical else { panic!("only physical blocks are mapped") };
        let start = self.host.host_pointer(block).expect("the host sees its own");
        let whole = Piece { start, bytes: sparse.bytes };
        with_pages(sparse, |index, page| {
            assert!(page.is_none() || self.bug == Bug::KeepsFirst, "a page is mapped twice");
            let index = if self.bug == Bug::MapsFirstPage { 0 } else { index };
            // SAFETY: the block is as long as the range (the caller's duty).
            let start = unsafe { start.add(index * PAGE_BYTES as usize) };
            page.get_or_insert(Page { start, whole });
        });
        Ok(())
    }

    unsafe fn unmap(&self, sparse: BlockRange<'_, Block>) -> Result<(), Error> {
        if self.bug == Bug::ClearsOnUnmap {
            self.pieces(sparse).into_iter().for_each(clear);
        }
        if self.bug != Bug::KeepsFirst {
            with_pages(sparse, |_, page| assert!(page.take().is_some(), "what is not mapped is unmapped"));
        }
        Ok(())
    }

    unsafe fn release_range(&self, range: BlockRange<'_, Block>) -> Result<(), Error> {
        let of_page = |page: &Page| Piece { start: page.start, bytes: PAGE_BYTES };
        with_pages(range, |_, page| {
            let page = page.as_mut().expect("only memory is released");
            match self.bug {
                Bug::ReleasesNothing => (),
                Bug::ReleasesAll => clear(page.whole),
                Bug::ReleasesAddresses => {
                    let mut new = vec![0; PAGE_BYTES as usize].into_boxed_slice();
                    page.start = NonNull::from(&mut new[0]);
                    self.spare.lock().push(new);
                }
                _ => clear(of_page(page)),
            }
        });
        Ok(())
    }

    fn host_pointer(&self, block: &Block) -> Option<NonNull<u8>> {
        match block {
            Block::Ordinary { block, is_visible: true } => self.host.host_pointer(block),
            Block::Ordinary { .. } | Block::Physical(_) | Block::Sparse { .. } => None,
        }
    }

    unsafe fn copy(
        &self,
        source: BlockRange<'_, Block>,
        destination: BlockRange<'_, Block>,
    ) -> Result<(), Error> {
        let mut bytes = Vec::with_capacity(source.bytes as usize);
        for piece in self.pieces(source) {
            // SAFETY: the piece lies in a block that nobody writes meanwhile (the caller's duty).
            bytes.extend_from_slice(unsafe {
                std::slice::from_raw_parts(piece.start.as_ptr(), piece.bytes as usize)
            });
        }
        let mut rest = &bytes[..];
        for piece in self.pieces(destination) {
            let part;
            (part, rest) = rest.split_at(piece.bytes as usize);
            // SAFETY: the piece lies in a block that nobody touches meanwhile (the caller's duty).
            unsafe { std::slice::from_raw_parts_mut(piece.start.as_ptr(), part.len()) }.copy_from_slice(part);
        }
        Ok(())
    }

    unsafe fn fill(&self, destination: BlockRange<'_, Block>, value: u8) -> Result<(), Error> {
        for piece in self.pieces(destination) {
            // SAFETY: as in `copy`.
            unsafe { piece.start.write_bytes(value, piece.bytes as usize) };
        }
        Ok(())
    }

    fn device_address(&self, block: &Block) -> Option<u64> {
        match block {
            Block::Ordinary { block, .. } | Block::Physical(block) => self.host.device_address(block),
            Block::Sparse { address, .. } => Some(*address),
        }
    }

    fn create_queue(&self) -> Result<(), Error> {
        no_queues("create_queue")
    }

    unsafe fn enqueue(
        &self,
        _queue: &(),
        _command: Command<'_, Block>,
        _ticket: &Arc<Ticket>,
    ) -> Result<(), Error> {
        no_queues("enqueue")
    }

    unsafe fn signal(&self, _queue: &(), _value: u64) -> Result<(), Error> {
        no_queues("signal")
    }

    fn completed(&self, _queue: &()) -> Result<u64, Error> {
        no_queues("completed")
    }

    fn wait(&self, _queue: &(), _value: u64, _timeout: Duration) -> Result<bool, Error> {
        no_queues("wait")
    }

    fn wait_on_queue(&self, _queue: &(), _other: &(), _value: u64) -> Result<(), Error> {
        no_queues("wait_on_queue")
    }
}

fn no_queues<T>(operation: &'static str) -> Result<T, Error> {
    Err(Error::new(ErrorKind::Unsupported, operation, "this device has no queues"))
}

type Case = fn(fn() -> Paged);

#[test]
fn the_cases_pass_on_a_device_that_keeps_the_contract() {
    let make = || Paged::new(Bug::None);
    sparse::there_are_sparse_blocks_exactly_where_promised(make);
    sparse::sparse_blocks_have_addresses_of_their_own(make);
    sparse::memory_is_seen_through_several_parts(make);
    sparse::physical_blocks_of_all_sizes_are_apart(make);
    sparse::unmapped_memory_keeps_what_it_holds(make);
    sparse::sparse_blocks_are_destroyed_mapped_or_not(make);
    sparse::new_physical_blocks_are_zero(make);
    sparse::released_memory_comes_back_zeroed(make);
    sparse::the_host_sees_mapped_memory(make);
}

#[test]
fn the_cases_find_a_device_that_does_not() {
    let broken: [(Case, fn() -> Paged); 13] = [
        (sparse::there_are_sparse_blocks_exactly_where_promised, || Paged::new(Bug::Secret)),
        (sparse::there_are_sparse_blocks_exactly_where_promised, || Paged::new(Bug::Boasts)),
        (sparse::sparse_blocks_have_addresses_of_their_own, || Paged::new(Bug::OneAddress)),
        (sparse::memory_is_seen_through_several_parts, || Paged::new(Bug::MapsFirstPage)),
        (sparse::physical_blocks_of_all_sizes_are_apart, || Paged::new(Bug::MapsFirstPage)),
        (sparse::unmapped_memory_keeps_what_it_holds, || Paged::new(Bug::KeepsFirst)),
        (sparse::unmapped_memory_keeps_what_it_holds, || Paged::new(Bug::ClearsOnUnmap)),
        (sparse::sparse_blocks_are_destroyed_mapped_or_not, || Paged::new(Bug::ClearsOnUnmap)),
        (sparse::new_physical_blocks_are_zero, || Paged::new(Bug::DirtyBlocks)),
        (sparse::released_memory_comes_back_zeroed, || Paged::new(Bug::ReleasesNothing)),
        (sparse::released_memory_comes_back_zeroed, || Paged::new(Bug::ReleasesAll)),
        (sparse::released_memory_comes_back_zeroed, || Paged::new(Bug::ReleasesAddresses)),
        (sparse::the_host_sees_mapped_memory, || Paged::new(Bug::Hides)),
    ];
    for (index, (case, make)) in broken.into_iter().enumerate() {
        let outcome = catch_unwind(AssertUnwindSafe(|| case(make)));
        assert!(outcome.is_err(), "case {index} passes on a broken device");
    }
}
