use crate::support::*;
use std::sync::atomic::Ordering::SeqCst;

#[test]
fn a_call_fails_as_a_test_says() {
    if !is_software_or_skip() {
        return;
    }
    let cuda = Session::new(26);
    let before = software_cuda::calls_of_this_thread("cuMemAlloc_v2");
    software_cuda::fail_on_this_thread("cuMemAlloc_v2", 1, OUT_OF_MEMORY);
    let block = cuda.alloc(64);
    assert_eq!((cuda.cuMemAlloc_v2)(&mut 0, 64), OUT_OF_MEMORY);
    let other = cuda.alloc(64);
    assert_eq!(software_cuda::calls_of_this_thread("cuMemAlloc_v2"), before + 3);
    assert!(software_cuda::calls("cuMemAlloc_v2") >= before + 3);
    software_cuda::set_foreign_bytes(cuda.device as usize, 3 << 30);
    assert_eq!((cuda.cuMemAlloc_v2)(&mut 0, 2 << 30), OUT_OF_MEMORY);
    software_cuda::set_foreign_bytes(cuda.device as usize, 0);
    assert_eq!((cuda.cuMemFree_v2)(block), 0);
    assert_eq!((cuda.cuMemFree_v2)(other), 0);
    assert!(
        std::panic::catch_unwind(|| software_cuda::calls("cuMemAlocc")).is_err(),
        "there is no such function"
    );
}

#[test]
fn a_lost_device_answers_its_error_and_touches_nothing() {
    if !is_software_or_skip() {
        return;
    }
    let mut cuda = Session::new(27);
    cuda.is_checked = false; // a lost context gives nothing back
    let (block, stream, word, done) = (cuda.alloc(64), cuda.stream(), cuda.word(), cuda.word());
    assert_eq!((cuda.cuStreamWaitValue64_v2)(stream, word.as_ptr().addr() as u64, 1, 0), 0);
    assert_eq!((cuda.cuStreamWriteValue64_v2)(stream, done.as_ptr().addr() as u64, 1, 0), 0);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            assert_eq!((cuda.cuCtxSetCurrent)(cuda.context), 0);
            (cuda.cuStreamSynchronize)(stream)
        });
        software_cuda::lose_device(cuda.device as usize, 719);
        assert_eq!(waiting.join().unwrap(), 719, "nobody waits for ever");
    });
    assert_eq!((cuda.cuMemAlloc_v2)(&mut 0, 64), 719);
    assert_eq!((cuda.cuMemFree_v2)(block), 719);
    assert_eq!((cuda.cuStreamQuery)(stream), 719);
    assert_eq!((cuda.cuCtxSynchronize)(), 719);
    assert_eq!(done.load(SeqCst), 0, "what was queued is not done");
    let (device, context) = (cuda.device, cuda.context);
    drop(cuda);
    assert_eq!(software_cuda::live_on(device as usize).blocks, 0, "they went with the context");
    let again = Session::new(device);
    assert_ne!(again.context, context);
    let block = again.alloc(64);
    assert_eq!((again.cuMemFree_v2)(block), 0);
}

/// On a real device this costs the process its context: to be run alone there.
#[test]
fn mapped_memory_is_not_there_before_access_is_set() {
    if !is_software() && std::env::var_os("SOFTWARE_CUDA_LOSE").is_none() {
        return;
    }
    let mut cuda = Session::new(28);
    cuda.is_checked = false;
    let size = cuda.granularity();
    let (range, handle, stream) = (cuda.reserve(size), cuda.create(size), cuda.stream());
    assert_eq!((cuda.cuMemMap)(range, size, 0, handle, 0), 0);
    assert_eq!((cuda.cuMemsetD8Async)(range, 1, 64, stream), 0);
    assert_eq!((cuda.cuStreamSynchronize)(stream), ILLEGAL_ADDRESS);
    assert_eq!((cuda.cuMemAlloc_v2)(&mut 0, 64), ILLEGAL_ADDRESS, "the context is lost");
    // Of mapped memory the calls go on.
    assert_eq!((cuda.cuMemUnmap)(range, size), 0);
    assert_eq!((cuda.cuMemRelease)(handle), 0);
    assert_eq!((cuda.cuMemAddressFree)(range, size), 0);
}

#[test]
fn work_behind_an_unmapping_loses_the_context() {
    if !is_software_or_skip() {
        return;
    }
    let mut cuda = Session::new(29);
    cuda.is_checked = false;
    let size = cuda.granularity();
    let (range, handle, stream, word) = (cuda.reserve(size), cuda.create(size), cuda.stream(), cuda.word());
    assert_eq!((cuda.cuMemMap)(range, size, 0, handle, 0), 0);
    assert_eq!(cuda.allow(range, size), 0);
    assert_eq!((cuda.cuStreamWaitValue64_v2)(stream, word.as_ptr().addr() as u64, 1, 0), 0);
    assert_eq!((cuda.cuMemsetD8Async)(range, 1, size, stream), 0);
    assert_eq!((cuda.cuMemUnmap)(range, size), 0, "this does not wait");
    word.store(1, SeqCst);
    assert_eq!((cuda.cuStreamSynchronize)(stream), ILLEGAL_ADDRESS);
    assert_eq!((cuda.cuMemRelease)(handle), 0);
    assert_eq!((cuda.cuMemAddressFree)(range, size), 0);
}

#[test]
fn unmapping_what_work_is_using_loses_the_context() {
    if !is_software_or_skip() {
        return;
    }
    let mut cuda = Session::new(30);
    cuda.is_checked = false;
    let size = cuda.granularity();
    let (range, handle, stream) = (cuda.reserve(size), cuda.create(size), cuda.stream());
    assert_eq!((cuda.cuMemMap)(range, size, 0, handle, 0), 0);
    assert_eq!(cuda.allow(range, size), 0);
    assert_eq!((cuda.cuMemsetD8Async)(range, 0, 8, stream), 0);
    assert_eq!((cuda.cuStreamSynchronize)(stream), 0);
    // The stream looks at a word there until it has a value that nobody writes. It has begun, or is about to.
    let begun = cuda.word();
    assert_eq!((cuda.cuStreamWriteValue64_v2)(stream, begun.as_ptr().addr() as u64, 1, 0), 0);
    assert_eq!((cuda.cuStreamWaitValue64_v2)(stream, range, 1, 1), 0);
    while begun.load(SeqCst) == 0 {
        std::thread::yield_now();
    }
    assert_eq!((cuda.cuMemUnmap)(range, size), 0);
    assert_eq!((cuda.cuStreamSynchronize)(stream), ILLEGAL_ADDRESS);
    assert_eq!((cuda.cuMemRelease)(handle), 0);
    assert_eq!((cuda.cuMemAddressFree)(range, size), 0);
}
