//! Reclaim callbacks that do what callbacks should not, or hardly: the manager goes on.

#![cfg(any(target_os = "linux", target_os = "macos"))]

mod common;

use aquifer_core::{Buffer, ErrorKind, MemoryManager, ReclaimHook};
use aquifer_host::Host;
use aquifer_testkit::assert_balanced;
use common::{LONG, MIB, block_on, counted_manager, host_manager, refused};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

type Kept = Arc<Mutex<Vec<Buffer<Host>>>>;

/// A manager whose whole budget is taken by buffers that anybody may free.
fn full_manager() -> (MemoryManager<Host>, Kept) {
    let manager = host_manager(16 * MIB);
    let kept = (0..4).map(|_| manager.allocate(4 * MIB).expect("there is room")).collect();
    (manager, Arc::new(Mutex::new(kept)))
}

#[test]
fn a_callback_frees_and_the_allocation_finds_room() {
    let (manager, kept) = full_manager();
    refused(manager.allocate(4 * MIB), ErrorKind::OutOfMemory);
    let inner = Arc::clone(&kept);
    let _hook = manager.on_reclaim(0, move |request| {
        assert_eq!(request.needed_bytes, 4 * MIB);
        drop(inner.lock().pop());
    });
    let buffers: Vec<_> = (0..4).map(|_| manager.allocate(4 * MIB).expect("a callback frees")).collect();
    assert!(kept.lock().is_empty());
    refused(manager.allocate(4 * MIB), ErrorKind::OutOfMemory);
    drop(buffers);
    assert_balanced(&manager.statistics());
}

#[test]
fn a_callback_that_allocates_is_not_called_for_that() {
    let (manager, kept) = full_manager();
    let (depth, inner, weak) = (Arc::new(AtomicU64::new(0)), Arc::clone(&kept), manager.clone());
    let deepest = Arc::clone(&depth);
    let hook = manager.on_reclaim(0, move |_| {
        assert_eq!(deepest.fetch_add(1, Ordering::Relaxed), 0, "a callback within a callback");
        refused(weak.allocate(4 * MIB), ErrorKind::OutOfMemory);
        // It would wait for itself: the thread that could give memory runs this callback.
        refused(weak.allocate_async(4 * MIB).wait(), ErrorKind::OutOfMemory);
        drop(inner.lock().pop());
        inner.lock().push(weak.allocate(MIB).expect("there is room"));
        deepest.fetch_sub(1, Ordering::Relaxed);
    });
    refused(manager.allocate(4 * MIB), ErrorKind::OutOfMemory);
    drop(manager.allocate(3 * MIB).expect("what is left of what was freed"));
    drop(block_on(manager.allocate_async(3 * MIB)).expect("and waiting for it does no harm"));
    drop(hook);
}

#[test]
fn a_callback_run_for_who_waits_may_itself_ask_to_wait() {
    let (manager, kept) = full_manager();
    let (inner, weak) = (Arc::clone(&kept), manager.clone());
    let hook = manager.on_reclaim(0, move |_| {
        refused(weak.allocate_async(9 * MIB).wait(), ErrorKind::OutOfMemory);
        drop(inner.lock().pop());
    });
    drop(manager.allocate_async(8 * MIB).timeout(LONG).wait().expect("two calls make room"));
    drop(hook);
}

#[test]
fn a_callback_unregisters_itself_and_others() {
    let (manager, kept) = full_manager();
    let hooks: Arc<Mutex<Vec<ReclaimHook>>> = Arc::default();
    let calls = Arc::new(AtomicU64::new(0));
    for _ in 0..3 {
        let (hooks_of, calls_of, kept_of) = (Arc::clone(&hooks), Arc::clone(&calls), Arc::clone(&kept));
        let hook = manager.on_reclaim(0, move |_| {
            calls_of.fetch_add(1, Ordering::Relaxed);
            let all = std::mem::take(&mut *hooks_of.lock());
            drop(all);
            drop(kept_of.lock().pop());
        });
        hooks.lock().push(hook);
    }
    drop(manager.allocate(4 * MIB).expect("a callback frees"));
    assert_eq!(calls.load(Ordering::Relaxed), 1, "those that were unregistered are not started");
    assert_eq!(Arc::strong_count(&kept), 1, "and they are gone, with all they own");
}

#[test]
fn a_callback_that_panics_ends_there() {
    let (manager, kept) = full_manager();
    let inner = Arc::clone(&kept);
    let panics = manager.on_reclaim(-1, |_| panic!("this callback panics, as it should"));
    let frees = manager.on_reclaim(0, move |_| drop(inner.lock().pop()));
    drop(manager.allocate(4 * MIB).expect("the other callback frees"));
    drop(manager.allocate(8 * MIB).expect("and again"));
    assert!(manager.statistics().reclaim_panic_count >= 1);
    drop((panics, frees));
    kept.lock().clear();
    assert_balanced(&manager.statistics());
}

#[test]
fn a_callback_drops_the_last_handle_of_another_manager() {
    let (manager, kept) = full_manager();
    let (other, faults) = counted_manager(16 * MIB);
    let other = Mutex::new(Some((other.allocate(MIB).expect("there is room"), other)));
    let inner = Arc::clone(&kept);
    let _hook = manager.on_reclaim(0, move |_| {
        drop(other.lock().take());
        drop(inner.lock().pop());
    });
    drop(manager.allocate(4 * MIB).expect("a callback frees"));
    assert_eq!(faults.live_blocks(), 0);
}

/// It never is the last while somebody allocates; it may be the last but that one.
#[test]
fn a_callback_drops_a_handle_of_its_own_manager() {
    let (manager, faults) = counted_manager(16 * MIB);
    let all = manager.allocate(16 * MIB).expect("there is room");
    let own = Mutex::new(Some((all, manager.clone())));
    let hook = manager.on_reclaim(0, move |_| drop(own.lock().take()));
    let buffer = manager.allocate(4 * MIB).expect("a callback frees");
    drop(manager);
    assert!(faults.live_blocks() > 0);
    drop(buffer);
    assert_eq!(faults.live_blocks(), 0);
    // Registered with nobody any more.
    drop(hook);
}

#[test]
fn a_callback_may_outlive_its_manager_in_a_hook() {
    let (manager, faults) = counted_manager(16 * MIB);
    let owned = manager.allocate(MIB).expect("there is room");
    let hook = manager.on_reclaim(0, move |_| assert!(owned.size_bytes() > 0));
    drop(manager);
    drop(hook);
    // What a callback owns goes with it, whichever of hook and manager went first.
    common::until("the callback's buffer is freed", || faults.live_blocks() == 0);
}

/// Threads wait, allocate and free while callbacks are registered, panic, and are unregistered.
#[test]
fn callbacks_come_and_go_under_waiting_threads() {
    let (manager, kept) = full_manager();
    let threads: Vec<_> = (0..4)
        .map(|index| {
            let (manager, kept) = (manager.clone(), Arc::clone(&kept));
            thread::spawn(move || {
                for round in 0..50 {
                    let inner = Arc::clone(&kept);
                    let hook = manager.on_reclaim(index, move |_| {
                        let freed = inner.lock().pop();
                        assert!(round % 7 != 3, "this callback panics now and then, as it should");
                        drop(freed);
                    });
                    let buffer = manager.allocate_async((1 + round % 4) * MIB).timeout(LONG).wait();
                    let buffer = buffer.expect("all hold little, and not for long");
                    drop(hook);
                    drop(buffer);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic leaves its callback");
    }
    kept.lock().clear();
    assert_eq!(manager.statistics().live_count(), 0);
    assert_balanced(&manager.statistics());
}
