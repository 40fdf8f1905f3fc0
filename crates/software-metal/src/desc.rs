//! What kind of device to make.

/// Describes a device. The default is like a Mac with Apple silicon and 16 GiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceDesc {
    /// What `name` answers.
    pub name: String,
    /// What `registryID` answers.
    pub registry_id: u64,
    /// Whether processor and device share their memory. Without, heaps are private only, as on Macs with Intel processors.
    pub is_unified: bool,
    /// Whether `supportsFamily:` knows the Apple families. Without, offsets and sizes of blits are multiples of 4,
    /// and memory's pages are 4 KiB instead of 16.
    pub is_apple_family: bool,
    /// What `isLowPower` answers.
    pub is_low_power: bool,
    /// What `isRemovable` answers.
    pub is_removable: bool,
    /// Whether there are residency sets. Without, the device does not respond to their selector.
    pub has_residency_sets: bool,
    /// Whether there are Metal 4's command queues and placement sparse buffers. Without, the device does not respond to their selectors.
    pub has_metal4: bool,
    /// What `recommendedMaxWorkingSetSize` answers, in bytes.
    pub working_set_bytes: u64,
    /// How many bytes there are. What would pass them is nil.
    pub memory_bytes: u64,
    /// What `maxBufferLength` answers, in bytes. Longer buffers are nil.
    pub max_buffer_bytes: u64,
    /// How many buffers and heaps may live at once. One more is nil.
    pub resource_count_max: u64,
    /// What `peerGroupID` answers; 0: the device has no peers.
    pub peer_group_id: u64,
    /// What `peerIndex` answers.
    pub peer_index: u32,
    /// What `peerCount` answers.
    pub peer_count: u32,
    /// With a seed, work that nothing orders runs in an order drawn from it, and so do the handlers. Without, each
    /// queue runs its work in the order of the commits.
    pub overlap_seed: Option<u64>,
}

impl Default for DeviceDesc {
    fn default() -> Self {
        const GIB: u64 = 1 << 30;
        Self {
            name: "software Metal device".into(),
            registry_id: 1,
            is_unified: true,
            is_apple_family: true,
            is_low_power: false,
            is_removable: false,
            has_residency_sets: true,
            has_metal4: false,
            working_set_bytes: 8 * GIB,
            memory_bytes: 12 * GIB,
            max_buffer_bytes: 4 * GIB,
            resource_count_max: 499_000,
            peer_group_id: 0,
            peer_index: 0,
            peer_count: 0,
            overlap_seed: None,
        }
    }
}

impl DeviceDesc {
    /// The size of a page of the device's memory, in bytes.
    pub(crate) fn page_bytes(&self) -> usize {
        if self.is_apple_family { 16384 } else { 4096 }
    }
}
