//! Which device is measured. The only file that names one.

use aquifer::Queue;
use std::ffi::c_void;
use std::ptr;

/// The backend that everything else here is written over.
pub(crate) type Device = aquifer::Host;

/// The driver's object behind a queue, as C has it: a `CUstream`. Null where the device has no such thing, as host memory.
pub(crate) fn stream(_queue: &Queue<Device>) -> *mut c_void {
    // For a device with streams: `_queue.raw()` is the backend's queue, which knows its own.
    ptr::null_mut()
}
