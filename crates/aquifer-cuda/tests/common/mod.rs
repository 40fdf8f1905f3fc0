//! The device that tests run on: the machine's first one if `AQUIFER_TEST_GPU` is set, else one in software.

#![allow(dead_code, reason = "no test binary uses everything")]

use aquifer_cuda::{Cuda, CudaOptions};

/// Whether a real device was asked for.
pub(crate) fn is_real() -> bool {
    std::env::var_os("AQUIFER_TEST_GPU").is_some()
}

/// Makes the driver in software the one that is found, unless a real device was asked for.
pub(crate) fn prepare() {
    if !is_real() {
        software_cuda::install();
    }
}

/// The device.
pub(crate) fn cuda() -> Cuda {
    with(CudaOptions::default())
}

/// The same with other options.
pub(crate) fn with(options: CudaOptions) -> Cuda {
    prepare();
    Cuda::with_options(options).expect("there is a device")
}
