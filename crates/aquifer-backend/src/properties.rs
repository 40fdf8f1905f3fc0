//! What a device is: heaps, memory types, limits, optional abilities.

use std::fmt;
use std::ops::BitOr;

/// Defines a set of bits with named members: `contains`, `|` and a `Debug` that prints the names.
macro_rules! bit_set {
    ($(#[$doc:meta])* $name:ident: $repr:ty { $($(#[$member_doc:meta])* $member:ident = $value:expr;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name($repr);

        impl $name {
            /// No bit set.
            pub const NONE: Self = Self(0);
            $($(#[$member_doc])* pub const $member: Self = Self($value);)+

            /// Whether every bit of `other` is set here.
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }
        }

        impl BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut set = f.debug_set();
                $(if self.contains(Self::$member) {
                    set.entry(&format_args!(stringify!($member)));
                })+
                set.finish()
            }
        }
    };
}

bit_set! {
    /// What a memory type's memory can do.
    MemoryFlags: u8 {
        /// The host can read and write it: [`Backend::host_pointer`](crate::Backend::host_pointer) is `Some`.
        HOST_VISIBLE = 1;
        /// Fast for the device. Together with [`MemoryFlags::HOST_VISIBLE`] it is *unified* memory: both use it where it is.
        DEVICE_LOCAL = 1 << 1;
        /// Memory of the host that the system keeps where it is (*page-locked*), so that the device copies from and to it by
        /// itself, as fast as the link goes. [`MemoryFlags::HOST_VISIBLE`] too.
        PINNED = 1 << 2;
        /// It can be had without addresses, and addresses without it:
        /// [`Backend::create_sparse_block`](crate::Backend::create_sparse_block). Not without
        /// [`Capabilities::SPARSE_BLOCKS`].
        SPARSE = 1 << 3;
    }
}

bit_set! {
    /// Optional abilities of a backend. Each bit obliges the backend to what its text says.
    Capabilities: u16 {
        /// New blocks read as zero.
        ZEROED_BLOCKS = 1;
        /// A block takes physical memory only where it has been touched.
        COMMIT_ON_TOUCH = 1 << 1;
        /// The memory of a part of a block can be given back: [`Backend::release_range`](crate::Backend::release_range).
        RELEASE_RANGE = 1 << 2;
        /// There are queues: [`Backend::create_queue`](crate::Backend::create_queue) does not answer
        /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), and all methods that take a queue do their work.
        QUEUES = 1 << 3;
        /// Nothing is behind the blocks: what is written cannot be read back, and a queue's time is not the host's.
        SIMULATED = 1 << 4;
        /// The memory of an idle block can be left to the system until it is needed again:
        /// [`Backend::make_purgeable`](crate::Backend::make_purgeable),
        /// [`Backend::make_nonpurgeable`](crate::Backend::make_nonpurgeable).
        PURGEABLE = 1 << 5;
        /// Memory of the host can be made a block: [`Backend::import_block`](crate::Backend::import_block).
        IMPORT = 1 << 6;
        /// Addresses can be had without memory, and memory be mapped behind them:
        /// [`Backend::create_sparse_block`](crate::Backend::create_sparse_block),
        /// [`Backend::create_physical_block`](crate::Backend::create_physical_block), [`Backend::map`](crate::Backend::map),
        /// [`Backend::unmap`](crate::Backend::unmap). At least one memory type has [`MemoryFlags::SPARSE`].
        SPARSE_BLOCKS = 1 << 7;
        /// The device is the host's processors: a queue copies no faster than a thread of the program does.
        RUNS_ON_HOST = 1 << 8;
        /// Memory of the device that something else allocated can be made a block:
        /// [`Backend::import_device_block`](crate::Backend::import_device_block). At least one memory type has
        /// [`MemoryFlags::DEVICE_LOCAL`].
        IMPORT_DEVICE = 1 << 9;
        /// A tool checks what the device does with memory, and wants to know which parts of blocks are in use:
        /// [`Backend::note_allocated`](crate::Backend::note_allocated), [`Backend::note_freed`](crate::Backend::note_freed). For finding
        /// mistakes: every allocation and free takes the slow way, and a free waits for queues.
        SANITIZED = 1 << 10;
    }
}

/// One kind of physical memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heap {
    /// Size in bytes.
    pub size_bytes: u64,
}

/// One way to allocate from a heap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryType {
    /// Index into [`Properties::heaps`].
    pub heap_index: usize,
    /// What the memory can do.
    pub flags: MemoryFlags,
}

/// What is known of a heap at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeapBudget {
    /// How many bytes of the heap this process may hold in all, as far as the driver or the system can tell.
    pub budget_bytes: u64,
    /// How many bytes of the heap could still be had now.
    pub available_bytes: u64,
    /// How many bytes of the heap this process has now, by the driver's or the system's own count, which knows what has really
    /// been given back; `None` where neither tells. What others in the process hold counts too.
    pub process_bytes: Option<u64>,
}

/// What the driver's calls for sparse blocks take, in nanoseconds. They hardly depend on how many bytes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappingCosts {
    /// [`Backend::create_physical_block`](crate::Backend::create_physical_block).
    pub create_ns: u64,
    /// [`Backend::map`](crate::Backend::map).
    pub map_ns: u64,
    /// [`Backend::unmap`](crate::Backend::unmap).
    pub unmap_ns: u64,
    /// [`Backend::destroy_block`](crate::Backend::destroy_block) of a physical block.
    pub destroy_ns: u64,
}

/// A device's fixed facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// The backend's short name, as the command line and reports print it: `host`, `cuda`, ...
    pub backend: &'static str,
    /// The device's name.
    pub device: String,
    /// Physical memories. At least one.
    pub heaps: Vec<Heap>,
    /// Ways to allocate, the best for ordinary buffers first. At least one.
    pub memory_types: Vec<MemoryType>,
    /// Every block is a multiple of this many bytes. A power of two.
    pub block_granularity_bytes: u64,
    /// The largest block the driver makes, in bytes.
    pub block_bytes_max: u64,
    /// How many blocks may exist at once.
    pub block_count_max: u64,
    /// Every block starts at a multiple of this many bytes in the device's addresses. A power of two, at least 256.
    pub alignment_bytes_min: u64,
    /// What is mapped behind a sparse block is a multiple of so many bytes. A power of two, and a multiple of
    /// [`Properties::block_granularity_bytes`]; 0 without [`Capabilities::SPARSE_BLOCKS`].
    pub physical_page_bytes: u64,
    /// How many mappings behind sparse blocks there may be at once; 0 without [`Capabilities::SPARSE_BLOCKS`].
    pub mapping_count_max: u64,
    /// What mapping costs. `None` if that is not known: then it is not done unless a program asks for it.
    pub mapping_costs: Option<MappingCosts>,
    /// Imported memory starts at, and has, a multiple of so many bytes. A power of two, and a multiple of
    /// [`Properties::alignment_bytes_min`]; 0 without [`Capabilities::IMPORT`].
    pub import_alignment_bytes: u64,
    /// Optional abilities.
    pub capabilities: Capabilities,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_combine_and_print_their_names() {
        let flags = MemoryFlags::HOST_VISIBLE | MemoryFlags::DEVICE_LOCAL;
        assert!(flags.contains(MemoryFlags::HOST_VISIBLE));
        assert!(!MemoryFlags::HOST_VISIBLE.contains(flags));
        assert!(MemoryFlags::NONE.contains(MemoryFlags::NONE));
        assert_eq!(format!("{flags:?}"), "{HOST_VISIBLE, DEVICE_LOCAL}");
        assert_eq!(format!("{:?}", Capabilities::NONE), "{}");
    }
}
