//! A backend that only counts, for models of whole managers.
#![allow(unsafe_code)]

use super::device::{DeviceQueue, Memory};
use aquifer_backend::{
    Backend, BlockDesc, BlockRange, Capabilities, Command, DestroyError, Error, Heap, HeapBudget,
    MemoryFlags, MemoryType, Properties, Ticket,
};
use loom::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What has been made and destroyed in one run. Loom's threads are one to the system, so `std`'s atomics count exactly.
#[derive(Default)]
pub(super) struct Counts {
    live_blocks: AtomicUsize,
    dropped_backends: AtomicUsize,
    /// What queues use of the blocks, as one.
    pub(super) memory: Arc<Memory>,
}

impl Counts {
    /// That the state has gone, once, and all blocks, after all queues' work.
    pub(super) fn check_gone(&self) {
        assert_eq!(self.dropped_backends.load(Ordering::Relaxed), 1, "the state goes once");
        assert_eq!(self.live_blocks.load(Ordering::Relaxed), 0, "every block goes");
        self.memory.use_on_host();
    }
}

pub(super) struct CountingBackend {
    properties: Properties,
    counts: Arc<Counts>,
    /// Read by every call, written when the backend goes: loom checks that all calls happen before.
    is_alive: UnsafeCell<bool>,
}

impl CountingBackend {
    /// Makes blocks of whole multiples of `granularity` bytes.
    pub(super) fn new(counts: Arc<Counts>, granularity: u64) -> Self {
        let properties = Properties {
            backend: "counting",
            device: String::new(),
            heaps: vec![Heap { size_bytes: 1 << 30 }],
            memory_types: vec![MemoryType { heap_index: 0, flags: MemoryFlags::NONE }],
            block_granularity_bytes: granularity,
            block_bytes_max: 1 << 30,
            block_count_max: 1 << 10,
            alignment_bytes_min: 4096,
            physical_page_bytes: 0,
            mapping_count_max: 0,
            mapping_costs: None,
            import_alignment_bytes: 0,
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

// SAFETY: loom's threads are one to the system, and loom looks after the order of what they do.
unsafe impl Send for CountingBackend {}
// SAFETY: as above.
unsafe impl Sync for CountingBackend {}

// SAFETY: there is no memory, so nothing overlaps and nothing is read or written.
unsafe impl Backend for CountingBackend {
    type Block = ();
    type Queue = Arc<DeviceQueue>;

    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn budget(&self, _heap_index: usize) -> Result<HeapBudget, Error> {
        Ok(HeapBudget { budget_bytes: 1 << 30, available_bytes: 1 << 30, process_bytes: None })
    }

    fn create_block(&self, _desc: &BlockDesc<'_>) -> Result<(), Error> {
        self.check_alive();
        self.counts.live_blocks.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    unsafe fn destroy_block(&self, _block: ()) -> Result<(), DestroyError<()>> {
        self.check_alive();
        self.counts.memory.use_on_host();
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

    fn create_queue(&self) -> Result<Arc<DeviceQueue>, Error> {
        Ok(Arc::new(DeviceQueue::new()))
    }

    unsafe fn enqueue(
        &self,
        queue: &Arc<DeviceQueue>,
        _command: Command<'_, ()>,
        _ticket: &Arc<Ticket>,
    ) -> Result<(), Error> {
        self.check_alive();
        self.counts.memory.use_on(queue);
        Ok(())
    }

    unsafe fn signal(&self, queue: &Arc<DeviceQueue>, value: u64) -> Result<(), Error> {
        self.check_alive();
        queue.signal(value);
        Ok(())
    }

    fn completed(&self, queue: &Arc<DeviceQueue>) -> Result<u64, Error> {
        self.check_alive();
        Ok(queue.completed())
    }

    /// Lets the queue do all that it was given.
    fn wait(&self, queue: &Arc<DeviceQueue>, value: u64, _timeout: Duration) -> Result<bool, Error> {
        self.check_alive();
        queue.run();
        Ok(queue.completed() >= value)
    }

    /// The models have no work that depends on another queue's.
    fn wait_on_queue(
        &self,
        _queue: &Arc<DeviceQueue>,
        _other: &Arc<DeviceQueue>,
        _value: u64,
    ) -> Result<(), Error> {
        self.check_alive();
        Ok(())
    }
}
