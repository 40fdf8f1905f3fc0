//! A cache hit calls nothing of Metal's: no message is sent, no object made, none retained.
#![cfg(not(target_vendor = "apple"))]

mod common;

use aquifer_core::{MemoryManager, MemoryOptions};
use aquifer_metal::Metal;
use aquifer_testkit::config_with_budget;
use common::{assert_nothing_is_left, metal};
use objc2::rc::autoreleasepool;
use software_objc::{ThreadCounts, thread_counts};
use std::hint::black_box;

const PAIRS: u64 = 1000;
/// Small and large, of slabs, of ranges and of blocks of their own.
const SIZES: [u64; 11] =
    [1, 256, 257, 4096, 5000, 65_536, 1 << 20, (1 << 20) + 1, 7 << 20, 33 << 20, 256 << 20];

/// Without a thread that looks how far the queues are: it calls the driver too, in its own time.
fn manager() -> MemoryManager<Metal> {
    let mut config = config_with_budget(2 << 30);
    config.reaper = false;
    MemoryManager::with_config(metal(), config).expect("a budget")
}

/// What this thread asked of the runtime meanwhile.
fn counts_of(work: impl FnOnce()) -> ThreadCounts {
    let before = thread_counts();
    work();
    thread_counts().since(&before)
}

/// Checks that pairs which hit count nothing, after one that warms the caches; and that they did hit.
fn assert_pairs_call_nothing(manager: &MemoryManager<Metal>, what: &str, pair: impl Fn(u64)) {
    for bytes in SIZES {
        // The first of a size may miss.
        pair(bytes);
        let before = manager.statistics();
        let counts = counts_of(|| (0..PAIRS).for_each(|_| pair(black_box(bytes))));
        assert_eq!(counts, ThreadCounts::default(), "{PAIRS} pairs of {bytes} bytes {what}");
        let after = manager.statistics();
        assert_eq!(after.allocation_count - before.allocation_count, PAIRS);
        assert_eq!((after.miss_count, after.driver_calls), (before.miss_count, before.driver_calls));
    }
}

#[test]
fn pairs_on_no_queue_call_nothing() {
    {
        let manager = manager();
        assert_pairs_call_nothing(&manager, "on no queue", |bytes| {
            drop(black_box(manager.allocate(bytes).expect("there is room")));
        });
    }
    assert_nothing_is_left();
}

#[test]
fn pairs_with_tag_and_alignment_call_nothing() {
    {
        let manager = manager();
        let options = MemoryOptions::DEFAULT.tag(manager.tag("warm").expect("a tag")).alignment(1024);
        assert_pairs_call_nothing(&manager, "with options", |bytes| {
            drop(black_box(manager.allocate_with(bytes, options).expect("there is room")));
        });
    }
    assert_nothing_is_left();
}

#[test]
fn pairs_at_home_on_a_queue_call_nothing() {
    {
        let manager = manager();
        let queue = manager.queue().expect("a queue");
        assert_pairs_call_nothing(&manager, "on a queue", |bytes| {
            drop(black_box(queue.allocate(bytes).expect("there is room")));
        });
        drop(queue);
    }
    assert_nothing_is_left();
}

/// What a program does with a buffer that it has: to look where it is, to read and write what the host sees.
#[test]
fn looking_at_a_buffer_calls_nothing() {
    {
        let manager = manager();
        let mut buffer = manager.allocate(5000).expect("there is room");
        let counts = counts_of(|| {
            let place = buffer.with_block(|block, offset| (std::ptr::from_ref(block.buffer()), offset));
            let _ = black_box((place, buffer.host_pointer(), buffer.device_address(), buffer.size_bytes()));
            buffer.write(8, &[1_u32; 100]).expect("the host sees it");
            buffer.fill(2).expect("as above");
            assert_eq!(buffer.as_slice::<u8>().expect("as above")[4999], 2);
        });
        assert_eq!(counts, ThreadCounts::default());
    }
    assert_nothing_is_left();
}

/// A detector that has not been seen to catch is no detector.
#[test]
fn a_miss_is_counted() {
    {
        let manager = manager();
        let counts = counts_of(|| drop(manager.allocate(5000).expect("there is room")));
        // A heap and a buffer, their descriptor and label.
        assert!(counts.messages > 5 && counts.objects_made >= 2, "{counts:?}");
        let counts = counts_of(|| drop(manager.allocate(300 << 20).expect("there is room")));
        assert!(counts.messages > 5 && counts.objects_made >= 1, "{counts:?}");
        let counts = counts_of(|| assert!(manager.trim() > 0));
        assert!(counts.messages > 0, "{counts:?}");
        let retain = || {
            let device = manager.backend().raw_device();
            drop(black_box(autoreleasepool(|_| device.clone())));
        };
        assert_eq!(counts_of(retain).retains, 1);
    }
    assert_nothing_is_left();
}
