//! A machine with an old driver and no device. The settings are the process's, so this is alone in its own.
#![cfg(target_os = "linux")]

use libloading::os::unix::Library;
use software_cuda::Settings;
use std::ffi::{c_int, c_uint};

#[test]
fn an_old_driver_without_devices_says_so() {
    let settings = Settings { device_count: 0, driver_version: 11040, ..Settings::default() };
    assert!(software_cuda::configure(&settings));
    // The name that bindings ask for first; other code asks for the other (`driver`).
    // SAFETY: loaded already, by `configure`.
    let library = unsafe { Library::new("libcuda.so") }.unwrap();
    // SAFETY: the signature is `cuda.h`'s.
    let version = unsafe { library.get::<extern "C" fn(&mut c_int) -> c_int>(b"cuDriverGetVersion\0") };
    // SAFETY: as above.
    let initialise = unsafe { library.get::<extern "C" fn(c_uint) -> c_int>(b"cuInit\0") }.unwrap();
    // SAFETY: as above.
    let count = unsafe { library.get::<extern "C" fn(&mut c_int) -> c_int>(b"cuDeviceGetCount\0") };
    let mut value = 0;
    assert_eq!((version.unwrap())(&mut value), 0);
    assert_eq!(value, 11040, "before it is initialised, too");
    assert_eq!(initialise(1), 1, "no flags are defined");
    assert_eq!(initialise(0), 100);
    assert_eq!((count.unwrap())(&mut value), 3);
    assert_eq!(software_cuda::calls("cuInit"), 2);

    // It is not too late: no call has initialised the driver.
    assert!(software_cuda::configure(&Settings::default()));
    software_cuda::fail("cuInit", 0, 802);
    assert_eq!(initialise(0), 802);
    assert_eq!(initialise(0), 0);
    assert!(!software_cuda::configure(&settings));
}
