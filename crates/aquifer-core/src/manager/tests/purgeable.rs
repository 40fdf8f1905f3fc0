//! Purgeable blocks: what is counted, what is used again, and what goes.

use super::*;
use crate::clock::Clock;
use std::time::Duration;

pub(super) fn purgeable_manager(budget_bytes: u64) -> (MemoryManager<Device>, Hand) {
    manager(Device::new(Capabilities::PURGEABLE | Capabilities::ZEROED_BLOCKS, 100), budget_bytes)
}

/// Makes a block of so many MiB, and leaves it idle.
pub(super) fn leave_idle(manager: &MemoryManager<Device>, mib: &[u64]) {
    let held: Vec<_> = mib.iter().map(|mib| manager.allocate(mib * MIB).expect("there is room")).collect();
    drop(held);
}

#[track_caller]
pub(super) fn assert_sums(manager: &MemoryManager<Device>, books: &Hand) {
    let statistics = manager.statistics();
    let parts = statistics.allocated.current
        + statistics.cached_bytes
        + statistics.quarantined_bytes
        + statistics.free_bytes;
    assert_eq!(parts, statistics.reserved.current);
    assert!(statistics.purgeable_bytes <= statistics.free_bytes);
    assert_eq!(statistics.block_count, books.live() as u64);
    assert_eq!(manager.owner.block_count.count(), statistics.block_count);
    assert_eq!(statistics.purgeable_bytes > 0, books.purgeable() > 0);
}

#[test]
fn idle_blocks_become_purgeable_and_come_back() {
    let (manager, books) = purgeable_manager(1 << 40);
    let live = manager.allocate(20 * MIB).expect("there is room");
    leave_idle(&manager, &[10, 12, 14]);
    assert_eq!(manager.mark_idle_purgeable(), 36 * MIB);
    assert_eq!((manager.statistics().purgeable_bytes, books.purgeable()), (36 * MIB, 3));
    assert_eq!(manager.statistics().fragmentation_percentage(), 0.0);
    assert_sums(&manager, &books);
    assert_eq!(manager.mark_idle_purgeable(), 0, "they are already");
    let creates = books.creates();
    let buffer = manager.allocate(11 * MIB).expect("there is room");
    let statistics = manager.statistics();
    assert_eq!((books.creates(), statistics.purgeable_bytes), (creates, 24 * MIB), "the smallest that fits");
    assert_eq!((statistics.recovered_block_count, statistics.recovered_bytes), (1, 12 * MIB));
    assert_eq!((statistics.purged_block_count, statistics.purged_bytes), (0, 0));
    assert_eq!(
        (statistics.miss_count, statistics.driver_calls.purge),
        (5, 4),
        "the driver was called for it"
    );
    assert_sums(&manager, &books);
    books.purge();
    let other = manager.allocate(14 * MIB).expect("there is room");
    let statistics = manager.statistics();
    assert_eq!((statistics.recovered_bytes, statistics.purged_bytes), (26 * MIB, 14 * MIB));
    assert_eq!((statistics.recovered_block_count, statistics.purged_block_count), (2, 1));
    let report = manager.report().to_string();
    assert!(report.contains("of free: 10.00 MiB purgeable"), "{report}");
    drop((live, buffer, other));
    drop(manager);
    assert_eq!(books.live(), 0);
}

#[test]
fn without_the_capability_nothing_happens() {
    let (manager, books) = plain_manager(100);
    leave_idle(&manager, &[10]);
    assert_eq!((manager.mark_idle_purgeable(), books.purgeable()), (0, 0));
}

#[test]
fn what_comes_back_is_not_fresh() {
    let (manager, books) = purgeable_manager(1 << 40);
    leave_idle(&manager, &[10]);
    manager.mark_idle_purgeable();
    let zeroed = manager.allocate_with(10 * MIB, MemoryOptions::ZEROED).expect("there is room");
    assert_eq!((books.count(&Call::Fill), books.creates()), (1, 1), "it is cleared");
    // The device promises that new blocks are zero.
    let fresh = manager.allocate_with(12 * MIB, MemoryOptions::ZEROED).expect("there is room");
    assert_eq!((books.count(&Call::Fill), books.creates()), (1, 2));
    drop((zeroed, fresh));
}

#[test]
fn a_small_request_takes_a_large_block_only_if_there_can_be_no_other() {
    let (manager, books) = purgeable_manager(1 << 40);
    leave_idle(&manager, &[500]);
    manager.mark_idle_purgeable();
    let small = manager.allocate(3 * MIB).expect("there is room");
    assert_eq!((books.purgeable(), books.creates()), (1, 2), "a new block costs less");
    drop(small);

    let (manager, books) = purgeable_manager(500 * MIB);
    leave_idle(&manager, &[500]);
    manager.mark_idle_purgeable();
    let small = manager.allocate(3 * MIB).expect("there is room");
    assert_eq!((books.purgeable(), books.creates()), (0, 1), "the budget holds no new block");
    drop(small);
}

#[test]
fn purgeable_blocks_go_before_a_request_fails() {
    let (manager, books) = purgeable_manager(32 * MIB);
    leave_idle(&manager, &[10, 12]);
    manager.mark_idle_purgeable();
    let large = manager.allocate(30 * MIB).expect("they go");
    assert_eq!((books.live(), books.count(&Call::MakeNonpurgeable)), (1, 0));
    assert_sums(&manager, &books);
    drop(large);

    // The driver has less than the budget says.
    let (manager, books) = purgeable_manager(1 << 40);
    leave_idle(&manager, &[10, 12]);
    manager.mark_idle_purgeable();
    let create = Call::Create { bytes: 30 * MIB, memory_type: 0, dedicated_to: None };
    books.fail(create, ErrorKind::OutOfMemory);
    assert_eq!(manager.allocate(30 * MIB).expect_err("no memory").kind(), ErrorKind::OutOfMemory);
    assert_eq!((books.live(), manager.statistics().purgeable_bytes), (0, 0));

    // All blocks that there may be are there.
    let device = Device::new(Capabilities::PURGEABLE, 2);
    let (manager, books) = super::manager(device, 1 << 40);
    leave_idle(&manager, &[10, 12]);
    manager.mark_idle_purgeable();
    let large = manager.allocate(30 * MIB).expect("one goes");
    assert_eq!((books.live(), books.purgeable()), (2, 1));
    drop(large);
}

#[test]
fn growth_gives_purgeable_blocks_back_before_idle_ones() {
    let (manager, books) = purgeable_manager(1 << 40);
    leave_idle(&manager, &[30, 30]);
    manager.mark_idle_purgeable();
    leave_idle(&manager, &[32]);
    assert_eq!((books.live(), books.purgeable()), (3, 2));
    // More than was ever used and a little, so that something must go.
    let large = manager.allocate(50 * MIB).expect("there is room");
    assert_eq!((books.live(), books.purgeable()), (2, 0));
    assert_eq!(manager.statistics().reserved.current, 82 * MIB);
    drop(large);
}

#[test]
fn trimming_gives_purgeable_blocks_back_first() {
    let (manager, books) = purgeable_manager(1 << 40);
    let held = manager.allocate(40 * MIB).expect("there is room");
    leave_idle(&manager, &[10, 12]);
    manager.mark_idle_purgeable();
    leave_idle(&manager, &[30]);
    assert_eq!(manager.trim_to(75 * MIB), 22 * MIB);
    assert_eq!((books.purgeable(), manager.statistics().reserved.current), (0, 70 * MIB));
    manager.mark_idle_purgeable();
    assert_eq!(manager.trim(), 30 * MIB);
    assert_sums(&manager, &books);
    drop(held);
}

#[test]
fn age_makes_blocks_purgeable_and_then_destroys_them() {
    let device = Device::new(Capabilities::PURGEABLE, 100);
    let (books, clock) = (device.hand(), Clock::manual());
    let config = Config {
        budget_bytes: Some(1 << 40),
        purgeable_after: Some(Duration::from_secs(1)),
        idle_decay: Some(Duration::from_secs(3)),
        clock: clock.clone(),
        ..Config::default()
    };
    let manager = MemoryManager::with_config(device, config).expect("the configuration is sound");
    let after = |seconds| {
        clock.advance(Duration::from_secs(seconds));
        (manager.release_idle(), books.live(), books.purgeable())
    };
    leave_idle(&manager, &[10]);
    assert_eq!(after(0), (0, 1, 0));
    assert_eq!(after(1), (0, 1, 1));
    leave_idle(&manager, &[30]);
    assert_eq!(after(0), (0, 2, 1));
    assert_eq!(after(2), (10 * MIB, 1, 1));
    assert_eq!(after(1), (30 * MIB, 0, 0));
}

#[test]
fn what_the_driver_refuses_changes_nothing() {
    let (manager, books) = purgeable_manager(1 << 40);
    leave_idle(&manager, &[10]);
    books.fail(Call::MakePurgeable, ErrorKind::Driver);
    assert_eq!(manager.mark_idle_purgeable(), 0);
    assert_sums(&manager, &books);
    let buffer = manager.allocate(10 * MIB).expect("it is idle as before");
    assert_eq!(books.creates(), 1);
    drop(buffer);

    // A block that cannot come back is destroyed.
    books.heal();
    manager.mark_idle_purgeable();
    books.fail(Call::MakeNonpurgeable, ErrorKind::OutOfMemory);
    let buffer = manager.allocate(10 * MIB).expect("a new block");
    assert_eq!((books.creates(), books.live()), (2, 1));
    assert_eq!(manager.statistics().recovered_block_count, 0);
    assert_sums(&manager, &books);
    drop(buffer);
}

#[test]
fn a_purgeable_block_that_the_driver_keeps_stays_purgeable() {
    let (manager, books) = purgeable_manager(1 << 40);
    leave_idle(&manager, &[10]);
    manager.mark_idle_purgeable();
    books.fail(Call::Destroy, ErrorKind::Driver);
    assert_eq!(manager.trim(), 0);
    assert_eq!((manager.statistics().purgeable_bytes, books.purgeable()), (10 * MIB, 1));
    assert_sums(&manager, &books);
    books.heal();
    let buffer = manager.allocate(10 * MIB).expect("it comes back");
    assert_eq!(books.creates(), 1);
    drop(buffer);
    assert_eq!(manager.trim(), 10 * MIB);
}
