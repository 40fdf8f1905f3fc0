//! Memory made ready before it is needed: the allocations that follow call no driver, and what fails leaves nothing behind.

#![cfg(any(target_os = "linux", target_os = "macos"))]

mod common;

use aquifer_core::{
    BucketLayout, Buffer, Capabilities, Clock, ErrorKind, MemoryManager, MemoryOptions, MemoryPool,
    Statistics,
};
use aquifer_host::Host;
use aquifer_testkit::{
    DriverCall, FaultMode, Faults, Faulty, Pattern, Random, assert_balanced, config_with_budget,
};
use common::{MIB, host};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

type Device = Faulty<Host>;

const BUDGET: u64 = 1 << 30;

fn pool_of(device: Device, layout: BucketLayout, budget_bytes: u64) -> (MemoryPool<Device>, Faults) {
    let faults = device.faults();
    let mut config = config_with_budget(budget_bytes);
    config.layout = layout;
    // Whatever is idle is given back at the first chance.
    config.idle_decay = Some(Duration::ZERO);
    config.clock = Clock::manual();
    let manager = MemoryManager::with_config(device, config).expect("the budget is given");
    (manager.pool(), faults)
}

fn pool(budget_bytes: u64) -> (MemoryPool<Device>, Faults) {
    pool_of(Faulty::new(host()), BucketLayout::default(), budget_bytes)
}

fn check(pool: &MemoryPool<Device>, faults: &Faults) -> Statistics {
    let statistics = pool.manager().statistics();
    assert_balanced(&statistics);
    assert_eq!(statistics.reserved.current, faults.live_bytes());
    assert_eq!(statistics.reserved.peak, faults.live_bytes_peak());
    assert_eq!(statistics.block_count, faults.live_blocks());
    let buckets = pool.buckets();
    assert_eq!(buckets.len(), 22);
    assert_eq!(buckets.iter().map(|bucket| bucket.cached_bytes).sum::<u64>(), statistics.cached_bytes);
    assert_eq!(buckets.iter().map(|bucket| bucket.misses).sum::<u64>(), statistics.miss_count);
    assert_eq!(buckets.iter().map(|bucket| bucket.live_count()).sum::<u64>(), statistics.live_count());
    statistics
}

/// Fails the test if anything calls the driver for memory from now on.
fn forbid_calls(faults: &Faults) {
    faults.fail(0, FaultMode::FromThenOn, ErrorKind::Driver);
}

fn assert_no_calls(faults: &Faults) {
    assert_eq!(faults.calls(), 0, "the driver was called");
    faults.stop();
}

#[test]
fn what_is_preallocated_needs_no_driver_on_any_thread() {
    let sizes = [
        (1, 1000),
        (1000, 700),
        (5000, 100),
        (33_000, 333),
        (1 << 20, 70),
        ((1 << 20) + 1, 50),
        (9 << 20, 5),
        (300 << 20, 2),
    ];
    for layout in [BucketLayout::default(), BucketLayout::power_of_two()] {
        for (bytes, count) in sizes {
            let (pool, faults) = pool_of(Faulty::new(host()), layout, 2 * BUDGET);
            let reserved = pool.preallocate(bytes, count).expect("there is room");
            let statistics = check(&pool, &faults);
            let ready = layout.round_up(bytes).expect("small") * count;
            assert_eq!(reserved, statistics.reserved.current, "{bytes}");
            assert!(reserved >= ready && statistics.cached_bytes == ready, "{bytes}: {statistics:#?}");
            assert_eq!((statistics.allocation_count, statistics.miss_count), (0, 0));

            forbid_calls(&faults);
            let allocate = |count| {
                let one = |_| pool.allocate(bytes).expect("it is ready");
                (0..count).map(one).collect::<Vec<Buffer<Device>>>()
            };
            let mine = allocate(count / 3);
            let mut theirs = thread::scope(|scope| {
                let others =
                    [count / 3, count - 2 * (count / 3)].map(|count| scope.spawn(move || allocate(count)));
                others.map(|other| other.join().expect("it is ready"))
            });
            assert_no_calls(&faults);
            let statistics = check(&pool, &faults);
            assert_eq!((statistics.live_count(), statistics.miss_count), (count, 0));
            theirs[0].clear();
            drop((mine, theirs));
            pool.trim();
            assert_eq!(check(&pool, &faults).reserved.current, 0, "{bytes}");
        }
    }
}

#[test]
fn it_stays_ready_whatever_else_happens() {
    let (pool, faults) = pool(BUDGET);
    let manager = pool.manager();
    // Free room of all kinds, and the same size in use and in caches.
    let mut random = Random::new(11);
    let mut others: Vec<_> =
        (0..400).map(|_| pool.allocate(random.size(MIB)).expect("there is room")).collect();
    others.extend((0..50).map(|_| pool.allocate(3000).expect("there is room")));
    others.retain(|_| random.below(3) > 0);
    pool.preallocate(3000, 5000).expect("there is room");
    pool.preallocate(2 * MIB, 20).expect("there is room");
    check(&pool, &faults);
    for round in 0..200 {
        let bytes = if round % 10 == 0 { random.size(20 * MIB) } else { random.size(MIB) };
        others.push(pool.allocate(bytes).expect("there is room"));
        while others.len() > 100 {
            others.swap_remove(random.below(others.len() as u64) as usize);
        }
        manager.config().clock.advance(Duration::from_secs(1));
        if round % 50 == 0 {
            manager.release_idle();
        }
    }
    others.clear();
    manager.release_idle();
    check(&pool, &faults);
    forbid_calls(&faults);
    let small: Vec<_> = (0..5000).map(|_| pool.allocate(3000).expect("it is ready")).collect();
    let large: Vec<_> = (0..20).map(|_| pool.allocate(2 * MIB).expect("it is ready")).collect();
    assert_no_calls(&faults);
    drop((small, large));
    check(&pool, &faults);
}

#[test]
fn it_serves_queues_tags_and_zeros() {
    let (pool, faults) = pool(BUDGET);
    let manager = pool.manager();
    let queue = manager.queue().expect("the host has queues");
    let tag = manager.tag("ready").expect("a tag");
    pool.preallocate(50_000, 30).expect("there is room");
    let creates = faults.calls_of(DriverCall::Create);
    let on_queue: Vec<_> = (0..10).map(|_| queue.allocate(50_000).expect("it is ready")).collect();
    let options = MemoryOptions::ZEROED.tag(tag);
    let zeroed: Vec<_> =
        (0..20).map(|_| manager.allocate_with(50_000, options).expect("it is ready")).collect();
    assert_eq!(faults.calls_of(DriverCall::Create), creates);
    for buffer in &zeroed {
        assert!(buffer.as_slice::<u8>().expect("the host sees it").iter().all(|&byte| byte == 0));
    }
    drop((on_queue, zeroed));
    check(&pool, &faults);
}

#[test]
fn asking_again_makes_only_what_is_missing() {
    let (pool, faults) = pool(BUDGET);
    assert_eq!(pool.preallocate(10_000, 0).expect("nothing asked for"), 0);
    assert_eq!(check(&pool, &faults).reserved.current, 0);
    let first = pool.preallocate(10 * MIB, 3).expect("there is room");
    assert_eq!(first, 30 * MIB);
    assert_eq!(pool.preallocate(10 * MIB, 3).expect("it is there"), 0);
    assert_eq!(pool.preallocate(10 * MIB - 1, 2).expect("it is there"), 0, "it rounds to the same");
    assert_eq!(pool.preallocate(10 * MIB, 4).expect("there is room"), 10 * MIB);
    assert_eq!(check(&pool, &faults).cached_bytes, 40 * MIB);
    // Room that is free and not ready yet is used first.
    let buffer = pool.allocate(32 * MIB).expect("there is room");
    pool.trim();
    let held = pool.allocate(MIB).expect("there is room");
    drop(buffer);
    assert_eq!(pool.preallocate(2 * MIB, 16).expect("there is room"), 0);
    drop(held);
    assert_eq!(check(&pool, &faults).cached_bytes, 32 * MIB + MIB);
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let (pool, faults) = pool(64 * MIB);
    let held = pool.allocate(40 * MIB).expect("there is room");
    pool.preallocate(MIB, 4).expect("there is room");
    let before = check(&pool, &faults);
    let refused = [
        (0, 1, ErrorKind::InvalidArgument),
        (1, u64::MAX, ErrorKind::InvalidArgument),
        (1, (1 << 24) + 1, ErrorKind::InvalidArgument),
        (u64::MAX, 1, ErrorKind::CanNeverFit),
        (u64::MAX, u64::MAX, ErrorKind::CanNeverFit),
        (65 * MIB, 1, ErrorKind::CanNeverFit),
        (MIB, 65, ErrorKind::CanNeverFit),
        (1000, 1 << 24, ErrorKind::CanNeverFit),
        (21 * MIB, 1, ErrorKind::OutOfMemory),
        (10_000, 4000, ErrorKind::OutOfMemory),
        (3 * MIB, 9, ErrorKind::OutOfMemory),
    ];
    for (bytes, count, kind) in refused {
        let creates = faults.calls_of(DriverCall::Create);
        let error = pool.preallocate(bytes, count).expect_err("it cannot be");
        assert_eq!((error.kind(), error.operation()), (kind, "preallocate"), "{bytes} {count}: {error}");
        assert_eq!(faults.calls_of(DriverCall::Create), creates, "the driver was asked in vain");
        if kind == ErrorKind::OutOfMemory {
            let report = error.out_of_memory().expect("it says what was there");
            assert_eq!((report.requested_bytes, report.budget_bytes), (bytes * count, 64 * MIB));
        }
        assert_eq!(check(&pool, &faults), before, "{bytes} {count}");
    }
    forbid_calls(&faults);
    let ready: Vec<_> = (0..4).map(|_| pool.allocate(MIB).expect("still ready")).collect();
    assert_no_calls(&faults);
    drop((held, ready));
}

#[test]
fn memory_that_is_short_goes_before_what_is_ready() {
    let (pool, faults) = pool(64 * MIB);
    pool.preallocate(4 * MIB, 8).expect("there is room");
    pool.preallocate(300, 1000).expect("there is room");
    let too_much = pool.allocate(65 * MIB).expect_err("more than the budget");
    assert_eq!(too_much.kind(), ErrorKind::CanNeverFit);
    assert!(check(&pool, &faults).cached_bytes > 32 * MIB, "what can never fit takes nothing");
    let all = pool.allocate(64 * MIB).expect("what was ready is given up");
    let statistics = check(&pool, &faults);
    assert_eq!((statistics.cached_bytes, statistics.live_count()), (0, 1));
    assert_eq!(pool.allocate(1).expect_err("nothing is left").kind(), ErrorKind::OutOfMemory);
    drop(all);
    // The budget suffices in granules of the driver's only; idle blocks and free parts of used ones make room.
    let held = pool.allocate(MIB).expect("there is room");
    pool.preallocate(MIB, 63).expect("there is room");
    assert_eq!(check(&pool, &faults).cached_bytes, 63 * MIB);
    assert_eq!(pool.trim(), 63 * MIB);
    drop(held);
}

#[test]
fn a_driver_of_few_blocks_makes_larger_ones() {
    let device = Faulty::with_properties(host(), |properties| properties.block_count_max = 4);
    let (pool, faults) = pool_of(device, BucketLayout::default(), BUDGET);
    pool.preallocate(MIB, 500).expect("four blocks can hold them");
    assert!(check(&pool, &faults).block_count <= 4);
    forbid_calls(&faults);
    let ready: Vec<_> = (0..500).map(|_| pool.allocate(MIB).expect("it is ready")).collect();
    assert_no_calls(&faults);
    drop(ready);

    let device = Faulty::with_properties(host(), |properties| {
        properties.block_bytes_max = 4 * MIB;
        properties.block_count_max = 4;
    });
    let (pool, faults) = pool_of(device, BucketLayout::default(), BUDGET);
    let error = pool.preallocate(MIB, 17).expect_err("four blocks hold sixteen");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert!(error.out_of_memory().is_some());
    assert_eq!(check(&pool, &faults).reserved.current, 0);
    assert_eq!(pool.preallocate(MIB, 16).expect("four blocks hold them"), 16 * MIB);

    let device = Faulty::with_properties(host(), |properties| properties.block_bytes_max = 64 << 10);
    let (pool, faults) = pool_of(device, BucketLayout::default(), BUDGET);
    pool.preallocate(30_000, 10).expect("no block holds a slab, but each a buffer");
    forbid_calls(&faults);
    let ready: Vec<_> = (0..10).map(|_| pool.allocate(30_000).expect("it is ready")).collect();
    assert_no_calls(&faults);
    drop(ready);
}

#[test]
fn what_is_ready_goes_with_its_manager() {
    let (pool, faults) = pool(BUDGET);
    pool.preallocate(700, 5000).expect("there is room");
    let kept = pool.allocate(700).expect("it is ready");
    drop(pool);
    assert!((1..=2).contains(&faults.live_blocks()), "only the block of the live buffer is kept");
    drop(kept);
    assert_eq!(faults.live_blocks(), 0);
}

/// Makes memory ready three times, with call `call_number` failing; how many calls that took.
fn run_with_fault(call_number: u64, mode: FaultMode, kind: ErrorKind, gives_parts_back: bool) -> u64 {
    // There is less room where free parts of used blocks can be given back, so that they must be.
    let budget_bytes = if gives_parts_back { 56 * MIB } else { 72 * MIB };
    let device = Faulty::with_properties(host(), |properties| {
        if !gives_parts_back {
            properties.capabilities = Capabilities::ZEROED_BLOCKS;
        }
        properties.block_bytes_max = 16 * MIB;
    });
    let (pool, faults) = pool_of(device, BucketLayout::default(), budget_bytes);
    let buffers: Vec<_> = (0..16)
        .map(|index| pool.allocate([50_000, 1_500_000, 6_000_000, 4_500_000][index % 4]))
        .collect::<Result<_, _>>()
        .expect("nothing fails yet");
    // Holes and idle blocks are left.
    let mut kept: Vec<Buffer<Device>> = buffers.into_iter().step_by(4).collect();
    let patterns: Vec<Pattern> = (0..4).map(Pattern::new).collect();
    for (pattern, buffer) in patterns.iter().zip(&mut kept) {
        pattern.write(buffer);
    }
    faults.fail(call_number, mode, kind);
    let mut failure_count = 0;
    for (bytes, count) in [(12 * MIB, 4), (20_000, 100), (MIB, 2)] {
        let before = check(&pool, &faults);
        let ready_before = before.cached_bytes;
        match pool.preallocate(bytes, count) {
            Ok(_) => {
                let ready = BucketLayout::default().round_up(bytes).expect("small") * count;
                assert!(check(&pool, &faults).cached_bytes >= ready);
            }
            Err(error) => {
                failure_count += 1;
                assert!(faults.failed_count() > 0, "nothing has failed: {error}");
                assert!(matches!(error.kind(), ErrorKind::Driver | ErrorKind::OutOfMemory), "{error}");
                assert_eq!(error.kind() == ErrorKind::OutOfMemory, error.out_of_memory().is_some());
                let after = check(&pool, &faults);
                assert!(after.cached_bytes <= ready_before, "something is ready that was not");
                if faults.refused_blocks() == 0 {
                    assert!(after.reserved.current <= before.reserved.current, "something is left behind");
                }
            }
        }
        patterns.iter().zip(&kept).for_each(|(pattern, buffer)| pattern.check(buffer));
    }
    if mode == FaultMode::Once {
        assert!(failure_count <= 1, "one failure became {failure_count}");
    }
    let calls = faults.calls();
    drop((kept, pool));
    // The driver may be asked for the last time when the manager goes.
    assert_eq!(faults.live_blocks(), faults.refused_blocks());
    calls
}

#[test]
fn every_call_failing_in_turn_loses_nothing() {
    for mode in [FaultMode::Once, FaultMode::FromThenOn] {
        for kind in [ErrorKind::OutOfMemory, ErrorKind::Driver] {
            for gives_parts_back in [false, true] {
                let run = |call_number| run_with_fault(call_number, mode, kind, gives_parts_back);
                let calls_without_failure = run(u64::MAX);
                assert!(calls_without_failure >= 9, "only {calls_without_failure} calls");
                let mut call_number = 0;
                while run(call_number) > call_number {
                    call_number += 1;
                }
                assert!(call_number >= calls_without_failure, "the sweep ended at call {call_number}");
            }
        }
    }
}

#[test]
fn threads_that_allocate_and_make_ready_at_once_balance() {
    let (pool, faults) = pool(192 * MIB);
    let barrier = Barrier::new(4);
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (pool, barrier) = (&pool, &barrier);
            scope.spawn(move || {
                let mut random = Random::new(thread);
                let mut held = Vec::new();
                barrier.wait();
                for round in 0..300 {
                    match (thread, round % 10) {
                        (0, 0) => drop(pool.preallocate(random.size(64 << 10), random.below(500))),
                        (1, 0) => drop(pool.preallocate(random.size(8 * MIB), random.below(12))),
                        (2, 5) => drop(pool.trim()),
                        _ => held.extend(pool.allocate(random.size(64 << 10))),
                    }
                    if round % 3 == 0 {
                        held.extend(pool.allocate(random.size(4 * MIB)));
                    }
                    while held.len() > 20 {
                        held.swap_remove(random.below(held.len() as u64) as usize);
                    }
                }
            });
        }
    });
    let statistics = check(&pool, &faults);
    assert_eq!(statistics.live_count(), 0);
    // And it can still be relied on.
    pool.preallocate(40_000, 400).expect("there is room");
    forbid_calls(&faults);
    let ready = thread::scope(|scope| {
        let allocate = || (0..100).map(|_| pool.allocate(40_000).expect("it is ready")).collect::<Vec<_>>();
        let threads = [(); 4].map(|()| scope.spawn(allocate));
        threads.map(|thread| thread.join().expect("it is ready"))
    });
    assert_no_calls(&faults);
    drop(ready);
    pool.trim();
    assert_eq!(check(&pool, &faults).reserved.current, 0);
}
