//! A forked process has the manager's memory, but neither its threads nor its device: what needs these fails, and nothing
//! else does.
//!
//! Each test runs this file again as a process of its own with one thread of the user's, and that one forks. (In a process
//! with more threads a fork may come while one of them holds a lock, which then nobody gives back in the child; there only
//! `exec` or exit will do, as for any library.)

#![cfg(target_os = "linux")]

mod common;

use aquifer_core::{
    CancelToken, Capabilities, ErrorKind, Limits, MemoryManager, MemoryOptions, Policy, SyncBackend,
};
use aquifer_sim::{Kernel, Sim};
use aquifer_testkit::{Faulty, MappedMemory, Shelf, config_with_budget};
use common::{LONG, MIB, block_on, host, in_child, refused, sim};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Forks; the child does `work` and ends well if that does not panic.
fn in_fork<T>(kept: T, work: impl FnOnce(T)) -> T {
    // SAFETY: this process has no other thread of the user's. Those of the manager and its queues sleep without a lock, as the
    // caller has waited for all work; and the child takes care not to need them, which is what is tested.
    match unsafe { fork() }.expect("the system can fork") {
        ForkResult::Child => {
            let outcome = catch_unwind(AssertUnwindSafe(|| work(kept)));
            std::process::exit(i32::from(outcome.is_err()));
        }
        ForkResult::Parent { child } => {
            let start = Instant::now();
            loop {
                match waitpid(child, Some(WaitPidFlag::WNOHANG)).expect("the child is there") {
                    WaitStatus::StillAlive if start.elapsed() < LONG => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    WaitStatus::StillAlive => {
                        let _ = kill(child, Signal::SIGKILL);
                        panic!("the child hangs");
                    }
                    status => {
                        assert_eq!(status, WaitStatus::Exited(child, 0), "the child fails");
                        return kept;
                    }
                }
            }
        }
    }
}

/// Uses and drops everything in a forked process, where `calls` counts the driver's calls.
fn fork_with_everything<B: SyncBackend>(
    manager: MemoryManager<B>,
    has_reaper: bool,
    calls: impl Fn() -> u64,
) {
    let queue = manager.queue().expect("a queue");
    let buffer = manager.allocate(MIB).expect("there is room");
    let at_home = queue.allocate(1000).expect("there is room");
    let recorded = manager.allocate(MIB).expect("there is room");
    recorded.record_use(&queue).expect("a queue of its manager");
    let raw = manager.allocate(MIB).expect("there is room").into_raw();
    let other = queue.allocate(MIB).expect("there is room");
    let operation = queue.fill(manager.allocate(MIB).expect("there is room"), 1).expect("it is begun");
    let detached = queue.fill(manager.allocate(MIB).expect("there is room"), 1).expect("it is begun");
    drop(manager.allocate(1000).expect("there is room"));
    // A place that is ready, and, where that can be, a block that is purgeable.
    manager.pool().preallocate(3 * MIB, 1).expect("there is room");
    drop(manager.allocate(9 * MIB).expect("there is room"));
    let has_blocks = manager.config().policy == Policy::Blocks;
    let is_purgeable = has_blocks && manager.properties().capabilities.contains(Capabilities::PURGEABLE);
    assert_eq!(manager.mark_idle_purgeable() > 0, is_purgeable);
    queue.synchronize(LONG).expect("the queue goes on");
    if has_reaper {
        // Until it sleeps: then it holds no lock.
        common::until("the operations are over", || operation.is_over() && detached.is_over());
        std::thread::sleep(Duration::from_millis(100));
    }
    let kept = (manager, queue, buffer, at_home, recorded, other, operation, detached);
    let kept = in_fork(kept, |kept| {
        let (manager, queue, mut buffer, at_home, recorded, other, operation, detached) = kept;
        let (before, forked) = (calls(), ErrorKind::Forked);
        drop(manager.allocate(1000).expect("what is cached needs no driver"));
        drop(manager.allocate(3 * MIB).expect("nor does what is ready"));
        refused(manager.allocate(32 * MIB), forked);
        refused(queue.allocate(32 * MIB), forked);
        refused(manager.queue(), forked);
        refused(
            manager.allocate_async(32 * MIB).timeout(LONG).cancel_token(&CancelToken::new()).wait(),
            forked,
        );
        refused(block_on(manager.allocate_async(32 * MIB)), forked);
        refused(queue.signal(), forked);
        refused(queue.completed(), forked);
        refused(queue.wait(1, LONG), forked);
        refused(queue.synchronize(LONG), forked);
        refused(manager.pool().preallocate(1000, 2000), forked);
        refused(buffer.fill(1), forked);
        refused(buffer.copy_from(0, &recorded, 0, 10), forked);
        let error = queue.fill(other, 1).expect_err("it needs the driver");
        assert_eq!(error.error().kind(), forked);
        drop(error.into_parts().expect("it comes back"));
        manager.settle();
        assert_eq!((manager.trim(), manager.release_idle(), manager.mark_idle_purgeable()), (0, 0, 0));
        manager.free_raw(raw).expect("freeing needs no driver");
        assert!(manager.statistics().live_count() > 0);
        drop((buffer, at_home, recorded, detached));
        drop(operation);
        drop(queue);
        drop(manager);
        assert_eq!(calls(), before, "the driver was called");
    });
    // Here all is as it was.
    let (manager, queue, buffer, at_home, recorded, other, operation, detached) = kept;
    drop(operation.wait().expect("it was done"));
    drop(detached);
    drop(queue.fill(other, 2).expect("it is begun").wait().expect("it ends"));
    drop(manager.allocate(32 * MIB).expect("there is room"));
    manager.free_raw(raw).expect("it lives");
    drop((buffer, at_home, recorded, queue));
    drop(manager);
}

#[test]
fn host_with_everything() {
    in_child("host_with_everything", || {
        let device = Faulty::new(host());
        let faults = device.faults();
        let manager = MemoryManager::with_config(device, config_with_budget(64 * MIB)).expect("a budget");
        fork_with_everything(manager, true, || faults.calls());
        common::until("the driver has all back", || faults.live_blocks() == 0);
    });
}

/// The host with memory that is mapped behind addresses; `None` where the system does not let it.
fn elastic_host() -> Option<MemoryManager<aquifer_host::Host>> {
    let mut config = config_with_budget(64 * MIB);
    config.policy = Policy::Elastic;
    let manager = MemoryManager::with_config(host(), config);
    manager.inspect_err(|error| assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}")).ok()
}

#[test]
fn elastic_host_with_everything() {
    in_child("elastic_host_with_everything", || {
        let Some(manager) = elastic_host() else { return };
        fork_with_everything(manager, true, || 0);
    });
}

/// A child would share it: so it has nothing there, neither in what it has from its parent nor in what caches hand out.
#[test]
fn mapped_memory_is_the_parents_alone() {
    in_child("mapped_memory_is_the_parents_alone", || {
        let Some(manager) = elastic_host() else { return };
        let mut buffer = manager.allocate(1000).expect("there is room");
        buffer.fill(1).expect("the host writes");
        drop(manager.allocate(1000).expect("there is room"));
        for is_new in [false, true] {
            // SAFETY: this process has no other thread of the user's, and the manager's, if any, sleeps.
            match unsafe { fork() }.expect("the system can fork") {
                ForkResult::Child => {
                    let fresh =
                        is_new.then(|| manager.allocate(1000).expect("what is cached needs no driver"));
                    let touched = fresh.as_ref().unwrap_or(&buffer);
                    let start = touched.as_slice::<u8>().expect("the host sees it").as_ptr();
                    // SAFETY: the byte would be the buffer's, if it were there. It is not, which ends this process.
                    let _ = std::hint::black_box(unsafe { start.read_volatile() });
                    std::process::exit(0);
                }
                ForkResult::Parent { child } => {
                    let status = waitpid(child, None).expect("the child is there");
                    assert!(matches!(status, WaitStatus::Signaled(_, Signal::SIGSEGV, _)), "{status:?}");
                }
            }
        }
        assert!(buffer.as_slice::<u8>().expect("the host sees it").iter().all(|&byte| byte == 1));
    });
}

#[test]
fn simulation_with_everything() {
    in_child("simulation_with_everything", || {
        let sim = sim();
        let manager = common::sim_manager(&sim, common::quiet_config(64 * MIB));
        fork_with_everything(manager, false, || sim.books().calls());
        assert_eq!(sim.books().live_blocks, 0);
        sim.assert_no_violations();
    });
}

/// The fork comes while work is under way, which in the child never ends.
#[test]
fn work_under_way() {
    in_child("work_under_way", || {
        let sim: Sim = sim();
        let manager = common::sim_manager(&sim, common::quiet_config(64 * MIB));
        let queue = manager.queue().expect("a queue");
        sim.launch(queue.raw(), Kernel::new([]).lasting(1_000_000_000)).expect("the device is there");
        let buffer = queue.allocate(64 * MIB).expect("there is room");
        let operation = queue.fill(buffer, 1).expect("it is begun");
        let mut waiting = Box::pin(manager.allocate_async(64 * MIB));
        assert!(common::poll_once(&mut waiting).is_pending());
        let kept = in_fork((manager, queue, operation, waiting), |kept| {
            let (manager, queue, operation, mut waiting) = kept;
            let before = sim.books().calls();
            let std::task::Poll::Ready(answer) = common::poll_once(&mut waiting) else {
                panic!("it would wait for ever")
            };
            refused(answer, ErrorKind::Forked);
            drop(waiting);
            let error = operation.wait().expect_err("nobody knows how it ends");
            assert_eq!(error.error().kind(), ErrorKind::Forked);
            assert!(error.into_parts().is_none());
            drop((queue, manager));
            assert_eq!(sim.books().calls(), before, "the driver was called");
        });
        let (manager, queue, operation, mut waiting) = kept;
        drop(operation.wait().expect("it ends here"));
        queue.synchronize(LONG).expect("the queue goes on");
        manager.settle();
        assert!(matches!(common::poll_once(&mut waiting), std::task::Poll::Ready(Ok(_))));
        drop((queue, manager, waiting));
        assert_eq!(sim.books().live_blocks, 0);
    });
}

/// As above, for transfers: one that a queue does, and one that waits for that queue.
#[test]
fn transfers_under_way() {
    in_child("transfers_under_way", || {
        let sim: Sim = sim();
        let mut config = common::quiet_config(64 * MIB);
        config.transfers.copy_threads = 0;
        let manager = common::sim_manager(&sim, config);
        let queue = manager.queue().expect("a queue");
        sim.launch(queue.raw(), Kernel::new([]).lasting(1_000_000_000)).expect("the device is there");
        let transfers = manager.transfers();
        let buffers = [manager.allocate(MIB), manager.allocate(MIB), queue.allocate(MIB)];
        let [first, second, third] = buffers.map(|buffer| {
            transfers.fill_async(buffer.expect("there is room"), 0..MIB, 1).expect("it is begun")
        });
        transfers.poll();
        let kept = (manager, queue, transfers, first, Box::pin(second), third);
        let kept = in_fork(kept, |(manager, queue, transfers, first, mut second, third)| {
            let before = sim.books().calls();
            let error = first.wait().expect_err("nobody knows how it ends");
            assert_eq!(error.error().kind(), ErrorKind::Forked);
            assert!(error.into_parts().is_none());
            let std::task::Poll::Ready(answer) = common::poll_once(&mut second) else {
                panic!("it would wait for ever")
            };
            assert_eq!(answer.expect_err("as above").error().kind(), ErrorKind::Forked);
            assert!(!third.is_over());
            transfers.poll();
            assert!(transfers.take_copy().is_none());
            drop((second, third, transfers, queue, manager));
            assert_eq!(sim.books().calls(), before, "the driver was called");
        });
        let (manager, queue, transfers, first, second, third) = kept;
        drop((first.wait().expect("it ends here"), third.wait().expect("it ends here")));
        drop(common::block_on(second).expect("it ends here"));
        drop((queue, transfers, manager));
        assert_eq!(sim.books().live_blocks, 0);
    });
}

/// Imported memory stays the parent's, whatever the child does with its buffer.
#[test]
fn forked_with_imported_memory() {
    in_child("forked_with_imported_memory", || {
        let manager = MemoryManager::with_config(host(), common::quiet_config(64 * MIB)).expect("a budget");
        let shelf = Shelf::default();
        let import = || manager.import(MappedMemory::new(MIB, MIB).lend(0..MIB, &shelf));
        let (queue, plain) = (manager.queue().expect("a queue"), import().expect("it is aligned"));
        let recorded = import().expect("it is aligned");
        recorded.record_use(&queue).expect("a queue of its manager");
        let kept = in_fork((plain, recorded), |(plain, recorded)| {
            drop((plain, recorded));
            manager.settle();
            manager.trim();
            let refused = import().expect_err("it needs the driver");
            assert_eq!((refused.error.kind(), shelf.count()), (ErrorKind::Forked, 0));
            drop(refused.memory);
            assert_eq!(shelf.count(), 1);
        });
        drop(kept);
        drop((queue, manager));
        assert_eq!(shelf.count(), 2);
    });
}

/// Limits hold in the child too, by its own count; what would make or change sub-budgets is refused, and no callback is called.
#[test]
fn forked_with_sub_budgets() {
    in_child("forked_with_sub_budgets", || {
        let manager = MemoryManager::with_config(host(), config_with_budget(64 * MIB)).expect("a budget");
        let limits = Limits::NONE.hard_count(2).soft_count(1);
        let sub_budget = manager.sub_budget("acme", limits).expect("a new name");
        let options = MemoryOptions::DEFAULT.tag(sub_budget.own_tag());
        let buffer = manager.allocate_with(1000, options).expect("there is room");
        let call = sub_budget.on_reclaim(0, |_| panic!("called in a forked process"));
        drop(manager.allocate(1000).expect("there is room"));
        let kept = in_fork((manager, sub_budget, buffer, call), |(manager, sub_budget, buffer, _call)| {
            let forked = ErrorKind::Forked;
            refused(manager.sub_budget("other", Limits::NONE), forked);
            refused(sub_budget.sub_budget("other", Limits::NONE), forked);
            refused(sub_budget.tag("other"), forked);
            refused(sub_budget.set_limits(Limits::NONE), forked);
            refused(manager.allocate_with(32 * MIB, options), forked);
            let second = manager.allocate_with(1000, options).expect("what is cached needs no driver");
            refused(manager.allocate_with(1000, options), forked);
            assert_eq!((sub_budget.usage().live_count, sub_budget.usage().reclaim_panic_count), (2, 0));
            drop((buffer, second));
            assert_eq!(sub_budget.usage().live_count, 0);
            drop((manager, sub_budget));
        });
        let (manager, sub_budget, buffer, call) = kept;
        drop(call);
        assert_eq!((sub_budget.usage().live_count, sub_budget.usage().limits), (1, limits));
        drop((manager, buffer));
        assert_eq!(sub_budget.usage().live_count, 0);
    });
}
