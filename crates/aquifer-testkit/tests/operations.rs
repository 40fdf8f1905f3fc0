//! Operations of queues on the host: what they move, what becomes of them when their futures go, and of all when the manager
//! goes.

#![cfg(any(target_os = "linux", target_os = "macos"))]

mod common;

use aquifer_core::{Buffer, CopyDesc, ErrorKind, MemoryManager, Queue};
use aquifer_host::Host;
use aquifer_sim::{Kernel, Sim, SimDesc};
use aquifer_testkit::{Faulty, Random, assert_balanced};
use common::{
    Gate, LONG, MIB, assert_marked, block_on, counted_manager, host_manager, mark, poll_once, quiet_config,
    sim, sim_manager, until,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

fn copy(source_offset: u64, destination_offset: u64, bytes: u64) -> CopyDesc {
    CopyDesc { source_offset, destination_offset, bytes }
}

/// A manager with two queues of its own.
fn two_queues() -> (MemoryManager<Host>, [Queue<Host>; 2]) {
    let manager = host_manager(64 * MIB);
    let queues = [(); 2].map(|()| manager.queue().expect("a queue"));
    (manager, queues)
}

fn is_settled(manager: &MemoryManager<Host>) -> bool {
    let statistics = manager.statistics();
    (statistics.live_count(), statistics.quarantined_bytes) == (0, 0)
}

#[test]
fn values_go_up_and_come_back() {
    let (manager, [queue, _]) = two_queues();
    for (count, offset) in [(1_usize, 0_u64), (1000, 8), (MIB as usize, 24)] {
        let values: Vec<u64> = (0..count as u64).map(|value| value * 7 + 1).collect();
        let buffer = manager.allocate(8 * count as u64 + 32).expect("there is room");
        let upload = queue.upload(values.clone(), buffer, offset).expect("it is begun");
        assert_eq!(upload.bytes(), 8 * count as u64);
        let (buffer, sent) = upload.wait().expect("an upload does not fail");
        assert_eq!(sent, values);
        let mut seen = vec![0_u64; count];
        buffer.read(offset, &mut seen).expect("in bounds");
        assert_eq!(seen, values);
        let download = queue.download::<u64>(buffer, offset, count).expect("it is begun");
        assert_eq!(block_on(download).expect("a download does not fail").1, values);
    }
    until("all is free", || is_settled(&manager));
}

#[test]
fn nothing_is_moved_by_an_operation_of_no_bytes() {
    let (manager, [queue, _]) = two_queues();
    let buffer = manager.allocate(8).expect("there is room");
    let (buffer, _) = queue.upload(Vec::<u8>::new(), buffer, 8).expect("begun").wait().expect("it ends");
    let (buffer, values) = queue.download::<u64>(buffer, 8, 0).expect("begun").wait().expect("it ends");
    assert!(values.is_empty());
    let other = manager.allocate(8).expect("there is room");
    queue.copy(buffer, other, copy(8, 0, 0)).expect("begun").wait().expect("it ends");
}

#[test]
fn fills_and_copies_reach_their_bytes_and_no_others() {
    let (manager, queues) = two_queues();
    let seed = 11;
    println!("seed {seed}");
    let mut random = Random::new(seed);
    for round in 0..100 {
        let bytes = random.size(300_000);
        let (from, to) = (random.below(bytes), random.below(bytes));
        let count = random.below(bytes - from.max(to)) + 1;
        let [one, other] =
            [0, 1].map(|index| queues[index].allocate(bytes).expect("there is room for all of them"));
        // On the other's home, each of them.
        let one = queues[1].fill(one, 1).expect("begun").wait().expect("it ends");
        let other = queues[0].fill(other, 2).expect("begun").wait().expect("it ends");
        let queue = &queues[round % 2];
        let copied = queue.copy(one, other, copy(from, to, count)).expect("begun").wait();
        let (one, other) = copied.expect("a copy does not fail");
        assert_marked(&one, 1);
        let found: &[u8] = other.as_slice().expect("host memory is seen");
        for (place, &byte) in found.iter().enumerate() {
            let expected = if (to..to + count).contains(&(place as u64)) { 1 } else { 2 };
            assert_eq!(byte, expected, "round {round}, byte {place} of {bytes}");
        }
    }
    until("all is free", || is_settled(&manager));
    assert_balanced(&manager.statistics());
}

/// Operations on two queues work on one buffer in the order in which they were begun, without a wait between.
#[test]
fn a_buffer_goes_from_queue_to_queue() {
    let (_manager, queues) = two_queues();
    let mut buffer = queues[0].allocate(MIB).expect("there is room");
    for round in 0..40_u8 {
        let gate = (round % 5 == 0).then(|| Gate::before(&queues[0]));
        // What was given to the home queue before comes before this, whichever queue does it.
        queues[0].raw().submit(|| ());
        let filled = queues[usize::from(round % 2)].fill(buffer, round).expect("begun");
        drop(gate);
        buffer = block_on(filled).expect("a fill does not fail");
        assert_marked(&buffer, round);
    }
}

/// The host sees what the home queue does to a buffer only once that is done: looking waits.
#[test]
fn host_access_waits_for_the_home_queue_and_for_recorded_ones() {
    let (manager, queues) = two_queues();
    let at_home = queues[0].allocate(4096).expect("there is room");
    let recorded = manager.allocate(4096).expect("there is room");
    recorded.record_use(&queues[1]).expect("a queue of its manager");
    for (mut buffer, queue) in [(at_home, &queues[0]), (recorded, &queues[1])] {
        mark(&mut buffer, 1);
        let gate = Gate::before(queue);
        let is_open = Arc::new(AtomicBool::new(false));
        let opened = Arc::clone(&is_open);
        queue.raw().submit(move || opened.store(true, Ordering::SeqCst));
        let opener = std::thread::spawn(move || gate.open());
        assert_marked(&buffer, 1);
        assert!(is_open.load(Ordering::SeqCst), "the host did not wait");
        opener.join().expect("it only opens a gate");
    }
}

/// Memory of the home queue is used again while the queue is busy; elsewhere only after that.
#[test]
fn memory_goes_to_others_only_when_the_queue_has_passed() {
    let mut config = quiet_config(8 * MIB);
    config.in_flight_wait = LONG;
    let manager = MemoryManager::with_config(common::host(), config).expect("a budget");
    let queue = manager.queue().expect("a queue");
    let buffer = queue.allocate(8 * MIB).expect("there is room");
    let gate = Gate::before(&queue);
    let address = buffer.host_pointer();
    drop(buffer);
    let again = queue.allocate(8 * MIB).expect("on its queue it is free at once");
    assert_eq!(again.host_pointer(), address);
    drop(again);
    let has_passed = Arc::new(AtomicBool::new(false));
    let passed = Arc::clone(&has_passed);
    queue.raw().submit(move || passed.store(true, Ordering::SeqCst));
    let opener = std::thread::spawn(move || gate.open());
    let elsewhere = manager.allocate(8 * MIB).expect("it waits for the queue");
    assert!(has_passed.load(Ordering::SeqCst), "somebody else's memory is still in use");
    opener.join().expect("it only opens a gate");
    drop(elsewhere);
}

/// The queue passes at any moment of an allocation that needs its memory: which is found, or waited for, each time.
#[test]
fn memory_is_found_whenever_its_queue_passes() {
    for duration_ns in (0..40_000).step_by(50) {
        let sim = Sim::new(SimDesc::default());
        let mut config = quiet_config(8 * MIB);
        config.in_flight_wait = LONG;
        let manager = sim_manager(&sim, config);
        let queue = manager.queue().expect("a queue");
        let buffer = queue.allocate(8 * MIB).expect("there is room");
        let kernel = Kernel::new([]).lasting(duration_ns);
        sim.launch(queue.raw(), kernel).expect("the device is there");
        drop(buffer);
        let elsewhere = manager.allocate(8 * MIB);
        assert!(elsewhere.is_ok(), "a kernel of {duration_ns} ns: {elsewhere:?}");
    }
}

#[test]
fn a_detached_operation_frees_what_it_uses_when_it_is_over() {
    let (manager, [queue, _]) = two_queues();
    let gate = Gate::before(&queue);
    for polls in 0..4 {
        let buffer = manager.allocate(MIB).expect("there is room");
        let mut operation = queue.upload(vec![5_u8; 1000], buffer, 0).expect("begun");
        assert!((0..polls).all(|_| poll_once(&mut operation).is_pending()));
        drop(operation);
    }
    assert_eq!(manager.statistics().live_count(), 4, "they are under way");
    gate.open();
    until("all is free", || is_settled(&manager));
    drop(manager.allocate(60 * MIB).expect("the memory can be used again"));
}

#[test]
fn a_forgotten_operation_runs_and_leaks_no_more_than_itself() {
    let (manager, [queue, _]) = two_queues();
    let gate = Gate::before(&queue);
    for polls in 0..4 {
        let buffer = manager.allocate(MIB).expect("there is room");
        let mut operation = queue.fill(buffer, 5).expect("begun");
        assert!((0..polls).all(|_| poll_once(&mut operation).is_pending()));
        std::mem::forget(operation);
    }
    gate.open();
    queue.synchronize(LONG).expect("the queue goes on");
    assert_eq!(manager.statistics().live_count(), 4, "who could give them back is gone");
    let buffer = manager.allocate(MIB).expect("everybody else goes on");
    assert_marked(&queue.fill(buffer, 6).expect("begun").wait().expect("it ends"), 6);
}

#[test]
fn a_cancelled_operation_says_how_far_it_came_and_gives_all_back() {
    let (manager, [queue, _]) = two_queues();
    let gate = Gate::before(&queue);
    let mut under_way = Vec::new();
    for polls in 0..4 {
        let mut buffer = manager.allocate(MIB).expect("there is room");
        mark(&mut buffer, 1);
        let mut operation = queue.fill(buffer, 2).expect("begun");
        assert!((0..polls).all(|_| poll_once(&mut operation).is_pending()));
        operation.cancel();
        under_way.push(operation);
    }
    gate.open();
    for operation in under_way {
        let error = operation.wait().expect_err("it had not begun to run");
        assert_eq!((error.error().kind(), error.done_bytes()), (ErrorKind::Cancelled, 0));
        assert_marked(&error.into_parts().expect("the buffer comes back"), 1);
    }
    // Too late is no error.
    let buffer = manager.allocate(MIB).expect("there is room");
    let operation = queue.fill(buffer, 3).expect("begun");
    queue.synchronize(LONG).expect("the queue goes on");
    operation.cancel();
    assert_marked(&operation.wait().expect("it was done"), 3);
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("this waker panics, as it should");
    }
}

#[test]
fn a_waker_that_panics_does_not_end_the_others_waiting() {
    let (manager, [queue, _]) = two_queues();
    let gate = Gate::before(&queue);
    let mut operations: Vec<_> = (0..4)
        .map(|_| queue.fill(manager.allocate(1000).expect("there is room"), 5).expect("begun"))
        .collect();
    let last = operations.pop().expect("there are four");
    let panics = Arc::new(Panics).into();
    for operation in &mut operations {
        let polled = std::pin::Pin::new(operation).poll(&mut std::task::Context::from_waker(&panics));
        assert!(polled.is_pending());
    }
    gate.open();
    assert_marked(&block_on(last).expect("it ends"), 5);
    for operation in operations {
        assert_marked(&operation.wait().expect("it ends"), 5);
    }
    // Whoever wakes is as well as before.
    let buffer = manager.allocate(1000).expect("there is room");
    assert_marked(&block_on(queue.fill(buffer, 6).expect("begun")).expect("it ends"), 6);
}

/// An operation is known to be over to all who may know, with nobody who looks for them.
#[test]
fn without_a_reaper_polls_see_the_end() {
    let manager = MemoryManager::with_config(common::host(), quiet_config(64 * MIB)).expect("a budget");
    let queue = manager.queue().expect("a queue");
    let mut operation = queue.fill(manager.allocate(1000).expect("there is room"), 5).expect("begun");
    queue.synchronize(LONG).expect("the queue goes on");
    assert!(operation.is_over());
    assert!(poll_once(&mut operation).is_ready());
    let sim = sim();
    let manager = sim_manager(&sim, quiet_config(64 * MIB));
    let queue = manager.queue().expect("a queue");
    let mut operation = queue.fill(manager.allocate(1000).expect("there is room"), 5).expect("begun");
    sim.lose_device();
    let std::task::Poll::Ready(Err(error)) = poll_once(&mut operation) else { panic!("the device is lost") };
    assert_eq!(error.error().kind(), ErrorKind::DeviceLost);
    assert!(error.into_parts().is_some());
}

/// What lives when the last handle goes: an operation under way, a buffer at home, one recorded, a view.
fn drop_manager_with_all_alive(has_reaper: bool) {
    let mut config = quiet_config(64 * MIB);
    config.reaper = has_reaper;
    config.in_flight_wait = LONG;
    let device = Faulty::new(common::host());
    let faults = device.faults();
    let manager = MemoryManager::with_config(device, config).expect("a budget");
    let queue = manager.queue().expect("a queue");
    let mut at_home = queue.allocate(MIB).expect("there is room");
    let recorded = manager.allocate(MIB).expect("there is room");
    recorded.record_use(&queue).expect("a queue of its manager");
    let mut plain = manager.allocate(100).expect("there is room");
    plain.fill(4).expect("host memory can be filled");
    let view = plain.into_view();
    let started = queue.fill(manager.allocate(2 * MIB).expect("there is room"), 1).expect("begun");
    let kept = queue.fill(manager.allocate(3 * MIB).expect("there is room"), 2).expect("begun");
    drop(started);
    drop((manager, queue));
    // An operation that is kept keeps the manager.
    let filled = kept.wait().expect("it ends");
    let bytes: &[u8] = filled.as_slice().expect("host memory is seen");
    assert!(bytes.iter().all(|&byte| byte == 2));
    at_home.fill(3).expect("it is as good as ever");
    let part = view.view(10..20).expect("in bounds");
    let mut seen = [0_u8; 10];
    part.read(0, &mut seen).expect("in bounds");
    assert_eq!(seen, [4; 10]);
    drop((view, filled));
    drop(recorded);
    assert!(faults.live_blocks() > 0, "two are left");
    drop(part);
    drop(at_home);
    until("the driver has all back", || faults.live_blocks() == 0);
}

#[test]
fn all_survives_its_manager() {
    drop_manager_with_all_alive(true);
}

#[test]
fn all_survives_its_manager_without_a_reaper() {
    drop_manager_with_all_alive(false);
}

#[test]
fn a_manager_dropped_with_detached_work_gives_all_back_when_that_ends() {
    let manager = host_manager(64 * MIB);
    let queue = manager.queue().expect("a queue");
    let gate = Gate::before(&queue);
    let buffers: Vec<Buffer<Host>> = (0..3).map(|_| queue.allocate(MIB).expect("there is room")).collect();
    let probe = Arc::new(());
    let held = Arc::clone(&probe);
    for buffer in buffers {
        drop(queue.fill(buffer, 1).expect("begun"));
    }
    queue.raw().submit(move || drop(held));
    drop((manager, queue));
    assert_eq!(Arc::strong_count(&probe), 2, "the queue is held up");
    gate.open();
    until("the queue has run", || Arc::strong_count(&probe) == 1);
}

#[test]
fn operations_of_many_threads_come_back_to_their_own() {
    let (manager, faults) = counted_manager(64 * MIB);
    let threads: Vec<_> = (0..4_u8)
        .map(|index| {
            let manager = manager.clone();
            std::thread::spawn(move || {
                let queue = manager.queue().expect("a queue");
                for round in 0..100_u8 {
                    let value = index ^ round;
                    let buffer = manager.allocate(1000 + u64::from(round)).expect("there is room");
                    let fill = queue.fill(buffer, value).expect("begun");
                    let buffer = if round % 2 == 0 { fill.wait() } else { block_on(fill) }.expect("it ends");
                    let download = queue.download::<u8>(buffer, 0, 1000).expect("begun");
                    match round % 3 {
                        0 => drop(download),
                        _ => assert_eq!(download.wait().expect("it ends").1, [value; 1000]),
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("each gets its own");
    }
    until("detached ones are over", || manager.statistics().live_count() == 0);
    drop(manager);
    until("the driver has all back", || faults.live_blocks() == 0);
}
