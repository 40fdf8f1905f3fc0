//! What the safe interface lets one do wrong, each with its one outcome: foreign queues, stale and forged handles, queues that
//! do not go on.

#![cfg(any(target_os = "linux", target_os = "macos"))]

mod common;

use aquifer_core::{CopyDesc, ErrorKind, MemoryManager, RawBuffer, SyncBackend};
use aquifer_host::Host;
use aquifer_sim::{Kernel, Sim};
use aquifer_testkit::Random;
use common::{Gate, LONG, MIB, assert_marked, host_manager, mark, quiet_config, refused, sim, sim_manager};
use std::collections::HashMap;
use std::thread;
use std::time::Duration;

/// Everything that takes a queue and a buffer, or two queues, refuses those of two managers and gives the buffer back.
fn foreign_queues_are_refused<B: SyncBackend>(one: &MemoryManager<B>, other: &MemoryManager<B>) {
    let (own, foreign) = (one.queue().expect("a queue"), other.queue().expect("a queue"));
    let buffer = one.allocate(4096).expect("there is room");
    let wrong = ErrorKind::InvalidArgument;
    refused(buffer.record_use(&foreign), wrong);
    refused(own.wait_on(&foreign), wrong);
    refused(foreign.wait_on(&own), wrong);
    refused(one.allocate_async(100).on(&foreign).wait(), wrong);
    let error = foreign.fill(buffer, 1).expect_err("the queue is foreign");
    assert_eq!(error.error().kind(), wrong);
    let buffer = error.into_parts().expect("it comes back");
    let theirs = other.allocate(4096).expect("there is room");
    let desc = CopyDesc { source_offset: 0, destination_offset: 0, bytes: 10 };
    for queue in [&own, &foreign] {
        let buffers = (buffer_of(one), buffer_of(other));
        let error = queue.copy(buffers.0, buffers.1, desc).expect_err("one buffer is foreign");
        assert_eq!(error.error().kind(), wrong);
        assert!(error.into_parts().is_some());
    }
    let error = foreign.upload(vec![1_u8], buffer, 0).expect_err("the queue is foreign");
    let (buffer, values) = error.into_parts().expect("both come back");
    assert_eq!(values, [1]);
    let error = foreign.download::<u8>(buffer, 0, 1).expect_err("the queue is foreign");
    let buffer = error.into_parts().expect("both come back").0;
    // Nothing was noted, so nothing is waited for.
    drop((buffer, theirs));
    for manager in [one, other] {
        assert_eq!((manager.statistics().live_count(), manager.statistics().quarantined_bytes), (0, 0));
    }
}

fn buffer_of<B: SyncBackend>(manager: &MemoryManager<B>) -> aquifer_core::Buffer<B> {
    manager.allocate(4096).expect("there is room")
}

#[test]
fn queues_of_another_manager_are_refused_on_the_host() {
    foreign_queues_are_refused(&host_manager(64 * MIB), &host_manager(64 * MIB));
}

#[test]
fn queues_of_another_manager_or_device_are_refused_in_simulation() {
    let (sim, other) = (sim(), sim());
    let manager = |sim: &Sim| sim_manager(sim, quiet_config(64 * MIB));
    foreign_queues_are_refused(&manager(&sim), &manager(&sim));
    foreign_queues_are_refused(&manager(&sim), &manager(&other));
    sim.assert_no_violations();
}

#[test]
fn parts_outside_of_their_buffers_are_refused() {
    let manager = host_manager(64 * MIB);
    let queue = manager.queue().expect("a queue");
    let wrong = ErrorKind::OutOfBounds;
    for (source_offset, destination_offset, bytes) in
        [(0, 0, 101), (100, 0, 1), (0, 100, 1), (u64::MAX, 0, 2), (1, u64::MAX, u64::MAX)]
    {
        let [from, to] = [100; 2].map(|bytes| manager.allocate(bytes).expect("there is room"));
        let desc = CopyDesc { source_offset, destination_offset, bytes };
        let error = queue.copy(from, to, desc).expect_err("out of bounds");
        assert_eq!(error.error().kind(), wrong, "{desc:?}");
        assert!(error.into_parts().is_some());
    }
    let buffer = manager.allocate(100).expect("there is room");
    let error = queue.upload(vec![0_u32; 26], buffer, 0).expect_err("too long");
    let (buffer, _) = error.into_parts().expect("they come back");
    let error = queue.download::<u64>(buffer, 0, usize::MAX).expect_err("too long");
    assert_eq!(error.error().kind(), wrong);
}

#[test]
fn a_raw_buffer_is_freed_once_and_only_by_its_manager() {
    let (manager, other) = (host_manager(64 * MIB), host_manager(64 * MIB));
    let wrong = ErrorKind::InvalidArgument;
    let mut buffer = manager.allocate(1000).expect("there is room");
    mark(&mut buffer, 7);
    let handle = RawBuffer::from_bits(buffer.into_raw().to_bits());
    assert_eq!(manager.statistics().live_count(), 1);
    assert!(refused(other.free_raw(handle), wrong).message().contains("another manager"));
    assert!(refused(other.with_raw(handle, |_| ()), wrong).message().contains("another manager"));
    manager.with_raw(handle, |buffer| assert_marked(buffer, 7)).expect("it lives");
    manager.with_raw_mut(handle, |buffer| mark(buffer, 8)).expect("it lives");
    manager.free_raw(handle).expect("it lives");
    assert_eq!(manager.statistics().live_count(), 0);
    assert!(refused(manager.free_raw(handle), wrong).message().contains("already"));
    assert!(refused(manager.take_raw(handle), wrong).message().contains("already"));
    assert!(refused(manager.with_raw(handle, |_| ()), wrong).message().contains("already"));
    let again = manager.allocate(1000).expect("there is room").into_raw();
    assert_ne!(again, handle);
    refused(manager.free_raw(handle), wrong);
    let taken = manager.take_raw(again).expect("it lives");
    refused(manager.free_raw(again), wrong);
    drop(taken);
}

#[test]
fn forged_handles_are_refused() {
    let seed = 5;
    println!("seed {seed}");
    let (manager, mut random) = (host_manager(64 * MIB), Random::new(seed));
    let handle = manager.allocate(1000).expect("there is room").into_raw();
    let near = (0..64).map(|bit| handle.to_bits() ^ 1 << bit);
    for bits in near.chain([0, 1, u64::MAX]).chain((0..10_000).map(|_| random.draw())) {
        if bits != handle.to_bits() {
            refused(manager.free_raw(RawBuffer::from_bits(bits)), ErrorKind::InvalidArgument);
        }
    }
    manager.free_raw(handle).expect("the real one is as good as ever");
}

#[test]
fn a_raw_buffer_in_use_outlives_its_free_and_is_not_taken() {
    let manager = host_manager(64 * MIB);
    let wrong = ErrorKind::InvalidArgument;
    let handle = manager.allocate(1000).expect("there is room").into_raw();
    let used = manager.with_raw(handle, |buffer| {
        assert!(refused(manager.take_raw(handle), wrong).message().contains("being used"));
        refused(manager.with_raw_mut(handle, |_| ()), wrong);
        manager.free_raw(handle).expect("it lives");
        assert_eq!(manager.statistics().live_count(), 1);
        buffer.size_bytes()
    });
    assert_eq!((used.expect("it lived"), manager.statistics().live_count()), (1000, 0));

    let handle = manager.allocate(1000).expect("there is room").into_raw();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        manager.with_raw_mut(handle, |_| {
            refused(manager.free_raw(handle), wrong);
            panic!("the user's code panics, as it should");
        })
    }));
    assert!(panicked.is_err());
    manager.free_raw(handle).expect("a panic leaves it where it was");
}

#[test]
fn raw_buffers_go_with_their_manager() {
    let (manager, faults) = common::counted_manager(64 * MIB);
    let handles =
        [100, 50_000, 9 * MIB].map(|bytes| manager.allocate(bytes).expect("there is room").into_raw());
    assert_eq!(manager.live_allocations().live_count, 3);
    let late = manager.allocate(3 * MIB).expect("there is room");
    drop(manager);
    assert_eq!(faults.live_blocks(), 1, "only the one with an owner keeps its block");
    // Nobody could free it any more, so that it is freed at once.
    let handle = late.into_raw();
    assert_eq!((faults.live_blocks(), handles.contains(&handle)), (0, false));
}

/// Many threads do with one manager's handles what they like. Each buffer is freed exactly once.
#[test]
fn threads_race_for_raw_buffers() {
    const THREADS: u64 = 4;
    let manager = host_manager(64 * MIB);
    let handles: Vec<_> =
        (0..200).map(|size| manager.allocate(100 + size).expect("there is room").into_raw()).collect();
    let threads: Vec<_> = (0..THREADS)
        .map(|seed| {
            let (manager, handles) = (manager.clone(), handles.clone());
            thread::spawn(move || {
                let mut random = Random::new(seed);
                let mut freed = HashMap::new();
                for _ in 0..2000 {
                    let handle = handles[random.below(handles.len() as u64) as usize];
                    let is_freed = match random.below(4) {
                        0 => manager.free_raw(handle).is_ok(),
                        1 => manager.take_raw(handle).is_ok(),
                        2 => {
                            let _ = manager.with_raw_mut(handle, |buffer| buffer.fill(1));
                            false
                        }
                        _ => manager.with_raw(handle, |buffer| buffer.size_bytes() == 0).unwrap_or(false),
                    };
                    if is_freed {
                        *freed.entry(handle).or_insert(0) += 1;
                    }
                }
                freed
            })
        })
        .collect();
    let mut freed = HashMap::new();
    for thread in threads {
        for (handle, count) in thread.join().expect("no thread panics") {
            *freed.entry(handle).or_insert(0) += count;
        }
    }
    assert!(freed.values().all(|&count| count == 1), "{freed:?}");
    for handle in handles {
        assert_eq!(manager.free_raw(handle).is_ok(), !freed.contains_key(&handle));
    }
    assert_eq!(manager.statistics().live_count(), 0);
}

#[test]
fn waiting_for_a_queue_that_hangs_times_out() {
    let sim = sim();
    let manager = sim_manager(&sim, quiet_config(64 * MIB));
    let queue = manager.queue().expect("a queue");
    sim.launch(queue.raw(), Kernel::new([]).lasting(1000)).expect("the device is there");
    let value = queue.signal().expect("it takes markers");
    sim.hang(queue.raw(), None);
    refused(queue.wait(value, Duration::ZERO), ErrorKind::TimedOut);
    refused(queue.wait(value, LONG), ErrorKind::TimedOut);
    refused(queue.synchronize(LONG), ErrorKind::TimedOut);
    sim.resume(queue.raw());
    queue.wait(value, LONG).expect("it goes on");
}

#[test]
fn waiting_for_a_held_up_queue_of_the_host_times_out() {
    let manager = host_manager(64 * MIB);
    let queue = manager.queue().expect("a queue");
    let gate = Gate::before(&queue);
    let value = queue.signal().expect("it takes markers");
    refused(queue.wait(value, Duration::from_millis(2)), ErrorKind::TimedOut);
    gate.open();
    queue.wait(value, LONG).expect("it goes on");
}

#[test]
fn a_value_that_was_never_signalled_is_refused() {
    let manager = host_manager(64 * MIB);
    let queue = manager.queue().expect("a queue");
    for value in [1, 2, u64::MAX] {
        let error = refused(queue.wait(value, LONG), ErrorKind::InvalidArgument);
        assert!(error.message().contains("last marker"), "{error}");
    }
    assert_eq!(queue.signal().expect("it takes markers"), 1);
    queue.wait(1, LONG).expect("it was signalled");
    queue.wait(0, Duration::ZERO).expect("everybody has reached 0");
    refused(queue.wait(2, LONG), ErrorKind::InvalidArgument);
}

#[test]
fn a_lost_device_ends_all_waiting() {
    let sim = sim();
    let manager = sim_manager(&sim, quiet_config(64 * MIB));
    let queue = manager.queue().expect("a queue");
    let buffer = queue.allocate(MIB).expect("there is room");
    sim.launch(queue.raw(), Kernel::new([]).lasting(1_000_000_000)).expect("the device is there");
    let value = queue.signal().expect("it takes markers");
    sim.hang(queue.raw(), Some(1_000_000));
    let lost = ErrorKind::DeviceLost;
    refused(queue.wait(value, LONG), lost);
    refused(queue.wait(value, LONG), lost);
    refused(queue.signal(), lost);
    refused(queue.completed(), lost);
    refused(queue.synchronize(LONG), lost);
    refused(manager.queue(), lost);
    refused(manager.allocate(32 * MIB), lost);
    refused(manager.allocate_async(32 * MIB).wait(), lost);
    drop((buffer, queue));
    drop(manager);
    assert_eq!(sim.books().live_blocks, 0);
}

#[test]
fn buffers_outlive_the_handle_of_their_queue_and_its_number_comes_again() {
    let manager = host_manager(64 * MIB);
    let queue = manager.queue().expect("a queue");
    let mut first = queue.allocate(MIB).expect("there is room");
    mark(&mut first, 3);
    let gate = Gate::before(&queue);
    let name = format!("{queue:?}");
    drop(queue);
    // The same queue, with what is still in it.
    let again = manager.queue().expect("a queue");
    assert_eq!(name, format!("{again:?}"));
    let second = again.allocate(MIB).expect("there is room");
    let recorded = manager.allocate(MIB).expect("there is room");
    recorded.record_use(&again).expect("a queue of its own manager");
    let value = again.signal().expect("it takes markers");
    refused(again.wait(value, Duration::from_millis(1)), ErrorKind::TimedOut);
    drop(again);
    drop((second, recorded));
    gate.open();
    assert_marked(&first, 3);
    drop(first);
    common::until("all is given back", || {
        manager.trim();
        manager.statistics().reserved.current == 0
    });
    let queues: Vec<_> = (0..3).map(|_| manager.queue().expect("a queue")).collect();
    let names: Vec<_> = queues.iter().map(|queue| format!("{queue:?}")).collect();
    assert_ne!(names[0], names[1]);
    drop(queues);
    let queue = manager.queue().expect("a queue");
    assert!(names.iter().any(|name| name.split(',').next() == format!("{queue:?}").split(',').next()));
}

/// More queues than there are bits to tell them apart by: a use on the last is noticed all the same.
#[test]
fn a_use_on_the_hundredth_queue_counts() {
    let sim = sim();
    let manager = sim_manager(&sim, quiet_config(16 * MIB));
    let queues: Vec<_> = (0..100).map(|_| manager.queue().expect("a queue")).collect();
    let buffer = manager.allocate(MIB).expect("there is room");
    buffer.record_use(&queues[99]).expect("a queue of its own manager");
    sim.launch(queues[99].raw(), Kernel::new([]).lasting(1000)).expect("the device is there");
    drop(buffer);
    manager.settle();
    assert_eq!(manager.statistics().quarantined_bytes, MIB);
    sim.run_all();
    manager.settle();
    assert_eq!(manager.statistics().quarantined_bytes, 0);
}

/// A buffer of the host under way on one queue is not there for another: it is owned by the operation.
#[test]
fn an_operation_is_polled_or_waited_for_but_not_both() {
    let manager: MemoryManager<Host> = host_manager(64 * MIB);
    let queue = manager.queue().expect("a queue");
    let buffer = manager.allocate(1000).expect("there is room");
    let mut operation = queue.fill(buffer, 9).expect("it is begun");
    queue.synchronize(LONG).expect("the queue goes on");
    let buffer = common::block_on(&mut operation).expect("a fill does not fail");
    assert_marked(&buffer, 9);
    assert!(operation.is_over());
    assert!(common::poll_once(&mut operation).is_pending());
    let error = operation.wait().expect_err("its outcome is gone");
    assert_eq!(error.error().kind(), ErrorKind::InvalidArgument);
    assert!(error.into_parts().is_none());
}
