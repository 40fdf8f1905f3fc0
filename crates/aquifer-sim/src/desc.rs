//! What a simulated device is told to be.

use crate::Costs;
use aquifer_backend::{Capabilities, Heap, MemoryFlags, MemoryType, Properties};

/// Delays that the seed adds to work, so that it ends later than its size says, and in another order across queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lateness {
    /// How many of a thousand commands are delayed before they begin.
    pub per_mille: u32,
    /// The longest delay, in nanoseconds. Each power of two up to it is about as likely.
    pub delay_ns_max: u64,
}

impl Lateness {
    /// No delays.
    pub const NONE: Self = Self { per_mille: 0, delay_ns_max: 0 };

    /// Every fourth command is delayed, by up to 50 ms: much more than real devices do.
    pub const WILD: Self = Self { per_mille: 250, delay_ns_max: 50_000_000 };
}

/// How long kernels run that do not say so themselves: mostly short, sometimes very long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelTimes {
    /// The longest of the short ones, in nanoseconds. Each power of two up to it is about as likely.
    pub short_ns_max: u64,
    /// How many of a thousand are long.
    pub long_per_mille: u32,
    /// The longest of all, in nanoseconds.
    pub long_ns_max: u64,
}

impl KernelTimes {
    /// No time at all.
    pub const ZERO: Self = Self { short_ns_max: 0, long_per_mille: 0, long_ns_max: 0 };

    /// Up to 20 us, and one in thirty up to 60 ms. Chosen, not measured.
    pub const MIXED: Self = Self { short_ns_max: 20_000, long_per_mille: 33, long_ns_max: 60_000_000 };
}

/// When the system takes the memory of purgeable blocks by itself. It also does when it is short of memory, and when it is
/// told to ([`Sim::purge`](crate::Sim::purge)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purging {
    /// How many of a thousand purgeable blocks it takes.
    pub per_mille: u32,
    /// After how long at most, in nanoseconds. Each power of two up to it is about as likely.
    pub after_ns_max: u64,
}

impl Purging {
    /// Never.
    pub const NONE: Self = Self { per_mille: 0, after_ns_max: 0 };

    /// Every other block, within 50 ms: much sooner than real systems do.
    pub const EAGER: Self = Self { per_mille: 500, after_ns_max: 50_000_000 };
}

/// What a [`Sim`](crate::Sim) is. [`Default`] is an H200 with seed 0 and no lateness.
///
/// It has one heap and one memory type, local to the device and invisible to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimDesc {
    /// The device's name.
    pub name: String,
    /// Size of its memory in bytes. None of it exists, so that any size will do.
    pub memory_bytes: u64,
    /// Decides everything that is drawn: the same seed and the same calls give the same run.
    pub seed: u64,
    /// What everything costs.
    pub costs: Costs,
    /// Delays on top.
    pub lateness: Lateness,
    /// How long kernels run.
    pub kernels: KernelTimes,
    /// When purgeable memory is taken.
    pub purging: Purging,
    /// The largest block, in bytes.
    pub block_bytes_max: u64,
    /// How many blocks may exist at once.
    pub block_count_max: u64,
    /// Every block is a multiple of this many bytes. A power of two.
    pub block_granularity_bytes: u64,
    /// Every block starts at a multiple of this many bytes. A power of two, at least 256.
    pub alignment_bytes_min: u64,
    /// What it promises. It keeps what it can: there is no content to be zero, and all memory is taken at once.
    pub capabilities: Capabilities,
    /// Whether [`Sim::history`](crate::Sim::history) is kept, which takes memory for every command.
    pub keeps_history: bool,
}

impl Default for SimDesc {
    fn default() -> Self {
        let memory_bytes = 140 << 30;
        Self {
            name: "simulated NVIDIA H200".to_owned(),
            memory_bytes,
            seed: 0,
            costs: Costs::H200,
            lateness: Lateness::NONE,
            kernels: KernelTimes::MIXED,
            purging: Purging::EAGER,
            block_bytes_max: memory_bytes,
            block_count_max: 1 << 32,
            block_granularity_bytes: 2 << 20,
            alignment_bytes_min: 2 << 20,
            capabilities: Capabilities::QUEUES | Capabilities::PURGEABLE | Capabilities::SIMULATED,
            keeps_history: false,
        }
    }
}

impl SimDesc {
    pub(crate) fn properties(&self) -> Properties {
        Properties {
            backend: "sim",
            device: self.name.clone(),
            heaps: vec![Heap { size_bytes: self.memory_bytes }],
            memory_types: vec![MemoryType { heap_index: 0, flags: MemoryFlags::DEVICE_LOCAL }],
            block_granularity_bytes: self.block_granularity_bytes,
            block_bytes_max: self.block_bytes_max,
            block_count_max: self.block_count_max,
            alignment_bytes_min: self.alignment_bytes_min,
            physical_page_bytes: 0,
            import_alignment_bytes: 0,
            capabilities: self.capabilities,
        }
    }
}
