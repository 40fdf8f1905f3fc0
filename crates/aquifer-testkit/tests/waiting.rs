//! Allocations that wait for memory: served in order, under any executor, and never left behind.

#![cfg(any(target_os = "linux", target_os = "macos"))]

mod common;

use aquifer_core::{AllocateAsync, Buffer, CancelToken, Clock, ErrorKind, MemoryManager};
use aquifer_host::Host;
use aquifer_testkit::assert_balanced;
use common::{LONG, MIB, block_on, host, host_manager, poll_once, quiet_config, refused};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
