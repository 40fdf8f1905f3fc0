//! What transfers do to memory: copies by processors, and commands for queues.
//!
//! A [`Plan`] names memory by address, without owning or borrowing it. It is made here only, from memory that is borrowed
//! ([`Reach`], [`ReachMut`]) or owned ([`Parts`]), and given to the [`Engine`](crate::transfer::Engine), which promises: it does to the plan's memory
//! what this module offers and no more, each byte of the destination once, and nothing once it has said that the transfer is over.
//! So whoever had the memory keeps it as it is until then: [`run`](run()) has it borrowed and does not return before; parts that are owned
//! stay in the engine until then, whatever becomes of the future, and are [released](Parts::release) then.

mod reach;
mod run;
mod slot;

pub(crate) use reach::{From, Parts, Reach, ReachMut};
pub(crate) use run::{begin, run};
pub(crate) use slot::{Slot, SlotPart};

use crate::manager::{QueueState, Shared};
use crate::transfer::{Chunk, Hop};
use aquifer_backend::{Backend, BlockRange, Command, CopyEnd, Error, Ticket};
use std::ptr::NonNull;
use std::sync::Arc;

/// A processor looks so often, in bytes, whether what it copies is cancelled. Copying in smaller steps is slower.
const STEP_BYTES: u64 = 256 << 10;

/// An address in memory of the host that a plan names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostAddress(NonNull<u8>);

// SAFETY: it is used by this module only, for the plan that it is part of, whose memory any thread may use: it was borrowed or
// owned as `Send` bytes by whoever made the plan.
unsafe impl Send for HostAddress {}
// SAFETY: as above.
unsafe impl Sync for HostAddress {}

impl HostAddress {
    /// The address `offset` bytes on.
    ///
    /// # Safety
    ///
    /// - It lies in the same memory, or where that ends.
    unsafe fn at(self, offset: u64) -> NonNull<u8> {
        // SAFETY: the caller vouches for it.
        unsafe { self.0.add(offset as usize) }
    }
}

/// One end of a transfer.
pub(crate) enum End<B: Backend> {
    /// Memory of the host that is no block's, as far as this device is concerned.
    Host(HostAddress),
    /// A part of a block.
    Block {
        block: Arc<B::Block>,
        offset: u64,
        /// Where the host sees it, if it does.
        host: Option<HostAddress>,
    },
}

impl<B: Backend> Clone for End<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Host(address) => Self::Host(*address),
            Self::Block { block, offset, host } => {
                Self::Block { block: Arc::clone(block), offset: *offset, host: *host }
            }
        }
    }
}

impl<B: Backend> End<B> {
    /// Where a processor reaches it, if it does.
    pub(crate) fn host(&self) -> Option<HostAddress> {
        match self {
            Self::Host(address) => Some(*address),
            Self::Block { host, .. } => *host,
        }
    }

    /// The same memory, as a device sees it whose block it is not.
    pub(crate) fn of_host(&self) -> Option<Self> {
        self.host().map(Self::Host)
    }

    /// As a command names it, `offset` bytes on.
    ///
    /// # Safety
    ///
    /// - That lies in the end.
    unsafe fn copy_end(&self, offset: u64) -> CopyEnd<'_, B::Block> {
        match self {
            // SAFETY: the caller vouches for it.
            Self::Host(address) => CopyEnd::Host(unsafe { address.at(offset) }),
            Self::Block { block, offset: start, .. } => CopyEnd::Block { block, offset: start + offset },
        }
    }
}

/// Where the bytes are from.
pub(crate) enum Source<B: Backend> {
    Copy(End<B>),
    Fill(u8),
}

impl<B: Backend> Clone for Source<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Copy(end) => Self::Copy(end.clone()),
            Self::Fill(value) => Self::Fill(*value),
        }
    }
}

/// What a transfer does: both ends are `bytes` long, and do not overlap.
pub(crate) struct Plan<B: Backend> {
    pub(crate) source: Source<B>,
    pub(crate) destination: End<B>,
    pub(crate) bytes: u64,
}

impl<B: Backend> Clone for Plan<B> {
    fn clone(&self) -> Self {
        Self { source: self.source.clone(), destination: self.destination.clone(), bytes: self.bytes }
    }
}

impl<B: Backend> Plan<B> {
    /// Copies, or fills, a part by this processor; false if the ticket was cancelled first. What has arrived is added to the ticket.
    pub(crate) fn copy_by_processor(&self, chunk: Chunk, ticket: &Ticket) -> bool {
        let to = self.destination.host().expect("the way is the processor's, who sees both ends");
        for (offset, bytes) in steps(chunk) {
            if ticket.is_cancelled() {
                return false;
            }
            // SAFETY: chunks lie in the plan.
            let to = unsafe { to.at(offset) };
            match &self.source {
                Source::Copy(from) => {
                    let from = from.host().expect("the way is the processor's, who sees both ends");
                    // SAFETY: as above.
                    let from = unsafe { from.at(offset) };
                    // SAFETY: both ends are as long as the plan, do not overlap, and are the transfer's until it is over, which it is not
                    // before this piece is (see the module's text); nobody else has this piece.
                    unsafe { from.copy_to_nonoverlapping(to, bytes as usize) };
                }
                // SAFETY: as for copies.
                Source::Fill(value) => unsafe { to.write_bytes(*value, bytes as usize) },
            }
            ticket.add_done(bytes);
        }
        true
    }

    /// Copies a part of the source to a staging chunk; false if the ticket was cancelled first.
    pub(crate) fn stage_in(&self, chunk: Chunk, slot: &SlotPart<B>, ticket: &Ticket) -> bool {
        let Source::Copy(end) = &self.source else { unreachable!("fills are not staged") };
        let from = end.host().expect("what is staged lies in memory of the host");
        let start = chunk.offset;
        for (offset, bytes) in steps(chunk) {
            if ticket.is_cancelled() {
                return false;
            }
            // SAFETY: chunks lie in the plan.
            let from = unsafe { from.at(offset) };
            // SAFETY: no chunk is longer than a slot.
            let to = unsafe { slot.host().at(offset - start) };
            // SAFETY: as for `copy_by_processor`; the slot is the chunk's alone, and another allocation than the source.
            unsafe { from.copy_to_nonoverlapping(to, bytes as usize) };
        }
        true
    }

    /// Copies a staging chunk to a part of the destination. What has arrived is added to the ticket.
    pub(crate) fn stage_out(&self, chunk: Chunk, slot: &SlotPart<B>, ticket: &Ticket) {
        let to = self.destination.host().expect("what is staged goes to memory of the host");
        for (offset, bytes) in steps(chunk) {
            if ticket.is_cancelled() {
                return;
            }
            // SAFETY: chunks lie in the plan.
            let to = unsafe { to.at(offset) };
            // SAFETY: no chunk is longer than a slot.
            let from = unsafe { slot.host().at(offset - chunk.offset) };
            // SAFETY: as for `stage_in`; the queue that filled the slot has passed.
            unsafe { from.copy_to_nonoverlapping(to, bytes as usize) };
            ticket.add_done(bytes);
        }
    }

    /// Gives a part of the plan to a queue of `shared`: from the source to the slot, from the slot to the destination, or, without a slot, all the way.
    pub(crate) fn enqueue(
        &self,
        shared: &Shared<B>,
        queue: &QueueState<B::Queue>,
        hop: Hop,
        chunk: Chunk,
        slot: Option<&End<B>>,
        ticket: &Arc<Ticket>,
    ) -> Result<(), Error> {
        shared.check_process("transfer")?;
        let Chunk { offset, bytes, .. } = chunk;
        let (source, destination) = match (&self.source, slot, hop) {
            (Source::Fill(value), ..) => {
                let End::Block { block, offset: start, .. } = &self.destination else {
                    unreachable!("queues fill blocks")
                };
                let destination = BlockRange { block: &**block, offset: start + offset, bytes };
                let command = Command::Fill { destination, value: *value };
                // SAFETY: as for copies, below.
                return shared.note(unsafe { shared.backend.enqueue(&queue.raw, command, ticket) });
            }
            (Source::Copy(from), Some(slot), Hop::Near) => ((from, offset), (slot, 0)),
            (Source::Copy(_), Some(slot), Hop::Far) => ((slot, 0), (&self.destination, offset)),
            (Source::Copy(from), None, _) => ((from, offset), (&self.destination, offset)),
        };
        // SAFETY: chunks lie in the plan, and start where slots do.
        let from = unsafe { source.0.copy_end(source.1) };
        // SAFETY: as above.
        let to = unsafe { destination.0.copy_end(destination.1) };
        let command = Command::Copy { source: from, destination: to, bytes };
        // SAFETY: chunks lie in the plan, whose ends do not overlap, and are not longer than a slot, which is the chunk's alone. All of it is
        // the transfer's until it is over, which it is not before this queue has passed the marker that comes behind, or the device is lost.
        // The queues that may have used the ends before have passed. Blocks are the queue's device's, or such as it reads.
        let answer = unsafe { shared.backend.enqueue(&queue.raw, command, ticket) };
        shared.note(answer)
    }
}

/// A chunk in steps: offset in the plan, and bytes.
fn steps(chunk: Chunk) -> impl Iterator<Item = (u64, u64)> {
    let end = chunk.offset + chunk.bytes;
    (chunk.offset..end).step_by(STEP_BYTES as usize).map(move |offset| (offset, STEP_BYTES.min(end - offset)))
}
