//! A driver that is too old is not used. In a process of its own, since a driver is loaded once.

#![cfg(target_os = "linux")]

mod common;

use aquifer_backend::ErrorKind;
use aquifer_cuda::Cuda;
use software_cuda::Settings;

#[test]
fn a_driver_that_is_too_old_says_what_is_needed() {
    if common::is_real() {
        aquifer_testkit::skip("the machine's driver is what it is");
        return;
    }
    assert!(software_cuda::configure(&Settings { driver_version: 11_040, ..Settings::default() }));
    let error = Cuda::new().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(text.contains("11.4") && text.contains("12.0") && text.contains("525"), "{text}");
}
