//! What became of a command buffer, as the contract's errors.

use aquifer_backend::{Error, ErrorKind};
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLCommandBuffer, MTLCommandBufferError, MTLCommandBufferStatus};

/// How a command buffer ended. It must have: this reads, and does not wait. To be called with an autorelease pool.
pub(crate) fn outcome(
    command_buffer: &ProtocolObject<dyn MTLCommandBuffer>,
    operation: &'static str,
) -> Result<(), Error> {
    if command_buffer.status() == MTLCommandBufferStatus::Completed {
        return Ok(());
    }
    let (code, text) = command_buffer.error().map_or_else(
        || (MTLCommandBufferError::None, "no reason given".to_owned()),
        |error| (MTLCommandBufferError(error.code() as usize), error.localizedDescription().to_string()),
    );
    let (kind, advice) = match code {
        MTLCommandBufferError::DeviceRemoved => (ErrorKind::DeviceLost, "the device was removed"),
        // Not as lost: Metal does not say that work of the process that runs already has stopped. All that follows fails alike.
        MTLCommandBufferError::AccessRevoked => (
            ErrorKind::Driver,
            "the system lets this process use the device no more, after too many faults or hangs of its work; end it",
        ),
        MTLCommandBufferError::OutOfMemory => {
            (ErrorKind::OutOfMemory, "the work did not fit in memory; free some, or run less at a time")
        }
        MTLCommandBufferError::Timeout => (ErrorKind::Driver, "the work took too long and was stopped"),
        MTLCommandBufferError::PageFault => {
            (ErrorKind::Driver, "the work touched memory that was not its own; see Metal's validation layer")
        }
        _ => (ErrorKind::Driver, "the work was not done"),
    };
    let message = format!("{advice} (Metal: {text}, code {})", code.0);
    Err(Error::new(kind, operation, message))
}

/// Metal made no object where only memory or the system's limits can be the reason.
pub(crate) fn no_object(operation: &'static str, what: &str) -> Error {
    let message = format!(
        "Metal made no {what}: the system is out of memory or of objects of the kind, or the device is gone; drop what is not \
         needed, and try again"
    );
    Error::new(ErrorKind::Driver, operation, message)
}
