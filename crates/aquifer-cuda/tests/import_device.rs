//! Memory of the device that the program allocated itself becomes a buffer.

#![cfg(target_os = "linux")]

mod common;

use aquifer_backend::{DeviceMemory, ErrorKind, ImportError};
use aquifer_core::{MemoryManager, MemoryOptions};
use aquifer_cuda::cudarc::driver::{CudaContext, result};
use aquifer_cuda::{Cuda, CudaOptions};
use aquifer_testkit::config_with_budget;
use common::prepare;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const BYTES: usize = 3 << 20;

fn manager() -> (Arc<CudaContext>, MemoryManager<Cuda>) {
    prepare();
    let context = CudaContext::new(0).unwrap();
    context.bind_to_thread().unwrap();
    let backend = Cuda::with_context(&context, CudaOptions::default()).unwrap();
    (context, MemoryManager::with_config(backend, config_with_budget(64 << 20)).unwrap())
}

/// Gives memory of the driver's back.
struct Owner {
    context: Arc<CudaContext>,
    address: u64,
    is_dropped: Arc<AtomicBool>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.context.bind_to_thread().unwrap();
        // SAFETY: the memory is this value's.
        unsafe { result::free_sync(self.address) }.unwrap();
        self.is_dropped.store(true, Ordering::Release);
    }
}

fn allocate(context: &Arc<CudaContext>) -> (DeviceMemory, Arc<AtomicBool>) {
    // SAFETY: it is written before it is read.
    let address = unsafe { result::malloc_sync(BYTES) }.unwrap();
    let is_dropped = Arc::new(AtomicBool::new(false));
    let owner = Owner { context: Arc::clone(context), address, is_dropped: Arc::clone(&is_dropped) };
    // SAFETY: the memory is the owner's, and new.
    (unsafe { DeviceMemory::new(address, BYTES as u64, owner) }, is_dropped)
}

/// Says that memory is somewhere; nobody owns it.
fn at(address: u64, bytes: u64) -> DeviceMemory {
    // SAFETY: it is not used: the backend refuses it.
    unsafe { DeviceMemory::new(address, bytes, ()) }
}

#[test]
fn memory_of_the_driver_is_a_buffer_until_it_is_freed() {
    let (context, manager) = manager();
    let (memory, is_dropped) = allocate(&context);
    let address = memory.address();
    let tag = manager.tag("brought").unwrap();
    let mut buffer = manager.import_device_with(memory, MemoryOptions::DEFAULT.tag(tag)).unwrap();
    assert_eq!((buffer.device_address(), buffer.size_bytes()), (Some(address), BYTES as u64));
    let statistics = manager.statistics();
    assert_eq!((statistics.imported.current, statistics.reserved.current), (BYTES as u64, 0));

    let content: Vec<u8> = (0..BYTES).map(|byte| (byte % 251) as u8).collect();
    manager.transfers().upload(&content, &mut buffer, 0).unwrap();
    let mut seen = vec![0; BYTES];
    manager.transfers().download(&buffer, 0, &mut seen).unwrap();
    assert!(seen == content, "it holds something else than was written");

    // While a queue may use it, it stays.
    let queue = manager.queue().unwrap();
    let hold = queue.raw().hold().unwrap();
    buffer.record_use(&queue).unwrap();
    drop(buffer);
    manager.settle();
    assert!(!is_dropped.load(Ordering::Acquire));
    drop(hold);
    queue.raw().wait_idle();
    manager.settle();
    assert!(is_dropped.load(Ordering::Acquire));
    assert_eq!(manager.statistics().imported_block_count, 0);
}

#[test]
fn a_slice_is_a_buffer_without_a_copy() {
    let (context, manager) = manager();
    let stream = context.new_stream().unwrap();
    let slice = stream.clone_htod(&[1.5_f32, 2.5, 3.5]).unwrap();
    let buffer = manager.import_device(Cuda::memory_of(slice).unwrap()).unwrap();
    let mut seen = [0_u8; 12];
    manager.transfers().download(&buffer, 0, &mut seen).unwrap();
    assert_eq!(seen[4..8], 2.5_f32.to_ne_bytes());
}

#[test]
fn a_slice_is_freed_in_its_context_by_whichever_thread() {
    let (context, manager) = manager();
    // With one stream `cudarc` orders nothing by events, so it has no reason to make the context current.
    let slice = context.default_stream().clone_htod(&[1.5_f32, 2.5, 3.5]).unwrap();
    let buffer = manager.import_device(Cuda::memory_of(slice).unwrap()).unwrap();
    std::thread::spawn(move || {
        assert!(result::ctx::get_current().unwrap().is_none());
        drop(buffer);
        manager.settle();
        assert_eq!(manager.statistics().imported_block_count, 0);
        assert!(result::ctx::get_current().unwrap().is_none(), "the thread is as it was");
    })
    .join()
    .unwrap();
    // `cudarc` keeps what the driver says to who frees.
    assert_eq!(context.check_err(), Ok(()));
}

#[test]
fn what_is_not_the_devices_comes_back() {
    let (context, manager) = manager();
    let pinned = manager.pinned().allocate(4096).unwrap();
    let host = pinned.as_slice::<u8>().unwrap().as_ptr().addr() as u64;
    let (memory, is_dropped) = allocate(&context);
    let address = memory.address();
    for (memory, message) in [
        (at(host, 4096), "is memory of the host"),
        (at(0x1000, 4096), "knows no memory at 0x1000"),
        (at(address, 1 << 40), "the driver knows no memory at"),
        (at(address, 0), "0 bytes given"),
        (at(u64::MAX - 1, 4096), "no such addresses"),
    ] {
        let ImportError { error, .. } = manager.import_device(memory).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
    let options = MemoryOptions::DEFAULT.zeroed(true);
    let refused = manager.import_device_with(memory, options).unwrap_err();
    assert_eq!(refused.memory.address(), address);
    assert!(!is_dropped.load(Ordering::Acquire));
    drop(refused);
    assert!(is_dropped.load(Ordering::Acquire));
    assert_eq!(manager.statistics().imported_block_count, 0);
}
