//! What both sides of the library's own interface know: the driver, and the tests that set it up.

/// What the driver is to be like. For the whole process, before `cuInit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// How many devices there are. With 0 `cuInit` answers `CUDA_ERROR_NO_DEVICE`.
    pub device_count: u32,
    /// What `cuDriverGetVersion` answers: 1000 times the major version plus 10 times the minor.
    pub driver_version: u32,
    /// Bytes of memory of each device. They are there when they are touched.
    pub memory_bytes: u64,
    /// What sizes and addresses of mapped memory are multiples of, in bytes: a power of two, at least 4096.
    pub granularity: u64,
    /// Whether devices reach each other's memory.
    pub peers: bool,
    /// Delays each piece of streams' work by up to 200 µs, by this seed. 0: no delay.
    pub delay_seed: u64,
    /// How many streams of a device run at a time, one that waits for a word among them: 8 on real devices, unless
    /// `CUDA_DEVICE_MAX_CONNECTIONS` says something else. 0: all of them.
    pub connections: u32,
}

impl Default for Settings {
    /// One device of 4 GiB, of a driver for CUDA 13.0.
    fn default() -> Self {
        Self {
            device_count: 1,
            driver_version: 13000,
            memory_bytes: 4 << 30,
            granularity: 2 << 20,
            peers: true,
            delay_seed: 0,
            connections: 0,
        }
    }
}

/// What programs have not given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Live {
    /// Contexts, primary ones among them.
    pub contexts: u64,
    /// Allocations of `cuMemAlloc`, `cuMemAllocAsync` and `cuMemAllocManaged`.
    pub blocks: u64,
    /// Allocations of `cuMemHostAlloc`.
    pub pinned: u64,
    /// Ranges of `cuMemHostRegister`.
    pub registered: u64,
    /// References to physical memory: `cuMemCreate` and `cuMemRetainAllocationHandle` less `cuMemRelease`.
    pub handles: u64,
    /// Reserved ranges of addresses. They belong to no device.
    pub reservations: u64,
    /// Mappings of physical memory.
    pub mappings: u64,
    /// Streams that have not been destroyed.
    pub streams: u64,
    /// Events that have not been destroyed.
    pub events: u64,
    /// Bytes of devices' memory that are taken.
    pub device_bytes: u64,
}
