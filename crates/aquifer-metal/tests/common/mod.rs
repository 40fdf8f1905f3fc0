//! The device that tests run on: the system's on Apple's systems, a software device of the test's own elsewhere.

#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test file uses some of it")]

mod line;

pub(crate) mod blocks;

use aquifer_backend::{Backend as _, Error};
use aquifer_metal::{Metal, MetalOptions, MetalQueue};
pub use line::*;

/// Puts a marker into a queue of the test's own.
pub(crate) fn signal(metal: &Metal, queue: &MetalQueue, value: u64) -> Result<(), Error> {
    // SAFETY: only the test takes its value for true.
    unsafe { metal.signal(queue, value) }
}

#[cfg(not(target_vendor = "apple"))]
pub(crate) use software::*;

#[cfg(target_vendor = "apple")]
pub(crate) fn metal() -> Metal {
    use aquifer_backend::DefaultDevice as _;
    Metal::default_device().expect("a Mac with a Metal device")
}

/// What a test leaves behind on the system's device cannot be counted.
#[cfg(target_vendor = "apple")]
pub(crate) fn assert_nothing_is_left() {}

/// Runs `test` on each kind of device that there is here, by name; nothing may be left afterwards.
#[cfg(target_vendor = "apple")]
pub fn on_all_kinds(test: impl Fn(&str, &Metal)) {
    test("the system's", &metal());
}

#[cfg(not(target_vendor = "apple"))]
mod software {
    use super::*;
    use software_metal::{DeviceDesc, SoftwareDevice};
    use std::cell::RefCell;

    thread_local! {
        /// The devices that this test, on whose thread it is, has made.
        static DEVICES: RefCell<Vec<SoftwareDevice>> = const { RefCell::new(Vec::new()) };
    }

    /// A device of the test's own.
    pub(crate) fn device(desc: DeviceDesc) -> SoftwareDevice {
        let device = SoftwareDevice::new(desc);
        DEVICES.with_borrow_mut(|devices| devices.push(device.clone()));
        device
    }

    /// A backend on a device.
    pub(crate) fn metal_on(device: &SoftwareDevice) -> Metal {
        metal_with(device, MetalOptions::default())
    }

    pub(crate) fn metal_with(device: &SoftwareDevice, options: MetalOptions) -> Metal {
        Metal::with_options(device.metal_device(), options).expect("a software device makes a queue")
    }

    /// A backend on a device like one of Apple's.
    pub(crate) fn metal() -> Metal {
        metal_on(&device(DeviceDesc::default()))
    }

    /// A device with memory of its own, whose blits go by multiples of 4 bytes, and which has no residency sets.
    pub fn discrete() -> DeviceDesc {
        DeviceDesc {
            is_unified: false,
            is_apple_family: false,
            has_residency_sets: false,
            ..DeviceDesc::default()
        }
    }

    /// Runs `test` on each kind of device that there is here, by name; nothing may be left afterwards.
    pub fn on_all_kinds(test: impl Fn(&str, &Metal)) {
        let overlapping = |desc: DeviceDesc| DeviceDesc { overlap_seed: Some(0x5eed), ..desc };
        for (name, desc) in [
            ("unified", DeviceDesc::default()),
            ("unified, overlapping", overlapping(DeviceDesc::default())),
            ("discrete", discrete()),
            ("discrete, overlapping", overlapping(discrete())),
        ] {
            test(name, &metal_on(&device(desc)));
            assert_nothing_is_left();
        }
    }

    /// Every Metal object that the test's devices have made is gone.
    pub(crate) fn assert_nothing_is_left() {
        for device in DEVICES.take() {
            device.wait_until_returned().expect("nothing is left");
            assert_eq!(device.allocated_bytes(), 0);
        }
        assert_eq!(
            software_objc::thread_counts().poolless_autoreleases,
            0,
            "a call without an autorelease pool"
        );
    }
}
