use crate::support::*;
use std::ffi::CStr;

#[test]
fn a_device_says_what_it_can() {
    let cuda = Session::new(31);
    let get = |number: i32| {
        let mut value = -7;
        assert_eq!((cuda.cuDeviceGetAttribute)(&mut value, number, cuda.device), 0);
        value
    };
    // Mapped host memory, unified addresses, managed memory, 64-bit words, registration, mapped memory.
    assert_eq!([19, 41, 83, 122, 99, 102].map(get), [1; 6]);
    assert_eq!(get(18), 0, "it is not integrated");
    assert_eq!((cuda.cuDeviceGetAttribute)(&mut 0, 18, 1000), INVALID_DEVICE);

    let mut id = [0xff_u8; 16];
    assert_eq!((cuda.cuDeviceGetPCIBusId)(id.as_mut_ptr(), 16, cuda.device), 0);
    let text = CStr::from_bytes_until_nul(&id).unwrap().to_str().unwrap();
    assert_eq!(text, format!("{:04X}:{:02X}:{:02X}.0", get(50), get(33), get(34)));
    let mut uuids = [[0; 16]; 2];
    assert_eq!((cuda.cuDeviceGetUuid_v2)(&mut uuids[0], cuda.device), 0);
    assert_eq!((cuda.cuDeviceGetUuid_v2)(&mut uuids[1], 0), 0);
    assert_eq!(uuids[0] == uuids[1], cuda.device == 0);
}

#[test]
fn errors_have_names() {
    let cuda = library();
    let mut name = std::ptr::null();
    assert_eq!((cuda.cuGetErrorName)(OUT_OF_MEMORY, &mut name), 0);
    // SAFETY: the driver's text, which lives as long as the driver.
    assert_eq!(unsafe { CStr::from_ptr(name) }, c"CUDA_ERROR_OUT_OF_MEMORY");
    assert_eq!((cuda.cuGetErrorName)(12345, &mut name), INVALID_VALUE);
    assert!(name.is_null());
}
