//! A cache hit allocates nothing on the host.
//!
//! Nor does it take a lock or read a clock, which a reading of the way shows: `Pool::allocate_cached` and the first
//! lines of `Pool::free` reach `ThreadCache::allocate` and `ThreadCache::free`, which use atomics of their own.

#![cfg(any(target_os = "linux", target_os = "macos"))]

mod counting;

use aquifer_core::{Limits, MemoryManager, MemoryOptions};
use aquifer_host::Host;
use aquifer_testkit::config_with_budget;
use counting::calls_of;
use std::hint::black_box;

const PAIRS: u64 = 10_000;
const SIZES: [u64; 4] = [1, 4096, 65_536, 1 << 20];

fn manager() -> MemoryManager<Host> {
    let host = Host::new().expect("the system says how much memory it has");
    MemoryManager::with_config(host, config_with_budget(1 << 30)).expect("a budget")
}

/// Pairs of one size, after one that warms the cache: no host allocation, and every one a hit.
fn assert_pairs_are_free(manager: &MemoryManager<Host>, options: MemoryOptions) {
    for bytes in SIZES {
        drop(manager.allocate_with(bytes, options).expect("there is room"));
        let before = manager.statistics();
        let calls = calls_of(|| {
            for _ in 0..PAIRS {
                drop(black_box(manager.allocate_with(black_box(bytes), options).expect("there is room")));
            }
        });
        assert_eq!(calls, 0, "host allocations in {PAIRS} pairs of {bytes} bytes");
        let after = manager.statistics();
        assert_eq!(after.allocation_count - before.allocation_count, PAIRS);
        assert_eq!(after.driver_calls, before.driver_calls);
    }
}

#[test]
fn the_counter_counts() {
    assert_eq!(calls_of(|| drop(black_box(Box::new(1)))), 2);
}

#[test]
fn pairs_allocate_nothing() {
    assert_pairs_are_free(&manager(), MemoryOptions::DEFAULT);
}

#[test]
fn pairs_with_a_tag_allocate_nothing() {
    let manager = manager();
    let tag = manager.tag("warm").expect("a tag");
    assert_pairs_are_free(&manager, MemoryOptions::DEFAULT.tag(tag));
}

#[test]
fn pairs_in_sub_budgets_allocate_nothing() {
    let manager = manager();
    let limits = Limits::NONE.hard_bytes(1 << 21).soft_bytes(1 << 20).hard_count(1);
    let outer = manager.sub_budget("outer", limits).expect("a new name");
    let inner = outer.sub_budget("inner", limits).expect("a new name");
    assert_pairs_are_free(&manager, MemoryOptions::DEFAULT.tag(inner.own_tag()));
    assert_eq!((outer.usage().peak_bytes, outer.usage().live_count), (1 << 20, 0));
}

#[test]
fn pairs_of_several_managers_allocate_nothing() {
    let managers = [manager(), manager(), manager()];
    let pair = |index: u64| {
        let manager = &managers[(index % 3) as usize];
        drop(black_box(manager.allocate(black_box(1000)).expect("there is room")));
    };
    (0..3).for_each(pair);
    assert_eq!(calls_of(|| (0..PAIRS).for_each(pair)), 0);
}

#[test]
fn a_few_live_buffers_allocate_nothing() {
    let manager = manager();
    let mut live = [const { None }; 2];
    let mut round = |index: u64| live[(index % 2) as usize] = manager.allocate(black_box(5000)).ok();
    // The first rounds fill the class's stack, which grows as it is used.
    (0..100).for_each(&mut round);
    assert_eq!(calls_of(|| (0..PAIRS).for_each(round)), 0);
}
