//! Steps of a queue that the processor makes: copies between blocks and memory of the host, and what the device's commands cannot
//! do at once.

use std::ptr::NonNull;
use std::sync::Arc;

use aquifer_backend::{Error, Ticket};
use objc2::Message as _;
use objc2::runtime::ProtocolObject;
use objc2_metal::MTLBuffer;

use super::progress::Effect;
use crate::device::Device;
use crate::object::Object;
use crate::staging::{Staging, copy};
use crate::transfer::{Blit, Part, chunks};

const OPERATION: &str = "enqueue";

/// Which way a copy goes, as seen from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Upload,
    Download,
}

/// What the processor is to do, in the queue's turn.
#[derive(Debug)]
pub(super) struct HostStep {
    work: Work,
    bytes: u64,
    ticket: Arc<Ticket>,
    /// Its number in the queue.
    number: u64,
}

#[derive(Debug)]
enum Work {
    /// The host sees both ends: from, to.
    Direct(NonNull<u8>, NonNull<u8>),
    /// Only the device sees the one end.
    Staged {
        block: OwnPart,
        host: NonNull<u8>,
        direction: Direction,
    },
    /// Between blocks.
    Copy {
        source: OwnPart,
        destination: OwnPart,
    },
    Fill {
        destination: OwnPart,
        value: u8,
    },
}

// SAFETY: whoever made it vouches for all ends, on whichever thread it runs.
unsafe impl Send for HostStep {}

/// A [`Part`] that keeps its buffer.
#[derive(Debug)]
struct OwnPart {
    buffer: Object<dyn MTLBuffer>,
    contents: Option<NonNull<u8>>,
    offset: u64,
}

impl From<Part<'_>> for OwnPart {
    fn from(part: Part<'_>) -> Self {
        let Part { buffer, contents, offset } = part;
        let buffer: &ProtocolObject<dyn MTLBuffer> = buffer;
        Self { buffer: Object::new(buffer.retain()), contents, offset }
    }
}

impl OwnPart {
    /// The byte `bytes` further on.
    fn at(&self, bytes: u64) -> Part<'_> {
        Part { buffer: &self.buffer, contents: self.contents, offset: self.offset + bytes }
    }
}

impl HostStep {
    fn new(work: Work, bytes: u64, ticket: &Arc<Ticket>) -> Self {
        Self { work, bytes, ticket: Arc::clone(ticket), number: 0 }
    }

    /// A copy of `bytes` bytes between a block and memory of the host.
    ///
    /// # Safety
    ///
    /// - Until it has run or is dropped, both ends exist, are that long, and are used by nobody who is not ordered with it.
    pub(super) unsafe fn transfer(
        part: Part<'_>,
        host: NonNull<u8>,
        direction: Direction,
        bytes: u64,
        ticket: &Arc<Ticket>,
    ) -> Self {
        // SAFETY: the caller vouches that the part lies in its block.
        let work = match (unsafe { part.address() }, direction) {
            (Some(start), Direction::Upload) => Work::Direct(host, start),
            (Some(start), Direction::Download) => Work::Direct(start, host),
            (None, _) => Work::Staged { block: part.into(), host, direction },
        };
        Self::new(work, bytes, ticket)
    }

    /// A copy of `bytes` bytes within memory of the host.
    ///
    /// # Safety
    ///
    /// - As [`HostStep::transfer`].
    pub(super) unsafe fn within_host(
        from: NonNull<u8>,
        to: NonNull<u8>,
        bytes: u64,
        ticket: &Arc<Ticket>,
    ) -> Self {
        Self::new(Work::Direct(from, to), bytes, ticket)
    }

    /// A copy or fill that no one command of the device's can do.
    ///
    /// # Safety
    ///
    /// - As [`HostStep::transfer`].
    pub(super) unsafe fn blit(blit: Blit<'_>, ticket: &Arc<Ticket>) -> Self {
        let work = match blit {
            Blit::Copy { source, destination, .. } => {
                Work::Copy { source: source.into(), destination: destination.into() }
            }
            Blit::Fill { destination, value, .. } => Work::Fill { destination: destination.into(), value },
        };
        Self::new(work, blit.bytes(), ticket)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn numbered(self, number: u64) -> Self {
        Self { number, ..self }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether no device is needed.
    pub(super) fn is_direct(&self) -> bool {
        matches!(self.work, Work::Direct(..))
    }

    /// What happens when it has ended: it tells its ticket by itself, as it goes.
    pub(super) fn effect(&self) -> Effect {
        Effect::new(&self.ticket, 0)
    }

    pub(super) fn fail(self, error: Error) {
        self.ticket.fail(error);
    }

    /// Does it, and tells the ticket what has arrived and what failed. To be called in its turn.
    pub(super) fn run(self, device: &Device, staging: &mut Staging) {
        for (done, bytes) in chunks(self.bytes) {
            if self.ticket.is_cancelled() {
                return;
            }
            // SAFETY: whoever made the step vouches for its ends; the chunk lies in them.
            let result = unsafe { self.run_chunk(device, staging, done, bytes) };
            if let Err(error) = result {
                self.ticket.fail(error);
                return;
            }
            self.ticket.add_done(bytes);
        }
    }

    /// # Safety
    ///
    /// - The step's ends are as [`HostStep::transfer`] says, and `done + bytes` is at most their length.
    unsafe fn run_chunk(
        &self,
        device: &Device,
        staging: &mut Staging,
        done: u64,
        bytes: u64,
    ) -> Result<(), Error> {
        match &self.work {
            Work::Direct(from, to) => {
                // SAFETY: the caller vouches that the chunk lies in both ends.
                let from = unsafe { from.add(done as usize) };
                // SAFETY: as above.
                let to = unsafe { to.add(done as usize) };
                // SAFETY: the caller vouches for the ends; they do not overlap (`Backend::enqueue`).
                unsafe { copy(device, from, to, bytes, OPERATION) }
            }
            Work::Staged { block, host, direction } => {
                // SAFETY: the caller vouches that the chunk lies in the host's end.
                let host = unsafe { host.add(done as usize) };
                match direction {
                    // SAFETY: the caller vouches for both ends, and the step's turn has come.
                    Direction::Upload => unsafe {
                        staging.upload(device, host, block.at(done), bytes, OPERATION)
                    },
                    Direction::Download => {
                        // SAFETY: as above.
                        let staged = unsafe { staging.download(device, block.at(done), bytes, OPERATION) }?;
                        // SAFETY: as above; nobody else knows the staging buffer.
                        unsafe { copy(device, staged, host, bytes, OPERATION) }
                    }
                }
            }
            Work::Copy { source, destination } => {
                let blit = Blit::Copy { source: source.at(done), destination: destination.at(done), bytes };
                // SAFETY: the caller vouches for both ends, and the step's turn has come.
                unsafe { device.run(blit, OPERATION) }
            }
            Work::Fill { destination, value } => {
                let blit = Blit::Fill { destination: destination.at(done), bytes, value: *value };
                // SAFETY: as above.
                unsafe { device.run(blit, OPERATION) }
            }
        }
    }
}
