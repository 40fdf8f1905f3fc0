//! Sub-budgets: what counts, what is refused, and that nobody else notices.

#![cfg(any(target_os = "linux", target_os = "macos"))]

mod common;

use aquifer_core::{
    Backend, Buffer, ErrorKind, Limits, MemoryManager, MemoryOptions, SubBudget, SyncBackend, UnifiedBuffer,
};
use aquifer_sim::SimDesc;
use aquifer_testkit::{MappedMemory, Shelf, assert_balanced};
use common::{
    Gate, LONG, MIB, block_on, counted_manager, host_manager, poll_once, quiet_config, refused, sim_manager,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const NONE: Limits = Limits::NONE;

/// Live bytes and allocations.
#[track_caller]
fn assert_live(sub_budget: &SubBudget, bytes: u64, count: u64) {
    let usage = sub_budget.usage();
    assert_eq!((usage.live_bytes, usage.live_count), (bytes, count), "{}", sub_budget.path());
}

fn of(sub_budget: &SubBudget) -> MemoryOptions {
    MemoryOptions::DEFAULT.tag(sub_budget.own_tag())
}

#[test]
fn an_allocation_counts_in_all_sub_budgets_above_it() {
    let manager = host_manager(64 * MIB);
    let tenant = manager.sub_budget("acme", NONE.hard_bytes(8 * MIB)).expect("a new name");
    let limits = NONE.hard_bytes(6 * MIB).soft_bytes(4 * MIB).hard_count(3);
    let model = tenant.sub_budget("llama", limits).expect("a new name");
    let other = tenant.sub_budget("other", NONE).expect("a new name");
    let (tag, same) = (model.tag("kv").expect("few tags"), model.tag("kv").expect("few tags"));
    assert_eq!((tag, manager.tag("acme/llama/kv").expect("few tags")), (same, tag));
    let options = MemoryOptions::DEFAULT.tag(tag);
    let first = manager.allocate_with(5 * MIB + 1, options).expect("there is room");
    let beside = manager.allocate_with(1000, of(&other)).expect("there is room");
    let without = manager.allocate(MIB).expect("there is room");
    assert_eq!(first.tag(), tag);
    assert_live(&model, 5 * MIB + 1, 1);
    assert_live(&other, 1000, 1);
    assert_live(&tenant, 5 * MIB + 1001, 2);
    let error = refused(manager.allocate_with(MIB, options), ErrorKind::LimitReached);
    for part in ["\"acme/llama\" has 5242881 of at most 6291456 bytes live", "in 1 allocations", "set_limits"]
    {
        assert!(error.message().contains(part), "{part}: {error}");
    }
    let error = refused(manager.allocate_with(3 * MIB, of(&other)), ErrorKind::LimitReached);
    assert!(error.message().contains("\"acme\""), "{error}");
    let error = refused(manager.allocate_with(7 * MIB, options), ErrorKind::CanNeverFit);
    assert!(error.message().contains("\"acme/llama\" may have 6291456"), "{error}");
    refused(manager.allocate_with(0, options), ErrorKind::InvalidArgument);
    // By the count, too.
    let small = [1, 2].map(|bytes| manager.allocate_with(bytes, of(&model)).expect("there is room"));
    let error = refused(manager.allocate_with(1, options), ErrorKind::LimitReached);
    assert!(error.message().contains("has 3 of at most 3 allocations live, of 5242884 bytes"), "{error}");
    let statistics = manager.statistics();
    let names: Vec<_> = statistics.sub_budgets.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["acme", "acme/llama", "acme/other"]);
    assert_eq!(statistics.sub_budgets[1].usage, model.usage());
    let usage = model.usage();
    assert_eq!((usage.refused_count, usage.soft_exceeded_count, usage.limits), (3, 1, limits));
    assert_eq!(tenant.usage().refused_count, 1);
    let named: u64 =
        statistics.tags.iter().filter(|tag| tag.name.starts_with("acme")).map(|tag| tag.current_bytes).sum();
    assert_eq!(named, tenant.usage().live_bytes);
    let report = manager.report().to_string();
    assert!(
        report.contains("sub-budget acme/llama") && report.contains("of 6.00 MiB (soft 4.00 MiB)"),
        "{report}"
    );
    drop((first, beside, small));
    assert_live(&tenant, 0, 0);
    assert_eq!((model.usage().peak_bytes, model.usage().peak_count), (5 * MIB + 4, 3));
    drop(without);
    assert_balanced(&manager.statistics());
}

#[test]
fn a_refusal_touches_nothing_else() {
    let (manager, faults) = counted_manager(64 * MIB);
    let asked = Arc::new(AtomicU64::new(0));
    let count = |asked: &Arc<AtomicU64>| {
        let asked = Arc::clone(asked);
        move |_: &aquifer_core::ReclaimRequest| {
            asked.fetch_add(1, Ordering::Relaxed);
        }
    };
    let full = manager.sub_budget("full", NONE.hard_bytes(2 * MIB)).expect("a new name");
    let other = manager.sub_budget("other", NONE.hard_bytes(60 * MIB)).expect("a new name");
    let _hooks = [manager.on_reclaim(0, count(&asked)), other.on_reclaim(0, count(&asked))];
    let held = [of(&full), of(&other)]
        .map(|options| manager.allocate_with(2 * MIB, options).expect("there is room"));
    drop(manager.allocate_with(20 * MIB, of(&other)).expect("there is room"));
    drop(manager.allocate_with(1000, of(&other)).expect("there is room"));
    let (before, calls) = (manager.statistics(), faults.calls());
    for options in [of(&full), of(&full).zeroed(true), of(&full).kind(aquifer_core::MemoryKind::Pinned)] {
        refused(manager.allocate_with(1, options), ErrorKind::LimitReached);
        refused(manager.allocate_with(3 * MIB, options), ErrorKind::CanNeverFit);
        refused(manager.allocate_async(1).options(options).wait(), ErrorKind::LimitReached);
    }
    let after = manager.statistics();
    assert_eq!((faults.calls(), asked.load(Ordering::Relaxed)), (calls, 0));
    assert_eq!(full.usage().refused_count, 9);
    assert_eq!(other.usage(), before.sub_budgets[1].usage);
    let rest = |statistics: &aquifer_core::Statistics| {
        let mut rest = statistics.clone();
        rest.sub_budgets.clear();
        rest
    };
    assert_eq!(rest(&after), rest(&before));
    drop(held);
}

/// All ways in which memory is had, which each free what they count.
fn count_all_kinds<B: SyncBackend>(manager: &MemoryManager<B>, shadow_count: u64) {
    let sub_budget = manager.sub_budget("all", NONE).expect("a new name");
    let queue = manager.queue().expect("a queue");
    let other = manager.queue().expect("a queue");
    let options = of(&sub_budget);
    for bytes in [1000, 3 * MIB] {
        let on_queue = queue.allocate_with(bytes, options).expect("there is room");
        let recorded = manager.allocate_with(bytes, options.zeroed(true)).expect("there is room");
        recorded.record_use(&other).expect("a queue of the manager");
        on_queue.record_use(&other).expect("a queue of the manager");
        let pinned = manager
            .allocate_with(bytes, options.kind(aquifer_core::MemoryKind::Pinned))
            .expect("there is room");
        let slice = manager.pinned().allocate_with(bytes, options).expect("there is room");
        let unified = manager.unified_with(bytes, options).expect("there is room");
        let aligned = manager.allocate_with(bytes, options.alignment(4096)).expect("there is room");
        let raw = manager.allocate_with(bytes, options).expect("there is room").into_raw();
        let view = manager.allocate_with(bytes, options).expect("there is room").into_view();
        let count = 8 + shadow_count;
        assert_live(&sub_budget, count * bytes, count);
        let part = view.view(0..10).expect("it is in bounds");
        drop(view);
        assert_live(&sub_budget, count * bytes, count);
        drop(part);
        manager.free_raw(raw).expect("it is live");
        let unified: Result<Buffer<B>, UnifiedBuffer<B>> = unified.into_buffer();
        assert_eq!(unified.is_err(), shadow_count > 0);
        assert_live(&sub_budget, (count - 2) * bytes, count - 2);
        drop((unified, slice.into_buffer(), pinned, aligned));
        assert_live(&sub_budget, 2 * bytes, 2);
        drop((on_queue, recorded));
        assert_live(&sub_budget, 0, 0);
    }
    queue.synchronize(LONG).expect("the queue goes on");
    manager.settle();
    assert_balanced(&manager.statistics());
}

#[test]
fn all_kinds_of_memory_count() {
    count_all_kinds(&host_manager(256 * MIB), 0);
    let simulated = |desc| sim_manager(&aquifer_sim::Sim::new(desc), quiet_config(256 * MIB));
    count_all_kinds(&simulated(SimDesc::integrated()), 0);
    count_all_kinds(&simulated(SimDesc::discrete()), 1);
}

#[test]
fn a_buffer_counts_until_it_is_dropped_and_no_longer() {
    let manager = host_manager(64 * MIB);
    let sub_budget = manager.sub_budget("one", NONE.hard_count(1)).expect("a new name");
    let (queue, options) = (manager.queue().expect("a queue"), of(&sub_budget));
    let gate = Gate::before(&queue);
    for bytes in [1000, 1000, 5 * MIB, 1000] {
        let buffer = manager.allocate_with(bytes, options).expect("the one before is dropped");
        buffer.record_use(&queue).expect("a queue of the manager");
        refused(manager.allocate_with(1, options), ErrorKind::LimitReached);
    }
    assert!(manager.statistics().quarantined_bytes > 0, "the queue has passed nothing");
    let operation = queue.fill(manager.allocate_with(MIB, options).expect("as above"), 1).expect("begun");
    drop(operation);
    assert_live(&sub_budget, MIB, 1);
    gate.open();
    common::until("the operation has ended", || sub_budget.usage().live_count == 0);
}

#[test]
fn imported_memory_is_in_no_sub_budget() {
    let manager = host_manager(64 * MIB);
    let sub_budget = manager.sub_budget("none", NONE.hard_bytes(0)).expect("a new name");
    let (options, shelf) = (of(&sub_budget), Shelf::default());
    let memory = MappedMemory::new(1 << 16, 1 << 16).lend(0..1 << 16, &shelf);
    let buffer = manager.import_with(memory, options).expect("it is aligned");
    assert_eq!(buffer.tag(), sub_budget.own_tag());
    assert_live(&sub_budget, 0, 0);
    drop(buffer);
    assert_live(&sub_budget, 0, 0);
    assert_eq!(shelf.count(), 1);
    refused(manager.allocate_with(1, options), ErrorKind::CanNeverFit);
}

#[test]
fn a_tag_of_another_manager_is_refused_or_counts_there() {
    let (manager, other) = (host_manager(64 * MIB), host_manager(64 * MIB));
    let foreign = of(&other.sub_budget("other", NONE).expect("a new name"));
    refused(manager.allocate_with(1000, foreign), ErrorKind::InvalidArgument);
    let own = manager.sub_budget("own", NONE).expect("a new name");
    let buffer = manager.allocate_with(1000, foreign).expect("the first of each");
    assert_live(&own, 1000, 1);
    drop(buffer);
    assert_live(&own, 0, 0);
}

#[test]
fn who_waits_for_memory_does_not_wait_for_a_limit() {
    let manager = host_manager(16 * MIB);
    let full = manager.sub_budget("full", NONE.hard_bytes(MIB)).expect("a new name");
    let roomy = manager.sub_budget("roomy", NONE.hard_bytes(8 * MIB)).expect("a new name");
    let small = manager.allocate_with(MIB, of(&full)).expect("there is room");
    let all = manager.allocate(14 * MIB).expect("there is room");
    let mut first = manager.allocate_async(12 * MIB);
    assert!(poll_once(&mut first).is_pending());
    // At once, though it would be the second in line.
    let mut second = manager.allocate_async(1).options(of(&full));
    let std::task::Poll::Ready(answer) = poll_once(&mut second) else { panic!("it waits in line") };
    refused(answer, ErrorKind::LimitReached);
    refused(manager.allocate_async(2 * MIB).options(of(&full)).wait(), ErrorKind::CanNeverFit);
    refused(manager.allocate_async(0).options(of(&full)).wait(), ErrorKind::InvalidArgument);
    let mut third = manager.allocate_async(4 * MIB).options(of(&roomy));
    assert!(poll_once(&mut third).is_pending(), "it waits for memory");
    assert_live(&roomy, 0, 0);
    // Full by the time that it has its turn: then it leaves the line.
    let mut fourth = manager.allocate_async(5 * MIB).options(of(&roomy));
    assert!(poll_once(&mut fourth).is_pending());
    drop(all);
    let first = block_on(first).expect("there is room");
    drop(first);
    let third = block_on(third).expect("there is room");
    refused(block_on(fourth), ErrorKind::LimitReached);
    assert_live(&roomy, 4 * MIB, 1);
    drop((small, third));
    drop(manager.allocate_async(16 * MIB).timeout(LONG).wait().expect("nothing is left in line"));
    assert_balanced(&manager.statistics());
}

#[test]
fn limits_may_change_at_any_time() {
    let manager = host_manager(64 * MIB);
    let sub_budget = manager.sub_budget("changing", NONE.hard_bytes(8 * MIB)).expect("a new name");
    let mut held: Vec<_> =
        (0..8).map(|_| manager.allocate_with(MIB, of(&sub_budget)).expect("there is room")).collect();
    sub_budget.set_limits(NONE.hard_bytes(4 * MIB)).expect("sound limits");
    for _ in 0..5 {
        refused(manager.allocate_with(1, of(&sub_budget)), ErrorKind::LimitReached);
        held[0].fill(1).expect("what is live stays as it is");
        held.pop();
    }
    held.push(manager.allocate_with(MIB, of(&sub_budget)).expect("enough is freed"));
    let limits = NONE.hard_bytes(5 * MIB).soft_bytes(6 * MIB);
    refused(sub_budget.set_limits(limits), ErrorKind::InvalidArgument);
    assert_eq!(sub_budget.usage().limits, NONE.hard_bytes(4 * MIB));
    sub_budget.set_limits(NONE).expect("sound limits");
    held.push(manager.allocate_with(20 * MIB, of(&sub_budget)).expect("no limits"));
    assert_live(&sub_budget, 24 * MIB, 5);
}

#[test]
fn a_sub_budget_counts_without_handles_and_a_handle_without_its_manager() {
    let manager = host_manager(64 * MIB);
    let outer = manager.sub_budget("outer", NONE.hard_count(9)).expect("a new name");
    let inner = outer.sub_budget("inner", NONE).expect("a new name");
    let options = of(&inner);
    drop(inner);
    let buffers: Vec<_> = [1000, 5 * MIB]
        .into_iter()
        .map(|bytes| manager.allocate_with(bytes, options).expect("there is room"))
        .collect();
    let raw = manager.allocate_with(1000, options).expect("there is room").into_raw();
    refused(outer.sub_budget("inner", NONE), ErrorKind::InvalidArgument);
    refused(manager.sub_budget("outer", NONE), ErrorKind::InvalidArgument);
    drop(manager);
    let _ = raw;
    assert_live(&outer, 5 * MIB + 1000, 2);
    drop(buffers);
    assert_live(&outer, 0, 0);
    assert_eq!(outer.usage().peak_count, 3);
    outer.tag("still").expect("it does no harm");
}

/// Of whatever device.
fn is_send_and_sync<T: Send + Sync + Clone>() {}

#[test]
fn a_handle_may_go_anywhere() {
    is_send_and_sync::<SubBudget>();
    fn no_type_parameter<B: Backend>(manager: &MemoryManager<B>) -> SubBudget {
        manager.sub_budget("any", NONE).expect("a new name")
    }
    assert_eq!(no_type_parameter(&host_manager(MIB)).path(), "any");
}
