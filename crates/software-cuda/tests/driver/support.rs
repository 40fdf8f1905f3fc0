//! The driver's functions, found as any CUDA program finds them, and what most tests begin with.
//!
//! With the environment variable `SOFTWARE_CUDA_COMPARE` set, the machine's own driver is asked instead, to see whether it answers
//! alike: `--test-threads=1`, since there may be one device only, and a test that loses a context must be the last of its process.

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::io::Write;
use std::sync::{Once, OnceLock};

pub(crate) type HostFn = extern "C" fn(*mut c_void);

pub(crate) const OUT_OF_MEMORY: c_int = 2;
pub(crate) const INVALID_VALUE: c_int = 1;
pub(crate) const INVALID_DEVICE: c_int = 101;
pub(crate) const INVALID_CONTEXT: c_int = 201;
pub(crate) const INVALID_HANDLE: c_int = 400;
pub(crate) const NOT_READY: c_int = 600;
pub(crate) const ILLEGAL_ADDRESS: c_int = 700;
pub(crate) const NOT_SUPPORTED: c_int = 801;

/// Devices of the software: each test has its own, so that one's losses and counts are not another's.
const DEVICES: u32 = 34;

macro_rules! functions {
    ($($name:ident($($type:ty),*);)*) => {
        /// Function pointers that are safe to call as far as these tests go: what they are given is alive.
        #[allow(non_snake_case)]
        pub(crate) struct Cuda {
            $(pub(crate) $name: extern "C" fn($($type),*) -> c_int,)*
        }

        impl Cuda {
            fn load(library: &Library) -> Self {
                Self {
                    $($name: {
                        // SAFETY: the signature is `cuda.h`'s.
                        let function = unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) };
                        *function.unwrap_or_else(|e| panic!("{}: {e}", stringify!($name)))
                    },)*
                }
            }
        }
    };
}

functions! {
    cuInit(c_uint);
    cuDeviceGetCount(&mut c_int);
    cuDeviceGetAttribute(&mut c_int, c_int, c_int);
    cuGetErrorName(c_int, &mut *const c_char);
    cuDeviceGetPCIBusId(*mut u8, c_int, c_int);
    cuDeviceGetUuid_v2(&mut [u8; 16], c_int);
    cuDevicePrimaryCtxRetain(&mut usize, c_int);
    cuDevicePrimaryCtxRelease_v2(c_int);
    cuDevicePrimaryCtxGetState(c_int, &mut c_uint, &mut c_int);
    cuCtxCreate_v2(&mut usize, c_uint, c_int);
    cuCtxDestroy_v2(usize);
    cuCtxSetCurrent(usize);
    cuCtxGetCurrent(&mut usize);
    cuCtxPushCurrent_v2(usize);
    cuCtxPopCurrent_v2(&mut usize);
    cuCtxGetDevice(&mut c_int);
    cuCtxSynchronize();
    cuThreadExchangeStreamCaptureMode(&mut c_uint);
    cuMemGetInfo_v2(&mut usize, &mut usize);
    cuMemAlloc_v2(&mut u64, usize);
    cuMemFree_v2(u64);
    cuMemAllocAsync(&mut u64, usize, usize);
    cuMemFreeAsync(u64, usize);
    cuMemAllocManaged(&mut u64, usize, c_uint);
    cuMemHostAlloc(&mut *mut u8, usize, c_uint);
    cuMemFreeHost(*mut u8);
    cuMemHostGetDevicePointer_v2(&mut u64, *mut u8, c_uint);
    cuMemHostRegister_v2(*mut u8, usize, c_uint);
    cuMemHostUnregister(*mut u8);
    cuMemGetAllocationGranularity(&mut usize, &Prop, c_uint);
    cuMemCreate(&mut u64, usize, &Prop, u64);
    cuMemRelease(u64);
    cuMemRetainAllocationHandle(&mut u64, u64);
    cuMemAddressReserve(&mut u64, usize, usize, u64, u64);
    cuMemAddressFree(u64, usize);
    cuMemMap(u64, usize, usize, u64, u64);
    cuMemUnmap(u64, usize);
    cuMemSetAccess(u64, usize, &Desc, usize);
    cuStreamCreate(&mut usize, c_uint);
    cuStreamDestroy_v2(usize);
    cuStreamQuery(usize);
    cuStreamSynchronize(usize);
    cuStreamIsCapturing(usize, &mut c_uint);
    cuStreamGetCtx(usize, &mut usize);
    cuStreamWriteValue64_v2(usize, u64, u64, c_uint);
    cuStreamWaitValue64_v2(usize, u64, u64, c_uint);
    cuStreamWaitEvent(usize, usize, c_uint);
    cuEventCreate(&mut usize, c_uint);
    cuEventRecord(usize, usize);
    cuEventQuery(usize);
    cuEventSynchronize(usize);
    cuEventDestroy_v2(usize);
    cuMemcpyHtoDAsync_v2(u64, *const u8, usize, usize);
    cuMemcpyDtoHAsync_v2(*mut u8, u64, usize, usize);
    cuMemcpyDtoDAsync_v2(u64, u64, usize, usize);
    cuMemcpyPeerAsync(u64, usize, u64, usize, usize, usize);
    cuMemcpyAsync(u64, u64, usize, usize);
    cuMemcpyHtoD_v2(u64, *const u8, usize);
    cuMemcpyDtoH_v2(*mut u8, u64, usize);
    cuMemsetD8Async(u64, u8, usize, usize);
    cuLaunchHostFunc(usize, HostFn, *mut c_void);
    cuPointerGetAttribute(*mut c_void, c_uint, u64);
    cuPointerGetAttributes(c_uint, *const c_uint, *const *mut c_void, u64);
    cuDeviceCanAccessPeer(&mut c_int, c_int, c_int);
    cuCtxEnablePeerAccess(usize, c_uint);
    cuCtxDisablePeerAccess(usize);
}

/// `CUmemAllocationProp` of device memory.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Prop {
    pub(crate) kind: c_uint,
    pub(crate) handle_types: c_uint,
    pub(crate) location: [c_int; 2],
    pub(crate) win32: usize,
    pub(crate) flags: [u8; 8],
}

/// `CUmemAccessDesc` of a device.
#[repr(C)]
pub(crate) struct Desc {
    pub(crate) location: [c_int; 2],
    pub(crate) flags: c_uint,
}

pub(crate) fn is_software() -> bool {
    std::env::var_os("SOFTWARE_CUDA_COMPARE").is_none()
}

/// As [`is_software`], for a whole test: otherwise says so, past the harness, that it does nothing.
pub(crate) fn is_software_or_skip() -> bool {
    if !is_software() {
        let thread = std::thread::current();
        let _ =
            writeln!(std::io::stderr(), "SKIPPED {}: only in software", thread.name().unwrap_or("a test"));
    }
    is_software()
}

/// The driver, not yet told to initialise, with as many devices as there are tests.
pub(crate) fn library() -> &'static Cuda {
    static SET_UP: Once = Once::new();
    SET_UP.call_once(|| {
        if is_software() {
            let settings = software_cuda::Settings { device_count: DEVICES, ..Default::default() };
            assert!(software_cuda::configure(&settings), "nothing initialises the driver before");
        }
    });
    library_as_it_is()
}

/// The driver that this process has installed, or the machine's own.
pub(crate) fn library_as_it_is() -> &'static Cuda {
    static CUDA: OnceLock<Cuda> = OnceLock::new();
    CUDA.get_or_init(|| {
        // SAFETY: the driver's constructors are for any program to run.
        let library = unsafe { Library::open(Some("libcuda.so.1"), RTLD_NOW | RTLD_LOCAL) };
        let cuda = Cuda::load(library.as_ref().expect("there is a driver"));
        std::mem::forget(library);
        cuda
    })
}

/// The driver, initialised, with a device's primary context current on this thread.
pub(crate) struct Session {
    pub(crate) cuda: &'static Cuda,
    pub(crate) device: c_int,
    pub(crate) context: usize,
    /// Whether nothing may be left at the end.
    pub(crate) is_checked: bool,
}

impl std::ops::Deref for Session {
    type Target = Cuda;

    fn deref(&self) -> &Cuda {
        self.cuda
    }
}

impl Session {
    /// `device` is the test's own number; a real machine may have fewer.
    pub(crate) fn new(device: c_int) -> Self {
        Self::with(library(), device)
    }

    pub(crate) fn with(cuda: &'static Cuda, device: c_int) -> Self {
        assert_eq!((cuda.cuInit)(0), 0);
        let (mut count, mut context) = (0, 0);
        assert_eq!((cuda.cuDeviceGetCount)(&mut count), 0);
        let device = device % count;
        assert_eq!((cuda.cuDevicePrimaryCtxRetain)(&mut context, device), 0);
        assert_eq!((cuda.cuCtxSetCurrent)(context), 0);
        Self { cuda, device, context, is_checked: true }
    }

    pub(crate) fn alloc(&self, len: usize) -> u64 {
        let mut address = 0;
        assert_eq!((self.cuMemAlloc_v2)(&mut address, len), 0);
        address
    }

    pub(crate) fn pinned(&self, len: usize) -> *mut u8 {
        let mut pointer = std::ptr::null_mut();
        assert_eq!((self.cuMemHostAlloc)(&mut pointer, len, 3), 0);
        pointer
    }

    /// A pinned word, 0 at first. The driver's memory lives until the test frees it.
    pub(crate) fn word(&self) -> &'static std::sync::atomic::AtomicU64 {
        let pointer = self.pinned(4096);
        // SAFETY: pinned memory of the driver's, aligned to a page at least.
        let word = unsafe { std::sync::atomic::AtomicU64::from_ptr(pointer.cast()) };
        word.store(0, std::sync::atomic::Ordering::SeqCst);
        word
    }

    pub(crate) fn stream(&self) -> usize {
        let mut stream = 0;
        assert_eq!((self.cuStreamCreate)(&mut stream, 1), 0);
        stream
    }

    pub(crate) fn prop(&self) -> Prop {
        Prop { kind: 1, location: [1, self.device], ..Prop::default() }
    }

    pub(crate) fn granularity(&self) -> usize {
        let mut granularity = 0;
        assert_eq!((self.cuMemGetAllocationGranularity)(&mut granularity, &self.prop(), 0), 0);
        granularity
    }

    pub(crate) fn create(&self, len: usize) -> u64 {
        let mut handle = 0;
        assert_eq!((self.cuMemCreate)(&mut handle, len, &self.prop(), 0), 0);
        handle
    }

    pub(crate) fn reserve(&self, len: usize) -> u64 {
        let mut address = 0;
        assert_eq!((self.cuMemAddressReserve)(&mut address, len, 0, 0, 0), 0);
        address
    }

    pub(crate) fn allow(&self, address: u64, len: usize) -> c_int {
        (self.cuMemSetAccess)(address, len, &Desc { location: [1, self.device], flags: 3 }, 1)
    }

    /// Reads device memory, waiting for it.
    pub(crate) fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert_eq!((self.cuMemcpyDtoH_v2)(bytes.as_mut_ptr(), address, len), 0);
        bytes
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        assert_eq!((self.cuMemcpyHtoD_v2)(address, bytes.as_ptr(), bytes.len()), 0);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        if is_software() && self.is_checked {
            let live = software_cuda::live_on(self.device as usize);
            let none =
                software_cuda::Live { contexts: 1, reservations: live.reservations, ..Default::default() };
            assert_eq!(live, none, "something was left");
        }
        assert_eq!((self.cuDevicePrimaryCtxRelease_v2)(self.device), 0);
    }
}
