//! Several threads on views of one buffer.

use super::manager;
use super::queues::LONG;
use crate::{Channel, Random};
use aquifer_backend::SyncBackend;
use aquifer_core::{BufferView, MemoryManager};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// Where threads wait until as many as it is for are there. Unlike the standard library's, sanitizers understand it.
#[derive(Clone)]
struct Meeting(Arc<(Mutex<usize>, Condvar)>);

impl Meeting {
    fn of(count: usize) -> Self {
        Self(Arc::new((Mutex::new(count), Condvar::new())))
    }

    fn come(&self) {
        let (missing, all_are_there) = &*self.0;
        let mut missing = missing.lock();
        *missing -= 1;
        if *missing == 0 {
            all_are_there.notify_all();
        }
        let late = all_are_there.wait_while_for(&mut missing, |missing| *missing > 0, LONG);
        assert!(!late.timed_out(), "somebody is kept away");
    }
}

fn whole<B: SyncBackend>(manager: &MemoryManager<B>, bytes: u64) -> BufferView<B> {
    let mut buffer = manager.allocate(bytes).expect("there is room");
    buffer.fill(0).expect("a fill");
    buffer.into_view()
}

fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    // All are started before one is waited for.
    let threads: Vec<_> = threads.into_iter().collect();
    for thread in threads {
        thread.join().expect("a thread has failed");
    }
}

/// Threads hold the parts of a buffer to be written, all of them at one moment.
pub fn disjoint_views_are_written_at_the_same_time<B: SyncBackend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let whole = whole(&manager, 4 * 1000);
    let meeting = Meeting::of(4);
    join((0..4_u64).map(|index| {
        let view = whole.view(index * 1000..(index + 1) * 1000).expect("in bounds");
        let meeting = meeting.clone();
        thread::spawn(move || {
            let mut values = view.as_mut_slice::<u32>().expect("visible");
            // All hold theirs, or this does not return.
            meeting.come();
            values.fill(index as u32 + 1);
        })
    }));
    let values = whole.as_slice::<u32>().expect("visible");
    assert!(values.iter().enumerate().all(|(place, &value)| value == place as u32 / 250 + 1));
}

/// Threads read the same bytes at one moment.
pub fn readers_meet<B: SyncBackend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let whole = whole(&manager, 1000);
    whole.fill(7).expect("a fill");
    let meeting = Meeting::of(3);
    join((0..3_u64).map(|index| {
        let view = whole.view(index * 100..1000).expect("in bounds");
        let meeting = meeting.clone();
        thread::spawn(move || {
            let bytes = view.as_slice::<u8>().expect("visible");
            meeting.come();
            assert!(bytes.iter().all(|&byte| byte == 7));
        })
    }));
}

/// Who writes is alone with its bytes: no count is lost, and nobody reads half of what was written together.
pub fn writers_come_one_after_the_other<B: SyncBackend>(make: impl Fn() -> B) {
    const ROUNDS: u64 = 100;
    let manager = manager(make());
    let whole = whole(&manager, 8 * 16);
    let is_over = Arc::new(AtomicBool::new(false));
    let reader = thread::spawn({
        let (whole, is_over) = (whole.clone(), Arc::clone(&is_over));
        move || {
            while !is_over.load(Ordering::Acquire) {
                let values = whole.as_slice::<u64>().expect("visible");
                assert!(values[8..].iter().all(|&value| value == values[8]), "{values:?}");
                drop(values);
                let mut two = [0_u64; 2];
                whole.read(8 * 9, &mut two).expect("in bounds");
                assert_eq!(two[0], two[1]);
            }
        }
    });
    join((0..3_u64).map(|seed| {
        let whole = whole.clone();
        thread::spawn(move || {
            let mut random = Random::new(seed);
            for _ in 0..ROUNDS {
                // All of them cover the second half.
                let start = random.below(9);
                let view = whole.view(8 * start..8 * 16).expect("in bounds");
                let mut values = view.as_mut_slice::<u64>().expect("visible");
                values.iter_mut().for_each(|value| *value += 1);
            }
        })
    }));
    is_over.store(true, Ordering::Release);
    join([reader]);
    let values = whole.as_slice::<u64>().expect("visible");
    assert!(values[8..].iter().all(|&value| value == 3 * ROUNDS), "{values:?}");
}

/// Threads copy between two buffers in both directions, and within each, and none waits for ever.
pub fn copies_crosswise_come_to_an_end<B: SyncBackend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let buffers = [whole(&manager, 400), whole(&manager, 400)];
    buffers[0].fill(1).expect("a fill");
    join((0..4_u64).map(|seed| {
        let buffers = buffers.clone();
        thread::spawn(move || {
            let mut random = Random::new(seed);
            let to = seed as usize % 2;
            for round in 0..100 {
                let bytes = 1 + random.below(200);
                let from = if round % 4 == 0 { to } else { 1 - to };
                // In two halves, so that what is in one buffer does not overlap.
                let (low, high) = (random.below(201 - bytes), 200 + random.below(201 - bytes));
                let (source, target) = if round % 2 == 0 { (low, high) } else { (high, low) };
                let source = buffers[from].view(source..source + bytes).expect("in bounds");
                let target = buffers[to].view(target..target + bytes).expect("in bounds");
                target.copy_from(&source).expect("they do not overlap");
            }
        })
    }));
    for buffer in &buffers {
        assert!(buffer.as_slice::<u8>().expect("visible").iter().all(|&byte| byte <= 1));
    }
}

/// What is held goes to another thread, is used and let go there, and the manager has gone before.
pub fn values_may_be_dropped_elsewhere<B: SyncBackend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let whole = whole(&manager, 800);
    let channel = Channel::new(1);
    let taker = thread::spawn({
        let channel = channel.clone();
        move || {
            let mut values: aquifer_core::ViewWrite<B, u64> = channel.receive();
            values.fill(5);
        }
    });
    channel.send(whole.view(80..160).expect("in bounds").as_mut_slice::<u64>().expect("visible"));
    drop(manager);
    // Waits for what the other thread holds, or has let go.
    assert_eq!(whole.view(152..168).expect("in bounds").as_slice::<u64>().expect("visible")[..], [5, 0]);
    join([taker]);
    assert!(whole.try_into_buffer().is_ok(), "nothing is held");
}
