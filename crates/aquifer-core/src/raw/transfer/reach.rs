//! Memory that transfers use, borrowed or owned.

use super::{End, HostAddress};
use crate::manager::{QueueState, Shared};
use crate::pool::Uses;
use crate::range::NO_QUEUE;
use crate::raw::allocation::{Allocation, SharedPtr};
use crate::raw::shared_allocation::RangeClaim;
use crate::transfer::HopQueue;
use aquifer_backend::{Backend, Error};
use std::any::Any;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::task::Waker;

/// Memory that a transfer reads, borrowed.
pub(crate) struct Reach<'a, B: Backend> {
    pub(crate) end: End<B>,
    pub(crate) bytes: u64,
    /// Whose block it is.
    pub(crate) shared: Option<&'a SharedPtr<B>>,
    /// Index of the memory type, if it is a block's.
    pub(crate) memory_type: usize,
    pub(crate) uses: Uses,
    /// Whether it came as memory of the host, though it may lie in a block.
    pub(crate) is_host_memory: bool,
    borrow: PhantomData<&'a [u8]>,
}

/// Memory that a transfer writes, borrowed mutably.
pub(crate) struct ReachMut<'a, B: Backend>(pub(crate) Reach<'a, B>);

impl<'a, B: Backend> Reach<'a, B> {
    /// Memory of the host; if it is pinned memory of `own`'s, the part of a block that it is.
    pub(crate) fn memory(own: &'a SharedPtr<B>, memory: &'a [u8]) -> Self {
        Self::host(own, NonNull::from(memory).cast(), memory.len() as u64)
    }

    fn host(own: &'a SharedPtr<B>, start: NonNull<u8>, bytes: u64) -> Self {
        let address = HostAddress(start);
        // The memory is borrowed, so that its allocation is live, if it lies in one.
        let pinned = own.find_pinned(start.addr().get(), bytes as usize);
        let shared = pinned.is_some().then_some(own);
        let end = match pinned {
            Some((block, offset)) => End::Block { block, offset, host: Some(address) },
            None => End::Host(address),
        };
        let memory_type = own.pinned_type().unwrap_or(0);
        Self {
            end,
            bytes,
            shared,
            memory_type,
            uses: Uses::at_home(NO_QUEUE),
            is_host_memory: true,
            borrow: PhantomData,
        }
    }

    /// A part of an allocation, which the caller has checked.
    pub(crate) fn allocation(allocation: &'a Allocation<B>, range: Range<u64>) -> Self {
        debug_assert!(range.start <= range.end && range.end <= allocation.requested_bytes());
        let (block, start) = allocation.located();
        // SAFETY: the range lies in the allocation, and that is one object of the host's memory, where it sees it.
        let host =
            allocation.host_pointer().map(|host| HostAddress(unsafe { host.add(range.start as usize) }));
        Self {
            end: End::Block { block, offset: start + range.start, host },
            bytes: range.end - range.start,
            shared: Some(allocation.shared_ptr()),
            memory_type: allocation.memory_type(),
            uses: allocation.uses(),
            is_host_memory: false,
            borrow: PhantomData,
        }
    }

    /// What a claim holds. It must be granted before the transfer begins.
    pub(crate) fn claim(claim: &'a RangeClaim<B>) -> Self {
        Self::allocation(claim.allocation(), claim.range())
    }

    /// Blocks until no queue uses the memory, but for transfers.
    pub(crate) fn wait_for_queues(&self) -> Result<(), Error> {
        match self.shared {
            Some(shared) if self.is_used() => shared.wait_for_uses(self.uses),
            _ => Ok(()),
        }
    }

    /// What must have passed before the memory is used, by the manager `own`: a marker in each queue that may use it now.
    pub(crate) fn marks(&self, own: &SharedPtr<B>) -> Result<Vec<(HopQueue<B>, u64)>, Error> {
        let Some(shared) = self.shared.filter(|_| self.is_used()) else { return Ok(Vec::new()) };
        let mark = |queue: Arc<QueueState<B::Queue>>| {
            let value = shared.signal(&queue)?;
            let foreign = (!std::ptr::eq::<Shared<B>>(&**shared, &**own)).then(|| shared.keeper());
            Ok((HopQueue { queue, foreign }, value))
        };
        shared.queues_of(self.uses).map(mark).collect()
    }

    /// Whether queues may use the memory.
    pub(crate) fn is_used(&self) -> bool {
        self.uses != Uses::at_home(NO_QUEUE)
    }

    /// Whether a processor sees it.
    pub(crate) fn is_visible(&self) -> bool {
        self.end.host().is_some()
    }

    /// Names the memory as devices see it that it is no block of.
    pub(crate) fn become_host(&mut self) {
        if let Some(end) = self.end.of_host() {
            self.end = end;
        }
    }
}

impl<'a, B: Backend> ReachMut<'a, B> {
    /// As [`Reach::memory`].
    pub(crate) fn memory(own: &'a SharedPtr<B>, memory: &'a mut [u8]) -> Self {
        let bytes = memory.len() as u64;
        Self(Reach::host(own, NonNull::from(memory).cast(), bytes))
    }

    /// As [`Reach::allocation`].
    pub(crate) fn allocation(allocation: &'a mut Allocation<B>, range: Range<u64>) -> Self {
        Self(Reach::allocation(allocation, range))
    }

    /// What a claim to write holds. It must be granted before the transfer begins.
    pub(crate) fn claim(claim: &'a mut RangeClaim<B>) -> Self {
        Self(Reach::claim(claim))
    }
}

/// Where a blocking transfer's bytes are from.
pub(crate) enum From<'a, B: Backend> {
    Memory(Reach<'a, B>),
    Value(u8),
}

/// What a transfer owns until it is over.
pub(crate) trait Parts<B: Backend>: Send {
    /// Whether all of it may be used by now; if not, `waker` is woken when that may have changed. Once true it stays so.
    fn poll_granted(&mut self, waker: &Waker) -> bool;
    /// Its ends. Where they are does not change when the parts are moved.
    fn ends<'a>(&'a mut self, own: &'a SharedPtr<B>) -> (From<'a, B>, ReachMut<'a, B>);
    /// Lets others use its ends again: the transfer is over.
    fn release(&mut self);
    /// Itself, to be taken apart.
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}
