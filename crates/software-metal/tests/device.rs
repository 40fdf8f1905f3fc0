//! The device and its buffers.
#![cfg(not(target_vendor = "apple"))]

mod support;
use support::*;

#[test]
fn a_device_is_one_object_and_answers_as_described() {
    with_device(
        DeviceDesc { name: "one".into(), registry_id: 7, ..DeviceDesc::default() },
        |software, device| {
            assert_eq!((device.name().to_string(), device.registryID()), ("one".into(), 7));
            assert!(device.hasUnifiedMemory() && !device.isLowPower() && !device.isRemovable());
            assert!(
                device.supportsFamily(MTLGPUFamily::Apple7) && device.supportsFamily(MTLGPUFamily::Metal3)
            );
            assert!(!device.supportsFamily(MTLGPUFamily::Metal4));
            assert_eq!(device.recommendedMaxWorkingSetSize(), 8 << 30);
            let again = software.metal_device();
            assert_eq!(Retained::as_ptr(device), Retained::as_ptr(&again));
            assert_eq!(software.live_objects()["MTLDevice"], 1);
        },
    );
}

#[test]
fn buffers_are_counted_and_zeroed() {
    with_device(DeviceDesc::default(), |software, device| {
        let one = buffer(device, 1000, SHARED);
        assert_eq!(one.length(), 1000);
        assert!(read(&one).iter().all(|byte| *byte == 0));
        assert_eq!((device.currentAllocatedSize(), software.allocated_bytes()), (16384, 16384));
        let two = one.clone();
        drop(one);
        assert_eq!(software.live_objects()["MTLBuffer"], 1);
        drop(two);
        assert_eq!(software.live_objects().get("MTLBuffer"), None);
        assert_eq!((software.made_objects()["MTLBuffer"], software.peak_objects()["MTLBuffer"]), (1, 1));
    });
}

#[test]
fn a_blit_goes_through_private_memory() {
    with_device(DeviceDesc::default(), |_, device| {
        let queue = device.newCommandQueue().unwrap();
        let (up, private, down) =
            (buffer(device, 4096, SHARED), buffer(device, 4096, PRIVATE), buffer(device, 4096, SHARED));
        write(&up, 7);
        let commands = queue.commandBuffer().unwrap();
        copy(&commands, &up, &private);
        copy(&commands, &private, &down);
        complete(&commands);
        assert!(read(&down).iter().all(|byte| *byte == 7));
    });
}
