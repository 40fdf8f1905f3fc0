use crate::support::*;

const ALREADY_REGISTERED: i32 = 712;
const NOT_REGISTERED: i32 = 713;

fn bytes<'a>(pointer: *mut u8, len: usize) -> &'a mut [u8] {
    // SAFETY: the test has this memory from the driver and is alone with it while it uses the slice.
    unsafe { std::slice::from_raw_parts_mut(pointer, len) }
}

#[test]
fn pinned_memory_has_one_address() {
    let cuda = Session::new(5);
    let (pinned, block, mut address) = (cuda.pinned(10_000), cuda.alloc(10_000), 0);
    assert_eq!((cuda.cuMemHostGetDevicePointer_v2)(&mut address, pinned, 0), 0);
    assert_eq!(address, pinned.addr() as u64);
    bytes(pinned, 10_000).fill(3);
    // By whichever of the two: asynchronous, so waited for.
    let stream = cuda.stream();
    assert_eq!((cuda.cuMemcpyHtoDAsync_v2)(block, pinned, 10_000, stream), 0);
    assert_eq!((cuda.cuMemsetD8Async)(address + 100, 4, 100, stream), 0);
    assert_eq!((cuda.cuMemcpyAsync)(address + 200, block, 9_000, stream), 0);
    assert_eq!((cuda.cuStreamSynchronize)(stream), 0);
    assert_eq!(bytes(pinned, 10_000)[99..202], *[&[3][..], &[4; 100], &[3; 2]].concat());
    assert_eq!((cuda.cuStreamDestroy_v2)(stream), 0);
    assert_eq!((cuda.cuMemFree_v2)(block), 0);
    assert_eq!((cuda.cuMemFreeHost)(pinned), 0);
    assert_eq!((cuda.cuMemFreeHost)(pinned), INVALID_VALUE);
    assert_eq!((cuda.cuMemHostAlloc)(&mut std::ptr::null_mut(), 64, 16), INVALID_VALUE);
}

#[test]
fn the_programs_own_pages_are_registered_once() {
    let cuda = Session::new(6);
    let mut own = vec![9_u8; 5 << 12];
    let start = own.as_mut_ptr().wrapping_add(own.as_ptr().align_offset(4096));
    let register = |page: usize, pages: usize| {
        (cuda.cuMemHostRegister_v2)(start.wrapping_add(page << 12), pages << 12, 3)
    };
    let mut address = 0;
    assert_eq!((cuda.cuMemHostGetDevicePointer_v2)(&mut address, start, 0), INVALID_VALUE);
    assert_eq!(register(1, 2), 0);
    assert_eq!(register(1, 2), ALREADY_REGISTERED);
    assert_eq!(register(2, 2), ALREADY_REGISTERED);
    let middle = start.wrapping_add((1 << 12) + 5);
    assert_eq!((cuda.cuMemHostGetDevicePointer_v2)(&mut address, middle, 0), 0);
    assert_eq!(address, middle.addr() as u64);
    let block = cuda.alloc(4096);
    assert_eq!((cuda.cuMemcpyDtoDAsync_v2)(block, address, 4096, 0), 0);
    assert_eq!((cuda.cuCtxSynchronize)(), 0);
    assert_eq!(cuda.read(block, 4096), [9; 4096]);
    assert_eq!((cuda.cuMemHostUnregister)(start), NOT_REGISTERED);
    assert_eq!((cuda.cuMemHostUnregister)(start.wrapping_add(1 << 12)), 0);
    assert_eq!((cuda.cuMemHostUnregister)(start.wrapping_add(1 << 12)), NOT_REGISTERED);
    assert_eq!((cuda.cuMemFree_v2)(block), 0);
}

#[test]
fn managed_memory_is_the_hosts_too() {
    let cuda = Session::new(7);
    let mut block = 0;
    assert_eq!((cuda.cuMemAllocManaged)(&mut block, 4096, 3), INVALID_VALUE);
    assert_eq!((cuda.cuMemAllocManaged)(&mut block, 4096, 1), 0);
    assert_eq!((cuda.cuMemsetD8Async)(block, 5, 4096, 0), 0);
    assert_eq!((cuda.cuCtxSynchronize)(), 0);
    assert_eq!(bytes(std::ptr::with_exposed_provenance_mut(block as usize), 4096), [5; 4096]);
    assert_eq!((cuda.cuMemFree_v2)(block), 0);
}

#[test]
fn pageable_memory_is_the_programs_again_when_the_call_returns() {
    let cuda = Session::new(8);
    let (stream, large, word) = (cuda.stream(), 1 << 20, cuda.word());
    let block = cuda.alloc(large);
    // A small copy is taken although the stream has not come to it.
    assert_eq!((cuda.cuStreamWaitValue64_v2)(stream, word.as_ptr().addr() as u64, 1, 0), 0);
    let mut source = vec![1_u8; 4096];
    assert_eq!((cuda.cuMemcpyHtoDAsync_v2)(block, source.as_ptr(), 4096, stream), 0);
    source.fill(2);
    assert_eq!((cuda.cuStreamQuery)(stream), NOT_READY);
    word.store(1, std::sync::atomic::Ordering::SeqCst);
    let mut target = vec![0_u8; 4096];
    assert_eq!((cuda.cuMemcpyDtoHAsync_v2)(target.as_mut_ptr(), block, 4096, stream), 0);
    assert_eq!(target, [1; 4096]);
    // A large one too, either way.
    let (mut source, mut target) = (vec![3_u8; large], vec![0_u8; large]);
    assert_eq!((cuda.cuMemcpyHtoDAsync_v2)(block, source.as_ptr(), large, stream), 0);
    source.fill(4);
    assert_eq!((cuda.cuMemcpyDtoHAsync_v2)(target.as_mut_ptr(), block, large, stream), 0);
    assert!(target.iter().all(|byte| *byte == 3));
    assert_eq!((cuda.cuStreamDestroy_v2)(stream), 0);
    assert_eq!((cuda.cuMemFree_v2)(block), 0);
    assert_eq!((cuda.cuMemFreeHost)(word.as_ptr().cast()), 0);
}
