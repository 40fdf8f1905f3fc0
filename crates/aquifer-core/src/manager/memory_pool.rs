//! The pooled memory of a manager, as users see it.

use super::{Buffer, MemoryManager};
use crate::pool::BucketLayout;
use crate::statistics::MemoryBucket;
#[cfg(doc)]
use crate::statistics::Statistics;
#[cfg(doc)]
use aquifer_backend::ErrorKind;
use aquifer_backend::{Backend, Error};
use std::fmt;

/// The pooled memory of a [`MemoryManager`]: a handle of the manager that shows this side of it. Clones are cheap and mean
/// the same pool; any thread may use it.
///
/// All memory of a manager is pooled, so there is nothing here that the manager has not: sums over all buckets, hit rate and
/// fragmentation are in [`MemoryManager::statistics`], the same in words in [`MemoryManager::report`].
///
/// ```
/// use aquifer_core::{Backend, Error, MemoryManager};
///
/// /// Serves requests of which at most 64 are under way, without a call of the driver.
/// fn serve<B: Backend>(manager: &MemoryManager<B>) -> Result<(), Error> {
///     let pool = manager.pool();
///     let reserved = pool.preallocate(4 << 20, 64)?;
///     println!("{reserved} bytes more are reserved");
///     let buffer = pool.allocate(4 << 20)?;
///     // ...
///     drop(buffer);
///     for bucket in pool.buckets().iter().filter(|bucket| bucket.allocations > 0) {
///         println!("up to {:?} bytes: {:.1} % hits", bucket.size_bytes, 100.0 * bucket.hit_rate());
///     }
///     Ok(())
/// }
/// ```
pub struct MemoryPool<B: Backend> {
    manager: MemoryManager<B>,
}

impl<B: Backend> Clone for MemoryPool<B> {
    fn clone(&self) -> Self {
        Self { manager: self.manager.clone() }
    }
}

impl<B: Backend> fmt::Debug for MemoryPool<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryPool").field("manager", &self.manager).finish()
    }
}

impl<B: Backend> MemoryPool<B> {
    pub(super) fn new(manager: MemoryManager<B>) -> Self {
        Self { manager }
    }

    /// The manager whose memory this is.
    #[must_use]
    pub fn manager(&self) -> &MemoryManager<B> {
        &self.manager
    }

    /// Allocates `bytes` bytes: [`MemoryManager::allocate`].
    ///
    /// # Errors
    ///
    /// As there.
    #[inline]
    #[track_caller]
    pub fn allocate(&self, bytes: u64) -> Result<Buffer<B>, Error> {
        self.manager.allocate(bytes)
    }

    /// How sizes are rounded.
    #[must_use]
    pub fn layout(&self) -> BucketLayout {
        self.manager.config().layout
    }

    /// What has been counted, bucket by bucket: [`Statistics::buckets`] of this moment. All 21 from 256 B to 256 MiB, smallest
    /// first, and last what is larger than every bucket.
    #[must_use]
    pub fn buckets(&self) -> Vec<MemoryBucket> {
        self.manager.statistics().buckets()
    }

    /// Makes memory ready, so that `count` buffers of `bytes` bytes (or of a size that rounds to the same) can then be
    /// allocated without a call of the driver, on any threads and queues together, whatever else is allocated and freed
    /// meanwhile. Returns the bytes of the blocks that had to be made for it: 0 if there was room.
    ///
    /// This is a state, not a sum: asking twice for the same makes nothing more. An allocation takes what is ready only
    /// where there is no other room for it, and then it is used up: freed, it is as any other memory. What is ready is counted as
    /// [cached](Statistics::cached_bytes). It is given up by [`MemoryManager::trim`] and [`MemoryManager::trim_to`], and
    /// when an allocation of any size would fail otherwise. Allocations aligned to more than 256 bytes do not use it. Buffers that must
    /// be zeroed still are, by the driver.
    ///
    /// Purgeable blocks ([`MemoryManager::mark_idle_purgeable`]) are used before new ones are made; what is ready is never
    /// purgeable.
    ///
    /// Blocks on the driver, and keeps other threads from growing the pool meanwhile. Calls no reclaim callbacks, and does
    /// not wait for memory that queues still use.
    ///
    /// # Errors
    ///
    /// None of them leaves anything ready or reserved that was not before, unless the driver refuses to take a block back.
    /// Blocks that hold nothing may have been given back, and purgeable ones be purgeable no more.
    ///
    /// - [`ErrorKind::InvalidArgument`] for 0 bytes, and for more than 16,777,216 buffers.
    /// - [`ErrorKind::CanNeverFit`] for more than the device's largest block, or if all together are more than the budget.
    /// - [`ErrorKind::OutOfMemory`] if there is no room now, with [what was there](Error::out_of_memory).
    /// - [`ErrorKind::Driver`] if the driver failed; [`ErrorKind::DeviceLost`]; [`ErrorKind::Forked`].
    pub fn preallocate(&self, bytes: u64, count: u64) -> Result<u64, Error> {
        self.manager.owner.preallocate(bytes, count)
    }

    /// Gives back what nothing uses: [`MemoryManager::trim`]. Returns the bytes given back.
    pub fn trim(&self) -> u64 {
        self.manager.trim()
    }
}
