//! Pinned memory that the host reads and writes as plain slices, and that collections allocate.
//!
//! A [`HostAllocation`] is known not to be used by any queue, so that its bytes are there without waiting and without a way to
//! fail. A queue gets it only as an [`Allocation`] again, by value.
//!
//! What a [`PinnedAllocator`] hands out as a pointer is such an allocation, forgotten. The list of what is live has all that is
//! needed to make it again, so the pointer is enough to free it, from any handle and thread. Nobody else does: at the end of a manager
//! what is still out stays, with its block. (No reference outlives the last handle of its allocator but what was leaked.)

use super::allocation::Allocation;
use crate::manager::PinnedAllocator;
use crate::pool::Uses;
use crate::range::NO_QUEUE;
use allocator_api2::alloc::{AllocError, Allocator};
use aquifer_backend::Backend;
use std::alloc::Layout;
use std::num::NonZero;
use std::ptr::NonNull;

/// An allocation that the host sees and that no queue uses, nor will while it is one.
pub(crate) struct HostAllocation<B: Backend> {
    start: NonNull<u8>,
    allocation: Allocation<B>,
}

// SAFETY: the pointer is to the memory of the allocation, which may be used from where that may be.
unsafe impl<B: Backend> Send for HostAllocation<B> where Allocation<B>: Send {}
// SAFETY: as above; a shared reference only reads the memory.
unsafe impl<B: Backend> Sync for HostAllocation<B> where Allocation<B>: Sync {}

/// Why an allocation is none of the host's alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotHosts {
    /// The host cannot see it.
    Invisible,
    /// It is at home on a queue, or recorded for some.
    HasQueues,
}

impl<B: Backend> HostAllocation<B> {
    /// The allocation, if it is one of these; else it comes back.
    pub(crate) fn new(allocation: Allocation<B>) -> Result<Self, (NotHosts, Allocation<B>)> {
        if allocation.uses() != Uses::at_home(NO_QUEUE) {
            return Err((NotHosts::HasQueues, allocation));
        }
        match allocation.host_pointer() {
            Some(start) => Ok(Self { start, allocation }),
            None => Err((NotHosts::Invisible, allocation)),
        }
    }

    pub(crate) fn into_allocation(self) -> Allocation<B> {
        self.allocation
    }

    /// The requested bytes.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: as in `Allocation::bytes`: readable and initialised, this allocation's alone, and borrowed. The block does not
        // move, so the pointer is still what it was. No queue uses them: none did when it became one of these, operations take
        // an `Allocation` by value, and nothing here records a use.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len()) }
    }

    /// The requested bytes, to be written.
    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably, so that nobody else reads or writes them.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len()) }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.allocation.requested_bytes() as usize
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.allocation.is_locked()
    }

    /// The address of the first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Leaves the allocation live, to be made again by [`PinnedAllocator::take_back`] of its address.
    pub(crate) fn lend(self) -> NonNull<u8> {
        let start = self.start;
        std::mem::forget(self);
        start
    }
}

/// What stands for no bytes.
fn dangling(layout: Layout) -> NonNull<[u8]> {
    let address = NonZero::new(layout.align()).expect("an alignment is a power of two");
    NonNull::slice_from_raw_parts(NonNull::without_provenance(address), 0)
}

impl<B: Backend> PinnedAllocator<B> {
    /// Memory for a layout, in place of `replaced` others that are freed next.
    fn lend(&self, layout: Layout, is_zeroed: bool, replaced: u64) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(dangling(layout));
        }
        let allocation = self.allocate_for(layout, is_zeroed, replaced).ok_or(AllocError)?;
        Ok(NonNull::slice_from_raw_parts(allocation.lend(), layout.size()))
    }

    /// Whether memory of `layout` fits where a block of this allocator lies already.
    fn fits(&self, start: NonNull<u8>, layout: Layout) -> bool {
        let is_aligned = start.addr().get().is_multiple_of(layout.align());
        is_aligned && self.lent_bytes(start.addr().get()).is_some_and(|bytes| bytes >= layout.size() as u64)
    }
}

// SAFETY: a block is an allocation of the manager's, readable and writable, that nobody else has; it stays until `deallocate`, and
// for good if that does not come. Clones are handles of the same manager, which keeps the list of what is out, so that they are
// interchangeable; where a handle lies matters to nothing.
unsafe impl<B: Backend> Allocator for PinnedAllocator<B> {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.lend(layout, false, 0)
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.lend(layout, true, 0)
    }

    unsafe fn deallocate(&self, start: NonNull<u8>, layout: Layout) {
        if layout.size() == 0 {
            return;
        }
        let allocation = self.take_back(start.addr().get());
        debug_assert!(allocation.is_some(), "{start:?} is not of this allocator");
        drop(allocation);
    }

    unsafe fn grow(&self, start: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if old.size() > 0 && self.fits(start, new) {
            return Ok(NonNull::slice_from_raw_parts(start, new.size()));
        }
        // The old one goes at once, so it is no reason for the limit to refuse the new.
        let grown = self.lend(new, false, u64::from(old.size() > 0))?;
        // SAFETY: the caller vouches for the old bytes, of which there are fewer; the new ones are ours, and two live
        // allocations do not overlap.
        unsafe { start.copy_to_nonoverlapping(grown.cast(), old.size()) };
        // SAFETY: the caller gives the block up.
        unsafe { self.deallocate(start, old) };
        Ok(grown)
    }

    unsafe fn grow_zeroed(
        &self,
        start: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: as the caller of this vouches.
        let grown = unsafe { self.grow(start, old, new) }?;
        // SAFETY: the block has as many bytes as the new layout, which are no fewer than the old's.
        let rest = unsafe { grown.cast::<u8>().add(old.size()) };
        // SAFETY: as above, and nobody else has them.
        unsafe { rest.write_bytes(0, new.size() - old.size()) };
        Ok(grown)
    }

    /// Never fails for want of memory: what finds no smaller place stays where it is.
    unsafe fn shrink(
        &self,
        start: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if new.size() == 0 {
            // SAFETY: the caller gives the block up.
            unsafe { self.deallocate(start, old) };
            return Ok(dangling(new));
        }
        let stays = || self.fits(start, new).then(|| NonNull::slice_from_raw_parts(start, new.size()));
        // Not worth a copy.
        if new.size() > old.size() / 2
            && let Some(same) = stays()
        {
            return Ok(same);
        }
        let shrunk = match self.lend(new, false, 1) {
            Ok(shrunk) => shrunk,
            Err(refused) => return stays().ok_or(refused),
        };
        // SAFETY: the caller vouches for the old bytes, of which there are more; else as in `grow`.
        unsafe { start.copy_to_nonoverlapping(shrunk.cast(), new.size()) };
        // SAFETY: the caller gives the block up.
        unsafe { self.deallocate(start, old) };
        Ok(shrunk)
    }
}
