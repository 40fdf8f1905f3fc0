//! What a tool and NVTX version 3 agree on: numbers and layouts, declared anew from the headers' facts.
//!
//! They are those of the headers in CUDA 13.5's `nvidia-nvtx` package (13.5.25): `nvToolsExtMem.h` (module 1, compatibility
//! 0x0102), `nvtxDetail/nvtxExtImplMem_v1.h` (one segment of 63 slots), `nvtxDetail/nvtxExtTypes.h` (the module's description)
//! and `nvtxDetail/nvtxTypes.h` (the core's tables). <https://github.com/NVIDIA/NVTX> has the same.
//!
//! Addresses of memory are `usize` here, since nobody reads through them: they may be a device's.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::atomic::AtomicPtr;

/// `NVTX_VERSION`.
pub(crate) const VERSION: u16 = 3;
/// `NVTX_EXT_MODULEID_MEM`.
pub(crate) const MEMORY_MODULE: u16 = 1;
/// `NVTX_EXT_COMPATID_MEM`.
pub(crate) const MEMORY_COMPATIBILITY: u16 = 0x0102;
/// The memory extension's one segment.
pub(crate) const MEMORY_SEGMENT: usize = 1;
/// `NVTX_EXT_MEM_SLOT_COUNT`.
pub(crate) const MEMORY_SLOTS: usize = 63;

/// `NVTX_MEM_HEAP_USAGE_TYPE_SUB_ALLOCATOR`: nothing of the heap may be accessed but its regions.
pub(crate) const USAGE_SUB_ALLOCATOR: u32 = 1;
/// `NVTX_MEM_TYPE_VIRTUAL_ADDRESS`: described by a [`VirtualRange`].
pub(crate) const TYPE_VIRTUAL_ADDRESS: u32 = 1;
/// `NVTX_MEM_REGION_REF_TYPE_POINTER`: a region is meant by its start.
pub(crate) const REFERENCE_POINTER: u32 = 1;
/// `NVTX_MESSAGE_UNKNOWN`: no name.
pub(crate) const MESSAGE_UNKNOWN: u32 = 0;
/// `NVTX_MESSAGE_TYPE_ASCII`: bytes up to a zero.
pub(crate) const MESSAGE_ASCII: u32 = 1;

/// A place for the address of one of the tool's functions. Null and [`SLOT_DISABLED`] mean that there is none.
pub(crate) type Slot = AtomicPtr<()>;

/// `NVTX_EXTENSION_DISABLED`.
pub(crate) const SLOT_DISABLED: usize = 1;

/// The memory functions by slot (`NVTX3EXT_CBID_*`), those that are used here.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
pub(crate) enum MemoryFunction {
    HeapRegister = 0,
    HeapUnregister = 1,
    HeapReset = 2,
    RegionsRegister = 3,
    RegionsUnregister = 5,
    RegionsName = 6,
}

/// The core's functions by their place in the table of module `NVTX_CB_MODULE_CORE2`, those that are used here.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
pub(crate) enum CoreFunction {
    DomainCreateA = 12,
    DomainDestroy = 14,
}

/// The tool's name for something. Never read through.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Handle(*mut c_void);

// SAFETY: a handle is a name that only the tool looks into, and NVTX has all of a tool's functions callable on any thread.
unsafe impl Send for Handle {}
// SAFETY: as for Send.
unsafe impl Sync for Handle {}

impl Handle {
    /// Also the name of the domain that everybody shares.
    pub(crate) const NULL: Handle = Handle(std::ptr::null_mut());

    /// Whether it names something: early headers had -1 for "no tool" (`NVTX_MEM_HEAP_HANDLE_NO_TOOL`), later ones null.
    pub(crate) fn is_some(self) -> bool {
        !self.0.is_null() && self.0.addr() != usize::MAX
    }

    pub(crate) fn as_argument(self) -> *const c_void {
        self.0
    }
}

/// `InitializeInjectionNvtx2`, given the core's `nvtxGetExportTable`. Zero means failure.
pub(crate) type InitializeCore = unsafe extern "system" fn(GetExportTable) -> c_int;
/// `InitializeInjectionNvtxExtension`. Zero means failure.
pub(crate) type InitializeExtension = unsafe extern "system" fn(*mut ModuleInfo) -> c_int;
pub(crate) type GetExportTable = unsafe extern "system" fn(u32) -> *const c_void;

/// `nvtxDomainCreateA`.
pub(crate) type DomainCreate = unsafe extern "system" fn(*const c_char) -> Handle;
/// `nvtxDomainDestroy`.
pub(crate) type DomainDestroy = unsafe extern "system" fn(Handle);
/// `nvtxMemHeapRegister`.
pub(crate) type HeapRegister = unsafe extern "C" fn(Handle, *const HeapDescription) -> Handle;
/// The memory functions that answer nothing: all take the domain, and a heap's handle or a description.
pub(crate) type Tell = unsafe extern "C" fn(Handle, *const c_void);

/// `nvtxExtModuleSegment_t`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Segment {
    pub(crate) id: usize,
    pub(crate) slot_count: usize,
    pub(crate) slots: *const Slot,
}

/// `nvtxExtModuleInfo_t`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct ModuleInfo {
    pub(crate) nvtx_version: u16,
    pub(crate) struct_size: u16,
    pub(crate) module: u16,
    pub(crate) compatibility: u16,
    pub(crate) segment_count: usize,
    pub(crate) segments: *mut Segment,
    /// For tools that want to call back: the memory extension offers nothing.
    pub(crate) get_export_function: *const c_void,
    pub(crate) extension_info: *const c_void,
}

/// A module's slots, by the function's number: the first and the one behind the last are null.
pub(crate) type FunctionTable = *const Option<&'static Slot>;

/// `NvtxExportTableCallbacks`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct CallbackTable {
    pub(crate) struct_size: usize,
    pub(crate) get_module_function_table:
        unsafe extern "system" fn(module: c_int, table: *mut FunctionTable, count: *mut c_uint) -> c_int,
}

/// `NvtxExportTableVersionInfo`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct VersionTable {
    pub(crate) struct_size: usize,
    pub(crate) version: u32,
    pub(crate) reserved: u32,
    pub(crate) set_injection_version: extern "system" fn(u32),
}

/// `nvtxMemVirtualRangeDesc_t`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct VirtualRange {
    pub(crate) bytes: usize,
    pub(crate) start: usize,
}

/// `nvtxMemHeapDesc_t`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct HeapDescription {
    pub(crate) compatibility: u16,
    pub(crate) struct_size: u16,
    pub(crate) reserved: u32,
    pub(crate) usage: u32,
    pub(crate) memory_type: u32,
    pub(crate) range_size: usize,
    pub(crate) range: *const VirtualRange,
    pub(crate) category: u32,
    pub(crate) message_type: u32,
    pub(crate) message: *const c_char,
}

/// `nvtxMemRegionsRegisterBatch_t`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RegionsRegister {
    pub(crate) compatibility: u16,
    pub(crate) struct_size: u16,
    pub(crate) memory_type: u32,
    pub(crate) heap: Handle,
    pub(crate) count: usize,
    pub(crate) element_size: usize,
    pub(crate) elements: *const VirtualRange,
    /// Where handles go; null where regions are meant by their starts.
    pub(crate) handles: *mut Handle,
}

/// `nvtxMemRegionsUnregisterBatch_t`. The elements are starts ([`REFERENCE_POINTER`]).
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RegionsUnregister {
    pub(crate) compatibility: u16,
    pub(crate) struct_size: u16,
    pub(crate) reference_type: u32,
    pub(crate) count: usize,
    pub(crate) element_size: usize,
    pub(crate) elements: *const usize,
}

/// `nvtxMemRegionNameDesc_t`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RegionName {
    pub(crate) reference_type: u32,
    pub(crate) message_type: u32,
    pub(crate) start: usize,
    pub(crate) name: *const c_char,
    pub(crate) category: u32,
    pub(crate) reserved: u32,
}

/// `nvtxMemRegionsNameBatch_t`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RegionsName {
    pub(crate) compatibility: u16,
    pub(crate) struct_size: u16,
    pub(crate) reserved: u32,
    pub(crate) count: usize,
    pub(crate) element_size: usize,
    pub(crate) elements: *const RegionName,
    pub(crate) reserved_too: usize,
}

/// A description's size as the description itself has it.
pub(crate) const fn struct_size<T>() -> u16 {
    assert!(size_of::<T>() < 100, "descriptions are small");
    size_of::<T>() as u16
}

/// The sizes that a C compiler gives these structures on 64-bit systems.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<Segment>() == 24);
    assert!(size_of::<ModuleInfo>() == 40);
    assert!(size_of::<CallbackTable>() == 16);
    assert!(size_of::<VersionTable>() == 24);
    assert!(size_of::<VirtualRange>() == 16);
    assert!(size_of::<HeapDescription>() == 48);
    assert!(size_of::<RegionsRegister>() == 48);
    assert!(size_of::<RegionsUnregister>() == 32);
    assert!(size_of::<RegionName>() == 32);
    assert!(size_of::<RegionsName>() == 40);
};
