//! The suite on devices that host memory can pass for: the failing driver while it does not fail, and poorer ones.

#![cfg(any(target_os = "linux", target_os = "macos"))]

use aquifer_backend::{Capabilities, MemoryFlags, Properties};
use aquifer_host::Host;
use aquifer_testkit::Faulty;

fn device(change: impl FnOnce(&mut Properties)) -> Faulty<Host> {
    Faulty::with_properties(Host::new().expect("the system says how much memory it has"), change)
}

/// Memory that the host cannot see, dirty when it is new. Queues see it.
mod invisible {
    use super::*;

    aquifer_testkit::conformance!(device(|properties| {
        properties.memory_types[0].flags = MemoryFlags::DEVICE_LOCAL;
        properties.capabilities = Capabilities::QUEUES;
    }));
}

/// Dirty new blocks, small ones only, in coarse granules, that are hardly aligned. No queues.
mod awkward {
    use super::*;

    aquifer_testkit::conformance!(device(|properties| {
        properties.capabilities = Capabilities::COMMIT_ON_TOUCH;
        properties.block_granularity_bytes = 4 << 20;
        properties.block_bytes_max = (100 << 20) + 1;
        properties.alignment_bytes_min = 256;
    }));
}

#[test]
#[should_panic(expected = "every case is skipped")]
fn a_suite_that_skips_everything_fails() {
    let needs = [aquifer_testkit::conformance::Need::HostInvisible];
    aquifer_testkit::conformance::assert_some_run(|| device(|_| ()), &needs);
}
