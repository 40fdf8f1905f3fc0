//! What the tests of the simulation share.

#![allow(dead_code, reason = "each test binary uses a part")]

use aquifer_backend::{Backend, BlockDesc, BlockRange, Command, CopyEnd, Error, Ticket};
use aquifer_sim::{Costs, Kernel, KernelTimes, QueueId, Sim, SimBlock, SimDesc, SimQueue, ViolationKind};
use std::sync::Arc;

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
    // SAFETY: no memory is behind the block; where a test destroys it too early it is to be found out.
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
    // SAFETY: the device moves no bytes, so that nothing can go wrong but what it reports.
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
