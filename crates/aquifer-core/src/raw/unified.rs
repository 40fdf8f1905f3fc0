//! Memory that host and device both use: one allocation, or two of which one is the other's copy.
//!
//! Nothing here knows who uses which part at the moment. The one owner, [`UnifiedBuffer`](crate::UnifiedBuffer), does, and promises:
//!
//! - it gives bytes out to be read or written, and copies them, only when no queue does with these what conflicts with that, but
//!   for what the user's own programs do, which is the user's matter;
//! - it enqueues a copy only where no slice of what that writes, nor a mutable one of what it reads, is out, gives no such one out before
//!   the copy has ended, and orders its queue behind other queues' work on the same bytes.

use super::allocation::Allocation;
use crate::manager::{QueueState, Shared, Side};
use crate::range::QueueIndex;
use aquifer_backend::{Backend, BlockRange, Command, CopyEnd, Error, Ticket};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

/// See the module's text. Ranges are in bytes from the start, and may go to the end of what is allocated.
pub(crate) struct UnifiedMemory<B: Backend> {
    /// The host's address of the first byte: the shadow's, if there is one.
    host: NonNull<u8>,
    device: Allocation<B>,
    /// The host's copy, where the host does not use the device's memory itself.
    shadow: Option<Allocation<B>>,
}

// SAFETY: the pointer is to the memory of the allocations, which may be used from where those may be.
unsafe impl<B: Backend> Send for UnifiedMemory<B> where Allocation<B>: Send {}
// SAFETY: as above; a shared reference gives the bytes to be read only.
unsafe impl<B: Backend> Sync for UnifiedMemory<B> where Allocation<B>: Sync {}

impl<B: Backend> UnifiedMemory<B> {
    /// Two allocations of one manager, as long as each other, or one. `None` if the host does not see the one that it is to use.
    pub(crate) fn new(device: Allocation<B>, shadow: Option<Allocation<B>>) -> Option<Self> {
        debug_assert!(shadow.iter().all(|shadow| {
            std::ptr::eq(shadow.shared(), device.shared())
                && shadow.requested_bytes() == device.requested_bytes()
        }));
        let host = shadow.as_ref().unwrap_or(&device).host_pointer()?;
        Some(Self { host, device, shadow })
    }

    /// What the device uses.
    pub(crate) fn device(&self) -> &Allocation<B> {
        &self.device
    }

    pub(crate) fn shared(&self) -> &Shared<B> {
        self.device.shared()
    }

    pub(crate) fn is_zero_copy(&self) -> bool {
        self.shadow.is_none()
    }

    /// The one allocation, if it is one.
    pub(crate) fn into_allocation(self) -> Result<Allocation<B>, Self> {
        if self.is_zero_copy() { Ok(self.device) } else { Err(self) }
    }

    /// Notes that `queue` may use all of it from now on: when it is freed, none of it is used again before the queue has passed.
    pub(crate) fn record_use(&self, queue: QueueIndex) {
        self.device.record_use(queue);
        self.shadow.iter().for_each(|shadow| shadow.record_use(queue));
    }

    /// The host's bytes, which no queue writes.
    pub(crate) fn bytes(&self, range: Range<u64>) -> &[u8] {
        let (start, length) = self.host_part(&range);
        // SAFETY: the bytes are readable and initialised (`Backend`) and lie in an allocation that this owns and that is borrowed
        // with it, so that nobody writes them through `bytes_mut`. No queue does, nor does `copy_now`, as the owner promises.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), length) }
    }

    /// The host's bytes, which no queue uses.
    pub(crate) fn bytes_mut(&mut self, range: Range<u64>) -> &mut [u8] {
        let (start, length) = self.host_part(&range);
        // SAFETY: as above, and borrowed mutably, so that nobody else reads or writes them.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length) }
    }

    fn host_part(&self, range: &Range<u64>) -> (NonNull<u8>, usize) {
        self.assert_inside(range);
        // SAFETY: the range lies in the allocation, which is one object of the host's memory (`Backend`).
        let start = unsafe { self.host.add(range.start as usize) };
        (start, (range.end - range.start) as usize)
    }

    fn assert_inside(&self, range: &Range<u64>) {
        let bytes = self.device.allocated_bytes().min(self.shadow_bytes());
        assert!(range.start <= range.end && range.end <= bytes, "{range:?} of {bytes} bytes");
    }

    fn shadow_bytes(&self) -> u64 {
        self.shadow.as_ref().map_or(u64::MAX, Allocation::allocated_bytes)
    }

    /// Where a copy of a part is from and goes to, each with its block. `None` if there is nothing to copy.
    #[expect(clippy::type_complexity, reason = "two blocks and where in them")]
    fn ends(&self, to: Side, range: &Range<u64>) -> Option<((Arc<B::Block>, u64), (Arc<B::Block>, u64))> {
        self.assert_inside(range);
        let at = |allocation: &Allocation<B>| {
            let (block, start) = allocation.located();
            (block, start + range.start)
        };
        let (shadow, device) = (at(self.shadow.as_ref()?), at(&self.device));
        Some(match to {
            Side::Host => (device, shadow),
            Side::Device => (shadow, device),
        })
    }

    /// Copies a part to the memory of a side. Blocks until it has arrived.
    pub(crate) fn copy_now(&self, to: Side, range: &Range<u64>) -> Result<(), Error> {
        let shared = self.shared();
        shared.check_process("bring over")?;
        let Some((from, to)) = self.ends(to, range) else { return Ok(()) };
        let bytes = range.end - range.start;
        let source = BlockRange { block: &*from.0, offset: from.1, bytes };
        let destination = BlockRange { block: &*to.0, offset: to.1, bytes };
        // SAFETY: both ranges lie in their allocations, and so in their blocks, equally long; two allocations never overlap. No queue
        // touches the destination or writes the source, nor does the host, as the owner promises.
        let answer = unsafe { shared.backend.copy(source, destination) };
        shared.note(answer)
    }

    /// Puts the copy of a part to the memory of a side at the end of a queue of the same manager.
    pub(crate) fn enqueue_copy(
        &self,
        queue: &QueueState<B::Queue>,
        to: Side,
        range: &Range<u64>,
        ticket: &Arc<Ticket>,
    ) -> Result<(), Error> {
        let shared = self.shared();
        shared.check_process("bring over")?;
        let Some((from, to)) = self.ends(to, range) else { return Ok(()) };
        self.record_use(queue.index);
        let command = Command::Copy {
            source: CopyEnd::Block { block: &*from.0, offset: from.1 },
            destination: CopyEnd::Block { block: &*to.0, offset: to.1 },
            bytes: range.end - range.start,
        };
        // SAFETY: the ranges are as in `copy_now`. Both allocations are recorded for the queue, so that none of their memory goes to
        // anybody else, or back to the driver, before the queue has passed, whenever they are freed. Until then whoever uses the
        // same bytes comes before or after, as the owner promises: the host waits, and other queues are ordered.
        let answer = unsafe { shared.backend.enqueue(&queue.raw, command, ticket) };
        shared.note(answer)
    }
}
