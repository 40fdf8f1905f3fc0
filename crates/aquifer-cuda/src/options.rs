//! What can be chosen when a backend is made.

use std::num::NonZeroU64;

/// What unified memory is; [`CudaOptions::unified`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnifiedMemory {
    /// Page-locked memory of the host that the device reads and writes over the link, each time: zero copies, and as slow as the
    /// link. For what is used once, or seldom.
    Mapped,
    /// Managed memory, which the driver moves between host and device as they touch it, and at most so many bytes of it. A program
    /// that asks for more than the device has free can hang the GPU, so keep it small.
    Managed {
        /// The most that blocks may take together, in bytes.
        bytes_max: NonZeroU64,
    },
}

/// Settings of a [`Cuda`](crate::Cuda) backend. The defaults are right for most programs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CudaOptions {
    /// Which device, as the driver counts them: from 0, without those that `CUDA_VISIBLE_DEVICES` hides.
    pub ordinal: u32,
    /// What unified memory is.
    pub unified: UnifiedMemory,
    /// Whether queues may read the memory of other devices directly where the hardware can. Otherwise transfers go through
    /// memory of the host.
    pub peer_access: bool,
    /// Whether addresses and memory are had apart from each other where the device can, which elastic pools need.
    pub virtual_memory: bool,
    /// Whether compute-sanitizer is told of each buffer if the program runs under it (`compute-sanitizer --nvtx yes`). Then there is no
    /// virtual memory, and freeing a buffer waits for the queues that may use it.
    pub sanitizer: bool,
}

impl Default for CudaOptions {
    fn default() -> Self {
        Self {
            ordinal: 0,
            unified: UnifiedMemory::Mapped,
            peer_access: true,
            virtual_memory: true,
            sanitizer: true,
        }
    }
}

impl CudaOptions {
    /// The same with [`CudaOptions::ordinal`].
    #[must_use]
    pub fn ordinal(mut self, ordinal: u32) -> Self {
        self.ordinal = ordinal;
        self
    }

    /// The same with [`CudaOptions::unified`].
    #[must_use]
    pub fn unified(mut self, unified: UnifiedMemory) -> Self {
        self.unified = unified;
        self
    }

    /// The same with [`CudaOptions::peer_access`].
    #[must_use]
    pub fn peer_access(mut self, peer_access: bool) -> Self {
        self.peer_access = peer_access;
        self
    }

    /// The same with [`CudaOptions::sanitizer`].
    #[must_use]
    pub fn sanitizer(mut self, sanitizer: bool) -> Self {
        self.sanitizer = sanitizer;
        self
    }

    /// The same with [`CudaOptions::virtual_memory`].
    #[must_use]
    pub fn virtual_memory(mut self, virtual_memory: bool) -> Self {
        self.virtual_memory = virtual_memory;
        self
    }
}
