//! Queues, as a client uses them by dispatch2.
//!
//! The numbers of live queues and blocks are the process's, so these tests take turns.
#![cfg(not(target_vendor = "apple"))]

use std::ffi::{CStr, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread;

use block2::RcBlock;
use dispatch2::{DispatchObject, DispatchQoS, DispatchQueue, DispatchRetained, GlobalQueueIdentifier};
use objc2::rc::{Retained, Weak};
use software_objc::dispatch::{live_queues, wait_until_idle};

mod common;
#[path = "common/turn.rs"]
mod turn;
use common::panic_of;
use turn::{Raw, all, release, serial, turn};

unsafe extern "C-unwind" {
    #[link_name = "dispatch_sync"]
    fn sync(queue: *const c_void, block: *const c_void);
}

fn global() -> DispatchRetained<DispatchQueue> {
    DispatchQueue::global_queue(GlobalQueueIdentifier::QualityOfService(DispatchQoS::Default))
}

#[test]
fn a_serial_queue_runs_all_in_order_one_at_a_time() {
    let turn = turn();
    let queue = serial();
    let (sender, receiver) = channel();
    let busy = Arc::new(AtomicBool::new(false));
    for number in 0..200 {
        let (sender, busy) = (sender.clone(), busy.clone());
        queue.exec_async(move || {
            assert!(!busy.swap(true, SeqCst));
            sender.send(number).expect("the test listens");
            busy.store(false, SeqCst);
        });
        if number % 50 == 0 {
            wait_until_idle(); // The next piece starts the queue's thread anew.
        }
    }
    drop(queue);
    assert!(receiver.iter().take(200).eq(0..200));
    turn.end();
}

#[test]
fn sync_waits_for_its_turn_and_runs_here() {
    let turn = turn();
    let queue = serial();
    let before = Arc::new(AtomicUsize::new(0));
    for _ in 0..10 {
        let before = before.clone();
        queue.exec_async(move || _ = before.fetch_add(1, SeqCst));
    }
    let here = thread::current().id();
    queue.exec_sync(|| {
        assert_eq!((before.load(SeqCst), thread::current().id()), (10, here));
        // SAFETY: null asks for the current queue's label, which lives as long as the queue.
        let label = unsafe { CStr::from_ptr(DispatchQueue::label(None).as_ptr()) };
        assert_eq!(label, c"test.serial");
        global().exec_sync(|| assert_eq!(thread::current().id(), here));
    });
    drop(queue);
    turn.end();
}

#[test]
fn a_submitted_block_is_copied_and_released_after_its_call() {
    let turn = turn();
    let queue = serial();
    let (sender, receiver) = channel();
    let block = RcBlock::new(move || sender.send(thread::current().id()).expect("the test listens"));
    for _ in 0..2 {
        // SAFETY: the block is copied; its captures may go to another thread.
        unsafe { queue.exec_async_with_block(RcBlock::as_ptr(&block)) };
    }
    drop(block);
    assert!(
        receiver.iter().all(|id| id != thread::current().id()),
        "it ends when the block's captures are dropped"
    );
    drop(queue);
    turn.end();
}

#[test]
fn a_global_queue_runs_pieces_at_the_same_time() {
    let turn = turn();
    let queue = global();
    let (to_second, from_first) = channel();
    let (to_first, from_second) = channel();
    let (done, is_done) = channel();
    let second_done = done.clone();
    queue.exec_async(move || {
        to_second.send(()).expect("the second one waits");
        from_second.recv().expect("the second one answers");
        done.send(()).expect("the test listens");
    });
    queue.exec_async(move || {
        from_first.recv().expect("the first one sends");
        to_first.send(()).expect("the first one waits");
        second_done.send(()).expect("the test listens");
    });
    assert_eq!(is_done.iter().count(), 2);
    assert_eq!(Retained::from(global()), Retained::from(queue), "there is one of a quality");
    turn.end();
}

#[test]
fn a_suspended_queue_keeps_its_work() {
    let turn = turn();
    let queue = serial();
    let (sender, receiver) = channel();
    queue.suspend();
    queue.suspend();
    queue.exec_async(move || sender.send(1).expect("the test listens"));
    queue.resume();
    wait_until_idle();
    assert_eq!(all(&receiver), []);
    queue.resume();
    assert_eq!(receiver.recv(), Ok(1));
    assert!(panic_of(|| queue.resume_unbalanced()).contains("is not suspended"));
    drop(queue);
    turn.end();
}

#[test]
fn a_queue_lives_until_its_work_is_done_and_then_is_finalized() {
    let turn = turn();
    let queue = serial();
    let weak = Weak::from_retained(&Retained::from(queue.clone()));
    let (finalized, is_finalized) = channel();
    queue.set_finalizer(move || finalized.send(()).expect("the test listens"));
    let (go, may_go) = channel::<()>();
    queue.exec_async(move || may_go.recv().expect("the test sends"));
    drop(queue);
    assert!(weak.load().is_some() && live_queues() == turn.alive[0] + 1);
    go.send(()).expect("the work waits");
    assert_eq!(is_finalized.recv(), Ok(()));
    assert!(weak.load().is_none());
    turn.end();
}

#[test]
fn a_queue_released_while_suspended_panics() {
    let turn = turn();
    let queue = serial();
    queue.suspend();
    let raw = DispatchRetained::as_ptr(&queue).as_ptr().cast::<c_void>();
    assert!(panic_of(|| queue.release_last()).contains("released while suspended"));
    // SAFETY: this is one release too many, which is to be found.
    assert!(panic_of(|| unsafe { release(raw) }).starts_with("-[OS_dispatch_queue release]: over-release"));
    assert_eq!(live_queues(), turn.alive[0] + 1, "the panic has come before its end");
}

#[test]
fn sync_on_the_own_queue_panics() {
    let turn = turn();
    let queue = serial();
    let (sender, receiver) = channel();
    let own = queue.clone();
    queue.exec_async(move || {
        let block = RcBlock::new(|| {});
        let (queue, block) = (DispatchRetained::as_ptr(&own).as_ptr().cast(), RcBlock::as_ptr(&block));
        // SAFETY: both are alive; this is the mistake that is to be found.
        let message = panic_of(|| unsafe { sync(queue, block.cast()) });
        sender.send(message).expect("the test listens");
    });
    assert!(receiver.recv().expect("a message").contains("it would wait for itself"));
    drop(queue);
    turn.end();
}
