//! Streams that the program made, and gives to queues.

use aquifer_backend::{Error, ErrorKind};
use cudarc::driver::sys::CUstream;

use crate::device::Device;
use crate::sys;

pub(super) const ADOPT: &str = "adopt_stream";
/// The driver's handle for the default stream of the thread that calls.
const CU_STREAM_PER_THREAD: usize = 2;

/// Whether a stream is of the device's context.
///
/// # Safety
///
/// - The stream is alive.
pub(super) unsafe fn check_stream(device: &Device, stream: CUstream) -> Result<(), Error> {
    device.check(ADOPT)?;
    if stream.addr() == CU_STREAM_PER_THREAD {
        let message = "the default stream of each thread is as many streams as there are threads, and a queue is one; \
                       give a stream of your own";
        return Err(Error::new(ErrorKind::InvalidArgument, ADOPT, message));
    }
    // SAFETY: the caller vouches for it.
    let context = device.call(ADOPT, || unsafe { sys::context_of(stream) })?;
    if context == device.context.raw() {
        return Ok(());
    }
    let message = format!(
        "the stream is of another context, or another device, than device {} is used through; make it there",
        device.ordinal
    );
    Err(Error::new(ErrorKind::InvalidArgument, ADOPT, message))
}
