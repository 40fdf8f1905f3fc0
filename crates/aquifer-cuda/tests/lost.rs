//! What a device that is lost does to its manager, and memory that others have taken. One device for each test.

#![cfg(target_os = "linux")]

mod common;

use aquifer_backend::ErrorKind;
use aquifer_core::MemoryManager;
use aquifer_cuda::{Cuda, CudaOptions};
use aquifer_testkit::config_with_budget;
use software_cuda::Settings;
use std::time::Duration;

const DEVICES: u32 = 4;
const ILLEGAL_ADDRESS: i32 = 700;

fn device(ordinal: u32) -> Option<Cuda> {
    if common::is_real() {
        aquifer_testkit::skip("no real device is to be lost, or filled");
        return None;
    }
    let _is_first = software_cuda::configure(&Settings { device_count: DEVICES, ..Settings::default() });
    Some(Cuda::with_options(CudaOptions::default().ordinal(ordinal)).unwrap())
}

#[test]
fn a_trapped_kernel_ends_everything_that_waits() {
    let Some(backend) = device(0) else { return };
    let manager = MemoryManager::with_config(backend, config_with_budget(64 << 20)).unwrap();
    let queue = manager.queue().unwrap();
    let buffer = queue.allocate(1 << 20).unwrap();
    let hold = queue.raw().hold().unwrap();
    let value = queue.signal().unwrap();
    software_cuda::lose_device(0, ILLEGAL_ADDRESS);
    let error = queue.wait(value, Duration::from_secs(60)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}");
    assert_eq!(manager.allocate(64 << 20).unwrap_err().kind(), ErrorKind::DeviceLost);
    drop((hold, buffer, queue, manager));
}

#[test]
fn memory_that_another_process_has_is_out_of_memory_until_it_goes() {
    let Some(backend) = device(1) else { return };
    let manager = MemoryManager::with_config(backend, config_with_budget(256 << 20)).unwrap();
    let total = manager.properties().heaps[0].size_bytes;
    software_cuda::set_foreign_bytes(1, total);
    let error = manager.allocate(64 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    // The budget has room, so the error says why there is none all the same.
    assert!(error.to_string().contains(&format!(" 0 of the device's {total} are free")), "{error}");
    assert_eq!(manager.statistics().reserved.current, 0);
    software_cuda::set_foreign_bytes(1, 0);
    manager.allocate(64 << 20).expect("it has gone");
}

#[test]
fn nothing_is_left_when_the_manager_goes() {
    let Some(backend) = device(2) else { return };
    {
        let mut config = config_with_budget(256 << 20);
        // What a thread of the manager's holds goes a moment later.
        config.reaper = false;
        let manager = MemoryManager::with_config(backend, config).unwrap();
        let queue = manager.queue().unwrap();
        let buffers: Vec<_> = (0..20).map(|index| queue.allocate(100_000 << (index % 6)).unwrap()).collect();
        drop((buffers, queue));
        let pinned = manager.pinned().allocate(1 << 20);
        drop(pinned);
    }
    let left = software_cuda::live_on(2);
    // Addresses belong to no device.
    assert_eq!(
        left,
        software_cuda::Live { reservations: left.reservations, ..software_cuda::Live::default() }
    );
}

#[test]
fn an_allocation_that_fails_keeps_no_memory() {
    let Some(backend) = device(3) else { return };
    let manager = MemoryManager::with_config(backend, config_with_budget(4 << 30)).unwrap();
    let total = manager.properties().heaps[0].size_bytes;
    software_cuda::set_foreign_bytes(3, total / 2);
    let error = manager.allocate(total / 4 * 3).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    // Others want it too.
    let reserved = manager.statistics().reserved.current;
    assert_eq!(reserved, 0, "bytes that nobody uses are kept from everybody");
}
