//! Sparse blocks: Metal 4's placement sparse buffers, behind which parts of placement heaps are mapped.

use std::fmt;
use std::ptr::NonNull;

use aquifer_backend::{BlockRange, Error, ErrorKind};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{NSObjectProtocol, ProtocolObject};
use objc2::sel;
use objc2_foundation::NSRange;
use objc2_metal::{
    MTL4CommandQueue, MTL4UpdateSparseBufferMappingOperation, MTLBuffer, MTLCommandBuffer as _, MTLDevice,
    MTLGPUFamily, MTLHeap, MTLSharedEvent, MTLSparsePageSize, MTLSparseTextureMappingMode,
};
use parking_lot::Mutex;

use crate::block::MetalBlock;
use crate::device::Device;
use crate::status::{no_object, outcome};
use crate::transfer::new_command_buffer;

/// A change of mappings takes microseconds; a device that has not done it by then is asked whether it is still there.
const PROBE_MS: u64 = 200;

/// Maps memory of heaps behind sparse buffers, on a queue of its own.
pub(crate) struct Mapper {
    changes: Mutex<Changes>,
    /// Has the number of the last change that is done.
    done: Retained<ProtocolObject<dyn MTLSharedEvent>>,
}

struct Changes {
    queue: Retained<ProtocolObject<dyn MTL4CommandQueue>>,
    /// The number of the last change that the queue was given.
    last: u64,
}

impl fmt::Debug for Mapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapper").field("last", &self.changes.lock().last).finish_non_exhaustive()
    }
}

// SAFETY: the queue is used under its lock only, on any thread; Metal's queues are reference counted atomically.
unsafe impl Send for Mapper {}
// SAFETY: as above.
unsafe impl Sync for Mapper {}

impl Mapper {
    /// The tile that memory is mapped in, of the three sizes that Metal has: mapping costs by the call, and finer tiles
    /// would only matter for memory that is cut below them.
    pub(crate) const PAGE_SIZE: MTLSparsePageSize = MTLSparsePageSize::Size64;
    /// The same in bytes.
    pub(crate) const PAGE_BYTES: u64 = 64 << 10;

    /// `None` if the device has no Metal 4, or makes no queue for it.
    pub(crate) fn new(device: &ProtocolObject<dyn MTLDevice>) -> Option<Self> {
        let has_metal4 = device.supportsFamily(MTLGPUFamily::Metal4)
            && device.respondsToSelector(sel!(newMTL4CommandQueue))
            && device.respondsToSelector(sel!(newBufferWithLength:options:placementSparsePageSize:));
        if !has_metal4 {
            return None;
        }
        let changes = Mutex::new(Changes { queue: device.newMTL4CommandQueue()?, last: 0 });
        Some(Self { changes, done: device.newSharedEvent()? })
    }

    /// Begins to map `tiles` tiles of a heap, from one of them on, behind those of `buffer` from `tile` on; without a heap, to unmap
    /// them. Answers the number of the change, for [`Mapper::is_done`]. To be called with an autorelease pool.
    ///
    /// # Safety
    ///
    /// - The tiles lie in the buffer, which is a placement sparse one, and in the heap, which takes such tiles.
    /// - Unmapped tiles are not in use.
    /// - Buffer and heap live until the change is done, or the device is lost.
    unsafe fn begin(
        &self,
        buffer: &ProtocolObject<dyn MTLBuffer>,
        tile: u64,
        heap: Option<(&ProtocolObject<dyn MTLHeap>, u64)>,
        tiles: u64,
    ) -> u64 {
        let mode = match heap {
            Some(_) => MTLSparseTextureMappingMode::Map,
            None => MTLSparseTextureMappingMode::Unmap,
        };
        let mut update = MTL4UpdateSparseBufferMappingOperation {
            mode,
            bufferRange: NSRange::new(tile as usize, tiles as usize),
            heapOffset: heap.map_or(0, |(_, tile)| tile as usize),
        };
        let mut changes = self.changes.lock();
        // SAFETY: the caller vouches for the tiles; one operation is pointed to, and read before the call returns.
        unsafe {
            changes.queue.updateBufferMappings_heap_operations_count(
                buffer,
                heap.map(|(heap, _)| heap),
                NonNull::from(&mut update),
                1,
            );
        }
        changes.last += 1;
        changes.queue.signalEvent_value(ProtocolObject::from_ref(&*self.done), changes.last);
        changes.last
    }

    /// Waits a moment for a change; true if it is done.
    fn is_done(&self, change: u64) -> bool {
        self.done.waitUntilSignaledValue_timeoutMS(change, PROBE_MS)
    }

    /// A buffer of `bytes` bytes with nothing behind it.
    pub(crate) fn sparse_buffer(
        device: &ProtocolObject<dyn MTLDevice>,
        bytes: usize,
        options: objc2_metal::MTLResourceOptions,
    ) -> Result<Retained<ProtocolObject<dyn MTLBuffer>>, Error> {
        // SAFETY: a whole number of tiles, within `maxBufferLength`: the core has checked it.
        let buffer = unsafe {
            device.newBufferWithLength_options_placementSparsePageSize(bytes, options, Self::PAGE_SIZE)
        };
        buffer.ok_or_else(|| no_object("create_sparse_block", "placement sparse buffer"))
    }
}

impl Device {
    /// What maps memory, on devices that have sparse blocks.
    pub(crate) fn mapper(&self, operation: &'static str) -> Result<&Mapper, Error> {
        self.mapper.as_ref().ok_or_else(|| {
            let message = format!("{} has no Metal 4, and so no sparse blocks", self.properties.device);
            Error::new(ErrorKind::Unsupported, operation, message)
        })
    }

    /// Maps memory of a heap, from a byte on, behind a part of a sparse block; without a heap, takes away what is there. Returns
    /// when the device has done it, or is lost.
    ///
    /// # Safety
    ///
    /// - As [`Backend::map`](aquifer_backend::Backend::map) and [`Backend::unmap`](aquifer_backend::Backend::unmap).
    pub(crate) unsafe fn remap(
        &self,
        sparse: BlockRange<'_, MetalBlock>,
        heap: Option<(&ProtocolObject<dyn MTLHeap>, u64)>,
        operation: &'static str,
    ) -> Result<(), Error> {
        self.check(operation)?;
        let mapper = self.mapper(operation)?;
        let tile = |bytes: u64| bytes / Mapper::PAGE_BYTES;
        let heap = heap.map(|(heap, offset)| (heap, tile(offset)));
        autoreleasepool(|_| {
            // SAFETY: the caller vouches that the ranges lie in their blocks, which begin and end at tiles, that the one is sparse
            // and the other a heap that is cut, which are made for such tiles, that nobody uses what is unmapped, and that the
            // blocks live until this returns: that is when the change is done or the device lost.
            let change =
                unsafe { mapper.begin(&sparse.block.buffer, tile(sparse.offset), heap, tile(sparse.bytes)) };
            // Not given up after some time: the device would make the change later, to memory that has become others'.
            while !mapper.is_done(change) {
                self.probe(operation)?;
            }
            Ok(())
        })
    }

    /// Asks whether the device is still there, by work that does nothing: what is given to a Metal 4 queue ends without a word if
    /// it is not. To be called with an autorelease pool.
    fn probe(&self, operation: &'static str) -> Result<(), Error> {
        self.check(operation)?;
        let Ok(command_buffer) = new_command_buffer(&self.transfers, operation) else { return Ok(()) };
        command_buffer.commit();
        command_buffer.waitUntilCompleted();
        match outcome(&command_buffer, operation).map_err(|error| self.note(error)) {
            Err(error) if error.kind() == ErrorKind::DeviceLost => Err(error),
            _ => Ok(()),
        }
    }
}
