//! Buffers that host and device both use, in turns.

use super::manager;
use super::pinned::alone;
use super::unified::zeroed;
use crate::Pattern;
use aquifer_backend::{BlockRange, Command, CopyEnd, SyncBackend};
use aquifer_core::{DeviceAccess, MemoryManager, Queue, Side, UnifiedBuffer, UnifiedOnDevice};
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// Nothing here takes so long, unless it hangs.
const LONG: Duration = Duration::from_secs(60);

/// Has the device set all bytes of a part.
fn fill<B: SyncBackend>(guard: &UnifiedOnDevice<'_, B>, value: u8) {
    guard.with_block(|block, offset| {
        let destination = BlockRange { block, offset, bytes: guard.size_bytes() };
        let backend = guard.queue().manager().backend();
        // SAFETY: the range is the guard's, which lies in its block; the host and other queues reach it through the buffer only, which waits
        // for the guard's marker and keeps the memory until the queue has passed.
        let answer = unsafe {
            backend.enqueue(guard.queue().raw(), Command::Fill { destination, value }, &Arc::default())
        };
        answer.expect("the queue takes a command");
    });
}

/// What the device sees in a part. Waits for the queue.
fn seen<B: SyncBackend>(guard: &UnifiedOnDevice<'_, B>) -> Vec<u8> {
    let bytes = guard.size_bytes();
    // Left alone if the queue does not come to its end: it may still write them.
    let mut found = ManuallyDrop::new(vec![0xc3; bytes as usize]);
    guard.with_block(|block, offset| {
        let destination = CopyEnd::Host(NonNull::new(found.as_mut_ptr()).expect("no vector is at null"));
        let command = Command::Copy { source: CopyEnd::Block { block, offset }, destination, bytes };
        let backend = guard.queue().manager().backend();
        // SAFETY: as in `fill`; the vector is as long, and is touched again only when the queue has passed.
        let answer = unsafe { backend.enqueue(guard.queue().raw(), command, &Arc::default()) };
        answer.expect("the queue takes a command");
    });
    guard.queue().synchronize(LONG).expect("the queue ends");
    ManuallyDrop::into_inner(found)
}

fn write<B: SyncBackend>(buffer: &mut UnifiedBuffer<B>, oracle: &mut [u8], range: Range<u64>, seed: u64) {
    let part = &mut oracle[range.start as usize..range.end as usize];
    Pattern::new(seed).bytes(0, part);
    buffer.write_range(range).expect("the device is there").copy_from_slice(part);
}

fn device_fills<B: SyncBackend>(
    (buffer, queue): (&mut UnifiedBuffer<B>, &Queue<B>),
    oracle: &mut [u8],
    range: Range<u64>,
    value: u8,
) {
    oracle[range.start as usize..range.end as usize].fill(value);
    let guard = buffer.on_device_range(queue, range, DeviceAccess::Write).expect("the device is there");
    fill(&guard, value);
}

#[track_caller]
fn check_device<B: SyncBackend>(buffer: &mut UnifiedBuffer<B>, queue: &Queue<B>, oracle: &[u8]) {
    let guard = buffer.on_device(queue, DeviceAccess::Read).expect("the device is there");
    assert!(seen(&guard) == oracle, "the device sees something else");
}

#[track_caller]
fn check_host<B: SyncBackend>(buffer: &UnifiedBuffer<B>, oracle: &[u8]) {
    assert!(*buffer.read().expect("the device is there") == *oracle, "the host sees something else");
}

fn queues<B: SyncBackend>(manager: &MemoryManager<B>) -> [Queue<B>; 2] {
    [(); 2].map(|()| manager.queue().expect("a queue"))
}

/// What one side writes the other sees, whole or in parts.
pub fn both_sides_see_what_the_other_writes<B: SyncBackend>(make: impl Fn() -> B) {
    let _alone = alone();
    let manager = manager(make());
    let ([queue, _], bytes) = (queues(&manager), 50_001);
    let Some(mut buffer) = zeroed(&manager, bytes) else { return };
    let mut oracle = vec![0; bytes as usize];
    check_device(&mut buffer, &queue, &oracle);
    write(&mut buffer, &mut oracle, 0..bytes, 1);
    device_fills((&mut buffer, &queue), &mut oracle, 10_000..20_000, 7);
    check_host(&buffer, &oracle);
    check_device(&mut buffer, &queue, &oracle);
    // Ends that no device likes, beside each other's.
    for (number, start) in [(1, 5), (2, 9_998), (3, 19_999), (4, bytes - 12)] {
        write(&mut buffer, &mut oracle, start..start + 3, number);
        device_fills((&mut buffer, &queue), &mut oracle, start + 3..start + 8, number as u8);
        write(&mut buffer, &mut oracle, start + 8..start + 9, 10 + number);
    }
    let range = 19_998..20_005;
    let found = buffer.read_range(range.clone()).expect("the device is there").to_vec();
    assert_eq!(found, oracle[range.start as usize..range.end as usize]);
    check_device(&mut buffer, &queue, &oracle);
    check_host(&buffer, &oracle);
    buffer.synchronize().expect("the device is there");
    check_host(&buffer, &oracle);
}

/// Queues that use the same bytes come one after the other, whatever else they have to do.
pub fn queues_take_turns_with_a_buffer<B: SyncBackend>(make: impl Fn() -> B) {
    let _alone = alone();
    let manager = manager(make());
    let (queues, bytes) = (queues(&manager), 30_000);
    let Some(mut buffer) = zeroed(&manager, bytes) else { return };
    let mut oracle = vec![0; bytes as usize];
    let mut busy = manager.allocate(8 << 20).expect("there is room");
    for round in 0..8_u8 {
        let [one, other] = [&queues[usize::from(round % 2)], &queues[usize::from(1 - round % 2)]];
        let work = one.fill(busy, round).expect("the queue takes a fill");
        write(&mut buffer, &mut oracle, 0..20_000, u64::from(round));
        device_fills((&mut buffer, one), &mut oracle, 5_000..30_000, round + 100);
        device_fills((&mut buffer, other), &mut oracle, 10_000..15_000, round + 200);
        check_device(&mut buffer, if round < 4 { one } else { other }, &oracle);
        check_host(&buffer, &oracle);
        busy = work.wait().expect("the queue ends");
    }
}

/// To bring bytes over before they are needed changes nothing.
pub fn prefetches_change_nothing<B: SyncBackend>(make: impl Fn() -> B) {
    let _alone = alone();
    let manager = manager(make());
    let ([one, other], bytes) = (queues(&manager), 30_000);
    let Some(mut buffer) = zeroed(&manager, bytes) else { return };
    let mut oracle = vec![0; bytes as usize];
    for (number, name) in ["device", "host", "host", "device", "device"].into_iter().enumerate() {
        let side: Side = name.parse().expect("its name");
        write(&mut buffer, &mut oracle, 1000..3000, number as u64);
        buffer.prefetch(side, &one).expect("the device is there");
        device_fills((&mut buffer, &other), &mut oracle, 2000..4000, number as u8 + 1);
        buffer.prefetch(side, &one).expect("the device is there");
        check_host(&buffer, &oracle);
        check_device(&mut buffer, &other, &oracle);
    }
}

/// Dropped while queues are at it, its memory serves nobody else before they have passed, and comes back then.
pub fn it_may_be_dropped_in_flight<B: SyncBackend>(make: impl Fn() -> B) {
    let _alone = alone();
    let manager = manager(make());
    let ([one, other], bytes) = (queues(&manager), 40_000);
    let mut oracle = vec![0; bytes as usize];
    for round in 0..40 {
        let Some(mut buffer) = zeroed(&manager, bytes) else { return };
        write(&mut buffer, &mut oracle, 0..bytes, round);
        let [first, second] = if round % 2 == 0 { [&one, &other] } else { [&other, &one] };
        device_fills((&mut buffer, first), &mut oracle, 0..10_000, round as u8);
        buffer.prefetch(Side::Device, second).expect("the device is there");
        if round % 4 == 3 {
            check_device(&mut buffer, second, &oracle);
            check_host(&buffer, &oracle);
        }
        buffer.prefetch(Side::Host, first).expect("the device is there");
    }
    for queue in [&one, &other] {
        queue.synchronize(LONG).expect("the queue ends");
    }
    // The reaper settles, too, and may have places in hand that trimming does not find yet.
    for _ in 0..1000 {
        manager.settle();
        manager.trim();
        if manager.statistics().reserved.current == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let statistics = manager.statistics();
    assert_eq!((statistics.live_count(), statistics.reserved.current), (0, 0), "{}", manager.report());
}
