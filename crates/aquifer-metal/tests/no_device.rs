//! A system without a Metal device. One test: which devices there are is the whole process's matter.
#![cfg(not(target_vendor = "apple"))]

use aquifer_backend::{DefaultDevice as _, ErrorKind};
use aquifer_core::MemoryManager;
use aquifer_metal::Metal;
use software_metal::{DeviceDesc, SoftwareDevice, set_default_devices};

#[test]
fn without_a_device_the_error_names_the_way_out() {
    set_default_devices(Vec::new());
    let error = MemoryManager::<Metal>::new().map(drop).unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Unsupported, "Metal::default_device"));
    let text = error.to_string();
    assert!(text.contains("there is no Metal device") && text.contains("HostMemoryManager"), "{text}");
    assert_eq!(Metal::default_device().map(drop).unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(Metal::all().unwrap().is_empty());

    // When there are some, the default one comes first.
    let devices: Vec<_> = (1..=3)
        .map(|registry_id| SoftwareDevice::new(DeviceDesc { registry_id, ..DeviceDesc::default() }))
        .collect();
    set_default_devices(devices.clone());
    let all = Metal::all().unwrap();
    let raw: Vec<_> = devices.iter().map(SoftwareDevice::metal_device).collect();
    // Off macOS the bindings know the default device only.
    assert!(all.first().map(Metal::raw_device) == raw.first());
    let manager = MemoryManager::<Metal>::new().unwrap();
    assert!(*manager.backend().raw_device() == raw[0]);
    drop(manager.allocate(1000).unwrap());
    drop((manager, all, raw));
    set_default_devices(Vec::new());
    devices.iter().for_each(|device| device.wait_until_returned().unwrap());
}
