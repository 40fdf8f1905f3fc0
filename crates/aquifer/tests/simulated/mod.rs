//! Managers of simulated devices, for tests of transfers.

#![allow(dead_code, reason = "each test program uses some of these")]

use aquifer::sim::{Access, Kernel, Sim, SimDesc};
use aquifer::{Buffer, Clock, Config, MemoryManager, Queue, Transfers, VirtualCopyThreads};
use std::time::Duration;

pub(crate) const CHUNK_BYTES: u64 = 64 << 10;
/// What each copy thread copies in a second of virtual time.
const THREAD: u64 = 6_000_000_000;

/// As most tests want it: nobody copies but who is told to, and few small chunks to stage through.
pub(crate) fn config(sim: &Sim) -> Config {
    let clock = sim.clone();
    let mut config = Config::default();
    config.reaper = false;
    config.transfers.copy_threads = 0;
    config.transfers.chunk_bytes = CHUNK_BYTES;
    config.transfers.staging_bytes = 6 * CHUNK_BYTES;
    config.clock = Clock::from_fn(move || Duration::from_nanos(clock.now_ns()));
    config
}

pub(crate) fn manager(sim: &Sim) -> MemoryManager<Sim> {
    MemoryManager::with_config(sim.clone(), config(sim)).unwrap()
}

pub(crate) fn discrete() -> (Sim, MemoryManager<Sim>) {
    let sim = Sim::new(SimDesc::discrete());
    let manager = manager(&sim);
    (sim, manager)
}

/// Bytes that differ from chunk to chunk, and from seed to seed.
pub(crate) fn pattern(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|index| (index % 251) as u8 ^ (index >> 12) as u8 ^ seed).collect()
}

/// As [`pattern`], and no byte is 0, so that what has arrived in a buffer of zeros can be counted.
pub(crate) fn nonzero(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index % 255) as u8 + 1).collect()
}

/// How many bytes of `values` have arrived in a buffer that held zeros; the others are as they were.
pub(crate) fn arrived(found: &[u8], values: &[u8]) -> u64 {
    assert!(found.iter().zip(values).all(|(&found, &value)| found == 0 || found == value));
    found.iter().filter(|&&found| found != 0).count() as u64
}

/// What a buffer of device memory holds.
pub(crate) fn content(transfers: &Transfers<Sim>, buffer: &Buffer<Sim>) -> Vec<u8> {
    let mut bytes = vec![0; buffer.size_bytes() as usize];
    transfers.download(buffer, 0, &mut bytes).unwrap();
    bytes
}

/// A buffer of device memory that holds zeros.
pub(crate) fn zeroed(manager: &MemoryManager<Sim>, bytes: usize) -> Buffer<Sim> {
    manager.allocate_with(bytes as u64, aquifer::MemoryOptions::ZEROED).unwrap()
}

/// Copies as three threads would, until `is_done` or until nothing more is under way.
pub(crate) fn run(sim: &Sim, transfers: &Transfers<Sim>, is_done: impl FnMut() -> bool) {
    VirtualCopyThreads::new(sim, 3, THREAD).run(transfers, is_done);
}

/// Keeps a queue busy for so long. It touches nothing.
pub(crate) fn busy(sim: &Sim, queue: &Queue<Sim>, ns: u64) {
    sim.launch(queue.raw(), Kernel::new(Vec::<Access>::new()).lasting(ns)).unwrap();
}

/// Drops the last handle and checks that nothing is left of it.
pub(crate) fn close(sim: &Sim, manager: MemoryManager<Sim>) {
    manager.settle();
    manager.trim();
    let statistics = manager.statistics();
    assert_eq!(statistics.transfers.staging_bytes, 0);
    assert_eq!(statistics.allocated.current, 0, "everything is freed");
    drop(manager);
    sim.assert_no_violations();
    assert_eq!(sim.books().live_blocks, 0);
}
