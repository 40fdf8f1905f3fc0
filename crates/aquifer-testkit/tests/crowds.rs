//! Many that wait at once: threads and tasks, for more than there is. Each is served, or told that its time is over, and no
//! wake-up is lost.

#![cfg(any(target_os = "linux", target_os = "macos"))]

mod common;

use aquifer_core::{Buffer, CancelToken, Config, ErrorKind, MemoryManager, Queue};
use aquifer_host::Host;
use aquifer_sim::{Kernel, Sim};
use aquifer_testkit::{Random, config_with_budget};
use common::{LONG, MIB, block_on, host, host_manager, quiet_config, sim, sim_manager, until};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const BUDGET: u64 = 16 * MIB;

/// Takes part in a crowd: asks, holds, gives back, again and again. How often it was told that its time was over.
struct Crowd<B: aquifer_core::Backend> {
    manager: MemoryManager<B>,
    live_bytes: Arc<AtomicU64>,
    served: Arc<AtomicU64>,
    late: Arc<AtomicU64>,
}

impl<B: aquifer_core::Backend> Clone for Crowd<B> {
    fn clone(&self) -> Self {
        Self {
            manager: self.manager.clone(),
            live_bytes: Arc::clone(&self.live_bytes),
            served: Arc::clone(&self.served),
            late: Arc::clone(&self.late),
        }
    }
}

impl<B: aquifer_core::Backend> Crowd<B> {
    fn new(manager: &MemoryManager<B>) -> Self {
        let manager = manager.clone();
        Self { manager, live_bytes: Arc::default(), served: Arc::default(), late: Arc::default() }
    }

    fn got(&self, answer: Result<Buffer<B>, aquifer_core::Error>) -> Option<Buffer<B>> {
        match answer {
            Ok(buffer) => {
                let bytes = buffer.size_bytes();
                let live = self.live_bytes.fetch_add(bytes, Ordering::SeqCst) + bytes;
                assert!(live <= self.manager.statistics().budget_bytes, "more is out than there is");
                self.served.fetch_add(1, Ordering::SeqCst);
                Some(buffer)
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
                self.late.fetch_add(1, Ordering::SeqCst);
                None
            }
        }
    }

    fn give_back(&self, buffer: Buffer<B>) {
        self.live_bytes.fetch_sub(buffer.size_bytes(), Ordering::SeqCst);
        drop(buffer);
    }

    /// All have been answered, and nothing is left.
    fn check(&self, asked: u64) {
        let (served, late) = (self.served.load(Ordering::SeqCst), self.late.load(Ordering::SeqCst));
        assert_eq!(served + late, asked);
        assert!(served > 0, "nobody was served");
        until("all is settled", || {
            self.manager.settle();
            let statistics = self.manager.statistics();
            (statistics.live_count(), statistics.quarantined_bytes) == (0, 0)
        });
    }
}

/// Sizes whose sum over so many askers is one percent more than the budget.
fn size_at_101_percent(askers: u64) -> u64 {
    (BUDGET * 101).div_ceil(100 * askers)
}

#[test]
fn threads_at_101_percent() {
    const THREADS: u64 = 64;
    const ROUNDS: u64 = 20;
    let sim = sim();
    let manager = sim_manager(&sim, config_with_budget(BUDGET));
    let queue = manager.queue().expect("a queue");
    let crowd = Crowd::new(&manager);
    let bytes = size_at_101_percent(THREADS);
    let threads: Vec<_> = (0..THREADS)
        .map(|index| {
            let (crowd, sim, queue): (_, Sim, Queue<Sim>) = (crowd.clone(), sim.clone(), queue.clone());
            thread::spawn(move || {
                for round in 0..ROUNDS {
                    let timeout = if (index + round) % 8 == 0 { Duration::from_millis(1) } else { LONG };
                    let future = crowd.manager.allocate_async(bytes).timeout(timeout);
                    let future = if index % 3 == 0 { future.on(&queue) } else { future };
                    let answer = if index % 2 == 0 { future.wait() } else { block_on(future) };
                    let Some(buffer) = crowd.got(answer) else {
                        assert_ne!(timeout, LONG, "it waited for a minute");
                        continue;
                    };
                    if index % 4 == 0 {
                        let kernel = Kernel::new([]).lasting(10_000);
                        sim.launch(queue.raw(), kernel).expect("the device is there");
                        buffer.record_use(&queue).expect("a queue of its manager");
                    }
                    thread::yield_now();
                    crowd.give_back(buffer);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("each is answered");
    }
    sim.run_all();
    crowd.check(THREADS * ROUNDS);
    sim.assert_no_violations();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_at_101_percent() {
    const TASKS: u64 = 256;
    const ROUNDS: u64 = 10;
    let manager = host_manager(BUDGET);
    let crowd = Crowd::new(&manager);
    // Classes round up: what counts is that not all fit at once.
    let bytes = size_at_101_percent(TASKS);
    let tasks: Vec<_> = (0..TASKS)
        .map(|index| {
            let crowd = crowd.clone();
            tokio::spawn(async move {
                for round in 0..ROUNDS {
                    let timeout = if (index + round) % 8 == 0 { Duration::from_millis(1) } else { LONG };
                    let answer = crowd.manager.allocate_async(bytes).timeout(timeout).await;
                    let Some(buffer) = crowd.got(answer) else {
                        assert_ne!(timeout, LONG, "it waited for a minute");
                        continue;
                    };
                    tokio::task::yield_now().await;
                    crowd.give_back(buffer);
                }
            })
        })
        .collect();
    for task in tasks {
        tokio::time::timeout(LONG, task).await.expect("it ends").expect("each is answered");
    }
    crowd.check(TASKS * ROUNDS);
}

/// Tasks that are aborted, time out from outside, or lose a race to another branch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_give_up() {
    let manager = host_manager(BUDGET);
    let mut all = Some(manager.allocate(BUDGET).expect("there is room"));
    for round in 0..20_u64 {
        let aborted = tokio::spawn(manager.allocate_async(MIB));
        let waits = tokio::spawn(manager.allocate_async(2 * MIB).timeout(LONG));
        let raced = tokio::time::timeout(Duration::from_millis(round % 3), manager.allocate_async(MIB)).await;
        assert!(raced.is_err(), "there is no memory");
        let token = CancelToken::new();
        tokio::select! {
            _ = manager.allocate_async(MIB).cancel_token(&token) => panic!("there is no memory"),
            () = tokio::time::sleep(Duration::from_millis(1)) => token.cancel(),
        }
        aborted.abort();
        drop(all.take());
        drop(waits.await.expect("no panic").expect("it is next in line"));
        // Aborted before or after it was served: either way nothing is left.
        drop(aborted.await);
        all = Some(manager.allocate_async(BUDGET).timeout(LONG).await.expect("nothing has leaked"));
    }
    drop(all);
    assert_eq!(manager.statistics().live_count(), 0);
}

#[tokio::test]
async fn one_thread_runs_all_tasks() {
    let manager = host_manager(BUDGET);
    let queue = manager.queue().expect("a queue");
    let tasks: Vec<_> = (0..32_u64)
        .map(|index| {
            let (manager, queue) = (manager.clone(), queue.clone());
            tokio::spawn(async move {
                for round in 0..8 {
                    let buffer = manager.allocate_async(MIB).timeout(LONG).await.expect("others give back");
                    let fill = queue.fill(buffer, index as u8).expect("it is begun");
                    let buffer = fill.await.expect("a fill does not fail");
                    let mut found = [0_u8];
                    buffer.read(round, &mut found).expect("in bounds");
                    assert_eq!(u64::from(found[0]), index);
                }
            })
        })
        .collect();
    for task in tasks {
        tokio::time::timeout(LONG, task).await.expect("it ends").expect("no panic");
    }
}

/// Buffers are freed on other threads than those that wait: through their caches and through the quarantine. One lost
/// wake-up and a waiter sleeps for ever, since [`block_on`] polls only when it is woken.
#[test]
fn no_wake_up_is_lost() {
    let seed = 3;
    println!("seed {seed}");
    let manager = host_manager(BUDGET);
    let queue = manager.queue().expect("a queue");
    let freed: Arc<Mutex<Vec<Buffer<Host>>>> = Arc::default();
    let is_over = Arc::new(AtomicBool::new(false));
    let freeing: Vec<_> = (0..3)
        .map(|index| {
            let (freed, is_over, queue) = (Arc::clone(&freed), Arc::clone(&is_over), queue.clone());
            thread::spawn(move || {
                while !is_over.load(Ordering::SeqCst) || !freed.lock().is_empty() {
                    let Some(buffer) = freed.lock().pop() else {
                        thread::yield_now();
                        continue;
                    };
                    if index == 0 {
                        buffer.record_use(&queue).expect("a queue of its manager");
                    }
                    drop(buffer);
                }
            })
        })
        .collect();
    let waiting: Vec<_> = (0..6)
        .map(|index| {
            let (manager, freed, queue) = (manager.clone(), Arc::clone(&freed), queue.clone());
            let mut random = Random::new(seed * 100 + index);
            thread::spawn(move || {
                for _ in 0..300 {
                    // From what caches keep to a third of all there is.
                    let bytes = [1000, 30_000, 300_000, 5 * MIB][random.below(4) as usize];
                    let future = manager.allocate_async(bytes);
                    let future = if random.below(4) == 0 { future.on(&queue) } else { future };
                    let buffer = block_on(future).expect("others give back");
                    freed.lock().push(buffer);
                }
            })
        })
        .collect();
    for thread in waiting {
        thread.join().expect("each is served");
    }
    is_over.store(true, Ordering::SeqCst);
    for thread in freeing {
        thread.join().expect("to free never fails");
    }
    until("all is settled", || {
        // What went home to a queue nobody looks at until it is wanted.
        manager.settle();
        let statistics = manager.statistics();
        (statistics.live_count(), statistics.quarantined_bytes) == (0, 0)
    });
    manager.trim();
    assert_eq!(manager.statistics().reserved.current, 0);
}

/// The same without a reaper: then a free on another thread is all there is to wake by.
#[test]
fn no_wake_up_is_lost_without_a_reaper() {
    let mut config: Config = quiet_config(BUDGET);
    config.in_flight_wait = LONG;
    let manager = MemoryManager::with_config(host(), config).expect("a budget");
    for bytes in [300_000, 3 * MIB, BUDGET / 2] {
        // So that there is room for two of them.
        let rest = (BUDGET / 2 > bytes).then(|| manager.allocate(BUDGET - 4 * bytes).expect("there is room"));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let manager = manager.clone();
                thread::spawn(move || {
                    for _ in 0..100 {
                        let held = block_on(manager.allocate_async(bytes)).expect("others give back");
                        thread::yield_now();
                        drop(held);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("each is served");
        }
        drop(rest);
        manager.trim();
        assert_eq!(manager.statistics().reserved.current, 0);
    }
}
