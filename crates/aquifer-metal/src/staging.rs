//! A buffer that host and device see, between memory that only one of them does.
//!
//! On GPUs whose commands go by units of some bytes it also takes what begins or ends within one: whole units are brought here, and
//! the host changes some bytes of them. The other bytes of such a unit are written back as they were, so nobody may write them
//! at the same time; they are of the same allocation, since allocations begin at multiples of 256.

use std::ptr::NonNull;

use aquifer_backend::Error;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLBuffer, MTLDevice as _, MTLResourceOptions};

use crate::device::{Device, lost};
use crate::status::no_object;
use crate::transfer::{BLIT_UNIT_BYTES, Blit, Part};

/// The size of a staging buffer. Between two such parts a copy looks whether it is cancelled or the device lost.
pub(crate) const CHUNK_BYTES: u64 = 1 << 20;

/// Made when it is first needed, and kept.
#[derive(Debug, Default)]
pub(crate) struct Staging(Option<Retained<ProtocolObject<dyn MTLBuffer>>>);

impl Staging {
    fn part(&mut self, device: &Device, operation: &'static str) -> Result<(Part<'_>, NonNull<u8>), Error> {
        let buffer = match self.0.take() {
            Some(buffer) => buffer,
            None => autoreleasepool(|_| {
                let options =
                    MTLResourceOptions::StorageModeShared | MTLResourceOptions::HazardTrackingModeUntracked;
                let bytes = CHUNK_BYTES + 2 * BLIT_UNIT_BYTES;
                let buffer = device.raw.newBufferWithLength_options(bytes as usize, options);
                buffer.ok_or_else(|| no_object(operation, "staging buffer"))
            })?,
        };
        let buffer = &*self.0.insert(buffer);
        let start = buffer.contents().cast();
        Ok((Part { buffer, contents: Some(start), offset: 0 }, start))
    }

    /// Copies from the host to a part of a buffer, through here if the host does not see that.
    ///
    /// # Safety
    ///
    /// - `bytes` bytes, at most [`CHUNK_BYTES`], lie at both; nobody else uses them until the call returns, or the device is lost.
    pub(crate) unsafe fn upload(
        &mut self,
        device: &Device,
        from: NonNull<u8>,
        to: Part<'_>,
        bytes: u64,
        operation: &'static str,
    ) -> Result<(), Error> {
        // SAFETY: the caller vouches that the part lies in its buffer.
        if let Some(to) = unsafe { to.address() } {
            // SAFETY: the caller vouches for both.
            return unsafe { copy(device, from, to, bytes, operation) };
        }
        let (staged, start) = self.part(device, operation)?;
        let Units { whole, lead, length } = Units::of(device, to, bytes);
        if length != bytes {
            // SAFETY: the caller vouches for the destination; units of a block lie in it.
            unsafe {
                device.run(Blit::Copy { source: whole, destination: staged, bytes: length }, operation)
            }?;
        }
        // SAFETY: the staging buffer has room for a chunk and the units around it.
        let middle = unsafe { start.add(lead as usize) };
        // SAFETY: the caller vouches for the source; the staging buffer is ours.
        unsafe { copy(device, from, middle, bytes, operation) }?;
        // SAFETY: the caller vouches for the destination.
        unsafe { device.run(Blit::Copy { source: staged, destination: whole, bytes: length }, operation) }
    }

    /// Brings a part of a buffer to where the host sees it: where it is, if it does, else here. Good until the next call.
    ///
    /// # Safety
    ///
    /// - `bytes` bytes, at most [`CHUNK_BYTES`], lie there, and nobody writes them until the call returns.
    pub(crate) unsafe fn download(
        &mut self,
        device: &Device,
        from: Part<'_>,
        bytes: u64,
        operation: &'static str,
    ) -> Result<NonNull<u8>, Error> {
        // SAFETY: the caller vouches that the part lies in its buffer.
        if let Some(start) = unsafe { from.address() } {
            return Ok(start);
        }
        let (staged, start) = self.part(device, operation)?;
        let Units { whole, lead, length } = Units::of(device, from, bytes);
        // SAFETY: the caller vouches for the source; units of a block lie in it. The staging buffer is ours, and no shorter.
        unsafe { device.run(Blit::Copy { source: whole, destination: staged, bytes: length }, operation) }?;
        // SAFETY: the staging buffer has room for a chunk and the units around it.
        Ok(unsafe { start.add(lead as usize) })
    }
}

/// The whole units of the device's that a part of a buffer touches.
struct Units<'a> {
    whole: Part<'a>,
    /// Bytes of the first that are not of the part.
    lead: u64,
    /// Bytes of all.
    length: u64,
}

impl<'a> Units<'a> {
    fn of(device: &Device, part: Part<'a>, bytes: u64) -> Self {
        let unit = if device.copies_any_bytes { 1 } else { BLIT_UNIT_BYTES };
        let lead = part.offset % unit;
        let whole = Part { offset: part.offset - lead, ..part };
        Self { whole, lead, length: (lead + bytes).next_multiple_of(unit) }
    }
}

/// Copies by the processor, unless the device is lost: nobody is told of that meanwhile, and so nobody takes the memory away.
///
/// # Safety
///
/// - `bytes` bytes lie at both, do not overlap, and are used by nobody else until the call returns.
pub(crate) unsafe fn copy(
    device: &Device,
    from: NonNull<u8>,
    to: NonNull<u8>,
    bytes: u64,
    operation: &'static str,
) -> Result<(), Error> {
    let _held = device.hold().ok_or_else(|| lost(operation))?;
    // SAFETY: the caller vouches for both.
    unsafe { from.copy_to_nonoverlapping(to, bytes as usize) };
    Ok(())
}
