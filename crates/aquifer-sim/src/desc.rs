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
/// The default has one heap and one memory type, local to the device and invisible to the host, and no content.
/// [`SimDesc::discrete`] and [`SimDesc::integrated`] have content, and memory that the host sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimDesc {
    /// The device's name.
    pub name: String,
    /// Size of its memory in bytes, the first heap. Without content none of it exists, so that any size will do; with it, what
    /// is touched takes memory of the host.
    pub memory_bytes: u64,
    /// Size in bytes of the host's memory that it can use as blocks, the second heap; 0: there is no such heap.
    pub host_memory_bytes: u64,
    /// Its memory types, the best for ordinary buffers first. Memory that the host sees needs content. What is not local to the
    /// device is on the host's side of the link.
    pub memory_types: Vec<MemoryType>,
    /// Whether memory of the host is behind the blocks, and copies, fills and the programs of kernels move bytes, each when it
    /// ends in virtual time. Then the device reads and writes memory of the host too. It does not claim
    /// [`Capabilities::SIMULATED`] then.
    pub has_content: bool,
    /// Whether copies of different queues that go over the link the same way take turns: one at a time is on the link up, one on
    /// the link down, and one on the way from peers. A copy on a queue that hangs leaves its way to others.
    pub has_shared_link: bool,
    /// Whether its queues read blocks of its peers ([`Sim::peer`](crate::Sim::peer)), and its kernels use them.
    pub reads_peers: bool,
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
    /// What is mapped behind a sparse block is a multiple of this many bytes. A power of two, and a multiple of the granularity.
    pub physical_page_bytes: u64,
    /// How many mappings behind sparse blocks there may be at once.
    pub mapping_count_max: u64,
    /// The size of the address space, in bytes: how many all sparse blocks together may have. They may be larger than
    /// [`SimDesc::block_bytes_max`].
    pub sparse_bytes_max: u64,
    /// What it promises. Sparse blocks ([`Capabilities::SPARSE_BLOCKS`]) can be had of the memory types that are local to the
    /// device and that the host does not see, if there are any; the properties say so. It keeps what it can: without content there is nothing to be zero, and all memory is taken at once.
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
            host_memory_bytes: 0,
            memory_types: vec![MemoryType { heap_index: 0, flags: MemoryFlags::DEVICE_LOCAL }],
            has_content: false,
            has_shared_link: false,
            reads_peers: false,
            seed: 0,
            costs: Costs::H200,
            lateness: Lateness::NONE,
            kernels: KernelTimes::MIXED,
            purging: Purging::EAGER,
            block_bytes_max: memory_bytes,
            block_count_max: 1 << 32,
            block_granularity_bytes: 2 << 20,
            alignment_bytes_min: 2 << 20,
            physical_page_bytes: 2 << 20,
            // Chosen: CUDA names no limit.
            mapping_count_max: 1 << 32,
            // The addresses of 47 bits that CUDA shares with the host.
            sparse_bytes_max: 1 << 47,
            capabilities: Capabilities::QUEUES
                | Capabilities::PURGEABLE
                | Capabilities::SPARSE_BLOCKS
                | Capabilities::SIMULATED,
            keeps_history: false,
        }
    }
}

/// All that a device may claim, as told.
const CLAIMABLE: [Capabilities; 9] = [
    Capabilities::ZEROED_BLOCKS,
    Capabilities::COMMIT_ON_TOUCH,
    Capabilities::RELEASE_RANGE,
    Capabilities::QUEUES,
    Capabilities::SIMULATED,
    Capabilities::PURGEABLE,
    Capabilities::IMPORT,
    Capabilities::SPARSE_BLOCKS,
    Capabilities::RUNS_ON_HOST,
];

/// Those of the capabilities that `is_kept` says.
fn only(capabilities: Capabilities, is_kept: impl Fn(Capabilities) -> bool) -> Capabilities {
    let kept = CLAIMABLE.into_iter().filter(|&one| capabilities.contains(one) && is_kept(one));
    kept.fold(Capabilities::NONE, |all, one| all | one)
}

/// Whether a device with content may claim it.
fn goes_with_content(capability: Capabilities) -> bool {
    let not = [Capabilities::SIMULATED, Capabilities::IMPORT, Capabilities::RUNS_ON_HOST];
    !not.contains(&capability)
}

/// Whether memory of such a type may be had without addresses. What the host sees is not: one pointer cannot be good for
/// addresses that change what is behind them.
fn can_be_sparse(flags: MemoryFlags) -> bool {
    flags.contains(MemoryFlags::DEVICE_LOCAL) && !flags.contains(MemoryFlags::HOST_VISIBLE)
}

impl SimDesc {
    /// A device with content like a discrete GPU: 4 GiB of its own, which the host does not see, and 2 GiB of pinned memory of
    /// the host, behind a link that copies take turns on. Times are an H200's.
    #[must_use]
    pub fn discrete() -> Self {
        let pinned = MemoryFlags::HOST_VISIBLE | MemoryFlags::PINNED;
        Self {
            name: "simulated discrete GPU".to_owned(),
            memory_bytes: 4 << 30,
            host_memory_bytes: 2 << 30,
            memory_types: vec![
                MemoryType { heap_index: 0, flags: MemoryFlags::DEVICE_LOCAL },
                MemoryType { heap_index: 1, flags: pinned },
            ],
            has_content: true,
            has_shared_link: true,
            costs: Costs::H200_PAGEABLE,
            block_bytes_max: 4 << 30,
            ..Self::default()
        }
    }

    /// A device with content like an integrated GPU: 4 GiB that are the host's as well, as unified memory, which is pinned too,
    /// or as memory that the host does not see. It has no sparse blocks.
    #[must_use]
    pub fn integrated() -> Self {
        let capabilities = Self::default().capabilities;
        let unified = MemoryFlags::HOST_VISIBLE | MemoryFlags::DEVICE_LOCAL | MemoryFlags::PINNED;
        Self {
            name: "simulated integrated GPU".to_owned(),
            memory_bytes: 4 << 30,
            memory_types: vec![
                MemoryType { heap_index: 0, flags: unified },
                MemoryType { heap_index: 0, flags: MemoryFlags::DEVICE_LOCAL },
            ],
            has_content: true,
            has_shared_link: true,
            costs: Costs::INTEGRATED,
            block_bytes_max: 4 << 30,
            block_granularity_bytes: 16 << 10,
            alignment_bytes_min: 16 << 10,
            capabilities: only(capabilities, |one| one != Capabilities::SPARSE_BLOCKS),
            ..Self::default()
        }
    }

    /// Panics if something is not what its documentation says.
    pub(crate) fn check(&self) {
        assert!(self.block_granularity_bytes.is_power_of_two(), "{self:?}");
        assert!(self.alignment_bytes_min.is_power_of_two() && self.alignment_bytes_min >= 256, "{self:?}");
        let page_bytes = self.physical_page_bytes;
        let is_page = page_bytes.is_power_of_two() && page_bytes >= self.block_granularity_bytes;
        assert!(is_page || !self.has_sparse_blocks(), "{self:?}");
        let heap_count = self.heaps().len();
        assert!(!self.memory_types.is_empty(), "a device needs a memory type: {self:?}");
        for memory_type in &self.memory_types {
            let flags = memory_type.flags;
            assert!(memory_type.heap_index < heap_count, "there is no such heap: {self:?}");
            let is_visible = flags.contains(MemoryFlags::HOST_VISIBLE);
            assert!(self.has_content || !is_visible, "memory that the host sees needs content: {self:?}");
            assert!(is_visible || !flags.contains(MemoryFlags::PINNED), "pinned memory is visible: {self:?}");
            let is_told = flags.contains(MemoryFlags::SPARSE);
            assert!(!is_told, "which types are sparse follows from the capabilities: {self:?}");
        }
    }

    fn heaps(&self) -> Vec<Heap> {
        let host = Some(Heap { size_bytes: self.host_memory_bytes }).filter(|heap| heap.size_bytes > 0);
        [Heap { size_bytes: self.memory_bytes }].into_iter().chain(host).collect()
    }

    fn has_sparse_blocks(&self) -> bool {
        let has_type = self.memory_types.iter().any(|one| can_be_sparse(one.flags));
        has_type && self.capabilities.contains(Capabilities::SPARSE_BLOCKS)
    }

    fn told_capabilities(&self) -> Capabilities {
        only(self.capabilities, |one| {
            (one != Capabilities::SPARSE_BLOCKS || self.has_sparse_blocks())
                && (!self.has_content || goes_with_content(one))
        })
    }

    fn told_types(&self) -> Vec<MemoryType> {
        let has_sparse_blocks = self.has_sparse_blocks();
        let told = |one: &MemoryType| {
            let is_sparse = has_sparse_blocks && can_be_sparse(one.flags);
            let sparse = if is_sparse { MemoryFlags::SPARSE } else { MemoryFlags::NONE };
            MemoryType { flags: one.flags | sparse, ..*one }
        };
        self.memory_types.iter().map(told).collect()
    }

    pub(crate) fn properties(&self) -> Properties {
        let has_sparse_blocks = self.has_sparse_blocks();
        let if_sparse = |value| if has_sparse_blocks { value } else { 0 };
        Properties {
            backend: "sim",
            device: self.name.clone(),
            heaps: self.heaps(),
            memory_types: self.told_types(),
            block_granularity_bytes: self.block_granularity_bytes,
            block_bytes_max: self.block_bytes_max,
            block_count_max: self.block_count_max,
            alignment_bytes_min: self.alignment_bytes_min,
            physical_page_bytes: if_sparse(self.physical_page_bytes),
            mapping_count_max: if_sparse(self.mapping_count_max),
            mapping_costs: has_sparse_blocks.then(|| self.costs.of_mapping(self.physical_page_bytes)),
            import_alignment_bytes: 0,
            capabilities: self.told_capabilities(),
        }
    }
}
