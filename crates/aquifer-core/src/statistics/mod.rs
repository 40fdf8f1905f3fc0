//! What a manager counts, and the words for it.

mod bucket;
mod gauge;
mod pinned;
mod remapping;
mod sub_budget;
mod tally;

pub use bucket::MemoryBucket;
pub use pinned::PinnedStatistics;
pub use remapping::RemappingStatistics;
pub use sub_budget::{Limits, SubBudgetStatistics, SubBudgetUsage};

use crate::pressure::PressureStatistics;
use crate::transfer::TransferStatistics;

pub(crate) use tally::{LocalTally, TAGS_MAX, Tally};

/// A name under which allocations are counted; made by
/// [`MemoryManager::tag`](crate::MemoryManager::tag) or [`SubBudget::tag`](crate::SubBudget::tag), and good for that manager only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Tag(pub(crate) u16);

impl Tag {
    /// No tag. What is allocated without one is counted here.
    pub const UNTAGGED: Self = Self(0);

    /// The bit of a tag whose allocations are charged to a sub-budget; above the index.
    pub(crate) const LIMITED: u16 = 1 << 10;

    /// Its place among all tags of the manager.
    #[inline]
    pub(crate) fn index(self) -> usize {
        usize::from(self.0 & (Self::LIMITED - 1))
    }

    /// The index, and whether it is limited.
    #[inline]
    pub(crate) fn bits(self) -> u16 {
        self.0
    }

    /// Whether allocations under it are charged to a sub-budget.
    #[inline]
    pub(crate) const fn is_limited(self) -> bool {
        self.0 & Self::LIMITED != 0
    }

    /// The same name, but nothing is charged.
    pub(crate) const fn unlimited(self) -> Self {
        Self(self.0 & !Self::LIMITED)
    }
}

/// Bytes now, at most so far, and in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByteCounter {
    /// Now.
    pub current: u64,
    /// The highest `current` has been. Exact if one thread uses the manager; with `n` threads it may be off by up to
    /// `n` times 4 MiB. Of reserved bytes it is always exact.
    pub peak: u64,
    /// Everything ever added.
    pub total: u64,
}

/// How often the driver was called for memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DriverCalls {
    /// Calls that made a block, of memory that a user brought too.
    pub create: u64,
    /// Calls that reserved addresses without memory.
    pub reserve: u64,
    /// Calls that gave such addresses back.
    pub unreserve: u64,
    /// Calls that mapped a physical block behind addresses.
    pub map: u64,
    /// Calls that took such a mapping away.
    pub unmap: u64,
    /// Calls that gave a block back.
    pub destroy: u64,
    /// Calls that gave a part of a block back.
    pub release: u64,
    /// Calls that made a block purgeable, or nonpurgeable again.
    pub purge: u64,
    /// Markers that were put into queues, and those that the driver refused.
    pub signal: u64,
    /// Other calls that failed; they are counted here only.
    pub failed: u64,
}

impl DriverCalls {
    /// All calls.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.create
            + self.reserve
            + self.unreserve
            + self.map
            + self.unmap
            + self.destroy
            + self.release
            + self.purge
            + self.signal
            + self.failed
    }
}

/// One size class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClassStatistics {
    /// The largest request that the class takes, in bytes; `None` for what is larger than every bucket.
    pub size_bytes: Option<u64>,
    /// Allocations so far.
    pub allocations: u64,
    /// Allocations freed so far.
    pub deallocations: u64,
    /// Allocations for which the driver had to be called.
    pub misses: u64,
    /// Places that caches gave back to the pool.
    pub evictions: u64,
    /// Requested bytes, live.
    pub requested_bytes: u64,
    /// Requested bytes of all allocations so far.
    pub requested_bytes_total: u64,
    /// Allocated bytes, live.
    pub allocated_bytes: u64,
    /// Allocated bytes of all allocations so far.
    pub allocated_bytes_total: u64,
    /// Bytes kept ready: in thread caches, in the depot, and preallocated.
    pub cached_bytes: u64,
}

impl ClassStatistics {
    /// Allocations served without calling the driver.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.allocations.saturating_sub(self.misses)
    }

    /// Live bytes that rounding added.
    #[must_use]
    pub fn waste_bytes(&self) -> u64 {
        self.allocated_bytes.saturating_sub(self.requested_bytes)
    }
}

/// One tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagStatistics {
    /// Its name.
    pub name: String,
    /// Requested bytes, live, and imported ones.
    pub current_bytes: u64,
    /// The highest `current_bytes` has been, as exact as [`ByteCounter::peak`].
    pub peak_bytes: u64,
}

/// One pool's counts, to be summed.
#[derive(Debug, Clone, Default)]
pub(crate) struct PoolSnapshot {
    pub(crate) classes: Vec<ClassStatistics>,
    pub(crate) cached_bytes: u64,
    pub(crate) quarantined_bytes: u64,
    pub(crate) free_bytes: u64,
    /// A part of `free_bytes`.
    pub(crate) purgeable_bytes: u64,
    pub(crate) largest_free_bytes: u64,
    pub(crate) free_range_count: u64,
    pub(crate) block_count: u64,
    pub(crate) physical_block_count: u64,
    pub(crate) mapping_count: u64,
}

/// A size as people read it: `1.50 GiB`.
pub(crate) fn in_words(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (bytes.max(1).ilog2() / 10).min(4);
    if unit == 0 {
        return format!("{bytes} B");
    }
    format!("{:.2} {}", bytes as f64 / (1_u64 << (10 * unit)) as f64, UNITS[unit as usize])
}

/// What a manager has counted.
///
/// Every number is true when no other thread is allocating or freeing meanwhile; then
/// `requested <= allocated <= reserved` and
/// `allocated.current + cached_bytes + quarantined_bytes + free_bytes == reserved.current`. While others work, the numbers are each true
/// at some moment of the call, but not all at the same one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// What users asked for.
    pub requested: ByteCounter,
    /// The same after rounding: live bytes.
    pub allocated: ByteCounter,
    /// What the driver has given.
    pub reserved: ByteCounter,
    /// Reserved bytes that are kept ready, by caches or because they were
    /// [preallocated](crate::MemoryPool::preallocate).
    pub cached_bytes: u64,
    /// Reserved bytes that were freed but that work in a queue may still use: until it is over, nobody can have them, or
    /// only the same queue.
    pub quarantined_bytes: u64,
    /// Reserved bytes that are neither live nor cached nor quarantined.
    pub free_bytes: u64,
    /// Free bytes in purgeable blocks: the system may take their memory at any time, or has
    /// ([`MemoryManager::mark_idle_purgeable`](crate::MemoryManager::mark_idle_purgeable)).
    pub purgeable_bytes: u64,
    /// How often a purgeable block was taken for an allocation, or to preallocate, again,
    pub recovered_block_count: u64,
    /// and the bytes of all these blocks.
    pub recovered_bytes: u64,
    /// How many of them had lost their content, since the system had taken the memory,
    pub purged_block_count: u64,
    /// and their bytes.
    pub purged_bytes: u64,
    /// The largest free range: of addresses with memory behind them, so that it could be handed out without a call of the driver.
    /// Where pools are elastic, all free memory can be had in one range with such calls. Purgeable blocks are left out.
    pub largest_free_bytes: u64,
    /// How many free ranges of addresses there are. Where pools are elastic, one piece of free memory may be mapped at several
    /// addresses, and then counts at each: so the ranges' bytes may come to more than [`Statistics::free_bytes`], which counts
    /// memory once. Purgeable blocks are left out.
    pub free_range_count: u64,
    /// How many blocks with memory there are, physical ones included.
    pub block_count: u64,
    /// Memory that is mapped behind addresses, where pools are elastic.
    pub remapping: RemappingStatistics,
    /// Live bytes that users brought ([`MemoryManager::import`](crate::MemoryManager::import)). The driver did not give them and
    /// trimming cannot give them back, so they are in none of the other sums and counts (but the tags' and the driver's calls), and
    /// in no budget. The peak is exact.
    pub imported: ByteCounter,
    /// How many blocks are made of such memory: also those that were freed but that queues may still use. None is left
    /// when every owner has been dropped.
    pub imported_block_count: u64,
    /// Pinned allocations: a part of the other sums and counts.
    pub pinned: PinnedStatistics,
    /// Transfers, route by route.
    pub transfers: TransferStatistics,
    /// How short memory was, and what was done about it.
    pub pressure: PressureStatistics,
    /// The most that may be reserved.
    pub budget_bytes: u64,
    /// Allocations so far.
    pub allocation_count: u64,
    /// Allocations freed so far.
    pub deallocation_count: u64,
    /// Allocations for which the driver had to be called.
    pub miss_count: u64,
    /// How often the driver was called.
    pub driver_calls: DriverCalls,
    /// How often a reclaim callback was called ([`MemoryManager::on_reclaim`](crate::MemoryManager::on_reclaim)),
    pub reclaim_count: u64,
    /// and how often one panicked.
    pub reclaim_panic_count: u64,
    /// Every class that has ever been used or is kept ready, smallest first.
    pub classes: Vec<ClassStatistics>,
    /// Every tag, in the order of their making.
    pub tags: Vec<TagStatistics>,
    /// Every sub-budget, in the order of their making, so that one comes before those below it.
    pub sub_budgets: Vec<SubBudgetStatistics>,
}

impl Statistics {
    /// Allocations that are live.
    #[must_use]
    pub fn live_count(&self) -> u64 {
        self.allocation_count.saturating_sub(self.deallocation_count)
    }

    /// The classes, summed up to the powers of two: all 21 buckets from 256 B to 256 MiB, smallest first, those never used
    /// too, and last what is larger than every bucket.
    #[must_use]
    pub fn buckets(&self) -> Vec<MemoryBucket> {
        bucket::buckets(&self.classes)
    }

    /// The share of allocations that were served without calling the driver, 0 to 1; 1 if there were none.
    #[must_use]
    pub fn pool_hit_rate(&self) -> f64 {
        if self.allocation_count == 0 {
            return 1.0;
        }
        1.0 - self.miss_count as f64 / self.allocation_count as f64
    }

    /// External fragmentation, 0 to 100: the share of free bytes that lie outside the largest free range. 0 if
    /// nothing is free. Purgeable bytes are left out. Where pools are elastic, this is what a request may need the driver to remap for,
    /// not what is lost to it.
    ///
    /// Cached bytes are not free bytes: they are whole places, ready to be used as they are.
    #[must_use]
    pub fn fragmentation_percentage(&self) -> f64 {
        let free_bytes = self.free_bytes.saturating_sub(self.purgeable_bytes);
        if free_bytes == 0 {
            return 0.0;
        }
        100.0 * (1.0 - self.largest_free_bytes as f64 / free_bytes as f64)
    }

    /// Internal fragmentation, 0 to 100: the share of live bytes that rounding added.
    #[must_use]
    pub fn waste_percentage(&self) -> f64 {
        if self.allocated.current == 0 {
            return 0.0;
        }
        (100.0 * (1.0 - self.requested.current as f64 / self.allocated.current as f64)).max(0.0)
    }
}
