//! Devices: what they are, and how much of their memory is taken.

#![allow(non_snake_case)]

use crate::abi::{Answer, Code, Out};
use crate::context::Primary;
use crate::driver::{initialise, settings};
use crate::faults::{enter, enter_early};
use crate::settings::Settings;
use parking_lot::{Condvar, Mutex};
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) ordinal: usize,
    total: u64,
    used: AtomicU64,
    /// What other processes have.
    pub(crate) foreign: AtomicU64,
    pub(crate) primary: Mutex<Primary>,
    pub(crate) connections: Connections,
}

/// How many more streams of a device may run now.
#[derive(Debug)]
pub(crate) struct Connections {
    free: Mutex<u32>,
    changed: Condvar,
}

/// A stream's turn, given back when dropped.
#[derive(Debug)]
pub(crate) struct Connection<'a>(&'a Connections);

impl Connections {
    /// Blocks until the stream may run.
    pub(crate) fn take(&self) -> Connection<'_> {
        let mut free = self.free.lock();
        self.changed.wait_while(&mut free, |free| *free == 0);
        *free -= 1;
        Connection(self)
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.changed.notify_one();
    }
}

/// Bytes of a device, given back when dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    device: &'static Device,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.device.used.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

impl Device {
    pub(crate) fn new(ordinal: usize, settings: &Settings) -> Self {
        let free = if settings.connections == 0 { u32::MAX } else { settings.connections };
        Self {
            ordinal,
            total: settings.memory_bytes,
            used: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
            primary: Mutex::default(),
            connections: Connections { free: Mutex::new(free), changed: Condvar::new() },
        }
    }

    pub(crate) fn charge(&'static self, bytes: u64) -> Answer<Charge> {
        let room = self.total.saturating_sub(self.foreign.load(Ordering::SeqCst));
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= room);
        match self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add) {
            Ok(_) => Ok(Charge { device: self, bytes }),
            Err(_) => Err(Code::OUT_OF_MEMORY),
        }
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::SeqCst)
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn free(&self) -> u64 {
        self.total.saturating_sub(self.used()).saturating_sub(self.foreign.load(Ordering::SeqCst))
    }

    fn pci_bus(&self) -> c_int {
        0x10 + self.ordinal as c_int
    }
}

/// Writes text and a zero into `len` bytes, cut if need be.
fn put_text(to: Out<c_char>, len: c_int, text: &str) -> Answer {
    let room = usize::try_from(len).ok().filter(|len| *len > 0).ok_or(Code::INVALID_VALUE)?;
    let bytes = text.bytes().take(room - 1).chain([0]);
    bytes.enumerate().try_for_each(|(i, byte)| to.put_at(i, byte as c_char))
}

/// What an H200 answers, where a manager of memory would ask; 0 otherwise. The numbers are `CUdevice_attribute`'s.
fn attribute(device: &Device, number: c_int) -> c_int {
    match number {
        10 => 32,               // warp size
        16 => 132,              // multiprocessors
        18 => 0,                // integrated
        19 => 1,                // can map host memory
        31 => 1,                // concurrent kernels
        33 => device.pci_bus(), // PCI bus
        34 => 0,                // PCI device
        50 => 0,                // PCI domain
        40 => 3,                // copy engines
        41 => 1,                // unified addressing
        75 => 9,                // compute capability, major
        76 => 0,                // and minor
        78 => 1,                // stream priorities
        83 => 1,                // managed memory
        88 => 0,                // reaches pageable memory
        89 => 1,                // managed memory beside the host
        91 => 1,                // registered memory by the host's pointer
        92 | 93 | 122 => 1,     // values written and waited for, 64 bits
        94 | 123 => 1,          // waits for NOR: see `streams.rs`
        99 => 1,                // host registration
        102 => 1,               // virtual memory management
        103 => 1,               // handles as file descriptors
        110 => 1,               // mapped memory for GPUDirect RDMA
        115 => 1,               // pools of memory
        134 => -1,              // the host's NUMA node: not told
        _ => 0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: c_uint) -> c_int {
    enter_early("cuInit", || initialise(flags))
}

#[unsafe(no_mangle)]
extern "C" fn cuDriverGetVersion(version: Out<c_int>) -> c_int {
    enter_early("cuDriverGetVersion", || version.put(settings().driver_version as c_int))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetCount(count: Out<c_int>) -> c_int {
    enter("cuDeviceGetCount", |driver| count.put(driver.devices.len() as c_int))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGet(device: Out<c_int>, ordinal: c_int) -> c_int {
    enter("cuDeviceGet", |driver| {
        driver.device(ordinal)?;
        device.put(ordinal)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetName(name: Out<c_char>, len: c_int, device: c_int) -> c_int {
    enter("cuDeviceGetName", |driver| {
        driver.device(device)?;
        put_text(name, len, "Software CUDA device")
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: c_int) -> c_int {
    enter("cuDeviceTotalMem_v2", |driver| bytes.put(driver.device(device)?.total() as usize))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetAttribute(value: Out<c_int>, number: c_int, device: c_int) -> c_int {
    enter("cuDeviceGetAttribute", |driver| {
        let device = driver.device(device)?;
        if number <= 0 {
            return Err(Code::INVALID_VALUE);
        }
        value.put(attribute(device, number))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetPCIBusId(id: Out<c_char>, len: c_int, device: c_int) -> c_int {
    enter("cuDeviceGetPCIBusId", |driver| {
        put_text(id, len, &format!("0000:{:02X}:00.0", driver.device(device)?.pci_bus()))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: c_int) -> c_int {
    enter("cuDeviceGetUuid_v2", |driver| {
        let mut bytes = *b"software cuda \0\0";
        bytes[15] = driver.device(device)?.ordinal as u8;
        uuid.put(bytes)
    })
}

/// Names and meanings of the errors that this library answers.
const ERRORS: [(c_int, &CStr, &CStr); 28] = [
    (0, c"CUDA_SUCCESS", c"no error"),
    (1, c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
    (2, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
    (3, c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
    (4, c"CUDA_ERROR_DEINITIALIZED", c"driver shutting down"),
    (34, c"CUDA_ERROR_STUB_LIBRARY", c"CUDA driver is a stub library"),
    (100, c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected"),
    (101, c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
    (201, c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
    (214, c"CUDA_ERROR_ECC_UNCORRECTABLE", c"uncorrectable ECC error encountered"),
    (217, c"CUDA_ERROR_PEER_ACCESS_UNSUPPORTED", c"peer access is not supported between these two devices"),
    (304, c"CUDA_ERROR_OPERATING_SYSTEM", c"OS call failed or operation not supported on this OS"),
    (400, c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle"),
    (500, c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
    (600, c"CUDA_ERROR_NOT_READY", c"device not ready"),
    (700, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered"),
    (704, c"CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", c"peer access is already enabled"),
    (705, c"CUDA_ERROR_PEER_ACCESS_NOT_ENABLED", c"peer access has not been enabled"),
    (709, c"CUDA_ERROR_CONTEXT_IS_DESTROYED", c"context is destroyed"),
    (
        712,
        c"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
        c"part or all of the requested memory range is already mapped",
    ),
    (
        713,
        c"CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
        c"pointer does not correspond to a registered memory region",
    ),
    (716, c"CUDA_ERROR_MISALIGNED_ADDRESS", c"misaligned address"),
    (718, c"CUDA_ERROR_INVALID_PC", c"invalid program counter"),
    (719, c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure"),
    (800, c"CUDA_ERROR_NOT_PERMITTED", c"operation not permitted"),
    (801, c"CUDA_ERROR_NOT_SUPPORTED", c"operation not supported"),
    (802, c"CUDA_ERROR_SYSTEM_NOT_READY", c"system not yet initialized"),
    (999, c"CUDA_ERROR_UNKNOWN", c"unknown error"),
];

/// Null and `INVALID_VALUE` for a code that is not in the list.
fn put_error(
    code: c_int,
    to: Out<*const c_char>,
    pick: impl Fn(&(c_int, &CStr, &CStr)) -> *const c_char,
) -> Answer {
    match ERRORS.iter().find(|error| error.0 == code) {
        Some(error) => to.put(pick(error)),
        None => to.put(std::ptr::null()).and(Err(Code::INVALID_VALUE)),
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorName(code: c_int, name: Out<*const c_char>) -> c_int {
    enter_early("cuGetErrorName", || put_error(code, name, |error| error.1.as_ptr()))
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorString(code: c_int, text: Out<*const c_char>) -> c_int {
    enter_early("cuGetErrorString", || put_error(code, text, |error| error.2.as_ptr()))
}
