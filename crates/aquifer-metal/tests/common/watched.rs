//! A backend that compares a device's objects with its blocks at each of the driver's calls for memory. For one thread.

use aquifer_backend::{
    Backend, BlockDesc, BlockRange, Command, DestroyError, Error, HeapBudget, Properties, Ticket,
};
use aquifer_metal::{Metal, MetalBlock, MetalQueue};
use parking_lot::Mutex;
use software_metal::SoftwareDevice;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// Blocks as the backend's user counts them.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct BlockCounts {
    pub(crate) live: u64,
    pub(crate) live_peak: u64,
    /// Destroyed, and the backend not yet told that the batch is over: residency sets may still keep their memory.
    pub(crate) leaving: u64,
    pub(crate) created: u64,
}

#[derive(Debug, Default)]
struct Books {
    counts: BlockCounts,
    /// The first time that the device had other objects than it should. A backend may not panic.
    violation: Option<String>,
}

/// A device's backend, and what the device should be holding.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    metal: Metal,
    device: SoftwareDevice,
    books: Arc<Mutex<Books>>,
}

impl Watched {
    pub(crate) fn new(metal: Metal, device: &SoftwareDevice) -> Self {
        Self { metal, device: device.clone(), books: Arc::default() }
    }

    /// What was counted.
    ///
    /// # Panics
    ///
    /// If the device's objects were not those of the blocks at some call.
    #[track_caller]
    pub(crate) fn counts(&self) -> BlockCounts {
        let books = self.books.lock();
        assert_eq!(books.violation, None);
        books.counts
    }

    /// Changes the counts, and looks that there is one buffer for each block and at most one heap, and nothing else that
    /// holds memory.
    fn count(&self, change: impl FnOnce(&mut BlockCounts)) {
        let mut books = self.books.lock();
        change(&mut books.counts);
        let counts = &mut books.counts;
        counts.live_peak = counts.live_peak.max(counts.live);
        let most = counts.live + counts.leaving;
        let (fewest, objects) = (counts.live, self.device.live_objects());
        let [heaps, buffers] = ["MTLHeap", "MTLBuffer"].map(|name| objects.get(name).copied().unwrap_or(0));
        if !(fewest..=most).contains(&buffers) || heaps > most {
            let text = format!("{buffers} buffers and {heaps} heaps of {:?}", books.counts);
            books.violation.get_or_insert(text);
        }
    }
}

// SAFETY: all is handed to a backend that keeps the contract.
unsafe impl Backend for Watched {
    type Block = MetalBlock;
    type Queue = MetalQueue;

    fn properties(&self) -> &Properties {
        self.metal.properties()
    }

    fn budget(&self, heap_index: usize) -> Result<HeapBudget, Error> {
        self.metal.budget(heap_index)
    }

    fn create_block(&self, desc: &BlockDesc<'_>) -> Result<MetalBlock, Error> {
        self.count(|_| {});
        let block = self.metal.create_block(desc)?;
        self.count(|counts| {
            counts.live += 1;
            counts.created += 1;
        });
        Ok(block)
    }

    unsafe fn destroy_block(&self, block: MetalBlock) -> Result<(), DestroyError<MetalBlock>> {
        // SAFETY: the caller vouches for the block.
        unsafe { self.metal.destroy_block(block) }?;
        self.count(|counts| {
            counts.live -= 1;
            counts.leaving += 1;
        });
        Ok(())
    }

    fn flush_destroyed(&self) {
        self.metal.flush_destroyed();
        self.count(|counts| counts.leaving = 0);
    }

    unsafe fn make_purgeable(&self, block: &MetalBlock) -> Result<(), Error> {
        // SAFETY: the caller vouches for the block.
        unsafe { self.metal.make_purgeable(block) }
    }

    fn make_nonpurgeable(&self, block: &MetalBlock) -> Result<bool, Error> {
        self.metal.make_nonpurgeable(block)
    }

    fn host_pointer(&self, block: &MetalBlock) -> Option<NonNull<u8>> {
        self.metal.host_pointer(block)
    }

    unsafe fn copy(
        &self,
        source: BlockRange<'_, MetalBlock>,
        destination: BlockRange<'_, MetalBlock>,
    ) -> Result<(), Error> {
        // SAFETY: the caller vouches for the ranges.
        unsafe { self.metal.copy(source, destination) }
    }

    unsafe fn fill(&self, destination: BlockRange<'_, MetalBlock>, value: u8) -> Result<(), Error> {
        // SAFETY: the caller vouches for the range.
        unsafe { self.metal.fill(destination, value) }
    }

    fn device_address(&self, block: &MetalBlock) -> Option<u64> {
        self.metal.device_address(block)
    }

    fn create_queue(&self) -> Result<MetalQueue, Error> {
        self.metal.create_queue()
    }

    unsafe fn enqueue(
        &self,
        queue: &MetalQueue,
        command: Command<'_, MetalBlock>,
        ticket: &Arc<Ticket>,
    ) -> Result<(), Error> {
        // SAFETY: the caller vouches for the command.
        unsafe { self.metal.enqueue(queue, command, ticket) }
    }

    unsafe fn signal(&self, queue: &MetalQueue, value: u64) -> Result<(), Error> {
        // SAFETY: the caller vouches for the queue.
        unsafe { self.metal.signal(queue, value) }
    }

    fn completed(&self, queue: &MetalQueue) -> Result<u64, Error> {
        self.metal.completed(queue)
    }

    fn wait(&self, queue: &MetalQueue, value: u64, timeout: Duration) -> Result<bool, Error> {
        self.metal.wait(queue, value, timeout)
    }

    fn wait_on_queue(&self, queue: &MetalQueue, other: &MetalQueue, value: u64) -> Result<(), Error> {
        self.metal.wait_on_queue(queue, other, value)
    }
}
