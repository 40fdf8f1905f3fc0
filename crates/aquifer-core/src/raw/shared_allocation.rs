//! An allocation whose parts are used by several at the same time.
//!
//! # What keeps them apart
//!
//! Nobody reaches the memory of a [`SharedAllocation`] but through a [`RangeClaim`] on a part of it, once that is granted. Of two
//! granted claims on bytes in common both only read ([`RangeLock`]). So a granted claim to write is alone with its bytes, and a
//! granted claim to read is beside readers only, for as long as it lives; the allocation is given back as a whole only when no
//! claim is left.
//!
//! # Units
//!
//! Where the host cannot see the memory, a device whose commands go by units of 4 bytes writes the neighbours of an odd end back as
//! they were (Metal's blits on GPUs other than Apple's, Vulkan's fills). So there claims conflict unit by unit. A pair of one
//! allocation may still share a unit: what is claimed for one copy is used by that copy, one command after the other.

use super::allocation::Allocation;
use crate::manager::Shared;
use crate::range_lock::{Access, ClaimId, RangeLock, overlap};
use aquifer_backend::{Backend, BlockRange, Error, ErrorKind};
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::task::Waker;

/// The largest unit of bytes that a device writes at least, which a backend hides by writing neighbours back as they were.
const UNIT_BYTES: u64 = 4;

/// An allocation, and who uses which part of it.
pub(crate) struct SharedAllocation<B: Backend> {
    lock: RangeLock,
    is_host_visible: bool,
    allocation: Allocation<B>,
}

impl<B: Backend> SharedAllocation<B> {
    pub(crate) fn new(allocation: Allocation<B>) -> Self {
        let is_host_visible = allocation.host_pointer().is_some();
        Self { lock: RangeLock::new(), is_host_visible, allocation }
    }

    /// The allocation, which nobody else uses: each claim keeps what it is a part of, and could not be without.
    pub(crate) fn into_allocation(self) -> Allocation<B> {
        self.allocation
    }

    /// The state of its manager.
    pub(crate) fn shared(&self) -> &Shared<B> {
        self.allocation.shared()
    }

    /// Claims a part, which must lie in what was requested. Does not block; the claim may have to [wait](RangeClaim::wait).
    ///
    /// # Panics
    ///
    /// If the part does not lie there.
    pub(crate) fn claim(self: &Arc<Self>, range: Range<u64>, access: Access) -> RangeClaim<B> {
        let id = self.lock.claim(self.in_units(&range), access);
        self.claimed(id, range, access)
    }

    /// As [`SharedAllocation::claim`], if the claim need not wait.
    pub(crate) fn try_claim(self: &Arc<Self>, range: Range<u64>, access: Access) -> Option<RangeClaim<B>> {
        let id = self.lock.try_claim(self.in_units(&range), access)?;
        Some(self.claimed(id, range, access))
    }

    /// Claims a part to be written and a part to be read, of the same allocation or two, at the same moment: so copies crosswise do
    /// not wait for each other. Does not block.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] if the two have bytes in common.
    ///
    /// # Panics
    ///
    /// If a part does not lie in its allocation.
    pub(crate) fn claim_copy(
        destination: (&Arc<Self>, Range<u64>),
        source: (&Arc<Self>, Range<u64>),
    ) -> Result<CopyClaims<B>, Error> {
        let ((to, to_range), (from, from_range)) = (destination, source);
        if Arc::ptr_eq(to, from) && overlap(&to_range, &from_range) {
            let message = format!(
                "bytes {from_range:?} of a buffer to be copied to bytes {to_range:?} of it, which overlap; \
                 read the ones and write the others"
            );
            return Err(Error::new(ErrorKind::InvalidArgument, "copy", message));
        }
        let (written, read) = RangeLock::claim_pair(
            (&to.lock, to.in_units(&to_range), Access::Write),
            (&from.lock, from.in_units(&from_range), Access::Read),
        );
        Ok(CopyClaims {
            destination: to.claimed(written, to_range, Access::Write),
            source: from.claimed(read, from_range, Access::Read),
        })
    }

    /// What is claimed for `range` to be used, which is checked to lie in what was requested.
    fn in_units(&self, range: &Range<u64>) -> Range<u64> {
        let bytes = self.allocation.requested_bytes();
        assert!(range.start <= range.end && range.end <= bytes, "{range:?} of {bytes} bytes is claimed");
        if self.is_host_visible || range.is_empty() {
            return range.clone();
        }
        range.start / UNIT_BYTES * UNIT_BYTES..range.end.next_multiple_of(UNIT_BYTES)
    }

    fn claimed(self: &Arc<Self>, id: ClaimId, range: Range<u64>, access: Access) -> RangeClaim<B> {
        RangeClaim { parent: Arc::clone(self), id, range, access }
    }
}

/// What a copy claims.
#[derive(Debug)]
pub(crate) struct CopyClaims<B: Backend> {
    pub(crate) destination: RangeClaim<B>,
    pub(crate) source: RangeClaim<B>,
}

/// The use of a part of an allocation, which it keeps alive: granted, or in line for it. Given up when dropped, on any thread.
///
/// A thread that waits for a claim while it holds another, granted or not, can wait for ever.
pub(crate) struct RangeClaim<B: Backend> {
    parent: Arc<SharedAllocation<B>>,
    id: ClaimId,
    range: Range<u64>,
    access: Access,
}

impl<B: Backend> fmt::Debug for RangeClaim<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RangeClaim")
            .field("range", &self.range)
            .field("access", &self.access)
            .field("is_granted", &self.is_granted())
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Drop for RangeClaim<B> {
    fn drop(&mut self) {
        self.parent.lock.release(self.id);
    }
}

impl<B: Backend> RangeClaim<B> {
    /// The claimed bytes, counted from the start of the allocation.
    pub(crate) fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// The state of the allocation's manager.
    pub(crate) fn shared(&self) -> &Shared<B> {
        self.parent.shared()
    }

    /// Whether it is granted, as it then stays.
    pub(crate) fn is_granted(&self) -> bool {
        self.parent.lock.is_granted(self.id)
    }

    /// Whether it is granted; if not, `waker` is woken when it is, in place of the one of an earlier poll.
    pub(crate) fn poll_granted(&mut self, waker: &Waker) -> bool {
        self.parent.lock.poll_granted(self.id, waker)
    }

    /// Blocks until it is granted. The waker of an earlier poll is woken no more.
    ///
    /// # Errors
    ///
    /// `Forked` where nobody is there who could grant it.
    pub(crate) fn wait(&mut self) -> Result<(), Error> {
        if !self.is_granted() {
            self.shared().check_process("view")?;
            self.parent.lock.wait(self.id);
        }
        Ok(())
    }

    /// The allocation that it is a part of. Not to be read or written: others may use the rest of it.
    pub(super) fn allocation(&self) -> &Allocation<B> {
        &self.parent.allocation
    }

    /// The address of its first byte, where the host can see it.
    pub(crate) fn host_pointer(&self) -> Option<NonNull<u8>> {
        let start = self.allocation().host_pointer()?;
        // SAFETY: the range lies in the allocation, and so in its block (`in_units`), which is one object of the host's memory
        // (`Backend`).
        Some(unsafe { start.add(self.range.start as usize) })
    }

    /// Its bytes, where the host can see them. Blocks until no queue uses the allocation for what was given to it outside of
    /// claims.
    ///
    /// # Panics
    ///
    /// If it is not granted.
    pub(crate) fn bytes(&self) -> Result<Option<&[u8]>, Error> {
        let Some(start) = self.ready(Access::Read)? else { return Ok(None) };
        // SAFETY: the bytes are readable and initialised (`Backend`) and lie in an allocation that the claim keeps. The claim is
        // granted, so while it lives others who have such bytes only read; and it is borrowed, so that it lives, and nobody
        // writes them through `bytes_mut`, `fill` or `copy_from`, which borrow it mutably. No queue uses them (`ready`).
        Ok(Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), self.size_bytes() as usize) }))
    }

    /// Its bytes, to be written. Blocks as [`RangeClaim::bytes`].
    ///
    /// # Panics
    ///
    /// If it is not granted, or only to be read.
    pub(crate) fn bytes_mut(&mut self) -> Result<Option<&mut [u8]>, Error> {
        let Some(start) = self.ready(Access::Write)? else { return Ok(None) };
        // SAFETY: as in `bytes`, and the claim is one to write, so while it lives nobody else has such bytes; and it is borrowed
        // mutably.
        Ok(Some(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.size_bytes() as usize) }))
    }

    /// Sets its bytes to `value`. Blocks until it is done.
    ///
    /// # Panics
    ///
    /// If it is not granted, or only to be read.
    pub(crate) fn fill(&mut self, value: u8) -> Result<(), Error> {
        self.assert_granted(Access::Write);
        self.shared().check_process("fill")?;
        self.allocation().wait_for_queues()?;
        let (block, start) = self.located();
        let destination = BlockRange { block: &*block, offset: start, bytes: self.size_bytes() };
        // SAFETY: the range lies in the allocation (`in_units`), and so in its block; the claim is granted, to write, and borrowed
        // mutably, so that nobody else touches it; no queue uses it.
        let answer = unsafe { self.shared().backend.fill(destination, value) };
        self.shared().note(answer)
    }

    /// Copies the bytes of `source`, as many, of the same manager and granted too. Blocks until they have arrived.
    ///
    /// # Panics
    ///
    /// If one of them is not granted, this one is only to be read, or they differ in length or manager.
    pub(crate) fn copy_from(&mut self, source: &Self) -> Result<(), Error> {
        self.assert_granted(Access::Write);
        source.assert_granted(Access::Read);
        assert_eq!(self.size_bytes(), source.size_bytes(), "a copy is as long as its source");
        assert!(std::ptr::eq(self.shared(), source.shared()), "a copy stays in its manager");
        self.shared().check_process("copy")?;
        self.allocation().wait_for_queues()?;
        source.allocation().wait_for_queues()?;
        let ((to, to_start), (from, from_start)) = (self.located(), source.located());
        let bytes = self.size_bytes();
        let destination = BlockRange { block: &*to, offset: to_start, bytes };
        let source = BlockRange { block: &*from, offset: from_start, bytes };
        // SAFETY: both ranges lie in their allocations (`in_units`), and are equally long. They do not overlap: two allocations
        // never do, and of one both are granted, the one to write; a pair was checked. The claims are borrowed, the
        // destination's mutably, so that nobody else touches that or writes the source; no queue uses them.
        let answer = unsafe { self.shared().backend.copy(source, destination) };
        self.shared().note(answer)
    }

    /// Its block and first byte there.
    pub(super) fn located(&self) -> (Arc<B::Block>, u64) {
        let (block, start) = self.allocation().located();
        (block, start + self.range.start)
    }

    /// The host's address, once no queue uses the allocation.
    fn ready(&self, access: Access) -> Result<Option<NonNull<u8>>, Error> {
        self.assert_granted(access);
        let Some(start) = self.host_pointer() else { return Ok(None) };
        self.allocation().wait_for_queues()?;
        Ok(Some(start))
    }

    fn assert_granted(&self, access: Access) {
        assert!(self.access == Access::Write || access == Access::Read, "written under a claim to read");
        assert!(self.is_granted(), "used before it is granted");
    }
}
