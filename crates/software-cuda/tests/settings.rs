//! Other settings than the tests of `driver` have: work that runs late, devices that do not reach each other, small pages.
//! The settings are the process's, so this is alone in its own.
#![cfg(target_os = "linux")]

#[allow(dead_code)]
#[path = "driver/support.rs"]
mod support;

use software_cuda::Settings;
use std::sync::atomic::Ordering::SeqCst;
use support::Session;

const SEED: u64 = 0x5eed;

#[test]
fn settings_are_kept() {
    println!("seed {SEED:#x}");
    let settings = Settings {
        device_count: 2,
        memory_bytes: 16 << 20,
        granularity: 64 << 10,
        peers: false,
        delay_seed: SEED,
        connections: 5,
        ..Settings::default()
    };
    assert!(software_cuda::configure(&settings));
    let driver = support::library_as_it_is();
    let (far, cuda) = (Session::with(driver, 1), Session::with(driver, 0));
    late_work_keeps_its_order(&cuda);
    streams_that_wait_let_others_run_in_the_end(&cuda);

    let (mut can, mut free, mut total) = (-1, 0, 0);
    assert_eq!((cuda.cuDeviceCanAccessPeer)(&mut can, 0, 1), 0);
    assert_eq!(can, 0);
    assert_eq!((cuda.cuCtxEnablePeerAccess)(far.context, 0), 217);
    assert_eq!((cuda.cuMemGetInfo_v2)(&mut free, &mut total), 0);
    assert_eq!((free, total), (16 << 20, 16 << 20));

    assert_eq!(cuda.granularity(), 64 << 10);
    let (range, handle) = (cuda.reserve(64 << 10), far.create(64 << 10));
    assert_eq!((cuda.cuMemMap)(range, 64 << 10, 0, handle, 0), 0);
    assert_eq!(cuda.allow(range, 64 << 10), support::INVALID_DEVICE, "it is the other device's");
    assert_eq!(far.allow(range, 64 << 10), 0);
    assert_eq!((software_cuda::live_on(0).mappings, software_cuda::live_on(1).mappings), (0, 1));
    assert_eq!((cuda.cuMemUnmap)(range, 64 << 10), 0);
    assert_eq!((cuda.cuMemRelease)(handle), 0);
    assert_eq!((cuda.cuMemAddressFree)(range, 64 << 10), 0);
    assert_eq!(software_cuda::live().reservations, 0);
}

/// A chain through four streams, each of which waits for the one before.
fn late_work_keeps_its_order(cuda: &Session) {
    let streams: Vec<_> = (0..4).map(|_| cuda.stream()).collect();
    let (block, word, pinned) = (cuda.alloc(400), cuda.word(), cuda.pinned(400));
    let at = word.as_ptr().addr() as u64;
    for (turn, stream) in (0_u64..).zip(streams.iter().cycle().take(40)) {
        assert_eq!((cuda.cuStreamWaitValue64_v2)(*stream, at, turn, 0), 0);
        assert_eq!(
            (cuda.cuMemsetD8Async)(block + turn * 10, turn as u8, 400 - turn as usize * 10, *stream),
            0
        );
        assert_eq!((cuda.cuStreamWriteValue64_v2)(*stream, at, turn + 1, 0), 0);
    }
    assert_eq!((cuda.cuMemcpyDtoHAsync_v2)(pinned, block, 400, streams[3]), 0);
    assert_eq!((cuda.cuStreamSynchronize)(streams[3]), 0);
    assert_eq!(word.load(SeqCst), 40);
    // SAFETY: the driver's memory, 400 bytes, which no stream uses any more.
    let bytes = unsafe { std::slice::from_raw_parts(pinned, 400) };
    assert!(bytes.iter().enumerate().all(|(i, byte)| usize::from(*byte) == i / 10));
    for stream in streams {
        assert_eq!((cuda.cuStreamDestroy_v2)(stream), 0);
    }
    assert_eq!((cuda.cuMemFree_v2)(block), 0);
    assert_eq!((cuda.cuMemFreeHost)(pinned), 0);
    assert_eq!((cuda.cuMemFreeHost)(word.as_ptr().cast()), 0);
}

fn streams_that_wait_let_others_run_in_the_end(cuda: &Session) {
    let (word, done, streams) = (cuda.word(), cuda.word(), [(); 6].map(|()| cuda.stream()));
    let at = |word: &std::sync::atomic::AtomicU64| word.as_ptr().addr() as u64;
    for stream in &streams[..5] {
        assert_eq!((cuda.cuStreamWaitValue64_v2)(*stream, at(word), 1, 0), 0);
    }
    // In whichever order the threads begin, the last stream runs before the others wait, or not before they are let go.
    assert_eq!((cuda.cuStreamWriteValue64_v2)(streams[5], at(done), 1, 0), 0);
    word.store(1, SeqCst);
    for stream in streams {
        assert_eq!((cuda.cuStreamSynchronize)(stream), 0);
        assert_eq!((cuda.cuStreamDestroy_v2)(stream), 0);
    }
    assert_eq!(done.load(SeqCst), 1);
    for word in [word, done] {
        assert_eq!((cuda.cuMemFreeHost)(word.as_ptr().cast()), 0);
    }
}
