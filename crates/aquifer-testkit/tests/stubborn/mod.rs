//! Host memory whose driver will not import, let go or go on when it is told not to.

use aquifer_backend::{
    Backend, BlockDesc, BlockRange, Command, DestroyError, Error, ErrorKind, HeapBudget, HostMemory,
    ImportError, Properties, Ticket,
};
use aquifer_host::{Host, HostBlock, HostQueue};
use parking_lot::Mutex;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

#[derive(Default)]
struct Moods {
    import_refusal: Option<ErrorKind>,
    import_count: u64,
    refuses_destroys: bool,
    /// Queues are seen to get no further.
    stands_still: bool,
}

/// Says what is refused. Clones are the same hand.
#[derive(Clone, Default)]
pub(crate) struct Hand(Arc<Mutex<Moods>>);

impl Hand {
    pub(crate) fn refuse_imports(&self, kind: Option<ErrorKind>) {
        self.0.lock().import_refusal = kind;
    }

    pub(crate) fn import_count(&self) -> u64 {
        self.0.lock().import_count
    }

    pub(crate) fn refuse_destroys(&self, is_refused: bool) {
        self.0.lock().refuses_destroys = is_refused;
    }

    pub(crate) fn stop_queues(&self) {
        self.0.lock().stands_still = true;
    }
}

pub(crate) struct Stubborn {
    host: Host,
    hand: Hand,
}

impl Stubborn {
    pub(crate) fn new(host: Host, hand: &Hand) -> Self {
        Self { host, hand: hand.clone() }
    }

    fn refusal(operation: &'static str, kind: ErrorKind) -> Error {
        Error::new(kind, operation, "refused, as it was told to")
    }
}

// SAFETY: everything is the host's, which keeps the contract; what is refused has not been done, and a value that is
// not told may be lower than the queue's.
unsafe impl Backend for Stubborn {
    type Block = HostBlock;
    type Queue = HostQueue;

    fn properties(&self) -> &Properties {
        self.host.properties()
    }

    fn budget(&self, heap_index: usize) -> Result<HeapBudget, Error> {
        self.host.budget(heap_index)
    }

    fn create_block(&self, desc: &BlockDesc<'_>) -> Result<HostBlock, Error> {
        self.host.create_block(desc)
    }

    unsafe fn destroy_block(&self, block: HostBlock) -> Result<(), DestroyError<HostBlock>> {
        if self.hand.0.lock().refuses_destroys {
            let error = Self::refusal("destroy_block", ErrorKind::Driver);
            return Err(DestroyError { block, error });
        }
        // SAFETY: the caller vouches that nothing uses the block.
        unsafe { self.host.destroy_block(block) }
    }

    fn import_block(&self, memory: HostMemory, memory_type_index: usize) -> Result<HostBlock, ImportError> {
        let mut moods = self.hand.0.lock();
        moods.import_count += 1;
        if let Some(kind) = moods.import_refusal {
            return Err(ImportError { memory, error: Self::refusal("import_block", kind) });
        }
        drop(moods);
        self.host.import_block(memory, memory_type_index)
    }

    fn host_pointer(&self, block: &HostBlock) -> Option<NonNull<u8>> {
        self.host.host_pointer(block)
    }

    unsafe fn copy(
        &self,
        source: BlockRange<'_, HostBlock>,
        destination: BlockRange<'_, HostBlock>,
    ) -> Result<(), Error> {
        // SAFETY: the caller vouches for both ranges.
        unsafe { self.host.copy(source, destination) }
    }

    unsafe fn fill(&self, destination: BlockRange<'_, HostBlock>, value: u8) -> Result<(), Error> {
        // SAFETY: the caller vouches for the range.
        unsafe { self.host.fill(destination, value) }
    }

    fn device_address(&self, block: &HostBlock) -> Option<u64> {
        self.host.device_address(block)
    }

    fn create_queue(&self) -> Result<HostQueue, Error> {
        self.host.create_queue()
    }

    unsafe fn enqueue(
        &self,
        queue: &HostQueue,
        command: Command<'_, HostBlock>,
        ticket: &Arc<Ticket>,
    ) -> Result<(), Error> {
        // SAFETY: the caller vouches for the command.
        unsafe { self.host.enqueue(queue, command, ticket) }
    }

    unsafe fn signal(&self, queue: &HostQueue, value: u64) -> Result<(), Error> {
        // SAFETY: the caller vouches for the queue.
        unsafe { self.host.signal(queue, value) }
    }

    fn completed(&self, queue: &HostQueue) -> Result<u64, Error> {
        if self.hand.0.lock().stands_still { Ok(0) } else { self.host.completed(queue) }
    }

    fn wait(&self, queue: &HostQueue, value: u64, timeout: Duration) -> Result<bool, Error> {
        if self.hand.0.lock().stands_still { Ok(false) } else { self.host.wait(queue, value, timeout) }
    }

    fn wait_on_queue(&self, queue: &HostQueue, other: &HostQueue, value: u64) -> Result<(), Error> {
        self.host.wait_on_queue(queue, other, value)
    }
}
