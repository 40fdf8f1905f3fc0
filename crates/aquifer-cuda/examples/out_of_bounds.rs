//! Kernels that leave their buffers, all of which lie in memory of the pool: what compute-sanitizer is to report.
//!
//! Built without CUDA; running it takes an NVIDIA GPU (Turing or later) and its driver:
//!
//! ```sh
//! cargo build -p aquifer-cuda --example out_of_bounds
//! compute-sanitizer --destroy-on-device-error kernel target/debug/examples/out_of_bounds
//! ```
//!
//! Three errors are to be expected, one after each line that begins with a number, and none after the others.

use std::error::Error;
use std::ffi::{CStr, CString, c_void};

use aquifer_core::{Capabilities, MemoryManager};
use aquifer_cuda::Cuda;
use aquifer_cuda::cudarc::driver::CudaContext;
use aquifer_cuda::cudarc::driver::result::{self, module};
use aquifer_cuda::cudarc::driver::sys::{CUfunction, CUstream};

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

fn main() -> Result<(), Box<dyn Error>> {
    let context = CudaContext::new(0)?;
    context.bind_to_thread()?;
    let manager = MemoryManager::<Cuda>::new()?;
    if !manager.properties().capabilities.contains(Capabilities::SANITIZED) {
        println!("there is no tool; run this under compute-sanitizer");
    }
    // SAFETY: the text ends with a zero.
    let module = unsafe { module::load_data(PTX.as_ptr().cast()) }?;
    // SAFETY: the module is loaded, until the process ends.
    let store = unsafe { module::get_function(module, CString::new("store")?) }?;
    let queue = manager.queue()?;
    let stream = queue.raw().stream();

    let first = queue.allocate(1000)?;
    let second = queue.allocate(1000)?;
    let (at, beside) = (address(&first)?, address(&second)?);
    println!("two buffers of 1000 bytes, at {at:#x} and {beside:#x}");
    write(store, stream, "the last byte of the first, which is fine", at + 999)?;
    write(store, stream, "1: the byte behind it", at + 1000)?;
    write(store, stream, "the first byte of the second, which is fine", beside)?;
    drop(second);
    write(store, stream, "2: the second, after it was freed", beside)?;
    let third = queue.allocate(900)?;
    let again = address(&third)?;
    write(store, stream, "a third buffer, which is fine", again)?;
    write(store, stream, "3: the byte behind that", again + 900)?;
    Ok(())
}

fn address(buffer: &aquifer_core::Buffer<Cuda>) -> Result<u64, Box<dyn Error>> {
    Ok(buffer.device_address().ok_or("CUDA has addresses")?)
}

/// Has the kernel write to `address`, and waits for it.
fn write(store: CUfunction, stream: CUstream, what: &str, mut address: u64) -> Result<(), Box<dyn Error>> {
    println!("{what}: {address:#x}");
    let mut parameters: [*mut c_void; 1] = [(&raw mut address).cast()];
    // SAFETY: the kernel takes one address. Where it must not write there is unused memory of the manager's.
    unsafe { result::launch_kernel(store, (1, 1, 1), (1, 1, 1), 0, stream, &mut parameters) }?;
    // SAFETY: the stream is the queue's.
    Ok(unsafe { result::stream::synchronize(stream) }?)
}
