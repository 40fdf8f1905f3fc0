//! Purgeable memory and queues: what a queue may still use is not idle.

mod common;

use aquifer_core::{Buffer, Config, MemoryManager, Policy, Queue};
use aquifer_sim::{Access, Kernel, Sim};
use aquifer_testkit::assert_balanced;
use common::*;

const LONG_NS: u64 = 10_000_000_000;

/// Runs a kernel on a queue that uses a buffer for longer than anybody waits.
fn use_long(sim: &Sim, queue: &Queue<Sim>, buffer: &Buffer<Sim>) {
    let start = buffer.device_address().expect("the device uses addresses");
    let kernel = Kernel::new([Access::write(start, buffer.size_bytes())]).lasting(LONG_NS);
    sim.launch(queue.raw(), kernel).expect("the queue takes a kernel");
}

/// Only blocks with memory of their own are purgeable.
fn blocks(budget_bytes: u64) -> Config {
    let mut config = quiet_config(budget_bytes);
    config.policy = Policy::Blocks;
    config
}

/// Frees a buffer that a queue uses, and checks that it becomes purgeable when the queue is done with it and not before.
fn check_when_done(sim: &Sim, manager: &MemoryManager<Sim>, buffer: Buffer<Sim>) {
    drop(buffer);
    assert_eq!(manager.mark_idle_purgeable(), 0, "work is under way");
    assert_eq!(sim.books().purgeable_bytes, 0);
    assert_balanced(&manager.statistics());
    sim.run_all();
    manager.settle();
    assert_eq!(manager.mark_idle_purgeable(), 10 * MIB);
    assert_eq!(sim.books().purgeable_bytes, 10 * MIB);
    assert_balanced(&manager.statistics());
    sim.assert_no_violations();
}

#[test]
fn memory_at_home_on_a_queue_is_not_purgeable_before_the_queue_has_passed() {
    let sim = sim();
    let manager = sim_manager(&sim, blocks(1 << 30));
    let queue = manager.queue().expect("a queue");
    let buffer = queue.allocate(10 * MIB).expect("there is room");
    use_long(&sim, &queue, &buffer);
    check_when_done(&sim, &manager, buffer);
}

#[test]
fn memory_that_other_queues_use_is_not_purgeable_before_all_have_passed() {
    let sim = sim();
    let manager = sim_manager(&sim, blocks(1 << 30));
    let queues = [(); 3].map(|()| manager.queue().expect("a queue"));
    let buffer = manager.allocate(10 * MIB).expect("there is room");
    for queue in &queues {
        buffer.record_use(queue).expect("one manager");
    }
    use_long(&sim, &queues[1], &buffer);
    check_when_done(&sim, &manager, buffer);
}

#[test]
fn a_block_that_was_purged_serves_a_queue() {
    let sim = sim();
    let manager = sim_manager(&sim, blocks(1 << 30));
    let queue = manager.queue().expect("a queue");
    drop(manager.allocate(10 * MIB).expect("there is room"));
    manager.mark_idle_purgeable();
    assert_eq!((sim.purge(), sim.books().live_bytes), (10 * MIB, 0));
    let buffer = queue.allocate(10 * MIB).expect("it comes back");
    use_long(&sim, &queue, &buffer);
    let statistics = manager.statistics();
    assert_eq!((statistics.purged_block_count, statistics.purged_bytes), (1, 10 * MIB));
    assert_eq!((sim.books().live_blocks, sim.books().live_bytes), (1, 10 * MIB));
    drop(buffer);
    sim.run_all();
    drop((queue, manager));
    assert_eq!(sim.books().live_blocks, 0);
    sim.assert_no_violations();
}

#[test]
fn a_lost_device_makes_nothing_purgeable_and_takes_it_back() {
    let sim = sim();
    let manager = sim_manager(&sim, blocks(1 << 30));
    drop([10, 12].map(|mib| manager.allocate(mib * MIB).expect("there is room")));
    let kept = manager.allocate(10 * MIB).expect("there is room");
    assert_eq!(manager.mark_idle_purgeable(), 12 * MIB);
    drop(kept);
    sim.lose_device();
    assert_eq!(manager.mark_idle_purgeable(), 0);
    assert_balanced(&manager.statistics());
    assert!(manager.allocate(11 * MIB).is_err());
    assert_eq!(manager.trim(), 22 * MIB);
    drop(manager);
    assert_eq!((sim.books().live_blocks, sim.books().purgeable_bytes), (0, 0));
}
