//! A driver that fails when it is told to, around one that does not.

mod hand;
mod sparse;

pub use hand::{DriverCall, FaultMode, Faults};

use aquifer_backend::{
    Backend, BlockDesc, BlockRange, Capabilities, Command, CopyEnd, DestroyError, DeviceMemory, Error,
    ErrorKind, HeapBudget, HostMemory, ImportError, MemoryFlags, Properties, Ticket,
};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// A backend around a backend, with a [`Faults`] to make it fail and to ask it what is live.
///
/// It can also be a poorer device than the one inside; see [`Faulty::with_properties`]. It fails a test in which a purgeable
/// block is used.
#[derive(Debug)]
pub struct Faulty<B> {
    inner: B,
    properties: Properties,
    faults: Faults,
}

/// A block of a [`Faulty`] backend.
#[derive(Debug)]
pub struct FaultyBlock<T> {
    inner: T,
    memory_type_index: usize,
    bytes: u64,
    id: u64,
}

/// What a new block holds at its start if the device does not promise zeros.
const GARBAGE: u8 = 0xa7;
/// So many bytes of it at most.
const GARBAGE_BYTES_MAX: u64 = 1 << 20;

impl<B: Backend> Faulty<B> {
    /// Wraps `inner`; nothing fails until it is told to.
    #[must_use]
    pub fn new(inner: B) -> Self {
        let properties = inner.properties().clone();
        Self { inner, properties, faults: Faults::default() }
    }

    /// Wraps `inner` as a device that promises less: `change` may take abilities away, forbid the host to see memory,
    /// lower limits that are a maximum and alignments, and make granules coarser.
    ///
    /// Without [`Capabilities::ZEROED_BLOCKS`] new blocks start with a MiB of garbage. Without [`Capabilities::QUEUES`]
    /// no queue can be made.
    ///
    /// [`Capabilities::PURGEABLE`] may also be added: then every other block loses what it held as soon as it is purgeable. And so
    /// may memory types, at the end: their memory is of the first type inside, which the host must see if they say so.
    /// [`MemoryFlags::PINNED`] among their flags locks nothing, but counts ([`Faults::lock_at_most`]).
    ///
    /// Without [`Capabilities::SPARSE_BLOCKS`] the rest of what is said of sparse blocks goes by itself. With it, at least one memory
    /// type that is sparse inside has to stay so.
    #[must_use]
    pub fn with_properties(inner: B, change: impl FnOnce(&mut Properties)) -> Self {
        let mut faulty = Self::new(inner);
        change(&mut faulty.properties);
        sparse::agree(&mut faulty.properties);
        faulty
    }

    /// The hand on this driver. It may outlive it.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    fn has(&self, capability: Capabilities) -> bool {
        self.properties.capabilities.contains(capability)
    }

    /// Whether purgeable memory is this type's invention.
    fn invents_purging(&self) -> bool {
        !self.inner.properties().capabilities.contains(Capabilities::PURGEABLE)
    }

    fn unsupported(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::Unsupported, operation, "this device was made without the capability")
    }

    /// Writes garbage over the beginning of a block.
    ///
    /// # Safety
    ///
    /// - Nobody uses the block.
    unsafe fn spoil(&self, block: &B::Block, bytes: u64) -> Result<(), Error> {
        let destination = BlockRange { block, offset: 0, bytes: bytes.min(GARBAGE_BYTES_MAX) };
        // SAFETY: the range lies in the block, which nobody uses, says the caller.
        unsafe { self.inner.fill(destination, GARBAGE) }
    }

    /// The memory type inside that stands for one of these.
    fn inner_type(&self, memory_type_index: usize) -> usize {
        if memory_type_index < self.inner.properties().memory_types.len() { memory_type_index } else { 0 }
    }

    fn is_pinned(&self, memory_type_index: usize) -> bool {
        self.properties.memory_types[memory_type_index].flags.contains(MemoryFlags::PINNED)
    }

    fn block(&self, inner: B::Block, memory_type_index: usize, bytes: u64) -> FaultyBlock<B::Block> {
        let id = self.faults.created(bytes, self.is_pinned(memory_type_index));
        FaultyBlock { inner, memory_type_index, bytes, id }
    }

    fn range<'a>(&self, range: BlockRange<'a, FaultyBlock<B::Block>>) -> BlockRange<'a, B::Block> {
        self.faults.check_usable(range.block.id);
        BlockRange { block: &range.block.inner, offset: range.offset, bytes: range.bytes }
    }

    fn end<'a>(&self, end: CopyEnd<'a, FaultyBlock<B::Block>>) -> CopyEnd<'a, B::Block> {
        match end {
            CopyEnd::Block { block, offset } => {
                self.faults.check_usable(block.id);
                CopyEnd::Block { block: &block.inner, offset }
            }
            CopyEnd::Host(start) => CopyEnd::Host(start),
        }
    }

    fn command<'a>(&self, command: Command<'a, FaultyBlock<B::Block>>) -> Command<'a, B::Block> {
        match command {
            Command::Copy { source, destination, bytes } => {
                Command::Copy { source: self.end(source), destination: self.end(destination), bytes }
            }
            Command::Fill { destination, value } => {
                Command::Fill { destination: self.range(destination), value }
            }
        }
    }
}

/// Whether a block is one of those that lose what they hold, where that is this type's matter.
fn is_lost_when_purgeable(id: u64) -> bool {
    !id.is_multiple_of(2)
}

// SAFETY: blocks and their addresses are those of the backend inside, which keeps the contract. What is changed, a
// block's host pointer, is taken away wholly and always or not at all; the properties are made once and never written.
unsafe impl<B: Backend> Backend for Faulty<B> {
    type Block = FaultyBlock<B::Block>;
    type Queue = B::Queue;

    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn budget(&self, heap_index: usize) -> Result<HeapBudget, Error> {
        self.faults.call(DriverCall::Budget, "budget")?;
        self.inner.budget(heap_index)
    }

    fn create_block(&self, desc: &BlockDesc<'_>) -> Result<Self::Block, Error> {
        assert_eq!(desc.bytes % self.properties.block_granularity_bytes, 0, "{desc:?}");
        assert!(desc.bytes > 0 && desc.bytes <= self.properties.block_bytes_max, "{desc:?}");
        assert!(desc.memory_type_index < self.properties.memory_types.len(), "{desc:?}");
        self.faults.call(DriverCall::Create, "create_block")?;
        if self.is_pinned(desc.memory_type_index) {
            self.faults.check_lockable(desc.bytes)?;
        }
        let inner_desc = BlockDesc { memory_type_index: self.inner_type(desc.memory_type_index), ..*desc };
        let inner = self.inner.create_block(&inner_desc)?;
        if !self.has(Capabilities::ZEROED_BLOCKS) {
            // SAFETY: nobody else knows the block yet.
            unsafe { self.spoil(&inner, desc.bytes) }?;
        }
        Ok(self.block(inner, desc.memory_type_index, desc.bytes))
    }

    unsafe fn destroy_block(&self, block: Self::Block) -> Result<(), DestroyError<Self::Block>> {
        let FaultyBlock { inner, memory_type_index, bytes, id } = block;
        let refusal = match self.faults.call(DriverCall::Destroy, "destroy_block") {
            Err(error) => Err(DestroyError { block: inner, error }),
            // SAFETY: the caller vouches that no range of the block is in use.
            Ok(()) => unsafe { self.inner.destroy_block(inner) },
        };
        refusal.map_err(|DestroyError { block, error }| {
            self.faults.refused(id);
            DestroyError { block: FaultyBlock { inner: block, memory_type_index, bytes, id }, error }
        })?;
        self.faults.destroyed(id);
        Ok(())
    }

    unsafe fn release_range(&self, range: BlockRange<'_, Self::Block>) -> Result<(), Error> {
        let granularity = self.properties.block_granularity_bytes;
        assert_eq!((range.offset % granularity, range.bytes % granularity), (0, 0), "not whole granules");
        self.faults.call(DriverCall::Release, "release_range")?;
        let FaultyBlock { id, bytes, .. } = *range.block;
        let released_bytes = range.bytes;
        // SAFETY: the caller vouches for the range, which is the same in the block inside.
        unsafe { self.inner.release_range(self.range(range)) }?;
        // A sparse block has none, and what lies behind it is had again when it is touched.
        if bytes > 0 {
            self.faults.released(id, released_bytes);
        }
        Ok(())
    }

    unsafe fn make_purgeable(&self, block: &Self::Block) -> Result<(), Error> {
        if !self.has(Capabilities::PURGEABLE) {
            return Err(self.unsupported("make_purgeable"));
        }
        self.faults.check_usable(block.id);
        self.faults.call(DriverCall::MakePurgeable, "make_purgeable")?;
        if !self.invents_purging() {
            // SAFETY: the caller vouches that nobody uses the block.
            unsafe { self.inner.make_purgeable(&block.inner) }?;
        } else if is_lost_when_purgeable(block.id) {
            // SAFETY: as above.
            unsafe { self.spoil(&block.inner, block.bytes) }?;
        }
        self.faults.purged(block.id, true);
        Ok(())
    }

    fn make_nonpurgeable(&self, block: &Self::Block) -> Result<bool, Error> {
        if !self.has(Capabilities::PURGEABLE) {
            return Err(self.unsupported("make_nonpurgeable"));
        }
        self.faults.call(DriverCall::MakeNonpurgeable, "make_nonpurgeable")?;
        let is_kept = if self.invents_purging() {
            !is_lost_when_purgeable(block.id)
        } else {
            self.inner.make_nonpurgeable(&block.inner)?
        };
        self.faults.purged(block.id, false);
        Ok(is_kept)
    }

    fn import_block(&self, memory: HostMemory, memory_type_index: usize) -> Result<Self::Block, ImportError> {
        if !self.has(Capabilities::IMPORT) {
            return Err(ImportError { memory, error: self.unsupported("import_block") });
        }
        if let Err(error) = self.faults.call(DriverCall::Import, "import_block") {
            return Err(ImportError { memory, error });
        }
        let bytes = memory.bytes();
        let inner = self.inner.import_block(memory, self.inner_type(memory_type_index))?;
        Ok(self.block(inner, memory_type_index, bytes))
    }

    fn note_allocated(&self, range: BlockRange<'_, Self::Block>) {
        self.inner.note_allocated(self.range(range));
    }

    fn note_freed(&self, range: BlockRange<'_, Self::Block>) {
        self.inner.note_freed(self.range(range));
    }

    fn import_device_block(
        &self,
        memory: DeviceMemory,
        memory_type_index: usize,
    ) -> Result<Self::Block, ImportError<DeviceMemory>> {
        if !self.has(Capabilities::IMPORT_DEVICE) {
            return Err(ImportError { memory, error: self.unsupported("import_device_block") });
        }
        if let Err(error) = self.faults.call(DriverCall::Import, "import_device_block") {
            return Err(ImportError { memory, error });
        }
        let bytes = memory.bytes();
        let inner = self.inner.import_device_block(memory, self.inner_type(memory_type_index))?;
        Ok(self.block(inner, memory_type_index, bytes))
    }

    fn create_sparse_block(&self, desc: &BlockDesc<'_>) -> Result<Self::Block, Error> {
        let inner_desc = self.sparse_desc(desc, "create_sparse_block")?;
        self.faults.call(DriverCall::CreateSparse, "create_sparse_block")?;
        let inner = self.inner.create_sparse_block(&inner_desc)?;
        // It has no memory of its own.
        Ok(self.block(inner, desc.memory_type_index, 0))
    }

    fn create_physical_block(&self, desc: &BlockDesc<'_>) -> Result<Self::Block, Error> {
        let inner_desc = self.sparse_desc(desc, "create_physical_block")?;
        self.faults.call(DriverCall::CreatePhysical, "create_physical_block")?;
        let inner = self.inner.create_physical_block(&inner_desc)?;
        if !self.has(Capabilities::ZEROED_BLOCKS) {
            // SAFETY: nobody else knows the block yet.
            unsafe { self.spoil_physical(&inner, &inner_desc) }?;
        }
        Ok(self.block(inner, desc.memory_type_index, desc.bytes))
    }

    unsafe fn map(&self, sparse: BlockRange<'_, Self::Block>, physical: &Self::Block) -> Result<(), Error> {
        assert_eq!(sparse.bytes, physical.bytes, "a physical block is mapped as a whole");
        assert_eq!(sparse.offset % self.properties.physical_page_bytes, 0, "not whole pages");
        assert_eq!(sparse.block.memory_type_index, physical.memory_type_index);
        self.faults.check_usable(physical.id);
        self.faults.call(DriverCall::Map, "map")?;
        // SAFETY: the caller vouches for the range, which is the same in the block inside.
        unsafe { self.inner.map(self.range(sparse), &physical.inner) }
    }

    unsafe fn unmap(&self, sparse: BlockRange<'_, Self::Block>) -> Result<(), Error> {
        self.faults.call(DriverCall::Unmap, "unmap")?;
        // SAFETY: the caller vouches for the range, which is the same in the block inside.
        unsafe { self.inner.unmap(self.range(sparse)) }
    }

    fn flush_destroyed(&self) {
        self.inner.flush_destroyed();
    }

    fn host_pointer(&self, block: &Self::Block) -> Option<NonNull<u8>> {
        self.faults.check_usable(block.id);
        let flags = self.properties.memory_types[block.memory_type_index].flags;
        if flags.contains(MemoryFlags::HOST_VISIBLE) { self.inner.host_pointer(&block.inner) } else { None }
    }

    unsafe fn copy(
        &self,
        source: BlockRange<'_, Self::Block>,
        destination: BlockRange<'_, Self::Block>,
    ) -> Result<(), Error> {
        self.faults.call(DriverCall::Copy, "copy")?;
        // SAFETY: the caller vouches for the ranges, which are the same in the blocks inside.
        unsafe { self.inner.copy(self.range(source), self.range(destination)) }
    }

    unsafe fn fill(&self, destination: BlockRange<'_, Self::Block>, value: u8) -> Result<(), Error> {
        self.faults.call(DriverCall::Fill, "fill")?;
        // SAFETY: the caller vouches for the range, which is the same in the block inside.
        unsafe { self.inner.fill(self.range(destination), value) }
    }

    fn device_address(&self, block: &Self::Block) -> Option<u64> {
        self.inner.device_address(&block.inner)
    }

    fn create_queue(&self) -> Result<Self::Queue, Error> {
        if !self.properties.capabilities.contains(Capabilities::QUEUES) {
            return Err(Error::new(ErrorKind::Unsupported, "create_queue", "this device has no queues"));
        }
        self.faults.call(DriverCall::CreateQueue, "create_queue")?;
        self.inner.create_queue()
    }

    unsafe fn enqueue(
        &self,
        queue: &Self::Queue,
        command: Command<'_, Self::Block>,
        ticket: &Arc<Ticket>,
    ) -> Result<(), Error> {
        self.faults.call(DriverCall::Enqueue, "enqueue")?;
        // SAFETY: the caller vouches for the command, whose ranges are the same in the blocks inside.
        unsafe { self.inner.enqueue(queue, self.command(command), ticket) }
    }

    unsafe fn signal(&self, queue: &Self::Queue, value: u64) -> Result<(), Error> {
        self.faults.call(DriverCall::Signal, "signal")?;
        // SAFETY: the caller vouches for the queue.
        unsafe { self.inner.signal(queue, value) }
    }

    fn completed(&self, queue: &Self::Queue) -> Result<u64, Error> {
        self.inner.completed(queue)
    }

    fn wait(&self, queue: &Self::Queue, value: u64, timeout: Duration) -> Result<bool, Error> {
        self.inner.wait(queue, value, timeout)
    }

    fn wait_on_queue(&self, queue: &Self::Queue, other: &Self::Queue, value: u64) -> Result<(), Error> {
        self.faults.call(DriverCall::WaitOnQueue, "wait_on_queue")?;
        self.inner.wait_on_queue(queue, other, value)
    }
}
