//! Several threads on one queue.

use super::owned::Owned;
use super::queues::LONG;
use crate::Random;
use aquifer_backend::{Backend, Command, SyncBackend, Ticket};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// How many threads put work into the queue.
const THREAD_COUNT: u64 = 4;
/// How many commands each of them puts.
const COMMAND_COUNT: u64 = 150;

/// A queue that threads share, and under the lock the last value that was signalled.
struct SharedLine<B: Backend> {
    // Dropped before its backend.
    queue: B::Queue,
    backend: B,
    value: Mutex<u64>,
}

impl<B: Backend> SharedLine<B> {
    fn new(backend: B) -> Arc<Self> {
        let queue = backend.create_queue().expect("a queue");
        Arc::new(Self { queue, backend, value: Mutex::new(0) })
    }

    /// Signals the next value: one thread at a time, as the contract says.
    fn mark(&self) -> u64 {
        let mut value = self.value.lock();
        *value += 1;
        // SAFETY: the queue is the case's own.
        unsafe { self.backend.signal(&self.queue, *value) }.expect("the queue takes a marker");
        *value
    }

    fn reach(&self, value: u64) {
        let is_reached = self.backend.wait(&self.queue, value, LONG).expect("the device is there");
        assert!(is_reached, "{value} is not reached");
    }
}

/// Commands of many threads all run, each thread's in its own order, and the values that they signal cover them.
pub fn a_queue_takes_the_work_of_many_threads<B>(make: impl Fn() -> B)
where
    B: SyncBackend,
{
    let line = SharedLine::new(make());
    let threads: Vec<_> = (0..THREAD_COUNT)
        .map(|thread_index| {
            let line = Arc::clone(&line);
            thread::spawn(move || {
                let mut random = Random::new(thread_index);
                let bytes = line.backend.properties().block_granularity_bytes.min(64 << 10);
                let mut block = Owned::new(&line.backend, 1);
                for index in 1..=COMMAND_COUNT {
                    let ticket = Arc::<Ticket>::default();
                    let command = Command::Fill { destination: block.range(0, bytes), value: index as u8 };
                    // SAFETY: the range lies in the block, which is dropped only after the value below, and nobody else
                    // uses it.
                    unsafe { line.backend.enqueue(&line.queue, command, &ticket) }.expect("it is taken");
                    if random.below(3) == 0 || index == COMMAND_COUNT {
                        line.reach(line.mark());
                        assert_eq!(ticket.done_bytes(), bytes);
                    }
                }
                if line.backend.host_pointer(block.block()).is_some() {
                    let content = &block.content()[..bytes as usize];
                    assert!(content.iter().all(|&byte| byte == COMMAND_COUNT as u8), "thread {thread_index}");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("every thread's work was done");
    }
    let last = *line.value.lock();
    assert_eq!(line.backend.completed(&line.queue).expect("a value"), last);
}

/// Threads that wait, and threads that only look, see values rise and never fall.
pub fn values_are_seen_by_other_threads<B>(make: impl Fn() -> B)
where
    B: SyncBackend,
{
    const LAST: u64 = 300;
    let line = SharedLine::new(make());
    let is_over = Arc::new(AtomicBool::new(false));
    let waiters: Vec<_> = (0..3_u64)
        .map(|thread_index| {
            let line = Arc::clone(&line);
            thread::spawn(move || {
                for value in (1..=LAST).step_by(1 + 2 * thread_index as usize) {
                    line.reach(value);
                    assert!(line.backend.completed(&line.queue).expect("a value") >= value);
                }
            })
        })
        .collect();
    let watcher = {
        let (line, is_over) = (Arc::clone(&line), Arc::clone(&is_over));
        thread::spawn(move || {
            let mut last = 0;
            while !is_over.load(Ordering::Acquire) {
                let now = line.backend.completed(&line.queue).expect("a value");
                assert!(last <= now && now <= LAST, "{now} after {last}");
                last = now;
                thread::yield_now();
            }
        })
    };
    for _ in 0..LAST {
        line.mark();
        thread::yield_now();
    }
    for waiter in waiters {
        waiter.join().expect("every value comes");
    }
    is_over.store(true, Ordering::Release);
    watcher.join().expect("values rise");
}
