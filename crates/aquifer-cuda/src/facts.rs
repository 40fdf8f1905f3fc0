//! What a device is and has.

use aquifer_backend::{
    Capabilities, Error, ErrorKind, Heap, MappingCosts, MemoryFlags, MemoryType, Properties,
};
use cudarc::driver::sys::{CUdevice, CUdevice_attribute as Attribute};

use crate::context::Context;
use crate::host_memory;
use crate::options::{CudaOptions, UnifiedMemory};
use crate::sys::{self, Code};
use crate::virtual_memory::{self, Kind};

/// What a block is a multiple of, in bytes: the system's page, as pinned memory has it. The driver cuts device memory itself.
const GRANULARITY_BYTES: u64 = 4 << 10;
/// The driver aligns what it allocates to this many bytes at least (CUDA C++ Programming Guide, "Device Memory Accesses").
const ALIGNMENT_BYTES: u64 = 256;
/// On an H200 with driver 580, by the handle: map 1 us and allow 26 us together, and the least that was measured of the others
/// (`bench/record/h200`). It hardly depends on the size.
const MAPPING_COSTS: MappingCosts =
    MappingCosts { create_ns: 11_000, map_ns: 27_000, unmap_ns: 18_000, destroy_ns: 11_000 };

/// A kind that memory can really be made of, and its granularity: some systems say that it can be shared by descriptor, or be used by other
/// devices, and refuse it.
fn working_kind(kind: Kind) -> Result<Option<(Kind, u64)>, Code> {
    let granularity = kind.granularity()?;
    match kind.create(granularity) {
        Ok(handle) => {
            // SAFETY: it has just been made, and nobody else names it.
            unsafe { virtual_memory::release(handle) }?;
            Ok(Some((kind, granularity)))
        }
        // There is none now; that says nothing about the kind.
        Err(Code::CUDA_ERROR_OUT_OF_MEMORY) => Ok(Some((kind, granularity))),
        Err(_) if kind.is_rdma_capable => working_kind(Kind { is_rdma_capable: false, ..kind }),
        Err(_) if kind.is_shareable => working_kind(Kind { is_shareable: false, ..kind }),
        Err(_) => Ok(None),
    }
}

/// What the driver says of a device.
#[derive(Debug)]
pub(crate) struct Facts {
    name: String,
    device_bytes: u64,
    host_bytes: u64,
    has_words: bool,
    has_register: bool,
    is_managed_concurrent: bool,
    is_managed_wanted: bool,
    /// With what granularity, in bytes.
    pub(crate) physical: Option<(Kind, u64)>,
}

impl Facts {
    pub(crate) fn ask(raw: CUdevice, context: &Context, options: &CudaOptions) -> Result<Self, Code> {
        let has = |attribute| sys::attribute(raw, attribute).map(|value| value != 0);
        let ordinal = options.ordinal as i32;
        let _current = context.enter()?;
        let mut physical = None;
        if options.virtual_memory && has(Attribute::CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED)?
        {
            let is_shareable =
                has(Attribute::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED)?;
            let is_rdma_capable =
                has(Attribute::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED)?;
            physical = working_kind(Kind { ordinal, is_shareable, is_rdma_capable })?;
        }
        Ok(Self {
            name: sys::device_name(raw)?,
            device_bytes: sys::total_bytes(raw)?,
            host_bytes: host_memory::total_bytes(),
            has_words: has(Attribute::CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS)?,
            has_register: has(Attribute::CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED)?,
            is_managed_concurrent: has(Attribute::CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS)?,
            is_managed_wanted: matches!(options.unified, UnifiedMemory::Managed { .. }),
            physical,
        })
    }

    pub(crate) fn check(&self, operation: &'static str) -> Result<(), Error> {
        let lack = if !self.has_words {
            "its streams write no 64-bit words"
        } else if !self.has_register {
            "memory of the host cannot be page-locked for it"
        } else if self.is_managed_wanted && !self.is_managed_concurrent {
            "host and device cannot use managed memory at the same time; use UnifiedMemory::Mapped"
        } else {
            return Ok(());
        };
        let message = format!("{} cannot be used: {lack}", self.name);
        Err(Error::new(ErrorKind::Unsupported, operation, message))
    }

    pub(crate) fn properties(&self, is_sanitized: bool) -> Properties {
        let (visible, local) = (MemoryFlags::HOST_VISIBLE, MemoryFlags::DEVICE_LOCAL);
        let pinned = visible | MemoryFlags::PINNED;
        let device = if self.physical.is_some() { local | MemoryFlags::SPARSE } else { local };
        // The driver moves managed memory as it likes; the other is locked.
        let unified = if self.is_managed_wanted { visible | local } else { pinned | local };
        let on_heap = |heap_index, flags| MemoryType { heap_index, flags };
        let page_bytes = self.physical.map_or(0, |(_, bytes)| bytes.max(GRANULARITY_BYTES));
        let sanitized = if is_sanitized { Capabilities::SANITIZED } else { Capabilities::NONE };
        let sparse = if self.physical.is_some() { Capabilities::SPARSE_BLOCKS } else { Capabilities::NONE };
        Properties {
            backend: "cuda",
            device: self.name.clone(),
            heaps: vec![Heap { size_bytes: self.device_bytes }, Heap { size_bytes: self.host_bytes }],
            memory_types: vec![on_heap(0, device), on_heap(1, pinned), on_heap(1, unified)],
            block_granularity_bytes: GRANULARITY_BYTES,
            block_bytes_max: self.device_bytes.max(self.host_bytes) / GRANULARITY_BYTES * GRANULARITY_BYTES,
            // The documentation knows no limits of these two.
            block_count_max: u64::MAX,
            mapping_count_max: if self.physical.is_some() { u64::MAX } else { 0 },
            alignment_bytes_min: ALIGNMENT_BYTES,
            physical_page_bytes: page_bytes,
            mapping_costs: self.physical.map(|_| MAPPING_COSTS),
            import_alignment_bytes: host_memory::page_bytes(),
            capabilities: Capabilities::QUEUES
                | Capabilities::IMPORT
                | Capabilities::IMPORT_DEVICE
                | sparse
                | sanitized,
        }
    }
}
