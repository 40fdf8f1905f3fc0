//! The driver's own copies between two devices: what is left to do by hand where there are no transfers.

use crate::{
    Backend, Buffer, Capabilities, Error, ErrorKind, MemoryFlags, MemoryManager, Queue, SyncBackend,
};
use aquifer_core::{Command, CopyEnd, Ticket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How long one waits for a queue before one looks again.
const WAIT: Duration = Duration::from_secs(1);

/// How the driver brings a buffer of one device to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// A queue reads the peer's block.
    Peer,
    /// A queue reads what the host sees of the peer's block.
    Visible,
    /// Two copies, by way of pinned memory of the source's.
    Staged,
}

/// Whether the host sees a device's ordinary buffers.
pub(super) fn is_visible<B: Backend>(manager: &MemoryManager<B>) -> bool {
    manager.properties().memory_types[0].flags.contains(MemoryFlags::HOST_VISIBLE)
}

pub(super) fn runs_on_host<B: Backend>(manager: &MemoryManager<B>) -> bool {
    manager.properties().capabilities.contains(Capabilities::RUNS_ON_HOST)
}

/// How the driver would, for ordinary buffers.
pub(super) fn way<B: Backend>(source: &MemoryManager<B>, destination: &MemoryManager<B>) -> Way {
    if destination.backend().reads_peer(source.backend(), 0) {
        Way::Peer
    } else if is_visible(source) {
        Way::Visible
    } else {
        Way::Staged
    }
}

/// Two queues, one of each device.
pub(super) struct PeerQueues<B: Backend> {
    source: Queue<B>,
    destination: Queue<B>,
}

impl<B: SyncBackend> PeerQueues<B> {
    pub(super) fn new(source: &MemoryManager<B>, destination: &MemoryManager<B>) -> Result<Self, Error> {
        Ok(Self { source: source.queue()?, destination: destination.queue()? })
    }

    /// Copies all of a buffer to another as long, in the queue of the destination.
    pub(super) fn copy(
        &self,
        source: &Buffer<B>,
        destination: &mut Buffer<B>,
        way: Way,
    ) -> Result<(), Error> {
        debug_assert_eq!(source.size_bytes(), destination.size_bytes());
        let bytes = destination.size_bytes();
        destination.with_block(|to, to_offset| {
            source.with_block(|from, from_offset| {
                let source_end = match (way, source.host_pointer()) {
                    (Way::Peer, _) => CopyEnd::Block { block: from, offset: from_offset },
                    (_, Some(start)) => CopyEnd::Host(start),
                    (_, None) => return Err(unseen()),
                };
                let command = Command::Copy {
                    source: source_end,
                    destination: CopyEnd::Block { block: to, offset: to_offset },
                    bytes,
                };
                // SAFETY: both buffers are as long as the copy, and are two allocations; the destination's block is the queue's device's,
                // and the source's only where the device reads its peer. Both are borrowed, the destination mutably, until the queue
                // has passed the copy, and no other queue was given them.
                unsafe { run(&self.destination, command) }
            })
        })
    }

    /// Copies all of a buffer to memory of the host as long, in the queue of the source.
    pub(super) fn copy_out(&self, source: &Buffer<B>, destination: &mut Buffer<B>) -> Result<(), Error> {
        debug_assert_eq!(source.size_bytes(), destination.size_bytes());
        let bytes = destination.size_bytes();
        let start = destination.host_pointer().ok_or_else(unseen)?;
        source.with_block(|from, offset| {
            let source_end = CopyEnd::Block { block: from, offset };
            let command = Command::Copy { source: source_end, destination: CopyEnd::Host(start), bytes };
            // SAFETY: as for `copy`; the block is the queue's device's.
            unsafe { run(&self.source, command) }
        })
    }
}

fn unseen() -> Error {
    let message = "the host does not see the memory that the copy goes by way of";
    Error::new(ErrorKind::Unsupported, "measure", message)
}

/// Puts a command into a queue, and returns when the queue has passed it, or the device is lost.
///
/// # Safety
///
/// - As [`Backend::enqueue`], until this returns.
unsafe fn run<B: SyncBackend>(queue: &Queue<B>, command: Command<'_, B::Block>) -> Result<(), Error> {
    let ticket = Arc::new(Ticket::default());
    // SAFETY: the caller vouches for it until this returns, which is when the queue has passed the command.
    unsafe { queue.manager().backend().enqueue(queue.raw(), command, &ticket) }?;
    // Then nothing will run any more.
    let is_over = |error: &Error| matches!(error.kind(), ErrorKind::DeviceLost | ErrorKind::Forked);
    let value = loop {
        match queue.signal() {
            Ok(value) => break value,
            Err(error) if is_over(&error) => return Err(error),
            // The command is in the queue, so nobody may leave.
            Err(_) => thread::yield_now(),
        }
    };
    loop {
        match queue.wait(value, WAIT) {
            Ok(()) => break,
            Err(error) if is_over(&error) => return Err(error),
            Err(_) => thread::yield_now(),
        }
    }
    ticket.take_error().map_or(Ok(()), Err)
}
