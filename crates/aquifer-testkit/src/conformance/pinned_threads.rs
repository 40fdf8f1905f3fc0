//! Pinned memory between threads and on queues.

use super::manager;
use super::pinned::{alone, check_empty, figures, is_lockable};
use crate::{Pattern, config_with_budget};
use aquifer_backend::{Capabilities, SyncBackend};
use aquifer_core::allocator_api2::vec::Vec;
use aquifer_core::{CopyDesc, ErrorKind, MemoryManager, MemoryOptions, PinnedBuffer, PinnedConfig};
use std::thread;
use std::time::Duration;

/// Nothing here takes so long, unless it hangs.
const LONG: Duration = Duration::from_secs(60);

/// A buffer or a collection is freed by whoever has it, also after its manager's handles.
pub fn pinned_memory_is_freed_on_other_threads<B: SyncBackend>(make: impl Fn() -> B) {
    let _alone = alone();
    let manager = manager(make());
    if !is_lockable(&manager) {
        return;
    }
    thread::scope(|scope| {
        for seed in 0..4_u8 {
            let pinned = manager.pinned();
            let mut buffer = pinned.allocate(1000).expect("there is room");
            buffer.fill(seed);
            let mut bytes = Vec::new_in(pinned);
            bytes.extend_from_slice(&buffer);
            scope.spawn(move || {
                assert!(buffer.iter().chain(&bytes).all(|&byte| byte == seed));
                bytes.extend([seed; 5000]);
                drop(buffer);
                assert!(bytes.len() == 6000 && bytes.iter().all(|&byte| byte == seed));
            });
        }
    });
    assert_eq!(figures(&manager).live_count, 0);
    let mut last = Vec::<u8, _>::new_in(manager.pinned());
    last.extend([9; 100]);
    check_live(&manager, 1);
    drop(manager);
    let sum = thread::spawn(move || last.iter().map(|&byte| u32::from(byte)).sum::<u32>());
    assert_eq!(sum.join().expect("it sums up"), 900);
}

fn check_live<B: SyncBackend>(manager: &MemoryManager<B>, count: u64) {
    assert_eq!(figures(manager).live_count, count);
}

/// Queues copy from and to pinned memory, which is no plain slice while they may; it is counted until it is freed.
pub fn queues_use_pinned_memory<B: SyncBackend>(make: impl Fn() -> B) {
    let _alone = alone();
    let manager = manager(make());
    if !manager.properties().capabilities.contains(Capabilities::QUEUES) {
        return println!("skipped: there are no queues");
    }
    if !is_lockable(&manager) {
        return;
    }
    let (queue, other) = (manager.queue().expect("a queue"), manager.queue().expect("a queue"));
    let mut source = manager.pinned().allocate(5000).expect("there is room");
    Pattern::new(4).bytes(0, &mut source);
    let all = CopyDesc { source_offset: 0, destination_offset: 0, bytes: 5000 };
    let device = queue.allocate(5000).expect("there is room");
    let there = queue.copy(source.into_buffer(), device, all).expect("it is begun");
    let (source, device) = there.wait().expect("the device can");
    let back = manager.pinned().allocate_zeroed(5000).expect("there is room").into_buffer();
    let back = queue.copy(device, back, all).expect("it is begun");
    let (device, back) = back.wait().expect("the device can");
    let mut expected = [0; 5000];
    Pattern::new(4).bytes(0, &mut expected);
    for buffer in [source, back] {
        let mine = PinnedBuffer::try_from(buffer).expect("operations record no use");
        assert!(*mine == expected);
    }
    let at_home = queue.allocate_with(1000, MemoryOptions::PINNED).expect("there is room");
    let recorded = manager.allocate_with(1000, MemoryOptions::PINNED).expect("there is room");
    recorded.record_use(&other).expect("a queue of the same manager");
    check_live(&manager, 2);
    for buffer in [at_home, recorded] {
        let refusal = PinnedBuffer::try_from(buffer).expect_err("a queue may use it");
        assert_eq!(refusal.error().kind(), ErrorKind::InvalidArgument);
        drop(refusal.into_parts().expect("it comes back"));
    }
    check_live(&manager, 0);
    drop(device);
    for queue in [&queue, &other] {
        queue.synchronize(LONG).expect("the queue ends");
    }
    manager.settle();
    check_empty(&manager);
}

/// Who waits for memory gets the place of a pinned allocation that is freed, where the limit is what was in the way.
pub fn waiting_allocations_get_the_next_place<B: SyncBackend>(make: impl Fn() -> B) {
    let _alone = alone();
    let mut config = config_with_budget(super::BUDGET_BYTES);
    config.pinned = PinnedConfig::DEFAULT.count_max(1);
    let manager = MemoryManager::with_config(make(), config).expect("the budget is given");
    if !is_lockable(&manager) {
        return;
    }
    let first = manager.pinned().allocate(1000).expect("there is room");
    let waiting = || manager.allocate_async(500).options(MemoryOptions::PINNED);
    let error = waiting().timeout(Duration::ZERO).wait().expect_err("one is live");
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    let second = thread::scope(|scope| {
        let waiter = scope.spawn(|| waiting().timeout(LONG).wait());
        drop(first);
        waiter.join().expect("no panic")
    });
    assert_eq!(second.expect("the place is free").size_bytes(), 500);
    check_empty(&manager);
}
