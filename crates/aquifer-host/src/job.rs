//! What a queue's worker runs.

use std::fmt;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::ptr::NonNull;
use std::sync::Arc;

use aquifer_backend::{Command, CopyEnd, Ticket};

use crate::backend::at;
use crate::block::HostBlock;
use crate::queue::Shared;

/// After so many bytes of a copy or a fill the worker looks whether it is cancelled: some 0.1 ms.
const CHUNK_BYTES: usize = 1 << 20;

/// An address that another thread, the worker, will use.
struct Memory(NonNull<u8>);

// SAFETY: the address is of memory that belongs to the process, not to a thread. Whoever enqueued it vouched that the
// worker may use it.
unsafe impl Send for Memory {}

enum Transfer {
    Copy { source: Memory, destination: Memory },
    Fill { destination: Memory, value: u8 },
}

/// A copy or a fill. That it may run was vouched for when it was made.
pub(crate) struct TransferJob {
    transfer: Transfer,
    bytes: usize,
    ticket: Arc<Ticket>,
}

impl TransferJob {
    /// Notes the addresses of a command.
    ///
    /// # Safety
    ///
    /// - As for [`Backend::enqueue`](aquifer_backend::Backend::enqueue).
    pub(crate) unsafe fn new(command: Command<'_, HostBlock>, ticket: &Arc<Ticket>) -> Self {
        let (transfer, bytes) = match command {
            Command::Copy { source, destination, bytes } => {
                // SAFETY: the caller vouches that the copy's ends lie in their blocks.
                let source = unsafe { start_of(source) };
                // SAFETY: as above.
                let destination = unsafe { start_of(destination) };
                (Transfer::Copy { source, destination }, bytes)
            }
            Command::Fill { destination: range, value } => {
                // SAFETY: the caller vouches that the range lies in its block.
                let destination = Memory(unsafe { at(range.block, range.offset) });
                (Transfer::Fill { destination, value }, range.bytes)
            }
        };
        // No bit is lost: memory of the host is never longer than a usize.
        Self { transfer, bytes: bytes as usize, ticket: Arc::clone(ticket) }
    }

    fn run(self) {
        let mut offset = 0;
        while offset < self.bytes && !self.ticket.is_cancelled() {
            let bytes = CHUNK_BYTES.min(self.bytes - offset);
            // SAFETY: the chunk lies in what the command covers, and who enqueued it vouched for that.
            unsafe { self.transfer.run_chunk(offset, bytes) };
            self.ticket.add_done(bytes as u64);
            offset += bytes;
        }
    }
}

impl Transfer {
    /// Runs the part of a command that lies `offset` bytes from its start.
    ///
    /// # Safety
    ///
    /// - The part lies in the command, and what [`TransferJob::new`] asks for still holds.
    unsafe fn run_chunk(&self, offset: usize, bytes: usize) {
        match self {
            Self::Copy { source, destination } => {
                // SAFETY: the caller vouches that the part lies in the copy, whose ends lie in memory that exists.
                let from = unsafe { source.0.add(offset) };
                // SAFETY: as above.
                let to = unsafe { destination.0.add(offset) };
                // SAFETY: as above, and the ends of the copy do not overlap, so parts of them do not; nobody else
                // writes the one or touches the other before the queue's value shows it.
                unsafe { from.copy_to_nonoverlapping(to, bytes) };
            }
            Self::Fill { destination, value } => {
                // SAFETY: the caller vouches that the part lies in the fill, whose range lies in a block that exists.
                let to = unsafe { destination.0.add(offset) };
                // SAFETY: as above, and nobody else touches the range before the queue's value shows it.
                unsafe { to.write_bytes(*value, bytes) };
            }
        }
    }
}

/// Where an end of a copy starts.
///
/// # Safety
///
/// - The end lies in its block.
unsafe fn start_of(end: CopyEnd<'_, HostBlock>) -> Memory {
    Memory(match end {
        // SAFETY: the caller vouches that the end lies in its block.
        CopyEnd::Block { block, offset } => unsafe { at(block, offset) },
        CopyEnd::Host(start) => start,
    })
}

/// One piece of a queue's work.
pub(crate) enum Job {
    /// A copy or a fill.
    Transfer(TransferJob),
    /// Waits until another queue's value is reached.
    Wait { other: Arc<Shared>, value: u64 },
    /// The user's own.
    Work(Box<dyn FnOnce() + Send>),
}

/// A user's closure panicked.
#[derive(Debug)]
pub(crate) struct Panicked;

impl Job {
    /// Runs it to its end. Never panics.
    pub(crate) fn run(self) -> Result<(), Panicked> {
        match self {
            Self::Transfer(transfer) => transfer.run(),
            Self::Wait { other, value } => other.wait_or_over(value),
            Self::Work(work) => return run_caught(work),
        }
        Ok(())
    }
}

fn run_caught(work: Box<dyn FnOnce() + Send>) -> Result<(), Panicked> {
    // Unwind safe: of what the closure owned nothing is left, and what it shares is the user's.
    let Err(payload) = panic::catch_unwind(AssertUnwindSafe(work)) else { return Ok(()) };
    // The payload is the user's too, and may panic when it is dropped. What that leaves is leaked, or it would never end.
    if let Err(next) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        mem::forget(next);
    }
    Err(Panicked)
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transfer(transfer) => write!(f, "Transfer({} bytes)", transfer.bytes),
            Self::Wait { value, .. } => write!(f, "Wait({value})"),
            Self::Work(_) => f.write_str("Work"),
        }
    }
}
