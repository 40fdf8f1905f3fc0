//! What the driver is asked for, and when. Plain allocations use the first memory type only, so the second is allocated from at
//! the level of the shared state.

mod device;
mod pinned;
mod pinned_host;
mod preallocate;
mod pressure;
mod purgeable;
mod sub_budget;
mod views;

use super::shared::{self, Home};
use super::{Config, MemoryManager, MemoryOptions};
use crate::pool::LaneKey;
use crate::range::NO_QUEUE;
use crate::raw::allocation::Allocation;
use aquifer_backend::{Capabilities, Error, ErrorKind};
use device::{Call, Device, Hand};

const MIB: u64 = 1 << 20;

fn manager(device: Device, budget_bytes: u64) -> (MemoryManager<Device>, Hand) {
    let books = device.hand();
    let config = Config { budget_bytes: Some(budget_bytes), ..Config::default() };
    (MemoryManager::with_config(device, config).expect("the configuration is sound"), books)
}

fn plain_manager(block_count_max: u64) -> (MemoryManager<Device>, Hand) {
    manager(Device::new(Capabilities::NONE, block_count_max), 1 << 40)
}

/// Allocates from a memory type.
fn allocate_in(
    manager: &MemoryManager<Device>,
    memory_type: usize,
    bytes: u64,
) -> Result<Allocation<Device>, Error> {
    let lane = manager.owner.pools[memory_type].pool.lane(NO_QUEUE);
    let home = Home { key: LaneKey::new(lane.identity(), memory_type), queue: NO_QUEUE };
    shared::allocate(&manager.owner, home, bytes, MemoryOptions::DEFAULT)
}

fn created(books: &Hand) -> Vec<(u64, Option<String>)> {
    let created = |call: &Call| match call {
        Call::Create { bytes, dedicated_to, .. } => Some((*bytes, dedicated_to.clone())),
        _ => None,
    };
    books.calls().iter().filter_map(created).collect()
}

#[test]
fn a_dedicated_block_is_told_its_tag() {
    let (manager, books) = plain_manager(100);
    let weights = MemoryOptions::DEFAULT.tag(manager.tag("weights").expect("few tags"));
    let buffers = [
        manager.allocate_with(100, weights),
        manager.allocate_with(300 * MIB, weights),
        manager.allocate(257 * MIB),
        // Up to the largest bucket a block serves whoever fits, though it may be made of one request's size.
        manager.allocate_with(256 * MIB, weights),
    ];
    let expected = [(2 * MIB, None), (300 * MIB, Some("weights")), (258 * MIB, Some("")), (256 * MIB, None)];
    let created = created(&books);
    let named: Vec<_> = created.iter().map(|(bytes, name)| (*bytes, name.as_deref())).collect();
    assert_eq!(named, expected);
    assert!(buffers.iter().all(Result::is_ok));
}

#[test]
fn a_batch_of_destroyed_blocks_is_flushed_once() {
    let (manager, books) = plain_manager(100);
    let buffers = [9, 9, 9].map(|mib| manager.allocate(mib * MIB).expect("there is room"));
    assert_eq!(manager.trim(), 0);
    assert_eq!(books.count(&Call::Flush), 0, "nothing was destroyed");
    drop(buffers);
    assert!(manager.trim() > 0);
    assert_eq!(books.calls()[3..], [Call::Destroy, Call::Destroy, Call::Destroy, Call::Flush]);
    drop(manager.allocate(9 * MIB).expect("there is room"));
    books.fail(Call::Destroy, ErrorKind::Driver);
    assert_eq!(manager.trim(), 0);
    assert_eq!(books.count(&Call::Flush), 1, "the driver has destroyed nothing");
    books.heal();
    let last = manager.allocate(20 * MIB).expect("there is room");
    drop(manager);
    assert_eq!(books.count(&Call::Flush), 2, "idle blocks go with the manager");
    drop(last);
    assert_eq!((books.count(&Call::Flush), books.live()), (3, 0));
}

#[test]
fn the_number_of_blocks_is_limited_over_all_memory_types() {
    let (manager, books) = plain_manager(3);
    let block = |memory_type| allocate_in(&manager, memory_type, 9 * MIB);
    let (first, second) = (block(0).expect("one block"), block(0).expect("two blocks"));
    let third = block(1).expect("three blocks");
    for memory_type in [0, 1] {
        let error = block(memory_type).err().expect("a fourth block");
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
        assert!(error.message().contains("there are 3 blocks; the driver makes no more than 3"), "{error}");
    }
    // An idle block of another memory type goes first; one of the own is used.
    drop(third);
    let third = block(0).expect("the idle block goes for another");
    drop(first);
    let larger = allocate_in(&manager, 1, 12 * MIB).expect("as above");
    assert_eq!((books.live(), manager.statistics().block_count), (3, 3));
    assert_eq!(manager.statistics().driver_calls.failed, 0, "the driver was asked for no block too many");
    // What the driver refuses is refunded.
    drop((second, third, larger));
    manager.trim();
    let create = Call::Create { bytes: 10 * MIB, memory_type: 1, dedicated_to: None };
    books.fail(create, ErrorKind::Driver);
    for _ in 0..4 {
        assert_eq!(block(1).err().expect("the driver fails").kind(), ErrorKind::Driver);
    }
    books.heal();
    let all = [block(1), block(0), block(1)];
    assert!(all.iter().all(Result::is_ok));
}

#[test]
fn a_budget_of_two_memory_types_is_given_to_whom_needs_it() {
    let (manager, books) = manager(Device::new(Capabilities::NONE, 100), 32 * MIB);
    drop(allocate_in(&manager, 1, 20 * MIB).expect("there is room"));
    let large = allocate_in(&manager, 0, 20 * MIB).expect("the other memory type's idle block goes");
    assert_eq!((books.live(), manager.statistics().reserved.current), (1, 20 * MIB));
    assert!(allocate_in(&manager, 1, 20 * MIB).is_err());
    drop(large);
}

#[test]
fn threads_that_grow_two_pools_stay_below_the_limit() {
    let (manager, books) = plain_manager(4);
    // The device fails the test if it is asked for a fifth block.
    std::thread::scope(|scope| {
        for memory_type in [0, 1, 0, 1] {
            let manager = &manager;
            scope.spawn(move || {
                for round in 0..200 {
                    let held = [9, 10].map(|mib| allocate_in(manager, memory_type, (mib + round % 3) * MIB));
                    drop(held);
                }
            });
        }
    });
    assert!(books.creates() > 4);
    manager.trim();
    assert_eq!((books.live(), manager.statistics().block_count), (0, 0));
}
