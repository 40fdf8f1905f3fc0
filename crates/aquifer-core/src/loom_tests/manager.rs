//! Models of whole managers: who destroys the shared state, and when.
#![expect(clippy::arc_with_non_send_sync, reason = "loom's cells are not `Sync`, nor do its threads ask")]

use super::backend::{CountingBackend, Counts};
use super::explore;
use crate::{BucketLayout, Buffer, Clock, Config, MemoryManager, Queue};
use loom::thread;
use std::sync::Arc;

pub(super) const BYTES: u64 = 256;

/// A manager whose blocks have whole multiples of `granularity` bytes, without a reaper.
pub(super) fn manager(granularity: u64, budget_bytes: u64) -> (MemoryManager<CountingBackend>, Arc<Counts>) {
    let counts = Arc::new(Counts::default());
    let config = Config {
        layout: BucketLayout::power_of_two(),
        budget_bytes: Some(budget_bytes),
        clock: Clock::manual(),
        reaper: false,
        ..Config::default()
    };
    let backend = CountingBackend::new(Arc::clone(&counts), granularity);
    (MemoryManager::with_config(backend, config).expect("the configuration is sound"), counts)
}

/// Makes a manager and so many buffers for each of the threads that `counts` lists; drops the manager while they use
/// and free their buffers, each its own; then checks that the state went once, and with it every block.
fn close_while_others_free(buffer_counts: &[usize]) {
    let (manager, counts) = manager(4096, 1 << 30);
    let threads: Vec<_> = buffer_counts
        .iter()
        .map(|&count| {
            let buffers: Vec<Buffer<_>> =
                (0..count).map(|_| manager.allocate(BYTES).expect("the budget holds it")).collect();
            thread::spawn(move || {
                for mut buffer in buffers {
                    buffer.fill(0).expect("the backend fills nothing");
                }
            })
        })
        .collect();
    drop(manager);
    for thread in threads {
        thread.join().expect("a freeing thread ends");
    }
    counts.check_gone();
}

/// The last handle goes while a thread frees the last three buffers: two into its cache, or past it if the pool was
/// closed before, and the third with the cache full, so that half of it goes to the depot.
///
/// 33,000 runs, 7 s.
#[test]
fn the_state_goes_once_while_a_thread_frees() {
    explore(2, || close_while_others_free(&[3]));
}

/// The same with two threads, each with one of the last two buffers.
///
/// 5,200 runs, 1 s.
#[test]
fn the_state_goes_once_while_two_threads_free() {
    explore(2, || close_while_others_free(&[1, 1]));
}

/// Work on a queue uses a buffer that others may free as soon as this returns.
fn use_on(queue: &Queue<CountingBackend>, buffer: &Buffer<CountingBackend>, counts: &Counts) {
    counts.memory.use_on(queue.raw());
    buffer.record_use(queue).expect("they are of one manager");
}

/// The last handle goes while a thread frees a buffer that a queue may still use: into the batch of its cache, or
/// past it if the pool was closed before. No block goes before the queue has done its work.
///
/// 5,200 runs, 1 s.
#[test]
fn the_state_goes_once_while_queues_use_what_is_freed() {
    explore(2, || {
        let (manager, counts) = manager(4096, 1 << 30);
        let queue = manager.queue().expect("the backend has queues");
        let buffer = manager.allocate(BYTES).expect("the budget holds it");
        use_on(&queue, &buffer, &counts);
        let freeing = thread::spawn(move || drop(buffer));
        drop(queue);
        drop(manager);
        freeing.join().expect("the freeing thread ends");
        counts.check_gone();
    });
}

/// The same with three buffers, of which the third finds the batch full and hands it over.
///
/// 27 runs. With two preemptions there are more than 100,000.
#[test]
fn the_state_goes_once_while_a_batch_is_handed_over() {
    explore(1, || {
        let (manager, counts) = manager(4096, 1 << 30);
        let queue = manager.queue().expect("the backend has queues");
        let buffers = [0, 1, 2].map(|_| manager.allocate(BYTES).expect("the budget holds it"));
        buffers.iter().for_each(|buffer| use_on(&queue, buffer, &counts));
        let freeing = thread::spawn(move || drop(buffers));
        drop(queue);
        drop(manager);
        freeing.join().expect("the freeing thread ends");
        counts.check_gone();
    });
}

/// The same with one buffer that was made on the queue.
///
/// 580 runs, 0.1 s.
#[test]
fn the_state_goes_once_while_a_buffer_of_a_queue_is_freed() {
    explore(2, || {
        let (manager, counts) = manager(4096, 1 << 30);
        let queue = manager.queue().expect("the backend has queues");
        let buffer = queue.allocate(BYTES).expect("the budget holds it");
        counts.memory.use_on(queue.raw());
        let freeing = thread::spawn(move || drop(buffer));
        drop(queue);
        drop(manager);
        freeing.join().expect("the freeing thread ends");
        counts.check_gone();
    });
}
