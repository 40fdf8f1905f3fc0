//! Blocks.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use aquifer_backend::{DeviceMemory, HostMemory};
use cudarc::driver::sys::CUmemGenericAllocationHandle;

use crate::context::Context;

/// A block of a CUDA device: memory, addresses or both. Plain numbers; it has no `Drop`, since only the backend's `destroy_block` gives
/// it back.
pub struct CudaBlock {
    pub(crate) content: Content,
    pub(crate) bytes: u64,
    /// The device whose it is.
    pub(crate) ordinal: i32,
}

#[derive(Debug)]
pub(crate) enum Content {
    /// Of the driver's allocator, in device memory.
    Allocated { address: u64 },
    /// Memory behind addresses of its own, for good: what destroys it waits for nothing.
    Whole { address: u64, handle: CUmemGenericAllocationHandle },
    /// Addresses.
    Sparse { address: u64 },
    /// Memory.
    Physical { handle: CUmemGenericAllocationHandle },
    /// Page-locked memory of the host.
    Locked { host: HostAddress, address: u64 },
    /// Managed memory.
    Managed { host: HostAddress },
    /// Memory that the program brought, page-locked while it is a block.
    Imported { memory: HostMemory, address: u64 },
    /// Memory of the device that the program brought, and the context in which it is used.
    ImportedDevice { memory: DeviceMemory, context: Arc<Context> },
}

/// An address of the host's, for whoever may use the memory behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostAddress(pub(crate) NonNull<u8>);

// SAFETY: it is an address; the core says who uses what is there.
unsafe impl Send for HostAddress {}
// SAFETY: as above.
unsafe impl Sync for HostAddress {}

impl fmt::Debug for CudaBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaBlock")
            .field("content", &self.content)
            .field("bytes", &self.bytes)
            .field("device", &self.ordinal)
            .finish_non_exhaustive()
    }
}

impl CudaBlock {
    /// How many bytes it is long.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the device reaches it; `None` for memory without addresses.
    pub(crate) fn address(&self) -> Option<u64> {
        match self.content {
            Content::Allocated { address }
            | Content::Whole { address, .. }
            | Content::Sparse { address }
            | Content::Locked { address, .. }
            | Content::Imported { address, .. } => Some(address),
            Content::Managed { host } => Some(host.0.addr().get() as u64),
            Content::ImportedDevice { ref memory, .. } => Some(memory.address()),
            Content::Physical { .. } => None,
        }
    }

    /// Where the device reaches it, if a [`Sanitizer`](crate::sanitizer::Sanitizer) is told of what is in use there.
    pub(crate) fn watched_address(&self) -> Option<u64> {
        if let Content::Allocated { address } = self.content { Some(address) } else { None }
    }

    /// The context in which copies must reach it, if not every device that was let in reaches it: nobody knows how memory that the program
    /// brought was allocated. What a pool gave (`cuMemAllocAsync`), for one, no peer reaches by `cuCtxEnablePeerAccess`.
    pub(crate) fn own_context(&self) -> Option<&Context> {
        if let Content::ImportedDevice { context, .. } = &self.content { Some(context) } else { None }
    }

    /// Where the host reaches it.
    pub(crate) fn host(&self) -> Option<NonNull<u8>> {
        match &self.content {
            Content::Locked { host, .. } | Content::Managed { host } => Some(host.0),
            Content::Imported { memory, .. } => Some(memory.start()),
            _ => None,
        }
    }
}
