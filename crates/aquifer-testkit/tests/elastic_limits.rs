//! Memory that is mapped behind addresses, on devices with little of what that takes: addresses, mappings, blocks, small or large
//! pages, small budgets, and devices that cannot.

mod common;
mod elastic;

use aquifer_core::{Buffer, Capabilities, Config, Error, ErrorKind, MemoryManager, MemoryOptions, Policy};
use aquifer_sim::{Call, Costs, Fault, FaultPlan, KernelTimes, Recurrence, Sim, SimDesc};
use aquifer_testkit::Faulty;
use common::{MIB, refused, sim};
use elastic::{BUDGET_BYTES, Program, elastic_config};

/// A device where nothing takes time.
fn desc() -> SimDesc {
    SimDesc { costs: Costs::FREE, kernels: KernelTimes::ZERO, ..SimDesc::default() }
}

fn manager(sim: &Sim, config: Config) -> MemoryManager<Sim> {
    MemoryManager::with_config(sim.clone(), config).expect("it can be sparse")
}

/// Runs the script, and everything comes back. The errors are for want of memory.
fn run(desc: SimDesc, budget_bytes: u64) -> Vec<Error> {
    let what = format!("{desc:?}");
    let sim = Sim::new(desc);
    let books = sim.clone();
    let manager = manager(&sim, elastic_config(budget_bytes));
    let mut program = Program::new(manager, false, move || books.books().live_bytes);
    program.run();
    let errors = std::mem::take(&mut program.errors);
    drop(program);
    for error in &errors {
        assert!(matches!(error.kind(), ErrorKind::OutOfMemory | ErrorKind::CanNeverFit), "{error}: {what}");
    }
    let books = sim.books();
    assert_eq!((books.live_blocks, books.live_bytes, books.live_mappings, books.sparse_bytes), (0, 0, 0, 0));
    sim.assert_no_violations();
    errors
}

/// As [`run`], on a device where blocks of memory may be mapped or not, but always serve: the script needs all but little of the
/// budget, so twice as much will do.
fn run_without_errors(desc: SimDesc) {
    let what = format!("{desc:?}");
    let errors = run(desc, 2 * BUDGET_BYTES);
    assert!(errors.is_empty(), "{errors:?}: {what}");
}

#[test]
fn few_addresses() {
    for mib in [0, 2, 4, 8, 20, 64, 65, 130, 200] {
        run_without_errors(SimDesc { sparse_bytes_max: mib * MIB, ..desc() });
    }
}

#[test]
fn few_mappings() {
    for count in [0, 1, 2, 8, 13, 50] {
        run_without_errors(SimDesc { mapping_count_max: count, ..desc() });
    }
}

#[test]
fn few_blocks() {
    for count in [1, 2, 3, 4, 8, 50] {
        let errors = run(SimDesc { block_count_max: count, ..desc() }, 2 * BUDGET_BYTES);
        assert!(count < 50 || errors.is_empty(), "{errors:?}");
    }
}

#[test]
fn pages_of_any_size() {
    for kib in [64, 256, 2 << 10, 4 << 10, 32 << 10] {
        let granularity = (kib << 10).min(2 * MIB);
        run_without_errors(SimDesc {
            physical_page_bytes: kib << 10,
            block_granularity_bytes: granularity,
            alignment_bytes_min: granularity,
            ..desc()
        });
    }
}

#[test]
fn small_largest_blocks() {
    for mib in [2, 4, 30, 64] {
        run(SimDesc { block_bytes_max: mib * MIB, ..desc() }, 2 * BUDGET_BYTES);
    }
}

#[test]
fn small_budgets() {
    for budget_bytes in [1, 256, 64 << 10, MIB, 2 * MIB, 2 * MIB + 1, 3 * MIB, 5 * MIB, 33 * MIB] {
        for page_bytes in [64 << 10, 2 * MIB, 32 * MIB] {
            let granularity = page_bytes.min(2 * MIB);
            let desc = SimDesc {
                physical_page_bytes: page_bytes,
                block_granularity_bytes: granularity,
                alignment_bytes_min: granularity,
                ..desc()
            };
            run(desc, budget_bytes);
        }
    }
}

/// What holds nothing makes room, wherever it came from.
#[test]
fn idle_blocks_make_room_for_mapped_memory() {
    let sim = Sim::new(SimDesc { sparse_bytes_max: 40 * MIB, ..desc() });
    let manager = manager(&sim, elastic_config(64 * MIB));
    let mapped = manager.allocate(10 * MIB).expect("there is room");
    let block = manager.allocate(50 * MIB).expect("there are no addresses, so it is a block");
    drop((mapped, block));
    manager.allocate(30 * MIB).expect("nothing is live");
    manager.allocate(60 * MIB).expect("nothing is live");
    manager.allocate(20 * MIB).expect("nothing is live");
    manager.allocate(64 * MIB).expect("nothing is live");
}

/// The same where the device maps no more, and then does again.
#[test]
fn idle_blocks_go_when_mapping_works_again() {
    for fails in [Call::Map, Call::CreateSparse] {
        let sim = sim();
        let manager = manager(&sim, elastic_config(64 * MIB));
        let plan = FaultPlan {
            call: Some(fails),
            number: 0,
            recurrence: Recurrence::FromThenOn,
            fault: Fault::NoMemory,
        };
        sim.plan_fault(plan);
        drop(manager.allocate(40 * MIB).expect("a block of its own will do"));
        sim.clear_faults();
        drop(manager.allocate(60 * MIB).expect("nothing is live"));
        sim.plan_fault(plan);
        drop(manager.allocate(64 * MIB).expect("nothing is live"));
    }
}

/// From now on the device maps nothing.
fn map_no_more(sim: &Sim) {
    let (recurrence, fault) = (Recurrence::FromThenOn, Fault::NoMemory);
    sim.plan_fault(FaultPlan { call: Some(Call::Map), number: 0, recurrence, fault });
}

/// Purgeable blocks are of no use to mapped memory but for their room.
#[test]
fn purgeable_blocks_make_room_for_mapped_memory() {
    let sim = sim();
    let manager = manager(&sim, elastic_config(64 * MIB));
    map_no_more(&sim);
    drop(manager.allocate(40 * MIB).expect("a block of its own will do"));
    manager.trim_to(40 * MIB);
    sim.clear_faults();
    assert!(manager.mark_idle_purgeable() > 0, "the block is idle");
    manager.allocate(60 * MIB).expect("nothing is live");
}

/// So are the free parts of blocks that are not mapped.
#[test]
fn free_parts_of_blocks_make_room_for_mapped_memory() {
    let capabilities = SimDesc::default().capabilities | Capabilities::RELEASE_RANGE;
    let sim = Sim::new(SimDesc { capabilities, ..desc() });
    let manager = manager(&sim, elastic_config(64 * MIB));
    map_no_more(&sim);
    drop(manager.allocate(40 * MIB).expect("a block of its own will do"));
    let part = manager.allocate(30 * MIB).expect("it is a part of the block");
    sim.clear_faults();
    manager.allocate(34 * MIB).expect("so much is free");
    drop(part);
    manager.allocate(64 * MIB).expect("nothing is live");
}

/// All of the budget can be had at any alignment.
#[test]
fn alignment_takes_no_memory_that_is_short() {
    let sim = sim();
    let manager = manager(&sim, elastic_config(64 * MIB));
    for alignment in [256, 4096, 2 * MIB] {
        let options = MemoryOptions::DEFAULT.alignment(alignment);
        drop(manager.allocate_with(64 * MIB, options).expect("it is just the budget"));
        let small = manager.allocate(MIB).expect("there is room");
        let address = |buffer: &Buffer<Sim>| buffer.device_address().expect("the device uses addresses");
        let large = manager.allocate_with(62 * MIB, options).expect("it is just what is left");
        assert_eq!(address(&large) % alignment, 0);
        drop((small, large));
        manager.trim();
        drop(manager.allocate(100));
    }
}

/// Free memory in large blocks is of no use to small requests, but its room is.
#[test]
fn large_free_blocks_make_room_for_small_requests() {
    let page_bytes = 64 << 10;
    let sim = Sim::new(SimDesc {
        physical_page_bytes: page_bytes,
        block_granularity_bytes: page_bytes,
        alignment_bytes_min: page_bytes,
        ..desc()
    });
    let manager = manager(&sim, elastic_config(64 * MIB));
    drop(manager.allocate(56 * MIB).expect("there is room"));
    // The addresses behind which it is mapped go, to make room for others, which then do not come.
    sim.plan_fault(FaultPlan {
        call: Some(Call::CreateSparse),
        number: 0,
        recurrence: Recurrence::FromThenOn,
        fault: Fault::NoMemory,
    });
    drop(manager.allocate(100).expect("a block of its own will do"));
    sim.clear_faults();
    let small: Vec<_> = (0..100).map(|_| manager.allocate(256 << 10).expect("most is free")).collect();
    drop(small);
    for bytes in [100, 600 << 10, 3 * MIB, 64 * MIB] {
        drop(manager.allocate(bytes).expect("nothing is live"));
    }
}

#[test]
fn preallocating_runs_out_of_mappings() {
    for (mapping_count_max, sparse_bytes_max) in
        [(0, 1 << 40), (1, 1 << 40), (3, 1 << 40), (1 << 30, 0), (1 << 30, 20 * MIB)]
    {
        let sim = Sim::new(SimDesc { mapping_count_max, sparse_bytes_max, ..desc() });
        let manager = manager(&sim, elastic_config(64 * MIB));
        manager.pool().preallocate(MIB, 30).expect("there is room");
        let buffers: Vec<_> = (0..30).map(|_| manager.allocate(MIB).expect("it is there")).collect();
        manager.allocate(20 * MIB).expect("there is room");
        drop(buffers);
        manager.trim();
        manager.pool().preallocate(8 * MIB, 7).expect("nothing is live");
        refused(manager.pool().preallocate(10 * MIB, 7), ErrorKind::CanNeverFit);
        manager.trim();
        assert_eq!(manager.statistics().reserved.current, 0);
        sim.assert_no_violations();
    }
}

fn with_policy(policy: Policy) -> Config {
    let mut config = elastic_config(64 * MIB);
    config.policy = policy;
    config
}

#[test]
fn devices_that_cannot_are_refused_or_have_blocks() {
    let odd = || Faulty::with_properties(sim(), |properties| properties.physical_page_bytes = 6 * MIB);
    let coarse = || {
        Faulty::with_properties(sim(), |properties| {
            properties.physical_page_bytes = 8 * MIB;
            properties.block_granularity_bytes = 6 * MIB;
        })
    };
    let none = || {
        Faulty::with_properties(sim(), |properties| {
            let all = [Capabilities::QUEUES, Capabilities::PURGEABLE, Capabilities::SIMULATED];
            properties.capabilities = all.into_iter().fold(Capabilities::NONE, |all, one| all | one);
        })
    };
    let devices: [&dyn Fn() -> Faulty<Sim>; 3] = [&odd, &coarse, &none];
    for device in devices {
        let error = refused(
            MemoryManager::with_config(device(), with_policy(Policy::Elastic)),
            ErrorKind::Unsupported,
        );
        assert!(error.to_string().contains("Policy"), "{error}");
        for policy in [Policy::Automatic, Policy::Blocks] {
            let manager = MemoryManager::with_config(device(), with_policy(policy)).expect("blocks will do");
            drop(manager.allocate(10 * MIB).expect("there is room"));
            let calls = manager.statistics().driver_calls;
            assert_eq!((calls.create, calls.map, calls.reserve), (1, 0, 0));
        }
    }
}
