use crate::support::*;
use std::ptr::null_mut;

#[test]
fn bytes_go_to_the_device_and_back() {
    let cuda = Session::new(0);
    let block = cuda.alloc(100_000);
    let bytes: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
    cuda.write(block, &bytes);
    assert_eq!(cuda.read(block, 100_000), bytes);
    assert_eq!(cuda.read(block + 5000, 3), bytes[5000..5003]);
    // Past the end, a host's address, nothing at all.
    assert_eq!((cuda.cuMemAlloc_v2)(&mut 0, 0), INVALID_VALUE);
    let _ = null_mut::<u8>();
    assert_eq!((cuda.cuMemFree_v2)(block + 512), INVALID_VALUE);
    assert_eq!((cuda.cuMemFree_v2)(block), 0);
    assert_eq!((cuda.cuMemFree_v2)(block), INVALID_VALUE);
}
