//! Managers on backends with queues: memory that is freed while the device may still use it, operations, and waiting.

use super::manager;
use crate::{assert_balanced, config_with_budget};
use aquifer_backend::{Capabilities, SyncBackend};
use aquifer_core::{Buffer, CancelToken, CopyDesc, ErrorKind, MemoryManager, Queue};
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Nothing here takes so long, unless it hangs.
const LONG: Duration = Duration::from_secs(60);
/// A small, a cached and a large size.
const SIZES: [u64; 3] = [300, 100_000, 3 << 20];

fn is_simulated<B: SyncBackend>(manager: &MemoryManager<B>) -> bool {
    manager.properties().capabilities.contains(Capabilities::SIMULATED)
}

/// Waits until nothing is in flight any more.
fn come_to_rest<B: SyncBackend>(manager: &MemoryManager<B>, queues: &[&Queue<B>]) {
    for _ in 0..1000 {
        manager.settle();
        for queue in queues {
            queue.synchronize(LONG).expect("the queue ends");
        }
        manager.settle();
        if manager.statistics().quarantined_bytes == 0 {
            return;
        }
    }
    panic!("memory stays in quarantine: {}", manager.report());
}

fn check_empty<B: SyncBackend>(manager: &MemoryManager<B>) {
    manager.trim();
    let statistics = manager.statistics();
    assert_balanced(&statistics);
    assert_eq!((statistics.live_count(), statistics.reserved.current), (0, 0), "{}", manager.report());
}

/// What is freed on a queue serves the same queue at once, without a word to the driver.
pub fn a_queue_uses_its_memory_again_at_once<B: SyncBackend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let (queue, other) = (manager.queue().expect("a queue"), manager.queue().expect("a queue"));
    for bytes in SIZES {
        let first = queue.allocate(bytes).expect("there is room");
        let address = first.device_address();
        let calls = manager.statistics().driver_calls.count();
        drop(first);
        let again = queue.allocate(bytes).expect("there is room");
        assert_eq!(again.device_address(), address, "{bytes} bytes");
        assert_eq!(manager.statistics().driver_calls.count(), calls, "{bytes} bytes");
        let elsewhere = other.allocate(bytes).expect("there is room");
        assert!(address.is_none() || elsewhere.device_address() != address, "{bytes} bytes");
    }
    come_to_rest(&manager, &[&queue, &other]);
    check_empty(&manager);
}

/// What other queues use is counted as quarantined until they have passed, and then comes back.
pub fn what_queues_use_comes_back<B: SyncBackend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let queues: Vec<Queue<B>> = (0..3).map(|_| manager.queue().expect("a queue")).collect();
    let mut buffers = Vec::new();
    for index in 0..300 {
        let bytes = SIZES[index % 3];
        let buffer = if index % 2 == 0 { manager.allocate(bytes) } else { queues[0].allocate(bytes) };
        let buffer = buffer.expect("there is room");
        for queue in &queues[..index % 4] {
            buffer.record_use(queue).expect("the manager's own queue");
        }
        buffers.push(buffer);
    }
    drop(buffers);
    assert_balanced(&manager.statistics());
    come_to_rest(&manager, &queues.iter().collect::<Vec<_>>());
    assert_balanced(&manager.statistics());
    check_empty(&manager);
}

/// Operations do what they say, in order, and give back what they used.
pub fn operations_give_back_what_they_used<B: SyncBackend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let (queue, other) = (manager.queue().expect("a queue"), manager.queue().expect("a queue"));
    let values: Vec<u32> = (0..5000).collect();
    let buffer = queue.allocate(20_000).expect("there is room");
    let (buffer, values) = queue.upload(values, buffer, 0).expect("it begins").wait().expect("it ends well");
    let copy = other.allocate(30_000).expect("there is room");
    let copy = other.fill(copy, 7).expect("it begins").wait().expect("it ends well");
    let desc = CopyDesc { source_offset: 4, destination_offset: 8, bytes: 19_996 };
    let (buffer, copy) = other.copy(buffer, copy, desc).expect("it begins").wait().expect("it ends well");
    let download = queue.download::<u32>(copy, 0, 7500).expect("it begins");
    assert_eq!(download.bytes(), 30_000);
    let (copy, found) = download.wait().expect("it ends well");
    assert_eq!((buffer.size_bytes(), copy.size_bytes(), found.len()), (20_000, 30_000, 7500));
    if !is_simulated(&manager) {
        assert_eq!(found[..2], [0x0707_0707; 2]);
        assert_eq!(found[2..5001], values[1..]);
        assert!(found[5001..].iter().all(|&value| value == 0x0707_0707));
    }
    drop((buffer, copy));
    come_to_rest(&manager, &[&queue, &other]);
    check_empty(&manager);
}

/// Dropped futures are detached: what they use is freed when the device has done.
pub fn operations_may_be_dropped<B: SyncBackend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let queue = manager.queue().expect("a queue");
    for round in 0..40 {
        let [one, other] = [(); 2].map(|()| queue.allocate(70_000).expect("there is room"));
        let one = queue.fill(one, round).expect("it begins").wait().expect("it ends well");
        let desc = CopyDesc { source_offset: 0, destination_offset: 0, bytes: 70_000 };
        let copy = queue.copy(one, other, desc).expect("it begins");
        if round % 3 == 0 {
            copy.cancel();
        }
        drop(copy);
    }
    come_to_rest(&manager, &[&queue]);
    for _ in 0..1000 {
        if manager.statistics().live_count() == 0 {
            break;
        }
        manager.settle();
        thread::yield_now();
    }
    check_empty(&manager);
}

/// An operation that makes no sense is refused, and gives its buffers back.
pub fn senseless_operations_give_back_what_they_were_given<B: SyncBackend>(make: impl Fn() -> B) {
    let (one, two) = (manager(make()), manager(make()));
    let (queue, foreign) = (one.queue().expect("a queue"), two.queue().expect("a queue"));
    let [first, second] = [300, 500].map(|bytes| one.allocate(bytes).expect("there is room"));
    let desc =
        |source_offset, destination_offset, bytes| CopyDesc { source_offset, destination_offset, bytes };
    let (mut first, mut second) = (first, second);
    for desc in
        [desc(0, 0, 301), desc(300, 0, 1), desc(0, 201, 300), desc(u64::MAX, 0, 2), desc(0, 0, u64::MAX)]
    {
        let refused = queue.copy(first, second, desc).expect_err("it does not fit");
        assert_eq!(refused.error().kind(), ErrorKind::OutOfBounds, "{refused}");
        (first, second) = refused.into_parts().expect("nothing was begun");
    }
    let refused = foreign.fill(first, 1).expect_err("another manager's queue");
    assert_eq!(refused.error().kind(), ErrorKind::InvalidArgument, "{refused}");
    let first: Buffer<B> = refused.into_parts().expect("nothing was begun");
    let refused = queue.upload(vec![0_u8; 400], first, 0).expect_err("too long");
    let (first, values) = refused.into_parts().expect("nothing was begun");
    assert_eq!((first.size_bytes(), values.len()), (300, 400));
    let refused = queue.download::<u64>(first, 0, usize::MAX).expect_err("too long");
    assert_eq!(refused.error().kind(), ErrorKind::OutOfBounds, "{refused}");
    let (first, _) = refused.into_parts().expect("nothing was begun");
    assert_eq!(one.allocate_on(&foreign, 10).expect_err("foreign").kind(), ErrorKind::InvalidArgument);
    assert_eq!(one.allocate_on(&queue, 10).expect("its own").size_bytes(), 10);
    assert_eq!(first.record_use(&foreign).expect_err("foreign").kind(), ErrorKind::InvalidArgument);
    assert_eq!(queue.wait_on(&foreign).expect_err("foreign").kind(), ErrorKind::InvalidArgument);
    let error = queue.wait(1 << 40, LONG).expect_err("nobody signalled it");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
}

/// An allocation that waits is served when another thread frees enough, and told when its time is over.
pub fn waiting_allocations_are_served_or_told<B: SyncBackend>(make: impl Fn() -> B) {
    let backend = make();
    let granularity = backend.properties().block_granularity_bytes;
    let budget = (16_u64 << 20).next_multiple_of(granularity);
    let manager = MemoryManager::with_config(backend, config_with_budget(budget)).expect("a budget");
    let held: Vec<_> = (0..4).map(|_| manager.allocate(budget / 4).expect("there is room")).collect();
    let late = manager.allocate_async(budget / 2).timeout(Duration::from_millis(30)).wait();
    let error = late.expect_err("nobody frees");
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    let token = CancelToken::new();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| manager.allocate_async(budget).cancel_token(&token).wait());
        token.cancel();
        let answer = waiting.join().expect("it ends");
        assert_eq!(answer.expect_err("it was cancelled").kind(), ErrorKind::Cancelled);
        let waiting = scope.spawn(|| manager.allocate_async(budget).timeout(LONG).wait());
        held.into_iter().for_each(drop);
        waiting.join().expect("it ends").expect("everything was freed");
    });
    check_empty(&manager);
}

/// Callbacks are asked, the lowest priority first, and no more of them than needed.
pub fn callbacks_give_memory_back<B: SyncBackend>(make: impl Fn() -> B) {
    let backend = make();
    let budget = (16_u64 << 20).next_multiple_of(backend.properties().block_granularity_bytes);
    let manager = MemoryManager::with_config(backend, config_with_budget(budget)).expect("a budget");
    let caches: [_; 3] = std::array::from_fn(|_| {
        Arc::new(Mutex::new(Some(manager.allocate(budget / 4).expect("there is room"))))
    });
    let hooks: Vec<_> = caches
        .iter()
        .zip([5, -1, 3])
        .map(|(cache, priority)| {
            let cache = Arc::clone(cache);
            manager.on_reclaim(priority, move |_| drop(cache.lock().take()))
        })
        .collect();
    let large = manager.allocate(budget / 2).expect("one callback is enough");
    let are_kept = caches.each_ref().map(|cache| cache.lock().is_some());
    assert_eq!(are_kept, [true, false, true], "{}", manager.report());
    drop(hooks);
    assert_eq!(manager.allocate(budget / 2).expect_err("nobody is asked").kind(), ErrorKind::OutOfMemory);
    drop((large, caches));
    check_empty(&manager);
}
