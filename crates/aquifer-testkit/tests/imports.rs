//! Imported memory where something is in its way: queues that are not done, a driver that refuses, owners that do odd things.

#![cfg(any(target_os = "linux", target_os = "macos"))]

mod common;
mod stubborn;

use aquifer_core::trace::{TraceCompression, TraceWriter};
use aquifer_core::{Buffer, ErrorKind, HostMemory, MemoryManager, SyncBackend};
use aquifer_host::Host;
use aquifer_testkit::{FaultMode, Faulty, MappedMemory, Shelf, assert_balanced, config_with_budget};
use common::{Gate, LONG, MIB, host, host_manager, quiet_config, refused, sim, sim_manager, until};
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use stubborn::{Hand, Stubborn};

const BYTES: u64 = 1 << 16;

fn lent(shelf: &Shelf) -> HostMemory {
    MappedMemory::new(BYTES, 1 << 16).lend(0..BYTES, shelf)
}

fn import<B: SyncBackend>(manager: &MemoryManager<B>, shelf: &Shelf) -> Buffer<B> {
    manager.import(lent(shelf)).expect("it is aligned")
}

fn imported_blocks<B: SyncBackend>(manager: &MemoryManager<B>) -> u64 {
    manager.statistics().imported_block_count
}

/// Memory whose owner does something when it is dropped.
fn with_owner(on_drop: impl FnMut() + Send + Sync + 'static) -> HostMemory {
    struct Owner<F: FnMut()> {
        on_drop: F,
        _memory: HostMemory,
    }
    impl<F: FnMut()> Drop for Owner<F> {
        fn drop(&mut self) {
            (self.on_drop)();
        }
    }
    let memory = lent(&Shelf::default());
    let (start, bytes) = (memory.start(), memory.bytes());
    // SAFETY: the memory is what the owner has, which vouches for it until it is dropped with the owner.
    unsafe { HostMemory::new(start, bytes, Owner { on_drop, _memory: memory }) }
}

#[test]
fn the_owner_stays_until_the_queue_has_passed() {
    let (manager, shelf) = (host_manager(64 * MIB), Shelf::default());
    let queue = manager.queue().expect("a queue");
    let buffer = import(&manager, &shelf);
    let gate = Gate::before(&queue);
    buffer.record_use(&queue).expect("a queue of its manager");
    drop(buffer);
    manager.settle();
    manager.trim();
    drop(import(&manager, &shelf));
    assert_eq!((shelf.take().len(), imported_blocks(&manager)), (1, 1), "a queue may use it");
    assert_eq!(manager.statistics().imported.current, 0);
    gate.open();
    // The reaper.
    until("the owner's drop", || shelf.count() == 1);
    assert_balanced(&manager.statistics());
}

#[test]
fn an_operation_keeps_the_owner() {
    let (manager, shelf) = (host_manager(64 * MIB), Shelf::default());
    let queue = manager.queue().expect("a queue");
    let gate = Gate::before(&queue);
    drop(queue.fill(import(&manager, &shelf), 5).expect("begun"));
    manager.settle();
    assert_eq!((shelf.count(), manager.live_allocations().live_count), (0, 1));
    gate.open();
    until("the owner's drop", || shelf.count() == 1);
    assert!(shelf.take()[0].content().iter().all(|&byte| byte == 5));
}

/// Without a reaper it is whoever comes next.
#[test]
fn somebody_settles_where_there_is_no_reaper() {
    let manager = MemoryManager::with_config(host(), quiet_config(64 * MIB)).expect("a budget");
    let (queue, shelf) = (manager.queue().expect("a queue"), Shelf::default());
    let settlers: [&dyn Fn(); 5] = [
        &|| manager.settle(),
        &|| assert_eq!(manager.trim(), 0),
        &|| drop(import(&manager, &Shelf::default())),
        &|| drop(manager.allocate(8 * MIB).expect("there is room")),
        &|| assert!(manager.pool().preallocate(8 * MIB, 1).is_ok()),
    ];
    for settle in settlers {
        manager.trim();
        let buffer = import(&manager, &shelf);
        let gate = Gate::before(&queue);
        buffer.record_use(&queue).expect("a queue of its manager");
        drop(buffer);
        gate.open();
        queue.synchronize(LONG).expect("the queue goes on");
        assert_eq!(shelf.count(), 0, "nobody has looked");
        settle();
        assert_eq!(shelf.take().len(), 1);
    }
    // And the end of the manager.
    let buffer = import(&manager, &shelf);
    let gate = Gate::before(&queue);
    buffer.record_use(&queue).expect("a queue of its manager");
    drop((buffer, queue));
    let opener = thread::spawn(move || gate.open());
    drop(manager);
    opener.join().expect("the gate opens");
    assert_eq!(shelf.count(), 1);
}

#[test]
fn the_manager_goes_while_a_queue_uses_it() {
    let (manager, shelf) = (host_manager(64 * MIB), Shelf::default());
    let queue = manager.queue().expect("a queue");
    let buffer = import(&manager, &shelf);
    let gate = Gate::before(&queue);
    buffer.record_use(&queue).expect("a queue of its manager");
    drop((buffer, queue, manager));
    assert_eq!(shelf.count(), 0, "a queue may use it");
    gate.open();
    until("the owner's drop", || shelf.count() == 1);
}

#[test]
fn a_forgotten_buffer_keeps_its_owner() {
    let (manager, shelf) = (host_manager(64 * MIB), Shelf::default());
    std::mem::forget(import(&manager, &shelf));
    drop(import(&manager, &shelf));
    drop(manager);
    assert_eq!(shelf.count(), 1);
}

#[test]
fn a_refusal_gives_the_memory_back() {
    let hand = Hand::default();
    let (manager, shelf) = (stubborn_manager(&hand), Shelf::default());
    hand.refuse_imports(Some(ErrorKind::Driver));
    let error = manager.import(lent(&shelf)).expect_err("refused");
    assert_eq!((error.error.kind(), shelf.count()), (ErrorKind::Driver, 0), "{error}");
    let statistics = manager.statistics();
    assert_eq!((statistics.imported.total, statistics.driver_calls.failed), (0, 1));
    hand.refuse_imports(None);
    drop(manager.import(error.memory).expect("it goes now"));
    assert_eq!(shelf.take().len(), 1);
    hand.refuse_imports(Some(ErrorKind::DeviceLost));
    for _ in 0..2 {
        let error = manager.import(lent(&shelf)).expect_err("the device is lost");
        assert_eq!((error.error.kind(), error.memory.bytes()), (ErrorKind::DeviceLost, BYTES));
    }
    assert_eq!(hand.import_count(), 3, "who knows of the loss does not ask");
    refused(manager.allocate(MIB), ErrorKind::DeviceLost);
}

#[test]
fn a_lost_device_uses_nothing() {
    let hand = Hand::default();
    let (manager, shelf) = (stubborn_manager(&hand), Shelf::default());
    let queue = manager.queue().expect("a queue");
    let (early, late) = (import(&manager, &shelf), import(&manager, &shelf));
    for buffer in [&early, &late] {
        buffer.record_use(&queue).expect("a queue of its manager");
    }
    hand.stop_queues();
    drop(early);
    assert_eq!(shelf.count(), 0, "the queue has not passed");
    hand.refuse_imports(Some(ErrorKind::DeviceLost));
    refused(manager.import(lent(&Shelf::default())), ErrorKind::DeviceLost);
    manager.settle();
    drop(late);
    assert_eq!((shelf.count(), imported_blocks(&manager)), (2, 0));
}

#[test]
fn what_the_driver_keeps_is_offered_again() {
    let hand = Hand::default();
    let (manager, shelf) = (stubborn_manager(&hand), Shelf::default());
    hand.refuse_destroys(true);
    drop(import(&manager, &shelf));
    manager.trim();
    assert_eq!((shelf.count(), imported_blocks(&manager)), (0, 1));
    assert_balanced(&manager.statistics());
    hand.refuse_destroys(false);
    assert_eq!(manager.trim(), 0, "it was not the driver's");
    assert_eq!((shelf.take().len(), imported_blocks(&manager)), (1, 0));
    // To the end: then the owner must stay.
    hand.refuse_destroys(true);
    let buffer = import(&manager, &shelf);
    drop(manager);
    drop(buffer);
    assert_eq!(shelf.count(), 0);
}

fn stubborn_manager(hand: &Hand) -> MemoryManager<Stubborn> {
    MemoryManager::with_config(Stubborn::new(host(), hand), quiet_config(64 * MIB)).expect("a budget")
}

#[test]
fn a_device_that_cannot_says_so() {
    let (sim, shelf) = (sim(), Shelf::default());
    let manager = sim_manager(&sim, quiet_config(64 * MIB));
    let error = manager.import(lent(&shelf)).expect_err("there is no memory to work in");
    assert_eq!((error.error.kind(), shelf.count()), (ErrorKind::Unsupported, 0), "{error}");
    assert_eq!(sim.books().calls(), 0);
    drop(error);
    assert_eq!(shelf.count(), 1);
}

/// No lock is held when an owner is dropped, so it may use the manager; and it may panic.
#[test]
fn owners_may_do_anything() {
    let manager = host_manager(64 * MIB);
    let queue = manager.queue().expect("a queue");
    let drops = Arc::new(AtomicU64::new(0));
    for is_used in [false, true] {
        let count = Arc::clone(&drops);
        let (inner, shelf) = (manager.clone(), Shelf::default());
        let kept = Mutex::new(Some(import(&manager, &shelf)));
        let memory = with_owner(move || {
            drop(kept.lock().take());
            drop(import(&inner, &shelf));
            drop(inner.allocate(3 * MIB).expect("there is room"));
            inner.trim();
            assert_eq!(shelf.count(), 2);
            count.fetch_add(1, Ordering::Relaxed);
            panic!("this owner panics, as it should");
        });
        let buffer = manager.import(memory).expect("it is aligned");
        if is_used {
            let gate = Gate::before(&queue);
            buffer.record_use(&queue).expect("a queue of its manager");
            drop(buffer);
            gate.open();
        } else {
            catch_unwind(AssertUnwindSafe(|| drop(buffer))).expect("the panic has ended before");
        }
        until("the owner's drop", || drops.load(Ordering::Relaxed) == 1 + u64::from(is_used));
    }
    until("the driver's letting go", || imported_blocks(&manager) == 0);
    assert_balanced(&manager.statistics());
}

/// A recording is of what the driver gave, so that it can be replayed.
#[test]
fn recordings_leave_imported_memory_out() {
    let (manager, shelf) = (host_manager(64 * MIB), Shelf::default());
    let recorder = manager
        .record(TraceWriter::new("imports", Vec::new(), TraceCompression::None).expect("a buffer takes it"));
    drop((import(&manager, &shelf), manager.allocate(100).expect("there is room"), import(&manager, &shelf)));
    let (event_count, _) = recorder.finish().expect("a buffer takes all");
    assert_eq!((event_count, shelf.count()), (2, 2));
}

/// Imported memory is in no budget, and a spent budget keeps none out.
#[test]
fn no_budget_bounds_it() {
    let manager: MemoryManager<Host> =
        MemoryManager::with_config(host(), config_with_budget(MIB)).expect("a budget");
    let shelf = Shelf::default();
    let all = manager.allocate(MIB).expect("there is room");
    let memory = MappedMemory::new(8 * MIB, 1 << 16).lend(0..8 * MIB, &shelf);
    let imported = manager.import(memory).expect("it is aligned");
    let error = refused(manager.allocate(1), ErrorKind::OutOfMemory);
    let report = error.out_of_memory().expect("there is one");
    assert_eq!((report.reserved_bytes, report.live_bytes), (MIB, MIB));
    assert!(manager.report().to_string().contains("imported        8.00 MiB"), "{}", manager.report());
    drop((all, imported));
    assert_balanced(&manager.statistics());
}

/// A driver that makes few blocks counts those that it imports.
#[test]
fn imported_blocks_are_among_those_that_there_may_be() {
    let device = Faulty::with_properties(host(), |properties| properties.block_count_max = 2);
    let faults = device.faults();
    let manager = MemoryManager::with_config(device, quiet_config(64 * MIB)).expect("a budget");
    let shelf = Shelf::default();
    let first = import(&manager, &shelf);
    let buffer = manager.allocate(9 * MIB).expect("a second block");
    let error = manager.import(lent(&shelf)).expect_err("a third block");
    assert_eq!((error.error.kind(), error.error.operation()), (ErrorKind::OutOfMemory, "import"));
    assert!(error.error.out_of_memory().is_some_and(|report| report.requested_bytes == BYTES), "{error}");
    refused(manager.allocate(10 * MIB), ErrorKind::OutOfMemory);
    assert_eq!(faults.failed_count() + manager.statistics().driver_calls.failed, 0, "the driver was asked");
    // An idle block goes for it.
    drop(buffer);
    let second = manager.import(error.memory).expect("an idle block goes");
    assert_eq!((faults.live_blocks(), manager.statistics().block_count), (2, 0));
    refused(manager.allocate(1), ErrorKind::OutOfMemory);
    // What the driver refuses is refunded, and so is what it takes back.
    drop(second);
    faults.fail(0, FaultMode::FromThenOn, ErrorKind::Driver);
    for _ in 0..3 {
        refused(manager.import(lent(&shelf)), ErrorKind::Driver);
    }
    faults.stop();
    let buffer = manager.allocate(9 * MIB).expect("a second block");
    drop((first, buffer));
    let both = [import(&manager, &shelf), import(&manager, &shelf)];
    assert_eq!(faults.live_blocks(), 2);
    drop(both);
    manager.pool().preallocate(9 * MIB, 2).expect("two blocks");
    drop(import(&manager, &shelf));
    manager.trim();
    assert_eq!(faults.live_blocks(), 0);
}

#[test]
fn memory_longer_than_addresses_is_refused() {
    let manager = host_manager(64 * MIB);
    // SAFETY: false, but nobody touches memory that is refused.
    let memory =
        unsafe { HostMemory::new(NonNull::without_provenance((1 << 20).try_into().unwrap()), 1 << 63, ()) };
    refused(manager.import(memory), ErrorKind::InvalidArgument);
}
