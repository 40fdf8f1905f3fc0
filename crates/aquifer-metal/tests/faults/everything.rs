//! A program that uses everything, in steps that may fail each by itself.

use crate::common::*;
use aquifer_backend::{Backend as _, BlockDesc, Capabilities, Command, CopyEnd, Error, ErrorKind, Ticket};
use aquifer_core::{CopyDesc, MemoryManager, MemoryOptions};
use aquifer_metal::Metal;
use aquifer_testkit::{MappedMemory, Shelf};
use std::ptr::NonNull;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

/// What a buffer that a queue should have cleared is met with. The core keeps no ticket of such a fill, so nobody is told if the
/// command buffer fails.
pub(crate) const NOT_CLEARED: &str = "a buffer that the queue was to clear is not zero";

type Step = fn(&Metal, &MemoryManager<Metal>) -> Result<(), Error>;

const STEPS: [(&str, Step); 11] = [
    ("allocations", allocations),
    ("zeroed allocations", zeroed),
    ("a round of a queue's copies", round),
    ("two queues", two_queues),
    ("copies that are waited for", waited),
    ("a transfer of the host's", host_transfer),
    ("the program's own work", own_work),
    ("import", import),
    ("sparse blocks", sparse),
    ("purgeable blocks", purgeable),
    ("residency and trim", residency_and_trim),
];

/// Takes all steps, and answers what failed of them.
pub(crate) fn everything(metal: &Metal, manager: &MemoryManager<Metal>) -> Vec<(&'static str, Error)> {
    let failed = |(name, step): (&'static str, Step)| Some((name, step(metal, manager).err()?));
    STEPS.into_iter().filter_map(failed).collect()
}

fn allocations(_: &Metal, manager: &MemoryManager<Metal>) -> Result<(), Error> {
    let tag = manager.tag("weights")?;
    let sizes = [1, 256, 4000, 64 << 10, MIB, 3 * MIB, 9 * MIB];
    let buffers: Result<Vec<_>, _> = sizes.into_iter().map(|bytes| manager.allocate(bytes)).collect();
    let dedicated = manager.allocate_with(20 * MIB, MemoryOptions::DEFAULT.tag(tag))?;
    assert_eq!(dedicated.tag(), tag);
    drop(buffers?);
    Ok(())
}

fn zeroed(_: &Metal, manager: &MemoryManager<Metal>) -> Result<(), Error> {
    let queue = manager.queue()?;
    for bytes in [1000, 300_000] {
        let mut buffer = manager.allocate(bytes)?;
        buffer.fill(0xff)?;
        drop(buffer);
        let on_host = manager.allocate_with(bytes, MemoryOptions::ZEROED)?;
        let on_queue = queue.allocate_with(bytes, MemoryOptions::ZEROED)?;
        let (_, content) = queue.download::<u8>(on_host, 0, bytes as usize)?.wait()?;
        assert!(content == vec![0; bytes as usize]);
        let (_, content) = queue.download::<u8>(on_queue, 0, bytes as usize)?.wait()?;
        if content != vec![0; bytes as usize] {
            return Err(Error::new(ErrorKind::Driver, "zeroed", NOT_CLEARED));
        }
    }
    Ok(())
}

fn round(_: &Metal, manager: &MemoryManager<Metal>) -> Result<(), Error> {
    let queue = manager.queue()?;
    for bytes in [3, 70_001, MIB + 1] {
        let (source, target) = (queue.allocate(bytes)?, queue.allocate(bytes)?);
        let (source, _) = queue.upload(vec![5_u8; bytes as usize], source, 0)?.wait()?;
        let desc = CopyDesc { source_offset: 0, destination_offset: 0, bytes };
        let (source, target) = queue.copy(source, target, desc)?.wait()?;
        drop(queue.fill(source, 6)?);
        let (target, content) = queue.download::<u8>(target, 0, bytes as usize)?.wait()?;
        assert!(content == vec![5; content.len()]);
        drop(queue.fill(target, 7)?.wait()?);
    }
    Ok(())
}

fn two_queues(_: &Metal, manager: &MemoryManager<Metal>) -> Result<(), Error> {
    let (one, other) = (manager.queue()?, manager.queue()?);
    let buffer = manager.allocate(100_000)?;
    buffer.record_use(&one)?;
    let buffer = one.fill(buffer, 1)?.wait()?;
    other.wait_on(&one)?;
    let buffer = other.fill(buffer, 2)?.wait()?;
    one.wait_on(&other)?;
    let (buffer, content) = one.download::<u8>(buffer, 0, 100_000)?.wait()?;
    assert!(content == vec![2; content.len()]);
    drop(buffer);
    one.synchronize(LONG)?;
    other.synchronize(LONG)
}

fn waited(_: &Metal, manager: &MemoryManager<Metal>) -> Result<(), Error> {
    // Above what the processor copies.
    let (mut one, mut other) = (manager.allocate(5 * MIB)?, manager.allocate(5 * MIB)?);
    one.fill(3)?;
    other.copy_from(0, &one, 0, 5 * MIB)?;
    other.copy_from(1, &one, 0, 1001)?;
    one.copy_from(0, &other, 0, 5 * MIB)
}

/// By the backend itself, with memory that the host does not see.
fn host_transfer(metal: &Metal, _: &MemoryManager<Metal>) -> Result<(), Error> {
    let desc = BlockDesc::new(3 * MIB, memory_type(metal, false));
    let block = metal.create_block(&desc)?;
    let outcome = transfer_to(metal, &block);
    // SAFETY: what used it has been waited for.
    unsafe { metal.destroy_block(block) }.expect("Metal takes blocks back");
    outcome
}

fn transfer_to(metal: &Metal, block: &aquifer_metal::MetalBlock) -> Result<(), Error> {
    let queue = metal.create_queue()?;
    let ticket: Arc<Ticket> = ticket();
    let mut bytes = vec![1_u8; 2 * MIB as usize];
    let host = NonNull::new(bytes.as_mut_ptr()).expect("no vector is at null");
    let source = CopyEnd::Host(host);
    let destination = CopyEnd::Block { block, offset: 1 };
    let command = Command::Copy { source, destination, bytes: 2 * MIB };
    // SAFETY: both ends are that long and stay until the queue is idle, which is waited for below.
    unsafe { metal.enqueue(&queue, command, &ticket) }?;
    queue.wait_idle();
    match ticket.take_error() {
        Some(error) => Err(error),
        None => {
            assert_eq!(ticket.done_bytes(), 2 * MIB);
            Ok(())
        }
    }
}

fn own_work(metal: &Metal, _: &MemoryManager<Metal>) -> Result<(), Error> {
    let queue = metal.create_queue()?;
    let ticket = ticket();
    // SAFETY: it uses no memory.
    unsafe { queue.submit(&ticket, |_| {}) }?;
    queue.wait_idle();
    ticket.take_error().map_or(Ok(()), Err)
}

fn import(metal: &Metal, manager: &MemoryManager<Metal>) -> Result<(), Error> {
    let alignment = metal.properties().import_alignment_bytes;
    if alignment == 0 {
        return Ok(());
    }
    let shelf = Shelf::default();
    let memory = || MappedMemory::new(4 * alignment, alignment).lend(0..4 * alignment, &shelf);
    let by_backend = metal.import_block(memory(), memory_type(metal, true));
    let by_manager = manager.import(memory());
    let used = match (by_backend, by_manager) {
        (Ok(block), buffer) => {
            // SAFETY: nobody uses it.
            unsafe { metal.destroy_block(block) }.expect("Metal takes blocks back");
            buffer.map(drop).map_err(|refused| {
                assert_eq!(refused.memory.bytes(), 4 * alignment);
                Error::from(refused)
            })
        }
        (Err(refused), _) => {
            assert_eq!(refused.memory.bytes(), 4 * alignment);
            Err(Error::from(refused))
        }
    };
    // Until then residency sets keep what was destroyed.
    metal.flush_destroyed();
    until("all memory comes back", || shelf.count() == 2);
    used
}

fn sparse(metal: &Metal, _: &MemoryManager<Metal>) -> Result<(), Error> {
    if !metal.properties().capabilities.contains(Capabilities::SPARSE_BLOCKS) {
        return Ok(());
    }
    let page = metal.properties().physical_page_bytes;
    let private = memory_type(metal, false);
    let memory = metal.create_physical_block(&BlockDesc::new(2 * page, private))?;
    let outcome = metal.create_sparse_block(&BlockDesc::new(16 * page, private)).and_then(|sparse| {
        let behind = aquifer_backend::BlockRange { block: &sparse, offset: page, bytes: 2 * page };
        // SAFETY: whole pages, as many as the memory has, where nothing is mapped.
        let mapped = unsafe { metal.map(behind, &memory) };
        // SAFETY: nobody uses what is mapped there.
        let unmapped = mapped.and_then(|()| unsafe { metal.unmap(behind) });
        // SAFETY: nobody uses it.
        unsafe { metal.destroy_block(sparse) }.expect("Metal takes blocks back");
        unmapped
    });
    // SAFETY: nothing of it is mapped any more.
    unsafe { metal.destroy_block(memory) }.expect("Metal takes blocks back");
    outcome
}

fn purgeable(metal: &Metal, _: &MemoryManager<Metal>) -> Result<(), Error> {
    for dedicated_to in [None, Some("cache")] {
        let desc = BlockDesc { dedicated_to, ..BlockDesc::new(MIB, 0) };
        let block = metal.create_block(&desc)?;
        // SAFETY: nobody uses it.
        let outcome = unsafe { metal.make_purgeable(&block) }.and_then(|()| metal.make_nonpurgeable(&block));
        // SAFETY: as above.
        unsafe { metal.destroy_block(block) }.expect("Metal takes blocks back");
        assert!(outcome?, "nothing was taken");
    }
    Ok(())
}

fn residency_and_trim(metal: &Metal, manager: &MemoryManager<Metal>) -> Result<(), Error> {
    let hold = metal.keep_resident()?;
    drop(manager.allocate(9 * MIB)?);
    manager.trim();
    drop(hold);
    Ok(())
}
