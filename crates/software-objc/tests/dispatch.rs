//! Queues and memory pressure sources, as a client uses them by dispatch2.
//!
//! Memory pressure and the numbers of live queues and sources are the process's, so these tests take turns.
#![cfg(not(target_vendor = "apple"))]

use std::ffi::c_void;
use std::ptr::{null_mut, with_exposed_provenance_mut};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use block2::RcBlock;
use dispatch2::{
    DispatchObject, DispatchQoS, DispatchQueue, DispatchQueueAttr, DispatchRetained, DispatchSource,
    GlobalQueueIdentifier, dispatch_source_type_t,
};
use objc2::rc::{Retained, Weak};
use software_objc::dispatch::MemoryPressure::{Critical, Normal, Warn};
use software_objc::dispatch::{live_queues, live_sources, raise_memory_pressure, wait_until_idle};
use software_objc::live_blocks;

mod common;
use common::panic_of;

/// One test's turn. At its end nothing of the test is left.
struct Turn {
    _turn: MutexGuard<'static, ()>,
    /// What was alive at its start: another test's misuse may have left something.
    alive: [usize; 3],
}

fn alive() -> [usize; 3] {
    wait_until_idle();
    [live_queues(), live_sources(), live_blocks()]
}

fn turn() -> Turn {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    Turn { _turn: turn, alive: alive() }
}

impl Turn {
    fn end(self) {
        assert_eq!(alive(), self.alive);
    }
}

fn serial() -> DispatchRetained<DispatchQueue> {
    DispatchQueue::new("test.serial", DispatchQueueAttr::SERIAL)
}

fn global() -> DispatchRetained<DispatchQueue> {
    DispatchQueue::global_queue(GlobalQueueIdentifier::QualityOfService(DispatchQoS::Default))
}

fn memory_pressure() -> dispatch_source_type_t {
    (&raw const dispatch2::_dispatch_source_type_memorypressure).cast_mut()
}

fn source(mask: usize, queue: Option<&DispatchQueue>) -> DispatchRetained<DispatchSource> {
    // SAFETY: the type is one of libdispatch's.
    unsafe { DispatchSource::new(memory_pressure(), 0, mask, queue) }
}

/// Has the source send the data of each event.
fn send_events(source: &DispatchSource, events: Sender<usize>) {
    let source_pointer = std::ptr::from_ref(source);
    let handler = RcBlock::new(move || {
        // SAFETY: a source lives while its handler runs.
        let source = unsafe { &*source_pointer };
        events.send(source.data()).expect("the test listens");
    });
    // SAFETY: the block is copied; its captures may go to another thread.
    unsafe { source.set_event_handler_with_block(RcBlock::as_ptr(&handler)) };
}

fn send_cancellation(source: &DispatchSource, cancelled: Sender<()>) {
    let handler = RcBlock::new(move || cancelled.send(()).expect("the test listens"));
    // SAFETY: as in `send_events`.
    unsafe { source.set_cancel_handler_with_block(RcBlock::as_ptr(&handler)) };
}

fn all<T>(receiver: &Receiver<T>) -> Vec<T> {
    receiver.try_iter().collect()
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
        let label = unsafe { std::ffi::CStr::from_ptr(DispatchQueue::label(None).as_ptr()) };
        assert_eq!(label, c"test.serial");
        global().exec_sync(|| assert_eq!(thread::current().id(), here));
    });
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

/// Calls that dispatch2 makes through functions which can't unwind.
trait Raw {
    fn resume_unbalanced(&self);
    fn release_last(self);
}

unsafe extern "C-unwind" {
    #[link_name = "dispatch_resume"]
    fn resume(object: *const c_void);
    #[link_name = "dispatch_release"]
    fn release(object: *const c_void);
    #[link_name = "dispatch_sync"]
    fn sync(queue: *const c_void, block: *const c_void);
}

impl<T: DispatchObject> Raw for DispatchRetained<T> {
    fn resume_unbalanced(&self) {
        // SAFETY: the object is alive; this is the mistake that is to be found.
        unsafe { resume(DispatchRetained::as_ptr(self).as_ptr().cast()) };
    }

    fn release_last(self) {
        // SAFETY: this gives the reference up.
        unsafe { release(DispatchRetained::into_raw(self).as_ptr().cast()) };
    }
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
    assert!(weak.load().is_some() && live_queues() == 1);
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

#[test]
fn a_source_tells_of_the_levels_in_its_mask_from_its_activation_on() {
    let turn = turn();
    let queue = serial();
    let source = source(2 | 4, Some(&queue));
    assert_eq!((source.mask(), source.handle(), source.testcancel()), (6, 0, 0));
    let (events, received) = channel();
    send_events(&source, events);
    raise_memory_pressure(Warn);
    source.activate();
    wait_until_idle();
    assert_eq!(all(&received), [], "inactive sources hear nothing");
    for level in [Warn, Normal, Critical] {
        raise_memory_pressure(level);
        wait_until_idle();
    }
    assert_eq!(all(&received), [2, 4]);
    source.activate();
    raise_memory_pressure(Warn);
    assert_eq!(received.recv(), Ok(2), "a second activation changes nothing");
    drop((source, queue));
    turn.end();
}

#[test]
fn events_that_can_t_be_delivered_yet_are_put_together() {
    let turn = turn();
    let queue = serial();
    let source = source(7, Some(&queue));
    let (events, received) = channel();
    send_events(&source, events);
    source.resume();
    source.suspend();
    for level in [Warn, Critical, Warn] {
        raise_memory_pressure(level);
    }
    wait_until_idle();
    assert_eq!(all(&received), []);
    source.resume();
    wait_until_idle();
    assert_eq!(all(&received), [6]);
    queue.suspend();
    raise_memory_pressure(Normal);
    raise_memory_pressure(Critical);
    queue.resume();
    wait_until_idle();
    assert_eq!(all(&received), [5]);
    assert!(panic_of(|| source.resume_unbalanced()).contains("neither suspended nor inactive"));
    drop((source, queue));
    turn.end();
}

#[test]
fn a_handler_never_runs_twice_at_once_on_a_global_queue_neither() {
    let turn = turn();
    let source = source(7, None);
    let (begun, has_begun) = channel();
    let (go, may_go) = channel::<()>();
    let busy = AtomicBool::new(false);
    let source_pointer = DispatchRetained::as_ptr(&source).as_ptr();
    let handler = RcBlock::new(move || {
        assert!(!busy.swap(true, SeqCst));
        // SAFETY: a source lives while its handler runs.
        begun.send(unsafe { &*source_pointer }.data()).expect("the test listens");
        may_go.recv().expect("the test sends");
        busy.store(false, SeqCst);
    });
    // SAFETY: the block is copied; its captures may go to another thread.
    unsafe { source.set_event_handler_with_block(RcBlock::as_ptr(&handler)) };
    drop(handler);
    source.activate();
    raise_memory_pressure(Warn);
    assert_eq!(has_begun.recv(), Ok(2));
    raise_memory_pressure(Normal);
    raise_memory_pressure(Critical);
    go.send(()).expect("the handler waits");
    assert_eq!(has_begun.recv(), Ok(5));
    go.send(()).expect("the handler waits");
    drop(source);
    turn.end();
}

#[test]
fn the_cancel_handler_runs_once_after_the_last_event() {
    let turn = turn();
    let queue = serial();
    let source = source(7, Some(&queue));
    let (events, received) = channel();
    let (cancelled, is_cancelled) = channel();
    send_events(&source, events);
    send_cancellation(&source, cancelled);
    source.activate();
    queue.suspend();
    raise_memory_pressure(Warn);
    source.cancel();
    source.cancel();
    assert_ne!(source.testcancel(), 0);
    queue.resume();
    assert_eq!(is_cancelled.recv(), Ok(()));
    raise_memory_pressure(Critical);
    wait_until_idle();
    assert_eq!(all(&received), [], "no event is delivered after the cancellation");
    // The handlers are gone, and with them their ends of the channels.
    assert!(received.recv().is_err() && is_cancelled.recv().is_err());
    drop((source, queue));
    turn.end();
}

#[test]
fn cancelling_waits_for_the_activation_and_for_the_resume() {
    let turn = turn();
    let queue = serial();
    let source = source(7, Some(&queue));
    let (cancelled, is_cancelled) = channel();
    send_cancellation(&source, cancelled);
    source.cancel();
    wait_until_idle();
    assert_eq!(all(&is_cancelled), []);
    source.suspend();
    source.activate();
    wait_until_idle();
    assert_eq!(all(&is_cancelled), []);
    source.resume();
    assert_eq!(is_cancelled.recv(), Ok(()));
    drop((source, queue));
    turn.end();
}

#[test]
fn a_source_released_without_cancelling_drops_its_handlers() {
    let turn = turn();
    let source = source(7, None);
    let (events, received) = channel();
    let (cancelled, is_cancelled) = channel();
    send_events(&source, events);
    send_cancellation(&source, cancelled);
    source.activate();
    drop(source);
    raise_memory_pressure(Warn);
    assert!(received.recv().is_err() && is_cancelled.recv().is_err());
    turn.end();
}

#[test]
fn handler_functions_get_contexts() {
    static EVENT: AtomicUsize = AtomicUsize::new(0);
    static CANCEL: AtomicUsize = AtomicUsize::new(0);
    static FINALIZER: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn on_event(context: *mut c_void) {
        EVENT.store(context.addr(), SeqCst);
    }
    extern "C" fn on_cancel(context: *mut c_void) {
        CANCEL.store(context.addr(), SeqCst);
    }
    extern "C" fn finalizer(context: *mut c_void) {
        FINALIZER.store(context.addr(), SeqCst);
    }
    let turn = turn();
    let queue = serial();
    let source = source(7, Some(&queue));
    assert_eq!(source.context(), null_mut());
    let context = with_exposed_provenance_mut::<c_void>;
    // SAFETY: the contexts are never followed.
    unsafe { source.set_context(context(16)) };
    source.set_event_handler_f(on_event);
    source.set_cancel_handler_f(on_cancel);
    // SAFETY: as above.
    unsafe { source.set_context(context(32)) };
    // SAFETY: the function takes any context.
    unsafe { source.set_finalizer_f(finalizer) };
    assert_eq!(source.context(), context(32));
    source.activate();
    raise_memory_pressure(Warn);
    wait_until_idle();
    source.cancel();
    wait_until_idle();
    assert_eq!((EVENT.load(SeqCst), CANCEL.load(SeqCst), FINALIZER.load(SeqCst)), (16, 32, 0));
    drop((source, queue));
    wait_until_idle();
    assert_eq!(FINALIZER.load(SeqCst), 32);
    turn.end();
}

#[test]
fn wrong_sources_are_refused_and_wrong_objects_found_out() {
    unsafe extern "C-unwind" {
        #[link_name = "dispatch_source_create"]
        fn create(
            kind: dispatch_source_type_t,
            handle: usize,
            mask: usize,
            queue: *const c_void,
        ) -> *mut c_void;
        #[link_name = "dispatch_source_get_mask"]
        fn mask(source: *const c_void) -> usize;
    }
    let turn = turn();
    for (kind, handle, levels) in
        [(null_mut(), 0, 1), (memory_pressure(), 1, 1), (memory_pressure(), 0, 0), (memory_pressure(), 0, 8)]
    {
        // SAFETY: libdispatch answers null to wrong arguments.
        assert!(unsafe { create(kind, handle, levels, std::ptr::null()) }.is_null());
    }
    let queue = serial();
    // SAFETY: this is the mistake that is to be found.
    let message = panic_of(|| _ = unsafe { mask(DispatchRetained::as_ptr(&queue).as_ptr().cast()) });
    assert_eq!(
        message,
        "dispatch_source_get_mask: a OS_dispatch_source was expected, not a OS_dispatch_queue"
    );
    drop(queue);
    turn.end();
}

#[test]
fn a_source_released_while_inactive_panics() {
    let turn = turn();
    let source = source(7, None);
    assert!(panic_of(|| source.release_last()).contains("released while inactive"));
    assert_eq!(live_sources(), turn.alive[1] + 1);
}

#[test]
fn sources_come_and_go_while_memory_is_short() {
    let turn = turn();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(SeqCst) {
                raise_memory_pressure(Warn);
            }
        });
        for _ in 0..100 {
            let queue = serial();
            let source = source(7, Some(&queue));
            let (events, received) = channel();
            send_events(&source, events);
            source.activate();
            assert_eq!(received.recv(), Ok(2));
            source.cancel();
            // Its end of the channel goes with the handler.
            assert!(received.iter().all(|event| event == 2));
        }
        done.store(true, SeqCst);
    });
    turn.end();
}
