//! Sparse blocks: Metal 4's placement sparse buffers, behind which parts of placement heaps are mapped.

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aquifer_backend::{BlockRange, Error, ErrorKind};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{NSObjectProtocol, ProtocolObject};
use objc2::sel;
use objc2_foundation::NSRange;
use objc2_metal::{
    MTL4CommandQueue, MTL4UpdateSparseBufferMappingOperation, MTLBuffer, MTLDevice, MTLGPUFamily, MTLHeap,
    MTLSharedEvent, MTLSparsePageSize, MTLSparseTextureMappingMode,
};
use parking_lot::Mutex;

use crate::block::MetalBlock;
use crate::device::Device;
use crate::status::no_object;

/// A change of mappings takes microseconds; a device that has not done it by then hangs.
const WAIT_MS: u64 = 10_000;

/// Maps memory of heaps behind sparse buffers, on a queue of its own.
pub(crate) struct Mapper {
    /// One change at a time, with the value that the event then has.
    queue: Mutex<Retained<ProtocolObject<dyn MTL4CommandQueue>>>,
    done: Retained<ProtocolObject<dyn MTLSharedEvent>>,
    value: AtomicU64,
}

impl fmt::Debug for Mapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapper").field("value", &self.value).finish_non_exhaustive()
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
        let queue = Mutex::new(device.newMTL4CommandQueue()?);
        Some(Self { queue, done: device.newSharedEvent()?, value: AtomicU64::new(0) })
    }

    /// Maps `tiles` tiles of `heap` from `heap_tile` behind those of `buffer` from `tile`; without a heap, unmaps them. Returns
    /// when the device has done it.
    ///
    /// # Safety
    ///
    /// - The tiles lie in the buffer, which is a placement sparse one, and in the heap, which takes such tiles.
    /// - Unmapped tiles are not in use.
    pub(crate) unsafe fn update(
        &self,
        buffer: &ProtocolObject<dyn MTLBuffer>,
        tile: u64,
        heap: Option<(&ProtocolObject<dyn MTLHeap>, u64)>,
        tiles: u64,
        operation: &'static str,
    ) -> Result<(), Error> {
        let mode = match heap {
            Some(_) => MTLSparseTextureMappingMode::Map,
            None => MTLSparseTextureMappingMode::Unmap,
        };
        let mut update = MTL4UpdateSparseBufferMappingOperation {
            mode,
            bufferRange: NSRange::new(tile as usize, tiles as usize),
            heapOffset: heap.map_or(0, |(_, tile)| tile as usize),
        };
        let value = autoreleasepool(|_| {
            let queue = self.queue.lock();
            // SAFETY: the caller vouches for the tiles; one operation is pointed to, and read before the call returns.
            unsafe {
                queue.updateBufferMappings_heap_operations_count(
                    buffer,
                    heap.map(|(heap, _)| heap),
                    NonNull::from(&mut update),
                    1,
                );
            }
            let value = self.value.fetch_add(1, Ordering::Relaxed) + 1;
            queue.signalEvent_value(ProtocolObject::from_ref(&*self.done), value);
            value
        });
        if self.done.waitUntilSignaledValue_timeoutMS(value, WAIT_MS) {
            Ok(())
        } else {
            let message = format!("the device did not change {tiles} mappings within {WAIT_MS} ms");
            Err(Error::new(ErrorKind::Driver, operation, message))
        }
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

    /// Maps memory of a heap, from a byte on, behind a part of a sparse block; without a heap, takes away what is there.
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
        // SAFETY: the caller vouches that the ranges lie in their blocks, which begin and end at tiles, that the one is sparse and
        // the other a heap that is cut, which are made for such tiles, and that nobody uses what is unmapped.
        unsafe {
            mapper.update(&sparse.block.buffer, tile(sparse.offset), heap, tile(sparse.bytes), operation)
        }
    }
}
