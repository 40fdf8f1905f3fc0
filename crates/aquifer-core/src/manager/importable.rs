//! What users may bring: memory of the host, and of the device.

use aquifer_backend::{
    Backend, Capabilities, DeviceMemory, HostMemory, ImportError, MemoryFlags, Properties,
};

/// Memory that users bring.
pub(super) trait Importable<B: Backend>: Sized {
    /// First address and size in bytes.
    fn extent(&self) -> (u64, u64);

    /// The memory type that it counts as, if the backend takes it.
    fn memory_type(properties: &Properties) -> Option<usize>;

    /// Why there is none, and what to do.
    const LACK: &'static str;

    /// What start and size must be multiples of, and the longest that it may be, in bytes.
    fn limits(properties: &Properties) -> (u64, u64);

    fn import(self, backend: &B, memory_type: usize) -> Result<B::Block, ImportError<Self>>;
}

/// The first memory type that is wanted.
fn first_type(properties: &Properties, is_wanted: impl Fn(MemoryFlags) -> bool) -> Option<usize> {
    properties.memory_types.iter().position(|one| is_wanted(one.flags))
}

impl<B: Backend> Importable<B> for HostMemory {
    const LACK: &'static str =
        "imports no memory of the host on this device; allocate a buffer and write to it";

    fn extent(&self) -> (u64, u64) {
        (self.start().addr().get() as u64, self.bytes())
    }

    fn memory_type(properties: &Properties) -> Option<usize> {
        let is_visible = |flags: MemoryFlags| flags.contains(MemoryFlags::HOST_VISIBLE);
        // What users bring is not pinned by that, where there is a difference.
        let is_plain = |flags: MemoryFlags| is_visible(flags) && !flags.contains(MemoryFlags::PINNED);
        let visible = first_type(properties, is_plain).or_else(|| first_type(properties, is_visible));
        visible.filter(|_| properties.capabilities.contains(Capabilities::IMPORT))
    }

    fn limits(properties: &Properties) -> (u64, u64) {
        // References to it may not be longer than the host's addresses.
        (properties.import_alignment_bytes, isize::MAX as u64)
    }

    fn import(self, backend: &B, memory_type: usize) -> Result<B::Block, ImportError<Self>> {
        backend.import_block(self, memory_type)
    }
}

impl<B: Backend> Importable<B> for DeviceMemory {
    const LACK: &'static str =
        "imports no memory of the device; allocate a buffer and have the device copy to it";

    fn extent(&self) -> (u64, u64) {
        (self.address(), self.bytes())
    }

    fn memory_type(properties: &Properties) -> Option<usize> {
        let local = first_type(properties, |flags| flags.contains(MemoryFlags::DEVICE_LOCAL));
        local.filter(|_| properties.capabilities.contains(Capabilities::IMPORT_DEVICE))
    }

    fn limits(_properties: &Properties) -> (u64, u64) {
        (1, isize::MAX as u64)
    }

    fn import(self, backend: &B, memory_type: usize) -> Result<B::Block, ImportError<Self>> {
        backend.import_device_block(self, memory_type)
    }
}
