//! Steps of the processor's in a stream: copies from and to memory that is not page-locked, in their turn.
//!
//! The driver itself copies such memory when it is asked to, not in the stream's turn, or makes the caller wait. So it goes through a
//! piece of page-locked memory of the queue's, which a function that the stream calls fills or empties. That is for what is small:
//! the core brings large transfers through pinned memory of its own.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::sys::CUstream;

use crate::block::HostAddress;
use crate::device::Device;
use crate::sys::{self, Code};

use super::HostWork;

/// How much is staged at once. The stream's own order keeps the pieces apart.
const STAGE_BYTES: u64 = 1 << 20;

/// A queue's staging memory, made with its first such copy.
#[derive(Debug, Default)]
pub(super) struct HostSteps {
    stage: Option<HostAddress>,
}

/// How much of a copy a stream has been given.
#[derive(Debug, Clone, Copy)]
pub(super) enum Given {
    Whole,
    /// Some of its pieces, and what the driver said to the next.
    Part(Code),
}

/// One copy by the processor.
struct Step {
    work: Arc<HostWork>,
    from: HostAddress,
    to: HostAddress,
    bytes: u64,
}

/// What the stream calls.
///
/// # Safety
///
/// - The argument is a [`Step`] from [`Box::into_raw`], and is given once.
unsafe extern "C" fn run(argument: *mut c_void) {
    // SAFETY: the caller vouches for it.
    let step = unsafe { Box::from_raw(argument.cast::<Step>()) };
    for (offset, bytes) in pieces(step.bytes) {
        step.work.run(|| {
            // SAFETY: who enqueued the copy vouches for both ends until it has run, or all work is over.
            let from = unsafe { step.from.0.add(offset as usize) };
            // SAFETY: as above.
            let to = unsafe { step.to.0.add(offset as usize) };
            // SAFETY: as above; they do not overlap.
            unsafe { from.copy_to_nonoverlapping(to, bytes as usize) };
        });
    }
}

impl Step {
    /// # Safety
    ///
    /// - As for [`copy`].
    unsafe fn give(self, stream: CUstream) -> Result<(), Code> {
        let argument = Box::into_raw(Box::new(self));
        // SAFETY: the caller vouches for the stream; the function takes what it is given, makes no call and does not unwind.
        let given = unsafe { sys::call_on_host(stream, run, argument.cast()) };
        given.inspect_err(|_| {
            // SAFETY: the driver did not take it.
            drop(unsafe { Box::from_raw(argument) });
        })
    }
}

/// Copies within the host, in the stream's turn. It is not cancelled: what is copied behind it may be what it staged.
///
/// # Safety
///
/// - The stream is alive. Both ends stay until the copy has run or `work` is over, nobody writes the one or touches the other, and they do not overlap.
pub(super) unsafe fn copy(
    stream: CUstream,
    work: &Arc<HostWork>,
    (from, to): (HostAddress, HostAddress),
    bytes: u64,
) -> Result<(), Code> {
    // SAFETY: the caller vouches for it.
    unsafe { Step { work: Arc::clone(work), from, to, bytes }.give(stream) }
}

impl HostSteps {
    fn stage(&mut self) -> Result<HostAddress, Code> {
        if let Some(stage) = self.stage {
            return Ok(stage);
        }
        let start = NonNull::new(sys::host_alloc(STAGE_BYTES)?);
        let stage = HostAddress(start.expect("the driver answers an address"));
        self.stage = Some(stage);
        Ok(stage)
    }

    /// Copies from the host to an address of the device's.
    ///
    /// # Safety
    ///
    /// - As for [`copy`].
    pub(super) unsafe fn upload(
        &mut self,
        stream: CUstream,
        work: &Arc<HostWork>,
        (from, to): (HostAddress, u64),
        bytes: u64,
    ) -> Result<Given, Code> {
        let stage = self.stage()?;
        give_all(bytes, |offset, bytes| {
            // SAFETY: the piece lies in the memory that the caller vouches for.
            let from = HostAddress(unsafe { from.0.add(offset as usize) });
            // SAFETY: the caller vouches for one end; the stage is the stream's alone, which uses it in order.
            unsafe { copy(stream, work, (from, stage), bytes) }?;
            // SAFETY: as above.
            Ok(unsafe { sys::copy(stream, stage.0.addr().get() as u64, to + offset, bytes) })
        })
    }

    /// Copies from an address of the device's to the host.
    ///
    /// # Safety
    ///
    /// - As for [`copy`].
    pub(super) unsafe fn download(
        &mut self,
        stream: CUstream,
        work: &Arc<HostWork>,
        (from, to): (u64, HostAddress),
        bytes: u64,
    ) -> Result<Given, Code> {
        let stage = self.stage()?;
        give_all(bytes, |offset, bytes| {
            // SAFETY: as in `upload`.
            unsafe { sys::copy(stream, from + offset, stage.0.addr().get() as u64, bytes) }?;
            // SAFETY: the piece lies in the memory that the caller vouches for.
            let to = HostAddress(unsafe { to.0.add(offset as usize) });
            // SAFETY: as in `upload`.
            Ok(unsafe { copy(stream, work, (stage, to), bytes) })
        })
    }

    /// Gives the staging memory back. The stream has nothing more to do.
    pub(super) fn free(&mut self, device: &Device) {
        if let Some(stage) = self.stage.take() {
            // SAFETY: it is the driver's, and no step uses it any more. A lost device keeps it.
            let _ = device.call("destroy_queue", || unsafe { sys::host_free(stage.0.as_ptr()) });
        }
    }
}

/// Gives a stream a copy's pieces, each in two halves: `give` answers what the driver said to the first, and then to the second.
fn give_all(bytes: u64, give: impl Fn(u64, u64) -> Result<Result<(), Code>, Code>) -> Result<Given, Code> {
    for (offset, bytes) in pieces(bytes) {
        match give(offset, bytes) {
            Ok(Ok(())) => {}
            Err(code) if offset == 0 => return Err(code),
            Ok(Err(code)) | Err(code) => return Ok(Given::Part(code)),
        }
    }
    Ok(Given::Whole)
}

/// Offset and length of each piece.
fn pieces(bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..bytes.div_ceil(STAGE_BYTES)).map(move |index| {
        let offset = index * STAGE_BYTES;
        (offset, STAGE_BYTES.min(bytes - offset))
    })
}
