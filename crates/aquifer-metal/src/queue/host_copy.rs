//! Copies between blocks and memory of the host, by the processor.

use std::ptr::NonNull;
use std::sync::Arc;

use aquifer_backend::{Error, Ticket};
use objc2::Message as _;
use objc2_metal::MTLBuffer;

use super::progress::Effect;
use crate::device::Device;
use crate::object::Object;
use crate::staging::{CHUNK_BYTES, Staging, copy};
use crate::transfer::{Blit, Part};

const OPERATION: &str = "enqueue";

/// Which way a copy goes, as seen from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Upload,
    Download,
}

/// A copy with one end in memory of the host, or both.
#[derive(Debug)]
pub(super) struct HostCopy {
    ends: Ends,
    bytes: u64,
    ticket: Arc<Ticket>,
    /// Its number in the queue.
    step: u64,
}

#[derive(Debug)]
enum Ends {
    /// Both are seen by the host: from, to.
    Direct(NonNull<u8>, NonNull<u8>),
    /// The device alone sees the one.
    Staged { buffer: Object<dyn MTLBuffer>, offset: u64, host: NonNull<u8>, direction: Direction },
}

// SAFETY: whoever made it vouches for both ends, on whichever thread it runs.
unsafe impl Send for HostCopy {}

impl HostCopy {
    /// A copy of `bytes` bytes between a block and memory of the host.
    ///
    /// # Safety
    ///
    /// - Until it has run or is dropped, both ends exist, are that long, and are used by nobody who is not ordered with it.
    pub(super) unsafe fn new(
        part: Part<'_>,
        host: NonNull<u8>,
        direction: Direction,
        bytes: u64,
        ticket: &Arc<Ticket>,
    ) -> Self {
        // SAFETY: the caller vouches that the part lies in its block.
        let ends = match (unsafe { part.address() }, direction) {
            (Some(start), Direction::Upload) => Ends::Direct(host, start),
            (Some(start), Direction::Download) => Ends::Direct(start, host),
            (None, _) => Ends::Staged {
                buffer: Object::new(part.buffer.retain()),
                offset: part.offset,
                host,
                direction,
            },
        };
        Self { ends, bytes, ticket: Arc::clone(ticket), step: 0 }
    }

    /// A copy of `bytes` bytes within memory of the host.
    ///
    /// # Safety
    ///
    /// - As [`HostCopy::new`].
    pub(super) unsafe fn within_host(
        from: NonNull<u8>,
        to: NonNull<u8>,
        bytes: u64,
        ticket: &Arc<Ticket>,
    ) -> Self {
        Self { ends: Ends::Direct(from, to), bytes, ticket: Arc::clone(ticket), step: 0 }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn at_step(self, step: u64) -> Self {
        Self { step, ..self }
    }

    pub(super) fn step(&self) -> u64 {
        self.step
    }

    /// Whether the host sees both ends.
    pub(super) fn is_direct(&self) -> bool {
        matches!(self.ends, Ends::Direct(..))
    }

    /// Whether the device can do its part.
    pub(super) fn check(&self, device: &Device) -> Result<(), Error> {
        match &self.ends {
            Ends::Direct(..) => Ok(()),
            Ends::Staged { buffer, offset, .. } => {
                let part = Part { buffer, contents: None, offset: *offset };
                Blit::Fill { destination: part, bytes: self.bytes, value: 0 }.check(device, OPERATION)
            }
        }
    }

    /// What happens when it has ended: it tells its ticket by itself, as it goes.
    pub(super) fn effect(&self) -> Effect {
        Effect::new(&self.ticket, 0)
    }

    pub(super) fn fail(self, error: Error) {
        self.ticket.fail(error);
    }

    /// Copies, and tells the ticket what has arrived and what failed. To be called in its turn.
    pub(super) fn run(self, device: &Device, staging: &mut Staging) {
        let mut done = 0;
        while done < self.bytes && !self.ticket.is_cancelled() {
            let bytes = (self.bytes - done).min(CHUNK_BYTES);
            // SAFETY: whoever made the copy vouches for both ends; the chunk lies in them.
            let result = unsafe { self.run_chunk(device, staging, done, bytes) };
            if let Err(error) = result {
                self.ticket.fail(error);
                return;
            }
            self.ticket.add_done(bytes);
            done += bytes;
        }
    }

    /// # Safety
    ///
    /// - The copy's ends are as [`HostCopy::new`] says, and `done + bytes` is at most their length.
    unsafe fn run_chunk(
        &self,
        device: &Device,
        staging: &mut Staging,
        done: u64,
        bytes: u64,
    ) -> Result<(), Error> {
        match &self.ends {
            Ends::Direct(from, to) => {
                // SAFETY: the caller vouches that the chunk lies in both ends.
                let from = unsafe { from.add(done as usize) };
                // SAFETY: as above.
                let to = unsafe { to.add(done as usize) };
                // SAFETY: the caller vouches for the ends; they do not overlap (`Backend::enqueue`).
                unsafe { copy(device, from, to, bytes, OPERATION) }
            }
            Ends::Staged { buffer, offset, host, direction } => {
                let block = Part { buffer, contents: None, offset: offset + done };
                // SAFETY: the caller vouches that the chunk lies in the host's end.
                let host = unsafe { host.add(done as usize) };
                match direction {
                    // SAFETY: the caller vouches for both ends, and the copy's turn has come.
                    Direction::Upload => unsafe { staging.upload(device, host, block, bytes, OPERATION) },
                    Direction::Download => {
                        // SAFETY: as above.
                        let staged = unsafe { staging.download(device, block, bytes, OPERATION) }?;
                        // SAFETY: as above; nobody else knows the staging buffer.
                        unsafe { copy(device, staged, host, bytes, OPERATION) }
                    }
                }
            }
        }
    }
}
