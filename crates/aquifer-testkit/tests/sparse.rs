//! The sparse cases of the conformance suite on a device that does by hand what others have a page table for: the cases
//! themselves are under test, and each must find the bug that it is there for.

#![cfg(any(target_os = "linux", target_os = "macos"))]
#![allow(unsafe_code)]

use aquifer_backend::{
    Backend, BlockDesc, BlockRange, Capabilities, Command, DestroyError, Error, ErrorKind, HeapBudget,
    Properties, Ticket,
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
    /// All mappings are of the block's first page.
    IgnoresOffset,
    /// What is mapped second to the same place is ignored.
    KeepsFirst,
    /// Unmapping clears the memory.
    ClearsOnUnmap,
    /// All sparse blocks have the same address.
    OneAddress,
}

struct Paged {
    host: Host,
    properties: Properties,
    next_address: AtomicU64,
    bug: Bug,
}

enum Block {
    Ordinary(HostBlock),
    /// For each page the memory behind it.
    Sparse {
        address: u64,
        pages: Mutex<Vec<Option<Piece>>>,
    },
}

/// Memory of the host.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: NonNull<u8>,
    bytes: u64,
}

impl Paged {
    fn new(bug: Bug) -> Self {
        let host = Host::new().expect("the system says how much memory it has");
        let mut properties = host.properties().clone();
        properties.capabilities = Capabilities::SPARSE_BLOCKS;
        properties.physical_page_bytes = PAGE_BYTES;
        Self { host, properties, next_address: AtomicU64::new(ADDRESS_MIN), bug }
    }

    /// The memory of a range, piece by piece.
    fn pieces(&self, range: BlockRange<'_, Block>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let (mut offset, end) = (range.offset, range.offset + range.bytes);
        while offset < end {
            let (start, in_piece, rest) = match range.block {
                Block::Ordinary(block) => {
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
            pieces.push(Piece { start: unsafe { start.add(in_piece as usize) }, bytes: rest });
            offset += rest;
        }
        pieces
    }
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
        self.host.create_block(desc).map(Block::Ordinary)
    }

    unsafe fn destroy_block(&self, block: Block) -> Result<(), DestroyError<Block>> {
        match block {
            Block::Ordinary(block) => {
                // SAFETY: the caller's duty.
                unsafe { self.host.destroy_block(block) }.map_err(|DestroyError { block, error }| {
                    DestroyError { block: Block::Ordinary(block), error }
                })
            }
            Block::Sparse { .. } => Ok(()),
        }
    }

    fn create_sparse_block(&self, desc: &BlockDesc<'_>) -> Result<Block, Error> {
        assert!(desc.bytes > 0 && desc.bytes.is_multiple_of(PAGE_BYTES), "{desc:?}");
        let step = if self.bug == Bug::OneAddress { 0 } else { desc.bytes };
        let address = self.next_address.fetch_add(step, Ordering::Relaxed);
        let pages = vec![None; (desc.bytes / PAGE_BYTES) as usize];
        Ok(Block::Sparse { address, pages: Mutex::new(pages) })
    }

    unsafe fn map(&self, sparse: BlockRange<'_, Block>, memory: BlockRange<'_, Block>) -> Result<(), Error> {
        let (Block::Sparse { pages, .. }, Block::Ordinary(_)) = (sparse.block, memory.block) else {
            panic!("memory of an ordinary block is mapped into a sparse one");
        };
        for offset in [sparse.offset, sparse.bytes, memory.offset, memory.bytes] {
            assert!(offset.is_multiple_of(PAGE_BYTES), "{offset} is not whole pages");
        }
        assert_eq!(sparse.bytes, memory.bytes);
        let offset = if self.bug == Bug::IgnoresOffset { 0 } else { memory.offset };
        let [whole] = self.pieces(BlockRange { offset, ..memory })[..] else { panic!("one piece") };
        let pages = &mut pages.lock()[(sparse.offset / PAGE_BYTES) as usize..];
        for (index, page) in pages.iter_mut().take((sparse.bytes / PAGE_BYTES) as usize).enumerate() {
            let is_kept = self.bug == Bug::KeepsFirst;
            assert!(page.is_none() || is_kept, "a page is mapped twice");
            // SAFETY: within the piece.
            let start = unsafe { whole.start.add(index * PAGE_BYTES as usize) };
            page.get_or_insert(Piece { start, bytes: PAGE_BYTES });
        }
        Ok(())
    }

    unsafe fn unmap(&self, sparse: BlockRange<'_, Block>) -> Result<(), Error> {
        if self.bug == Bug::KeepsFirst {
            return Ok(());
        }
        if self.bug == Bug::ClearsOnUnmap {
            // SAFETY: nobody uses the range.
            unsafe { self.fill(sparse, 0) }?;
        }
        let Block::Sparse { pages, .. } = sparse.block else { panic!("only sparse blocks are mapped") };
        let first = (sparse.offset / PAGE_BYTES) as usize;
        pages.lock()[first..first + (sparse.bytes / PAGE_BYTES) as usize].fill(None);
        Ok(())
    }

    fn host_pointer(&self, block: &Block) -> Option<NonNull<u8>> {
        match block {
            Block::Ordinary(block) => self.host.host_pointer(block),
            Block::Sparse { .. } => None,
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
            Block::Ordinary(block) => self.host.device_address(block),
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
    sparse::memory_is_seen_through_two_parts(make);
    sparse::unmapped_memory_keeps_what_it_holds(make);
    sparse::sparse_blocks_are_destroyed_mapped_or_not(make);
}

#[test]
fn the_cases_find_a_device_that_does_not() {
    let broken: [(Case, fn() -> Paged); 5] = [
        (sparse::sparse_blocks_have_addresses_of_their_own, || Paged::new(Bug::OneAddress)),
        (sparse::memory_is_seen_through_two_parts, || Paged::new(Bug::IgnoresOffset)),
        (sparse::unmapped_memory_keeps_what_it_holds, || Paged::new(Bug::KeepsFirst)),
        (sparse::unmapped_memory_keeps_what_it_holds, || Paged::new(Bug::ClearsOnUnmap)),
        (sparse::sparse_blocks_are_destroyed_mapped_or_not, || Paged::new(Bug::ClearsOnUnmap)),
    ];
    for (index, (case, make)) in broken.into_iter().enumerate() {
        let outcome = catch_unwind(AssertUnwindSafe(|| case(make)));
        assert!(outcome.is_err(), "case {index} passes on a broken device");
    }
}
