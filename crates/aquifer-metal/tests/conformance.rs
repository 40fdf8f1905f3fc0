//! The suite that every backend must pass, on the devices that there are.

mod common;

mod system_device {
    use super::common::{assert_nothing_is_left, metal};

    aquifer_testkit::conformance!(metal(), then assert_nothing_is_left());
}

/// Kinds of devices that this machine need not have.
#[cfg(not(target_vendor = "apple"))]
mod software_devices {
    use super::common;
    use software_metal::DeviceDesc;

    /// Work of one queue that nothing orders runs side by side, in an order of the device's choice.
    mod overlapping {
        use super::*;
        fn metal() -> aquifer_metal::Metal {
            common::metal_on(&common::device(DeviceDesc {
                overlap_seed: Some(0x5eed),
                ..DeviceDesc::default()
            }))
        }
        aquifer_testkit::conformance!(metal(), then common::assert_nothing_is_left());
    }

    /// Memory of its own, which the host does not see, as in Macs with AMD's GPUs; no residency sets.
    mod discrete {
        use super::*;
        fn metal() -> aquifer_metal::Metal {
            let desc = DeviceDesc {
                is_unified: false,
                is_apple_family: false,
                has_residency_sets: false,
                ..DeviceDesc::default()
            };
            common::metal_on(&common::device(desc))
        }
        aquifer_testkit::conformance!(metal(), then common::assert_nothing_is_left());
    }

    /// With placement sparse buffers.
    mod metal4 {
        use super::*;
        fn metal() -> aquifer_metal::Metal {
            common::metal_on(&common::device(DeviceDesc { has_metal4: true, ..DeviceDesc::default() }))
        }
        aquifer_testkit::conformance!(metal(), then common::assert_nothing_is_left());
    }
}
