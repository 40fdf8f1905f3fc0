//! Allocations that wait for memory: served in order, under any executor, and never left behind.

#![cfg(any(target_os = "linux", target_os = "macos"))]

mod common;

use aquifer_core::{AllocateAsync, Buffer, CancelToken, Clock, Config, ErrorKind, MemoryManager, Queue};
use aquifer_host::Host;
use aquifer_sim::{Kernel, Sim};
use aquifer_testkit::{Random, assert_balanced, config_with_budget};
use common::{
    LONG, MIB, block_on, host, host_manager, poll_once, quiet_config, refused, sim, sim_manager, until,
};
use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

const BUDGET: u64 = 16 * MIB;

/// A manager that nobody looks after but the test, by a clock of its own.
fn by_hand() -> (MemoryManager<Host>, Clock) {
    let mut config = quiet_config(BUDGET);
    let clock = Clock::manual();
    config.clock = clock.clone();
    (MemoryManager::with_config(host(), config).expect("a budget"), clock)
}

#[derive(Default)]
struct Bell(AtomicU64);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A waiting allocation, and whether it has been woken.
struct Waiting {
    future: AllocateAsync<Host>,
    bell: Arc<Bell>,
}

impl Waiting {
    fn new(future: AllocateAsync<Host>) -> Self {
        Self { future, bell: Arc::default() }
    }

    fn poll(&mut self) -> Poll<Result<Buffer<Host>, aquifer_core::Error>> {
        let waker: Waker = Arc::clone(&self.bell).into();
        std::pin::Pin::new(&mut self.future).poll(&mut Context::from_waker(&waker))
    }

    fn is_woken(&self) -> bool {
        self.bell.0.swap(0, Ordering::SeqCst) > 0
    }
}

#[track_caller]
fn served<T, E: std::fmt::Debug>(answer: Poll<Result<T, E>>) -> T {
    match answer {
        Poll::Ready(answer) => answer.expect("it is served"),
        Poll::Pending => panic!("it still waits"),
    }
}

fn line(manager: &MemoryManager<Host>, sizes: &[u64]) -> Vec<Waiting> {
    sizes
        .iter()
        .map(|&bytes| {
            let mut waiting = Waiting::new(manager.allocate_async(bytes));
            assert!(waiting.poll().is_pending());
            waiting
        })
        .collect()
}

#[test]
fn first_come_first_served() {
    let (manager, _) = by_hand();
    let all = manager.allocate(BUDGET).expect("there is room");
    let mut waiting = line(&manager, &[MIB; 5]);
    drop(all);
    // Whoever polls out of turn waits on.
    assert!(waiting[3].poll().is_pending());
    let mut buffers = Vec::new();
    while !waiting.is_empty() {
        assert!(waiting[0].is_woken(), "{} are left, and nobody is woken", waiting.len());
        assert!(waiting.iter().skip(1).all(|later| !later.is_woken()));
        buffers.push(served(waiting[0].poll()));
        waiting.remove(0);
    }
}

#[test]
fn a_large_request_is_not_starved_by_small_ones() {
    let (manager, _) = by_hand();
    let mut held: Vec<_> = (0..16).map(|_| manager.allocate(MIB).expect("there is room")).collect();
    let mut large = line(&manager, &[12 * MIB]);
    let mut small = Vec::new();
    for freed in 1..=12 {
        drop(held.pop());
        small.extend(line(&manager, &[MIB, MIB]));
        assert!(small.iter_mut().all(|small| small.poll().is_pending()), "it passed who came before it");
        if freed < 12 {
            assert!(large[0].poll().is_pending());
        }
    }
    assert!(large[0].is_woken());
    let large = served(large[0].poll());
    drop(large);
    for small in &mut small[..12] {
        drop(served(small.poll()));
    }
}

#[test]
fn deadlines_pass_by_the_managers_clock() {
    let (manager, clock) = by_hand();
    let all = manager.allocate(BUDGET).expect("there is room");
    let timeouts = [50, 20, 0].map(Duration::from_millis);
    let mut waiting: Vec<_> =
        timeouts.map(|timeout| Waiting::new(manager.allocate_async(MIB).timeout(timeout))).into();
    let mut last = waiting.pop().expect("three");
    assert!(waiting.iter_mut().all(|waiting| waiting.poll().is_pending()));
    let Poll::Ready(answer) = last.poll() else { panic!("it had no time") };
    refused(answer, ErrorKind::TimedOut);
    clock.advance(Duration::from_millis(19));
    manager.settle();
    assert!(!waiting[1].is_woken());
    clock.advance(Duration::from_millis(1));
    manager.settle();
    assert!(waiting[1].is_woken(), "though it is not its turn");
    // The first in line is asked to look again each time, in case.
    assert!(waiting[0].is_woken() && waiting[0].poll().is_pending());
    let Poll::Ready(answer) = waiting[1].poll() else { panic!("its time is over") };
    refused(answer, ErrorKind::TimedOut);
    clock.advance(Duration::from_millis(30));
    manager.settle();
    let Poll::Ready(answer) = waiting[0].poll() else { panic!("its time is over") };
    let error = refused(answer, ErrorKind::TimedOut);
    let report = error.out_of_memory().expect("it says what was there");
    assert_eq!((report.requested_bytes, report.budget_bytes), (MIB, BUDGET));
    drop(all);
}

#[test]
fn what_can_never_be_is_no_reason_to_wait() {
    let (manager, _) = by_hand();
    let all = manager.allocate(BUDGET).expect("there is room");
    refused(manager.allocate_async(BUDGET + 1).wait(), ErrorKind::CanNeverFit);
    refused(manager.allocate_async(0).wait(), ErrorKind::InvalidArgument);
    // Nor when somebody waits already.
    let _waiting = line(&manager, &[MIB]);
    refused(manager.allocate_async(100).timeout(Duration::ZERO).wait(), ErrorKind::TimedOut);
    drop(all);
}

/// Who is dropped, or cancelled and dropped, after any number of polls leaves nothing behind.
#[test]
fn cancelled_at_every_poll() {
    for polls in 0..5 {
        for by_token in [false, true] {
            let (manager, _) = by_hand();
            let all = manager.allocate(BUDGET).expect("there is room");
            let token = CancelToken::new();
            let mut first = Waiting::new(manager.allocate_async(MIB).cancel_token(&token));
            assert!((0..polls).all(|_| first.poll().is_pending()));
            let mut second = line(&manager, &[MIB]).remove(0);
            let mut all = Some(all);
            if polls % 2 == 1 {
                // With a wake-up that it has not answered.
                all = None;
                assert!(first.is_woken());
            }
            if by_token {
                token.cancel();
                assert_eq!(first.is_woken(), polls > 0);
                if polls > 0 {
                    let Poll::Ready(answer) = first.poll() else { panic!("it is cancelled") };
                    refused(answer, ErrorKind::Cancelled);
                }
            }
            drop(first);
            drop(all);
            assert!(second.is_woken(), "the turn was not passed on after {polls} polls");
            drop(served(second.poll()));
            drop(second);
            assert_eq!(manager.statistics().live_count(), 0);
            assert_balanced(&manager.statistics());
            // Nobody is in line any more: caches are as free as ever.
            drop(manager.allocate_async(BUDGET).wait().expect("all is free"));
        }
    }
}

#[test]
fn a_cancelled_thread_stops_waiting() {
    let manager = host_manager(BUDGET);
    let all = manager.allocate(BUDGET).expect("there is room");
    let token = CancelToken::new();
    let threads: Vec<_> = (0..4)
        .map(|index| {
            let future = manager.allocate_async(MIB).cancel_token(&token);
            thread::spawn(move || if index % 2 == 0 { future.wait() } else { block_on(future) })
        })
        .collect();
    token.cancel();
    for thread in threads {
        refused(thread.join().expect("no thread panics"), ErrorKind::Cancelled);
    }
    drop(all);
    refused(
        {
            let all = manager.allocate(BUDGET).expect("there is room");
            let answer = manager.allocate_async(MIB).cancel_token(&token).wait();
            drop(all);
            answer
        },
        ErrorKind::Cancelled,
    );
}

/// By a clock of its own: the next is let past exactly when the head has been silent for so long.
#[test]
fn a_forgotten_head_steps_aside() {
    let (manager, clock) = by_hand();
    let all = manager.allocate(BUDGET).expect("there is room");
    let mut waiting = line(&manager, &[MIB, MIB, MIB]);
    std::mem::forget(waiting.remove(0));
    std::mem::forget(waiting.remove(0));
    drop(all);
    for _ in 0..2 {
        manager.settle();
        clock.advance(aquifer_core::ANSWER_WITHIN - Duration::from_millis(1));
        manager.settle();
        assert!(!waiting[0].is_woken());
        clock.advance(Duration::from_millis(1));
        manager.settle();
    }
    assert!(waiting[0].is_woken());
    drop(served(waiting[0].poll()));
    drop(waiting);
    // They are out of the line: others do not even wait.
    let mut next = Waiting::new(manager.allocate_async(BUDGET));
    drop(served(next.poll()));
}

/// The same with the reaper and real time.
#[test]
fn forgotten_futures_do_not_block_others() {
    let manager = host_manager(BUDGET);
    let all = manager.allocate(BUDGET).expect("there is room");
    for polls in 0..4 {
        let mut future = manager.allocate_async(MIB);
        assert!((0..polls).all(|_| poll_once(&mut future).is_pending()));
        std::mem::forget(future);
    }
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let future = manager.allocate_async(BUDGET / 2);
            thread::spawn(move || block_on(future).map(drop))
        })
        .collect();
    drop(all);
    for thread in threads {
        thread.join().expect("no thread panics").expect("the forgotten ones step aside");
    }
}

#[test]
fn a_waker_that_panics_is_only_its_own_loss() {
    /// Elsewhere than on the thread that polls: there a panic would come out of its own poll.
    struct Panics(thread::ThreadId);
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            assert_eq!(thread::current().id(), self.0, "this waker panics, as it should");
        }
    }
    let manager = host_manager(BUDGET);
    let all = manager.allocate(BUDGET).expect("there is room");
    let waker = Arc::new(Panics(thread::current().id())).into();
    let mut first = manager.allocate_async(MIB).timeout(Duration::from_millis(5));
    assert!(std::pin::Pin::new(&mut first).poll(&mut Context::from_waker(&waker)).is_pending());
    let other = manager.allocate_async(MIB).timeout(Duration::from_millis(20));
    refused(block_on(other), ErrorKind::TimedOut);
    let last = manager.allocate_async(MIB);
    let thread = thread::spawn(move || block_on(last).map(drop));
    drop(all);
    thread.join().expect("no thread panics").expect("it is served");
    drop(first);
}

/// What queues still use comes to who waits for it when they have passed.
#[test]
fn memory_comes_from_queues_to_who_waits() {
    let manager = host_manager(BUDGET);
    let queue = manager.queue().expect("a queue");
    for is_at_home in [true, false] {
        let gate = common::Gate::before(&queue);
        let buffer = if is_at_home { queue.allocate(BUDGET) } else { manager.allocate(BUDGET) };
        let buffer = buffer.expect("there is room");
        buffer.record_use(&queue).expect("a queue of its manager");
        drop(buffer);
        let elsewhere = manager.queue().expect("another queue");
        let future = manager.allocate_async(BUDGET).on(&elsewhere);
        let thread = thread::spawn(move || block_on(future).map(drop));
        refused(manager.allocate_async(BUDGET).timeout(Duration::from_millis(5)).wait(), ErrorKind::TimedOut);
        gate.open();
        thread.join().expect("no thread panics").expect("the queue has passed");
        queue.synchronize(LONG).expect("the queue goes on");
    }
}

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
