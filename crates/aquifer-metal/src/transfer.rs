//! Copies and fills: what is encoded for the device, and what the processor does by itself.

use std::ptr::NonNull;

use aquifer_backend::{BlockRange, Error};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSRange;
use objc2_metal::{
    MTLBlitCommandEncoder, MTLBuffer, MTLCommandBuffer, MTLCommandEncoder as _, MTLCommandQueue,
};

use crate::block::MetalBlock;
use crate::device::{Device, lost};
use crate::staging::{CHUNK_BYTES, Staging};
use crate::status::{no_object, outcome};

/// Up to so many bytes the processor copies between blocks that it sees, where nobody waits for a queue: to give work to the
/// device and wait for it costs as much as copying some MiB (PyTorch, pull request 182749: 64 KiB by memcpy take a
/// seventy-fifth of a blit). Where the two meet was not measured.
const BY_PROCESSOR_BYTES_MAX: u64 = 4 << 20;

/// What macOS's documentation wants offsets and sizes to be multiples of; Apple's own GPUs do not need it.
pub(crate) const BLIT_UNIT_BYTES: u64 = 4;

/// A byte of a buffer from which something is read or written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) buffer: &'a ProtocolObject<dyn MTLBuffer>,
    /// The buffer's first byte, where the host sees it.
    pub(crate) contents: Option<NonNull<u8>>,
    pub(crate) offset: u64,
}

impl<'a> Part<'a> {
    pub(crate) fn of(block: &'a MetalBlock, offset: u64) -> Self {
        Self { buffer: &block.buffer, contents: block.contents, offset }
    }

    /// The host's address of it, if the host sees it.
    ///
    /// # Safety
    ///
    /// - The offset is at most the buffer's length.
    pub(crate) unsafe fn address(&self) -> Option<NonNull<u8>> {
        // SAFETY: the caller vouches that the offset stays in the buffer.
        self.contents.map(|start| unsafe { start.add(self.offset as usize) })
    }

    /// The byte `bytes` further on.
    pub(crate) fn at(self, bytes: u64) -> Self {
        Self { offset: self.offset + bytes, ..self }
    }

    fn is_in_units(&self) -> bool {
        self.offset.is_multiple_of(BLIT_UNIT_BYTES)
    }
}

/// A copy or fill of buffers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Blit<'a> {
    Copy { source: Part<'a>, destination: Part<'a>, bytes: u64 },
    Fill { destination: Part<'a>, bytes: u64, value: u8 },
}

impl<'a> Blit<'a> {
    pub(crate) fn fill(range: BlockRange<'a, MetalBlock>, value: u8) -> Self {
        Self::Fill { destination: Part::of(range.block, range.offset), bytes: range.bytes, value }
    }

    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Copy { bytes, .. } | Self::Fill { bytes, .. } => *bytes,
        }
    }

    /// Whether one command of the device's can do it.
    pub(crate) fn is_one_command(&self, device: &Device) -> bool {
        let is_in_units = match self {
            Self::Copy { source, destination, .. } => source.is_in_units() && destination.is_in_units(),
            Self::Fill { destination, .. } => destination.is_in_units(),
        };
        device.copies_any_bytes || is_in_units && self.bytes().is_multiple_of(BLIT_UNIT_BYTES)
    }

    /// Does it by the processor, if that sees all of it; false if not.
    ///
    /// # Safety
    ///
    /// - The ranges lie in their buffers and do not overlap; nobody else uses them.
    unsafe fn run_by_processor(&self) -> bool {
        match self {
            Self::Copy { source, destination, bytes } => {
                // SAFETY: the caller vouches for the range.
                let Some(from) = (unsafe { source.address() }) else { return false };
                // SAFETY: as above.
                let Some(to) = (unsafe { destination.address() }) else { return false };
                // SAFETY: the caller vouches for both ranges, that they do not overlap, and that nobody else uses them.
                unsafe { from.copy_to_nonoverlapping(to, *bytes as usize) };
            }
            Self::Fill { destination, bytes, value } => {
                // SAFETY: the caller vouches for the range.
                let Some(to) = (unsafe { destination.address() }) else { return false };
                // SAFETY: the caller vouches for the range and that nobody else uses it.
                unsafe { to.write_bytes(*value, *bytes as usize) };
            }
        }
        true
    }

    /// Encodes it.
    ///
    /// # Safety
    ///
    /// - The ranges lie in their buffers and do not overlap.
    pub(crate) unsafe fn encode(
        &self,
        command_buffer: &ProtocolObject<dyn MTLCommandBuffer>,
        operation: &'static str,
    ) -> Result<(), Error> {
        let encoder =
            command_buffer.blitCommandEncoder().ok_or_else(|| no_object(operation, "blit encoder"))?;
        match self {
            // SAFETY: the caller vouches for the ranges.
            Self::Copy { source, destination, bytes } => unsafe {
                encoder.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(
                    source.buffer,
                    source.offset as usize,
                    destination.buffer,
                    destination.offset as usize,
                    *bytes as usize,
                );
            },
            Self::Fill { destination, bytes, value } => {
                let range = NSRange::new(destination.offset as usize, *bytes as usize);
                encoder.fillBuffer_range_value(destination.buffer, range, *value);
            }
        }
        encoder.endEncoding();
        Ok(())
    }
}

impl Device {
    /// Copies or fills, and returns when it is done.
    ///
    /// # Safety
    ///
    /// - As [`Backend::copy`](aquifer_backend::Backend::copy) and [`Backend::fill`](aquifer_backend::Backend::fill).
    pub(crate) unsafe fn run(&self, blit: Blit<'_>, operation: &'static str) -> Result<(), Error> {
        self.check(operation)?;
        if blit.bytes() == 0 {
            return Ok(());
        }
        let is_one_command = blit.is_one_command(self);
        if blit.bytes() <= BY_PROCESSOR_BYTES_MAX || !is_one_command {
            // Until it is dropped nobody is told that the device is lost, and so nobody takes the memory away.
            let _held = self.hold().ok_or_else(|| lost(operation))?;
            // SAFETY: the caller vouches for the ranges and that nobody else uses them.
            let is_done = unsafe { blit.run_by_processor() };
            if is_done {
                return Ok(());
            }
        }
        if !is_one_command {
            // SAFETY: as above.
            return unsafe { self.run_staged(blit, operation) };
        }
        self.flush_residency();
        autoreleasepool(|_| {
            let command_buffer = new_command_buffer(&self.transfers, operation)?;
            // SAFETY: the caller vouches for the ranges.
            unsafe { blit.encode(&command_buffer, operation) }?;
            command_buffer.commit();
            command_buffer.waitUntilCompleted();
            self.note_end();
            outcome(&command_buffer, operation).map_err(|error| self.note(error))
        })
    }

    /// Copies or fills what begins or ends within a unit of the device's, through memory that the host sees.
    ///
    /// # Safety
    ///
    /// - As [`Device::run`].
    unsafe fn run_staged(&self, blit: Blit<'_>, operation: &'static str) -> Result<(), Error> {
        let (mut near, mut far) = (Staging::default(), Staging::default());
        let mut pattern = match blit {
            Blit::Copy { .. } => Vec::new(),
            Blit::Fill { bytes, value, .. } => vec![value; bytes.min(CHUNK_BYTES) as usize],
        };
        for (done, bytes) in chunks(blit.bytes()) {
            let (from, to) = match blit {
                Blit::Copy { source, destination, .. } => {
                    // SAFETY: the caller vouches for the source; the chunk lies in it.
                    let from = unsafe { near.download(self, source.at(done), bytes, operation) }?;
                    (from, destination)
                }
                Blit::Fill { destination, .. } => (NonNull::from(pattern.as_mut_slice()).cast(), destination),
            };
            // SAFETY: the caller vouches for the destination; what is copied is this call's own, and that long.
            unsafe { far.upload(self, from, to.at(done), bytes, operation) }?;
        }
        Ok(())
    }
}

/// The parts, offset and size, in which `bytes` bytes pass a staging buffer.
pub(crate) fn chunks(bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..bytes).step_by(CHUNK_BYTES as usize).map(move |done| (done, (bytes - done).min(CHUNK_BYTES)))
}

/// To be called with an autorelease pool: that is where Metal puts it.
pub(crate) fn new_command_buffer(
    queue: &ProtocolObject<dyn MTLCommandQueue>,
    operation: &'static str,
) -> Result<Retained<ProtocolObject<dyn MTLCommandBuffer>>, Error> {
    queue.commandBuffer().ok_or_else(|| no_object(operation, "command buffer"))
}
