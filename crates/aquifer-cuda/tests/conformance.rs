//! The suite that every backend must pass, on a CUDA device.

#![cfg(target_os = "linux")]

mod common;

mod mapped {
    use super::common::cuda;

    aquifer_testkit::conformance!(cuda());
}

/// Without virtual memory: all blocks are the driver's.
mod blocks {
    use super::common::with;
    use aquifer_cuda::CudaOptions;

    aquifer_testkit::conformance!(with(CudaOptions::default().virtual_memory(false)));
}

/// With managed memory as unified.
mod managed {
    use super::common::with;
    use aquifer_cuda::{CudaOptions, UnifiedMemory};
    use std::num::NonZeroU64;

    const BYTES_MAX: NonZeroU64 = NonZeroU64::new(512 << 20).expect("it is not zero");

    aquifer_testkit::conformance!(with(
        CudaOptions::default().unified(UnifiedMemory::Managed { bytes_max: BYTES_MAX })
    ));
}
