//! Pinned memory for the host: buffers that are slices, and an allocator for collections. Its unsafe side is in
//! [`crate::raw::pinned`].

use super::buffer::{PinnedBuffer, for_host};
use crate::manager::{MemoryManager, MemoryOptions, kinds::MemoryKind, ladder::InFlight, shared};
use crate::raw::allocation::Allocation;
use crate::raw::pinned::HostAllocation;
use crate::statistics::PinnedStatistics;
#[cfg(doc)]
use aquifer_backend::ErrorKind;
use aquifer_backend::{Backend, Error, ErrorKind as Kind};
use std::alloc::Layout;
use std::fmt;

/// Pinned memory of a [`MemoryManager`]; from [`MemoryManager::pinned`]. A handle of the manager: clones are cheap, mean the same,
/// and any thread may use them.
///
/// As an [`Allocator`](allocator_api2::alloc::Allocator) it serves collections, whose memory is then pinned and counted. (The crate
/// `allocator-api2` stands for the allocators of the standard library, which are not stable yet; it is reexported.) A collection
/// keeps a handle of the manager. That trait's errors say nothing;
/// [`PinnedStatistics::last_refusal`] does. As everywhere, collections that cannot fail (`push`) end the process where memory is
/// refused, so use what can (`try_reserve`). A collection that grows is copied, and counts as one while it is.
///
/// ```
/// use aquifer_core::allocator_api2::vec::Vec;
/// use aquifer_core::{Backend, MemoryManager, PinnedAllocator};
///
/// /// Vertices that the device can fetch by itself, as fast as it can.
/// fn pinned_copy<B: Backend>(manager: &MemoryManager<B>, vertices: &[f32]) -> Option<Vec<f32, PinnedAllocator<B>>> {
///     let mut pinned = Vec::new_in(manager.pinned());
///     pinned.try_reserve_exact(vertices.len()).ok()?;
///     pinned.extend_from_slice(vertices);
///     Some(pinned)
/// }
/// ```
///
/// (Its own [`PinnedAllocator::allocate`] takes a size in bytes; the trait's takes a layout, and is called by collections.)
pub struct PinnedAllocator<B: Backend> {
    manager: MemoryManager<B>,
}

impl<B: Backend> Clone for PinnedAllocator<B> {
    fn clone(&self) -> Self {
        Self { manager: self.manager.clone() }
    }
}

impl<B: Backend> fmt::Debug for PinnedAllocator<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedAllocator").field("statistics", &self.statistics()).finish_non_exhaustive()
    }
}

impl<B: Backend> PinnedAllocator<B> {
    pub(in crate::manager) fn new(manager: MemoryManager<B>) -> Self {
        Self { manager }
    }

    /// The manager whose memory this is.
    #[must_use]
    pub fn manager(&self) -> &MemoryManager<B> {
        &self.manager
    }

    /// Allocates `bytes` bytes of pinned memory, aligned to 256, content unspecified. May block as
    /// [`MemoryManager::allocate`] may.
    ///
    /// # Errors
    ///
    /// As [`MemoryManager::allocate_with`] for [`MemoryOptions::PINNED`]; [`ErrorKind::Unsupported`] also where nothing is behind the
    /// device's memory, since it is simulated.
    #[track_caller]
    pub fn allocate(&self, bytes: u64) -> Result<PinnedBuffer<B>, Error> {
        self.allocate_with(bytes, MemoryOptions::PINNED)
    }

    /// As [`PinnedAllocator::allocate`], all bytes zero.
    ///
    /// # Errors
    ///
    /// As there.
    #[track_caller]
    pub fn allocate_zeroed(&self, bytes: u64) -> Result<PinnedBuffer<B>, Error> {
        self.allocate_with(bytes, MemoryOptions::PINNED.zeroed(true))
    }

    /// As [`PinnedAllocator::allocate`], with options: tag, alignment, zeroed. Their kind of memory is not looked at.
    ///
    /// # Errors
    ///
    /// As there; also those of [`MemoryManager::allocate_with`] for an alignment.
    #[track_caller]
    pub fn allocate_with(&self, bytes: u64, options: MemoryOptions) -> Result<PinnedBuffer<B>, Error> {
        let owner = &self.manager.owner;
        let options = options.kind(MemoryKind::Pinned);
        for_host(shared::allocate(owner, owner.ordinary, bytes, options)?).map(PinnedBuffer::new)
    }

    /// What is live, what was refused, and the limits: [`Statistics::pinned`](crate::Statistics::pinned) of this moment. Takes one
    /// lock.
    #[must_use]
    pub fn statistics(&self) -> PinnedStatistics {
        self.manager.owner.pinned.registry.statistics()
    }

    /// Memory for a layout of some bytes, in place of `replaced` others that are freed next; `None`, after a note of the reason, if
    /// there is none.
    #[track_caller]
    pub(crate) fn allocate_for(
        &self,
        layout: Layout,
        is_zeroed: bool,
        replaced: u64,
    ) -> Option<HostAllocation<B>> {
        let options = MemoryOptions::PINNED.alignment(layout.align() as u64).zeroed(is_zeroed);
        let allocation = self.try_allocate_for(layout, options, replaced);
        allocation.map_err(|refusal| self.manager.owner.pinned.registry.note_refusal(&refusal)).ok()
    }

    #[track_caller]
    fn try_allocate_for(
        &self,
        layout: Layout,
        options: MemoryOptions,
        replaced: u64,
    ) -> Result<HostAllocation<B>, Error> {
        let (owner, bytes) = (&self.manager.owner, layout.size() as u64);
        owner.check("allocate", bytes, &options)?;
        let mut home = owner.home_of(MemoryKind::Pinned)?;
        let place = super::allocate(owner, &mut home, bytes, options, InFlight::Wait, replaced)?;
        let allocation = owner.adopt(home.queue, place, owner.request(home, bytes, options));
        let allocation = for_host(allocation)?;
        if allocation.start().addr().get().is_multiple_of(layout.align()) {
            return Ok(allocation);
        }
        let message = format!(
            "alignment of {} bytes asked for; the host's addresses of this device are aligned to fewer",
            layout.align()
        );
        Err(Error::new(Kind::Unsupported, "allocate", message))
    }

    /// The size of what is out as a pointer to an address, as it was asked for.
    pub(crate) fn lent_bytes(&self, address: usize) -> Option<u64> {
        Some(self.manager.owner.pinned.registry.at(address)?.request.requested_bytes)
    }

    /// The allocation that begins at an address, whose owner has forgotten it and uses the memory no more.
    pub(crate) fn take_back(&self, address: usize) -> Option<Allocation<B>> {
        let owner = &self.manager.owner;
        let live = owner.pinned.registry.at(address)?;
        Some(owner.adopt(crate::range::NO_QUEUE, live.place, live.request))
    }
}
