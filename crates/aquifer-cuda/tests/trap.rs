//! A kernel that traps, on a real device: all that waits ends, and so does the process. Alone in its process, which has no CUDA after that.
//! The driver in software runs no kernels: there `lost.rs` tells it to lose the device.

#![cfg(target_os = "linux")]

mod common;

use aquifer_core::{ErrorKind, MemoryManager};
use aquifer_cuda::Cuda;
use aquifer_cuda::cudarc::driver::CudaContext;
use aquifer_cuda::cudarc::driver::result::{self, module};
use std::ffi::{CStr, CString};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const PTX: &CStr = cr"
.version 6.4
.target sm_75
.address_size 64
.visible .entry stop() { trap; }
";

#[test]
fn a_kernel_that_traps_ends_all_waiting() {
    if !common::is_real() {
        aquifer_testkit::skip("it needs a GPU (AQUIFER_TEST_GPU=1)");
        return;
    }
    let context = CudaContext::new(0).unwrap();
    context.bind_to_thread().unwrap();
    let manager = MemoryManager::<Cuda>::new().unwrap();
    // SAFETY: the text ends with a zero.
    let module = unsafe { module::load_data(PTX.as_ptr().cast()) }.unwrap();
    // SAFETY: the module is loaded, until the process ends.
    let stop = unsafe { module::get_function(module, CString::new("stop").unwrap()) }.unwrap();
    let (queue, other) = (manager.queue().unwrap(), manager.queue().unwrap());
    let (buffer, second) = (queue.allocate(64 << 20).unwrap(), other.allocate(1 << 20).unwrap());
    let upload = manager.transfers().upload_async(vec![1_u8; 32 << 20], buffer, 0).unwrap();
    // SAFETY: the kernel takes nothing and touches nothing.
    unsafe { result::launch_kernel(stop, (1, 1, 1), (1, 1, 1), 0, queue.raw().stream(), &mut []) }.unwrap();
    let ticket = queue.signal().unwrap();
    let error = queue.wait(ticket, MINUTE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}");
    // It may have run before the kernel; if not, it ends all the same.
    let _ = upload.wait();
    let error = manager.allocate(1 << 30).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}");
    second.record_use(&queue).unwrap();
    drop((second, queue, other));
    println!("{}", manager.report());
}
