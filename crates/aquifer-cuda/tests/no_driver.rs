//! Without a driver there is no device, and the error says so.

use aquifer_backend::ErrorKind;
use aquifer_cuda::Cuda;

#[test]
fn without_a_driver_the_error_names_it() {
    match Cuda::new() {
        Ok(device) => {
            aquifer_testkit::skip(format_args!("there is a driver, and device {}", device.ordinal()))
        }
        Err(error) if error.to_string().contains("no CUDA driver") => {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("libcuda.so.1"), "{error}");
        }
        Err(error) => aquifer_testkit::skip(format_args!("there is a driver that has no device: {error}")),
    }
}
