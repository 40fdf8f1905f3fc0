//! Metal: its backend, its manager's names, and traces replayed on it.

use crate::replay_devices::without_time;
use crate::trace::ReplayDevice;
use crate::{
    Buffer, Config, Error, MemoryManager, MemoryPool, PinnedAllocator, PinnedBuffer, PressureMonitor, Queue,
    UnifiedBuffer,
};

pub use aquifer_metal::{
    Metal, MetalBlock, MetalOptions, MetalQueue, QueueHold, ResidentHold, SystemPressureSource, objc2_metal,
};

/// The manager of a Metal device's memory.
pub type MetalMemoryManager = MemoryManager<Metal>;

/// The pooled memory of a [`MetalMemoryManager`].
pub type MetalMemoryPool = MemoryPool<Metal>;

/// Memory of a Metal device, owned.
pub type MetalMemoryBuffer = Buffer<Metal>;

/// The same as [`MetalMemoryBuffer`]: every buffer is from the pool, and goes back there when it is dropped.
pub type MetalPooledBuffer = Buffer<Metal>;

/// Pinned memory of a Metal device: memory that the host and the device see, in limits of its own.
pub type MetalPinnedMemoryAllocator = PinnedAllocator<Metal>;

/// Pinned memory, owned, as a slice.
pub type MetalPinnedMemoryBuffer = PinnedBuffer<Metal>;

/// Memory that the host and a Metal device both use: without a copy on Apple silicon.
pub type MetalUnifiedMemoryBuffer = UnifiedBuffer<Metal>;

/// Watches how short memory is for a [`MetalMemoryManager`], and has it give memory back. What the system says goes to it by
/// [`system_pressure_sources`](crate::system_pressure_sources).
pub type MetalMemoryPressureMonitor = PressureMonitor<Metal>;

/// Replays on a Metal device: a queue is held back by the host until it is let go. There is no clock; the replay goes as fast as it
/// can.
#[derive(Debug, Clone, Copy, Default)]
pub struct MetalReplay;

impl MetalReplay {
    /// `config` as such replays want it: the same result each time, and no waiting for what cannot come meanwhile.
    #[must_use]
    pub fn configure(self, config: Config) -> Config {
        without_time(config)
    }
}

impl ReplayDevice<Metal> for MetalReplay {
    type Hold = QueueHold;

    fn hold(
        &self,
        queue: &Queue<Metal>,
        _buffer: &Buffer<Metal>,
        _until_us: u64,
    ) -> Result<QueueHold, Error> {
        queue.raw().hold()
    }

    fn release(&self, queue: &Queue<Metal>, holds: Vec<QueueHold>) {
        drop(holds);
        queue.raw().wait_idle();
    }
}
