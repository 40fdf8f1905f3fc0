//! A process may end while buffers are alive: in a static, on a running thread, in a thread's own storage.
//!
//! Each test runs this file again as a process of its own, which does one thing and ends.

#![cfg(any(target_os = "linux", target_os = "macos"))]

mod common;

use aquifer_core::{Buffer, MemoryManager};
use aquifer_host::Host;
use aquifer_testkit::{Channel, Pattern, config_with_budget};
use common::in_child;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::thread;

type Kept = (MemoryManager<Host>, Vec<Buffer<Host>>);

static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

thread_local! {
    static OWN: RefCell<Vec<Kept>> = const { RefCell::new(Vec::new()) };
}

fn kept() -> Kept {
    let host = Host::new().expect("the system says how much memory it has");
    let manager = MemoryManager::with_config(host, config_with_budget(1 << 30)).expect("a budget");
    let buffers = [100, 50_000, 3 << 20].map(|bytes| {
        let mut buffer = manager.allocate(bytes).expect("there is room");
        Pattern::new(bytes).write(&mut buffer);
        buffer
    });
    (manager, buffers.into())
}

/// A thread that holds buffers, keeps allocating and freeing, and is never asked to end.
fn busy_thread() {
    let is_busy = Channel::new(1);
    let sender = is_busy.clone();
    thread::spawn(move || {
        let (manager, buffers) = kept();
        for round in 0_u64.. {
            for bytes in [100, 5000, 2 << 20] {
                drop(manager.allocate(bytes).expect("there is room"));
            }
            if round < 10 {
                sender.send(buffers.len());
            }
        }
    });
    for _ in 0..10 {
        assert_eq!(is_busy.receive(), 3);
    }
}

#[test]
fn buffers_in_a_static() {
    in_child("buffers_in_a_static", || KEPT.lock().push(kept()));
}

#[test]
fn buffers_in_a_static_and_a_sudden_exit() {
    in_child("buffers_in_a_static_and_a_sudden_exit", || {
        KEPT.lock().push(kept());
        std::process::exit(0);
    });
}

#[test]
fn buffers_on_a_running_thread() {
    in_child("buffers_on_a_running_thread", busy_thread);
}

#[test]
fn buffers_on_a_running_thread_and_a_sudden_exit() {
    in_child("buffers_on_a_running_thread_and_a_sudden_exit", || {
        busy_thread();
        std::process::exit(0);
    });
}

/// Work that never ends, an operation behind it, memory that waits for it, and a thread that waits for memory.
fn work_in_flight() {
    let host = Host::new().expect("the system says how much memory it has");
    let manager = MemoryManager::with_config(host, config_with_budget(16 << 20)).expect("a budget");
    let queue = manager.queue().expect("a queue");
    let (never, is_waiting) = (Channel::<()>::new(1), Channel::new(1));
    queue.raw().submit(move || never.receive());
    let buffer = queue.allocate(8 << 20).expect("there is room");
    drop(queue.fill(buffer, 1).expect("it is begun"));
    let recorded = manager.allocate(8 << 20).expect("there is room");
    recorded.record_use(&queue).expect("a queue of its manager");
    drop(recorded);
    let sender = is_waiting.clone();
    thread::spawn(move || {
        sender.send(());
        drop(queue);
        drop(manager.allocate_async(16 << 20).wait());
    });
    let () = is_waiting.receive();
}

#[test]
fn work_under_way() {
    in_child("work_under_way", work_in_flight);
}

#[test]
fn work_under_way_and_a_sudden_exit() {
    in_child("work_under_way_and_a_sudden_exit", || {
        work_in_flight();
        std::process::exit(0);
    });
}

#[test]
fn buffers_in_thread_storage() {
    in_child("buffers_in_thread_storage", || {
        // Of this thread and of one that ends: in each its storage goes before or after the thread's caches.
        OWN.with_borrow_mut(|own| own.push(kept()));
        let thread = thread::spawn(|| {
            OWN.with_borrow_mut(|own| assert!(own.is_empty()));
            let kept = kept();
            OWN.with_borrow_mut(|own| own.push(kept));
        });
        thread.join().expect("there is room");
    });
}
