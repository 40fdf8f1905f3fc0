//! The raw calls for addresses and memory apart from each other (CUDA's virtual memory management).
//!
//! Its structures are declared here: their layout is the driver's ABI, while the bindings' fields have other names from one version
//! of CUDA to the next.

use std::ffi::{c_int, c_uchar, c_uint, c_ushort, c_void};
use std::ptr;

use cudarc::driver::sys::{self, CUmemAllocationGranularity_flags, CUmemGenericAllocationHandle};

use crate::sys::{Code, answer};

/// `CU_MEM_ALLOCATION_TYPE_PINNED`: memory that stays where it is.
const TYPE_PINNED: c_uint = 1;
/// `CU_MEM_LOCATION_TYPE_DEVICE`.
const LOCATION_DEVICE: c_uint = 1;
/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`: what other processes can be given.
const HANDLE_DESCRIPTOR: c_uint = 1;
/// `CU_MEM_ACCESS_FLAGS_PROT_READWRITE`.
const READ_WRITE: c_uint = 3;

/// `CUmemLocation`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Location {
    kind: c_uint,
    device: c_int,
}

/// `CUmemAllocationProp`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct AllocationProperties {
    kind: c_uint,
    requested_handles: c_uint,
    location: Location,
    security: *mut c_void,
    compression: c_uchar,
    is_rdma_capable: c_uchar,
    usage: c_ushort,
    reserved: [c_uchar; 4],
}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Access {
    location: Location,
    flags: c_uint,
}

const _: () = {
    assert!(size_of::<AllocationProperties>() == size_of::<sys::CUmemAllocationProp>());
    assert!(size_of::<Access>() == size_of::<sys::CUmemAccessDesc>());
};

/// A kind of memory: a device's, shareable by descriptor or not, for other devices on the bus (network cards) or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) ordinal: i32,
    pub(crate) is_shareable: bool,
    pub(crate) is_rdma_capable: bool,
}

impl Kind {
    fn properties(self) -> AllocationProperties {
        AllocationProperties {
            kind: TYPE_PINNED,
            requested_handles: if self.is_shareable { HANDLE_DESCRIPTOR } else { 0 },
            location: Location { kind: LOCATION_DEVICE, device: self.ordinal },
            security: ptr::null_mut(),
            compression: 0,
            is_rdma_capable: self.is_rdma_capable.into(),
            usage: 0,
            reserved: [0; 4],
        }
    }

    /// The unit of sizes and addresses that the driver wants at least.
    pub(crate) fn granularity(self) -> Result<u64, Code> {
        let (properties, mut bytes) = (self.properties(), 0);
        let least = CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
        // SAFETY: the driver reads the structure, of this layout, and writes a number.
        answer(unsafe {
            sys::cuMemGetAllocationGranularity(&raw mut bytes, (&raw const properties).cast(), least)
        })?;
        Ok(bytes as u64)
    }

    /// Makes memory of whole units.
    pub(crate) fn create(self, bytes: u64) -> Result<CUmemGenericAllocationHandle, Code> {
        let (properties, mut handle) = (self.properties(), 0);
        // SAFETY: as above; the driver writes a handle.
        answer(unsafe {
            sys::cuMemCreate(&raw mut handle, bytes as usize, (&raw const properties).cast(), 0)
        })?;
        Ok(handle)
    }
}

/// The memory goes when it is mapped nowhere any more.
///
/// # Safety
///
/// - The handle is one of [`Kind::create`], and nobody names it any more.
pub(crate) unsafe fn release(handle: CUmemGenericAllocationHandle) -> Result<(), Code> {
    // SAFETY: the caller vouches for it.
    answer(unsafe { sys::cuMemRelease(handle) })
}

/// Reserves addresses, aligned as the driver likes (to its granularity at least).
pub(crate) fn reserve(bytes: u64) -> Result<u64, Code> {
    let mut address = 0;
    // SAFETY: the driver writes an address.
    answer(unsafe { sys::cuMemAddressReserve(&raw mut address, bytes as usize, 0, 0, 0) })?;
    Ok(address)
}

/// # Safety
///
/// - The range is one of [`reserve`], all of it, with nothing mapped, and nobody names it any more.
pub(crate) unsafe fn unreserve(address: u64, bytes: u64) -> Result<(), Code> {
    // SAFETY: the caller vouches for it.
    answer(unsafe { sys::cuMemAddressFree(address, bytes as usize) })
}

/// Puts all of some memory behind addresses, which nobody can use before [`allow`].
///
/// # Safety
///
/// - The addresses are reserved, with nothing mapped; the handle is alive and of that many bytes.
pub(crate) unsafe fn map(address: u64, bytes: u64, handle: CUmemGenericAllocationHandle) -> Result<(), Code> {
    // SAFETY: the caller vouches for it.
    answer(unsafe { sys::cuMemMap(address, bytes as usize, 0, handle, 0) })
}

/// # Safety
///
/// - The range is one or more of [`map`], each of them whole, and nobody uses it.
pub(crate) unsafe fn unmap(address: u64, bytes: u64) -> Result<(), Code> {
    // SAFETY: the caller vouches for it.
    answer(unsafe { sys::cuMemUnmap(address, bytes as usize) })
}

/// Lets devices read and write what is mapped.
pub(crate) fn allow(address: u64, bytes: u64, ordinals: &[i32]) -> Result<(), Code> {
    let access =
        |&device: &i32| Access { location: Location { kind: LOCATION_DEVICE, device }, flags: READ_WRITE };
    let all: Vec<_> = ordinals.iter().map(access).collect();
    // SAFETY: the driver reads so many structures of this layout, and checks the range.
    answer(unsafe { sys::cuMemSetAccess(address, bytes as usize, all.as_ptr().cast(), all.len()) })
}
