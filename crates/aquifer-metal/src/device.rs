//! What a backend, its queues and whoever still runs for them share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use aquifer_backend::{Capabilities, Error, ErrorKind, Heap, MemoryFlags, MemoryType, Properties};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{NSObjectProtocol, ProtocolObject};
use objc2::sel;
use objc2_metal::{
    MTLCommandQueue, MTLDevice, MTLGPUFamily, MTLResourceOptions, MTLSharedEvent, MTLStorageMode,
};
use parking_lot::{RwLock, RwLockReadGuard};

use crate::options::MetalOptions;
use crate::residency::Residency;
use crate::sparse::Mapper;
use crate::status::no_object;

/// The OS page on Apple silicon, in bytes; on other Macs it is a quarter of that.
const APPLE_PAGE_BYTES: u64 = 16 << 10;
const PAGE_BYTES: u64 = 4 << 10;

/// How many command buffers of one queue may be on their way; asking for one more blocks until one has ended. Metal's own
/// default is 64.
const COMMAND_BUFFERS_MAX: usize = 1024;

/// Metal lets go of what a command buffer used a moment after its handlers were called; it has long done so by then.
const JUST_US: u64 = 50_000;

#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) raw: Retained<ProtocolObject<dyn MTLDevice>>,
    pub(crate) options: MetalOptions,
    pub(crate) properties: Properties,
    pub(crate) is_unified: bool,
    /// The same for all of Metal's objects that are this GPU.
    pub(crate) registry_id: u64,
    /// The same for GPUs that are connected with each other; 0: it is in no such group.
    pub(crate) peer_group_id: u64,
    /// Apple's own GPUs copy and fill at any offset; the documentation wants multiples of 4 on macOS, which binds others.
    pub(crate) copies_any_bytes: bool,
    pub(crate) residency: Option<Arc<Residency>>,
    pub(crate) mapper: Option<Mapper>,
    /// For copies and fills that are waited for.
    pub(crate) transfers: Retained<ProtocolObject<dyn MTLCommandQueue>>,
    /// Whether the device is gone. Written under `touching`.
    is_lost: AtomicBool,
    /// When the device last ended some work, in microseconds since `made`; 0 if it has not.
    last_end_us: AtomicU64,
    made: Instant,
    /// Who copies by the processor on a queue's behalf reads this meanwhile, so that nothing is touched any more when the device
    /// is declared lost.
    touching: RwLock<()>,
}

impl Device {
    pub(crate) fn new(
        raw: Retained<ProtocolObject<dyn MTLDevice>>,
        options: MetalOptions,
    ) -> Result<Self, Error> {
        autoreleasepool(|_| {
            let transfers = new_command_queue(&raw, "Metal::new")?;
            let residency = if options.residency_sets { Residency::new(&raw) } else { None };
            if let Some(residency) = &residency {
                residency.attach(&transfers);
            }
            let mapper = Mapper::new(&raw);
            let is_unified = raw.hasUnifiedMemory();
            let is_apple = raw.supportsFamily(MTLGPUFamily::Apple1);
            let properties = properties(&raw, &options, is_apple, mapper.is_some());
            let has_peers = raw.respondsToSelector(sel!(peerGroupID));
            Ok(Self {
                registry_id: raw.registryID(),
                peer_group_id: if has_peers { raw.peerGroupID() } else { 0 },
                options,
                properties,
                is_unified,
                copies_any_bytes: is_apple,
                residency,
                mapper,
                transfers,
                is_lost: AtomicBool::new(false),
                last_end_us: AtomicU64::new(0),
                made: Instant::now(),
                touching: RwLock::new(()),
                raw,
            })
        })
    }

    pub(crate) fn flags(&self, memory_type_index: usize) -> MemoryFlags {
        self.properties.memory_types[memory_type_index].flags
    }

    /// The storage mode of a memory type.
    pub(crate) fn storage_mode(&self, memory_type_index: usize) -> MTLStorageMode {
        if self.flags(memory_type_index).contains(MemoryFlags::HOST_VISIBLE) {
            MTLStorageMode::Shared
        } else {
            MTLStorageMode::Private
        }
    }

    /// The options that buffers of a memory type are made with: no hazard tracking, since the core's timelines do that.
    pub(crate) fn resource_options(&self, memory_type_index: usize) -> MTLResourceOptions {
        let mode = match self.storage_mode(memory_type_index) {
            MTLStorageMode::Shared => MTLResourceOptions::StorageModeShared,
            _ => MTLResourceOptions::StorageModePrivate,
        };
        mode | MTLResourceOptions::HazardTrackingModeUntracked
    }

    /// [`ErrorKind::DeviceLost`] once it is known that the device is gone.
    pub(crate) fn check(&self, operation: &'static str) -> Result<(), Error> {
        if self.is_lost.load(Ordering::Acquire) { Err(lost(operation)) } else { Ok(()) }
    }

    /// Keeps the device from being declared lost, for a short time; `None` if it is lost.
    pub(crate) fn hold(&self) -> Option<RwLockReadGuard<'_, ()>> {
        let guard = self.touching.read();
        (!self.is_lost.load(Ordering::Acquire)).then_some(guard)
    }

    /// Notes an error that says that the device is gone; returns it.
    pub(crate) fn note(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::DeviceLost {
            let _touching = self.touching.write();
            self.is_lost.store(true, Ordering::Release);
        }
        error
    }

    /// Notes that a command buffer has ended.
    pub(crate) fn note_end(&self) {
        self.last_end_us.store(self.now_us(), Ordering::Relaxed);
    }

    /// Whether a command buffer has ended just now, so that Metal may still hold what it used.
    pub(crate) fn has_just_ended_work(&self) -> bool {
        let last_end_us = self.last_end_us.load(Ordering::Relaxed);
        last_end_us > 0 && self.now_us().saturating_sub(last_end_us) < JUST_US
    }

    fn now_us(&self) -> u64 {
        self.made.elapsed().as_micros().max(1) as u64
    }

    /// Whether blocks of a memory type can be heaps: on devices without unified memory only private ones can (Apple's
    /// documentation of `MTLHeapDescriptor.storageMode`).
    pub(crate) fn has_heaps(&self, memory_type_index: usize) -> bool {
        self.is_unified || self.storage_mode(memory_type_index) == MTLStorageMode::Private
    }

    pub(crate) fn shared_event(
        &self,
        operation: &'static str,
    ) -> Result<Retained<ProtocolObject<dyn MTLSharedEvent>>, Error> {
        self.raw.newSharedEvent().ok_or_else(|| no_object(operation, "shared event"))
    }

    pub(crate) fn command_queue(
        &self,
        operation: &'static str,
    ) -> Result<Retained<ProtocolObject<dyn MTLCommandQueue>>, Error> {
        let queue = new_command_queue(&self.raw, operation)?;
        if let Some(residency) = &self.residency {
            residency.attach(&queue);
        }
        Ok(queue)
    }

    /// Commits what has changed of the residency sets, before work is given to a queue.
    pub(crate) fn flush_residency(&self) {
        if let Some(residency) = &self.residency {
            residency.flush();
        }
    }
}

fn new_command_queue(
    device: &ProtocolObject<dyn MTLDevice>,
    operation: &'static str,
) -> Result<Retained<ProtocolObject<dyn MTLCommandQueue>>, Error> {
    let queue = device.newCommandQueueWithMaxCommandBufferCount(COMMAND_BUFFERS_MAX);
    queue.ok_or_else(|| no_object(operation, "command queue"))
}

pub(crate) fn lost(operation: &'static str) -> Error {
    Error::new(ErrorKind::DeviceLost, operation, "the device was removed")
}

fn properties(
    device: &ProtocolObject<dyn MTLDevice>,
    options: &MetalOptions,
    is_apple: bool,
    has_sparse: bool,
) -> Properties {
    let page_bytes = if is_apple { APPLE_PAGE_BYTES } else { PAGE_BYTES };
    let is_unified = device.hasUnifiedMemory();
    let local = MemoryFlags::DEVICE_LOCAL;
    // Shared storage is always page-locked for the device; the crate's documentation says why.
    let shared = MemoryFlags::HOST_VISIBLE | MemoryFlags::PINNED;
    let private = if has_sparse { local | MemoryFlags::SPARSE } else { local };
    let flags = if is_unified {
        // What both see is as fast as what only the device sees, so it comes first.
        [local | shared, private]
    } else {
        [private, shared]
    };
    let placed = device.heapBufferSizeAndAlignWithLength_options(
        page_bytes as usize,
        MTLResourceOptions::HazardTrackingModeUntracked,
    );
    let granularity = page_bytes.max(placed.align as u64).next_power_of_two();
    let physical_page_bytes = if has_sparse { Mapper::PAGE_BYTES.max(granularity) } else { 0 };
    let capability = |is_there, capability| if is_there { capability } else { Capabilities::NONE };
    let block_bytes_max = device.maxBufferLength() as u64 / granularity * granularity;
    Properties {
        backend: "metal",
        device: device.name().to_string(),
        // Metal tells no size; what it recommends is what can be used well.
        heaps: vec![Heap { size_bytes: device.recommendedMaxWorkingSetSize() }],
        memory_types: flags.map(|flags| MemoryType { heap_index: 0, flags }).into(),
        block_granularity_bytes: granularity,
        block_bytes_max,
        block_count_max: (options.resource_count_max.get() / 2).max(1),
        alignment_bytes_min: page_bytes,
        physical_page_bytes,
        // Apple's documentation knows no limit.
        mapping_count_max: if has_sparse { u64::MAX } else { 0 },
        // Nobody has measured it on Apple's hardware.
        mapping_costs: None,
        import_alignment_bytes: if is_unified { page_bytes } else { 0 },
        capabilities: Capabilities::QUEUES
            | Capabilities::PURGEABLE
            | capability(is_unified, Capabilities::IMPORT)
            | capability(has_sparse, Capabilities::SPARSE_BLOCKS),
    }
}
