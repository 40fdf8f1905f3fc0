//! Pinned memory for staging.

use super::{End, HostAddress};
use crate::raw::allocation::Allocation;
use aquifer_backend::Backend;
use std::sync::Arc;

/// A chunk of pinned memory, for staging.
pub(crate) struct Slot<B: Backend> {
    block: Arc<B::Block>,
    offset: u64,
    host: HostAddress,
    _allocation: Allocation<B>,
}

impl<B: Backend> Slot<B> {
    /// `None` if the host does not see the memory, which no pinned memory is like.
    pub(crate) fn new(allocation: Allocation<B>) -> Option<Self> {
        let host = HostAddress(allocation.host_pointer()?);
        let (block, offset) = allocation.located();
        Some(Self { block, offset, host, _allocation: allocation })
    }
}

/// A staging chunk, or the part of one, that one piece of a transfer has for itself.
pub(crate) struct SlotPart<B: Backend> {
    slot: Arc<Slot<B>>,
    /// From the start of the chunk, in bytes.
    offset: u64,
    host: HostAddress,
}

impl<B: Backend> SlotPart<B> {
    /// The bytes from `offset` of the chunk on, which lie in it.
    pub(crate) fn new(slot: Arc<Slot<B>>, offset: u64) -> Self {
        debug_assert!(offset < slot._allocation.requested_bytes());
        // SAFETY: the part begins in the chunk.
        let host = HostAddress(unsafe { slot.host.at(offset) });
        Self { slot, offset, host }
    }

    /// Its first byte.
    pub(super) fn host(&self) -> HostAddress {
        self.host
    }

    /// As the manager's own device sees it.
    pub(crate) fn end(&self) -> End<B> {
        let Slot { block, offset, .. } = &*self.slot;
        End::Block { block: Arc::clone(block), offset: offset + self.offset, host: Some(self.host) }
    }

    /// As another device sees it: memory of the host.
    pub(crate) fn end_of_host(&self) -> End<B> {
        End::Host(self.host)
    }
}
