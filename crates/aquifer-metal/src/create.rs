//! Making blocks.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use aquifer_backend::{BlockDesc, Error, ErrorKind, HostMemory, ImportError};
use block2::RcBlock;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{NSObjectProtocol, ProtocolObject};
use objc2::sel;
use objc2_foundation::NSString;
use objc2_metal::{
    MTLBuffer, MTLDevice, MTLHazardTrackingMode, MTLHeap, MTLHeapDescriptor, MTLHeapType, MTLResource as _,
    MTLResourceOptions, MTLStorageMode,
};
use parking_lot::Mutex;

use crate::block::{Memory, MetalBlock};
use crate::device::Device;
use crate::object::Object;
use crate::sparse::Mapper;

/// How often, and how long apart, is looked whether Metal has let go of memory whose work has just ended.
const LET_GO_LOOKS: u32 = 5;
const LET_GO_PAUSE: Duration = Duration::from_millis(1);

/// What blocks that are cut are called in Apple's tools.
const LABEL: &str = "aquifer block";
/// What a block is called that is made for an allocation without a tag.
const UNTAGGED_LABEL: &str = "aquifer buffer";

type Buffer = Retained<ProtocolObject<dyn MTLBuffer>>;

/// Metal objects of a block to be.
struct Parts {
    buffer: Buffer,
    memory: Memory,
}

impl Device {
    pub(crate) fn create_block(&self, desc: &BlockDesc<'_>) -> Result<MetalBlock, Error> {
        let operation = "create_block";
        self.check(operation)?;
        autoreleasepool(|_| {
            self.check_working_set(desc.bytes, operation)?;
            let bytes = to_length(desc.bytes, operation)?;
            let parts = match desc.dedicated_to {
                None if self.has_heaps(desc.memory_type_index) => {
                    self.heap_and_buffer(bytes, desc.memory_type_index)
                }
                _ => self.buffer(bytes, desc.memory_type_index),
            };
            let parts = parts.ok_or_else(|| self.out_of_memory(desc.bytes, operation))?;
            set_label(&parts, desc.dedicated_to);
            self.block(parts, desc.bytes, desc.memory_type_index, operation)
        })
    }

    pub(crate) fn create_sparse_block(&self, desc: &BlockDesc<'_>) -> Result<MetalBlock, Error> {
        let operation = "create_sparse_block";
        self.check(operation)?;
        self.check_sparse(desc, operation)?;
        autoreleasepool(|_| {
            let bytes = to_length(desc.bytes, operation)?;
            let options = self.resource_options(desc.memory_type_index);
            let buffer = Mapper::sparse_buffer(&self.raw, bytes, options)?;
            let parts = Parts { buffer, memory: Memory::Sparse };
            set_label(&parts, desc.dedicated_to);
            self.block(parts, desc.bytes, desc.memory_type_index, operation)
        })
    }

    pub(crate) fn create_physical_block(&self, desc: &BlockDesc<'_>) -> Result<MetalBlock, Error> {
        let operation = "create_physical_block";
        self.check(operation)?;
        self.check_sparse(desc, operation)?;
        self.create_block(&BlockDesc { dedicated_to: None, ..*desc })
    }

    /// Whether there are sparse blocks of that memory type.
    fn check_sparse(&self, desc: &BlockDesc<'_>, operation: &'static str) -> Result<(), Error> {
        self.mapper(operation)?;
        if self.storage_mode(desc.memory_type_index) == MTLStorageMode::Private {
            return Ok(());
        }
        let message =
            "sparse blocks are of private memory, which the host does not see; use that memory type";
        Err(Error::new(ErrorKind::Unsupported, operation, message))
    }

    /// The owner goes with the Metal buffer, so not before Metal has let it go.
    pub(crate) fn import_block(
        &self,
        memory: HostMemory,
        memory_type_index: usize,
    ) -> Result<MetalBlock, ImportError> {
        let operation = "import_block";
        if let Err(error) = self.check(operation).and_then(|()| self.check_importable(memory_type_index)) {
            return Err(ImportError { memory, error });
        }
        let (start, bytes) = (memory.start(), memory.bytes());
        let length = match to_length(bytes, operation) {
            Ok(length) => length,
            Err(error) => return Err(ImportError { memory, error }),
        };
        // Filled when nothing can fail any more, so that the memory can be given back until then.
        let owner = Arc::new(Mutex::new(None));
        let deallocator = RcBlock::new({
            let owner = Arc::clone(&owner);
            move |_: NonNull<c_void>, _: usize| drop::<Option<HostMemory>>(owner.lock().take())
        });
        let imported = autoreleasepool(|_| {
            // SAFETY: `HostMemory` says that the memory stays where it is, readable and writable, until its owner is dropped,
            // which the deallocator does, on whichever thread: the owner is Send.
            let buffer = unsafe {
                self.raw.newBufferWithBytesNoCopy_length_options_deallocator(
                    start.cast(),
                    length,
                    self.resource_options(memory_type_index),
                    Some(&deallocator),
                )
            };
            let buffer = buffer.ok_or_else(|| {
                let message = format!(
                    "Metal made no buffer of {bytes} bytes of the program's memory; it must be whole OS pages of one mapping \
                     that is readable and writable, not memory from malloc"
                );
                Error::new(ErrorKind::Driver, operation, message)
            })?;
            let parts = Parts { buffer, memory: Memory::Imported };
            set_label(&parts, Some("aquifer imported memory"));
            self.block(parts, bytes, memory_type_index, operation)
        });
        match imported {
            Ok(block) => {
                *owner.lock() = Some(memory);
                Ok(block)
            }
            Err(error) => Err(ImportError { memory, error }),
        }
    }

    /// The host's memory is shared memory, where there is no other for the device.
    fn check_importable(&self, memory_type_index: usize) -> Result<(), Error> {
        let lack = if !self.is_unified {
            "has memory of its own, and does not work in the host's"
        } else if self.storage_mode(memory_type_index) == MTLStorageMode::Private {
            "can import into the memory type that the host sees, and no other"
        } else {
            return Ok(());
        };
        let message = format!("{} {lack}; copy the content instead", self.properties.device);
        Err(Error::new(ErrorKind::Unsupported, "import_block", message))
    }

    /// A placement heap with a buffer over all of it.
    fn heap_and_buffer(&self, bytes: usize, memory_type_index: usize) -> Option<Parts> {
        let options = self.resource_options(memory_type_index);
        let placed = self.raw.heapBufferSizeAndAlignWithLength_options(bytes, options);
        let descriptor = MTLHeapDescriptor::new();
        descriptor.setType(MTLHeapType::Placement);
        descriptor.setStorageMode(self.storage_mode(memory_type_index));
        descriptor.setHazardTrackingMode(MTLHazardTrackingMode::Untracked);
        descriptor.setSize(placed.size);
        if self.mapper.is_some() && descriptor.storageMode() == MTLStorageMode::Private {
            descriptor.setMaxCompatiblePlacementSparsePageSize(Mapper::PAGE_SIZE);
        }
        let heap = self.raw.newHeapWithDescriptor(&descriptor)?;
        // SAFETY: a buffer of this length at the start of a heap of the size that Metal says it needs.
        let buffer = unsafe { heap.newBufferWithLength_options_offset(bytes, options, 0) }?;
        Some(Parts { buffer, memory: Memory::Heap(Object::new(heap)) })
    }

    /// A buffer with memory of its own.
    fn buffer(&self, bytes: usize, memory_type_index: usize) -> Option<Parts> {
        let options: MTLResourceOptions = self.resource_options(memory_type_index);
        let buffer = self.raw.newBufferWithLength_options(bytes, options)?;
        Some(Parts { buffer, memory: Memory::Buffer })
    }

    fn block(
        &self,
        parts: Parts,
        bytes: u64,
        memory_type_index: usize,
        operation: &'static str,
    ) -> Result<MetalBlock, Error> {
        let Parts { buffer, memory } = parts;
        let is_visible = self.storage_mode(memory_type_index) == MTLStorageMode::Shared;
        // A private buffer has none: the bindings would take Metal's null for a pointer.
        let contents = is_visible.then(|| buffer.contents().cast::<u8>());
        let has_address = buffer.respondsToSelector(sel!(gpuAddress));
        let gpu_address = has_address.then(|| buffer.gpuAddress());
        self.check_alignment(contents, gpu_address, operation)?;
        let block = MetalBlock {
            buffer: Object::new(buffer),
            memory,
            contents,
            bytes,
            gpu_address,
            registry_id: self.registry_id,
            was_viewed: AtomicBool::new(false),
            seat: Mutex::new(None),
        };
        self.add_to_residency(&block);
        Ok(block)
    }

    pub(crate) fn add_to_residency(&self, block: &MetalBlock) {
        if let Some(residency) = &self.residency {
            residency.add(&self.raw, block.allocation(), block.bytes, &block.seat);
        }
    }

    pub(crate) fn remove_from_residency(&self, block: &MetalBlock) {
        if let Some(residency) = &self.residency {
            residency.remove(block.allocation(), block.bytes, &block.seat);
        }
    }

    /// What the contract promises and Metal does not document: blocks start at OS pages.
    fn check_alignment(
        &self,
        contents: Option<NonNull<u8>>,
        gpu_address: Option<u64>,
        operation: &'static str,
    ) -> Result<(), Error> {
        let alignment = self.properties.alignment_bytes_min;
        let host_address = contents.map_or(0, |start| start.addr().get() as u64);
        let device_address = gpu_address.unwrap_or(0);
        if host_address.is_multiple_of(alignment) && device_address.is_multiple_of(alignment) {
            return Ok(());
        }
        let message = format!(
            "Metal made a buffer at {host_address:#x} ({device_address:#x} for the device), no multiple of {alignment}; please \
             report the device, {}",
            self.properties.device
        );
        Err(Error::new(ErrorKind::Driver, operation, message))
    }

    /// Metal itself gives more than it recommends, and swaps.
    fn check_working_set(&self, bytes: u64, operation: &'static str) -> Result<(), Error> {
        let fits = |(recommended, current): (u64, u64)| current.saturating_add(bytes) <= recommended;
        if self.options.overcommit || fits(self.working_set()) {
            return Ok(());
        }
        // What was destroyed may still be there: a residency set keeps it until it is committed, and a command buffer until Metal
        // has let go of that.
        self.flush_residency();
        for _ in 0..LET_GO_LOOKS {
            if fits(self.working_set()) {
                return Ok(());
            }
            if !self.has_just_ended_work() {
                break;
            }
            std::thread::sleep(LET_GO_PAUSE);
        }
        let (recommended, current) = self.working_set();
        let message = format!(
            "{bytes} bytes would make it {} with the {current} that the process has; the device recommends no more than \
             {recommended}. Free some, raise the system's iogpu.wired_limit_mb, or allow it with MetalOptions::overcommit",
            current.saturating_add(bytes)
        );
        Err(Error::new(ErrorKind::OutOfMemory, operation, message))
    }

    /// What the device recommends, and what this process has of it, in bytes.
    pub(crate) fn working_set(&self) -> (u64, u64) {
        (self.raw.recommendedMaxWorkingSetSize(), self.raw.currentAllocatedSize() as u64)
    }

    fn out_of_memory(&self, bytes: u64, operation: &'static str) -> Error {
        let (recommended, current) = self.working_set();
        let message = format!(
            "Metal gave no {bytes} bytes; the process has {current} of the {recommended} that the device recommends, and other \
             programs take memory too; free some, or end others"
        );
        Error::new(ErrorKind::OutOfMemory, operation, message)
    }
}

fn to_length(bytes: u64, operation: &'static str) -> Result<usize, Error> {
    usize::try_from(bytes).map_err(|_| {
        let message = format!("{bytes} bytes are more than there are addresses");
        Error::new(ErrorKind::OutOfMemory, operation, message)
    })
}

/// For Apple's tools.
fn set_label(parts: &Parts, dedicated_to: Option<&str>) {
    let label = match dedicated_to {
        None => LABEL,
        Some("") => UNTAGGED_LABEL,
        Some(tag) => tag,
    };
    let label = NSString::from_str(label);
    parts.buffer.setLabel(Some(&label));
    if let Memory::Heap(heap) = &parts.memory {
        heap.setLabel(Some(&label));
    }
}
