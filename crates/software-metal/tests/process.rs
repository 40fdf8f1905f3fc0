//! What the whole process shares. One test, since it changes it.
#![cfg(not(target_vendor = "apple"))]

mod support;
use objc2_foundation::NSArray;
use software_metal::set_default_devices;
use std::time::{Duration, Instant};
use support::*;

unsafe extern "C-unwind" {
    /// `objc2-metal` asks for it on macOS only.
    safe fn MTLCopyAllDevices() -> *mut NSArray<ProtocolObject<dyn MTLDevice>>;
}

fn all_devices() -> Vec<Device> {
    // SAFETY: the function returns an array at +1.
    unsafe { Retained::from_raw(MTLCopyAllDevices()) }.unwrap().to_vec()
}

/// How many threads of devices there are.
fn device_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.starts_with("metal-")).count()
}

#[test]
fn default_devices_and_threads() {
    autoreleasepool(|_| {
        let first = MTLCreateSystemDefaultDevice().expect("one device unless told otherwise");
        assert_eq!(all_devices(), std::slice::from_ref(&first));
        assert_eq!(first.peerGroupID(), 0);
    });
    set_default_devices(Vec::new());
    assert!(MTLCreateSystemDefaultDevice().is_none() && all_devices().is_empty());
    let own = SoftwareDevice::new(DeviceDesc { registry_id: 9, ..DeviceDesc::default() });
    set_default_devices(vec![own.clone(), SoftwareDevice::new(DeviceDesc::default())]);
    autoreleasepool(|_| {
        let device = MTLCreateSystemDefaultDevice().unwrap();
        assert_eq!((device.registryID(), all_devices().len()), (9, 2));
        assert_eq!(device, own.metal_device());
        let queues: Vec<_> = (0..4).map(|_| device.newCommandQueue().unwrap()).collect();
        queues.iter().for_each(|queue| autoreleasepool(|_| complete(&queue.commandBuffer().unwrap())));
        assert_eq!(device_threads(), 8, "two a queue");
    });
    own.wait_until_returned().unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while device_threads() > 0 {
        assert!(Instant::now() < end, "threads outlive their queues");
        std::thread::yield_now();
    }
    assert!(own.live_objects().is_empty());
}
