//! Models of a whole manager, over a backend that only counts: who destroys the shared state, and when.
#![allow(unsafe_code)]

use super::explore;
use crate::{BucketLayout, Buffer, Clock, Config, MemoryManager};
use aquifer_backend::{
    Backend, BlockDesc, BlockRange, Capabilities, Command, DestroyError, Error, ErrorKind, Heap, HeapBudget,
    MemoryFlags, MemoryType, Properties, Ticket,
};
use loom::cell::UnsafeCell;
use loom::thread;
use std::convert::Infallible;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const BYTES: u64 = 256;

/// What has been made and destroyed in one run. Loom's threads are one to the system, so `std`'s atomics count exactly.
#[derive(Default)]
struct Counts {
    live_blocks: AtomicUsize,
    dropped_backends: AtomicUsize,
}

struct CountingBackend {
    properties: Properties,
    counts: Arc<Counts>,
    /// Read by every call, written when the backend goes: loom checks that all calls happen before.
    is_alive: UnsafeCell<bool>,
}

impl CountingBackend {
    fn new(counts: Arc<Counts>) -> Self {
        let properties = Properties {
            backend: "counting",
            device: String::new(),
            heaps: vec![Heap { size_bytes: 1 << 30 }],
            memory_types: vec![MemoryType { heap_index: 0, flags: MemoryFlags::NONE }],
            block_granularity_bytes: 4096,
            block_bytes_max: 1 << 30,
            block_count_max: 1 << 10,
            alignment_bytes_min: 4096,
            capabilities: Capabilities::NONE,
        };
        Self { properties, counts, is_alive: UnsafeCell::new(true) }
    }

    fn check_alive(&self) {
        // SAFETY: loom panics unless the only write, in `drop`, happens after this.
        self.is_alive.with(|is_alive| assert!(unsafe { *is_alive }));
    }
}

impl Drop for CountingBackend {
    fn drop(&mut self) {
        // SAFETY: as in `check_alive`.
        self.is_alive.with_mut(|is_alive| unsafe { *is_alive = false });
        self.counts.dropped_backends.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: there is no memory, so nothing overlaps and nothing is read or written.
unsafe impl Backend for CountingBackend {
    type Block = ();
    type Queue = Infallible;

    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn budget(&self, _heap_index: usize) -> Result<HeapBudget, Error> {
        Ok(HeapBudget { budget_bytes: 1 << 30, available_bytes: 1 << 30 })
    }

    fn create_block(&self, _desc: &BlockDesc) -> Result<(), Error> {
        self.check_alive();
        self.counts.live_blocks.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    unsafe fn destroy_block(&self, _block: ()) -> Result<(), DestroyError<()>> {
        self.check_alive();
        self.counts.live_blocks.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    fn host_pointer(&self, _block: &()) -> Option<NonNull<u8>> {
        None
    }

    unsafe fn copy(
        &self,
        _source: BlockRange<'_, ()>,
        _destination: BlockRange<'_, ()>,
    ) -> Result<(), Error> {
        self.check_alive();
        Ok(())
    }

    unsafe fn fill(&self, _destination: BlockRange<'_, ()>, _value: u8) -> Result<(), Error> {
        self.check_alive();
        Ok(())
    }

    fn device_address(&self, _block: &()) -> Option<u64> {
        None
    }

    fn create_queue(&self) -> Result<Infallible, Error> {
        Err(Error::new(ErrorKind::Unsupported, "create_queue", "these models have no queues"))
    }

    unsafe fn enqueue(
        &self,
        queue: &Infallible,
        _command: Command<'_, ()>,
        _ticket: &Arc<Ticket>,
    ) -> Result<(), Error> {
        match *queue {}
    }

    fn signal(&self, queue: &Infallible, _value: u64) -> Result<(), Error> {
        match *queue {}
    }

    fn completed(&self, queue: &Infallible) -> Result<u64, Error> {
        match *queue {}
    }

    fn wait(&self, queue: &Infallible, _value: u64, _timeout: Duration) -> Result<bool, Error> {
        match *queue {}
    }

    fn wait_on_queue(&self, queue: &Infallible, _other: &Infallible, _value: u64) -> Result<(), Error> {
        match *queue {}
    }
}

/// Makes a manager and so many buffers for each of the threads that `counts` lists; drops the manager while they use
/// and free their buffers, each its own; then checks that the state went once, and with it every block.
fn close_while_others_free(buffer_counts: &[usize]) {
    let counts = Arc::new(Counts::default());
    let config = Config {
        layout: BucketLayout::power_of_two(),
        budget_bytes: Some(1 << 30),
        clock: Clock::manual(),
        ..Config::default()
    };
    let backend = CountingBackend::new(Arc::clone(&counts));
    let manager = MemoryManager::with_config(backend, config).expect("the configuration is sound");
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
    assert_eq!(counts.dropped_backends.load(Ordering::Relaxed), 1, "the state goes once");
    assert_eq!(counts.live_blocks.load(Ordering::Relaxed), 0, "every block goes");
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
