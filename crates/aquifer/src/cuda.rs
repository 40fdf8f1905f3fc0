//! CUDA: its backend, its manager's names, and traces replayed on it.

use crate::replay_devices::without_time;
use crate::trace::ReplayDevice;
use crate::{
    Buffer, Config, Error, MemoryManager, MemoryPool, PinnedAllocator, PinnedBuffer, PressureMonitor, Queue,
    UnifiedBuffer,
};

pub use aquifer_cuda::{
    Cuda, CudaBlock, CudaOptions, CudaQueue, QueueHold as CudaQueueHold, UnifiedMemory,
    ValueHold as CudaValueHold, cudarc,
};

/// The manager of a CUDA device's memory.
pub type CudaMemoryManager = MemoryManager<Cuda>;

/// The pooled memory of a [`CudaMemoryManager`].
pub type CudaMemoryPool = MemoryPool<Cuda>;

/// Memory of a CUDA device, owned.
pub type CudaMemoryBuffer = Buffer<Cuda>;

/// Page-locked memory of the host, in limits of its own.
pub type CudaPinnedMemoryAllocator = PinnedAllocator<Cuda>;

/// Pinned memory, owned, as a slice.
pub type CudaPinnedMemoryBuffer = PinnedBuffer<Cuda>;

/// Memory that the host and a CUDA device both use: over the link, or managed by the driver ([`CudaOptions::unified`]).
pub type CudaUnifiedMemoryBuffer = UnifiedBuffer<Cuda>;

/// Watches how short memory is for a [`CudaMemoryManager`], and has it give memory back.
pub type CudaMemoryPressureMonitor = PressureMonitor<Cuda>;

/// Replays on a CUDA device: a queue's value is held until it is let go. Streams are not, since a device runs few at a time, and a trace may
/// have more that are busy. There is no clock; the replay goes as fast as it can.
#[derive(Debug, Clone, Copy, Default)]
pub struct CudaReplay;

impl CudaReplay {
    /// `config` as such replays want it: the same result each time, and no waiting for what cannot come meanwhile.
    #[must_use]
    pub fn configure(self, config: Config) -> Config {
        without_time(config)
    }
}

impl ReplayDevice<Cuda> for CudaReplay {
    type Hold = CudaValueHold;

    fn hold(
        &self,
        queue: &Queue<Cuda>,
        _buffer: &Buffer<Cuda>,
        _until_us: u64,
    ) -> Result<CudaValueHold, Error> {
        Ok(queue.raw().hold_value())
    }

    fn release(&self, queue: &Queue<Cuda>, holds: Vec<CudaValueHold>) {
        drop(holds);
        queue.raw().wait_idle();
    }
}
