//! Memory of the device that `cudarc` allocated.

use std::mem::ManuallyDrop;
use std::sync::Arc;

use aquifer_backend::{DeviceMemory, Error};
use cudarc::driver::{CudaSlice, DevicePtrMut, DeviceRepr, DriverError};

use crate::context::Context;
use crate::status;
use crate::sys;

/// See [`Cuda::memory_of`](crate::Cuda::memory_of).
pub(crate) fn memory_of<T: DeviceRepr + Send + Sync + 'static>(
    mut slice: CudaSlice<T>,
) -> Result<DeviceMemory, Error> {
    let failed = |DriverError(code)| status::error("Cuda::memory_of", code);
    let stream = Arc::clone(slice.stream());
    let bytes = slice.num_bytes() as u64;
    // The stream waits for what others do with the slice, as far as `cudarc` knows of it.
    let (address, guard) = slice.device_ptr_mut(&stream);
    drop(guard);
    let owner = Owner {
        context: Some(Context::of_program(Arc::clone(stream.context()))),
        slice: ManuallyDrop::new(slice),
    };
    let synchronized = stream.synchronize();
    drop(stream);
    synchronized.map_err(failed)?;
    // SAFETY: the slice is the only owner of its memory, which is where it is until it is dropped, and nothing uses it any more.
    Ok(unsafe { DeviceMemory::new(address, bytes, owner) })
}

/// A slice, which is freed in its context: `cudarc` calls the driver in whichever the thread has.
struct Owner<T> {
    /// `None` only while it is dropped.
    context: Option<Context>,
    slice: ManuallyDrop<CudaSlice<T>>,
}

impl<T> Drop for Owner<T> {
    fn drop(&mut self) {
        let Some(context) = self.context.take().filter(Context::is_of_this_process) else { return };
        let before = sys::current_context();
        if let Ok(current) = context.enter() {
            // SAFETY: it is dropped here only.
            unsafe { ManuallyDrop::drop(&mut self.slice) };
            drop(current);
        }
        // The last of a context makes it current to end it.
        drop(context);
        if let Ok(before) = before
            && sys::current_context().is_ok_and(|now| now != before)
        {
            let _ = sys::set_current_context(before);
        }
    }
}
