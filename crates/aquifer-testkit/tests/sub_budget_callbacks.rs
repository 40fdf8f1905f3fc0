//! Reclaim callbacks of sub-budgets: who is asked, when, and for what.

#![cfg(any(target_os = "linux", target_os = "macos"))]

mod common;

use aquifer_core::{Buffer, ErrorKind, Limits, MemoryOptions, ReclaimRequest, SubBudget};
use aquifer_host::Host;
use common::{MIB, host_manager, refused};
use parking_lot::Mutex;
use std::sync::Arc;

const NONE: Limits = Limits::NONE;

fn of(sub_budget: &SubBudget) -> MemoryOptions {
    MemoryOptions::DEFAULT.tag(sub_budget.own_tag())
}

#[test]
fn callbacks_free_what_counts_before_anything_is_refused() {
    let manager = host_manager(64 * MIB);
    let outer = manager.sub_budget("outer", NONE.hard_bytes(4 * MIB)).expect("a new name");
    let inner = outer.sub_budget("inner", NONE.hard_count(2)).expect("a new name");
    let kept: Arc<Mutex<Vec<Buffer<Host>>>> = Arc::default();
    let keep = |count: usize| {
        kept.lock().clear();
        let keep = |_| manager.allocate_with(MIB, of(&inner)).expect("there is room");
        *kept.lock() = (0..count).map(keep).collect();
    };
    let free_one = |expected: u64| {
        let kept = Arc::clone(&kept);
        move |request: &ReclaimRequest| {
            assert_eq!((request.needed_bytes, request.heap_index), (expected, 0));
            let freed = kept.lock().pop();
            drop(freed);
        }
    };
    keep(2);
    let hook = inner.on_reclaim(0, free_one(MIB));
    drop(manager.allocate_with(MIB, of(&inner)).expect("the callback frees one"));
    assert_eq!((kept.lock().len(), inner.usage().reclaim_count), (1, 1));
    drop(hook);
    // Only that of the one that refuses; a higher priority only if the lower one was not enough; each once.
    keep(2);
    let calls: Arc<Mutex<Vec<i32>>> = Arc::default();
    let note = |priority: i32| {
        let calls = Arc::clone(&calls);
        move |_: &ReclaimRequest| calls.lock().push(priority)
    };
    let (manager_2, options) = (manager.clone(), of(&inner));
    let _hooks = [
        inner.on_reclaim(9, note(9)),
        inner.on_reclaim(-3, note(-3)),
        outer.on_reclaim(0, note(0)),
        outer.on_reclaim(1, free_one(3 * MIB)),
        inner.on_reclaim(2, move |_| {
            // Within a callback none is called.
            refused(manager_2.allocate_with(MIB, options), ErrorKind::LimitReached);
            panic!("it is caught");
        }),
    ];
    refused(manager.allocate_with(MIB, of(&inner)), ErrorKind::LimitReached);
    assert_eq!(std::mem::take(&mut *calls.lock()), [-3, 9]);
    assert_eq!((inner.usage().reclaim_panic_count, inner.usage().refused_count), (1, 2));
    drop(manager.allocate_with(3 * MIB, of(&outer)).expect("the second callback frees one"));
    assert_eq!(std::mem::take(&mut *calls.lock()), [0]);
    refused(manager.allocate_with(5 * MIB, of(&outer)), ErrorKind::CanNeverFit);
    refused(manager.allocate_with(4 * MIB, of(&inner).alignment(3)), ErrorKind::InvalidArgument);
    assert!(calls.lock().is_empty(), "no freeing helps");
    kept.lock().clear();
    assert_eq!(outer.usage().live_bytes, 0);
}

#[test]
fn callbacks_are_called_when_a_soft_limit_is_newly_exceeded() {
    let manager = host_manager(64 * MIB);
    let sub_budget = manager.sub_budget("soft", NONE.soft_bytes(4 * MIB)).expect("a new name");
    let kept: Arc<Mutex<Vec<Buffer<Host>>>> = Arc::default();
    let asked: Arc<Mutex<Vec<(i32, u64)>>> = Arc::default();
    let allocate = |bytes| kept.lock().push(manager.allocate_with(bytes, of(&sub_budget)).expect("soft"));
    let hook = |priority: i32| {
        let (asked, kept) = (Arc::clone(&asked), Arc::clone(&kept));
        sub_budget.on_reclaim(priority, move |request| {
            asked.lock().push((priority, request.needed_bytes));
            // Taken in the test that allocates.
            if let Some(mut kept) = kept.try_lock() {
                kept.clear();
            }
        })
    };
    let _hooks = [hook(0), hook(1)];
    allocate(3 * MIB);
    allocate(MIB);
    assert!(asked.lock().is_empty());
    allocate(2 * MIB);
    assert_eq!(std::mem::take(&mut *asked.lock()), [(0, 2 * MIB), (1, 2 * MIB)], "nothing was freed");
    allocate(MIB);
    assert!(asked.lock().is_empty(), "above it already");
    kept.lock().pop();
    allocate(MIB);
    assert!(asked.lock().is_empty(), "never below");
    kept.lock().clear();
    let buffer = manager.allocate_with(5 * MIB, of(&sub_budget)).expect("soft");
    assert_eq!(std::mem::take(&mut *asked.lock()), [(0, MIB), (1, MIB)]);
    drop(buffer);
    allocate(3 * MIB);
    sub_budget.set_limits(NONE.soft_bytes(2 * MIB)).expect("sound limits");
    assert_eq!(*asked.lock(), [(0, MIB)], "which frees enough");
    assert_eq!(sub_budget.usage().soft_exceeded_count, 3);
    assert_eq!(sub_budget.usage().live_bytes, 0);
}
