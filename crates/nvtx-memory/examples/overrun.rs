//! A pool with two regions, and a kernel that writes where it may and where it may not: what compute-sanitizer is to report.
//!
//! Built without CUDA; running it takes an NVIDIA GPU (Turing or later) and its driver, nothing else. README.md says how, and what comes out.

use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::ManuallyDrop;
use std::ptr;

use libloading::Library;
use nvtx_memory::Domain;

/// `store(address)` writes one byte there. The driver compiles it.
const PTX: &CStr = cr"
.version 6.4
.target sm_75
.address_size 64

.visible .entry store(.param .u64 store_address)
{
    .reg .b64 %rd<3>;
    .reg .b16 %rs<2>;
    ld.param.u64 %rd1, [store_address];
    cvta.to.global.u64 %rd2, %rd1;
    mov.u16 %rs1, 42;
    st.global.u8 [%rd2], %rs1;
    ret;
}
";

const BLOCK_BYTES: usize = 1 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let cuda = Cuda::open()?;
    let block = cuda.allocate(BLOCK_BYTES)?;
    // Only now: compute-sanitizer allows no NVTX before CUDA is initialised.
    let domain = Domain::create("overrun").ok_or("there is no tool; run this under compute-sanitizer")?;
    let heap = domain.register_heap(block, BLOCK_BYTES as u64, "block").ok_or("the tool takes no heap")?;
    let (first, second) = (block + 256, block + 1024);
    heap.register_region(first, 500, Some("first"));
    heap.register_region(second, 500, Some("second"));

    println!("block {block:#x}, {BLOCK_BYTES} bytes; regions {first:#x} and {second:#x}, 500 bytes each");
    cuda.store("the last byte of the first region, which is fine", first + 499)?;
    cuda.store("1: the byte behind it", first + 500)?;
    cuda.store("2: between the regions", second - 1)?;
    cuda.store("the first byte of the second region, which is fine", second)?;
    heap.unregister_region(second);
    cuda.store("3: the second region, after it was freed", second)?;
    heap.register_region(second, 100, Some("third"));
    cuda.store("the same place, handed out again, which is fine", second)?;
    cuda.store("4: behind the new region, where the old one was", second + 100)?;
    heap.unregister_region(second);
    heap.unregister_region(first);
    cuda.store("5: the heap without regions", first)?;
    drop(heap);
    cuda.free(block)
}

/// The driver, with a context on its first device and the kernel loaded.
struct Cuda {
    /// Never closed: the driver has threads of its own.
    library: ManuallyDrop<Library>,
    kernel: *mut c_void,
}

type Launch = unsafe extern "system" fn(
    *mut c_void,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    *mut c_void,
    *mut *mut c_void,
    *mut *mut c_void,
) -> c_int;

impl Cuda {
    fn open() -> Result<Cuda, Box<dyn Error>> {
        let name = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
        // SAFETY: NVIDIA's driver, which has no conditions for being loaded.
        let library = unsafe { Library::new(name) }.map_err(|error| format!("no CUDA driver: {error}"))?;
        let mut cuda = Cuda { library: ManuallyDrop::new(library), kernel: ptr::null_mut() };
        let (mut device, mut context, mut module) = (0, ptr::null_mut(), ptr::null_mut());
        // SAFETY: as cuda.h declares it.
        let init: unsafe extern "system" fn(c_uint) -> c_int = unsafe { cuda.symbol(c"cuInit") }?;
        // SAFETY: zero is the only flag.
        check("cuInit", unsafe { init(0) })?;
        // SAFETY: as cuda.h declares it.
        let get: unsafe extern "system" fn(*mut c_int, c_int) -> c_int =
            unsafe { cuda.symbol(c"cuDeviceGet") }?;
        // SAFETY: the place for the answer can be written.
        check("cuDeviceGet", unsafe { get(&raw mut device, 0) })?;
        // SAFETY: as cuda.h declares it.
        let retain: unsafe extern "system" fn(*mut *mut c_void, c_int) -> c_int =
            unsafe { cuda.symbol(c"cuDevicePrimaryCtxRetain") }?;
        // SAFETY: the place for the answer can be written.
        check("cuDevicePrimaryCtxRetain", unsafe { retain(&raw mut context, device) })?;
        // SAFETY: as cuda.h declares it.
        let set: unsafe extern "system" fn(*mut c_void) -> c_int =
            unsafe { cuda.symbol(c"cuCtxSetCurrent") }?;
        // SAFETY: the context is retained until the process ends.
        check("cuCtxSetCurrent", unsafe { set(context) })?;
        // SAFETY: as cuda.h declares it.
        let load: unsafe extern "system" fn(*mut *mut c_void, *const c_char) -> c_int =
            unsafe { cuda.symbol(c"cuModuleLoadData") }?;
        // SAFETY: the place for the answer can be written, and the text ends with a zero.
        check("cuModuleLoadData", unsafe { load(&raw mut module, PTX.as_ptr()) })?;
        // SAFETY: as cuda.h declares it.
        let find: unsafe extern "system" fn(*mut *mut c_void, *mut c_void, *const c_char) -> c_int =
            unsafe { cuda.symbol(c"cuModuleGetFunction") }?;
        // SAFETY: the module is never unloaded, and the rest is as before.
        check("cuModuleGetFunction", unsafe { find(&raw mut cuda.kernel, module, c"store".as_ptr()) })?;
        Ok(cuda)
    }

    fn allocate(&self, bytes: usize) -> Result<u64, Box<dyn Error>> {
        let mut address = 0;
        // SAFETY: as cuda.h declares it.
        let allocate: unsafe extern "system" fn(*mut u64, usize) -> c_int =
            unsafe { self.symbol(c"cuMemAlloc_v2") }?;
        // SAFETY: the place for the answer can be written.
        check("cuMemAlloc", unsafe { allocate(&raw mut address, bytes) })?;
        Ok(address)
    }

    fn free(&self, address: u64) -> Result<(), Box<dyn Error>> {
        // SAFETY: as cuda.h declares it.
        let free: unsafe extern "system" fn(u64) -> c_int = unsafe { self.symbol(c"cuMemFree_v2") }?;
        // SAFETY: it is from allocate, and nothing uses it any more.
        check("cuMemFree", unsafe { free(address) })
    }

    /// Has the kernel write to `address`, and waits for it.
    fn store(&self, what: &str, mut address: u64) -> Result<(), Box<dyn Error>> {
        println!("{what}: {address:#x}");
        let mut arguments = [(&raw mut address).cast()];
        // SAFETY: as cuda.h declares it.
        let launch: Launch = unsafe { self.symbol(c"cuLaunchKernel") }?;
        // SAFETY: the kernel takes one address, and all of them are in the block: at worst its own bytes are overwritten.
        let launched = unsafe {
            launch(self.kernel, 1, 1, 1, 1, 1, 1, 0, ptr::null_mut(), arguments.as_mut_ptr(), ptr::null_mut())
        };
        check("cuLaunchKernel", launched)?;
        // SAFETY: as cuda.h declares it.
        let wait: unsafe extern "system" fn() -> c_int = unsafe { self.symbol(c"cuCtxSynchronize") }?;
        // SAFETY: there is a context.
        check("cuCtxSynchronize", unsafe { wait() })
    }

    /// # Safety
    ///
    /// `F` is a function pointer of that function's type.
    unsafe fn symbol<F: Copy>(&self, name: &CStr) -> Result<F, libloading::Error> {
        assert_eq!(size_of::<F>(), size_of::<fn()>(), "a function pointer");
        // SAFETY: as the caller promises.
        let symbol = unsafe { self.library.get::<F>(name.to_bytes_with_nul()) }?;
        Ok(*symbol)
    }
}

/// CUDA's answer as a result.
fn check(function: &str, code: c_int) -> Result<(), Box<dyn Error>> {
    if code == 0 { Ok(()) } else { Err(format!("{function} answers error {code}").into()) }
}
