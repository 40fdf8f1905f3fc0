//! What the tests of the simulation share.

#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod aliased;

use aquifer_backend::{Backend, BlockDesc, BlockRange, Command, CopyEnd, Error, Ticket};
use aquifer_sim::{
    Access, Costs, Kernel, KernelMemory, KernelTimes, QueueId, Sim, SimBlock, SimDesc, SimQueue,
    ViolationKind,
};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

pub(crate) const MIB: u64 = 1 << 20;

/// A device where nothing takes time but what a test says.
pub(crate) fn free_desc() -> SimDesc {
    SimDesc { costs: Costs::FREE, kernels: KernelTimes::ZERO, keeps_history: true, ..SimDesc::default() }
}

pub(crate) fn free_sim() -> Sim {
    Sim::new(free_desc())
}

/// A device where copies and fills take a millisecond for each MiB, and nothing else any time.
pub(crate) fn slow_sim() -> Sim {
    let rate = 1000 * MIB;
    let costs = Costs { copy_bytes_per_second: rate, fill_bytes_per_second: rate, ..Costs::FREE };
    Sim::new(SimDesc { costs, ..free_desc() })
}

/// Nanoseconds that such a device needs for so many bytes.
pub(crate) fn slow_ns(bytes: u64) -> u64 {
    bytes * 1_000_000 / MIB
}

pub(crate) fn create(sim: &Sim, bytes: u64) -> SimBlock {
    sim.create_block(&BlockDesc::new(bytes, 0)).unwrap()
}

pub(crate) fn destroy(sim: &Sim, block: SimBlock) {
    // SAFETY: nobody holds a reference to what is behind the block, if anything is; where a test destroys it before queued work
    // has ended, that is to be found out, and the device keeps the memory until then.
    unsafe { sim.destroy_block(block) }.unwrap();
}

pub(crate) fn address(sim: &Sim, block: &SimBlock) -> u64 {
    sim.device_address(block).unwrap()
}

pub(crate) fn range(block: &SimBlock, offset: u64, bytes: u64) -> BlockRange<'_, SimBlock> {
    BlockRange { block, offset, bytes }
}

pub(crate) fn enqueue(
    sim: &Sim,
    queue: &SimQueue,
    command: Command<'_, SimBlock>,
    ticket: &Arc<Ticket>,
) -> Result<(), Error> {
    // SAFETY: the tests keep host memory until it has run or is lost, and write none while a device call runs. Blocks they may
    // destroy too early, which the device reports: it keeps what is behind them for as long as queued work needs it.
    unsafe { sim.enqueue(queue, command, ticket) }
}

pub(crate) fn signal(sim: &Sim, queue: &SimQueue, value: u64) -> Result<(), Error> {
    // SAFETY: the tests' queues are their own.
    unsafe { sim.signal(queue, value) }
}

/// Enqueues a fill that is to be accepted.
pub(crate) fn fill(sim: &Sim, queue: &SimQueue, destination: BlockRange<'_, SimBlock>) -> Arc<Ticket> {
    let ticket = Arc::default();
    enqueue(sim, queue, Command::Fill { destination, value: 0 }, &ticket).unwrap();
    ticket
}

/// Enqueues a copy that is to be accepted.
pub(crate) fn copy(
    sim: &Sim,
    queue: &SimQueue,
    from: BlockRange<'_, SimBlock>,
    to: BlockRange<'_, SimBlock>,
) -> Arc<Ticket> {
    let ticket = Arc::default();
    let source = CopyEnd::Block { block: from.block, offset: from.offset };
    let destination = CopyEnd::Block { block: to.block, offset: to.offset };
    enqueue(sim, queue, Command::Copy { source, destination, bytes: from.bytes }, &ticket).unwrap();
    ticket
}

/// Keeps a queue busy for so long.
pub(crate) fn spin(sim: &Sim, queue: impl Into<QueueId>, ns: u64) {
    sim.launch(queue, Kernel::new([]).lasting(ns)).unwrap();
}

pub(crate) fn kinds(sim: &Sim) -> Vec<ViolationKind> {
    sim.violations().iter().map(|violation| violation.kind).collect()
}

/// The memory type of pinned blocks of [`SimDesc::discrete`].
pub(crate) const PINNED: usize = 1;

/// A device with content and pinned memory where copies over the link take a millisecond for each MiB, from peers half of it, and
/// nothing else any time.
pub(crate) fn linked_desc() -> SimDesc {
    let host_copy_bytes_per_second = 1000 * MIB;
    let peer_copy_bytes_per_second = 2000 * MIB;
    let costs = Costs { host_copy_bytes_per_second, peer_copy_bytes_per_second, ..Costs::FREE };
    SimDesc { costs, kernels: KernelTimes::ZERO, keeps_history: true, ..SimDesc::discrete() }
}

pub(crate) fn linked_sim() -> Sim {
    Sim::new(linked_desc())
}

pub(crate) fn create_pinned(sim: &Sim, bytes: u64) -> SimBlock {
    sim.create_block(&BlockDesc::new(bytes, PINNED)).unwrap()
}

/// What the host sees at the beginning of a block.
pub(crate) fn host_bytes(sim: &Sim, block: &SimBlock, bytes: u64) -> Vec<u8> {
    let start = sim.host_pointer(block).expect("the host sees it");
    // SAFETY: the bytes are the block's, which lives, and no other thread lets the device work.
    unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes as usize) }.to_vec()
}

/// The host writes over the beginning of a block.
pub(crate) fn host_fill(sim: &Sim, block: &SimBlock, bytes: u64, value: u8) {
    let start = sim.host_pointer(block).expect("the host sees it");
    // SAFETY: as above.
    unsafe { start.write_bytes(value, bytes as usize) };
}

/// A place in a block, as the host knows it.
pub(crate) fn host_part<'a>(sim: &Sim, block: &SimBlock, offset: u64) -> CopyEnd<'a, SimBlock> {
    let start = sim.host_pointer(block).expect("the host sees it");
    // SAFETY: the tests name places in the block.
    CopyEnd::Host(unsafe { start.add(offset as usize) })
}

/// Enqueues a copy with any ends, that is to be accepted. Host memory must stay where it is until it has run.
pub(crate) fn copy_ends(
    sim: &Sim,
    queue: &SimQueue,
    source: CopyEnd<'_, SimBlock>,
    destination: CopyEnd<'_, SimBlock>,
    bytes: u64,
) -> Arc<Ticket> {
    let ticket = Arc::default();
    enqueue(sim, queue, Command::Copy { source, destination, bytes }, &ticket).unwrap();
    ticket
}

pub(crate) fn block_end(block: &SimBlock, offset: u64) -> CopyEnd<'_, SimBlock> {
    CopyEnd::Block { block, offset }
}

pub(crate) fn host_end<'a>(bytes: &mut [u8]) -> CopyEnd<'a, SimBlock> {
    CopyEnd::Host(NonNull::new(bytes.as_mut_ptr()).unwrap())
}

/// What a block of any kind holds now.
pub(crate) fn content(sim: &Sim, block: &SimBlock, bytes: u64) -> Vec<u8> {
    let (access, found) = (Access::read(address(sim, block), bytes), Arc::new(Mutex::new(Vec::new())));
    let (queue, copy) = (sim.create_queue().unwrap(), Arc::clone(&found));
    let program = move |memory: &mut KernelMemory| {
        let mut found = copy.lock().unwrap();
        found.resize(bytes as usize, 0xee);
        memory.read(access.address, &mut found);
    };
    // SAFETY: it runs at once, and the tests' host does nothing meanwhile.
    unsafe { sim.launch_program(&queue, Kernel::new([access]).lasting(0), program) }.unwrap();
    std::mem::take(&mut found.lock().unwrap())
}

/// Launches a kernel that reads a block's first bytes and knows what they should be.
pub(crate) fn expect(sim: &Sim, queue: &SimQueue, block: &SimBlock, expected: Vec<u8>) {
    let start = address(sim, block);
    let kernel = Kernel::new([Access::read(start, expected.len() as u64)]).lasting(0);
    // SAFETY: the tests' host writes no block that a kernel still reads.
    unsafe { sim.launch_program(queue, kernel, move |memory| _ = memory.expect(start, &expected)) }.unwrap();
}

pub(crate) fn create_sparse(sim: &Sim, bytes: u64) -> SimBlock {
    sim.create_sparse_block(&BlockDesc::new(bytes, 0)).unwrap()
}

pub(crate) fn create_physical(sim: &Sim, bytes: u64) -> SimBlock {
    sim.create_physical_block(&BlockDesc::new(bytes, 0)).unwrap()
}

pub(crate) fn try_map(sim: &Sim, sparse: BlockRange<'_, SimBlock>, physical: &SimBlock) -> Result<(), Error> {
    // SAFETY: where the range or the block is not what it should be, that is to be found out: the device looks before it maps.
    unsafe { sim.map(sparse, physical) }
}

/// Maps a whole physical block behind a sparse one, at an offset in it.
pub(crate) fn map(sim: &Sim, sparse: &SimBlock, offset: u64, physical: &SimBlock, bytes: u64) {
    try_map(sim, range(sparse, offset, bytes), physical).unwrap();
}

pub(crate) fn try_unmap(sim: &Sim, sparse: BlockRange<'_, SimBlock>) -> Result<(), Error> {
    // SAFETY: as in `try_map`. What queued work finds there when it runs, it finds under the device's lock.
    unsafe { sim.unmap(sparse) }
}

pub(crate) fn unmap(sim: &Sim, sparse: &SimBlock, offset: u64, bytes: u64) {
    try_unmap(sim, range(sparse, offset, bytes)).unwrap();
}
