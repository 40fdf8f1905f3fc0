//! The backend itself.

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use aquifer_backend::{
    Backend, BlockDesc, BlockRange, Command, DefaultDevice, DestroyError, Error, ErrorKind, HeapBudget,
    HostMemory, ImportError, Properties, Ticket,
};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_metal::{
    MTLCopyAllDevices, MTLCreateSystemDefaultDevice, MTLDevice, MTLPurgeableState, MTLStorageMode,
};

use crate::block::{Memory, MetalBlock};
use crate::device::Device;
use crate::options::MetalOptions;
use crate::queue::MetalQueue;
use crate::residency::ResidentHold;
use crate::transfer::{Blit, Part};

/// A Metal device.
///
/// Clones are the same device with the same settings, and cost a reference count; so a program keeps one beside the manager that it
/// gives another to, for what is not the manager's matter. Any thread may use it.
#[derive(Debug, Clone)]
pub struct Metal {
    pub(crate) device: Arc<Device>,
}

impl Metal {
    /// A backend for a device, with the default settings.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if Metal makes no command queue.
    pub fn new(device: Retained<ProtocolObject<dyn MTLDevice>>) -> Result<Self, Error> {
        Self::with_options(device, MetalOptions::default())
    }

    /// A backend for a device.
    ///
    /// # Errors
    ///
    /// As [`Metal::new`].
    pub fn with_options(
        device: Retained<ProtocolObject<dyn MTLDevice>>,
        options: MetalOptions,
    ) -> Result<Self, Error> {
        Ok(Self { device: Arc::new(Device::new(device, options)?) })
    }

    /// A backend for each device of the system, the default one first; none if there is none.
    ///
    /// # Errors
    ///
    /// As [`Metal::new`].
    pub fn all() -> Result<Vec<Self>, Error> {
        autoreleasepool(|_| {
            // None where the process has no screen, say; there may be devices all the same.
            let default = MTLCreateSystemDefaultDevice();
            let all = MTLCopyAllDevices();
            let others = (0..all.count()).map(|index| all.objectAtIndex(index));
            let others: Vec<_> = others.filter(|device| Some(device) != default.as_ref()).collect();
            default.into_iter().chain(others).map(Self::new).collect()
        })
    }

    /// Keeps all memory of this backend resident until the hold is dropped, also while no queue works: a server's weights between two
    /// requests, say. The memory is then taken from everybody else, so nothing does this by itself. Without residency sets
    /// (before macOS 15, or turned off) it has no effect.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if the system starts no thread.
    pub fn keep_resident(&self) -> Result<ResidentHold, Error> {
        ResidentHold::new(self.device.residency.clone())
    }

    /// The device, for what the program does with Metal itself.
    #[must_use]
    pub fn raw_device(&self) -> &Retained<ProtocolObject<dyn MTLDevice>> {
        &self.device.raw
    }

    /// The settings that it was made with.
    #[must_use]
    pub fn options(&self) -> &MetalOptions {
        &self.device.options
    }
}

impl DefaultDevice for Metal {
    /// What `MTLCreateSystemDefaultDevice` answers.
    fn default_device() -> Result<Self, Error> {
        let device = autoreleasepool(|_| MTLCreateSystemDefaultDevice()).ok_or_else(|| {
            let message = "there is no Metal device: the system has no GPU that Metal drives, or shows none to this process (a \
                           virtual machine, a session without a screen, a sandbox); use the host backend, HostMemoryManager";
            Error::new(ErrorKind::Unsupported, "Metal::default_device", message)
        })?;
        Self::new(device)
    }
}

// SAFETY: a block is Metal memory of its own, made with the length asked for; its start is read once, checked to be a multiple
// of the alignment, and never changes. Memory of placement heaps is not promised to be zero by anybody, but holds bytes: it is
// initialised as far as the host is concerned. Properties are made once. A queue's value rises when all command buffers and host
// copies before the marker have ended (see `queue`), and the lock under which steps and markers are noted orders calls by
// different threads. No method unwinds: nothing here panics, and Metal answers failure with nil or a status.
unsafe impl Backend for Metal {
    type Block = MetalBlock;
    type Queue = MetalQueue;

    fn properties(&self) -> &Properties {
        &self.device.properties
    }

    /// What the device recommends, and what of it this process has not allocated, by whatever means (`currentAllocatedSize`).
    /// Other processes are not counted. Never fails.
    fn budget(&self, _heap_index: usize) -> Result<HeapBudget, Error> {
        let (recommended, current) = autoreleasepool(|_| self.device.working_set());
        Ok(HeapBudget {
            budget_bytes: recommended,
            available_bytes: recommended.saturating_sub(current),
            process_bytes: Some(current),
        })
    }

    /// A block that will be cut is a placement heap with one buffer over it; one for a single allocation is a buffer.
    fn create_block(&self, desc: &BlockDesc<'_>) -> Result<MetalBlock, Error> {
        self.device.create_block(desc)
    }

    /// Never fails.
    unsafe fn destroy_block(&self, mut block: MetalBlock) -> Result<(), DestroyError<MetalBlock>> {
        autoreleasepool(|_| {
            self.device.remove_from_residency(&block);
            if *block.was_viewed.get_mut() {
                // The peer's work has ended just now, perhaps.
                self.device.note_end();
            }
            drop(block);
        });
        Ok(())
    }

    fn flush_destroyed(&self) {
        autoreleasepool(|_| self.device.flush_residency());
    }

    unsafe fn make_purgeable(&self, block: &MetalBlock) -> Result<(), Error> {
        autoreleasepool(|_| {
            // What is resident is not taken, and there may be no work for long that would tell the sets.
            self.device.remove_from_residency(block);
            self.device.flush_residency();
            block.set_purgeable(MTLPurgeableState::Volatile);
        });
        Ok(())
    }

    fn make_nonpurgeable(&self, block: &MetalBlock) -> Result<bool, Error> {
        self.device.check("make_nonpurgeable")?;
        autoreleasepool(|_| {
            let before = block.set_purgeable(MTLPurgeableState::NonVolatile);
            self.device.add_to_residency(block);
            Ok(before != MTLPurgeableState::Empty)
        })
    }

    fn import_block(&self, memory: HostMemory, memory_type_index: usize) -> Result<MetalBlock, ImportError> {
        self.device.import_block(memory, memory_type_index)
    }

    /// Of private memory only: nothing says that a placement sparse buffer can be shared.
    fn create_sparse_block(&self, desc: &BlockDesc<'_>) -> Result<MetalBlock, Error> {
        self.device.create_sparse_block(desc)
    }

    /// A heap, as for blocks that are cut; its own buffer is used by nobody.
    fn create_physical_block(&self, desc: &BlockDesc<'_>) -> Result<MetalBlock, Error> {
        self.device.create_physical_block(desc)
    }

    unsafe fn map(&self, sparse: BlockRange<'_, MetalBlock>, physical: &MetalBlock) -> Result<(), Error> {
        let heap = match &physical.memory {
            Memory::Heap(heap) => Some((&**heap, 0)),
            Memory::Buffer | Memory::Imported | Memory::Sparse => {
                let message = "only physical blocks can be mapped: those are heaps";
                return Err(Error::new(ErrorKind::Unsupported, "map", message));
            }
        };
        // SAFETY: the caller vouches for the range, which is as long as the heap.
        unsafe { self.device.remap(sparse, heap, "map") }
    }

    unsafe fn unmap(&self, sparse: BlockRange<'_, MetalBlock>) -> Result<(), Error> {
        // SAFETY: the caller vouches for the range, and that nobody uses it.
        unsafe { self.device.remap(sparse, None, "unmap") }
    }

    fn host_pointer(&self, block: &MetalBlock) -> Option<NonNull<u8>> {
        block.contents
    }

    unsafe fn copy(
        &self,
        source: BlockRange<'_, MetalBlock>,
        destination: BlockRange<'_, MetalBlock>,
    ) -> Result<(), Error> {
        let blit = Blit::Copy {
            source: Part::of(source.block, source.offset),
            destination: Part::of(destination.block, destination.offset),
            bytes: source.bytes,
        };
        // SAFETY: the caller vouches for the ranges.
        unsafe { self.device.run(blit, "copy") }
    }

    unsafe fn fill(&self, destination: BlockRange<'_, MetalBlock>, value: u8) -> Result<(), Error> {
        // SAFETY: the caller vouches for the range.
        unsafe { self.device.run(Blit::fill(destination, value), "fill") }
    }

    /// Known from macOS 13 on.
    fn device_address(&self, block: &MetalBlock) -> Option<u64> {
        block.gpu_address
    }

    fn create_queue(&self) -> Result<MetalQueue, Error> {
        MetalQueue::new(&self.device)
    }

    /// A peer's block is read through a view of it that lives until the command has run. Where Metal makes none, that is
    /// [`ErrorKind::Driver`].
    unsafe fn enqueue(
        &self,
        queue: &MetalQueue,
        command: Command<'_, MetalBlock>,
        ticket: &Arc<Ticket>,
    ) -> Result<(), Error> {
        // SAFETY: the caller vouches for the command, and for its memory until the queue's value shows it.
        autoreleasepool(|_| unsafe { queue.enqueue(command, ticket) })
    }

    /// Private memory of the devices that [`Metal::reaches_directly`] names: of other memory there are no views.
    fn reads_peer(&self, peer: &Self, memory_type_index: usize) -> bool {
        peer.reaches_directly(self) && peer.device.storage_mode(memory_type_index) == MTLStorageMode::Private
    }

    /// No call of Metal's: the value rises when everything before has ended.
    unsafe fn signal(&self, queue: &MetalQueue, value: u64) -> Result<(), Error> {
        queue.signal(value)
    }

    /// A load, or two.
    fn completed(&self, queue: &MetalQueue) -> Result<u64, Error> {
        queue.completed()
    }

    fn wait(&self, queue: &MetalQueue, value: u64, timeout: Duration) -> Result<bool, Error> {
        queue.wait(value, timeout)
    }

    fn wait_on_queue(&self, queue: &MetalQueue, other: &MetalQueue, value: u64) -> Result<(), Error> {
        queue.wait_on(other, value)
    }
}
