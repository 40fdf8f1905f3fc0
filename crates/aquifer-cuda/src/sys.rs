//! The raw calls, each a `Result`, in the terms of this crate: addresses and sizes are `u64`.
//!
//! Calls about memory, streams and words want their device's context to be current; see [`crate::context`].

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr;

use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdevice_attribute, CUresult, CUstream, CUstream_flags, CUstreamCaptureMode,
    CUstreamCaptureStatus,
};

/// An answer of the driver's other than success.
pub(crate) type Code = CUresult;

pub(crate) fn answer(code: CUresult) -> Result<(), Code> {
    if code == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(code) }
}

/// The driver's name for an answer, as `CUDA_ERROR_ILLEGAL_ADDRESS`.
pub(crate) fn name_of(code: Code) -> String {
    let mut text = ptr::null();
    // SAFETY: the driver writes the address of a string that lives as long as the program, or null.
    let known = answer(unsafe { sys::cuGetErrorName(code, &raw mut text) });
    if known.is_err() || text.is_null() {
        return format!("CUDA error {}", code as u32);
    }
    // SAFETY: the driver answered that it is such a string.
    let text = unsafe { CStr::from_ptr(text) };
    format!("{} ({})", text.to_string_lossy(), code as u32)
}

/// Whether the driver's library can be loaded, and is the driver: the bindings panic where a function is not there.
pub(crate) fn is_there() -> bool {
    // SAFETY: it loads NVIDIA's library, whose initialisers are made for that.
    if !unsafe { sys::is_culib_present() } {
        return false;
    }
    // SAFETY: as above; it is there.
    let library = unsafe { sys::culib() };
    // SAFETY: what is found is not used.
    let has = |name: &[u8]| unsafe { library.get::<*const c_void>(name) }.is_ok();
    has(b"cuDriverGetVersion\0") && has(b"cuInit\0")
}

/// The version of CUDA that the driver speaks, as 13000 for 13.0.
pub(crate) fn version() -> Result<i32, Code> {
    let mut version = 0;
    // SAFETY: the driver writes a number.
    answer(unsafe { sys::cuDriverGetVersion(&raw mut version) })?;
    Ok(version)
}

pub(crate) fn init() -> Result<(), Code> {
    // SAFETY: any number of calls, by any thread.
    answer(unsafe { sys::cuInit(0) })
}

pub(crate) fn device_count() -> Result<i32, Code> {
    let mut count = 0;
    // SAFETY: the driver writes a number.
    answer(unsafe { sys::cuDeviceGetCount(&raw mut count) })?;
    Ok(count)
}

pub(crate) fn device(ordinal: i32) -> Result<CUdevice, Code> {
    let mut device = 0;
    // SAFETY: the driver writes a number.
    answer(unsafe { sys::cuDeviceGet(&raw mut device, ordinal) })?;
    Ok(device)
}

pub(crate) fn device_name(device: CUdevice) -> Result<String, Code> {
    let mut text = [0; 256];
    let length = text.len() as c_int;
    // SAFETY: the driver writes at most so many characters, the last one 0.
    answer(unsafe { sys::cuDeviceGetName(text.as_mut_ptr(), length, device) })?;
    Ok(string_of(&text))
}

/// The device's place on the PCI bus, as `0000:1b:00.0`.
pub(crate) fn pci_bus_id(device: CUdevice) -> Result<String, Code> {
    let mut text = [0; 32];
    let length = text.len() as c_int;
    // SAFETY: as in `device_name`.
    answer(unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), length, device) })?;
    Ok(string_of(&text))
}

fn string_of(text: &[std::ffi::c_char]) -> String {
    text.iter().take_while(|&&one| one != 0).map(|&one| one as u8 as char).collect()
}

pub(crate) fn attribute(device: CUdevice, attribute: CUdevice_attribute) -> Result<i32, Code> {
    let mut value = 0;
    // SAFETY: the driver writes a number.
    answer(unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, device) })?;
    Ok(value)
}

pub(crate) fn total_bytes(device: CUdevice) -> Result<u64, Code> {
    let mut bytes = 0;
    // SAFETY: the driver writes a number.
    answer(unsafe { sys::cuDeviceTotalMem_v2(&raw mut bytes, device) })?;
    Ok(bytes as u64)
}

pub(crate) fn retain_primary_context(device: CUdevice) -> Result<CUcontext, Code> {
    let mut context = ptr::null_mut();
    // SAFETY: the driver writes a handle, which `release_primary_context` gives back.
    answer(unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, device) })?;
    Ok(context)
}

/// # Safety
///
/// - The caller has retained the context, and does not use it any more.
pub(crate) unsafe fn release_primary_context(device: CUdevice) -> Result<(), Code> {
    // SAFETY: the caller vouches for it.
    answer(unsafe { sys::cuDevicePrimaryCtxRelease_v2(device) })
}

/// The calling thread's context; null if it has none.
pub(crate) fn current_context() -> Result<CUcontext, Code> {
    let mut context = ptr::null_mut();
    // SAFETY: the driver writes a handle.
    answer(unsafe { sys::cuCtxGetCurrent(&raw mut context) })?;
    Ok(context)
}

pub(crate) fn push_context(context: CUcontext) -> Result<(), Code> {
    // SAFETY: the driver checks the handle of a context that has been destroyed; ours was made by it.
    answer(unsafe { sys::cuCtxPushCurrent_v2(context) })
}

pub(crate) fn pop_context() -> Result<(), Code> {
    let mut context = ptr::null_mut();
    // SAFETY: the driver writes a handle.
    answer(unsafe { sys::cuCtxPopCurrent_v2(&raw mut context) })
}

/// Gives the calling thread another context in the place of the one it has; null for none.
pub(crate) fn set_current_context(context: CUcontext) -> Result<(), Code> {
    // SAFETY: as in `push_context`.
    answer(unsafe { sys::cuCtxSetCurrent(context) })
}

/// The device of the current context.
pub(crate) fn current_device() -> Result<CUdevice, Code> {
    let mut device = 0;
    // SAFETY: the driver writes a number.
    answer(unsafe { sys::cuCtxGetDevice(&raw mut device) })?;
    Ok(device)
}

/// Gives the thread another mode for calls that some other stream's capture forbids; answers the one it had.
pub(crate) fn exchange_capture_mode(mode: CUstreamCaptureMode) -> Result<CUstreamCaptureMode, Code> {
    let mut mode = mode;
    // SAFETY: the driver reads and writes the mode.
    answer(unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut mode) })?;
    Ok(mode)
}

/// Free and total bytes of the current context's device.
pub(crate) fn memory_info() -> Result<(u64, u64), Code> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: the driver writes two numbers.
    answer(unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) })?;
    Ok((free as u64, total as u64))
}

pub(crate) fn alloc(bytes: u64) -> Result<u64, Code> {
    let mut address = 0;
    // SAFETY: the driver writes an address.
    answer(unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes as usize) })?;
    Ok(address)
}

pub(crate) fn alloc_managed(bytes: u64) -> Result<u64, Code> {
    const CU_MEM_ATTACH_GLOBAL: c_uint = 1;
    let mut address = 0;
    // SAFETY: as in `alloc`.
    answer(unsafe { sys::cuMemAllocManaged(&raw mut address, bytes as usize, CU_MEM_ATTACH_GLOBAL) })?;
    Ok(address)
}

/// # Safety
///
/// - The address is one of [`alloc`] or [`alloc_managed`], and nobody uses the memory any more.
pub(crate) unsafe fn free(address: u64) -> Result<(), Code> {
    // SAFETY: the caller vouches for it.
    answer(unsafe { sys::cuMemFree_v2(address) })
}

const HOST_PORTABLE: c_uint = 1;
const HOST_DEVICE_MAP: c_uint = 2;

/// Page-locked memory that all contexts reach, at the host's address.
pub(crate) fn host_alloc(bytes: u64) -> Result<*mut u8, Code> {
    let mut start = ptr::null_mut();
    // SAFETY: the driver writes an address.
    answer(unsafe { sys::cuMemHostAlloc(&raw mut start, bytes as usize, HOST_PORTABLE | HOST_DEVICE_MAP) })?;
    Ok(start.cast())
}

/// # Safety
///
/// - The address is one of [`host_alloc`], and nobody uses the memory any more.
pub(crate) unsafe fn host_free(start: *mut u8) -> Result<(), Code> {
    // SAFETY: the caller vouches for it.
    answer(unsafe { sys::cuMemFreeHost(start.cast()) })
}

/// # Safety
///
/// - The bytes are mapped and writable until they are unregistered.
pub(crate) unsafe fn host_register(start: *mut u8, bytes: u64) -> Result<(), Code> {
    // SAFETY: the caller vouches for it.
    answer(unsafe {
        sys::cuMemHostRegister_v2(start.cast(), bytes as usize, HOST_PORTABLE | HOST_DEVICE_MAP)
    })
}

/// # Safety
///
/// - The address is one that was given to [`host_register`], and no device uses the memory any more.
pub(crate) unsafe fn host_unregister(start: *mut u8) -> Result<(), Code> {
    // SAFETY: the caller vouches for it.
    answer(unsafe { sys::cuMemHostUnregister(start.cast()) })
}

/// The device's address of page-locked memory.
pub(crate) fn device_pointer(start: *mut u8) -> Result<u64, Code> {
    let mut address = 0;
    // SAFETY: the driver writes an address; it answers an error for memory that is not locked.
    answer(unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut address, start.cast(), 0) })?;
    Ok(address)
}

/// Whose memory an address is of, as far as the driver knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The host's, page-locked.
    Host,
    /// That of the device with this ordinal.
    Device(i32),
    /// The driver knows nothing there: other memory of the host's, or none.
    Unknown,
}

/// Asks for several attributes at once, since that is no error for addresses that the driver does not know, which sanitizers would report.
pub(crate) fn whose(address: u64) -> Result<Whose, Code> {
    let (mut kind, mut ordinal): (c_uint, c_int) = (0, 0);
    let mut attributes = [
        sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
        sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
    ];
    let mut places: [*mut c_void; 2] = [(&raw mut kind).cast(), (&raw mut ordinal).cast()];
    let count = attributes.len() as c_uint;
    // SAFETY: there are so many attributes, and places of their sizes; the driver only looks the address up.
    answer(unsafe {
        sys::cuPointerGetAttributes(count, attributes.as_mut_ptr(), places.as_mut_ptr(), address)
    })?;
    Ok(if kind == sys::CUmemorytype::CU_MEMORYTYPE_HOST as c_uint {
        Whose::Host
    } else if kind == sys::CUmemorytype::CU_MEMORYTYPE_DEVICE as c_uint {
        Whose::Device(ordinal)
    } else {
        Whose::Unknown
    })
}

/// Whether the driver knows memory of the host as page-locked.
pub(crate) fn is_locked(start: *const u8) -> bool {
    whose(start.addr() as u64) == Ok(Whose::Host)
}

pub(crate) fn create_stream() -> Result<CUstream, Code> {
    let mut stream = ptr::null_mut();
    let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as c_uint;
    // SAFETY: the driver writes a handle.
    answer(unsafe { sys::cuStreamCreate(&raw mut stream, flags) })?;
    Ok(stream)
}

/// What is in the stream goes on.
///
/// # Safety
///
/// - The stream is one of [`create_stream`], and nobody names it any more.
pub(crate) unsafe fn destroy_stream(stream: CUstream) -> Result<(), Code> {
    // SAFETY: the caller vouches for it.
    answer(unsafe { sys::cuStreamDestroy_v2(stream) })
}

/// Whether all of a stream's work has run.
///
/// # Safety
///
/// - The stream is alive.
pub(crate) unsafe fn is_idle(stream: CUstream) -> Result<bool, Code> {
    // SAFETY: the caller vouches for it.
    match unsafe { sys::cuStreamQuery(stream) } {
        CUresult::CUDA_SUCCESS => Ok(true),
        CUresult::CUDA_ERROR_NOT_READY => Ok(false),
        code => Err(code),
    }
}

/// # Safety
///
/// - The stream is alive.
pub(crate) unsafe fn synchronize(stream: CUstream) -> Result<(), Code> {
    // SAFETY: the caller vouches for it.
    answer(unsafe { sys::cuStreamSynchronize(stream) })
}

/// Whether what is given to a stream becomes part of a graph instead of running.
///
/// # Safety
///
/// - The stream is alive.
pub(crate) unsafe fn is_capturing(stream: CUstream) -> Result<bool, Code> {
    let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    // SAFETY: the caller vouches for the stream; the driver writes the status.
    answer(unsafe { sys::cuStreamIsCapturing(stream, &raw mut status) })?;
    Ok(status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
}

/// # Safety
///
/// - The stream is alive.
pub(crate) unsafe fn context_of(stream: CUstream) -> Result<CUcontext, Code> {
    let mut context = ptr::null_mut();
    // SAFETY: the caller vouches for the stream; the driver writes a handle.
    answer(unsafe { sys::cuStreamGetCtx(stream, &raw mut context) })?;
    Ok(context)
}

/// Has a stream write a word when all before it has run, and all that it wrote is seen by host and devices.
///
/// # Safety
///
/// - The stream is alive, and so is the word until it has been written.
pub(crate) unsafe fn write_word(stream: CUstream, word: u64, value: u64) -> Result<(), Code> {
    // SAFETY: the caller vouches for it. The flags ask for the barrier that is the default.
    answer(unsafe { sys::cuStreamWriteValue64_v2(stream, word, value, 0) })
}

/// Has a stream wait until a word is at least `value`.
///
/// # Safety
///
/// - The stream is alive, and so is the word until it has been passed.
pub(crate) unsafe fn await_word(stream: CUstream, word: u64, value: u64) -> Result<(), Code> {
    const CU_STREAM_WAIT_VALUE_GEQ: c_uint = 0;
    // SAFETY: the caller vouches for it.
    answer(unsafe { sys::cuStreamWaitValue64_v2(stream, word, value, CU_STREAM_WAIT_VALUE_GEQ) })
}

/// Copies between any two addresses that devices reach.
///
/// # Safety
///
/// - The stream is alive, and both ends until the copy has run; nobody writes the one or touches the other meanwhile.
pub(crate) unsafe fn copy(stream: CUstream, from: u64, to: u64, bytes: u64) -> Result<(), Code> {
    // SAFETY: the caller vouches for it.
    answer(unsafe { sys::cuMemcpyAsync(to, from, bytes as usize, stream) })
}

/// Copies between two contexts' addresses, each reached as its own context does: where their devices do not reach each other's, the driver
/// goes another way.
///
/// # Safety
///
/// - As for [`copy`].
pub(crate) unsafe fn copy_between(
    stream: CUstream,
    (from, from_context): (u64, CUcontext),
    (to, to_context): (u64, CUcontext),
    bytes: u64,
) -> Result<(), Code> {
    // SAFETY: the caller vouches for it; the driver checks the contexts' handles.
    answer(unsafe { sys::cuMemcpyPeerAsync(to, to_context, from, from_context, bytes as usize, stream) })
}

/// # Safety
///
/// - As for [`copy`].
pub(crate) unsafe fn fill(stream: CUstream, to: u64, value: u8, bytes: u64) -> Result<(), Code> {
    // SAFETY: the caller vouches for it.
    answer(unsafe { sys::cuMemsetD8Async(to, value, bytes as usize, stream) })
}

/// Has a thread of the driver's call a function when all before it in the stream has run; what comes after waits for it.
///
/// # Safety
///
/// - The stream is alive. The function may be called with that argument, on another thread, once; it makes no call of the driver's
///   and does not unwind.
pub(crate) unsafe fn call_on_host(
    stream: CUstream,
    function: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
) -> Result<(), Code> {
    // SAFETY: the caller vouches for it.
    answer(unsafe { sys::cuLaunchHostFunc(stream, Some(function), argument) })
}

pub(crate) fn can_access_peer(device: CUdevice, peer: CUdevice) -> Result<bool, Code> {
    let mut can = 0;
    // SAFETY: the driver writes a number.
    answer(unsafe { sys::cuDeviceCanAccessPeer(&raw mut can, device, peer) })?;
    Ok(can != 0)
}

/// Lets the current context reach what is allocated in another.
pub(crate) fn enable_peer_access(peer: CUcontext) -> Result<(), Code> {
    // SAFETY: the driver checks the handle, which it made.
    match answer(unsafe { sys::cuCtxEnablePeerAccess(peer, 0) }) {
        Err(CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED) => Ok(()),
        answer => answer,
    }
}
