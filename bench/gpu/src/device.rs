//! Which device is measured. The only file that names one.

use aquifer::Queue;
use std::ffi::c_void;

/// The backend that everything else here is written over.
pub(crate) type Device = aquifer::Cuda;

/// The driver's object behind a queue, as C has it: a `CUstream`.
pub(crate) fn stream(queue: &Queue<Device>) -> *mut c_void {
    queue.raw().stream().cast()
}
