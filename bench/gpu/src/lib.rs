//! Aquifer behind a small C interface, so that one harness in C++ measures it and its peers alike. `peers/aquifer.h` declares the
//! same for C++.
//!
//! Handles are opaque pointers. A buffer lies in storage of the caller's ([`AqBuffer`]), so that neither allocating nor freeing
//! one allocates memory of the host. What fails returns null, 0 or -1, and [`aq_last_error`] says why. All may be called
//! from any thread.

mod device;
mod failure;
#[cfg(test)]
mod tests;

use aquifer::{Buffer, Config, DefaultDevice, MemoryManager, Queue};
use device::Device;
use failure::note;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;

/// A manager of device memory.
#[derive(Debug)]
pub struct AqManager(MemoryManager<Device>);

/// A queue of a manager's: a stream of the driver's with the memory at home on it.
#[derive(Debug)]
pub struct AqQueue(Queue<Device>);

/// Room for one buffer. Its content means nothing to the caller, who may not move it while there is a buffer in it.
#[derive(Debug)]
#[repr(C)]
pub struct AqBuffer {
    words: [MaybeUninit<u64>; 6],
}

const _: () = assert!(size_of::<Buffer<Device>>() <= size_of::<AqBuffer>());
const _: () = assert!(align_of::<Buffer<Device>>() <= align_of::<AqBuffer>());

/// What a manager has counted. In bytes, but for the calls.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct AqStatistics {
    /// Held by users, rounding included.
    pub live_bytes: u64,
    /// What the driver has given and not got back.
    pub reserved_bytes: u64,
    /// The most that was ever reserved.
    pub reserved_peak_bytes: u64,
    /// Calls of the driver for memory, and markers put into queues.
    pub driver_call_count: u64,
}

/// Why the last call that failed on this thread did so: text that ends with a zero byte, good until the next call that fails
/// here. Empty before the first.
#[unsafe(no_mangle)]
pub extern "C" fn aq_last_error() -> *const c_char {
    failure::last()
}

/// Opens a manager of the default device. `budget_bytes` bounds what is reserved; 0: what the device says. `policy` is a name
/// that [`Config::with_policy`] knows; null: the default. Null if there is no such policy or no device. To be
/// closed by [`aq_close`].
///
/// # Safety
///
/// - `policy` is null, or text that ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_open(budget_bytes: u64, policy: *const c_char) -> *mut AqManager {
    let policy = if policy.is_null() {
        None
    } else {
        // SAFETY: the caller vouches for the text.
        Some(unsafe { CStr::from_ptr(policy) }.to_string_lossy())
    };
    let mut config = Config::default();
    config.budget_bytes = (budget_bytes != 0).then_some(budget_bytes);
    if let Some(name) = policy {
        match config.with_policy(&name) {
            Some(named) => config = named,
            None => {
                return note(format!("there is no policy {name:?}; try elastic or blocks"), ptr::null_mut());
            }
        }
    }
    let opened = Device::default_device().and_then(|device| MemoryManager::with_config(device, config));
    match opened {
        Ok(manager) => Box::into_raw(Box::new(AqManager(manager))),
        Err(error) => note(error, ptr::null_mut()),
    }
}

/// Closes a manager. Its memory goes back to the driver with the last of it, its queues and its buffers.
///
/// # Safety
///
/// - `manager` is from [`aq_open`] and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_close(manager: *mut AqManager) {
    // SAFETY: it was boxed by `aq_open`, and the caller gives it up.
    drop(unsafe { Box::from_raw(manager) });
}

/// Makes a queue. Null if the driver makes no more. To be closed by [`aq_queue_close`].
///
/// # Safety
///
/// - `manager` is an open manager.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_queue_open(manager: *const AqManager) -> *mut AqQueue {
    // SAFETY: the caller vouches that it is open.
    let manager = unsafe { &*manager };
    match manager.0.queue() {
        Ok(queue) => Box::into_raw(Box::new(AqQueue(queue))),
        Err(error) => note(error, ptr::null_mut()),
    }
}

/// Gives a queue up. Does not wait for it; buffers that are at home there stay good.
///
/// # Safety
///
/// - `queue` is from [`aq_queue_open`] and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_queue_close(queue: *mut AqQueue) {
    // SAFETY: it was boxed by `aq_queue_open`, and the caller gives it up.
    drop(unsafe { Box::from_raw(queue) });
}

/// The `CUstream` of a queue, good until the manager is gone. Null if the device has no streams.
///
/// # Safety
///
/// - `queue` is an open queue.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_queue_stream(queue: *const AqQueue) -> *mut c_void {
    // SAFETY: the caller vouches that it is open.
    let queue = unsafe { &*queue };
    device::stream(&queue.0)
}

/// Allocates at home on a queue, into `storage`. Returns the address of the first byte; 0, and leaves the storage empty, if
/// there is no memory. To be freed by [`aq_free`].
///
/// # Safety
///
/// - `queue` is an open queue; `storage` can be written and holds no buffer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_allocate(queue: *const AqQueue, bytes: u64, storage: *mut AqBuffer) -> u64 {
    // SAFETY: the caller vouches that it is open.
    let queue = unsafe { &*queue };
    match queue.0.allocate(bytes) {
        Ok(buffer) => {
            let address = address(&buffer);
            // SAFETY: the caller's storage is writable, and large and aligned enough, which is checked above.
            unsafe { storage.cast::<Buffer<Device>>().write(buffer) };
            address
        }
        Err(error) => note(error, 0),
    }
}

/// Frees the buffer in `storage`. What its queues have been given by now may still use it.
///
/// # Safety
///
/// - `storage` holds a buffer of [`aq_allocate`]'s, and none from now on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_free(storage: *mut AqBuffer) {
    // SAFETY: the caller vouches for the buffer, and gives it up.
    unsafe { storage.cast::<Buffer<Device>>().drop_in_place() };
}

/// The address of the first byte of the buffer in `storage`.
///
/// # Safety
///
/// - `storage` holds a buffer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_address(storage: *const AqBuffer) -> u64 {
    // SAFETY: the caller vouches for the buffer.
    address(unsafe { &*storage.cast::<Buffer<Device>>() })
}

/// Notes that work on `queue` may use the buffer in `storage`, until it is freed. 0, or -1 if the queue is another manager's.
///
/// # Safety
///
/// - `storage` holds a buffer; `queue` is an open queue.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_record_use(storage: *const AqBuffer, queue: *const AqQueue) -> c_int {
    // SAFETY: the caller vouches for the buffer.
    let buffer = unsafe { &*storage.cast::<Buffer<Device>>() };
    // SAFETY: the caller vouches that it is open.
    let queue = unsafe { &*queue };
    match buffer.record_use(&queue.0) {
        Ok(()) => 0,
        Err(error) => note(error, -1),
    }
}

/// Gives what nobody holds back to the driver. Returns the bytes. Blocks on the driver.
///
/// # Safety
///
/// - `manager` is an open manager.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_trim(manager: *const AqManager) -> u64 {
    // SAFETY: the caller vouches that it is open.
    let manager = unsafe { &*manager };
    manager.0.trim()
}

/// What has been counted so far.
///
/// # Safety
///
/// - `manager` is an open manager.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_statistics(manager: *const AqManager) -> AqStatistics {
    // SAFETY: the caller vouches that it is open.
    let statistics = unsafe { &*manager }.0.statistics();
    AqStatistics {
        live_bytes: statistics.allocated.current,
        reserved_bytes: statistics.reserved.current,
        reserved_peak_bytes: statistics.reserved.peak,
        driver_call_count: statistics.driver_calls.count(),
    }
}

/// By which the device's programs reach the buffer, or, where they use no addresses, the host.
#[inline]
fn address(buffer: &Buffer<Device>) -> u64 {
    let on_host = || buffer.host_pointer().map_or(0, |start| start.as_ptr() as u64);
    buffer.device_address().unwrap_or_else(on_host)
}
