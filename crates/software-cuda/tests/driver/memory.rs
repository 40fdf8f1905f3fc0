use crate::support::*;

#[test]
fn bytes_go_to_the_device_and_back() {
    let cuda = Session::new(0);
    let block = cuda.alloc(100_000);
    let bytes: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
    cuda.write(block, &bytes);
    assert_eq!(cuda.read(block, 100_000), bytes);
    assert_eq!(cuda.read(block + 5000, 3), bytes[5000..5003]);
    assert_eq!((cuda.cuMemFree_v2)(block), 0);
}

#[test]
fn nonsense_is_refused() {
    let cuda = Session::new(1);
    let block = cuda.alloc(1 << 20);
    assert_eq!((cuda.cuMemAlloc_v2)(&mut 0, 0), INVALID_VALUE);
    assert_eq!((cuda.cuMemFree_v2)(block + 512), INVALID_VALUE);
    assert_eq!((cuda.cuMemsetD8Async)(8, 0, 16, 0), INVALID_VALUE, "that is no address of the device's");
    assert_eq!((cuda.cuMemsetD8Async)(block, 0, 3 << 20, 0), INVALID_VALUE, "past the end");
    assert_eq!((cuda.cuMemcpyDtoDAsync_v2)(block, block, 3 << 20, 0), INVALID_VALUE, "past the end");
    assert_eq!((cuda.cuMemFree_v2)(block), 0);
    assert_eq!((cuda.cuMemFree_v2)(block), INVALID_VALUE);
}

#[test]
fn what_is_taken_is_counted() {
    let cuda = Session::new(2);
    let info = || {
        let (mut free, mut total) = (0, 0);
        assert_eq!((cuda.cuMemGetInfo_v2)(&mut free, &mut total), 0);
        (free, total)
    };
    let ((before, total), size) = (info(), 32 << 20);
    let (block, handle, pinned) = (cuda.alloc(size), cuda.create(size), cuda.pinned(size));
    assert_eq!(info(), (before - 2 * size, total), "the host's memory is not the device's");
    assert_ne!((cuda.cuMemAlloc_v2)(&mut 0, total), 0);
    assert_ne!((cuda.cuMemCreate)(&mut 0, total, &cuda.prop(), 0), 0);
    if is_software() {
        // The driver takes it for an invalid value.
        assert_eq!((cuda.cuMemAlloc_v2)(&mut 0, total), OUT_OF_MEMORY);
        // The driver has more than it says is free.
        assert_eq!((cuda.cuMemAlloc_v2)(&mut 0, before), OUT_OF_MEMORY);
    }
    assert_eq!((cuda.cuMemFree_v2)(block), 0);
    assert_eq!((cuda.cuMemRelease)(handle), 0);
    assert_eq!((cuda.cuMemFreeHost)(pinned), 0);
    assert_eq!(info().0, before);
}

#[test]
fn an_address_says_what_it_is() {
    let cuda = Session::new(3);
    let (block, pinned) = (cuda.alloc(4096), cuda.pinned(4096));
    let get = |number: u32, address: u64| {
        let mut value = 0_u64;
        let code = (cuda.cuPointerGetAttribute)((&raw mut value).cast(), number, address);
        (code, value)
    };
    let host = pinned.addr() as u64;
    assert_eq!((get(2, block + 9), get(2, host + 9)), ((0, 2), (0, 1)), "memory types");
    assert_eq!(
        (get(3, host + 9), get(4, host + 9)),
        ((0, host + 9), (0, host + 9)),
        "the same address for both"
    );
    assert_eq!(get(4, block).0, INVALID_VALUE, "the host has none");
    assert_eq!((get(11, block + 9), get(12, block + 9)), ((0, block), (0, 4096)), "the allocation's range");
    assert_eq!(get(9, block), (0, cuda.device as u64), "the device");
    assert_eq!(get(1, block), (0, cuda.context as u64), "the context");
    assert_eq!(get(2, (&raw const cuda).addr() as u64).0, INVALID_VALUE, "the host's own");

    let (mut kind, mut start) = (7_u32, 7_u64);
    let places = [(&raw mut kind).cast(), (&raw mut start).cast()];
    let own = (&raw const places).addr() as u64;
    assert_eq!((cuda.cuPointerGetAttributes)(2, [2, 11].as_ptr(), places.as_ptr(), block + 1), 0);
    assert_eq!((kind, start), (2, block));
    assert_eq!((cuda.cuPointerGetAttributes)(2, [2, 11].as_ptr(), places.as_ptr(), own), 0);
    assert_eq!((kind, start), (0, block), "of what is not the driver's the start is left as it was");
    assert_eq!((cuda.cuMemFree_v2)(block), 0);
    assert_eq!((cuda.cuMemFreeHost)(pinned), 0);
}

/// What this library does beyond what CUDA says.
#[test]
fn fresh_memory_is_not_zero_and_the_host_may_not_touch_it() {
    if !is_software_or_skip() {
        return;
    }
    let cuda = Session::new(4);
    let block = cuda.alloc(3 << 20);
    assert_eq!(cuda.read(block, 64), [0xcd; 64]);
    assert_eq!(cuda.read(block + (3 << 20) - 64, 64), [0xcd; 64]);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let line = maps.lines().find(|line| {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        (hex(start)..hex(end)).contains(&block)
    });
    assert!(line.unwrap().contains(" ---p "), "{line:?}");
    assert_eq!((cuda.cuMemFree_v2)(block), 0);
}

#[test]
fn pooled_memory_goes_in_the_streams_turn() {
    let cuda = Session::new(32);
    let (stream, word, mut block) = (cuda.stream(), cuda.word(), 0);
    assert_eq!((cuda.cuMemAllocAsync)(&mut block, 4096, stream), 0);
    assert_eq!((cuda.cuStreamWaitValue64_v2)(stream, word.as_ptr().addr() as u64, 1, 0), 0);
    assert_eq!((cuda.cuMemsetD8Async)(block, 7, 4096, stream), 0);
    let seen = cuda.pinned(4096);
    assert_eq!((cuda.cuMemcpyDtoHAsync_v2)(seen, block, 4096, stream), 0);
    assert_eq!((cuda.cuMemFreeAsync)(block, stream), 0, "the work before still uses it");
    assert_eq!((cuda.cuStreamQuery)(stream), NOT_READY);
    assert_eq!((cuda.cuMemFreeAsync)(block, stream), INVALID_VALUE, "it has been freed");
    word.store(1, std::sync::atomic::Ordering::SeqCst);
    assert_eq!((cuda.cuStreamSynchronize)(stream), 0);
    // SAFETY: pinned memory of that length, which nobody writes now.
    assert_eq!(unsafe { std::slice::from_raw_parts(seen, 4096) }, [7; 4096]);
    // Without a stream it goes, too.
    assert_eq!((cuda.cuMemAllocAsync)(&mut block, 4096, stream), 0);
    assert_eq!((cuda.cuMemFree_v2)(block), 0);
    assert_eq!((cuda.cuStreamDestroy_v2)(stream), 0);
    assert_eq!((cuda.cuMemFreeHost)(seen), 0);
    assert_eq!((cuda.cuMemFreeHost)(word.as_ptr().cast()), 0);
}
