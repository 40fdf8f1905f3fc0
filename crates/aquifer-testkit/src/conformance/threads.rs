//! Several threads on one manager.
//!
//! Buffers travel by [`Channel`]s and joins, which thread sanitizers understand.

use super::manager;
use crate::{Channel, Faulty, Pattern, Random, assert_balanced, config_with_budget};
use aquifer_backend::{Backend, SyncBackend};
use aquifer_core::{Buffer, ErrorKind, MemoryManager, MemoryOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

fn cookie<B: Backend>(manager: &MemoryManager<B>, seed: u64, bytes: u64) -> (Pattern, Buffer<B>) {
    let mut buffer = manager.allocate(bytes).expect("there is room");
    let pattern = Pattern::new(seed);
    pattern.write(&mut buffer);
    (pattern, buffer)
}

/// What one thread allocates and another frees is counted right, and its memory is used again.
pub fn buffers_are_freed_on_other_threads<B>(make: impl Fn() -> B)
where
    B: SyncBackend,
{
    let manager = manager(make());
    let channel = Channel::<Option<(Pattern, Buffer<B>)>>::new(64);
    let consumer = {
        let channel = channel.clone();
        thread::spawn(move || {
            while let Some((pattern, buffer)) = channel.receive() {
                pattern.check(&buffer);
            }
        })
    };
    let mut random = Random::new(1);
    for seed in 0..3000 {
        channel.send(Some(cookie(&manager, seed, random.size(20_000))));
    }
    channel.send(None);
    consumer.join().expect("every cookie was whole");
    let statistics = manager.statistics();
    assert_balanced(&statistics);
    assert_eq!((statistics.allocation_count, statistics.live_count()), (3000, 0));
    assert!(statistics.reserved.peak < 64 << 20, "memory was not used again: {}", statistics.reserved.peak);
    manager.trim();
    assert_eq!(manager.statistics().reserved.current, 0);
}

/// A thread that ends leaves its buffers to others, and what its cache kept to the pool.
pub fn threads_may_end_with_buffers_alive<B>(make: impl Fn() -> B)
where
    B: SyncBackend,
{
    let manager = manager(make());
    let mut left = Vec::new();
    for round in 0..8 {
        let manager = manager.clone();
        let mut of_thread = thread::spawn(move || {
            let mut buffers: Vec<_> =
                (0..50).map(|seed| cookie(&manager, seed + 100 * round, 1 + 97 * seed)).collect();
            buffers.truncate(30);
            buffers
        })
        .join()
        .expect("there is room");
        left.append(&mut of_thread);
    }
    let statistics = manager.statistics();
    assert_balanced(&statistics);
    assert_eq!((statistics.allocation_count, statistics.live_count()), (400, 240));
    for (pattern, buffer) in left {
        pattern.check(&buffer);
    }
    assert_eq!(manager.statistics().live_count(), 0);
    manager.trim();
    let statistics = manager.statistics();
    assert_eq!((statistics.reserved.current, statistics.cached_bytes), (0, 0));
}

/// Buffers stay whole when the manager goes before them, on whatever threads they are, and the last one takes the rest.
pub fn the_manager_may_go_first<B>(make: impl Fn() -> B)
where
    B: SyncBackend,
{
    for round in 0..20 {
        let backend = Faulty::new(make());
        let faults = backend.faults();
        let manager = MemoryManager::with_config(backend, config_with_budget(256 << 20)).expect("a budget");
        let threads: Vec<_> = (0..4)
            .map(|index| {
                let manager = manager.clone();
                thread::spawn(move || {
                    let mut random = Random::new(round * 10 + index);
                    let mut buffers: Vec<_> =
                        (0..40).map(|seed| cookie(&manager, seed, random.size(100_000))).collect();
                    drop(manager);
                    while !buffers.is_empty() {
                        let place = random.below(buffers.len() as u64) as usize;
                        let (pattern, buffer) = buffers.swap_remove(place);
                        pattern.check(&buffer);
                    }
                })
            })
            .collect();
        let (pattern, mine) = cookie(&manager, 1, 1000);
        drop(manager);
        for thread in threads {
            thread.join().expect("every cookie was whole");
        }
        pattern.check(&mine);
        assert!(faults.live_blocks() > 0);
        drop(mine);
        assert_eq!(faults.live_blocks(), 0, "the last buffer takes the rest");
    }
}

/// While one thread trims again and again, others allocate and free as ever.
pub fn trimming_disturbs_nobody<B>(make: impl Fn() -> B)
where
    B: SyncBackend,
{
    let manager = manager(make());
    let is_over = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..3)
        .map(|index| {
            let manager = manager.clone();
            thread::spawn(move || {
                let mut random = Random::new(index);
                let mut buffers = Vec::new();
                for seed in 0..1500 {
                    buffers.push(cookie(&manager, seed ^ index << 32, random.size(10_000)));
                    if buffers.len() > 30 {
                        let (pattern, buffer) = buffers.swap_remove(random.below(30) as usize);
                        pattern.check(&buffer);
                    }
                }
                for (pattern, buffer) in buffers {
                    pattern.check(&buffer);
                }
            })
        })
        .collect();
    let trimmer = {
        let (manager, is_over) = (manager.clone(), Arc::clone(&is_over));
        thread::spawn(move || {
            let mut rounds = 0;
            while !is_over.load(Ordering::Acquire) {
                match rounds % 3 {
                    0 => manager.trim(),
                    1 => manager.trim_to(8 << 20),
                    _ => manager.release_idle(),
                };
                let statistics = manager.statistics();
                assert!(statistics.live_count() <= 100, "{}", statistics.live_count());
                rounds += 1;
            }
        })
    };
    for worker in workers {
        worker.join().expect("every cookie was whole");
    }
    is_over.store(true, Ordering::Release);
    trimmer.join().expect("trimming works meanwhile");
    let statistics = manager.statistics();
    assert_balanced(&statistics);
    assert_eq!((statistics.allocation_count, statistics.live_count()), (4500, 0));
    manager.trim();
    assert_eq!(manager.statistics().reserved.current, 0);
}

/// Memory that another thread's cache keeps is found before an allocation fails.
pub fn caches_of_other_threads_are_found<B>(make: impl Fn() -> B)
where
    B: SyncBackend,
{
    let budget_bytes = 16 << 20;
    let manager = MemoryManager::with_config(make(), config_with_budget(budget_bytes)).expect("a budget");
    // Whether to go on, and how many allocations succeeded.
    let (go, done) = (Channel::new(1), Channel::new(1));
    let keeper = {
        let (manager, go, done) = (manager.clone(), go.clone(), done.clone());
        thread::spawn(move || {
            while go.receive() {
                let buffers: Vec<_> = (0..30).map_while(|_| manager.allocate(300_000).ok()).collect();
                let count = buffers.len();
                drop(buffers);
                done.send(count);
            }
        })
    };
    for round in 0..100 {
        go.send(true);
        assert_eq!(done.receive(), 30, "round {round}");
        let all = manager.allocate(budget_bytes);
        let all = all.unwrap_or_else(|error| panic!("round {round}: nothing is live: {error}"));
        assert_eq!(manager.allocate(1).expect_err("all is live").kind(), ErrorKind::OutOfMemory);
        drop(all);
    }
    go.send(false);
    keeper.join().expect("the keeper ends");
}

/// The counts of threads that run, and of those that have ended, add up.
pub fn every_thread_is_counted<B>(make: impl Fn() -> B)
where
    B: SyncBackend,
{
    let manager = manager(make());
    let threads: Vec<_> = (0..5_u64)
        .map(|index| {
            let manager = manager.clone();
            thread::spawn(move || {
                let tag = manager.tag(["even", "odd"][index as usize % 2]).expect("two tags");
                let options = MemoryOptions::DEFAULT.tag(tag);
                let mut kept = Vec::new();
                for round in 0..400 {
                    let buffer = manager.allocate_with(1000 + index, options).expect("there is room");
                    if round % 100 == 0 {
                        kept.push(buffer);
                    }
                }
                kept.push(manager.allocate_with(2 << 20, options).expect("there is room"));
                kept
            })
        })
        .collect();
    let kept: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().expect("there is room")).collect();
    let statistics = manager.statistics();
    assert_balanced(&statistics);
    assert_eq!((statistics.allocation_count, statistics.live_count()), (5 * 401, 25));
    let bytes = |indices: &[u64]| indices.iter().map(|index| 4 * (1000 + index) + (2 << 20)).sum::<u64>();
    assert_eq!(statistics.requested.current, bytes(&[0, 1, 2, 3, 4]));
    let tag = |name: &str| statistics.tags.iter().find(|tag| tag.name == name).map(|tag| tag.current_bytes);
    assert_eq!((tag("even"), tag("odd")), (Some(bytes(&[0, 2, 4])), Some(bytes(&[1, 3]))));
    assert!(
        statistics.requested.peak >= 5 * (2 << 20) && statistics.requested.peak <= statistics.requested.total
    );
    drop(kept);
    assert_eq!(manager.statistics().live_count(), 0);
}
