//! Memory pressure sources, as a client uses them by dispatch2.
//!
//! Memory pressure and the numbers of live sources, queues and blocks are the process's, so these tests take turns.
#![cfg(not(target_vendor = "apple"))]

use std::ffi::c_void;
use std::ptr::{null_mut, with_exposed_provenance_mut};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use block2::RcBlock;
use dispatch2::{DispatchObject, DispatchQueue, DispatchRetained, DispatchSource, dispatch_source_type_t};
use software_objc::dispatch::MemoryPressure::{Critical, Normal, Warn};
use software_objc::dispatch::{live_sources, raise_memory_pressure, wait_until_idle};

mod common;
#[path = "common/turn.rs"]
mod turn;
use common::panic_of;
use turn::{Raw, all, serial, turn};

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
        let _done = SetAtEnd(&done);
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
    });
    turn.end();
}

/// Ends the other thread however the test ends.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}
